package main

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/configure"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/pattern"
	"github.com/bastion-ssm/bastion/internal/shared"
	"github.com/bastion-ssm/bastion/targets"
)

func (a *app) completionCommand() *cli.Command {
	return &cli.Command{
		Name:    "completion",
		Summary: "print a completion script for a shell",
		Group:   groupOther,
		Args:    strings.Join(cli.Shells, "|"), MinArgs: 1, MaxArgs: 1,
		About: []cli.Passage{cli.Para("Prints a script that completes commands, options, target names and the agent's forwards.")},
		Examples: []string{
			"source <(bastion completion bash)",
			"bastion completion fish > ~/.config/fish/completions/bastion.fish",
			"bastion completion powershell | Out-String | Invoke-Expression",
		},
		Run: a.completion,
		Complete: func(args []string) []cli.Candidate {
			if len(args) > 0 {
				return nil
			}
			return cli.Words(cli.Shells...)
		},
	}
}

func (a *app) completion(_ context.Context, args []string) error {
	script, ok := a.Line.CompletionScript(args[0])
	if !ok {
		return fail.Usagef("choose one of: "+strings.Join(cli.Shells, ", "), "completion: unknown shell %q", args[0])
	}
	return a.Document("script", script)
}

// settingChoices are the values of a setting that are worth listing.
func (a *app) settingChoices(key string) []cli.Candidate {
	switch key {
	case "environment":
		return configure.Environments(a.Invocation)
	case "output":
		return []cli.Candidate{{Value: "text", Help: ""}, {Value: "json", Help: ""}, {Value: invocation.CSV, Help: "of audit and cost"}}
	case "sessions":
		return []cli.Candidate{{Value: "1", Help: "one session only"}, {Value: "4", Help: ""}, {Value: "8", Help: "the default"}, {Value: "16", Help: "the most"}}
	case "profile":
		return awsProfiles()
	}
	return nil
}

// profileLine is the beginning of a profile in the AWS configuration. Its name may have quotes.
var profileLine = pattern.Lazy(`(?m)^\[[ \t]*(?:profile[ \t]+)?"?([^]" \t]+)"?[ \t]*\]`)

// awsProfiles returns the profiles of the AWS configuration.
func awsProfiles() []cli.Candidate {
	home, err := os.UserHomeDir()
	if err != nil {
		return nil
	}
	var names []string
	for variable, file := range map[string]string{
		"AWS_CONFIG_FILE":             "config",
		"AWS_SHARED_CREDENTIALS_FILE": "credentials",
	} {
		data, err := os.ReadFile(cmp.Or(os.Getenv(variable), filepath.Join(home, ".aws", file)))
		if err != nil {
			continue
		}
		for _, m := range profileLine().FindAllStringSubmatch(string(data), -1) {
			names = append(names, m[1])
		}
	}
	slices.Sort(names)
	var out []cli.Candidate
	for _, name := range slices.Compact(names) {
		out = append(out, cli.Candidate{Value: name, Help: "AWS profile"})
	}
	return out
}

// targetCandidates are the names of the configuration, the targets of kept lists, and what begins the other specs: of all kinds, or of
// those that only accepts. Those of other environments have their names in front.
func (a *app) targetCandidates(only ...func(targets.Description) bool) []cli.Candidate {
	keep := func(d targets.Description) bool { return len(only) == 0 || only[0](d) }
	var out []cli.Candidate
	for _, d := range targets.Kinds() {
		if keep(d) {
			out = append(out, cli.Candidate{Value: d.Prefix + ":", Help: d.Help})
		}
	}
	s, err := config.Load(a.Source(context.Background(), shared.Cached))
	if err != nil {
		return out
	}
	out = append(a.knownTargets(s, keep), out...)
	for _, name := range s.Environments {
		other, err := a.SettingsOf(name, config.Target{})
		if err != nil || name == s.Environment {
			continue
		}
		for _, c := range a.knownTargets(other, keep) {
			out = append(out, cli.Candidate{Value: targets.InEnvironment(name, c.Value), Help: c.Help})
		}
	}
	return out
}

// everyTarget is targetCandidates of all kinds.
func (a *app) everyTarget() []cli.Candidate { return a.targetCandidates() }

// knownTargets are the names of the configuration and the targets of the kept list.
func (a *app) knownTargets(s config.Settings, keep func(targets.Description) bool) []cli.Candidate {
	var names []cli.Candidate
	for name, t := range s.Targets {
		names = append(names, cli.Candidate{Value: name, Help: t.Spec})
	}
	slices.SortFunc(names, func(x, y cli.Candidate) int { return strings.Compare(x.Value, y.Value) })
	return append(names, a.keptTargets(s, keep)...)
}

// completionWait bounds the question to the agent: who presses TAB waits for the answer.
const completionWait = 200 * time.Millisecond

// forwardCandidates are the agent's forwards. An agent that does not run has none, and is not started.
func (a *app) forwardCandidates() []cli.Candidate {
	s, err := config.Load(a.Source(context.Background(), shared.Cached))
	if err != nil {
		return nil
	}
	path, err := api.SocketPath(s)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), completionWait)
	defer cancel()
	st, err := api.NewClient(path).State(ctx)
	if err != nil {
		return nil
	}
	var out []cli.Candidate
	for _, f := range st.Forwards {
		out = append(out, cli.Candidate{Value: f.Name, Help: f.Listen})
	}
	return out
}
