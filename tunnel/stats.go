package tunnel

import (
	"cmp"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Stats are the connections of one listener: the open ones, and the sums over all. It may be read at any time. Set its fields
// before use.
type Stats struct {
	// OnEnd is called for each connection that has ended, with the error that ended it, and for each that failed to open, with the
	// reason. Several goroutines call it, and it must not block.
	OnEnd func(ConnSnapshot, error)

	active, total, failed atomic.Int64

	mu       sync.Mutex
	conns    map[*connStats]struct{}
	up, down int64 // of ended connections
}

// connStats are the figures of a connection.
type connStats struct {
	client, dest string
	since        time.Time
	up, down     atomic.Int64
}

// ConnSnapshot is a connection at some time.
type ConnSnapshot struct {
	Client string // its address; empty if the connection failed to open
	Dest   string // host:port as the bastion sees it
	Since  time.Time
	Up     int64 // bytes from the client
	Down   int64 // bytes to the client
}

// StatsSnapshot is what Stats has counted so far.
type StatsSnapshot struct {
	Active    int64 `json:"active"`     // connections now
	Total     int64 `json:"total"`      // connections so far
	Failed    int64 `json:"failed"`     // refused by the bastion, or failed to open
	BytesUp   int64 `json:"bytes_up"`   // from the local clients
	BytesDown int64 `json:"bytes_down"` // to the local clients
}

// Snapshot returns the counts so far.
func (s *Stats) Snapshot() StatsSnapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := StatsSnapshot{
		Active: s.active.Load(), Total: s.total.Load(), Failed: s.failed.Load(), BytesUp: s.up, BytesDown: s.down,
	}
	for c := range s.conns {
		out.BytesUp += c.up.Load()
		out.BytesDown += c.down.Load()
	}
	return out
}

// Conns returns the open connections, the oldest first.
func (s *Stats) Conns() []ConnSnapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]ConnSnapshot, 0, len(s.conns))
	for c := range s.conns {
		out = append(out, c.snapshot())
	}
	slices.SortFunc(out, func(x, y ConnSnapshot) int {
		return cmp.Or(x.Since.Compare(y.Since), cmp.Compare(x.Client, y.Client))
	})
	return out
}

func (c *connStats) snapshot() ConnSnapshot {
	return ConnSnapshot{Client: c.client, Dest: c.dest, Since: c.since, Up: c.up.Load(), Down: c.down.Load()}
}

// begin counts the bytes of a client's connection to dest from now on.
func (s *Stats) begin(client any, dest string) *connStats {
	c := &connStats{dest: dest, since: time.Now()}
	if r, ok := client.(interface{ RemoteAddr() net.Addr }); ok {
		c.client = r.RemoteAddr().String()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		s.conns = make(map[*connStats]struct{})
	}
	s.conns[c] = struct{}{}
	return c
}

func (s *Stats) end(c *connStats, err error) {
	final := c.snapshot()
	s.mu.Lock()
	delete(s.conns, c)
	s.up += final.Up
	s.down += final.Down
	s.mu.Unlock()
	if s.OnEnd != nil {
		s.OnEnd(final, err)
	}
}

// refuse counts a connection that failed to open. Its OnEnd has no Client.
func (s *Stats) refuse(dest string, err error) {
	s.failed.Add(1)
	if s.OnEnd != nil {
		s.OnEnd(ConnSnapshot{Dest: dest, Since: time.Now()}, err)
	}
}
