package main

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/daemon"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/targets"
	"github.com/bastion-ssm/bastion/tunnel"
)

// withForwards opens forwards, through the agent or, without it, in this process, and runs work while they are open. It
// returns work's error, or why the forwards have ended. The forwards that work gets are in the order of requests.
func (a *app) withForwards(ctx context.Context, s config.Settings, command string, requests []api.ForwardRequest,
	work func(ctx context.Context, forwards []api.Forward) error,
) error {
	return a.openForwards(ctx, s, command, requests, func(
		ctx context.Context, forwards []api.Forward, _ *linkWatch,
	) error {
		return work(ctx, forwards)
	})
}

// openForwards is withForwards for who wants to tell of the link too.
func (a *app) openForwards(ctx context.Context, s config.Settings, command string, requests []api.ForwardRequest,
	work func(context.Context, []api.Forward, *linkWatch) error,
) error {
	if !a.usesAgent(ctx, s) {
		return a.openAlone(ctx, s, command, requests, work)
	}
	opened, err := a.openByAgent(ctx, s, command, requests, work)
	if !opened && a.goesOnAlone(ctx, s, err) {
		return a.openAlone(ctx, s, command, requests, work)
	}
	return err
}

// openByAgent is openForwards through the agent. opened says whether work has begun.
func (a *app) openByAgent(ctx context.Context, s config.Settings, command string, requests []api.ForwardRequest,
	work func(context.Context, []api.Forward, *linkWatch) error,
) (opened bool, _ error) {
	p := newProgress(a.raw.err, s.Quiet)
	defer p.Close()
	watch := &linkWatch{progress: p}
	// The forwards stay open until work has ended: names that lead to them must be gone before they are.
	open, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	var working atomic.Bool
	stop := context.AfterFunc(ctx, func() {
		if !working.Load() {
			end(context.Cause(ctx))
		}
	})
	defer stop()
	workCtx, endWork := context.WithCancel(ctx)
	defer endWork()
	worked := make(chan error, 1)
	req := api.OpenRequest{Scope: a.scope(s), Command: command, PID: os.Getpid(), Forwards: requests}
	err := a.askAgent(open, s, func(client *api.Client) error {
		return a.openNamed(open, client, req, p, func(e api.Event) {
			if e.Event == api.EventForwards && working.CompareAndSwap(false, true) {
				p.Idle()
				go func() {
					worked <- work(workCtx, e.Forwards, watch)
					end(nil)
				}()
				return
			}
			tell(watch, e)
		})
	})
	err = remoteHint(err)
	endWork()
	if !working.Load() {
		p.GivenUp(ctx)
		return false, cmp.Or(context.Cause(ctx), err)
	}
	workErr := <-worked
	switch {
	case context.Cause(ctx) != nil:
		return true, cmp.Or(workErr, context.Cause(ctx))
	case err != nil && !errors.Is(err, context.Canceled): // the forwards ended first, and work for that
		return true, err
	case errors.Is(workErr, context.Canceled): // somebody stopped them
		return true, nil
	}
	return true, workErr
}

// askAgent asks the agent, which it starts if it does not run. One that ends just then, because it had nothing to do, has done nothing:
// the next one is asked.
func (a *app) askAgent(ctx context.Context, s config.Settings, ask func(*api.Client) error) error {
	const tries = 3
	for n := 1; ; n++ {
		client, err := a.connectAgent(ctx, s)
		if err != nil {
			return err
		}
		if err := ask(client); n == tries || !errors.Is(err, api.ErrNotRunning) {
			return err
		}
	}
}

// openNamed opens forwards. A name of the configuration that is taken gets a number: several commands may use one target. That of
// --name does not.
func (a *app) openNamed(ctx context.Context, client *api.Client, req api.OpenRequest, p *progress, on func(api.Event)) error {
	base := make(map[string]string) // numbered names to those without
	req.Forwards = slices.Clone(req.Forwards)
	for n := 2; ; n++ {
		err := client.Open(ctx, req, on)
		taken, ok := errors.AsType[*api.NameTaken](err)
		if !ok || a.named || n > maxNumber {
			return err
		}
		for i := range slices.Backward(req.Forwards) {
			if name := &req.Forwards[i].Name; *name == taken.Name {
				was := cmp.Or(base[*name], *name)
				*name = was + "-" + strconv.Itoa(n)
				base[*name] = was
				if req.Detached {
					p.Note(taken.Error() + "; this one is " + *name)
				}
				break
			}
		}
	}
}

// maxNumber is how many forwards may have one name of the configuration.
const maxNumber = 256

// tell shows what becomes of a request to the agent.
func tell(watch *linkWatch, e api.Event) {
	switch e.Event {
	case api.EventStep:
		watch.progress.Step(e.Text)
	case api.EventNote, api.EventRefused, api.EventStopped:
		watch.progress.Note(e.Text)
	case api.EventLink:
		if l := e.Link; l != nil {
			st := tunnel.State{Phase: l.Phase, Since: l.Since, Attempt: l.Attempt, RetryAt: l.Retry, Describe: l.Bastion}
			if l.Error != "" {
				st.Err = fail.New(fail.Other, "", errors.New(l.Error), l.Next)
			}
			watch.state(st)
		}
	case api.EventPath:
		if e.Path != nil {
			watch.path(*e.Path)
		}
	}
}

// openDetached opens forwards that stay when this command has ended.
func (a *app) openDetached(ctx context.Context, s config.Settings, command string,
	requests []api.ForwardRequest,
) ([]api.Forward, error) {
	const needed = "only the agent keeps a forward when the command has ended"
	if s.NoAgent {
		return nil, usage("leave out --no-agent, or --detach", needed)
	}
	if lack := lackOfAgent(ctx, s); lack != nil {
		return nil, usage("leave out --detach, or "+lack.next, "%s, and the agent %s", needed, lack.what)
	}
	p := newProgress(a.raw.err, s.Quiet)
	defer p.Close()
	watch := &linkWatch{progress: p}
	var forwards []api.Forward
	req := api.OpenRequest{Scope: a.scope(s), Command: command, PID: os.Getpid(), Forwards: requests, Detached: true}
	err := a.askAgent(ctx, s, func(client *api.Client) error {
		return a.openNamed(ctx, client, req, p, func(e api.Event) {
			if e.Event == api.EventForwards {
				forwards = e.Forwards
				return
			}
			tell(watch, e)
		})
	})
	if err != nil {
		p.GivenUp(ctx)
	}
	if profile := a.programInAgent(ctx, s, err); profile != "" {
		err = fail.New(fail.Credentials, "", err, "leave out --detach: in the agent, the credential_process of the profile "+profile+
			" has not the variables of this command")
	}
	return forwards, remoteHint(err)
}

// scope is what the agent must know to act for this command. Settings that have their defaults are left out: an agent that is older
// or newer than this command need not know them.
func (a *app) scope(s config.Settings) api.Scope {
	texts := s.Texts()
	if defaults, err := config.FromTexts(nil); err == nil {
		usual := defaults.Texts()
		maps.DeleteFunc(texts, func(key, text string) bool { return text == usual[key] })
	}
	return api.Scope{Settings: texts, Env: agent.RelevantEnv(os.Environ())}
}

// openAlone is openForwards in this process. What can be wrong on this machine is found before anything is asked of
// AWS, and a local port that is only known from the target before a bastion is started.
func (a *app) openAlone(ctx context.Context, s config.Settings, command string, requests []api.ForwardRequest,
	work func(context.Context, []api.Forward, *linkWatch) error,
) error {
	forwards, err := forwardings(requests)
	if err != nil {
		return err
	}
	defer func() {
		for _, f := range forwards {
			if f.listener != nil {
				_ = f.listener.Close() // once more after it has served, for what failed before
			}
		}
	}()
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
	link, err := run.link(ctx, permitted(forwards, s))
	if err != nil {
		run.progress.GivenUp(ctx)
		return err
	}
	defer func() { _ = link.Close() }()
	infos := make([]api.Forward, len(forwards))
	for i, f := range forwards {
		infos[i] = f.info(command)
		if f.endpoint.StatusNote != "" {
			run.progress.Note(f.endpoint.Name + ": " + f.endpoint.StatusNote)
		}
		if f.endpoint.Note != "" {
			run.progress.Note(f.endpoint.Name + ": " + f.endpoint.Note)
		}
	}
	return serve(ctx, link, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		// The forwards listen until work has ended: names that lead to them must be gone before they are.
		serving, endServing := context.WithCancel(context.WithoutCancel(ctx))
		defer endServing()
		served := make(chan error, len(forwards))
		for _, f := range forwards {
			go func() {
				served <- a.serveForward(serving, f, run, link)
				cancel()
			}()
		}
		err := work(ctx, infos, run.watch)
		endServing()
		for range forwards {
			if serveErr := <-served; serveErr != nil {
				err = serveErr
			}
		}
		if errors.Is(err, context.Canceled) {
			return nil // serve knows why
		}
		return err
	})
}

// serveForward serves one forward in this process.
func (a *app) serveForward(ctx context.Context, f *forwarding, run *session, link *agent.Link) error {
	log := a.connectionLog(run.settings, run.progress)
	if f.request.Kind == api.KindProxy {
		cfg, err := agent.ProxyConfig(run.settings)
		if err != nil {
			return err
		}
		cfg.Logger = log
		return tunnel.ServeProxy(ctx, f.listener, link, cfg)
	}
	return agent.ServeForward(ctx, f.listener, link, f.dest(), f.cluster, run.settings, tunnel.ForwardConfig{Logger: log})
}

// permitted are the destinations that the grant of forwards without the agent is narrowed to.
func permitted(forwards []*forwarding, s config.Settings) []string {
	var permit []string
	seen := make(map[string]bool)
	for _, f := range forwards {
		if f.request.Kind == api.KindProxy {
			return s.Permit
		}
		destinations := []string{f.dest()}
		if f.cluster != agent.ClusterOff {
			destinations = append(destinations, f.endpoint.ClusterPermits()...)
		}
		for _, d := range destinations {
			if !seen[d] {
				seen[d] = true
				permit = append(permit, d)
			}
		}
	}
	return permit
}

// forwarding is one forward that this process serves.
type forwarding struct {
	request  api.ForwardRequest
	target   targets.Spec // not of a proxy
	local    targets.Local
	listener net.Listener
	endpoint targets.Endpoint
	cluster  agent.ClusterMode
}

func forwardings(requests []api.ForwardRequest) ([]*forwarding, error) {
	out := make([]*forwarding, len(requests))
	for i, r := range requests {
		f := &forwarding{request: r}
		var err error
		if r.Listen != "" {
			f.local, err = targets.ParseLocal(r.Listen)
		}
		if err == nil && r.Kind != api.KindProxy {
			f.target, err = targets.Parse(r.Target)
		}
		if err != nil {
			return nil, err
		}
		out[i] = f
	}
	return out, nil
}

func (f *forwarding) dest() string { return agent.Destination(f.endpoint.Host, f.endpoint.Port) }

func (f *forwarding) info(command string) api.Forward {
	out := api.Forward{
		Name: cmp.Or(f.request.Name, daemon.ForwardName(f.endpoint.Name, f.target)),
		Kind: cmp.Or(f.request.Kind, api.KindTCP), Spec: f.request.Target,
		Listen: f.listener.Addr().String(), Engine: f.endpoint.Engine, TLS: f.endpoint.TLS, Note: f.endpoint.Note,
		Database: f.endpoint.Database, IAM: f.endpoint.IAM, State: api.ForwardReady, Command: command, PID: os.Getpid(),
	}
	if f.request.Kind != api.KindProxy {
		out.Target = f.dest()
	}
	return out
}

// listenKnown opens the listeners whose address is known without asking AWS.
func listenKnown(ctx context.Context, forwards []*forwarding, allowRemote bool) error {
	for _, f := range forwards {
		if f.local.Free || f.local.Port != 0 || f.target.Port != 0 {
			if err := f.listen(ctx, f.target.Port, allowRemote); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *forwarding) listen(ctx context.Context, targetPort int, allowRemote bool) error {
	ln, err := tunnel.Listen(ctx, f.local.Address("127.0.0.1", targetPort), allowRemote)
	if err != nil {
		return remoteHint(err)
	}
	f.listener = ln
	return nil
}

// remoteHint names the setting where tunnel.Listen cannot.
func remoteHint(err error) error {
	if err != nil && strings.Contains(err.Error(), "others could use the tunnel") {
		return fail.New(fail.Usage, "", err, "listen on 127.0.0.1 or ::1; or let other machines in with --allow-remote")
	}
	return err
}

// resolve finds the endpoints and opens the listeners that depend on them.
func (s *session) resolve(ctx context.Context, forwards []*forwarding) error {
	var specs []targets.Spec
	var of []*forwarding
	var names []string
	for _, f := range forwards {
		if f.request.Kind != api.KindProxy {
			specs, of, names = append(specs, f.target), append(of, f), append(names, f.target.String())
		}
	}
	if len(specs) == 0 {
		return nil
	}
	s.progress.Step("looking up " + strings.Join(names, ", "))
	endpoints, err := s.agent.Resolve(ctx, specs)
	if err != nil {
		return err
	}
	for i, f := range of {
		f.endpoint = endpoints[i]
		if f.cluster, err = agent.ClusterModeOf(s.settings, f.endpoint); err != nil {
			return err
		}
		if f.cluster != agent.ClusterOff {
			f.endpoint.Note = f.cluster.Note()
		}
		if f.listener == nil {
			if err := f.listen(ctx, f.endpoint.Port, s.settings.AllowRemote); err != nil {
				return err
			}
		}
	}
	return nil
}
