package commands

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"gopkg.in/natefinch/lumberjack.v2"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/launch"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/internal/notify"
	"github.com/bastion-ssm/bastion/internal/process"
	"github.com/bastion-ssm/bastion/internal/words"
)

const (
	maxLog  = 5 // MB, after which a new file is begun
	oldLogs = 1 // files that are kept besides
)

// agentRunOptions are the options of agent run that are no settings.
type agentRunOptions struct {
	logFile string
	stay    bool
}

// agentLogsOptions are the options of agent logs that are no settings.
type agentLogsOptions struct{ follow bool }

func (a *program) agentCommand() *cli.Command {
	var run agentRunOptions
	var logs agentLogsOptions
	groups := []string{config.GroupLocal, config.GroupOutput}
	return &cli.Command{
		Name:    "agent",
		Summary: "run, start, stop or inspect the background agent",
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
				Run: func(ctx context.Context, _ []string) error {
					s, err := a.AgentSettings()
					if err != nil {
						return err
					}
					return a.agentRun(ctx, s, run)
				},
			},
			{
				Name: "start", Summary: "start it in the background, unless it runs", Examples: []string{"bastion agent start"},
				Settings: groups, Run: a.WithLocal(a.agentStart),
			},
			{
				Name: "stop", Summary: "end it with its links and forwards; detached forwards return when it starts again",
				Examples: []string{"bastion agent stop"}, Settings: groups, Run: a.WithLocal(a.agentStop),
			},
			{
				Name: "status", Summary: "show whether it runs, and its links and forwards",
				Examples: []string{"bastion agent status", "bastion agent status -o json"}, Settings: groups,
				Run: a.WithLocal(a.agentStatus),
			},
			{
				Name: "logs", Summary: "print the end of its log: each connection's target, duration and bytes, never its content",
				Examples: []string{"bastion agent logs --follow"}, Settings: groups,
				Flags: []cli.Option{cli.Switch(&logs.follow, "go on with new lines, until Ctrl-C", "follow", "f")},
				Run:   a.WithLocal(func(ctx context.Context, s config.Settings, _ []string) error { return a.agentLogs(ctx, s, logs) }),
			},
		},
	}
}

// agentRun is the agent.
func (a *program) agentRun(ctx context.Context, s config.Settings, o agentRunOptions) error {
	socket, err := api.SocketPath(s)
	if err != nil {
		return err
	}
	state, err := dirs.State(s.Local.StateDir)
	if err != nil {
		return err
	}
	out := a.Err
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
	var notifier func(context.Context, string, string) error
	if s.Local.Notify {
		notifier = notify.Send
	}
	d := agent.New(agent.Config{
		Notify: notifier, Version: a.Version, Socket: socket, StateDir: state, LogFile: o.logFile, Idle: s.Local.AgentIdle, Stay: o.stay,
		Logger:        slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level})),
		MetricsListen: s.Local.MetricsListen, MetricsToken: s.Local.MetricsTokenFile,
		Ready: func() { _ = a.announce(s, socket) }, // its starter may have gone
	})
	return d.Run(ctx)
}

// announce prints the socket of an agent that serves, on one line.
func (a *program) announce(s config.Settings, socket string) error {
	if s.Output.Format == "json" {
		return a.PrintLine(map[string]string{"socket": socket})
	}
	_, err := fmt.Fprintln(a.Out, socket)
	return err
}

func (a *program) agentStart(ctx context.Context, s config.Settings, _ []string) error {
	client, err := a.ConnectAgent(ctx, s)
	if err != nil {
		return err
	}
	return a.printAgent(ctx, client, s)
}

func (a *program) agentStatus(ctx context.Context, s config.Settings, _ []string) error {
	client, err := launch.Client(s)
	if err != nil {
		return err
	}
	return a.printAgent(ctx, client, s)
}

func (a *program) printAgent(ctx context.Context, client *api.Client, s config.Settings) error {
	st, err := client.State(ctx)
	if err != nil {
		return err
	}
	if s.Output.Format == "json" {
		return a.PrintJSON(st)
	}
	return console.Printf(a.Out, "the agent runs: process %d, version %s, since %s\n%s, %s\nsocket %s\nlog %s\n",
		st.PID, st.Version, st.Started.Local().Format(time.DateTime), words.Count(len(st.Links), "link"),
		words.Count(len(st.Forwards), "forward"), st.Socket, words.Dash(st.Log))
}

// agentLogs prints the end of the log.
func (a *program) agentLogs(ctx context.Context, s config.Settings, o agentLogsOptions) error {
	path, err := launch.LogFile(s)
	if err != nil {
		return err
	}
	return launch.PrintLog(ctx, path, a.logWriter(s), o.follow)
}

// logWriter returns where the agent's log is printed: as it is, or as JSON, an object for each line.
func (a *program) logWriter(s config.Settings) io.Writer {
	if s.Output.Format != "json" {
		return a.Out
	}
	return &logLines{print: func(line string) error { return a.PrintLine(map[string]string{"line": line}) }}
}

// logLines splits its input into lines and prints them. The rest after the last one waits for its end.
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

// agentStop ends the agent.
func (a *program) agentStop(ctx context.Context, s config.Settings, _ []string) error {
	was, err := launch.Stop(ctx, s)
	if err != nil {
		return err
	}
	text := "the agent has ended"
	switch {
	case !was.Stopped:
		text = "no agent is running"
	case was.Killed:
		text = fmt.Sprintf("the agent did not end within %s, and was killed; AWS ends its sessions by itself", launch.EndWait)
	}
	return a.Outcome(s, was, text)
}
