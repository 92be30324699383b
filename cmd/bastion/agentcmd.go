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

	"gopkg.in/natefinch/lumberjack.v2"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/internal/process"
	"github.com/bastion-ssm/bastion/internal/sleep"
	"github.com/bastion-ssm/bastion/internal/words"
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

// agentRunOptions are the options of agent run that are no settings.
type agentRunOptions struct {
	logFile string
	stay    bool
}

// agentLogsOptions are the options of agent logs that are no settings.
type agentLogsOptions struct{ follow bool }

func (a *app) agentCommand() *cli.Command {
	var run agentRunOptions
	var logs agentLogsOptions
	with := func(settings func() (config.Settings, error), run func(context.Context, config.Settings) error) func(context.Context, []string) error {
		return func(ctx context.Context, _ []string) error {
			s, err := settings()
			if err != nil {
				return err
			}
			return run(ctx, s)
		}
	}
	groups := []string{config.GroupLocal, config.GroupOutput}
	return &cli.Command{
		Name:    "agent",
		Summary: "run, start, stop or inspect the background agent",
		Group:   groupAgent,
		About: []cli.Passage{cli.Para(`The agent is one process for each user. It has the links and the forwards, so that they outlive commands and
			are there at once. A command that needs the agent starts it. The agent ends after agent_idle without work.`)},
		Examples: []string{"bastion agent status", "bastion agent logs --follow", "bastion agent stop"},
		Settings: groups,
		Verbs: []*cli.Command{
			{
				Name: "run", Summary: "serve in the foreground, as a service does, and print the socket",
				About: []cli.Passage{cli.Para("bastion service installs the agent as a service that runs this command.")},
				Flags: []cli.Option{
					cli.Text(&run.logFile, "FILE", "log to FILE, and begin a new one when it is large", "log-file"),
					cli.Switch(&run.stay, "go on without work, as a service should", "stay"),
				},
				Examples: []string{"bastion agent run", "bastion agent run --stay --log-file agent.log"},
				Settings: groups,
				Run:      with(a.agentSettings, func(ctx context.Context, s config.Settings) error { return a.agentRun(ctx, s, run) }),
			},
			{
				Name: "start", Summary: "start it in the background, unless it runs", Examples: []string{"bastion agent start"},
				Settings: groups, Run: with(a.settings, a.agentStart),
			},
			{
				Name: "stop", Summary: "end it with its links and forwards; detached forwards return when it starts again",
				Examples: []string{"bastion agent stop"}, Settings: groups, Run: with(a.settings, a.agentStop),
			},
			{
				Name: "status", Summary: "show whether it runs, and its links and forwards",
				Examples: []string{"bastion agent status", "bastion agent status -o json"}, Settings: groups,
				Run: with(a.settings, a.agentStatus),
			},
			{
				Name: "logs", Summary: "print the end of its log: each connection's target, duration and bytes, never its content",
				Examples: []string{"bastion agent logs --follow"}, Settings: groups,
				Flags: []cli.Option{cli.Switch(&logs.follow, "go on with new lines, until Ctrl-C", "follow", "f")},
				Run:   with(a.settings, func(ctx context.Context, s config.Settings) error { return a.agentLogs(ctx, s, logs) }),
			},
		},
	}
}

// agentRun is the agent.
func (a *app) agentRun(ctx context.Context, s config.Settings, o agentRunOptions) error {
	socket, err := api.SocketPath(s)
	if err != nil {
		return err
	}
	state, err := dirs.State(s.Local.StateDir)
	if err != nil {
		return err
	}
	out := a.err
	if o.logFile != "" {
		if err := files.CheckPlace(o.logFile); err != nil {
			return fail.New(fail.Usage, "log to "+o.logFile, err, "run the command as that user, without sudo")
		}
		rotated := &lumberjack.Logger{Filename: o.logFile, MaxSize: maxLog, MaxBackups: oldLogs}
		defer func() { _ = rotated.Close() }()
		out = rotated
	}
	level := slog.LevelInfo
	if s.Output.Verbose {
		level = slog.LevelDebug
	}
	process.NoCoreDumps() // they would have the keys
	if err := awssdk.ForgetEnv(); err != nil {
		return fail.New(fail.Other, "forget the AWS variables", err, "start the agent without them")
	}
	d := agent.New(agent.Config{
		Version: readVersion().Version, Socket: socket, StateDir: state, LogFile: o.logFile, Idle: s.Local.AgentIdle, Stay: o.stay,
		Logger:        slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level})),
		MetricsListen: s.Local.MetricsListen, MetricsToken: s.Local.MetricsTokenFile,
		Ready: func() { _ = a.announce(s, socket) }, // its starter may have gone
	})
	return d.Run(ctx)
}

// announce prints the socket of an agent that serves, on one line.
func (a *app) announce(s config.Settings, socket string) error {
	if s.Output.Format == "json" {
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
	if s.Output.Format == "json" {
		return a.printJSON(st)
	}
	err = console.Printf(a.out, "the agent runs: process %d, version %s, since %s\n%s, %s\nsocket %s\nlog %s\n",
		st.PID, st.Version, st.Started.Local().Format(time.DateTime), words.Count(len(st.Links), "link"),
		words.Count(len(st.Forwards), "forward"),
		st.Socket, words.Dash(st.Log))
	return err
}

// agentLogs prints the end of the log.
func (a *app) agentLogs(ctx context.Context, s config.Settings, o agentLogsOptions) error {
	state, err := dirs.State(s.Local.StateDir)
	if err != nil {
		return err
	}
	path := filepath.Join(state, logName)
	f, err := os.Open(path)
	if err != nil {
		return fail.New(fail.Other, "read the agent's log", err, "run bastion agent start; a log begins when a command starts the agent")
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
		if _, err := io.Copy(show, r); err != nil || !o.follow {
			return err
		}
		if err := sleep.For(ctx, agentPoll); err != nil {
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
	if s.Output.Format != "json" {
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

// agentClient returns a client of the agent, whether it runs or not.
func (a *app) agentClient(s config.Settings) (*api.Client, error) {
	path, err := api.SocketPath(s)
	if err != nil {
		return nil, err
	}
	return api.NewClient(path).ActAs(awssdk.ProcessEnv()), nil
}

// connectAgent returns a client of the user's agent, which it starts if it does not run.
func (a *app) connectAgent(ctx context.Context, s config.Settings) (*api.Client, error) {
	client, err := a.agentClient(s)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, agentStart, fail.New(fail.Timeout, "start the agent",
		fmt.Errorf("the agent is not ready after %s", agentStart), "run bastion agent run to see why, or add --no-agent"))
	defer cancel()
	for {
		info, err := client.Info(ctx)
		switch {
		case err == nil && info.Ending: // the next one is started when it has gone
			if err := sleep.For(ctx, agentPoll); err != nil {
				return nil, err
			}
			continue
		case err == nil:
			if version := readVersion().Version; info.Version != version && !s.Output.Quiet {
				_ = console.Printf(a.err, "bastion: the agent is of version %s, this command of %s; bastion agent stop ends the old one\n",
					info.Version, version)
			}
			return client, nil
		case !errors.Is(err, api.ErrNotRunning):
			return nil, err
		}
		if err := a.spawnAgent(ctx, s); err != nil {
			return nil, err
		}
		if err := sleep.For(ctx, time.Millisecond); err != nil {
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
		return fail.New(fail.Other, op, err, "run bastion agent run in another terminal")
	}
	state, err := dirs.State(s.Local.StateDir)
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
	process.Detach(cmd)
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return fail.New(fail.Other, op, err, "run bastion agent run in another terminal")
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
	if strings.Contains(said.String(), agent.ErrRunning.Error()) {
		return sleep.For(ctx, agentPoll) // another command has started it and it is about to serve
	}
	return fail.New(fail.Other, op, fmt.Errorf("the agent ended: %s", strings.TrimSpace(said.String())),
		"run the command with --no-agent")
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
