package rig

import (
	"net"
	"sync"
)

// Server serves the connections of a listener, each in a goroutine of its own, until it is closed.
type Server struct {
	l  net.Listener
	wg sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{} // nil once the Server is closed
}

// Serve accepts connections from l for handle, and closes each when handle returns. Close the Server, which closes l.
func Serve(l net.Listener, handle func(net.Conn)) *Server {
	s := &Server{l: l, conns: map[net.Conn]struct{}{}}
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil || !s.track(c) {
				return
			}
			s.wg.Go(func() {
				defer s.forget(c)
				handle(c)
			})
		}
	})
	return s
}

// ServeLoopback is Serve on a free port of 127.0.0.1.
func ServeLoopback(handle func(net.Conn)) (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return Serve(l, handle), nil
}

func (s *Server) track(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		_ = c.Close()
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) forget(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	_ = c.Close()
}

// Addr is the address that the server listens on.
func (s *Server) Addr() string { return s.l.Addr().String() }

// Port is the port that the server listens on.
func (s *Server) Port() int { return s.l.Addr().(*net.TCPAddr).Port }

// Conns is how many connections the server has now.
func (s *Server) Conns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Close ends the server and its connections, and waits for them.
func (s *Server) Close() error {
	err := s.l.Close()
	s.mu.Lock()
	for c := range s.conns {
		_ = c.Close()
	}
	s.conns = nil
	s.mu.Unlock()
	s.wg.Wait()
	return err
}
