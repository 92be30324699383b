package launch

import (
	"context"
	"errors"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/sleep"
)

// State returns the agent's state. Where it does not run that has nothing but the forwards that come back with it.
func State(ctx context.Context, s config.Settings) (api.State, error) {
	none := api.State{Forwards: []api.Forward{}, Links: []api.Link{}}
	client, err := Client(s)
	if err != nil {
		return none, err
	}
	st, err := client.State(ctx)
	if errors.Is(err, api.ErrNotRunning) {
		agent.RemoveStale(client.Socket())
		none.Forwards, err = Kept(s)
		return none, err
	}
	return st, err
}

// Kept returns the detached forwards that come back when the agent starts.
func Kept(s config.Settings) ([]api.Forward, error) {
	dir, err := dirs.State(s.Local.StateDir)
	if err != nil {
		return []api.Forward{}, err
	}
	kept, err := agent.Kept(dir)
	if err != nil {
		err = fail.New(fail.Other, "read the forwards that come back with the agent", err,
			"bastion agent start sets a file aside that it cannot read")
	}
	return kept, err
}

// StopForward ends the forward that ref means to the agent, or all. Without an agent it makes those forgotten that would come back.
// It waits for an agent that is about to serve, or to end.
func StopForward(ctx context.Context, client *api.Client, s config.Settings, ref string) ([]api.Forward, error) {
	dir, err := dirs.State(s.Local.StateDir)
	if err != nil {
		return nil, err
	}
	waiting, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	for {
		stopped, err := client.Stop(ctx, ref)
		if !errors.Is(err, api.ErrNotRunning) {
			return stopped, err
		}
		stopped, err = agent.Forget(client.Socket(), dir, ref)
		if !errors.Is(err, agent.ErrRunning) || sleep.For(waiting, Poll) != nil {
			return stopped, err
		}
	}
}
