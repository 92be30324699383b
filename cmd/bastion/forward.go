package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/targets"
	"github.com/bastion-ssm/bastion/tunnel"
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
	p := newProgress(a.err, s.Quiet)
	watch := &linkWatch{progress: p}
	ag, err := agent.New(ctx, s, agent.Options{
		Version: readVersion().Version, Command: command, Logger: a.logger(s, p), Progress: p.Step, Path: watch.path,
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

// forwarding is one forward of a command line.
type forwarding struct {
	pair     targets.Pair
	port     int // the target's, if the command line or the configuration says it; else 0
	listener net.Listener
	endpoint targets.Endpoint
}

func (f *forwarding) dest() string { return agent.Destination(f.endpoint.Host, f.endpoint.Port) }

// forward runs `bastion forward`. What can be wrong on this machine is found before anything is asked of AWS, and a local
// port that is only known from the target before a bastion is started.
func (a *app) forward(c *cli.Context) error {
	ctx := c.Context
	s, err := a.settings()
	if err != nil {
		return err
	}
	forwards, err := a.parseForwards(c.Args().Slice(), s)
	if err != nil {
		return err
	}
	defer func() {
		for _, f := range forwards {
			if f.listener != nil {
				_ = f.listener.Close() // once more after Forward, for what failed before it
			}
		}
	}()
	if err := listenKnown(ctx, forwards, s.AllowRemote); err != nil {
		return err
	}
	run, err := a.open(ctx, "forward", s)
	if err != nil {
		return err
	}
	defer run.close()
	run.agent.Prepare()
	if err := run.resolve(ctx, forwards); err != nil {
		return err
	}
	var permit []string
	seen := make(map[string]bool)
	for _, f := range forwards {
		if d := f.dest(); !seen[d] {
			seen[d] = true
			permit = append(permit, d)
		}
	}
	link, err := run.link(ctx, permit)
	if err != nil {
		return err
	}
	defer func() { _ = link.Close() }()
	if err := a.printForwards(forwards, s); err != nil {
		return err
	}
	run.watch.tell(a.out, s)
	for _, f := range forwards {
		if f.endpoint.Note != "" {
			run.progress.Note(f.endpoint.Name + ": " + f.endpoint.Note)
		}
	}
	cfg := tunnel.ForwardConfig{Logger: a.connectionLog(s, run.progress)}
	return serve(ctx, link, func(ctx context.Context) error {
		var wg sync.WaitGroup
		errs := make([]error, len(forwards))
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		for i, f := range forwards {
			wg.Go(func() {
				if errs[i] = tunnel.Forward(ctx, f.listener, link, f.dest(), cfg); errs[i] != nil {
					cancel()
				}
			})
		}
		wg.Wait()
		for _, err := range errs {
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// parseForwards reads the arguments and -L.
func (a *app) parseForwards(args []string, s config.Settings) ([]*forwarding, error) {
	pairs, err := targets.ParsePair(args)
	if err != nil && !(len(args) == 0 && len(a.extraLocal) > 0) {
		return nil, err
	}
	for i := range pairs {
		target := pairs[i].Target
		if named, ok := s.Targets[target.ID]; ok && target.Kind == targets.Name && pairs[i].Local == (targets.Local{}) {
			pairs[i].Local.Port = named.LocalPort
		}
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
	if err := targets.CheckPairs(pairs); err != nil {
		return nil, err
	}
	forwards := make([]*forwarding, len(pairs))
	for i, p := range pairs {
		forwards[i] = &forwarding{pair: p, port: p.Target.Port}
		if named, ok := s.Targets[p.Target.ID]; ok && p.Target.Kind == targets.Name && p.Target.Port == 0 {
			spec, err := namedSpec(named)
			if err != nil {
				return nil, err
			}
			forwards[i].port = spec.Port
		}
	}
	return forwards, nil
}

// listenKnown opens the listeners whose address is known without asking AWS.
func listenKnown(ctx context.Context, forwards []*forwarding, allowRemote bool) error {
	for _, f := range forwards {
		if f.pair.Local.Free || f.pair.Local.Port != 0 || f.port != 0 {
			if err := f.listen(ctx, f.port, allowRemote); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *forwarding) listen(ctx context.Context, targetPort int, allowRemote bool) error {
	ln, err := tunnel.Listen(ctx, f.pair.Local.Address("127.0.0.1", targetPort), allowRemote)
	if err != nil {
		return remoteHint(err)
	}
	f.listener = ln
	return nil
}

// remoteHint names the setting where tunnel.Listen cannot.
func remoteHint(err error) error {
	if strings.Contains(err.Error(), "others could use the tunnel") {
		return fail.New(fail.Usage, "", err, "listen on 127.0.0.1 or ::1; or let other machines in with --allow-remote")
	}
	return err
}

// resolve finds the endpoints and opens the listeners that depend on them.
func (s *session) resolve(ctx context.Context, forwards []*forwarding) error {
	specs := make([]targets.Spec, len(forwards))
	names := make([]string, len(forwards))
	for i, f := range forwards {
		specs[i] = f.pair.Target
		names[i] = f.pair.Target.String()
	}
	s.progress.Step("looking up " + strings.Join(names, ", "))
	endpoints, err := s.agent.Resolve(ctx, specs)
	if err != nil {
		return err
	}
	for i, f := range forwards {
		f.endpoint = endpoints[i]
		if f.listener == nil {
			if err := f.listen(ctx, f.endpoint.Port, s.settings.AllowRemote); err != nil {
				return err
			}
		}
	}
	return nil
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

// forwardInfo is a forward in the JSON output.
type forwardInfo struct {
	Name   string `json:"name"`   // of the target
	Listen string `json:"listen"` // where to connect to
	Target string `json:"target"` // host:port as the bastion sees it
	Engine string `json:"engine,omitempty"`
	TLS    bool   `json:"tls,omitempty"` // the target accepts nothing else
}

// printForwards says on standard output where the forwards listen. In JSON it is one line, so that a reader that gets a
// line has it all while the command goes on.
func (a *app) printForwards(forwards []*forwarding, s config.Settings) error {
	if s.Output == "json" {
		list := make([]forwardInfo, len(forwards))
		for i, f := range forwards {
			list[i] = forwardInfo{
				Name: f.endpoint.Name, Listen: f.listener.Addr().String(), Target: f.dest(),
				Engine: f.endpoint.Engine, TLS: f.endpoint.TLS,
			}
		}
		return json.NewEncoder(a.out).Encode(map[string]any{"forwards": list})
	}
	var b strings.Builder
	for _, f := range forwards {
		fmt.Fprintf(&b, "%s -> %s\n", f.listener.Addr(), f.dest())
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
