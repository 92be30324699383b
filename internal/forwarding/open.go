package forwarding

import (
	"cmp"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/forwards"
	"github.com/bastion-ssm/bastion/agent/launch"
	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/linkview"
	"github.com/bastion-ssm/bastion/targets"
)

// Wanted are the forwards that a command needs.
type Wanted struct {
	Command string // its name
	Groups  []request.Group
	Named   bool // --name names the forward: no other name will do
}

// Work is what runs while forwards are open. It gets them in the order of the wanted ones, and what tells of their links.
type Work func(context.Context, []api.Forward, []*linkview.Watch) error

// Served says how a command serves its forwards.
type Served struct {
	Detached bool
	Names    *HostNames // in the hosts file while they are open
	Show     func(context.Context, []api.Forward) error
	Hide     func() error // takes back what show has left, before they close; nil: nothing
}

// ServeForwards opens forwards and shows them. It leaves them to the agent if they are detached. Otherwise they stay open until ctx or they
// themselves end, and with -o json the link's events follow.
func (a *Forwarder) ServeForwards(ctx context.Context, s config.Settings, w Wanted, v Served) error {
	if v.Detached {
		forwards, err := a.OpenDetached(ctx, s, w)
		if err != nil {
			return err
		}
		return v.Show(ctx, forwards)
	}
	return a.OpenForwards(ctx, s, w, func(ctx context.Context, forwards []api.Forward, watches []*linkview.Watch) error {
		return v.Names.During(ctx, func() (err error) {
			if v.Hide != nil {
				defer func() { err = errors.Join(err, v.Hide()) }()
			}
			if err := v.Show(ctx, forwards); err != nil {
				return err
			}
			for _, watch := range watches {
				if s.Output.Format == "json" {
					watch.WriteEvents(a.Out)
				}
			}
			<-ctx.Done()
			return context.Cause(ctx)
		})
	})
}

// OpenForwards opens forwards, through the agent or, without it, in this process, and does work while they are open. It returns work's
// error, or why the forwards have ended.
func (a *Forwarder) OpenForwards(ctx context.Context, s config.Settings, w Wanted, do Work) error {
	p := a.NewProgress(s)
	defer p.Close()
	if len(w.Groups) > 1 {
		return a.openGroups(ctx, w, p, do)
	}
	return a.openGroup(ctx, w, w.Groups[0], p, do)
}

// openGroup opens the forwards of one group, in the way of OpenForwards.
func (a *Forwarder) openGroup(ctx context.Context, w Wanted, g request.Group, p *console.Progress, do Work) error {
	s := g.Settings
	if a.UsesAgent(ctx, s) {
		opened, err := a.openBy(ctx, w, g, p, a.sharedAgent(s), do)
		if opened || !a.GoesOnAlone(ctx, s, err) {
			return err
		}
	}
	_, err := a.openBy(ctx, w, g, p, a.privateAgent(s, w.Command), do)
	return err
}

// whichAgent has ask open forwards by an agent, and returns once that agent is not needed any more. The command's own agent leaves the
// forwards open when the link has given up, and tells lost.
type whichAgent func(ctx context.Context, p *console.Progress, lost func(error), ask func(api.Opener) error) error

// sharedAgent is the user's agent.
func (a *Forwarder) sharedAgent(s config.Settings) whichAgent {
	return func(ctx context.Context, _ *console.Progress, _ func(error), ask func(api.Opener) error) error {
		return a.AskAgent(ctx, s, func(client *api.Client) error { return ask(launch.Any(client)) })
	}
}

// privateAgent is an agent in this process, for this command alone.
func (a *Forwarder) privateAgent(s config.Settings, command string) whichAgent {
	return func(_ context.Context, p *console.Progress, lost func(error), ask func(api.Opener) error) error {
		d := agent.New(agent.Config{
			Version: a.Version, Logger: a.Logger(s, p),
			Private: &agent.Private{Lost: lost, Access: func(ctx context.Context, o access.Options) (*access.Access, error) {
				return a.Access(ctx, command, s, p, o)
			}},
		})
		defer d.Close()
		return ask(d)
	}
}

// openBy is OpenForwards by one agent. opened says whether work has begun.
func (a *Forwarder) openBy(
	ctx context.Context, w Wanted, g request.Group, p *console.Progress, which whichAgent, do Work,
) (opened bool, _ error) {
	p = p.In(g.Settings.Environment, g.Settings.Colour)
	defer p.Idle()
	watch := &linkview.Watch{Progress: p, Environment: g.Settings.Environment}
	apart := &apart{app: a, settings: g.Settings, note: p.Note, told: make(map[string]bool)}
	defer apart.asking.Wait()
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
	workCtx, endWork := context.WithCancelCause(ctx)
	defer endWork(nil)
	type outcome struct{ err, lost error }
	worked := make(chan outcome, 1)
	req := api.OpenRequest{Scope: invocation.AgentScope(g.Settings), Command: w.Command, PID: os.Getpid(), Forwards: g.Requests}
	err := which(open, p, endWork, func(by api.Opener) error {
		return openNamed(open, by, req, w.Named, p, func(e api.Event) {
			if e.Event == api.EventForwards && working.CompareAndSwap(false, true) {
				p.Idle()
				go func() {
					err := do(workCtx, e.Forwards, []*linkview.Watch{watch})
					worked <- outcome{err, context.Cause(workCtx)} // a link that gives up from now on does not matter
					end(nil)
				}()
				return
			}
			watch.Event(e)
			apart.event(workCtx, e)
		})
	})
	err = RemoteHint(err)
	endWork(nil)
	if !working.Load() {
		watch.GivenUp(ctx)
		return false, cmp.Or(context.Cause(ctx), err)
	}
	ended := <-worked
	switch {
	case context.Cause(ctx) != nil:
		return true, cmp.Or(ended.err, context.Cause(ctx))
	case ended.lost != nil && !errors.Is(ended.lost, context.Canceled): // the link gave up, and work ended for that
		return true, ended.lost
	case err != nil && !errors.Is(err, context.Canceled): // the forwards ended first, and work for that
		return true, err
	case errors.Is(ended.err, context.Canceled): // somebody stopped them
		return true, nil
	}
	return true, ended.err
}

// openNamed opens forwards. A name of the configuration that is taken gets a number: several commands may use one target. That of
// --name does not.
func openNamed(ctx context.Context, by api.Opener, req api.OpenRequest, named bool, p *console.Progress, on func(api.Event)) error {
	base := make(map[string]string) // numbered names to those without
	req.Forwards = slices.Clone(req.Forwards)
	for n := 2; ; n++ {
		err := by.Open(ctx, req, on)
		taken, ok := errors.AsType[*api.NameTaken](err)
		if !ok || named || n > maxNumber {
			return err
		}
		for i := range slices.Backward(req.Forwards) {
			if name := &req.Forwards[i].Name; *name == taken.Name {
				was := cmp.Or(base[*name], *name)
				*name = forwards.Numbered(was, n)
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

// OpenDetached opens forwards that stay when this command has ended, one group after the other.
func (a *Forwarder) OpenDetached(ctx context.Context, s config.Settings, w Wanted) ([]api.Forward, error) {
	p := a.NewProgress(s)
	defer p.Close()
	out := make([]api.Forward, len(request.Items(w.Groups)))
	var open []string
	for _, g := range w.Groups {
		forwards, err := a.openDetachedGroup(ctx, w, g, p)
		if err != nil {
			if len(open) > 0 {
				a.Note(s, "open, and kept by the agent: %s", strings.Join(open, ", "))
			}
			return nil, err
		}
		for i, f := range forwards {
			out[g.At[i]] = f
			open = append(open, targets.InEnvironment(g.Settings.Environment, f.Name))
		}
	}
	return out, nil
}

func (a *Forwarder) openDetachedGroup(ctx context.Context, w Wanted, g request.Group, p *console.Progress) ([]api.Forward, error) {
	s := g.Settings
	const needed = "only the agent keeps a forward when the command has ended"
	if s.Local.NoAgent {
		return nil, fail.Usagef("leave out --no-agent, or --detach", needed)
	}
	if lack := invocation.LackOfAgent(ctx, s); lack != nil {
		return nil, fail.Usagef("leave out --detach, or "+lack.Next, "%s, and the agent %s", needed, lack.What)
	}
	p = p.In(s.Environment, s.Colour)
	watch := &linkview.Watch{Progress: p}
	var forwards []api.Forward
	req := api.OpenRequest{Scope: invocation.AgentScope(s), Command: w.Command, PID: os.Getpid(), Forwards: g.Requests, Detached: true}
	err := a.AskAgent(ctx, s, func(client *api.Client) error {
		return openNamed(ctx, launch.Any(client), req, w.Named, p, func(e api.Event) {
			if e.Event == api.EventForwards {
				forwards = e.Forwards
				return
			}
			watch.Event(e)
		})
	})
	if err != nil {
		watch.GivenUp(ctx)
	}
	if profile := a.ProgramInAgent(ctx, s, err); profile != "" {
		err = fail.New(fail.Credentials, "", err, "leave out --detach: in the agent, the credential_process of the profile "+profile+
			" has not the variables of this command")
	}
	return forwards, RemoteHint(err)
}

// RemoteHint names the setting where tunnel.Listen cannot.
func RemoteHint(err error) error {
	if err != nil && strings.Contains(err.Error(), "others could use the tunnel") {
		return fail.New(fail.Usage, "", err, "listen on 127.0.0.1 or ::1; or let other machines in with --allow-remote")
	}
	return err
}
