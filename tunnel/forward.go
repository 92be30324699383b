package tunnel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/internal/backoff"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/sleep"
)

// Dialer opens connections through the bastion; a [Link] is one. The connections should be able to end each direction separately
// (have CloseWrite).
type Dialer interface {
	Dial(ctx context.Context, network, addr string) (net.Conn, error)
}

// ForwardConfig is the configuration of [Forward]. The zero value is ready for use.
type ForwardConfig struct {
	Logger   *slog.Logger // nil: no log
	MaxConns int          // connections at a time; further ones wait in the listener's backlog. 0: 1024
	Stats    *Stats       // counts the connections; nil: none
}

const defaultMaxConns = 1024

// Forward accepts clients from ln and splices each to a new connection to dest, a host:port as the bastion sees it. When ctx is
// done, it closes ln and all connections, waits for them, and returns nil. It returns an error only if ln breaks.
//
// While d waits for its link, the client waits too. If the bastion cannot reach dest, Forward resets the client's connection and
// logs the reason. It reads nothing from a client before its connection is open, so until then it does not notice a client that
// gives up.
func Forward(ctx context.Context, ln net.Listener, d Dialer, dest string, cfg ForwardConfig) error {
	if _, _, err := parseDest("tcp", dest); err != nil {
		_ = ln.Close()
		return fail.New(fail.Usage, "forward to "+dest, err, "give the destination as host:port")
	}
	a := newAcceptor(ln, cfg.MaxConns, cfg.Logger, cfg.Stats)
	return a.serve(ctx, func(ctx context.Context, local net.Conn) {
		remote, err := d.Dial(ctx, "tcp", dest)
		if err != nil {
			reset(local)
			_ = local.Close()
			a.refuse(ctx, dest, err)
			return
		}
		a.splice(ctx, asDuplex(local), asDuplex(remote), dest)
	})
}

// acceptor is the accept loop of Forward and ServeProxy.
type acceptor struct {
	ln    net.Listener
	max   int
	log   *slog.Logger
	stats *Stats
}

func newAcceptor(ln net.Listener, maxConns int, log *slog.Logger, stats *Stats) *acceptor {
	log = cmp.Or(log, slog.New(slog.DiscardHandler))
	stats = cmp.Or(stats, new(Stats))
	maxConns = cmp.Or(maxConns, defaultMaxConns)
	return &acceptor{ln: ln, max: max(maxConns, 1), log: log.With("listener", ln.Addr().String()), stats: stats}
}

// serve calls handle in a goroutine for each client, until ctx is done or ln breaks. Then it cancels handle's ctx and waits for
// all. handle closes its connection.
func (a *acceptor) serve(ctx context.Context, handle func(context.Context, net.Conn)) error {
	parent := ctx
	ctx, cancel := context.WithCancel(ctx)
	var conns sync.WaitGroup
	defer conns.Wait()
	defer cancel()
	conns.Go(func() {
		<-ctx.Done()
		_ = a.ln.Close()
	})

	slots := make(chan struct{}, a.max)
	var pause time.Duration
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := a.ln.Accept()
		if err != nil {
			<-slots
			switch {
			case parent.Err() != nil:
				return nil
			case !isPassing(err):
				return fmt.Errorf("accept on %s: %w", a.ln.Addr(), err)
			}
			a.log.Warn("cannot accept a connection now", "err", err)
			if pause = backoff.Next(pause, firstAcceptPause, lastAcceptPause); sleep.For(ctx, pause) != nil {
				return nil
			}
			continue
		}
		pause = 0
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetNoDelay(true) // Go's default; explicit because latency depends on it
		}
		a.stats.active.Add(1)
		a.stats.total.Add(1)
		conns.Go(func() {
			defer func() {
				a.stats.active.Add(-1)
				<-slots
			}()
			handle(ctx, conn)
		})
	}
}

// splice splices and reports the end.
func (a *acceptor) splice(ctx context.Context, local, remote Duplex, dest string) {
	c := a.stats.begin(local, dest)
	err := splice(ctx, local, remote, &c.up, &c.down)
	a.stats.end(c, err)
	switch {
	case errors.Is(err, errLost) && !errors.Is(err, errLinkClosed):
		a.log.Warn("connection lost", "dest", dest, "err", err)
	case err == nil || isShutdown(err):
	default:
		a.log.Debug("connection broken", "dest", dest, "err", err)
	}
}

// refuse counts and logs a connection that failed to open.
func (a *acceptor) refuse(ctx context.Context, dest string, err error) {
	if ctx.Err() != nil {
		return // the forward has given it up
	}
	a.stats.refuse(dest, err)
	a.log.Warn("connection not opened", "dest", dest, "err", err, "next", fail.NextOf(err))
}

// The pauses after failed Accepts grow from the first to the last.
const firstAcceptPause, lastAcceptPause = 5 * time.Millisecond, time.Second

// isPassing reports whether another Accept may succeed: the client has gone, or file descriptors or memory are short.
func isPassing(err error) bool {
	var t interface{ Temporary() bool } // deprecated for net errors in general, but exact for Accept's
	return !errors.Is(err, net.ErrClosed) && errors.As(err, &t) && t.Temporary()
}
