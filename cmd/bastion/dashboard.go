package main

import (
	"context"
	"maps"
	"slices"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/launch"
	"github.com/bastion-ssm/bastion/internal/browser"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/forwarding"
	"github.com/bastion-ssm/bastion/internal/invocation"
)

// dashboardOptions are the options of dashboard that are no settings.
type dashboardOptions struct {
	listen string
	noOpen bool
	yes    bool
}

func (a *app) dashboardCommand() *cli.Command {
	var o dashboardOptions
	return &cli.Command{
		Name:    "dashboard",
		Summary: "open the agent's page in the browser, which shows, opens and closes forwards",
		Group:   groupAgent,
		About: []cli.Passage{
			cli.Para(`Prints the address of the agent's page and opens it in your browser: forwards, links with their sessions, throughput
				and round trips, bastions with their cost so far, and the latest connections. It starts the agent if it is not running.`),
			cli.Para(`The address lets in one browser, once and within a minute; run the command again for another. The page is on a loopback
				address. Forwards that are opened there use this command's settings and AWS account.`),
		},
		Examples: []string{
			"bastion dashboard",
			"bastion dashboard --no-open        # only prints the address",
			"bastion dashboard --listen 127.0.0.1:8080",
		},
		Flags: []cli.Option{
			cli.Text(&o.listen, "ADDRESS:PORT", "loopback address of the page, if it is not served yet (default: 127.0.0.1 and a free port)",
				"listen"),
			cli.Switch(&o.noOpen, "only print the address", "no-open"),
			invocation.YesFlag(&o.yes),
		},
		Settings: []string{config.GroupAWS, config.GroupLocal, config.GroupOutput},
		Run:      a.WithLocal(func(ctx context.Context, s config.Settings, _ []string) error { return a.dashboard(ctx, s, o) }),
	}
}

// dashboard runs `bastion dashboard`.
func (a *app) dashboard(ctx context.Context, s config.Settings, o dashboardOptions) error {
	if err := a.Confirm(ctx, o.yes, s); err != nil {
		return err
	}
	client, err := a.ConnectAgent(ctx, s)
	if err != nil {
		return err
	}
	req := api.DashboardRequest{Scope: invocation.AgentScope(s), Listen: o.listen}
	for _, name := range slices.Sorted(maps.Keys(s.Targets)) {
		if s.Targets[name].HasOwn() {
			continue // the page opens forwards with this command's settings
		}
		req.Targets = append(req.Targets, api.NamedTarget{Name: name, Spec: s.Targets[name].Spec, LocalPort: s.Targets[name].LocalPort})
	}
	link, err := client.Dashboard(ctx, req)
	if scope, ok := launch.WithoutEnvironment(req.Scope, err); ok {
		req.Scope = scope
		link, err = client.Dashboard(ctx, req)
	}
	if err != nil {
		return forwarding.RemoteHint(err)
	}
	if err := a.Outcome(s, link, link.URL); err != nil || o.noOpen {
		return err
	}
	if err := browser.OpenPage(ctx, link.Page); err != nil {
		a.Note(s, "no browser was started (%s): open the address within a minute", err)
	}
	return nil
}
