package configure

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/shared"
)

// trustOptions are the options of trust that are no settings.
type trustOptions struct{ yes, list, remove bool }

func (a *program) trustCommand() *cli.Command {
	var o trustOptions
	return &cli.Command{
		Name:    "trust",
		Summary: "show the settings of a bastion.yaml, and trust it",
		Args:    "[FILE|DIRECTORY]", MaxArgs: 1,
		About: []cli.Passage{
			cli.Para(`A bastion.yaml in the working directory or above it has the settings that a team shares: region, cluster, targets,
				sizes. bastion takes settings from it that run a program, name a file, choose an identity or say what AWS executes only
				after you have trusted it.`),
			cli.Para(`This command shows the settings, asks, and records the file's path and SHA-256: an edit ends the trust. Without an
				argument it takes the file that commands would find.`),
		},
		Examples: []string{"bastion trust", "bastion trust ~/src/shop/bastion.yaml --yes", "bastion trust --list"},
		Flags: []cli.Option{
			cli.Switch(&o.yes, "agree without a question, for scripts", "yes", "y"),
			cli.Switch(&o.list, "print the files that you trust", "list"),
			cli.Switch(&o.remove, "end the trust in the file", "remove"),
		},
		Settings: []string{config.GroupOutput},
		Run:      func(ctx context.Context, args []string) error { return a.trust(ctx, cli.Optional(args), o) },
	}
}

// trust runs `bastion trust`. It takes no settings from the file, which is its subject.
func (a *program) trust(ctx context.Context, named string, o trustOptions) error {
	src := config.Source{Flags: a.Line.Settings, NoFile: true}
	s, err := config.Load(src)
	if err != nil {
		return err
	}
	switch {
	case o.list && (o.remove || o.yes || named != ""), o.remove && o.yes:
		return fail.Usagef("give --list, or --remove, or --yes", "trust: these options exclude each other")
	case o.list:
		return a.listTrusted(src.Store(), s)
	case o.remove:
		return a.distrust(ctx, named, src.Store(), s)
	}
	return a.trustFile(ctx, named, src.Store(), s, o.yes)
}

// TrustOutput is the JSON output of trust.
type TrustOutput struct {
	File     string            `json:"file"`
	SHA256   string            `json:"sha256"`
	Trusted  bool              `json:"trusted"`
	Settings []trustSetting    `json:"settings"`
	Targets  map[string]string `json:"targets,omitempty"`
}

type trustSetting struct {
	Key        string `json:"key"` // within environments and targets with their names: environments.prod.profile
	Value      string `json:"value"`
	Where      string `json:"where"`       // file:line:column
	NeedsTrust bool   `json:"needs_trust"` // it is not taken from the file without

	setting *config.Setting
}

func (a *program) trustFile(ctx context.Context, named string, store config.Store, s config.Settings, yes bool) error {
	found, err := a.trustable(ctx, named)
	if err != nil {
		return err
	}
	file, err := config.Parse(found.Path, found.Data)
	if err == nil && found.Shared {
		err = file.CheckShared()
	}
	if err != nil {
		return fail.New(fail.Usage, "", err, "docs/configuration.md lists every key; bastion help settings does too")
	}
	out := TrustOutput{File: found.Real, SHA256: found.Sum(), Settings: []trustSetting{}, Targets: map[string]string{}}
	needed := false
	for _, g := range file.Given() {
		out.Settings = append(out.Settings, trustSetting{g.Key(), g.Text, g.Where, g.NeedsTrust(), g.Setting})
		needed = needed || g.NeedsTrust()
	}
	for name, t := range file.Targets {
		out.Targets[name] = t.Spec
	}
	for _, env := range file.Environments {
		for name, t := range env.Targets {
			out.Targets[env.Name+"/"+name] = t.Spec
		}
	}
	isJSON := s.Output.Format == "json"
	shown := a.Out
	if isJSON {
		shown = a.Err
	}
	if err := out.show(shown); err != nil {
		return err
	}
	if needed {
		if !yes {
			if err := a.askTrust(ctx, out.question()); err != nil {
				return err
			}
		}
		if err := store.Add(ctx, found, time.Now()); err != nil {
			return err
		}
		out.Trusted = true
	}
	switch {
	case isJSON:
		return a.PrintJSON(out)
	case needed:
		_, err = fmt.Fprintln(a.Out, "trusted as it is now; an edit ends that")
	default:
		_, err = fmt.Fprintln(a.Out, "this needs no trust, and none was recorded")
	}
	return err
}

// show prints what the file wants, and last what needs trust: a file of thousands of targets must not push that off the screen.
// Quoting keeps its text from drawing on the terminal.
func (o TrustOutput) show(w io.Writer) error {
	var b strings.Builder
	_ = console.Printf(&b, "%q, SHA-256 %s\n", o.File, o.SHA256)
	title := "Targets:\n"
	for _, name := range slices.Sorted(maps.Keys(o.Targets)) {
		b.WriteString(title)
		_ = console.Printf(&b, "  %s = %q\n", name, o.Targets[name])
		title = ""
	}
	for _, part := range []struct {
		title string
		needs bool
	}{{"Settings that every project file may give:", false}, {"Settings that it may give only with your trust:", true}} {
		title := part.title + "\n"
		for _, s := range o.Settings {
			if s.NeedsTrust == part.needs {
				b.WriteString(title)
				_ = console.Printf(&b, "  %s = %q\n      %s\n", s.Key, s.Value, s.setting.Help)
				title = ""
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// question names the settings that take trust again: the value of one may fill the screen. The names are bastion's own.
func (o TrustOutput) question() string {
	var keys []string
	for _, s := range o.Settings {
		if s.NeedsTrust {
			keys = append(keys, s.Key)
		}
	}
	return "Trust this file as it is now, and let it set " + strings.Join(keys, ", ") + "? [y/N] "
}

// askTrust asks at the terminal. Anything but yes is an error.
func (a *program) askTrust(ctx context.Context, question string) error {
	cannot := fail.Usagef("read the settings above and add --yes", "trust asks at a terminal, and standard input is not one")
	return a.Agree(ctx, question, cannot, "not trusted; nothing was recorded")
}

// trustable returns the file that is named, or what commands in the working directory would use: a project file, or the shared
// configuration.
func (a *program) trustable(ctx context.Context, named string) (*config.Found, error) {
	if named == "" {
		project, err := config.FindProject(a.WarnIgnored)
		if err != nil || project != nil {
			return project, err
		}
		if found, err := a.Source(ctx, shared.Anew).FindShared(); err != nil || found != nil {
			return found, err
		}
	}
	return projectFile(named, a.WarnIgnored)
}

// projectFile returns the file that is named, or the one that commands in the working directory would find.
func projectFile(named string, ignored func(error)) (*config.Found, error) {
	if named != "" {
		path := projectPath(named)
		if filepath.Base(path) != config.FileName {
			return nil, fail.Usagef("name it with --config, which trusts it", "%q is not found by its place: only a %s is", named, config.FileName)
		}
		return config.OpenProject(path)
	}
	found, err := config.FindProject(ignored)
	if err == nil && found == nil {
		err = fail.Usagef("name the file: bastion trust FILE", "no directory from here up has a %s that commands would use", config.FileName)
	}
	return found, err
}

// projectPath is the file in a directory, or else the file itself.
func projectPath(named string) string {
	if info, err := os.Stat(named); err == nil && info.IsDir() {
		return filepath.Join(named, config.FileName)
	}
	return named
}

func (a *program) listTrusted(store config.Store, s config.Settings) error {
	records, err := store.List()
	if err != nil {
		return err
	}
	if s.Output.Format == "json" {
		return a.PrintJSON(map[string]any{"trusted": append([]config.Record{}, records...)})
	}
	for _, r := range records {
		if err := console.Printf(a.Out, "%s  %s  %q\n", r.At.Local().Format(time.DateTime), r.SHA256, r.Path); err != nil {
			return err
		}
	}
	return nil
}

// distrust removes a record. The file may be gone.
func (a *program) distrust(ctx context.Context, named string, store config.Store, s config.Settings) error {
	var path string
	switch {
	case strings.HasPrefix(named, "arn:"): // a shared configuration, which may be gone
		path = named
	case named != "":
		abs, err := filepath.Abs(projectPath(named))
		if err != nil {
			return err
		}
		path = abs
		if resolved, err := filepath.EvalSymlinks(abs); err == nil {
			path = resolved
		}
	default:
		found, err := a.trustable(ctx, "")
		if err != nil {
			return err
		}
		path = found.Real
	}
	had, err := store.Remove(ctx, path)
	if err != nil {
		return err
	}
	verb := "was not trusted"
	if had {
		verb = "is no longer trusted"
	}
	return a.Outcome(s, map[string]any{"file": path, "removed": had}, fmt.Sprintf("%q %s", path, verb))
}
