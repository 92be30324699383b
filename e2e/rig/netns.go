package rig

import (
	"io"
	"net"
	"sync"
)

// Relay is a listener whose connections go on to one address: from where it listens, that address is all that can be reached. The
// listener may be of another network namespace; the connections are made in the one of the process.
type Relay struct {
	l    net.Listener
	to   string
	wg   sync.WaitGroup
	mu   sync.Mutex
	open map[net.Conn]struct{} // nil once the Relay is closed
}

// StartRelay serves l, which it closes in the end. to is a loopback address.
func StartRelay(l net.Listener, to string) (*Relay, error) {
	if err := Guard(to); err != nil {
		return nil, err
	}
	r := &Relay{l: l, to: to, open: make(map[net.Conn]struct{})}
	r.wg.Go(r.serve)
	return r, nil
}

func (r *Relay) serve() {
	for {
		c, err := r.l.Accept()
		if err != nil {
			return
		}
		r.wg.Go(func() { r.carry(c) })
	}
}

func (r *Relay) carry(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", r.to)
	if err != nil {
		return
	}
	defer far.Close()
	if !r.track(near, far) {
		return
	}
	defer r.untrack(near, far)
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			if w, ok := way[0].(interface{ CloseWrite() error }); ok {
				_ = w.CloseWrite()
			}
		})
	}
	both.Wait()
}

func (r *Relay) track(conns ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open == nil {
		return false
	}
	for _, c := range conns {
		r.open[c] = struct{}{}
	}
	return true
}

func (r *Relay) untrack(conns ...net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range conns {
		delete(r.open, c)
	}
}

// Close ends the relay and its connections, and waits for them.
func (r *Relay) Close() error {
	err := r.l.Close()
	r.mu.Lock()
	for c := range r.open {
		_ = c.Close()
	}
	r.open = nil
	r.mu.Unlock()
	r.wg.Wait()
	return err
}
