package vpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	startTimeout = 60 * time.Second // for a whole start, initdb included; a loaded machine needs a good part of it
	stopGrace    = 5 * time.Second  // between one signal and the next
	readyPoll    = 10 * time.Millisecond
	portTries    = 5
)

// notInstalledError says that this machine cannot run a real server.
type notInstalledError struct{ error }

func (e notInstalledError) Unwrap() error { return e.error }

// startEither starts a server of the kind that mode says.
func startEither[T any](ctx context.Context, mode Mode, name string, log *slog.Logger,
	startReal, startEmbedded func() (T, error),
) (T, error) {
	switch mode {
	case Embedded:
		return startEmbedded()
	case Real:
		return startReal()
	case Auto, "":
	default:
		var none T
		return none, fmt.Errorf("unknown mode %q: use %s, %s or %s", mode, Auto, Real, Embedded)
	}

	server, err := startReal()
	if err == nil || ctx.Err() != nil || errors.Is(err, syscall.EADDRINUSE) {
		return server, err
	}
	why, isMissing := "it did not start", errors.As(err, new(notInstalledError))
	if isMissing {
		why = "it is not installed"
	}
	log.Warn("no real "+name+" here: an embedded stand-in takes its place", "why", why, "error", err)
	return startEmbedded()
}

// serverDir makes the directory for a server's files: want, or else a temporary one, which is to be removed and so in temp too.
func serverDir(want, pattern string) (dir, temp string, err error) {
	if want != "" {
		return want, "", os.MkdirAll(want, 0o700)
	}
	dir, err = os.MkdirTemp("", pattern)
	return dir, dir, err
}

// startOnPort calls launch with the address to listen on. Without a port it picks a free one, and another one when launch
// fails because someone was quicker to take it. The error for a port that is taken is EADDRINUSE.
func startOnPort(ctx context.Context, host string, port int, launch func(netip.AddrPort) (*child, error)) (
	*child, netip.AddrPort, error,
) {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	for try := 1; ; try++ {
		p := port
		if port == 0 {
			if p, err = freePort(host, 0); err != nil {
				return nil, netip.AddrPort{}, err
			}
		}
		addr := netip.AddrPortFrom(ip, uint16(p))
		server, err := launch(addr)
		if err == nil {
			return server, addr, nil
		}
		taken := strings.Contains(strings.ToLower(err.Error()), "address already in use")
		if taken {
			err = fmt.Errorf("%w: %w", syscall.EADDRINUSE, err)
		}
		if port != 0 || !taken || try == portTries || ctx.Err() != nil {
			return nil, netip.AddrPort{}, err
		}
	}
}

// waitReady polls ready until it succeeds, the program ends or ctx does.
func (c *child) waitReady(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() { // whatever listens there instead may never answer
		select {
		case <-c.done:
			cancel()
		case <-ctx.Done():
		}
	})
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			if ended := c.ended(); ended != nil {
				return ended
			}
			return fmt.Errorf("%s does not answer: %w (last: %w)%s", c.name, ctx.Err(), err, c.tail())
		case <-tick.C:
		}
	}
}

// serverEnv is a server's environment: none of this process's settings or secrets.
func serverEnv() []string {
	env := []string{"LC_ALL=C", "LANG=C", "TZ=UTC"}
	for _, name := range []string{"PATH", "SystemRoot", "TEMP", "TMP", "TMPDIR"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}
