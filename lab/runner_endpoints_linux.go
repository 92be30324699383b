package lab

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/url"
	"slices"
	"sync"
)

// endpointWays lead from a container's loopback to the same addresses of the machine's, where AWS's endpoints are. A nil one leads
// nowhere.
type endpointWays struct {
	ctx    context.Context // of the container
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// openEndpointWays listens at the hosts of the variables' URLs, in the network of the calling thread.
func openEndpointWays(vars map[string]string) (*endpointWays, error) {
	hosts := make(map[string]bool)
	for _, v := range vars {
		if u, err := url.Parse(v); err == nil && u.Host != "" { // others are no URLs
			hosts[u.Host] = true
		}
	}
	w := &endpointWays{}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	for _, host := range slices.Sorted(maps.Keys(hosts)) {
		l, err := new(net.ListenConfig).Listen(w.ctx, "tcp", host)
		if err != nil {
			w.close()
			return nil, err
		}
		w.wg.Go(func() { w.serve(l) })
	}
	return w, nil
}

func (w *endpointWays) close() {
	if w != nil {
		w.cancel()
		w.wg.Wait()
	}
}

func (w *endpointWays) serve(l net.Listener) {
	stop := context.AfterFunc(w.ctx, func() { _ = l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		w.wg.Go(func() { w.pass(conn) })
	}
}

// pass connects conn with the address of the machine that it has dialed in the container.
func (w *endpointWays) pass(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	far, err := dialLoopback(w.ctx, "tcp", conn.LocalAddr().String())
	if err != nil {
		return
	}
	defer func() { _ = far.Close() }()
	stop := context.AfterFunc(w.ctx, func() { _ = errors.Join(conn.Close(), far.Close()) })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { copyHalf(far, conn) })
	copyHalf(conn, far)
	wg.Wait()
}

// copyHalf copies one direction, and passes its end on.
func copyHalf(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	if c, ok := to.(*net.TCPConn); ok {
		_ = c.CloseWrite()
	}
}
