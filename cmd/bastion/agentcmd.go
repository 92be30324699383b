package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"gopkg.in/natefinch/lumberjack.v2"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/daemon"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

const (
	// agentStart bounds the start of the agent.
	agentStart = 15 * time.Second
	// agentPoll is the pause between two looks whether another agent has come up, or gone.
	agentPoll = 50 * time.Millisecond

	logName     = "agent.log"
	maxLog      = 5 // MB, after which a new file is begun
	oldLogs     = 1 // files that are kept besides
	logTailSize = 64 << 10

	maxCrashFile = 1 << 20 // bytes, after which the file is begun anew
)

// agentFlags are the flags of agent that are no settings.
type agentFlags struct {
	logFile string
	stay    bool
	follow  bool
}

func (a *app) agentCommand() *cli.Command {
	var f agentFlags
	return &cli.Command{
		Name:      "agent",
		Usage:     "run, start or stop the background agent, or look at it",
		Category:  "Agent",
		ArgsUsage: "run|start|stop|status|logs",
		Description: text(`
			The agent is one process for each user that has the links and the forwards, so that they outlive commands and are there
			at once. Every command that needs it starts it, and it ends by itself when it has had nothing to do for agent_idle.

			run     serves in the foreground, as a service does (bastion service installs one); prints its socket once it serves
			start   starts it in the background, unless it runs
			stop    ends it and what it has; detached forwards come back when it starts again
			status  says whether it runs, and what it has
			logs    prints the end of its log, which says who connected to what, and how long and how much, but never what`,
			"bastion agent status",
			"bastion agent logs --follow",
			"bastion agent stop"),
		Flags: a.settingFlags([]string{config.GroupLocal, config.GroupOutput},
			&textFlag{
				names: []string{"log-file"}, value: "FILE", help: "of run: log there, and begin a new file when it is large",
				set: func(v string) { f.logFile = v },
			},
			switchFlag(&f.stay, "of run: do not end when there is nothing to do, as a service should not", "stay"),
			switchFlag(&f.follow, "of logs: go on with what comes, until Ctrl-C", "follow", "f")),
		Action: func(c *cli.Context) error { return a.agentAction(c, f) },
	}
}

func (a *app) agentAction(c *cli.Context, f agentFlags) error {
	if err := argCount(c, 1, 1); err != nil {
		return err
	}
	verb := c.Args().First()
	if verb == "run" {
		s, err := a.agentSettings()
		if err != nil {
			return err
		}
		return a.agentRun(c.Context, s, f)
	}
	s, err := a.settings()
	if err != nil {
		return err
	}
	switch verb {
	case "start":
		return a.agentStart(c.Context, s)
	case "stop":
		return a.agentStop(c.Context, s)
	case "status":
		return a.agentStatus(c.Context, s)
	case "logs":
		return a.agentLogs(c.Context, s, f.follow)
	default:
		next := "it is one of run, start, stop, status and logs"
		if near := config.Nearest(verb, []string{"run", "start", "stop", "status", "logs"}); near != "" {
			next = "did you mean bastion agent " + near + "?"
		}
		return usage(next, "the agent cannot %q", verb)
	}
}

// agentRun is the agent.
func (a *app) agentRun(ctx context.Context, s config.Settings, f agentFlags) error {
	socket, err := api.SocketPath(s)
	if err != nil {
		return err
	}
	state, err := agent.StateDir(s)
	if err != nil {
		return err
	}
	out := a.err
	if f.logFile != "" {
		if err := files.CheckPlace(f.logFile); err != nil {
			return fail.New(fail.Usage, "log to "+f.logFile, err, "run the command as that user, without sudo")
		}
		rotated := &lumberjack.Logger{Filename: f.logFile, MaxSize: maxLog, MaxBackups: oldLogs}
		defer func() { _ = rotated.Close() }()
		out = rotated
	}
	level := slog.LevelInfo
	if s.Verbose {
		level = slog.LevelDebug
	}
	noCoreDumps() // they would have the keys
	if err := agent.ForgetEnv(); err != nil {
		return fail.New(fail.Other, "forget the AWS variables", err, "start the agent without them")
	}
	d := daemon.New(daemon.Config{
		Version: readVersion().Version, Socket: socket, StateDir: state, LogFile: f.logFile, Idle: s.AgentIdle, Stay: f.stay,
		Logger:        slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level})),
		MetricsListen: s.MetricsListen, MetricsToken: s.MetricsTokenFile,
		Ready: func() { _ = a.announce(s, socket) }, // its starter may have gone
	})
	return d.Run(ctx)
}

// announce prints the socket of an agent that serves, on one line.
func (a *app) announce(s config.Settings, socket string) error {
	if s.Output == "json" {
		return a.printLine(map[string]string{"socket": socket})
	}
	_, err := fmt.Fprintln(a.out, socket)
	return err
}

func (a *app) agentStart(ctx context.Context, s config.Settings) error {
	client, err := a.connectAgent(ctx, s)
	if err != nil {
		return err
	}
	return a.printAgent(ctx, client, s)
}

func (a *app) agentStatus(ctx context.Context, s config.Settings) error {
	client, err := a.agentClient(s)
	if err != nil {
		return err
	}
	return a.printAgent(ctx, client, s)
}

func (a *app) printAgent(ctx context.Context, client *api.Client, s config.Settings) error {
	st, err := client.State(ctx)
	if err != nil {
		return err
	}
	if s.Output == "json" {
		return a.printJSON(st)
	}
	err = printf(a.out, "the agent runs: process %d, version %s, since %s\n%s, %s\nsocket %s\nlog %s\n",
		st.PID, st.Version, st.Started.Local().Format(time.DateTime), count(len(st.Links), "link"),
		count(len(st.Forwards), "forward"),
		st.Socket, dash(st.Log))
	return err
}

// agentLogs prints the end of the log.
func (a *app) agentLogs(ctx context.Context, s config.Settings, follow bool) error {
	state, err := agent.StateDir(s)
	if err != nil {
		return err
	}
	path := filepath.Join(state, logName)
	f, err := os.Open(path)
	if err != nil {
		return fail.New(fail.Other, "read the agent's log", err, "it is made when a command starts the agent")
	}
	defer func() { _ = f.Close() }()
	r := bufio.NewReader(f)
	if info, err := f.Stat(); err == nil && info.Size() > logTailSize {
		if _, err := f.Seek(-logTailSize, io.SeekEnd); err != nil {
			return err
		}
		if _, err := r.ReadString('\n'); err != nil && !errors.Is(err, io.EOF) { // a part of a line
			return err
		}
	}
	show := a.logWriter(s)
	for {
		if _, err := io.Copy(show, r); err != nil || !follow {
			return err
		}
		if err := pause(ctx, agentPoll); err != nil {
			return err
		}
		if next, err := os.Open(path); err == nil {
			if sameFile(f, next) {
				_ = next.Close()
				continue
			}
			// A new file was begun: what came last to the old one goes first.
			_, err := io.Copy(show, r)
			_ = f.Close()
			f = next
			r.Reset(f)
			if err != nil {
				return err
			}
		}
	}
}

// logWriter returns where the agent's log is printed: as it is, or as JSON, an object for each line.
func (a *app) logWriter(s config.Settings) io.Writer {
	if s.Output != "json" {
		return a.out
	}
	return &logLines{print: func(line string) error { return a.printLine(map[string]string{"line": line}) }}
}

// logLines prints what is written to it by lines. The rest after the last one waits for its end.
type logLines struct {
	print func(line string) error
	rest  []byte
}

func (l *logLines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		l.rest = rest
		if err := l.print(string(line)); err != nil {
			return 0, err
		}
	}
}

// sameFile reports whether two open files are the same.
func sameFile(x, y *os.File) bool {
	xi, xerr := x.Stat()
	yi, yerr := y.Stat()
	return xerr == nil && yerr == nil && os.SameFile(xi, yi)
}

// pause waits for d or until ctx is done.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// agentClient returns a client of the agent, whether it runs or not.
func (a *app) agentClient(s config.Settings) (*api.Client, error) {
	path, err := api.SocketPath(s)
	if err != nil {
		return nil, err
	}
	return api.NewClient(path).ActAsThis(), nil
}

// connectAgent returns a client of the user's agent, which it starts if it does not run.
func (a *app) connectAgent(ctx context.Context, s config.Settings) (*api.Client, error) {
	client, err := a.agentClient(s)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, agentStart, fail.New(fail.Timeout, "start the agent",
		fmt.Errorf("it does not serve after %s", agentStart), "bastion agent run shows why; --no-agent does without it"))
	defer cancel()
	for {
		info, err := client.Info(ctx)
		switch {
		case err == nil && info.Ending: // the next one is started when it has gone
			if err := pause(ctx, agentPoll); err != nil {
				return nil, err
			}
			continue
		case err == nil:
			if version := readVersion().Version; info.Version != version && !s.Quiet {
				_ = printf(a.err, "bastion: the agent is of version %s, this command of %s; bastion agent stop ends the old one\n",
					info.Version, version)
			}
			return client, nil
		case !errors.Is(err, api.ErrNotRunning):
			return nil, err
		}
		if err := a.spawnAgent(ctx, s); err != nil {
			return nil, err
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// spawnAgent starts the agent and waits until it serves, or has found that another one does. It has nothing of this
// command's environment that only concerns this command.
func (a *app) spawnAgent(ctx context.Context, s config.Settings) error {
	const op = "start the agent"
	self, err := os.Executable()
	if err != nil {
		return fail.New(fail.Other, op, err, "bastion agent run, in another terminal, does the same")
	}
	state, err := agent.StateDir(s)
	if err != nil {
		return err
	}
	texts := s.Texts()
	args := []string{"bastion", "agent", "run", "--log-file", filepath.Join(state, logName)}
	env := agentEnviron(os.Environ())
	for _, key := range []string{
		"runtime_dir", "state_dir", "agent_idle", "metrics_listen", "metrics_token_file",
		"verbose",
	} {
		if texts[key] != "" {
			env = append(env, config.Lookup(key).Env()+"="+texts[key])
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fail.New(fail.Other, op, err, "")
	}
	defer func() { _ = r.Close() }()
	var said strings.Builder
	crash, before, err := openCrashFile(filepath.Join(state, "agent.err"))
	if err != nil {
		_ = w.Close()
		return fail.New(fail.Other, op, err, "set another state_dir (BASTION_STATE_DIR)")
	}
	defer func() { _ = crash.Close() }()
	cmd := &exec.Cmd{
		Path: self, Args: args, Env: env, Dir: filepath.VolumeName(self) + string(filepath.Separator),
		Stdout: w, Stderr: crash,
	}
	detachProcess(cmd)
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return fail.New(fail.Other, op, err, "bastion agent run, in another terminal, does the same")
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // if it serves, it ends after this process
	stop := context.AfterFunc(ctx, func() { _ = r.Close() })
	defer stop()
	if line, err := bufio.NewReader(r).ReadString('\n'); err == nil && line != "" {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	how := <-ended
	if _, err := crash.Seek(before, io.SeekStart); err == nil {
		_, _ = io.Copy(&said, io.LimitReader(crash, logTailSize))
	}
	if said.Len() == 0 && how != nil {
		said.WriteString(how.Error())
	}
	if strings.Contains(said.String(), daemon.ErrRunning.Error()) {
		return pause(ctx, agentPoll) // another command has started it and it is about to serve
	}
	return fail.New(fail.Other, op, fmt.Errorf("it has ended: %s", strings.TrimSpace(said.String())),
		"--no-agent does without it")
}

// openCrashFile opens the file of what an agent says outside of its log: why it did not start, or crashed. Several may
// write there. It returns the size that it had before.
func openCrashFile(path string) (f *os.File, before int64, err error) {
	if f, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600); err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() > maxCrashFile {
		err = f.Truncate(0)
	}
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	if before = info.Size(); before > maxCrashFile {
		before = 0
	}
	return f, before, nil
}

// agentVariables are the variables that the agent gets of the command that starts it: what every program of the user has. It lives
// longer than the command, whose environment may have secrets that are none of its business.
var agentVariables = []string{
	"HOME", "USER", "LOGNAME", "PATH", "SHELL", "LANG", "TZ", "TMPDIR", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "GODEBUG",
	// Windows
	"SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "TEMP", "TMP", "APPDATA", "LOCALAPPDATA", "PROGRAMDATA",
	"PROGRAMFILES", "USERPROFILE", "USERNAME", "USERDOMAIN", "HOMEDRIVE", "HOMEPATH",
}

// agentEnviron returns those of environ.
func agentEnviron(environ []string) []string {
	var out []string
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		name = strings.ToUpper(name)
		if slices.Contains(agentVariables, name) || strings.HasPrefix(name, "XDG_") || strings.HasPrefix(name, "LC_") {
			out = append(out, kv)
		}
	}
	return out
}
