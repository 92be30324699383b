package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/shared"
)

// team is the shared configuration of this invocation, which is looked up once.
type team struct {
	known bool
	copy  shared.Copy
	found *config.Found
	err   error
}

// source returns the source of a command's settings. how says when it asks AWS for the shared configuration.
func (a *app) source(ctx context.Context, how shared.How) config.Source {
	return config.Source{
		Flags: a.line.Settings, File: a.line.ConfigFile,
		Shared: func(s config.Settings) (*config.Found, error) {
			if !a.team.known {
				a.team = a.lookUpShared(ctx, s, how)
			}
			return a.team.found, a.team.err
		},
	}
}

// sharedName returns the name of the shared configuration's parameter; "": there is none.
func sharedName() (string, error) {
	name := cmp.Or(os.Getenv(shared.Variable), shared.Name)
	if name == shared.Off {
		return "", nil
	}
	return name, shared.CheckName(name)
}

// reader returns what reads the shared configuration of settings that have no file.
func (a *app) reader(s config.Settings, name string) shared.Reader {
	underSudo(&s, os.Getenv, os.Geteuid())
	env := awssdk.NewEnv(awssdk.RelevantEnv(os.Environ()))
	return shared.Reader{
		Name: name, Dir: cmp.Or(s.Local.StateDir, dirs.DefaultState()),
		Scope: shared.NewScope(s.AWS.Profile, s.AWS.Region, env.Credentials().AccessKeyID, env.Public()),
		AWS: func(ctx context.Context) (aws.Config, error) {
			cfg, p, err := a.loadAWS(ctx, s)
			if err == nil {
				p.Close()
			}
			return cfg, err
		},
	}
}

// lookUpShared reads the shared configuration.
func (a *app) lookUpShared(ctx context.Context, s config.Settings, how shared.How) (t team) {
	t.known = true
	name, err := sharedName()
	if err != nil || name == "" {
		t.err = err
		return t
	}
	if t.copy, t.err = a.reader(s, name).Read(ctx, how); t.copy.Text != "" {
		t.found = &config.Found{Path: config.SharedPath + name, Real: t.copy.ARN, Data: []byte(t.copy.Text)}
	}
	return t
}

// noteUnread says that a command goes on without the shared configuration. A denial is no news, because the account may have none, and
// without credentials or a region the command itself fails if it needs them.
func (a *app) noteUnread(s config.Settings) {
	if kind := fail.KindOf(s.Unread); s.Unread != nil && (kind == fail.Other || kind == fail.Timeout) {
		a.note(s, "going on without the shared configuration: %s", s.Unread)
	}
}

// describe says which version the shared configuration is, and how old.
func (t team) describe(now time.Time) string {
	c := t.copy
	kind := ""
	if c.Secure {
		kind = ", a SecureString"
	}
	text := fmt.Sprintf("version %d of %s in %s%s; AWS was asked %s ago", c.Version, c.Modified.Local().Format(time.DateTime), c.Region, kind,
		now.Sub(c.At).Round(time.Second))
	if c.Failure != nil {
		text += ", and " + now.Sub(c.Tried).Round(time.Second).String() + " ago in vain: " + c.Failure.Text
	}
	return text
}

// sharedOutput is the shared configuration in the JSON output of config show.
type sharedOutput struct {
	Parameter string     `json:"parameter"`
	ARN       string     `json:"arn,omitempty"`
	Region    string     `json:"region,omitempty"`
	Version   int64      `json:"version,omitempty"`
	Modified  *time.Time `json:"modified,omitempty"`
	Read      *time.Time `json:"read,omitempty"`  // when AWS was asked
	Error     string     `json:"error,omitempty"` // why AWS did not answer the last time
}

// output is nil for a command that needs no shared configuration.
func (t team) output(s config.Settings) *sharedOutput {
	if !t.known {
		return nil
	}
	c := t.copy
	out := &sharedOutput{Parameter: c.Name, ARN: c.ARN, Region: c.Region, Version: c.Version}
	if !c.At.IsZero() {
		out.Read = &c.At
	}
	if !c.Modified.IsZero() {
		out.Modified = &c.Modified
	}
	if c.Failure != nil {
		out.Error = c.Failure.Text
	} else if s.Unread != nil {
		out.Error = s.Unread.Error()
	}
	return out
}

// shareOptions are the options of config share that are no settings.
type shareOptions struct{ yes, remove bool }

// share runs `bastion config share`.
func (a *app) share(ctx context.Context, named string, o shareOptions) error {
	s, err := config.Load(config.Source{Flags: a.line.Settings, NoFile: true})
	if err != nil {
		return err
	}
	name, err := sharedName()
	switch {
	case err != nil:
		return err
	case name == "":
		return fail.Usagef("unset it, or set a parameter's name", "%s is %s: there is no parameter to write", shared.Variable, shared.Off)
	case o.remove && named != "":
		return fail.Usagef("give a file, or --remove", "config share: a file and --remove exclude each other")
	}
	var text string
	if !o.remove {
		if text, err = a.sharable(named); err != nil {
			return err
		}
	}
	reader := a.reader(s, name)
	old, err := reader.Read(ctx, shared.Anew)
	if err != nil {
		return err
	}
	if old.Failure != nil {
		return old.Failure.Err()
	}
	cfg, p, err := a.loadAWS(ctx, s)
	if err != nil {
		return err
	}
	defer p.Close()
	p.Idle()
	where := name + " in " + cfg.Region
	switch {
	case o.remove && old.Text == "":
		return a.outcome(s, map[string]any{"parameter": name, "region": cfg.Region, "removed": false}, "there is no shared configuration "+where)
	case old.Text == text:
		return a.outcome(s, shareOutput{name, cfg.Region, old.Version, false}, "the shared configuration "+where+" is the same already")
	case old.Secure && !o.remove:
		return fail.New(fail.Usage, "write the shared configuration "+where, fmt.Errorf("it is a SecureString, which bastion reads but does not write"),
			"write it with aws ssm put-parameter --overwrite, or remove it first with bastion config share --remove")
	}
	if err := a.askShare(ctx, o, where, old, text); err != nil {
		return err
	}
	defer func() { _ = reader.Forget() }() // at worst it is old for a quarter of an hour
	if o.remove {
		had, err := shared.Remove(ctx, cfg, name)
		if err != nil {
			return err
		}
		return a.outcome(s, map[string]any{"parameter": name, "region": cfg.Region, "removed": had}, "removed the shared configuration "+where)
	}
	version, err := shared.Write(ctx, cfg, name, text)
	if err != nil {
		return err
	}
	return a.outcome(s, shareOutput{name, cfg.Region, version, true}, fmt.Sprintf("wrote version %d of the shared configuration %s", version, where))
}

// shareOutput is the JSON output of config share.
type shareOutput struct {
	Parameter string `json:"parameter"`
	Region    string `json:"region"`
	Version   int64  `json:"version"`
	Changed   bool   `json:"changed"`
}

// sharable returns the text of a file that can be the shared configuration. It says which settings readers must trust.
func (a *app) sharable(named string) (string, error) {
	src := config.Source{File: cmp.Or(named, a.line.ConfigFile), Flags: a.line.Settings, Ignored: a.warnIgnored}
	path, problems, err := src.Check(checkNamed)
	switch {
	case err != nil:
		return "", err
	case path == "":
		return "", fail.Usagef("name it: bastion config share FILE", "config share: there is no configuration file here")
	case len(problems) > 0:
		return "", fail.New(fail.Usage, problems[0].Where, fmt.Errorf("%s", problems[0].Message), "bastion config check prints all errors of the file")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fail.New(fail.Usage, "read the configuration", err, "")
	}
	if len(data) > shared.MaxText {
		return "", fail.Usagef("leave comments out, or what only some people need",
			"%s has %d bytes, and a shared configuration at most %d", path, len(data), shared.MaxText)
	}
	file, err := config.Parse(path, data)
	if err == nil {
		err = file.CheckShared()
	}
	if err != nil {
		return "", fail.New(fail.Usage, "", err, "leave it out: everybody sets it themselves")
	}
	return string(data), nil
}

// askShare shows what will be shared, and asks. Anything but yes is an error.
func (a *app) askShare(ctx context.Context, o shareOptions, where string, old shared.Copy, text string) error {
	if o.yes {
		return nil
	}
	question := "Remove the shared configuration " + where + "? [y/N] "
	if !o.remove {
		file, err := config.Parse(where, []byte(text))
		if err != nil {
			return err
		}
		var keys []string
		for _, g := range file.Given() {
			if g.NeedsTrust() {
				keys = append(keys, g.Key())
			}
		}
		if err := console.Printf(a.err, "%s\n", console.Paragraph(text)); err != nil {
			return err
		}
		if len(keys) > 0 {
			if err := console.Printf(a.err, "bastion: people must run bastion trust before they use it, because it sets %s\n",
				strings.Join(keys, ", ")); err != nil {
				return err
			}
		}
		question = "Write this as the shared configuration " + where + "? [y/N] "
		if old.Text != "" {
			question = fmt.Sprintf("Write this over version %d of the shared configuration %s? [y/N] ", old.Version, where)
		}
	}
	if !console.CanAsk(a.in) {
		return fail.Usagef("add --yes", "config share asks at a terminal, and standard input is not one")
	}
	agreed, err := console.Confirm(ctx, a.in, a.err, question)
	if err == nil && !agreed {
		err = fail.New(fail.Other, "", fmt.Errorf("not agreed; nothing was changed"), "")
	}
	return err
}

// flagsIn returns the options of the command line with an environment in place of theirs; "": theirs.
func (a *app) flagsIn(environment string) map[string]string {
	if environment == "" {
		return a.line.Settings
	}
	flags := maps.Clone(a.line.Settings)
	flags["environment"] = environment
	return flags
}
