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
	mustEcho(t, c, "ping")
	mustEcho(t, c, "pong") // the first was counted before the second was read
	conns := stats.Conns()
	if len(conns) != 1 {
		t.Fatalf("connections: %+v", conns)
	}
	got := conns[0]
	if got.Client != c.LocalAddr().String() || got.Dest != dest || got.Up < 4 || got.Down < 4 || got.Since.IsZero() {
		t.Errorf("the connection: %+v", got)
	}
	_ = c.CloseWrite()
	if _, err := io.ReadAll(c); err != nil {
		t.Fatal(err)
	}
	got.Up, got.Down = 8, 8
	if end := <-ended; end != got {
		t.Errorf("at the end: %+v, want %+v", end, got)
	}
	if conns := stats.Conns(); len(conns) != 0 {
		t.Errorf("after the end: %+v", conns)
	}
	if sum := stats.Snapshot(); sum.BytesUp != 8 || sum.BytesDown != 8 {
		t.Errorf("the sums: %+v", sum)
	}
}
