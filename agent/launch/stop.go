package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/private"
	"github.com/bastion-ssm/bastion/internal/process"
	"github.com/bastion-ssm/bastion/internal/sleep"
)

const (
	// answerWait bounds the wait for an agent's answer to the request to end. An agent without an answer gets a signal.
	answerWait = 3 * time.Second
	// EndWait bounds the wait for the agent's end. It is killed after it.
	EndWait = 30 * time.Second
)

// Stopped is what Stop has done.
type Stopped struct {
	Stopped bool `json:"stopped"` // an agent ran
	PID     int  `json:"pid,omitempty"`
	Killed  bool `json:"killed,omitempty"` // it did not end by itself
}

// Stop asks the agent to end and waits until it has. One that does not answer, because it is stopped or blocked, gets a signal; one
// that does not end is killed.
func Stop(ctx context.Context, s config.Settings) (Stopped, error) {
	client, err := Client(s)
	if err != nil {
		return Stopped{}, err
	}
	asking, cancel := context.WithTimeoutCause(ctx, answerWait, fail.New(fail.Timeout, "stop the agent",
		fmt.Errorf("no answer within %s", answerWait), "end its process by hand; bastion agent logs names it"))
	defer cancel()
	before, err := client.Info(asking)
	if err == nil {
		err = client.Shutdown(asking)
	}
	pid := before.PID
	switch {
	case errors.Is(err, api.ErrNotRunning):
		agent.RemoveStale(client.Socket())
		return Stopped{}, nil
	case fail.KindOf(err) == fail.Timeout && ctx.Err() == nil:
		if pid = private.Owner(client.Socket()); pid == 0 {
			return Stopped{}, err
		}
		if err := process.AskToEnd(pid); err != nil {
			return Stopped{}, fail.New(fail.Other, "stop the agent", err, fmt.Sprintf("end the process %d by hand", pid))
		}
	case err != nil:
		return Stopped{}, err
	}
	gone := func(ctx context.Context) bool {
		ctx, cancel := context.WithTimeout(ctx, answerWait)
		defer cancel()
		now, err := client.Info(ctx)
		if errors.Is(err, api.ErrNotRunning) {
			return !agent.Locked(client.Socket())
		}
		return err == nil && now.PID != pid // the next one runs already
	}
	killed, err := endWithin(ctx, gone, func() error {
		if owner := private.Owner(client.Socket()); owner != pid && owner != 0 {
			return fmt.Errorf("process %d is no longer the agent", pid)
		}
		p, err := os.FindProcess(pid)
		if err != nil {
			return err
		}
		return p.Kill()
	})
	switch {
	case err != nil:
		return Stopped{}, err
	case killed:
		agent.RemoveStale(client.Socket())
		return Stopped{Stopped: true, PID: pid, Killed: true}, nil
	}
	return Stopped{Stopped: true, PID: pid}, nil
}

// endWithin waits until the agent is gone, and kills it once EndWait has passed.
func endWithin(ctx context.Context, gone func(context.Context) bool, kill func() error) (killed bool, _ error) {
	end := time.Now().Add(EndWait)
	for !gone(ctx) {
		switch {
		case time.Now().Before(end):
		case killed:
			return killed, fail.New(fail.Timeout, "stop the agent", fmt.Errorf("it still runs %s after it was killed", EndWait),
				"bastion agent logs shows what it waits for")
		default:
			if err := kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				return false, fail.New(fail.Timeout, "stop the agent", fmt.Errorf("it still runs after %s, and cannot be killed: %w", EndWait, err),
					"bastion agent logs shows what it waits for")
			}
			killed, end = true, time.Now().Add(EndWait)
		}
		if err := sleep.For(ctx, Poll); err != nil {
			return killed, err
		}
	}
	return killed, nil
}
