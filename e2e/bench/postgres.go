//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/vpc"
)

// database is a real PostgreSQL whose one table has as many bytes as a measurement wants.
type database struct {
	server  *vpc.Postgres
	program string
}

func startDatabase(ctx context.Context) (*database, error) {
	program, err := rig.Find("pg_dump")
	if err != nil {
		return nil, err
	}
	server, err := vpc.StartPostgres(ctx, vpc.PostgresConfig{
		Mode: vpc.Real, Host: "127.0.0.1", User: lab.DBUser, Password: lab.DBPassword, Database: lab.DBID,
	})
	if err != nil {
		return nil, err
	}
	return &database{server: server, program: program}, nil
}

func (d *database) addr() string { return d.server.Addr().String() }
func (d *database) port() int    { return int(d.server.Addr().Port()) }

func connect(ctx context.Context, addr string) (*pgx.Conn, error) {
	url := fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", lab.DBUser, lab.DBPassword, addr, lab.DBID)
	return pgx.Connect(ctx, url)
}

// payload is a row's text, which compresses no better than a table of identifiers does.
const (
	payload     = "repeat(md5(i::text), 30)"
	payloadSize = 30*32 + 8 // with the row's number
)

// endlessCopy sends rows as long as one takes them. PostgreSQL makes each when it is sent: with generate_series in FROM
// it would make them all before the first.
const endlessCopy = "COPY (SELECT " + payload + " FROM (SELECT generate_series(1, 1000000000) AS i) AS n) TO STDOUT"

// fill makes the table anew, with rows of about size bytes in all.
func (d *database) fill(ctx context.Context, size int64) error {
	c, err := connect(ctx, d.addr())
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	_, err = c.Exec(ctx, fmt.Sprintf(`DROP TABLE IF EXISTS events;
		CREATE UNLOGGED TABLE events AS SELECT i, %s AS payload FROM generate_series(1, %d) i`, payload, size/payloadSize))
	return err
}

// dumped is what pg_dump wrote.
type dumped struct {
	bytes int64
	sum   [sha256.Size]byte
	took  time.Duration
}

// dump runs pg_dump on the database behind addr.
func (d *database) dump(ctx context.Context, addr string) (dumped, error) {
	if err := rig.Guard(addr); err != nil {
		return dumped{}, err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return dumped{}, err
	}
	cmd := exec.CommandContext(ctx, d.program, "-h", host, "-p", port, "-U", lab.DBUser, lab.DBID)
	cmd.Env = append(os.Environ(), "PGPASSWORD="+lab.DBPassword)
	cmd.WaitDelay = time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return dumped{}, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return dumped{}, err
	}
	got, err := readDump(out)
	err = errors.Join(err, cmd.Wait())
	got.took = time.Since(start)
	if err != nil {
		return dumped{}, fmt.Errorf("pg_dump: %w after %d bytes: %s", err, got.bytes, &stderr)
	}
	return got, nil
}

// readDump sums a dump up, without the lines of newer pg_dumps that hold a random word.
func readDump(r io.Reader) (dumped, error) {
	var got dumped
	h := sha256.New()
	for br := bufio.NewReaderSize(r, 256<<10); ; {
		line, err := br.ReadSlice('\n')
		got.bytes += int64(len(line))
		if !bytes.HasPrefix(line, []byte(`\restrict `)) && !bytes.HasPrefix(line, []byte(`\unrestrict `)) {
			h.Write(line)
		}
		switch {
		case errors.Is(err, io.EOF):
			copy(got.sum[:], h.Sum(nil))
			return got, nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return got, err
		}
	}
}

// measureDump times pg_dump through a peer that moves about rate MB/s. The table is of a size that this takes least,
// and the dump must be the one that pg_dump writes without a tunnel.
func (b *bench) measureDump(ctx context.Context, p peer, rate float64, least time.Duration) (dumped, error) {
	const most = 2 << 30
	size := int64(rate * 1e6 * least.Seconds() * 1.2)
	for {
		if err := b.db.fill(ctx, size); err != nil {
			return dumped{}, err
		}
		want, err := b.db.dump(ctx, b.db.addr())
		if err != nil {
			return dumped{}, err
		}
		var got dumped
		if err := b.with(ctx, p, b.db.port(), func(t *tunnel) (err error) {
			got, err = b.db.dump(ctx, t.addr)
			return err
		}); err != nil {
			return dumped{}, err
		}
		if got.bytes != want.bytes || got.sum != want.sum {
			return dumped{}, fmt.Errorf("pg_dump: %w: %d bytes, want %d", rig.ErrCorrupt, got.bytes, want.bytes)
		}
		if got.took >= least || size > most {
			return got, nil
		}
		size = int64(float64(size) * 1.3 * least.Seconds() / got.took.Seconds())
	}
}

// loaded is how a small query fares beside a bulk download.
type loaded struct {
	times []time.Duration
	rate  float64 // MB/s of the download meanwhile
}

// measureQueries sends small queries on one connection through a forward while another one downloads.
func measureQueries(ctx context.Context, addr string, warm, span time.Duration) (loaded, error) {
	var got loaded
	queries, err := connect(ctx, addr)
	if err != nil {
		return got, err
	}
	defer closeConn(queries)
	bulk, err := connect(ctx, addr)
	if err != nil {
		return got, err
	}
	defer closeConn(bulk)

	var moved counter
	copying, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() {
		_, err := bulk.PgConn().CopyTo(copying, &moved, endlessCopy)
		done <- err
	}()
	select {
	case <-time.After(warm):
	case err := <-done:
		return got, fmt.Errorf("bulk download: %w", err)
	}
	from, start := moved.n.Load(), time.Now()
	query := func() error {
		var one int
		return queries.QueryRow(ctx, "SELECT 1").Scan(&one)
	}
	if err = query(); err == nil { // the first one prepares the statement, by a round trip more
		got.times, err = timed(span, query)
	}
	got.rate = float64(moved.n.Load()-from) / 1e6 / time.Since(start).Seconds()
	stop()
	bulkErr := <-done
	switch {
	case err != nil:
	case !errors.Is(bulkErr, context.Canceled):
		err = fmt.Errorf("bulk download: %w", bulkErr)
	case got.rate == 0:
		err = errors.New("bulk download: nothing came")
	}
	return got, err
}

// closeConn closes a connection that may be stuck behind the data of another one.
func closeConn(c *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.Close(ctx)
}

// counter counts the written bytes.
type counter struct{ n atomic.Int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}
