package invocation

import (
	"cmp"
	"context"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/shared"
)

// Shared is the shared configuration of an invocation, which is looked up once.
type Shared struct {
	Known bool // it has been looked up
	Copy  shared.Copy
	Found *config.Found // nil: there is none
	err   error
}

// Source returns the source of a command's settings. how says when it asks AWS for the shared configuration.
func (in *Invocation) Source(ctx context.Context, how shared.How) config.Source {
	return config.Source{
		Flags: in.Line.Settings, File: in.Line.ConfigFile,
		Shared: func(s config.Settings) (*config.Found, error) {
			if !in.Shared.Known {
				in.Shared = in.lookUpShared(ctx, s, how)
			}
			return in.Shared.Found, in.Shared.err
		},
	}
}

// SharedName returns the name of the shared configuration's parameter; "": there is none.
func SharedName() (string, error) {
	name := cmp.Or(os.Getenv(shared.Variable), shared.Name)
	if name == shared.Off {
		return "", nil
	}
	return name, shared.CheckName(name)
}

// SharedReader returns what reads the shared configuration of settings that have no file.
func (in *Invocation) SharedReader(s config.Settings, name string) shared.Reader {
	underSudo(&s, os.Getenv, os.Geteuid())
	env := awssdk.NewEnv(awssdk.RelevantEnv(os.Environ()))
	return shared.Reader{
		Name: name, Dir: cmp.Or(s.Local.StateDir, dirs.DefaultState()),
		Scope: shared.NewScope(s.AWS.Profile, s.AWS.Region, env.Credentials().AccessKeyID, env.Public()),
		AWS: func(ctx context.Context) (aws.Config, error) {
			cfg, p, err := in.LoadAWS(ctx, s)
			if err == nil {
				p.Close()
			}
			return cfg, err
		},
	}
}

// lookUpShared reads the shared configuration.
func (in *Invocation) lookUpShared(ctx context.Context, s config.Settings, how shared.How) (t Shared) {
	t.Known = true
	name, err := SharedName()
	if err != nil || name == "" {
		t.err = err
		return t
	}
	if t.Copy, t.err = in.SharedReader(s, name).Read(ctx, how); t.Copy.Text != "" {
		t.Found = &config.Found{Path: config.SharedPath + name, Real: t.Copy.ARN, Data: []byte(t.Copy.Text)}
	}
	return t
}

// NoteUnread says that a command goes on without the shared configuration. A denial is no news, because the account may have none, and
// without credentials or a region the command itself fails if it needs them.
func (in *Invocation) NoteUnread(s config.Settings) {
	if kind := fail.KindOf(s.Unread); s.Unread != nil && (kind == fail.Other || kind == fail.Timeout) {
		in.Note(s, "going on without the shared configuration: %s", s.Unread)
	}
}

// WarnIgnored says why a file that was found is not used. It is said in quiet commands too: the file may be the user's own.
func (in *Invocation) WarnIgnored(err error) {
	_ = console.Printf(in.Err, "bastion: %v; %s\n", err, fail.NextOf(err))
}
