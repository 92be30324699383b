package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/kardianos/service"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

// serviceRun is the subcommand that only Windows' service manager calls.
const serviceRun = "run"

// managerTimeout bounds the question whether systemd's user manager is there.
const managerTimeout = 10 * time.Second

func (a *app) serviceCommand() *command {
	verb := func(name, summary string, hidden bool) *command {
		return &command{
			name: name, summary: summary, hidden: hidden, examples: []string{"bastion service " + name},
			settings: []string{config.GroupOutput}, run: func(c *cli.Context) error { return a.service(c, name) },
		}
	}
	return &command{
		name:    "service",
		summary: "start the agent when you sign in, as a service of the system",
		group:   groupAgent,
		about: []passage{
			para(`Runs the agent as your own service, with your rights: a unit of systemd's user manager, or a launchd agent on macOS. It
				opens the forwards of --detach again. The service is optional, because a command that needs the agent starts it.`),
			para(`On Windows it is a service that runs as you. Installing it needs an administrator's rights and asks for your password,
				which Windows keeps.`),
		},
		examples: []string{"bastion service install", "bastion service start", "bastion service status -o json"},
		settings: []string{config.GroupOutput},
		verbs: []*command{
			verb("install", "write the service and start it when you sign in, with the settings given here", false),
			verb("uninstall", "stop and remove it", false),
			verb("start", "start it now", false),
			verb("stop", "stop it until you sign in again", false),
			verb("status", "show whether it is installed and whether it runs", false),
			verb(serviceRun, "run as the service; only Windows' service manager calls it", true),
		},
	}
}

// service runs a subcommand of `bastion service`.
func (a *app) service(c *cli.Context, verb string) error {
	if err := argCount(c, 0, 0); err != nil {
		return err
	}
	do := map[string]func(context.Context, config.Settings, *managed) error{
		"install": a.serviceInstall, "uninstall": a.serviceUninstall, "start": a.serviceStart, "stop": a.serviceStop,
		"status": a.serviceStatus, serviceRun: a.serviceRun,
	}[verb]
	settings := a.settings
	if verb == serviceRun {
		settings = a.agentSettings
	}
	s, err := settings()
	if err != nil {
		return err
	}
	m, err := a.managed(c.Context, s, verb)
	if err != nil {
		return err
	}
	return do(c.Context, s, m)
}

// serviceOutcome is the JSON output of the verbs that change something.
type serviceOutcome struct {
	Service string `json:"service"`
	Outcome string `json:"outcome"`
}

// managed is the agent as a service of the system.
type managed struct {
	service.Service
	config *service.Config
	file   string // that says what the service is; "" on Windows
}

// managed returns the service, whether it is installed or not. It fails where there is no service manager.
func (a *app) managed(ctx context.Context, s config.Settings, verb string) (*managed, error) {
	op := verb + " the service"
	program, err := a.program()
	if err != nil {
		return nil, err
	}
	state, err := dirs.State(s.StateDir)
	if err != nil {
		return nil, err
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return nil, fail.New(fail.Usage, op, err, "set HOME")
	}
	m := &managed{config: &service.Config{
		Name: "bastion-agent", DisplayName: "bastion agent", Description: "bastion: forwards into private AWS networks",
		Executable: program,
		Arguments: append([]string{"agent", "run", "--stay", "--log-file", filepath.Join(state, logName)},
			a.givenFlags()...),
		Option: service.KeyValue{"UserService": true},
	}}
	system := service.ChosenSystem()
	switch runtime.GOOS {
	case "linux":
		m.file = filepath.Join(home, ".config", "systemd", "user", m.config.Name+".service")
		if err := m.escape(); err != nil {
			return nil, err
		}
		m.config.Option["SystemdScript"] = systemdUnit
		if system, err = systemd(ctx, op, m.file); err != nil {
			return nil, err
		}
	case "darwin":
		m.config.Name = "io.github.bastion-ssm.agent"
		m.file = filepath.Join(home, "Library", "LaunchAgents", m.config.Name+".plist")
		m.config.Option["LaunchdConfig"] = launchdConfig
	case "windows":
		m.config.Arguments = append([]string{"service", serviceRun}, a.givenFlags()...)
	default:
		system = nil
	}
	if system == nil {
		return nil, fail.New(fail.Usage, op, fmt.Errorf("there is none on %s", runtime.GOOS), withoutService)
	}
	if m.Service, err = system.New(&agentProgram{app: a, settings: s}, m.config); err != nil {
		return nil, fail.New(fail.Other, op, err, withoutService)
	}
	return m, nil
}

const withoutService = "bastion agent start starts the agent without a service"

// systemd returns the service manager of that name, if it answers.
func systemd(ctx context.Context, op, file string) (service.System, error) {
	ctx, cancel := context.WithTimeout(ctx, managerTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "systemctl", "--user", "show-environment")
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		why := strings.TrimSpace(string(out))
		if why == "" || errors.Is(err, exec.ErrNotFound) {
			why = err.Error()
		}
		next := withoutService
		if _, err := os.Stat(file); err == nil {
			next += "; what was installed is " + file
		}
		return nil, fail.New(fail.Other, op, fmt.Errorf("systemd's user manager does not answer: %s", why), next)
	}
	for _, s := range service.AvailableSystems() {
		if s.String() == "linux-systemd" {
			return s, nil
		}
	}
	return nil, fail.New(fail.Other, op, errors.New("this program is built without systemd"), withoutService)
}

// escape makes the program and its arguments what systemd takes for them.
func (m *managed) escape() error {
	words := append([]*string{&m.config.Executable}, pointers(m.config.Arguments)...)
	for _, w := range words {
		if strings.ContainsFunc(*w, func(r rune) bool { return r < ' ' || r == 0x7f || strings.ContainsRune("\"\\$", r) }) {
			return usage("use another path or value", "a unit of systemd cannot hold %q", *w)
		}
		*w = strings.ReplaceAll(*w, "%", "%%")
	}
	return nil
}

func pointers(words []string) []*string {
	out := make([]*string, len(words))
	for i := range words {
		out[i] = &words[i]
	}
	return out
}

// systemdUnit is for systemd's user manager. Programs that the agent starts, such as a credential_process, have its
// limits too: there is none that keeps such programs, which may be browsers, from working. Core dumps would have keys.
//
// An agent that ends by itself had nothing to do. Exit code 1 says that it cannot run, most of all that another agent
// does.
const systemdUnit = `[Unit]
Description={{Description}}
Documentation=man:bastion-agent(1)
StartLimitIntervalSec=60
StartLimitBurst=5

[Service]
ExecStart={{Path | cmd}}{{range Arguments}} {{. | cmd}}{{end}}
Restart=on-failure
RestartSec=2
RestartPreventExitStatus=1
UMask=0077
LimitCORE=0
LimitNOFILE=65536
OOMPolicy=continue
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK

[Install]
WantedBy=default.target
`

// launchdConfig is for launchd. KeepAlive as above.
const launchdConfig = `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
	<key>Label</key>
	<string>{{Name | html}}</string>
	<key>ProgramArguments</key>
	<array>
		<string>{{Path | html}}</string>
{{range Arguments}}		<string>{{. | html}}</string>
{{end}}	</array>
	<key>RunAtLoad</key>
	<true/>
	<key>KeepAlive</key>
	<dict>
		<key>Crashed</key>
		<true/>
	</dict>
	<key>ProcessType</key>
	<string>Interactive</string>
	<key>Umask</key>
	<integer>63</integer>
	<key>HardResourceLimits</key>
	<dict>
		<key>Core</key>
		<integer>0</integer>
	</dict>
</dict>
</plist>
`

// installed reports whether there is such a service.
func (m *managed) installed() (bool, error) {
	if m.file != "" {
		_, err := os.Stat(m.file)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return err == nil, err
	}
	_, err := m.Status()
	if errors.Is(err, service.ErrNotInstalled) {
		return false, nil
	}
	return err == nil, err
}

// needInstalled fails where there is none.
func (m *managed) needInstalled(verb string) error {
	ok, err := m.installed()
	if err == nil && !ok {
		return fail.New(fail.Usage, verb+" the service", errors.New("it is not installed"),
			"run bastion service install; "+withoutService)
	}
	return err
}

func (a *app) serviceInstall(_ context.Context, s config.Settings, m *managed) error {
	const op = "install the service"
	ok, err := m.installed()
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
	if m.file != "" {
		if err := files.CheckPlace(m.file); err != nil {
			return fail.New(fail.Usage, op, err, "run the command as that user, without sudo")
		}
	}
	if err := m.Install(); err != nil {
		if m.file != "" {
			err = errors.Join(err, os.Remove(m.file)) // there was none before
		}
		return fail.New(fail.Other, op, err, withoutService)
	}
	return a.outcome(s, serviceOutcome{m.name(), "installed"},
		fmt.Sprintf("installed %s; it starts when you sign in, and now by bastion service start", m.name()))
}

func (m *managed) name() string {
	if m.file != "" {
		return m.file
	}
	return m.config.Name
}

// signIn has the service run as the user, whom Windows wants to be sure of.
func (a *app) signIn(m *managed) error {
	const op = "install the service"
	me, err := user.Current()
	if err != nil {
		return fail.New(fail.Other, op, err, withoutService)
	}
	var password string
	if fd := int(a.in.Fd()); term.IsTerminal(fd) {
		_ = printf(a.err, "Windows password of %s: ", me.Username)
		var typed []byte
		typed, err = term.ReadPassword(fd)
		fmt.Fprintln(a.err)
		password = string(typed)
	} else {
		password, err = bufio.NewReader(a.in).ReadString('\n')
	}
	if err != nil {
		return fail.New(fail.Usage, op, fmt.Errorf("no password: %w", err), "type it, or give it on standard input")
	}
	m.config.UserName = me.Username
	m.config.Option["Password"] = strings.TrimRight(password, "\r\n")
	return nil
}

func (a *app) serviceUninstall(_ context.Context, s config.Settings, m *managed) error {
	const op = "uninstall the service"
	ok, err := m.installed()
	if err != nil {
		return fail.New(fail.Other, op, err, "")
	}
	if !ok {
		return a.outcome(s, serviceOutcome{m.name(), "not_installed"}, "the service is not installed")
	}
	if st, err := m.Status(); err == nil && st == service.StatusRunning {
		if err := m.Stop(); err != nil {
			return fail.New(fail.Other, op, err, "bastion agent stop ends the agent")
		}
	}
	if err := m.Uninstall(); err != nil {
		return fail.New(fail.Other, op, err, "remove "+m.name()+" by hand")
	}
	return a.outcome(s, serviceOutcome{m.name(), "removed"}, "removed "+m.name())
}

func (a *app) serviceStart(ctx context.Context, s config.Settings, m *managed) error {
	const op = "start the service"
	if err := m.needInstalled("start"); err != nil {
		return err
	}
	if st, err := m.Status(); err == nil && st == service.StatusRunning {
		return a.outcome(s, serviceOutcome{m.name(), "running"}, "the service runs")
	}
	client, err := a.agentClient(s)
	if err != nil {
		return err
	}
	if info, err := client.Info(ctx); err == nil {
		return fail.New(fail.Usage, op, fmt.Errorf("an agent runs that is none: process %d", info.PID),
			"bastion agent stop ends it; its detached forwards come back with the service")
	}
	if err := m.Start(); err != nil {
		return fail.New(fail.Other, op, err, m.logs())
	}
	return a.outcome(s, serviceOutcome{m.name(), "started"}, "the service was started")
}

func (a *app) serviceStop(_ context.Context, s config.Settings, m *managed) error {
	if err := m.needInstalled("stop"); err != nil {
		return err
	}
	if err := m.Stop(); err != nil {
		return fail.New(fail.Other, "stop the service", err, "bastion agent stop ends the agent")
	}
	return a.outcome(s, serviceOutcome{m.name(), "stopped"}, "the service has ended")
}

// logs says where the service's failures are to be found.
func (m *managed) logs() string {
	if runtime.GOOS == "linux" {
		return "journalctl --user -u " + m.config.Name + " says why"
	}
	return "bastion agent run, in a terminal, says why"
}

// serviceStatus says what the service manager knows.
func (a *app) serviceStatus(_ context.Context, s config.Settings, m *managed) error {
	out := struct {
		Installed bool   `json:"installed"`
		Running   bool   `json:"running"`
		File      string `json:"file,omitempty"`
		Problem   string `json:"problem,omitempty"`
	}{File: m.file}
	var err error
	if out.Installed, err = m.installed(); err != nil {
		return fail.New(fail.Other, "look at the service", err, "")
	}
	if out.Installed {
		st, err := m.Status()
		out.Running = st == service.StatusRunning
		if err != nil && !errors.Is(err, service.ErrNotInstalled) {
			out.Problem = err.Error()
		}
	}
	if s.Output == "json" {
		return a.printJSON(out)
	}
	switch {
	case !out.Installed:
		_, err = fmt.Fprintln(a.out, "the service is not installed; bastion service install installs it")
	case out.Running:
		err = printf(a.out, "the service runs (%s)\n", m.name())
	case out.Problem != "":
		err = printf(a.out, "the service does not run: %s (%s); %s\n", out.Problem, m.name(), m.logs())
	default:
		err = printf(a.out, "the service is installed and does not run (%s)\n", m.name())
	}
	return err
}

// serviceRun is the agent under Windows' service manager, which wants to be answered.
func (a *app) serviceRun(ctx context.Context, _ config.Settings, m *managed) error {
	if runtime.GOOS != "windows" || service.Interactive() {
		return usage("bastion agent run does", "service run is for the service manager of Windows")
	}
	_ = ctx // its signals are the service manager's
	return m.Run()
}

// agentProgram is the agent as a service.Interface.
type agentProgram struct {
	app      *app
	settings config.Settings

	cancel context.CancelFunc
	ended  sync.WaitGroup
	err    error // once ended
}

// Start implements service.Interface. An agent that ends by itself leaves the service without one: the commands start
// another.
func (p *agentProgram) Start(service.Service) error {
	state, err := dirs.State(p.settings.StateDir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.ended.Go(func() {
		p.err = p.app.agentRun(ctx, p.settings, agentFlags{logFile: filepath.Join(state, logName), stay: true})
	})
	return nil
}

// Stop implements service.Interface.
func (p *agentProgram) Stop(service.Service) error {
	p.cancel()
	p.ended.Wait()
	if errors.Is(p.err, context.Canceled) {
		return nil
	}
	return p.err
}
