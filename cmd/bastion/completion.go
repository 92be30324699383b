package main

import (
	"context"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/configure"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/shared"
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
		var out []cli.Candidate
		for _, name := range awssdk.Profiles() {
			out = append(out, cli.Candidate{Value: name, Help: "AWS profile"})
		}
		return out
	}
	return nil
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
