package bond

import (
	"fmt"
	"math/bits"
	"time"
)

const (
	// leastBuffer is the smallest window and send buffer with which a connection is useful.
	leastBuffer = 256 << 10
	// subflowMemory is the memory that a subflow's reader and writer need.
	subflowMemory = 128 << 10
)

// addConn reserves a place and memory for a new connection.
func (l *Listener) addConn(who identity) (*served, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, exists := l.conns[who.id]
	_, existed := l.ended.find(who.id, time.Now())
	switch {
	case l.closed || l.draining:
		return nil, &RefusedError{Code: RefuseDraining}
	case exists || existed:
		return nil, &RefusedError{Code: RefuseUsed, Reason: "the connection id was used before"}
	case max(len(l.conns), l.unaccepted) >= l.cfg.MaxConns:
		return nil, &RefusedError{
			Code: RefuseConns, Reason: fmt.Sprintf("there are %d, as many as there may be", l.cfg.MaxConns),
		}
	}
	if l.cfg.MaxStreams > 0 && l.streams >= l.cfg.MaxStreams {
		return nil, l.noRoom()
	}
	cfg := l.cfg.Config
	var size int
	if cfg.Window, cfg.SendBuffer, size = share(cfg.Window, cfg.SendBuffer, l.memory-subflowMemory); size == 0 {
		return nil, l.noMemory()
	}
	s := &served{
		identity: who, began: time.Now(), memory: size, wake: make(chan struct{}, 1), subflows: 1,
		conn: newConn(who, cfg, false),
	}
	s.used.take(0)
	l.memory -= size + subflowMemory
	l.streams++
	l.conns[who.id] = s
	l.unaccepted++
	return s, nil
}

// addSubflow reserves a place and memory for a subflow of s.
func (l *Listener) addSubflow(s *served, id uint32) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return &RefusedError{Code: RefuseDraining}
	case l.conns[s.id] != s:
		return errEnded
	case s.subflows >= l.cfg.MaxSubflows:
		return &RefusedError{
			Code: RefuseSubflows, Reason: fmt.Sprintf("the connection has %d, as many as it may", l.cfg.MaxSubflows),
		}
	case l.memory < subflowMemory:
		return l.noMemory()
	case l.cfg.MaxStreams > 0 && l.streams >= l.cfg.MaxStreams-l.cfg.Spare:
		return l.noRoom()
	case !s.used.take(id):
		return &RefusedError{Code: RefuseUsed}
	}
	s.subflows++
	l.streams++
	l.memory -= subflowMemory
	return nil
}

// noRoom returns the refusal of a subflow beyond MaxStreams. Callers hold l.mu.
func (l *Listener) noRoom() error {
	return &RefusedError{
		Code: RefuseMemory, Reason: fmt.Sprintf("the machine's memory has room for %d sessions", l.cfg.MaxStreams),
	}
}

// noMemory returns the refusal for when connections have reserved all of Memory. Callers hold l.mu.
func (l *Listener) noMemory() error {
	return &RefusedError{
		Code: RefuseMemory, Reason: fmt.Sprintf("%d connections have what there is, %d MiB", len(l.conns), l.cfg.Memory>>20),
	}
}

// share returns the window and send buffer of a new connection, and the memory to reserve for them. It halves the wanted sizes
// until half of the memory left remains for others, but not below leastBuffer. All are zero if even the smallest sizes do not fit.
func share(window, buffer, left int) (w, b, size int) {
	for {
		if size = storage(window) + storage(buffer); size <= left/2 {
			return window, buffer, size
		}
		if window <= leastBuffer && buffer <= leastBuffer {
			break
		}
		window = max(window/2, min(window, leastBuffer))
		buffer = max(buffer/2, min(buffer, leastBuffer))
	}
	if size > left {
		return 0, 0, 0
	}
	return window, buffer, size
}

// storage returns the memory that a buffer of n bytes may come to use: a connection's buffers double as they grow.
func storage(n int) int { return 1 << bits.Len(uint(max(n, 1)-1)) }

// idWindow remembers used subflow ids in bounded memory. It refuses ids far below the highest: clients count ids up, so concurrent
// handshakes have ids close to each other.
type idWindow struct {
	next uint64 // one more than the highest id used
	seen uint64 // bit i: next-1-i was used
}

func (w *idWindow) take(id uint32) bool {
	n := uint64(id)
	if n >= w.next {
		w.seen = w.seen<<(n+1-w.next) | 1
		w.next = n + 1
		return true
	}
	bit := uint64(1) << (w.next - 1 - n) // zero if the shift is 64 or more
	if bit == 0 || w.seen&bit != 0 {
		return false
	}
	w.seen |= bit
	return true
}
