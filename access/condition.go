package access

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/sessions/bond"
	"github.com/bastion-ssm/bastion/tunnel"
)

// Condition says whether a link carries connections now. The zero value is a link that does, or a link without users.
type Condition struct {
	Waiting bool      // the link is being made or restored, or has no path, so connections wait
	Since   time.Time // start of the waiting
	Err     error     // latest failure, for example AWS's last answer; nil: none known
	Retry   time.Time // start of the next attempt; zero: an attempt is under way, or the time is unknown
}

// Condition returns the link's condition.
func (l *Pool) Condition() Condition {
	state := l.State()
	switch state.Phase {
	case tunnel.Idle, tunnel.Down:
		return Condition{}
	case tunnel.Up:
		if conn := l.bond(); conn != nil {
			return withoutPath(conn.Stats())
		}
		return Condition{}
	}
	c := Condition{Waiting: true, Since: state.Since, Err: state.Err, Retry: future(state.RetryAt)}
	// An attempt may last for minutes and call AWS many times.
	if err := l.answers.Get(); err != nil {
		c.Err = err
	}
	return c
}

// withoutPath returns the condition of a link over a bond.
func withoutPath(st bond.Stats) Condition {
	if st.Pathless.IsZero() || st.Limit.Lent { // the link gets a lent place back in a moment
		return Condition{}
	}
	return Condition{Waiting: true, Since: st.Pathless, Err: st.Trouble.Err, Retry: future(st.Trouble.Next)}
}

// future returns t, or the zero time if t has passed.
func future(t time.Time) time.Time {
	if time.Now().Before(t) {
		return t
	}
	return time.Time{}
}

// bond returns the link's bond; nil if it has none now.
func (l *Pool) bond() bonded {
	for _, m := range l.Stats() {
		if conn, ok := m.Conn.(bonded); ok {
			return conn
		}
	}
	return nil
}

// pathPoll is how often Reach checks whether the bond has a path again.
const pathPoll = 50 * time.Millisecond

// Reach waits until the link is up and has a path to the bastion. It fails early if AWS gives an answer that waiting cannot
// change.
func (l *Pool) Reach(ctx context.Context) error {
	for {
		if err := l.Ready(ctx); err != nil {
			return err
		}
		conn := l.bond()
		if conn == nil || !withoutPath(conn.Stats()).Waiting {
			return nil
		}
		if again, err := l.access.awaitPath(ctx, conn); !again {
			return err
		}
	}
}

// awaitPath waits at most connect_timeout until a bond has a path. It makes the bond try at once, because the user may have
// mended the cause. again says that the bond has ended and that the link may make another.
func (a *Access) awaitPath(ctx context.Context, conn bonded) (again bool, err error) {
	began := time.Now()
	conn.Probe()
	a.progress("waiting for a path to the bastion")
	limit := time.NewTimer(a.settings.Link.ConnectTimeout)
	defer limit.Stop()
	tick := time.NewTicker(pathPoll)
	defer tick.Stop()
	for {
		st := conn.Stats()
		c := withoutPath(st)
		switch {
		case !c.Waiting:
			return false, nil
		case c.Err != nil && st.Trouble.At.After(began) && judge(c.Err) == bond.FailedRefused:
			return false, pathError(c, fail.KindOf(c.Err))
		}
		select {
		case <-tick.C:
		case <-conn.Done():
			select { // the link notices the end in a moment
			case <-tick.C:
				return true, nil
			case <-ctx.Done():
				return false, context.Cause(ctx)
			}
		case <-limit.C:
			return false, pathError(c, fail.Timeout)
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// pathError returns the error of a command that waited for a path in vain.
func pathError(c Condition, kind fail.Kind) error {
	err := fmt.Errorf("no path since %s", c.Since.Format(time.TimeOnly))
	if c.Err != nil {
		err = fmt.Errorf("%w: %w", err, c.Err)
	}
	return fail.New(kind, "reach the bastion", err, cmp.Or(fail.NextOf(c.Err), "check the network, then try again"))
}
