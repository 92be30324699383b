package main

import (
	"context"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/bastion-ssm/bastion/internal/admin"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
)

// adminHost is what the commands of administrators have of the program.
func (a *app) adminHost() admin.Host {
	return admin.Host{
		In: a.in, Out: a.out, Err: a.err, Version: readVersion().Version, Given: a.line.Settings,
		Registry: func() http.RoundTripper { return a.registry },
		With:     a.with, WithCSV: a.withCSV, LoadAWS: a.loadAWS, Open: a.openForAdmin,
		PrintJSON: a.printJSON, Document: a.document, Outcome: a.outcome, Note: a.note,
	}
}

// loadAWS returns the AWS configuration of a command that needs no bastion. The caller closes the progress.
func (a *app) loadAWS(ctx context.Context, s config.Settings) (aws.Config, *console.Progress, error) {
	p := a.newProgress(s)
	defer p.StepIfSlow("waiting for AWS credentials")()
	cfg, err := awssdk.Load(ctx, awssdk.Source{
		Profile: s.AWS.Profile, Region: s.AWS.Region, MFA: a.mfaOf(ctx, s, p), CallTimeout: s.AWS.Timeout,
	})
	if err != nil {
		p.Close()
		return cfg, nil, err
	}
	return cfg, p, nil
}

// openForAdmin is open for the commands of administrators.
func (a *app) openForAdmin(ctx context.Context, command string, s config.Settings) (*admin.Session, error) {
	run, err := a.open(ctx, command, s)
	if err != nil {
		return nil, err
	}
	return &admin.Session{
		Access: run.access, Progress: run.progress, Close: run.close,
		Connect: func(ctx context.Context, destination string) error { return connect(ctx, run, destination) },
	}, nil
}

// connect makes a connection through a bastion, and closes it.
func connect(ctx context.Context, run *session, destination string) error {
	run.progress.Step("connecting to " + destination)
	link, err := run.link(ctx, []string{destination})
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
