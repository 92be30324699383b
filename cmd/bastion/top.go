package main

import (
	"context"
	"errors"
	"io"
	"strings"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/launch"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/topview"
)

func (a *app) topCommand() *cli.Command {
	return &cli.Command{
		Name:    "top",
		Summary: "watch the agent's forwards, links and bastions in the terminal",
		Group:   groupAgent,
		About: []cli.Passage{
			cli.Para(`Shows each second what bastion dashboard shows in the browser: forwards with their throughput, links with their SSM
				sessions, bastions with their cost so far, and the latest connections.`),
			cli.Terms("up, down, k, j", "choose a forward, a link or a bastion",
				"tab", "go to the next kind",
				"page up, page down", "turn pages",
				"s", "stop the chosen forward; asks first if it has connections, belongs to a command or is off the screen",
				"q", "end"),
			cli.Para("With -o json, or if the output is not a terminal, it prints the state once and ends."),
		},
		Examples: []string{"bastion top", "bastion top -o json | jq '.state.links[].live[].sessions'"},
		Settings: []string{config.GroupLocal, config.GroupOutput},
		Run:      a.WithLocal(a.top),
	}
}

// topOutput is the JSON output of top.
type topOutput struct {
	State    api.State     `json:"state"`
	Accounts []api.Account `json:"accounts"`
}

// top runs `bastion top`. It starts no agent: there would be nothing to see.
func (a *app) top(ctx context.Context, s config.Settings, _ []string) error {
	client, err := launch.Client(s)
	if err != nil {
		return err
	}
	if s.Output.Format == "json" || !console.IsTerminal(a.Raw.Out) || !console.CanAsk(a.In) {
		return a.topOnce(ctx, client, s)
	}
	shown, cancel := context.WithCancel(ctx)
	defer cancel()
	program := tea.NewProgram(topview.New(shown, client), tea.WithContext(shown), tea.WithInput(a.In), tea.WithOutput(a.Raw.Out),
		tea.WithAltScreen(), tea.WithoutSignalHandler())
	_, err = program.Run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// topOnce prints what there is.
func (a *app) topOnce(ctx context.Context, client *api.Client, s config.Settings) error {
	out := topOutput{
		State:    api.State{Links: []api.Link{}, Forwards: []api.Forward{}, Audit: []api.AuditEvent{}},
		Accounts: []api.Account{},
	}
	st, err := client.State(ctx)
	isRunning := !errors.Is(err, api.ErrNotRunning)
	if err != nil && isRunning {
		return err
	}
	if isRunning {
		out.State = st
		if out.Accounts, err = client.Bastions(ctx); err != nil {
			return err
		}
	}
	if s.Output.Format == "json" {
		return a.PrintJSON(out)
	}
	_, err = io.WriteString(a.Out, strings.Join(topview.Lines(out.State, out.Accounts, isRunning), "\n")+"\n")
	return err
}
