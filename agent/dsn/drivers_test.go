//go:build linux

package dsn

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab/vpc"
)

// driversLimit bounds all runs of one driver's, on a busy machine.
const driversLimit = 2 * time.Minute

// serverName is what the servers' certificates are for, besides localhost. No driver can resolve it.
const serverName = "orders.abc123.eu-central-1.rds.amazonaws.com"

// trial is one connection string and what its driver makes of it.
type trial struct {
	Name      string `json:"name"`
	Driver    string `json:"driver"`
	URL       string `json:"url"`
	Error     string `json:"error"`
	Encrypted bool   `json:"encrypted"`

	refused bool // the driver must not connect: the authority is another one, and it checks that
}

// Each format works with its own drivers and leads them to servers that accept only TLS. The rows are without certificates, with
// them, with another authority's, with a name that leads to the forward, and with a token.
func TestDrivers(t *testing.T) {
	authority, ca, other := authorities(t)
	servers := startServers(t, authority)
	byDriver := make(map[string][]trial)
	for protocol, addr := range servers {
		for _, tt := range []struct {
			name    string
			ca      string
			reaches bool
		}{
			{"no CA", "", false}, {"CA", ca, false}, {"CA and name", ca, true}, {"wrong CA", other, false}, {"wrong CA and name", other, true},
		} {
			d := Database{
				Name: "rds:orders", Protocol: protocol, Engine: engineOf[protocol], Listen: addr, ServerName: serverName, TLS: true,
				CA: tt.ca, User: "app", Password: "lab", Database: "shop",
			}
			if tt.reaches { // every machine's hosts file leads this name there
				d.Reaches, d.ServerName = true, "localhost"
			}
			switch protocol {
			case Postgres:
				d.User, d.Password = "iam", "a token: +/?=&%'\\ \ttab"
			case Redis, Mongo:
				d.User, d.Password, d.Database = "", "", ""
			}
			for _, f := range drivenBy[protocol] {
				form := Formats()[slices.IndexFunc(Formats(), func(have Format) bool { return have.Name == f.format })]
				text, ok := form.Of(d)
				if !ok {
					if f.driver != "ioredis" || tt.reaches {
						t.Errorf("%s: no form %s", tt.name, f.format)
					}
					continue
				}
				checks := tt.ca == other && !slices.Contains(checksNothing, f.driver)
				byDriver[f.driver] = append(byDriver[f.driver], trial{Name: tt.name, Driver: f.driver, URL: text, refused: checks})
				if f.format == "jdbc" && protocol == MySQL { // a database of MySQL's, by MariaDB's driver: MySQL's is not in Debian
					d.Engine = "mysql"
					text, _ := form.Of(d)
					byDriver[f.driver] = append(byDriver[f.driver], trial{Name: tt.name, Driver: f.driver, URL: text})
				}
			}
		}
	}
	for driver, trials := range byDriver {
		t.Run(driver, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), driversLimit)
			defer cancel()
			got := drive(ctx, t, driver, ca, trials)
			for i, tr := range got {
				switch refused := tr.Error != ""; {
				case refused != trials[i].refused:
					t.Errorf("%s: %s: %q", tr.Name, tr.URL, tr.Error)
				case !refused && !tr.Encrypted:
					t.Errorf("%s: %s: not encrypted", tr.Name, tr.URL)
				}
			}
		})
	}
}

var engineOf = map[Protocol]string{Postgres: "postgres", MySQL: "mariadb", Redis: "redis", Mongo: "docdb"}

// drivenBy are the forms of a protocol with their drivers.
var drivenBy = map[Protocol][]struct{ format, driver string }{
	Postgres: {{"uri", "libpq"}, {"kv", "libpq"}, {"uri", "pgx"}, {"go", "pgx"}, {"node", "pg"}, {"python", "psycopg"}, {"jdbc", "jdbc"}},
	MySQL:    {{"go", "go-sql-driver"}, {"node", "mysql2"}, {"python", "pymysql"}, {"jdbc", "jdbc"}},
	Redis:    {{"go", "go-redis"}, {"node", "ioredis"}},
	Mongo:    {{"uri", "mongodb"}, {"node", "mongodb"}},
}

// checksNothing are the drivers whose strings cannot name certificates; docs/clients.md says so. With a name, go-redis and ioredis
// check by those of the system, and of Node.
var checksNothing = []string{"go-sql-driver", "mysql2", "go-redis", "ioredis"}

// authorities returns one, the file of its certificate, and the file of another's.
func authorities(t *testing.T) (authority *vpc.Authority, ca, other string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "a folder's name + more")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, name := range []string{"the ca.pem", "another ca.pem"} {
		made, err := vpc.NewAuthority()
		if err != nil {
			t.Fatal(err)
		}
		if authority == nil {
			authority = made
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, made.PEM(), 0o644); err != nil {
			t.Fatal(err)
		}
		files = append(files, path)
	}
	return authority, files[0], files[1]
}

// startServers starts servers that accept TLS alone.
func startServers(t *testing.T, authority *vpc.Authority) map[Protocol]netip.AddrPort {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), driversLimit)
	defer cancel()
	cert, err := authority.Issue(serverName, "localhost")
	if err != nil {
		t.Fatal(err)
	}
	rig.Need(t, "postgres")
	pg, err := vpc.StartPostgres(ctx, vpc.PostgresConfig{
		Mode: vpc.Real, User: "app", Password: "lab", Database: "shop", TLS: cert, TokenUser: "iam",
		SignIn: func(_, password string) error {
			if !strings.HasPrefix(password, "a token") {
				return errors.New("no token")
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeServer(t, pg) })
	maria, err := rig.StartMariaDB(ctx, rig.Need(t, "mariadbd"), rig.Need(t, "mariadb-install-db"), cert.Cert, cert.Key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeServer(t, maria) })
	return map[Protocol]netip.AddrPort{
		Postgres: pg.Addr(), MySQL: maria.Addr(), Redis: startRedis(ctx, t, cert), Mongo: startMongo(t, cert),
	}
}

func closeServer(t *testing.T, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func startRedis(ctx context.Context, t *testing.T, c *vpc.Certificate) netip.AddrPort {
	t.Helper()
	p, addr, err := rig.StartTLSRedis(ctx, rig.Need(t, "redis-server"), t.TempDir(), c.Cert, c.Key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = p.Stop(syscall.SIGTERM) })
	return addr
}

// startMongo serves the two messages that MongoDB's drivers begin with, over TLS, and says ok to every command: no server is in
// Debian.
func startMongo(t *testing.T, c *vpc.Certificate) netip.AddrPort {
	t.Helper()
	pair, err := tls.X509KeyPair(c.Cert, c.Key)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() {
		_ = ln.Close()
		serving.Wait()
	})
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { answerMongo(conn) })
		}
	})
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// answerMongo answers OP_QUERY by OP_REPLY and OP_MSG by OP_MSG, until the client goes.
func answerMongo(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(driversLimit))
	document := bson(map[string]any{
		"ismaster": true, "helloOk": true, "minWireVersion": int32(0), "maxWireVersion": int32(25), "maxBsonObjectSize": int32(16 << 20),
		"maxMessageSizeBytes": int32(48000000), "maxWriteBatchSize": int32(1000), "ok": float64(1),
	})
	le := binary.LittleEndian
	for {
		var head [16]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, conn, int64(le.Uint32(head[:]))-16); err != nil {
			return
		}
		opcode, body := uint32(2013), slices.Concat(make([]byte, 5), document)
		if le.Uint32(head[12:]) == 2004 {
			opcode, body = 1, slices.Concat(make([]byte, 16), []byte{1, 0, 0, 0}, document) // one document
		}
		out := le.AppendUint32(nil, uint32(16+len(body)))
		out = le.AppendUint32(out, 1)
		out = append(out, head[4:8]...)
		out = le.AppendUint32(out, opcode)
		if _, err := conn.Write(append(out, body...)); err != nil {
			return
		}
	}
}

// bson encodes a flat document.
func bson(fields map[string]any) []byte {
	var body []byte
	for name, value := range fields {
		kind, data := byte(0), []byte(nil)
		switch v := value.(type) {
		case bool:
			kind, data = 8, []byte{0}
			if v {
				data[0] = 1
			}
		case int32:
			kind, data = 16, binary.LittleEndian.AppendUint32(nil, uint32(v))
		case float64:
			kind, data = 1, []byte{0, 0, 0, 0, 0, 0, 0xf0, 0x3f} // 1
		}
		body = append(append(append(append(body, kind), name...), 0), data...)
	}
	return append(append(binary.LittleEndian.AppendUint32(nil, uint32(len(body)+5)), body...), 0)
}

// drive has a driver connect by each of the strings.
func drive(ctx context.Context, t *testing.T, driver, ca string, trials []trial) []trial {
	t.Helper()
	switch driver {
	case "pgx", "go-sql-driver", "go-redis":
		out := slices.Clone(trials)
		for i := range out {
			encrypted, err := goDriver(ctx, driver, out[i].URL, ca)
			if out[i].Encrypted = encrypted; err != nil {
				out[i].Error = err.Error()
			}
		}
		return out
	case "jdbc":
		return driveJava(ctx, t, trials)
	case "psycopg", "pymysql", "libpq":
		return driveScript(ctx, t, exec.CommandContext(ctx, rig.Need(t, "/usr/bin/python3"), "testdata/drivers.py"), trials)
	}
	modules := "../../build/npm"
	if _, err := os.Stat(filepath.Join(modules, "node_modules", driver)); err != nil {
		rig.Need(t, "make npm, for "+driver) // fails or skips
	}
	script, err := filepath.Abs("testdata/drivers.js")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, rig.Need(t, "node"), "--no-deprecation", script)
	cmd.Dir, cmd.Env = modules, append(os.Environ(), "NODE_EXTRA_CA_CERTS="+ca)
	return driveScript(ctx, t, cmd, trials)
}

// driveScript hands the strings to a program.
func driveScript(_ context.Context, t *testing.T, cmd *exec.Cmd, trials []trial) []trial {
	t.Helper()
	in, err := json.Marshal(trials)
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &stderr
	text, err := cmd.Output()
	var out []trial
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil || len(out) != len(trials) {
		t.Fatalf("%v\n%s\n%s", err, text, &stderr)
	}
	return out
}

func driveJava(ctx context.Context, t *testing.T, trials []trial) []trial {
	t.Helper()
	args := []string{"-cp", "/usr/share/java/postgresql.jar:/usr/share/java/mariadb-java-client.jar", "testdata/Drivers.java"}
	for _, tr := range trials {
		args = append(args, tr.URL)
	}
	cmd := exec.CommandContext(ctx, rig.Need(t, "java"), args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if err != nil || len(lines) != len(trials) {
		t.Fatalf("%v\n%s\n%s", err, text, &stderr)
	}
	out := slices.Clone(trials)
	for i, line := range lines {
		if out[i].Encrypted = line == "ok encrypted"; !strings.HasPrefix(line, "ok") {
			out[i].Error = line
		}
	}
	return out
}

// goDriver connects by one of Go's drivers.
func goDriver(ctx context.Context, driver, url, ca string) (encrypted bool, err error) {
	switch driver {
	case "pgx":
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return false, err
		}
		defer func() { _ = conn.Close(ctx) }()
		_, encrypted = conn.PgConn().Conn().(*tls.Conn)
		return encrypted, conn.Ping(ctx)
	case "go-redis":
		options, err := redis.ParseURL(url)
		if err != nil {
			return false, err
		}
		pem, err := os.ReadFile(ca)
		if err != nil {
			return false, err
		}
		options.TLSConfig.RootCAs = x509.NewCertPool() // in the place of the system's
		options.TLSConfig.RootCAs.AppendCertsFromPEM(pem)
		client := redis.NewClient(options)
		defer func() { _ = client.Close() }()
		return options.TLSConfig != nil, client.Ping(ctx).Err()
	}
	db, err := sql.Open("mysql", url)
	if err != nil {
		return false, err
	}
	defer func() { _ = db.Close() }()
	var name, cipher string
	err = db.QueryRowContext(ctx, "show status like 'Ssl_cipher'").Scan(&name, &cipher)
	return cipher != "", err
}
