package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/forwards"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/targets"
)

// session is what the commands that talk to AWS begin with.
type session struct {
	settings config.Settings
	progress *progress
	watch    *linkWatch
	access   *access.Access
}

// open loads the AWS configuration, for the command with the given name. Its close must be called.
func (a *app) open(ctx context.Context, command string, s config.Settings) (*session, error) {
	p := newProgress(a.raw.err, s.Output.Quiet)
	watch := &linkWatch{progress: p}
	way, err := a.access(ctx, command, s, p, access.Options{Progress: p.Step, Path: watch.path})
	if err != nil {
		p.Close()
		return nil, err
	}
	return &session{settings: s, progress: p, watch: watch, access: way}, nil
}

// access opens the way to AWS in this process, for the command with the given name.
func (a *app) access(ctx context.Context, command string, s config.Settings, p *progress, o access.Options) (*access.Access, error) {
	defer p.StepIfSlow("waiting for AWS credentials")()
	o.Version, o.Logger, o.MFA = readVersion().Version, a.logger(s, p), a.mfaOf(p)
	o.Show = func(way *access.Access) (hide func()) {
		process := report.Process{
			V: api.LinksVersion, PID: os.Getpid(), Command: command, Version: o.Version, Region: way.Region(), Started: time.Now(),
		}
		hide, err := api.ServeLinks(s.Local.RuntimeDir, func() report.Process {
			shown := process
			shown.Links = way.Links()
			return shown
		})
		if err != nil {
			o.Logger.Debug("bastion status will not show the links of this process", "err", err)
			return func() {}
		}
		return hide
	}
	return access.New(ctx, s, o)
}

func (s *session) close() {
	s.access.Close()
	s.progress.Close()
}

func (a *app) forwardCommand() *command {
	var o forwardFlags
	return &command{
		name:    "forward",
		summary: "forward local ports to targets",
		group:   groupConnect,
		args:    "SPEC [LPORT] [SPEC [LPORT]]...",
		about: []passage{
			para(`Listens on local ports and forwards each connection to its target through your bastion. It starts the bastion and the
				background agent if they are not running.`),
			terms("SPEC", `rds:ID, cache:ID, HOST:PORT or a name from the configuration's targets. A bare rds or cache means the only one in
				the region. Trailing digits are the port: rds:orders:5433, rds:5432.`,
				"LPORT", "local port; : or 0 picks a free one (default: the target's port number)"),
			para(`One link carries all forwards, over several SSM sessions. While it has no path to the bastion, connections wait.
				Listeners stay open while a lost link is restored.`),
			para(`The forwards end with this command. With --detach the agent keeps them until bastion stop, and opens them again when it
				restarts. With --no-agent this process has the link and the listeners.`),
			para(`Standard output has one line for each forward, LISTEN -> TARGET, once all are ready. With -o json it has one line of
				JSON, then one for each event of the link.`),
		},
		examples: []string{
			"bastion forward rds:orders 12345 cache:sessions 16379",
			"bastion forward -d orders          # a name from bastion.yaml; stays after the command has ended",
			"bastion forward -o json rds :      # a free port; prints which",
		},
		flags: []option{
			a.localFlag(), detachFlag(&o.detach), &textFlag{
				names: []string{"name"}, form: "NAME", help: "name of the forward for stop, wait and url (default: the target's name)",
				set: func(v string) { o.name = v },
			},
		},
		settings: []string{config.GroupAWS, config.GroupLink, config.GroupOutput},
		complete: func([]string) []candidate { return a.targetCandidates() },
		run:      func(c *cli.Context) error { return a.forward(c, o) },
	}
}

// forwardFlags are the flags of forward that are no settings.
type forwardFlags struct {
	detach bool
	name   string
}

// detachFlag is the flag of commands whose forwards may stay.
func detachFlag(into *bool) option {
	return switchFlag(into, "end once it is ready; the agent keeps it", "detach", "d")
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
			return usage("run bastion forward --name NAME once for each forward", "--name names one forward, and the command has %d", len(requests))
		}
		requests[0].Name, a.named = o.name, true
	}
	var names *hostNames
	if s.Forward.Hosts {
		if o.detach {
			return usage("leave out --detach or --hosts",
				"--detach cannot keep the names that --hosts sets: they end with the command")
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
		return nil, usage("name a target, for example: bastion forward rds:orders 12345", "forward: the target is missing")
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
		if !s.Output.Quiet {
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
			if forwards.ValidName(spec.ID) { // else it is named after its target
				r.Name = spec.ID
			}
			spec = resolved
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
func (s *session) link(ctx context.Context, permit []string) (*access.Pool, error) {
	link, err := s.access.Pool(permit, s.watch.state)
	if err != nil {
		return nil, err
	}
	limit := s.settings.Bastion.StartTimeout + s.settings.Link.ConnectTimeout
	ready, cancel := context.WithTimeoutCause(ctx, limit, fail.New(fail.Timeout, "connect to the bastion",
		fmt.Errorf("no connection to the bastion within %s", limit), "try again, or allow more time with --start-timeout"))
	defer cancel()
	link.Start(ctx)
	if err := link.Ready(ready); err != nil {
		_ = link.Close()
		return nil, err
	}
	return link, nil
}

// printForwards says on standard output where the forwards listen. In JSON it is one line, so that a reader that gets a
// line has it all while the command goes on.
func (a *app) printForwards(forwards []api.Forward, s config.Settings) error {
	if s.Output.Format == "json" {
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
