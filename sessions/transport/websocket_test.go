package transport

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// stuckConn is a connection whose first write waits.
type stuckConn struct {
	io.ReadCloser
	begun  chan struct{} // closed by the first write
	goOn   chan struct{}
	writes [][]byte
	err    error
}

func (c *stuckConn) Write(p []byte) (int, error) {
	if len(c.writes) == 0 {
		close(c.begun)
		<-c.goOn
	}
	c.writes = append(c.writes, append([]byte(nil), p...))
	return len(p), c.err
}

// A batch is one write. Writes during it do not wait for it, and follow it; an error stays.
func TestBatchWriter(t *testing.T) {
	conn := &stuckConn{begun: make(chan struct{}), goOn: make(chan struct{})}
	w := newBatchWriter(conn)
	write := func(s string) {
		if n, err := io.WriteString(w, s); n != len(s) || err != nil {
			t.Errorf("Write(%q): %d, %v", s, n, err)
		}
	}
	w.hold()
	write("a")
	write("b")
	var batch sync.WaitGroup
	batch.Go(func() {
		if err := w.release(); err != nil {
			t.Error(err)
		}
	})
	<-conn.begun
	write("ping")
	close(conn.goOn)
	batch.Wait()
	w.hold()
	write("c")
	write(strings.Repeat("d", batchBytesHeld))
	if err := w.release(); err != nil {
		t.Error(err)
	}
	write("e")
	want := []string{"ab", "ping", "c" + strings.Repeat("d", batchBytesHeld), "e"}
	if len(conn.writes) != len(want) {
		t.Fatalf("%d writes", len(conn.writes))
	}
	for i, b := range conn.writes {
		if string(b) != want[i] {
			t.Errorf("write %d has %d bytes that begin with %.9q", i, len(b), b)
		}
	}
	conn.err = net.ErrClosed
	for range 2 {
		if _, err := io.WriteString(w, "f"); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write: %v", err)
		}
	}
	if len(conn.writes) != len(want)+1 {
		t.Error("written after an error")
	}
}
