package invocation

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/linkview"
	"github.com/bastion-ssm/bastion/internal/report"
)

// Session is what the commands that talk to AWS begin with.
type Session struct {
	Settings config.Settings
	Progress *console.Progress
	Watch    *linkview.Watch
	Access   *access.Access
}

// Open loads the AWS configuration, for the command with the given name. Its Close must be called.
func (in *Invocation) Open(ctx context.Context, command string, s config.Settings) (*Session, error) {
	p := in.NewProgress(s)
	watch := &linkview.Watch{Progress: p}
	way, err := in.Access(ctx, command, s, p, access.Options{Progress: p.Step, Path: watch.Path})
	if err != nil {
		p.Close()
		return nil, err
	}
	return &Session{Settings: s, Progress: p, Watch: watch, Access: way}, nil
}

// Ask opens a session for a command that only asks AWS, and waits for nothing else. do asks, within the command's limit of time.
func (in *Invocation) Ask(ctx context.Context, command string, s config.Settings, do func(context.Context, *Session) error) error {
	run, err := in.Open(ctx, command, s)
	if err != nil {
		return err
	}
	defer run.Close()
	ctx, cancel := Bounded(ctx, s)
	defer cancel()
	return do(ctx, run)
}

// NewProgress returns the display of what a command waits for. The caller closes it.
func (in *Invocation) NewProgress(s config.Settings) *console.Progress {
	return console.NewProgress(in.Raw.Err, s.Output.Quiet).In(s.Environment, s.Colour)
}

// Access opens the way to AWS in this process, for the command with the given name.
func (in *Invocation) Access(ctx context.Context, command string, s config.Settings, p *console.Progress, o access.Options) (
	*access.Access, error,
) {
	defer p.StepIfSlow("waiting for AWS credentials")()
	o.Version, o.Logger, o.MFA = in.Version, in.Logger(s, p), in.MFA(ctx, s, p)
	o.Show = func(way *access.Access) (hide func()) {
		process := report.Process{
			V: api.LinksVersion, PID: os.Getpid(), Command: command, Version: o.Version, Region: way.Region(), Started: time.Now(),
			Environment: s.Environment,
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

// Close ends the session's way to AWS and its progress lines.
func (s *Session) Close() {
	s.Access.Close()
	s.Progress.Close()
}

// Link brings up a link whose grant is for the destinations in permit. The caller closes it.
func (s *Session) Link(ctx context.Context, permit []string) (*access.Pool, error) {
	link, err := s.Access.Pool(permit, s.Watch.State)
	if err != nil {
		return nil, err
	}
	limit := s.Settings.Bastion.StartTimeout + s.Settings.Link.ConnectTimeout
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

// LoadAWS returns the AWS configuration of a command that needs no bastion. The caller closes the progress.
func (in *Invocation) LoadAWS(ctx context.Context, s config.Settings) (aws.Config, *console.Progress, error) {
	p := in.NewProgress(s)
	defer p.StepIfSlow("waiting for AWS credentials")()
	cfg, err := awssdk.Load(ctx, awssdk.Source{
		Profile: s.AWS.Profile, Region: s.AWS.Region, MFA: in.MFA(ctx, s, p), CallTimeout: s.AWS.Timeout,
	})
	if err != nil {
		p.Close()
		return cfg, nil, err
	}
	return cfg, p, nil
}

// Connect makes a connection through a bastion, and closes it.
func (s *Session) Connect(ctx context.Context, destination string) error {
	s.Progress.Step("connecting to " + destination)
	link, err := s.Link(ctx, []string{destination})
	if err != nil {
		return err
	}
	defer func() { _ = link.Close() }()
	conn, err := link.Dial(ctx, "tcp", destination)
	if err != nil {
		return err
	}
	return conn.Close()
}

// Logger returns where the libraries log: nowhere, unless --verbose.
func (in *Invocation) Logger(s config.Settings, p *console.Progress) *slog.Logger {
	if !s.Output.Verbose {
		return slog.New(slog.DiscardHandler)
	}
	w := in.Err
	if p != nil {
		w = p // above the live line
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// callsInTime is how many calls that AWS answers just in time a command makes before it gives up.
const callsInTime = 2

// Bounded returns the context of a command that only asks AWS, and waits for nothing else.
func Bounded(ctx context.Context, s config.Settings) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, callsInTime*s.AWS.Timeout)
}
