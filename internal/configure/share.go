package configure

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/shared"
)

// describeShared says which version the shared configuration is, and how old.
func describeShared(t invocation.Shared, now time.Time) string {
	c := t.Copy
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

// SharedOutput is the shared configuration in the JSON output of config show.
type SharedOutput struct {
	Parameter string     `json:"parameter"`
	ARN       string     `json:"arn,omitempty"`
	Region    string     `json:"region,omitempty"`
	Version   int64      `json:"version,omitempty"`
	Modified  *time.Time `json:"modified,omitempty"`
	Read      *time.Time `json:"read,omitempty"`  // when AWS was asked
	Error     string     `json:"error,omitempty"` // why AWS did not answer the last time
}

// sharedOutputOf is nil for a command that needs no shared configuration.
func sharedOutputOf(t invocation.Shared, s config.Settings) *SharedOutput {
	if !t.Known {
		return nil
	}
	c := t.Copy
	out := &SharedOutput{Parameter: c.Name, ARN: c.ARN, Region: c.Region, Version: c.Version}
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
func (a *program) share(ctx context.Context, named string, o shareOptions) error {
	s, err := config.Load(config.Source{Flags: a.Line.Settings, NoFile: true})
	if err != nil {
		return err
	}
	name, err := invocation.SharedName()
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
	reader := a.SharedReader(s, name)
	old, err := reader.Read(ctx, shared.Anew)
	if err != nil {
		return err
	}
	if old.Failure != nil {
		return old.Failure.Err()
	}
	cfg, p, err := a.LoadAWS(ctx, s)
	if err != nil {
		return err
	}
	defer p.Close()
	p.Idle()
	where := name + " in " + cfg.Region
	switch {
	case o.remove && old.Text == "":
		return a.Outcome(s, map[string]any{"parameter": name, "region": cfg.Region, "removed": false}, "there is no shared configuration "+where)
	case old.Text == text:
		return a.Outcome(s, shareOutput{name, cfg.Region, old.Version, false}, "the shared configuration "+where+" is the same already")
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
		return a.Outcome(s, map[string]any{"parameter": name, "region": cfg.Region, "removed": had}, "removed the shared configuration "+where)
	}
	version, err := shared.Write(ctx, cfg, name, text)
	if err != nil {
		return err
	}
	return a.Outcome(s, shareOutput{name, cfg.Region, version, true}, fmt.Sprintf("wrote version %d of the shared configuration %s", version, where))
}

// shareOutput is the JSON output of config share.
type shareOutput struct {
	Parameter string `json:"parameter"`
	Region    string `json:"region"`
	Version   int64  `json:"version"`
	Changed   bool   `json:"changed"`
}

// sharable returns the text of a file that can be the shared configuration. It says which settings readers must trust.
func (a *program) sharable(named string) (string, error) {
	src := config.Source{File: cmp.Or(named, a.Line.ConfigFile), Flags: a.Line.Settings, Ignored: a.WarnIgnored}
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
func (a *program) askShare(ctx context.Context, o shareOptions, where string, old shared.Copy, text string) error {
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
		if err := console.Printf(a.Err, "%s\n", console.Paragraph(text)); err != nil {
			return err
		}
		if len(keys) > 0 {
			if err := console.Printf(a.Err, "bastion: people must run bastion trust before they use it, because it sets %s\n",
				strings.Join(keys, ", ")); err != nil {
				return err
			}
		}
		question = "Write this as the shared configuration " + where + "? [y/N] "
		if old.Text != "" {
			question = fmt.Sprintf("Write this over version %d of the shared configuration %s? [y/N] ", old.Version, where)
		}
	}
	cannot := fail.Usagef("add --yes", "config share asks at a terminal, and standard input is not one")
	return a.Agree(ctx, question, cannot, "not agreed; nothing was changed")
}
