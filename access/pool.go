package access

import (
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

// Pool returns a link to the bastion, not yet started, whose grants are narrowed to permit (empty: all that the bastion
// allows). report, which may be nil, is told of each change of its state; it must not block. The link must be closed.
//
// To bastiond it is one SSH connection, over a bond of sessions. An OpenSSH server knows no bond: there it is one SSH
// connection for each session.
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

// leastDialTimeout is how long a bastion gets, at least, to reach a destination.
const leastDialTimeout = 30 * time.Second

// newLink makes one SSH connection of a Link. answers gets what AWS answers while it connects.
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
		DialTimeout:    max(leastDialTimeout, s.Link.HoldTimeout), // a bond without a path holds dials too
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

// orNone turns a bound of 0 into what tunnel takes for none at all.
func orNone(n int) int {
	if n == 0 {
		return -1
	}
	return n
}

// connector is a tunnel.Connector that learns what became of its transports.
type connector interface {
	tunnel.Connector
	onState(tunnel.State)
	// open brings the transport with what other SSH clients need to use it.
	open(ctx context.Context) (*opened, error)
}

func (a *Access) connector(permit []string) (connector, error) {
	if a.settings.SSHD.Target != "" {
		return newServerConnector(a)
	}
	return &taskConnector{access: a, permit: permit}, nil
}

// giveUp bounds the time that a link may be down: the Link itself would try for ever.
type giveUp struct {
	connector connector
	answers   *awssdk.LastFailure
	after     time.Duration

	mu     sync.Mutex
	everUp bool
	lost   time.Time // zero while up
	last   error     // of the attempts since then, the latest failure that says more than that the time was over
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

// Connect connects within what is left of the time. Before the first success every failure that the connector's own waiting
// has not mended is final.
func (g *giveUp) Connect(ctx context.Context) (*tunnel.Transport, error) {
	ctx = g.answers.Watch(ctx)
	defer g.answers.Set(nil) // from here on the link's state says why
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
	next := fail.NextOf(err)
	if next == "" {
		next = "when that is mended start again, or allow more time with --reconnect-timeout"
	}
	return nil, tunnel.Permanent(fail.New(fail.Lost, "",
		fmt.Errorf("the link was lost and could not be restored within %s: %w", g.after, err), next))
}

// reason returns err, the failure of an attempt. If that only says that the time was over, it returns what AWS answered last,
// api, or else the failure of an earlier attempt.
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

// isTransient reports whether a first attempt to connect may be followed by another.
func isTransient(err error) bool {
	var t *transientError
	return errors.As(err, &t)
}

// transientError marks an error that a further attempt may mend.
type transientError struct{ error }

func (e *transientError) Unwrap() error { return e.error }

// Pool is a link to the bastion whose state bastion status shows.
type Pool struct {
	*tunnel.Pool
	access  *Access
	answers *awssdk.LastFailure // of AWS, to the attempt to connect that is under way
	hide    func()
}

// Close ends the link and waits until that is done.
func (l *Pool) Close() error {
	l.hide()
	return l.Pool.Close()
}

// probe reaches the sessions that are connections of their own; bonds are probed as such.
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
		switch conn := m.Conn.(type) {
		case bonded:
			addBond(&out, conn.Stats(), l.access.bonds.rates(conn))
			out.Document, out.DocumentReason = l.access.documentInUse(l.access.bonds.target(conn))
			out.Far = l.access.bonds.far(conn)
			out.MaxAge = l.access.settings.Link.SessionMaxAge.Seconds()
		case *sessions.Stream:
			addSingle(&out, conn)
			out.Document, out.DocumentReason = l.access.documentInUse(conn.Target())
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
