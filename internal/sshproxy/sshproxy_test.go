package sshproxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// closing records the written bytes, and its close.
type closing struct {
	bytes.Buffer
	close func()
}

func (c *closing) Close() error { c.close(); return nil }

// piped runs Pipe between a file and a connection that says hello and ends. It returns the reported reason, the written bytes, and
// the error.
func piped(t *testing.T, why func(error) error) (order []string, out string, err error) {
	t.Helper()
	in, inEnd, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	var running sync.WaitGroup
	running.Go(func() {
		_, _ = io.WriteString(far, "hello")
		_ = far.Close()
	})
	defer running.Wait()
	w := &closing{close: func() {
		order = append(order, "out")
		_ = inEnd.Close() // as ssh does, once its proxy has closed its output
	}}
	err = Pipe(t.Context(), in, w, "db:1", &Conn{Conn: near, Why: why}, func(err error) { order = append(order, "told "+err.Error()) })
	return order, w.String(), err
}

// Why a connection was lost is told once, and before ssh sees the end of its proxy; nothing is told of an end in order.
func TestPipe(t *testing.T) {
	order, out, err := piped(t, func(error) error { return errors.New("the bastion has gone") })
	if !errors.Is(err, ErrLost) || out != "hello" || len(order) == 0 || order[0] != "told the bastion has gone" ||
		slices.Contains(order[1:], order[0]) {
		t.Errorf("lost: %q, %q, %v", order, out, err)
	}
	order, out, err = piped(t, UnlessEnd)
	if err != nil || out != "hello" || len(order) > 0 && order[0] != "out" {
		t.Errorf("in order: %q, %q, %v", order, out, err)
	}
}

// The end of standard input closes a connection that has no half-close, whose end then is no loss.
func TestPipeEndsWithItsInput(t *testing.T) {
	in, inEnd, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = inEnd.Close()
	near, far := net.Pipe()
	defer func() { _ = far.Close() }()
	conn := &Conn{Conn: near, Why: func(err error) error { return err }}
	if err := Pipe(t.Context(), in, &closing{close: func() {}}, "db:1", conn, func(err error) { t.Errorf("told %v", err) }); err != nil {
		t.Error(err)
	}
}

// A command that a signal ends says nothing of a connection.
func TestPipeEndsWithItsContext(t *testing.T) {
	in, inEnd, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = inEnd.Close() }()
	near, far := net.Pipe()
	defer func() { _ = far.Close() }()
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped")
	cancel(stopped)
	err = Pipe(ctx, in, &closing{close: func() {}}, "db:1", &Conn{Conn: near, Why: UnlessEnd}, func(err error) { t.Errorf("told %v", err) })
	if !errors.Is(err, stopped) {
		t.Error(err)
	}
}

// Only a socket takes a connection.
func TestPassConnNeedsASocket(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = r.Close(), w.Close() }()
	near, far := net.Pipe()
	defer func() { _, _ = near.Close(), far.Close() }()
	if err := PassConn(w, near); fail.KindOf(err) != fail.Usage || fail.NextOf(err) == "" {
		t.Errorf("%v (next: %s)", err, fail.NextOf(err))
	}
}
