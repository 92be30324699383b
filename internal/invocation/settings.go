package invocation

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/execenv"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/internal/shared"
	"github.com/bastion-ssm/bastion/targets"
)

// CSV is the value of the setting output that a few commands take besides the others.
const CSV = "csv"

// The groups of settings that matter to most commands.
var (
	CommonSettings  = []string{config.GroupAWS, config.GroupOutput}
	BastionSettings = []string{config.GroupAWS, config.GroupBastion, config.GroupOutput}
)

// Settings merges flags, environment and file, or the shared configuration.
func (in *Invocation) Settings(ctx context.Context, how shared.How) (config.Settings, error) {
	s, err := in.tableSettings(ctx, how)
	if err == nil && s.Output.Format == CSV {
		return s, fail.Usagef("use -o json", "the command has no output in CSV")
	}
	return s, err
}

// tableSettings are the settings of a command that can print CSV.
func (in *Invocation) tableSettings(ctx context.Context, how shared.How) (config.Settings, error) {
	src := in.Source(ctx, how)
	src.Ignored = in.WarnIgnored
	s, err := in.load(src)
	in.NoteUnread(s)
	return s, err
}

// Run is what runs a command with its settings and its arguments.
type Run = func(context.Context, config.Settings, []string) error

// With returns what runs a command with its settings and its arguments.
func (in *Invocation) With(run Run) func(context.Context, []string) error {
	return withSettings(in.Settings, shared.Usual, run)
}

// WithLocal is With for a command that asks AWS nothing: it takes the last copy of the shared configuration.
func (in *Invocation) WithLocal(run Run) func(context.Context, []string) error {
	return withSettings(in.Settings, shared.Cached, run)
}

// WithCSV is With for a command that can print CSV.
func (in *Invocation) WithCSV(run Run) func(context.Context, []string) error {
	return withSettings(in.tableSettings, shared.Usual, run)
}

func withSettings(
	settings func(context.Context, shared.How) (config.Settings, error), how shared.How, run Run,
) func(context.Context, []string) error {
	return func(ctx context.Context, args []string) error {
		s, err := settings(ctx, how)
		if err != nil {
			return err
		}
		return run(ctx, s, args)
	}
}

// AgentSettings are the settings of the agent itself. It serves every directory of the user's, so the project file of the one where
// it happens to start has no say. A service manager starts it in the home directory.
func (in *Invocation) AgentSettings() (config.Settings, error) {
	return in.load(config.Source{Flags: in.Line.Settings, File: in.Line.ConfigFile, NoProject: true, NoEnvironment: true})
}

func (in *Invocation) load(src config.Source) (config.Settings, error) {
	s, err := config.Load(src)
	if err != nil {
		return s, err
	}
	// What a target looks like is for package targets to say.
	for _, name := range slices.Sorted(maps.Keys(s.Targets)) {
		if _, err := request.Named(s.Targets[name]); err != nil {
			return s, err
		}
	}
	underSudo(&s, os.Getenv, os.Geteuid())
	in.warnOfVariables(s, os.Environ())
	return s, nil
}

// warnOfVariables names the variables that look like a setting misspelt. Others that begin alike are not ours to judge.
func (in *Invocation) warnOfVariables(settings config.Settings, environ []string) {
	const prefix = "BASTION_"
	known := []string{"CONFIG", "MFA_DEVICE", strings.TrimPrefix(shared.Variable, prefix), strings.TrimPrefix(execenv.List, prefix)}
	var given []string // prefixes of what bastion exec has set
	for name := range strings.SplitSeq(os.Getenv(execenv.List), ",") {
		if name != "" {
			given = append(given, name+"_")
		}
	}
	for _, s := range config.All() {
		known = append(known, strings.TrimPrefix(s.Env(), prefix))
	}
	for _, variable := range environ {
		full, _, _ := strings.Cut(variable, "=")
		name, ours := strings.CutPrefix(full, prefix)
		if !ours || strings.HasPrefix(name, "LAB_") || slices.Contains(known, name) ||
			slices.ContainsFunc(given, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			continue
		}
		if near := config.Nearest(name, known); near != "" {
			in.Note(settings, "the variable %s is not a setting and is ignored; did you mean %s?", full, prefix+near)
		}
	}
}

// SettingsOf is request.Load for this command line.
func (in *Invocation) SettingsOf(environment string, target config.Target) (config.Settings, error) {
	src := in.Source(context.Background(), shared.Cached) // the command has looked it up
	src.Flags, src.Target = in.flagsIn(environment), target
	s, err := config.Load(src)
	if err == nil {
		underSudo(&s, os.Getenv, os.Geteuid())
	}
	return s, err
}

// Scoped returns the settings for a forward's name or target as on the command line, and the name without its environment.
func (in *Invocation) Scoped(s config.Settings, ref string) (config.Settings, string, error) {
	environment, name := targets.CutEnvironment(ref)
	spec, err := targets.Parse(name)
	if err != nil {
		spec = targets.Spec{} // only a forward has such a name
	}
	s, err = request.SettingsOf(targets.Pair{Target: spec, Environment: environment}, s, in.SettingsOf)
	return s, name, err
}

// flagsIn returns the options of the command line with an environment in place of theirs; "": theirs.
func (in *Invocation) flagsIn(environment string) map[string]string {
	if environment == "" {
		return in.Line.Settings
	}
	flags := maps.Clone(in.Line.Settings)
	flags["environment"] = environment
	return flags
}

// sudoDir is the runtime directory of commands that root runs for another user.
const sudoDir = "/var/run/bastion-sudo"

// underSudo keeps root's files for another user (sudo -E, su -m, doas) out of that user's directories, where the user could not use
// them. It also keeps root away from the user's agent. The owner of the directories says whose they are; SUDO_UID says that root's
// own agent is not meant either.
func underSudo(s *config.Settings, getenv func(string) string, euid int) {
	if euid != 0 {
		return
	}
	uid := getenv("SUDO_UID")
	isSudo := uid != "" && uid != "0"
	if dir, err := dirs.DefaultRuntime(); s.Local.RuntimeDir == "" && (isSudo || err == nil && isForeign(dir)) {
		s.Local.NoAgent, s.Local.RuntimeDir = true, sudoDir
	}
	if s.Local.StateDir == "" && isForeign(dirs.DefaultState()) {
		s.Local.StateDir = filepath.Join(sudoDir, "state")
	}
}

func isForeign(dir string) bool { return files.IsForeign(files.CheckPlace(dir)) }
