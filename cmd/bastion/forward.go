package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/targets"
)

// session is what the commands that talk to AWS begin with.
type session struct {
	settings config.Settings
	progress *progress
	watch    *linkWatch
	agent    *agent.Agent
}

// open loads the AWS configuration, for the command with the given name. Its close must be called.
func (a *app) open(ctx context.Context, command string, s config.Settings) (*session, error) {
	p := newProgress(a.raw.err, s.Quiet)
	watch := &linkWatch{progress: p}
	defer p.StepIfSlow("waiting for AWS credentials")()
	ag, err := agent.New(ctx, s, agent.Options{
		Version: readVersion().Version, Command: command, Logger: a.logger(s, p), Progress: p.Step, Path: watch.path,
		MFA: a.mfaOf(p),
	})
	if err != nil {
		p.Close()
		return nil, err
	}
	return &session{settings: s, progress: p, watch: watch, agent: ag}, nil
}

func (s *session) close() {
	s.agent.Close()
	s.progress.Close()
}

func (a *app) forwardCommand() *cli.Command {
	var o forwardFlags
	return &cli.Command{
		Name:      "forward",
		Usage:     "forward local ports to targets, until Ctrl-C or, with --detach, until bastion stop",
		Category:  "Connect",
		ArgsUsage: "SPEC [LPORT] [SPEC [LPORT]]...",
		Description: text(`
			Listens on local ports and forwards every connection to its target through the bastion, which is started if
			it is not running. The link is spread over several SSM sessions and outlives them; while there is no path to the
			bastion, connections wait. A link that is lost is restored; listeners stay open meanwhile.

			SPEC   rds:ID, cache:ID, HOST:PORT, or a name of the configuration's targets. A bare rds or cache is the
			       only one of the region. A suffix of digits is the port: rds:orders:5433, rds:5432.
			LPORT  the local port; : or 0 picks a free one. Without it, the target's own port number is used.

			The agent, which is started if it is not running, has the link and the listeners. The forwards end with this command;
			with --detach the command ends once they are ready, and they stay: bastion ls forwards shows them, bastion stop
			ends them, and they come back when the agent starts again. With --no-agent this process does it all alone.

			Standard output gets one line per forward once all are ready: LISTEN -> TARGET; with -o json, one
			line of JSON, and then one for each event of the link.`,
			"bastion forward rds:5432 12345",
			"bastion forward rds:orders 12345 cache:sessions 16379",
			"bastion forward -d orders          # a name of bastion.yaml; stays when the command has ended",
			"bastion forward -L 8443:wiki.corp.internal:443",
			"bastion forward -o json rds :      # a free port; prints which"),
		Flags: a.settingFlags([]string{config.GroupAWS, config.GroupLink, config.GroupOutput}, a.localFlag(),
			detachFlag(&o.detach), &textFlag{
				names: []string{"name"}, value: "NAME",
				help: "name of the forward for stop, wait and url (by default the target's)",
				set:  func(v string) { o.name = v },
			}),
		Action: func(c *cli.Context) error { return a.forward(c, o) },
	}
}

// forwardFlags are the flags of forward that are no settings.
type forwardFlags struct {
	detach bool
	name   string
}

// detachFlag is the flag of commands whose forwards may stay.
func detachFlag(into *bool) cli.Flag {
	return switchFlag(into, "leave it to the agent and end once it is ready", "detach", "d")
}

// forward runs `bastion forward`.
func (a *app) forward(c *cli.Context, o forwardFlags) error {
	ctx := c.Context
	s, err := a.settings()
	if err != nil {
		return err
	}
	requests, err := a.parseForwards(c.Args().Slice(), s)
	if err != nil {
		return err
	}
	if o.name != "" {
		if len(requests) != 1 {
			return usage("name them one by one", "--name is for one forward, and there are %d", len(requests))
		}
		requests[0].Name, a.named = o.name, true
	}
	var names *hostNames
	if s.Hosts {
		if o.detach {
			return usage("leave out --detach: the names end with the command; or leave out --hosts",
				"the names that --hosts gives cannot be left to the agent")
		}
		if names, err = a.hostsFor(ctx, s, requests); err != nil {
			return err
		}
	}
	if o.detach {
		forwards, err := a.openDetached(ctx, s, "forward", requests)
		if err != nil {
			return err
		}
		return a.printForwards(forwards, s)
	}
	return a.openForwards(ctx, s, "forward", requests, func(
		ctx context.Context, forwards []api.Forward, watch *linkWatch,
	) error {
		return names.during(ctx, func() error {
			if err := a.printForwards(forwards, s); err != nil {
				return err
			}
			watch.tell(a.out, s)
			<-ctx.Done()
			return context.Cause(ctx)
		})
	})
}

// parseForwards reads the arguments and -L. Names of the configuration are replaced by what they stand for.
func (a *app) parseForwards(args []string, s config.Settings) ([]api.ForwardRequest, error) {
	pairs, err := targets.ParsePair(args)
	if err != nil && !(len(args) == 0 && len(a.extraLocal) > 0) {
		return nil, err
	}
	for _, l := range a.extraLocal {
		pair, err := targets.ParseL(l)
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, pair)
	}
	if len(pairs) == 0 {
		return nil, usage("say what to forward, for example: bastion forward rds:orders 12345", "no target is given")
	}
	for i := range pairs {
		target := pairs[i].Target
		if named, ok := s.Targets[target.ID]; ok && target.Kind == targets.Name && pairs[i].Local == (targets.Local{}) {
			pairs[i].Local.Port = named.LocalPort
		}
	}
	if err := targets.CheckPairs(pairs); err != nil {
		return nil, err
	}
	addresses, _ := net.InterfaceAddrs() // only for a note
	for _, note := range notesOfTargets(pairs, addresses) {
		if !s.Quiet {
			_ = printf(a.err, "bastion: %s\n", note)
		}
	}
	out := make([]api.ForwardRequest, len(pairs))
	for i, p := range pairs {
		if out[i], err = forwardRequest(p, s); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// notesOfTargets says of each target that is an address of this machine how to listen there, which its place after another target may mean.
func notesOfTargets(pairs []targets.Pair, addresses []net.Addr) []string {
	var notes []string
	for i, p := range pairs {
		ip := net.ParseIP(p.Target.Host)
		own := slices.ContainsFunc(addresses, func(a net.Addr) bool {
			n, ok := a.(*net.IPNet)
			return ok && ip != nil && n.IP.Equal(ip)
		})
		if i == 0 || !own || pairs[i-1].Local != (targets.Local{}) || p.Target.Kind != targets.Host {
			continue
		}
		notes = append(notes, fmt.Sprintf("%s is a target here, and an address of this machine; to listen there write -L %s:%s",
			p.Target, p.Target, pairs[i-1].Target))
	}
	return notes
}

// forwardRequest is the request for one pair.
func forwardRequest(p targets.Pair, s config.Settings) (api.ForwardRequest, error) {
	r := api.ForwardRequest{Kind: api.KindTCP, Listen: p.Local.String()}
	spec := p.Target
	if spec.Kind == targets.Name {
		named, ok := s.Targets[spec.ID]
		switch {
		case ok:
			resolved, err := namedSpec(named)
			if err != nil {
				return r, err
			}
			if spec.Port != 0 {
				resolved.Port = spec.Port
			}
			r.Name, spec = spec.ID, resolved
		case spec.Port == 0:
			return r, unknownName(spec, s)
		}
	}
	r.Target = spec.String()
	return r, nil
}

// unknownName is the error of a name that the configuration does not have.
func unknownName(spec targets.Spec, s config.Settings) error {
	names := make(map[string]targets.Named, len(s.Targets))
	for name, t := range s.Targets {
		names[name] = targets.Named{Target: t.Spec}
	}
	// asks nobody: it is no target of AWS's
	_, err := (&targets.Resolver{Names: names}).Resolve(context.Background(), spec)
	return err
}

// link brings up a link whose grant is for the destinations in permit. The caller closes it.
func (s *session) link(ctx context.Context, permit []string) (*agent.Link, error) {
	link, err := s.agent.Link(permit, s.watch.state)
	if err != nil {
		return nil, err
	}
	limit := s.settings.StartTimeout + s.settings.ConnectTimeout
	ready, cancel := context.WithTimeoutCause(ctx, limit, fail.New(fail.Timeout, "connect to the bastion",
		fmt.Errorf("no connection within %s", limit), "try again, or allow more time with --start-timeout"))
	defer cancel()
	link.Start(ctx)
	if err := link.Ready(ready); err != nil {
		_ = link.Close()
		return nil, err
	}
	return link, nil
}

// serve runs work until ctx ends or the link gives up, and returns why the link did.
func serve(ctx context.Context, link *agent.Link, work func(context.Context) error) error {
	workCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		select {
		case <-link.Done():
			cancel()
		case <-stop:
		}
	})
	err := work(workCtx)
	close(stop)
	watcher.Wait()
	if linkErr := link.Err(); linkErr != nil && ctx.Err() == nil {
		if kind := fail.KindOf(linkErr); kind != fail.Lost {
			return fail.New(fail.Lost, "the link was lost and cannot be restored", linkErr, fail.NextOf(linkErr))
		}
		return linkErr
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	return err
}

// printForwards says on standard output where the forwards listen. In JSON it is one line, so that a reader that gets a
// line has it all while the command goes on.
func (a *app) printForwards(forwards []api.Forward, s config.Settings) error {
	if s.Output == "json" {
		return a.printLine(map[string]any{"forwards": forwards})
	}
	var b strings.Builder
	for _, f := range forwards {
		_ = printf(&b, "%s -> %s\n", f.Listen, f.Target)
	}
	_, err := fmt.Fprint(a.out, b.String())
	return err
}

// portArg reads a port of the command line.
func portArg(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 65535 {
		return 0, usage("give a number from 1 to 65535", "%q is not a port", text)
	}
	return n, nil
}
