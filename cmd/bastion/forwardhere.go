package main

import (
	"context"
	"sync"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/targets"
	"github.com/bastion-ssm/bastion/tunnel"
)

// forwardHere opens forwards in this process, runs work while they are open, and closes them. It returns work's error, or why the
// forwards ended. infos are in the order of requests.
func (a *app) forwardHere(ctx context.Context, s config.Settings, command string, requests []api.ForwardRequest,
	work func(ctx context.Context, infos []api.Forward) error,
) error {
	forwards := make([]*forwarding, len(requests))
	defer func() {
		for _, f := range forwards {
			if f != nil && f.listener != nil {
				_ = f.listener.Close() // once more after Forward, for what failed before it
			}
		}
	}()
	var permit []string
	for i, r := range requests {
		spec, err := targets.Parse(r.Target)
		if err != nil {
			return err
		}
		local, err := targets.ParseLocal(r.Listen)
		if err != nil {
			return err
		}
		forwards[i] = &forwarding{pair: targets.Pair{Target: spec, Local: local}}
	}
	if err := listenKnown(ctx, forwards, s.AllowRemote); err != nil {
		return err
	}
	run, err := a.open(ctx, command, s)
	if err != nil {
		return err
	}
	defer run.close()
	run.agent.Prepare()
	if err := run.resolve(ctx, forwards); err != nil {
		return err
	}
	infos := make([]api.Forward, len(forwards))
	for i, f := range forwards {
		permit = append(permit, f.dest())
		infos[i] = api.Forward{
			Name: f.endpoint.Name, Kind: api.KindTCP, Spec: requests[i].Target, Target: f.dest(), Listen: f.listener.Addr().String(),
			Engine: f.endpoint.Engine, TLS: f.endpoint.TLS, Database: f.endpoint.Database, Note: f.endpoint.Note, State: api.ForwardReady,
		}
	}
	link, err := run.link(ctx, permit)
	if err != nil {
		return err
	}
	defer func() { _ = link.Close() }()
	cfg := tunnel.ForwardConfig{Logger: a.connectionLog(s, run.progress)}
	var workErr error
	err = serve(ctx, link, func(ctx context.Context) error {
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(ctx)
		for _, f := range forwards {
			wg.Go(func() { _ = tunnel.Forward(ctx, f.listener, link, f.dest(), cfg) })
		}
		workErr = work(ctx, infos)
		cancel()
		wg.Wait()
		return workErr
	})
	if workErr != nil {
		return workErr
	}
	return err
}
