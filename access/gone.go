package access

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/tunnel"
)

// downReason is the stop reason that Down gives ECS. The links of every process recognise their owner's intent by it.
const downReason = "bastion down"

// ending is how a bastion ended, as far as it matters for starting another.
type ending int

const (
	cutOff   ending = iota // it crashed, or an administrator or AWS stopped it
	byOwner                // by the command bastion down
	byItself               // idle, or at the end of its maximum life
	longGone               // ECS does not know it any more
)

// goneError says that a bastion has stopped for good.
type goneError struct {
	error
	how    ending
	shared bool // of a service, whose next task costs nothing more
}

func (e *goneError) Unwrap() error { return e.error }

func newGone(b bastions.Bastion, how ending, why error) error {
	return &goneError{fail.New(fail.Lost, describe(&b), why, ""), how, b.Service != ""}
}

func isGone(err error) bool { return errors.As(err, new(*goneError)) }

// endOf returns how a bastion that ECS stops, or has stopped, came to its end. A stop by ECS makes bastiond exit without an
// error too, so the stop code decides.
func endOf(b bastions.Bastion) (ending, error) {
	switch {
	case b.StoppedReason == downReason:
		return byOwner, fmt.Errorf("the task was stopped by %s", downReason)
	case b.StopCode == string(types.TaskStopCodeEssentialContainerExited) && exitCode(b) == 0:
		return byItself, errors.New("the task has ended by itself: it was idle, or at the end of its maximum life")
	case b.StoppedReason != "":
		return cutOff, fmt.Errorf("the task has stopped: %s", b.StoppedReason)
	}
	return cutOff, fmt.Errorf("the task has stopped: %s", b.LastStatus)
}

// exitCode returns bastiond's exit code; -1 if it is unknown.
func exitCode(b bastions.Bastion) int {
	for _, e := range b.Exits {
		if e.Container == b.Container && e.Code != nil {
			return int(*e.Code)
		}
	}
	return -1
}

// replaces reports whether the Access may start another bastion for a link whose bastion has gone. A bastion costs money: a
// waiting connection is worth one. Interrupted connections are worth one only if the end was not intended.
func replaces(use tunnel.Use, how ending) bool {
	switch use {
	case tunnel.Wanted:
		return true
	case tunnel.Interrupted:
		return how == cutOff
	}
	return false
}

// unlessReplaced marks a *goneError with tunnel.Gone, unless the Access may start another bastion.
func unlessReplaced(ctx context.Context, err error) error {
	gone, ok := errors.AsType[*goneError](err)
	if use := tunnel.UseOf(ctx); ok && !replaces(use, gone.how) && !(gone.shared && use == tunnel.Interrupted) {
		return tunnel.Gone(gone)
	}
	return err
}

// find returns the bastion to connect to. It starts one only if the link's use is worth one.
func (c *taskConnector) find(ctx context.Context) (bastions.Spec, *bastions.Bastion, error) {
	if x := c.admission; x != nil && tunnel.UseOf(ctx) != tunnel.Wanted {
		b, err := x.findAgain(ctx)
		if err == nil || !replaceable(err) {
			return x.spec, b, err
		}
	}
	if c.running {
		spec, err := c.access.spec(ctx)
		if err != nil {
			return spec, nil, err
		}
		b, err := c.access.manager.Await(ctx, spec, c.access.reportEvent)
		return spec, b, err
	}
	spec, b, _, err := c.access.ensure(ctx)
	return spec, b, err
}

// avoided returns the id of the task that the link is about to leave, "" if it leaves none.
func avoided(ctx context.Context) string {
	leaving, _ := tunnel.Replacing(ctx)
	return strings.TrimPrefix(leaving, describe(new(bastions.Bastion)))
}

// findAgain returns the bastion for a link without waiting connections. If the bastion has gone, the error is a *goneError,
// marked with tunnel.Gone unless the link's use is worth another.
func (x *admission) findAgain(ctx context.Context) (*bastions.Bastion, error) {
	err := x.checkGone(ctx)
	if _, leaving := tunnel.Replacing(ctx); leaving && err == nil && tunnel.UseOf(ctx) == tunnel.Unused {
		err = newGone(x.bastion, byItself, errors.New("the task is about to end: it is at the end of its maximum life"))
	}
	if err != nil {
		return nil, unlessReplaced(ctx, err)
	}
	if tunnel.UseOf(ctx) == tunnel.Unused {
		b := x.bastion
		return &b, nil
	}
	// The user may have another bastion by now. Start none before ECS has said why this one ended: it may be about to.
	spec := x.spec
	spec.Avoid = avoided(ctx)
	b, err := x.access.manager.Await(ctx, spec, x.access.reportEvent)
	if fail.KindOf(err) != fail.NoTarget {
		return b, err
	}
	if err := x.checkGone(ctx); err != nil {
		return nil, unlessReplaced(ctx, err)
	}
	return nil, &transientError{err}
}

// replaceable reports whether err says that the bastion has gone and that the link is worth another.
func replaceable(err error) bool { return isGone(err) && !tunnel.IsGone(err) }

// checkGone is the Access's checkGone for the bastion.
func (x *admission) checkGone(ctx context.Context) error {
	err := x.access.checkGone(ctx, x.spec, x.bastion)
	if err != nil {
		x.gone.Store(true)
	}
	return err
}

// checkGone asks ECS whether a bastion still runs and takes sessions. It returns a *goneError if the bastion will never start
// one again. If ECS does not answer, it returns nil.
func (a *Access) checkGone(ctx context.Context, spec bastions.Spec, was bastions.Bastion) error {
	b, err := a.manager.Get(ctx, spec, was.TaskARN)
	switch {
	case err != nil && fail.KindOf(err) == fail.NoTarget:
		return newGone(was, longGone, err)
	case err != nil && fail.KindOf(err) == fail.Denied:
		// A task that ECS has forgotten has lost the owner tag that IAM allows access by. The next step tells the two cases
		// apart.
		return newGone(was, longGone, err)
	case err != nil:
		a.log.DebugContext(ctx, "whether the bastion still runs is not known", "err", err)
		return nil
	case b.Stopping():
		how, why := endOf(*b)
		return newGone(was, how, why)
	case b.RuntimeID != "" && b.RuntimeID != was.RuntimeID:
		return newGone(was, cutOff, errors.New("its container was restarted"))
	case !b.ExecEnabled:
		return newGone(was, cutOff, errors.New("the task was started without ECS Exec"))
	case b.ExecStatus == "STOPPED": // ECS does not restart it
		err = errors.New("its exec agent has stopped")
		if b.ExecReason != "" {
			err = fmt.Errorf("its exec agent has stopped: %s", b.ExecReason)
		}
		return newGone(was, cutOff, err)
	}
	return nil
}
