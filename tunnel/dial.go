package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// Dial opens a connection from the bastion to addr, a host:port whose name the bastion resolves. network is tcp, tcp4 or tcp6,
// without a difference. While the link is down, Dial waits for it: at most HoldTimeout in all, and with at most HoldMax other
// calls. The connection is a [*Conn].
//
// A refusal has a [*RefusedError] in its chain, of kind Denied if the bastion's policy is the reason.
func (l *Link) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	op := "open a connection to " + addr
	host, port, err := parseDest(network, addr)
	if err != nil {
		return nil, fail.New(fail.Usage, op, err, "give the destination as host:port")
	}
	hold := holdTimer{timeout: l.cfg.HoldTimeout}
	defer hold.stop()
	for {
		c, err := l.wait(ctx, op, &hold, func() bool { return l.current != nil })
		if err != nil {
			return nil, err
		}
		conn, err := l.dialOn(ctx, c, op, host, port)
		if err == nil {
			return conn, nil
		}
		var refusal *ssh.OpenChannelError
		switch {
		case ctx.Err() != nil, fail.KindOf(err) == fail.Timeout:
			return nil, err
		case errors.As(err, &refusal) && !c.drained():
			return nil, refused(addr, refusal)
		case refusal == nil:
			c.close(fmt.Errorf("%w: %w", errLost, err)) // x/crypto/ssh has ended it, or will
		}
		// The connection was lost, or the bastion takes no new ones: wait for the next connection.
		if err := l.superseded(ctx, op, c, &hold); err != nil {
			return nil, err
		}
	}
}

// dialOn dials through c within DialTimeout.
func (l *Link) dialOn(ctx context.Context, c *client, op, host string, port uint32) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, l.cfg.DialTimeout,
		fail.New(fail.Timeout, op, fmt.Errorf("the bastion gave no answer within %v", l.cfg.DialTimeout),
			"check that the destination can be reached from the bastion"))
	defer cancel()
	conn, err := c.dial(ctx, host, port)
	if err != nil && ctx.Err() != nil {
		if cause := context.Cause(ctx); fail.KindOf(cause) == fail.Timeout {
			return nil, cause
		}
		return nil, fmt.Errorf("%s: %w", op, context.Cause(ctx))
	}
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// superseded waits until c takes no more connections.
func (l *Link) superseded(ctx context.Context, op string, c *client, hold *holdTimer) error {
	got, err := l.wait(ctx, op, hold, func() bool { return l.current != c })
	if got != nil {
		got.release()
	}
	return err
}

// wait waits, within the bounds on held dials, until cond holds. It calls cond with l.mu held. It returns and holds the then
// current connection, if any.
func (l *Link) wait(ctx context.Context, op string, hold *holdTimer, cond func() bool) (*client, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	queued := false
	defer func() {
		if queued {
			l.waiting--
		}
	}()
	for {
		switch {
		case l.failed != nil:
			return nil, fail.New(fail.Lost, op, l.failed, fail.NextOf(l.failed))
		case ctx.Err() != nil:
			return nil, fmt.Errorf("%s: %w", op, context.Cause(ctx))
		case cond():
			if l.current != nil {
				l.current.hold()
			}
			return l.current, nil
		case !queued && l.waiting >= l.cfg.HoldMax:
			return nil, fail.New(fail.Lost, op, fmt.Errorf("the link is down and %d connections wait for it", l.waiting),
				"try again when the link is up")
		case !queued:
			queued = true
			l.waiting++
			l.ask()
		}
		changed := l.changed
		l.mu.Unlock()
		err := hold.wait(ctx, changed)
		l.mu.Lock()
		switch last := l.state.Err; {
		case errors.Is(err, errHoldTimeout):
			err = fmt.Errorf("the link has been down for %v", l.cfg.HoldTimeout)
			if last != nil {
				err = fmt.Errorf("%w: %w", err, last)
			}
			return nil, fail.New(fail.Lost, op, err, "try again when the link is up")
		case err != nil:
			return nil, waitError(ctx, op, last)
		}
	}
}

// waitError returns the error of a wait that ctx ended; last is the link's own latest failure.
func waitError(ctx context.Context, op string, last error) error {
	err := context.Cause(ctx)
	if last == nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if fail.KindOf(err) == fail.Timeout {
		return fail.New(fail.Timeout, op, fmt.Errorf("%w; the latest failure: %w", err, last), fail.NextOf(last))
	}
	return fmt.Errorf("%s: %w; the latest failure: %w", op, err, last)
}

// holdTimer bounds the total time that one dial waits. It starts with the first wait.
type holdTimer struct {
	timeout time.Duration
	timer   *time.Timer
}

var errHoldTimeout = errors.New("hold timeout")

func (h *holdTimer) wait(ctx context.Context, changed <-chan struct{}) error {
	if h.timer == nil {
		h.timer = time.NewTimer(h.timeout)
	}
	select {
	case <-changed:
		return nil
	case <-h.timer.C:
		return errHoldTimeout
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *holdTimer) stop() {
	if h.timer != nil {
		h.timer.Stop()
	}
}

// parseDest parses and checks a destination.
func parseDest(network, addr string) (host string, port uint32, err error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return "", 0, fmt.Errorf("network %s is not supported", network)
	}
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("bad port %q", portText)
	}
	if host == "" {
		return "", 0, errors.New("no host")
	}
	return host, uint32(n), nil
}
