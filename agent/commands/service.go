package commands

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/user"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/term"

	"github.com/bastion-ssm/bastion/agent/launch"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/service"
	"github.com/bastion-ssm/bastion/internal/shared"
)

// serviceRun is the subcommand that only Windows' service manager calls.
const serviceRun = "run"

func (a *program) serviceCommand() *cli.Command {
	verb := func(name, summary string, do func(context.Context, config.Settings, *service.Service) error) *cli.Command {
		return &cli.Command{
			Name: name, Summary: summary, Hidden: name == serviceRun, Examples: []string{"bastion service " + name},
			Settings: []string{config.GroupOutput}, Run: func(ctx context.Context, _ []string) error { return a.service(ctx, name, do) },
		}
	}
	return &cli.Command{
		Name:    "service",
		Summary: "start the agent when you sign in, as a service of the system",
		About: []cli.Passage{
			cli.Para(`Runs the agent as your own service, with your rights: a unit of systemd's user manager, or a launchd agent on macOS. It
				opens the forwards of --detach again. The service is optional, because a command that needs the agent starts it.`),
			cli.Para(`On Windows it is a service that runs as you. Installing it needs an administrator's rights and asks for your password,
				which Windows keeps.`),
		},
		Examples: []string{"bastion service install", "bastion service start", "bastion service status -o json"},
		Settings: []string{config.GroupOutput},
		Verbs: []*cli.Command{
			verb("install", "write the service and start it when you sign in, with the settings given here", a.serviceInstall),
			verb("uninstall", "stop and remove it", a.serviceUninstall),
			verb("start", "start it now", a.serviceStart),
			verb("stop", "stop it until you sign in again", a.serviceStop),
			verb("status", "show whether it is installed and whether it runs", a.serviceStatus),
			verb(serviceRun, "run as the service; only Windows' service manager calls it", a.serviceRun),
		},
	}
}

// service runs a subcommand of `bastion service`.
func (a *program) service(ctx context.Context, verb string, do func(context.Context, config.Settings, *service.Service) error) error {
	var s config.Settings
	var err error
	if verb == serviceRun {
		s, err = a.AgentSettings()
	} else {
		s, err = a.Settings(ctx, shared.Cached)
	}
	if err != nil {
		return err
	}
	m, err := a.managed(ctx, s, verb)
	if err != nil {
		return err
	}
	return do(ctx, s, m)
}

// serviceOutcome is the JSON output of the verbs that change something.
type serviceOutcome struct {
	Service string `json:"service"`
	Outcome string `json:"outcome"`
}

// managed returns the service, whether it is installed or not.
func (a *program) managed(ctx context.Context, s config.Settings, verb string) (*service.Service, error) {
	program, err := a.Program()
	if err != nil {
		return nil, err
	}
	logFile, err := launch.LogFile(s)
	if err != nil {
		return nil, err
	}
	return service.New(ctx, verb, service.Options{
		Path:    program,
		Args:    append([]string{"agent", "run", "--stay", "--log-file", logFile}, a.GivenFlags()...),
		Windows: append([]string{"service", serviceRun}, a.GivenFlags()...),
		Program: &agentProgram{program: a, settings: s},
	})
}

func (a *program) serviceInstall(_ context.Context, s config.Settings, m *service.Service) error {
	const op = "install the service"
	ok, err := m.Installed()
	if err != nil {
		return fail.New(fail.Other, op, err, "")
	}
	if ok {
		return fail.New(fail.Usage, op, errors.New("it is installed already"),
			"run bastion service uninstall, then install it again")
	}
	if runtime.GOOS == "windows" {
		if err := a.signIn(m); err != nil {
			return err
		}
	}
	if err := m.Install(); err != nil {
		return err
	}
	return a.Outcome(s, serviceOutcome{m.Name(), "installed"},
		fmt.Sprintf("installed %s; it starts when you sign in, and now by bastion service start", m.Name()))
}

// signIn has the service run as the user, whom Windows wants to be sure of.
func (a *program) signIn(m *service.Service) error {
	const op = "install the service"
	me, err := user.Current()
	if err != nil {
		return fail.New(fail.Other, op, err, service.Without)
	}
	var password string
	if fd := int(a.In.Fd()); term.IsTerminal(fd) {
		_ = console.Printf(a.Err, "Windows password of %s: ", me.Username)
		var typed []byte
		typed, err = term.ReadPassword(fd)
		fmt.Fprintln(a.Err)
		password = string(typed)
	} else {
		password, err = bufio.NewReader(a.In).ReadString('\n')
	}
	if err != nil {
		return fail.New(fail.Usage, op, fmt.Errorf("no password: %w", err), "type it, or give it on standard input")
	}
	m.As(me.Username, strings.TrimRight(password, "\r\n"))
	return nil
}

func (a *program) serviceUninstall(_ context.Context, s config.Settings, m *service.Service) error {
	const op = "uninstall the service"
	ok, err := m.Installed()
	if err != nil {
		return fail.New(fail.Other, op, err, "")
	}
	if !ok {
		return a.Outcome(s, serviceOutcome{m.Name(), "not_installed"}, "the service is not installed")
	}
	if running, err := m.Running(); err == nil && running {
		if err := m.Stop(); err != nil {
			return fail.New(fail.Other, op, err, "bastion agent stop ends the agent")
		}
	}
	if err := m.Uninstall(); err != nil {
		return fail.New(fail.Other, op, err, "remove "+m.Name()+" by hand")
	}
	return a.Outcome(s, serviceOutcome{m.Name(), "removed"}, "removed "+m.Name())
}

func (a *program) serviceStart(ctx context.Context, s config.Settings, m *service.Service) error {
	const op = "start the service"
	if err := m.NeedInstalled("start"); err != nil {
		return err
	}
	if running, err := m.Running(); err == nil && running {
		return a.Outcome(s, serviceOutcome{m.Name(), "running"}, "the service runs")
	}
	client, err := launch.Client(s)
	if err != nil {
		return err
	}
	if info, err := client.Info(ctx); err == nil {
		return fail.New(fail.Usage, op, fmt.Errorf("an agent runs that is none: process %d", info.PID),
			"bastion agent stop ends it; its detached forwards come back with the service")
	}
	if err := m.Start(); err != nil {
		return fail.New(fail.Other, op, err, m.Logs())
	}
	return a.Outcome(s, serviceOutcome{m.Name(), "started"}, "the service was started")
}

func (a *program) serviceStop(_ context.Context, s config.Settings, m *service.Service) error {
	if err := m.NeedInstalled("stop"); err != nil {
		return err
	}
	if err := m.Stop(); err != nil {
		return fail.New(fail.Other, "stop the service", err, "bastion agent stop ends the agent")
	}
	return a.Outcome(s, serviceOutcome{m.Name(), "stopped"}, "the service has ended")
}

// serviceStatus says what the service manager knows.
func (a *program) serviceStatus(_ context.Context, s config.Settings, m *service.Service) error {
	out := struct {
		Installed bool   `json:"installed"`
		Running   bool   `json:"running"`
		File      string `json:"file,omitempty"`
		Problem   string `json:"problem,omitempty"`
	}{File: m.File}
	var err error
	if out.Installed, err = m.Installed(); err != nil {
		return fail.New(fail.Other, "look at the service", err, "")
	}
	if out.Installed {
		if out.Running, err = m.Running(); err != nil {
			out.Problem = err.Error()
		}
	}
	if s.Output.Format == "json" {
		return a.PrintJSON(out)
	}
	switch {
	case !out.Installed:
		_, err = fmt.Fprintln(a.Out, "the service is not installed; bastion service install installs it")
	case out.Running:
		err = console.Printf(a.Out, "the service runs (%s)\n", m.Name())
	case out.Problem != "":
		err = console.Printf(a.Out, "the service does not run: %s (%s); %s\n", out.Problem, m.Name(), m.Logs())
	default:
		err = console.Printf(a.Out, "the service is installed and does not run (%s)\n", m.Name())
	}
	return err
}

// serviceRun is the agent under Windows' service manager, which wants to be answered.
func (a *program) serviceRun(ctx context.Context, _ config.Settings, m *service.Service) error {
	if runtime.GOOS != "windows" || service.Interactive() {
		return fail.Usagef("bastion agent run does", "service run is for the service manager of Windows")
	}
	_ = ctx // its signals are the service manager's
	return m.Run()
}

// agentProgram is the agent as a service.Program.
type agentProgram struct {
	program  *program
	settings config.Settings

	cancel context.CancelFunc
	ended  sync.WaitGroup
	err    error // once ended
}

// Start implements service.Program. An agent that ends by itself leaves the service without one: the commands start
// another.
func (p *agentProgram) Start() error {
	logFile, err := launch.LogFile(p.settings)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.ended.Go(func() {
		p.err = p.program.agentRun(ctx, p.settings, agentRunOptions{logFile: logFile, stay: true})
	})
	return nil
}

// Stop implements service.Program.
func (p *agentProgram) Stop() error {
	p.cancel()
	p.ended.Wait()
	if errors.Is(p.err, context.Canceled) {
		return nil
	}
	return p.err
}
