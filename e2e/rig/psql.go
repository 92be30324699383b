package rig

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// PSQL is a psql whose statements a test gives one by one: one connection of a real client, which ends with psql. An error
// of the connection or of a statement ends it. It is not for concurrent use.
type PSQL struct {
	proc  *Proc
	stdin io.WriteCloser
	lines int // of stdout, that were read
	count int // of queries
}

// StartPSQL starts the program psql for a database at addr. End it by Quit or Kill.
func StartPSQL(program, addr, user, password, database string) (*PSQL, error) {
	if err := Guard(addr); err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1",
		"--host", host, "--port", port, "--username", user, database)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p, err := StartCmd([]string{"PGPASSWORD=" + password, "PGSSLMODE=disable"}, cmd)
	if err != nil {
		return nil, err
	}
	return &PSQL{proc: p, stdin: stdin}, nil
}

// Query runs a statement or a command of psql and returns the lines that it prints.
func (q *PSQL) Query(ctx context.Context, statement string) ([]string, error) {
	q.count++
	end := "end of query " + strconv.Itoa(q.count)
	if _, err := fmt.Fprintf(q.stdin, "%s\n\\echo '%s'\n", statement, end); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, q.proc.Output())
	}
	var answer []string
	for {
		line, err := q.proc.Line(ctx, q.lines)
		if err != nil {
			return answer, err
		}
		q.lines++
		if line == end {
			return answer, nil
		}
		answer = append(answer, line)
	}
}

// Expect runs a statement that prints one line, and compares it.
func (q *PSQL) Expect(ctx context.Context, statement, want string) error {
	got, err := q.Query(ctx, statement)
	if err == nil && !slices.Equal(got, []string{want}) {
		err = fmt.Errorf("%s: answered %q, want %q", statement, got, want)
	}
	return err
}

// Copy downloads rows by COPY, as a dump does, and compares their SHA-256.
func (q *PSQL) Copy(ctx context.Context, rows int) error {
	const pad = 30
	h := sha256.New()
	for i := range rows {
		fmt.Fprintf(h, "%d%s\n", i+1, strings.Repeat("."+strconv.Itoa(i+1), pad))
	}
	got, err := q.Query(ctx, fmt.Sprintf(
		`\copy (select i || repeat('.' || i, %d) from generate_series(1, %d) i) to program 'sha256sum'`, pad, rows))
	if err != nil {
		return err
	}
	if want := hex.EncodeToString(h.Sum(nil)); len(got) != 1 || !strings.HasPrefix(got[0], want) {
		return fmt.Errorf("copy: %w: %q instead of %s", ErrCorrupt, got, want)
	}
	return nil
}

// Quit ends psql in good order.
func (q *PSQL) Quit(ctx context.Context) error {
	err := q.stdin.Close()
	code, waitErr := q.proc.Wait(ctx)
	if err = errors.Join(err, waitErr); err == nil && code != 0 {
		err = fmt.Errorf("psql: exit code %d\n%s", code, q.proc.Output())
	}
	return err
}

// Kill ends psql, if it has not ended, and waits for it.
func (q *PSQL) Kill() { _, _ = q.proc.Stop(syscall.SIGKILL) }
