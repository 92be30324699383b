package tunnel

import (
	"io"
	"net"
	"testing"
)

// A connection is shown while it lasts, with its bytes, and told of when it has ended.
func TestStatsConns(t *testing.T) {
	b := newBastion(t)
	l := readyLink(t, b, LinkConfig{})
	dest := serveTCP(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	ended := make(chan ConnSnapshot, 1)
	stats := Stats{OnEnd: func(c ConnSnapshot, err error) {
		if err != nil {
			t.Errorf("ended by %v", err)
		}
		ended <- c
	}}
	c := dialTCP(t, startForward(t, l, dest, ForwardConfig{Stats: &stats}))
	if _, err := c.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	conns := stats.Conns()
	if len(conns) != 1 {
		t.Fatalf("connections: %+v", conns)
	}
	got := conns[0]
	if got.Client != c.LocalAddr().String() || got.Dest != dest || got.Up != 4 || got.Since.IsZero() {
		t.Errorf("the connection: %+v", got)
	}
	_ = c.CloseWrite()
	if _, err := io.ReadAll(c); err != nil {
		t.Fatal(err)
	}
	got.Down = 4
	if end := <-ended; end != got {
		t.Errorf("at the end: %+v, want %+v", end, got)
	}
	if conns := stats.Conns(); len(conns) != 0 {
		t.Errorf("after the end: %+v", conns)
	}
	if sum := stats.Snapshot(); sum.BytesUp != 4 || sum.BytesDown != 4 {
		t.Errorf("the sums: %+v", sum)
	}
}
