package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/tunnel"
)

// downReason is the reason that Down gives ECS, by which links of every process know their owner's intent.
const downReason = "bastion down"

// ending is how a bastion has ended, as far as it matters for starting another.
type ending int

const (
	cutOff   ending = iota // it crashed, or an administrator or AWS stopped it
	byOwner                // by bastion down
	byItself               // nobody used it, or its time was over
	longGone               // ECS does not know it any more
)

// goneError says that a bastion has stopped for good.
type goneError struct {
	error
	how ending
}

func (e *goneError) Unwrap() error { return e.error }

func newGone(b bastions.Bastion, how ending, why error) error {
	return &goneError{fail.New(fail.Lost, describe(&b), why, ""), how}
}

func isGone(err error) bool {
	var gone *goneError
	return errors.As(err, &gone)
}

// endOf says how a bastion that ECS stops, or has stopped, came to its end. What stops it by ECS makes bastiond end without an
// error too: the stop code is what tells the two apart.
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

// exitCode returns the exit code of bastiond; -1 if it is not known.
func exitCode(b bastions.Bastion) int {
	for _, e := range b.Exits {
		if e.Container == b.Container && e.Code != nil {
			return int(*e.Code)
		}
	}
	return -1
}

// replaces reports whether another bastion may be started for a link whose last one has gone. It costs money: somebody who
// waits is worth one, connections that were cut only if nobody meant their bastion to end.
func replaces(use tunnel.Use, how ending) bool {
	switch use {
	case tunnel.Wanted:
		return true
	case tunnel.Interrupted:
		return how == cutOff
	}
	return false
}

// unlessReplaced marks an error that says that the bastion has gone with tunnel.Gone, unless another may be started.
func unlessReplaced(ctx context.Context, err error) error {
	var gone *goneError
	if errors.As(err, &gone) && !replaces(tunnel.UseOf(ctx), gone.how) {
		return tunnel.Gone(gone)
	}
	return err
}

// find returns the bastion to connect to. It starts one only if the link's use is worth it; else the latest bastion must do, and
// the error says that this has gone.
func (c *taskConnector) find(ctx context.Context) (bastions.Spec, *bastions.Bastion, error) {
	x, use := c.access, tunnel.UseOf(ctx)
	if x != nil && use != tunnel.Wanted {
		err := x.checkGone(ctx)
		replaced, leaving := tunnel.Replacing(ctx)
		if leaving && err == nil && use == tunnel.Unused {
			err = newGone(x.bastion, byItself, errors.New("the task is about to end: it is at the end of its maximum life"))
		}
		if gone := unlessReplaced(ctx, err); tunnel.IsGone(gone) {
			return x.spec, nil, gone
		}
		// One that drains and still runs is to be asked about again: if it stopped just now, nobody has said why, and ensure would
		// start another.
		if use == tunnel.Unused || leaving && err == nil && replaced == describe(&x.bastion) {
			b := x.bastion
			return x.spec, &b, nil
		}
	}
	spec, b, _, err := c.agent.ensure(ctx)
	return spec, b, err
}
