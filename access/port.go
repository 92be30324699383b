package access

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/sleep"
	"github.com/bastion-ssm/bastion/sessions"
)

// patience decides whether a failure to open a session passes by itself.
type patience struct {
	// stands returns why the target will not come back; nil: it may. passes calls it now and then while the target is not
	// connected, because AWS gives the same answer for a stopped target and a starting one.
	stands func(context.Context) error
	// waits receives the reason when the wait begins, and when the reason's class changes; nil: ignored.
	waits func(why error)

	told     awsanswer.Class
	asked    time.Time
	failures int // consecutive network failures
}

// patientIf returns a patience if patient is true, otherwise nil.
func patientIf(patient bool, stands func(context.Context) error) *patience {
	if !patient {
		return nil
	}
	return &patience{stands: stands}
}

// firstStands is the delay before the first call of stands, in case the target has just stopped. Later calls follow every
// goneCheck.
const firstStands = 3 * time.Second

// networkTries is how many consecutive calls may fail to reach AWS before the first success.
const networkTries = 5

// passes reports whether err is worth another attempt. gone says that the target has gone for good.
func (p *patience) passes(ctx context.Context, err error) (again bool, gone error) {
	class := awsanswer.ClassOf(err)
	if class != awsanswer.None {
		p.failures = 0
	}
	switch {
	case class == awsanswer.NotConnected:
		now := time.Now()
		if p.asked.IsZero() {
			p.asked = now.Add(firstStands - goneCheck)
		}
		if p.stands != nil && now.Sub(p.asked) >= goneCheck {
			p.asked = now
			if gone := p.stands(ctx); gone != nil {
				return false, gone
			}
		}
		return true, nil
	case class.Passes(), atLimit(err), errors.Is(err, sessions.ErrUnanswered):
		return true, nil
	case class == awsanswer.None && awsanswer.Unreached(err):
		p.failures++
		return p.failures < networkTries, nil
	}
	return false, nil
}

func (p *patience) tell(why error) {
	class := awsanswer.ClassOf(why)
	if p.waits == nil || class == p.told {
		return
	}
	p.told = class
	p.waits(why)
}

const nextGone = "start another: bastion up"

// firstOpenTimeout bounds the first attempt to open a session: it may be silent because the session before it still has the
// container's only place. Each further attempt gets half as much again, in case the network is slow.
const firstOpenTimeout = 8 * time.Second

// openPort opens a port session within connect_timeout. With wait it retries failures that pass by themselves: a target that
// has just started takes seconds to connect to SSM. Without wait it makes one attempt.
func (a *Access) openPort(ctx context.Context, p sessions.Port, wait *patience) (*sessions.Stream, error) {
	op := "open a session to " + p.Target
	ctx, cancel := context.WithTimeoutCause(ctx, a.settings.Link.ConnectTimeout, fail.New(fail.Timeout, op,
		fmt.Errorf("no connection within %s", a.settings.Link.ConnectTimeout), "try again, or allow more time with --connect-timeout"))
	defer cancel()
	p.Reason = "bastion"
	if wait != nil {
		p.OpenTimeout = firstOpenTimeout
	}
	back, kept := func(bool) {}, false
	var lent bool
	defer func() { back(kept) }()
	var lastErr error
	for delay, began := firstRetry, time.Now(); ; delay = min(delay*3/2, lastRetry) {
		stream, err := a.startPort(ctx, p, time.Since(began))
		if err == nil {
			kept = true
			return stream, nil
		}
		if ctx.Err() != nil {
			return nil, endedBy(ctx, op, cmp.Or(lastErr, err))
		}
		if wait == nil {
			return nil, err
		}
		again, gone := wait.passes(ctx, err)
		if gone != nil {
			return nil, fail.New(fail.Start, op, gone, nextGone)
		}
		if !again {
			return nil, err
		}
		lastErr = err
		wait.tell(err)
		switch unanswered := errors.Is(err, sessions.ErrUnanswered); {
		case unanswered || atLimit(err):
			if f := a.bonds.lend(p.Target); f != nil && !lent {
				back, lent = f, true
			}
			if !unanswered {
				a.progress("waiting for AWS to start a session to " + p.Target + ": it has as many as it may have")
				break
			}
			p.OpenTimeout += p.OpenTimeout / 2
			if !lent { // a link with sessions shows that the document works: the session lacked a place
				a.documents.doubt(a.documentPlace(p.Target))
			}
			a.progress("waiting for an answer in a session to " + p.Target)
		case awsanswer.ClassOf(err) == awsanswer.NotConnected:
			a.progress("waiting for " + p.Target + " to connect to SSM")
		default:
			a.progress("waiting for AWS: " + err.Error())
		}
		if sleep.For(ctx, delay) != nil {
			return nil, endedBy(ctx, op, lastErr)
		}
	}
}

// endedBy returns the error of a wait that ctx ended. last is the latest failure and the likely reason.
func endedBy(ctx context.Context, op string, last error) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, context.Canceled) || last == nil || errors.Is(last, cause) || errors.Is(last, ctx.Err()) {
		return fmt.Errorf("%s: %w", op, cause)
	}
	return fail.New(fail.KindOf(cause), "", fmt.Errorf("%w; the latest failure: %w", cause, last),
		cmp.Or(fail.NextOf(last), fail.NextOf(cause)))
}
