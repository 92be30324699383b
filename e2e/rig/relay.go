package rig

import (
	"io"
	"net"
	"sync"
)

// StartRelay serves l, whose connections it passes on to one loopback address: from where l listens, that address is all that can
// be reached. The listener may be of another network namespace; the connections are made in the one of the process.
func StartRelay(l net.Listener, to string) (*Server, error) {
	if err := Guard(to); err != nil {
		return nil, err
	}
	return Serve(l, func(near net.Conn) { relay(near, to) }), nil
}

func relay(near net.Conn, to string) {
	far, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer far.Close()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		both.Go(func() {
			if _, err := io.Copy(way[0], way[1]); err != nil { // one has failed, or the relay is closed
				_ = near.Close()
				_ = far.Close()
			} else if w, ok := way[0].(interface{ CloseWrite() error }); ok {
				_ = w.CloseWrite()
			}
		})
	}
	both.Wait()
}
