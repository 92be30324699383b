package access

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/sessions"
	"github.com/bastion-ssm/bastion/sessions/bond"
	"github.com/bastion-ssm/bastion/tunnel"
)

// Pool returns a link to the bastion that is not yet started. permit narrows its grants; empty: all destinations that the
// bastion allows. report receives each change of its state. It may be nil and must not block. The caller must close the link.
//
// To bastiond the link is one SSH connection over a bond of sessions. An OpenSSH server knows no bond: there each session has
// its own SSH connection.
func (a *Access) Pool(permit []string, report func(tunnel.State)) (*Pool, error) {
	c, err := a.connector(permit)
	if err != nil {
		return nil, err
	}
	most := 1
	if a.settings.SSHD.Target != "" {
		most = a.settings.Link.Sessions
	}
	answers := new(awssdk.LastFailure)
	l := &Pool{access: a, answers: answers, Pool: tunnel.NewPool(tunnel.PoolConfig{
		Max: most, Logger: a.log, OnState: report,
		New: func(onState func(tunnel.State)) *tunnel.Link { return a.newLink(c, answers, onState) },
	})}
	l.hide = a.addLink(l)
	return l, nil
}

// leastDialTimeout is the least time that a bastion has to reach a destination.
const leastDialTimeout = 30 * time.Second

// newLink makes one SSH connection of a Pool. answers receives AWS's failures while it connects.
func (a *Access) newLink(c connector, answers *awssdk.LastFailure, report func(tunnel.State)) *tunnel.Link {
	s := a.settings
	g := &giveUp{connector: c, answers: answers, after: s.Link.ReconnectTimeout}
	l := tunnel.NewLink(g, tunnel.LinkConfig{
		Logger:         a.log,
		Keepalive:      tunnel.Keepalive{Interval: s.Link.Keepalive},
		ConnectTimeout: s.Link.ConnectTimeout,
		BackoffMin:     s.Link.ReconnectMin,
		BackoffMax:     s.Link.ReconnectMax,
		HoldMax:        orNone(s.Link.HoldMax),
		HoldTimeout:    s.Link.HoldTimeout,
		DialTimeout:    max(leastDialTimeout, s.Link.HoldTimeout), // a bond without a path delays dials too
		OnState: func(st tunnel.State) {
			g.onState(st)
			c.onState(st)
			report(st)
		},
	})
	if s.SSHD.Target == "" {
		a.tasks.Go(func() { a.watchHealth(l) })
	}
	return l
}

// orNone maps the setting's 0 (no bound) to tunnel's -1.
func orNone(n int) int {
	if n == 0 {
		return -1
	}
	return n
}

// connector is a tunnel.Connector that receives the states of its links.
type connector interface {
	tunnel.Connector
	onState(tunnel.State)
	// open returns the transport with the parts that other SSH clients need.
	open(ctx context.Context) (*opened, error)
}

func (a *Access) connector(permit []string) (connector, error) {
	if a.settings.SSHD.Target != "" {
		return newServerConnector(a)
	}
	return &taskConnector{access: a, permit: permit}, nil
}

// giveUp bounds the time that a link may be down: the tunnel.Link itself retries for ever.
type giveUp struct {
	connector connector
	answers   *awssdk.LastFailure
	after     time.Duration

	mu     sync.Mutex
	everUp bool
	lost   time.Time // zero while up
	last   error     // latest failure since lost that says more than that the time was over
}

func (g *giveUp) onState(st tunnel.State) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch st.Phase {
	case tunnel.Up:
		g.everUp, g.lost, g.last = true, time.Time{}, nil
	case tunnel.Idle:
		g.lost, g.last = time.Time{}, nil // nobody waits
	default:
		if g.lost.IsZero() {
			g.lost = time.Now()
		}
	}
}

// Connect connects within the time that is left. Before the first success, a failure is final unless it is transient.
func (g *giveUp) Connect(ctx context.Context) (*tunnel.Transport, error) {
	ctx = g.answers.Watch(ctx)
	defer g.answers.Set(nil) // from here on the link's state has the reason
	g.mu.Lock()
	everUp, lost := g.everUp, g.lost
	g.mu.Unlock()
	if !everUp || lost.IsZero() {
		t, err := g.connector.Connect(ctx)
		if err != nil && !everUp && ctx.Err() == nil && !isTransient(err) {
			err = tunnel.Permanent(err)
		}
		return t, err
	}
	deadline := lost.Add(g.after)
	var api awssdk.LastFailure
	connectCtx, cancel := context.WithDeadline(api.Watch(ctx), deadline)
	defer cancel()
	t, err := g.connector.Connect(connectCtx)
	if err == nil || ctx.Err() != nil || tunnel.IsGone(err) {
		return t, err
	}
	err = g.reason(err, api.Get())
	if time.Now().Before(deadline) {
		return nil, err
	}
	next := cmp.Or(fail.NextOf(err), "when that is mended start again, or allow more time with --reconnect-timeout")
	return nil, tunnel.Permanent(fail.New(fail.Lost, "",
		fmt.Errorf("the link was lost and could not be restored within %s: %w", g.after, err), next))
}

// reason returns err, an attempt's failure. If err only says that the time was over, reason returns AWS's last failure, api, or
// the failure of an earlier attempt.
func (g *giveUp) reason(err, api error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !errors.Is(err, context.DeadlineExceeded) || api == nil && g.last == nil:
		g.last = err
	case api != nil:
		g.last = api
	}
	return g.last
}

// isTransient reports whether another attempt may follow a failed first one.
func isTransient(err error) bool { return errors.As(err, new(*transientError)) }

// transientError marks an error that another attempt may clear.
type transientError struct{ error }

func (e *transientError) Unwrap() error { return e.error }

// Pool is a link to the bastion. `bastion status` shows its state.
type Pool struct {
	*tunnel.Pool
	access  *Access
	answers *awssdk.LastFailure // AWS's failures during the attempt under way
	hide    func()
}

// Close ends the link and waits for its end.
func (l *Pool) Close() error {
	l.hide()
	return l.Pool.Close()
}

// probe probes the sessions that are connections themselves. The Access probes bonds separately.
func (l *Pool) probe() {
	for _, m := range l.Stats() {
		if s, ok := m.Conn.(*sessions.Stream); ok {
			s.Probe()
		}
	}
}

func (l *Pool) live() []report.Link {
	state, members := l.State(), l.Stats()
	out := report.Link{Bastion: state.Describe, State: string(state.Phase), Since: state.Since, Kind: "single", Sessions: []report.Session{}}
	explain(&out, state.Err, time.Time{})
	for _, m := range members {
		out.Channels += m.Channels
		if m.Conn == nil {
			continue
		}
		out.Sent += m.Sent
		out.Received += m.Received
		l.access.addConn(&out, m.Conn)
		if _, ok := m.Conn.(*sessions.Stream); ok {
			s := &out.Sessions[len(out.Sessions)-1]
			s.SendRate, s.ReceiveRate, s.Channels = m.SendRate, m.ReceiveRate, m.Channels
			if m.State.Phase != tunnel.Up {
				s.State = string(bond.Leaving)
			}
		}
	}
	if c := l.Condition(); c.Waiting {
		explain(&out, c.Err, c.Retry)
	}
	return []report.Link{out}
}
