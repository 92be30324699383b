package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/process"
)

// dashboardOptions are the options of dashboard that are no settings.
type dashboardOptions struct {
	listen string
	noOpen bool
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
		},
		Settings: []string{config.GroupAWS, config.GroupLocal, config.GroupOutput},
		Run:      func(ctx context.Context, _ []string) error { return a.dashboard(ctx, o) },
	}
}

// dashboard runs `bastion dashboard`.
func (a *app) dashboard(ctx context.Context, o dashboardOptions) error {
	s, err := a.settings()
	if err != nil {
		return err
	}
	client, err := a.connectAgent(ctx, s)
	if err != nil {
		return err
	}
	req := api.DashboardRequest{Scope: a.scope(s), Listen: o.listen}
	for name, t := range s.Targets {
		req.Targets = append(req.Targets, api.NamedTarget{Name: name, Spec: t.Spec, LocalPort: t.LocalPort})
	}
	slices.SortFunc(req.Targets, func(x, y api.NamedTarget) int { return strings.Compare(x.Name, y.Name) })
	link, err := client.Dashboard(ctx, req)
	if err != nil {
		return remoteHint(err)
	}
	if s.Output.Format == "json" {
		err = a.printJSON(link)
	} else {
		_, err = fmt.Fprintln(a.out, link.URL)
	}
	if err != nil || o.noOpen {
		return err
	}
	if err := openPage(ctx, link); err != nil && !s.Output.Quiet {
		_ = console.Printf(a.err, "bastion: no browser was started (%s): open the address within a minute\n", err)
	}
	return nil
}

// openerPatience is how long a program that opens pages may take to fail. Most have handed on the page by then; some
// stay for as long as the browser does.
const openerPatience = 2 * time.Second

// openPage opens the dashboard in the user's browser. The address is good for whoever has it first, and every user of
// the machine can read command lines: the browser gets a file's name instead, which only the user can read.
func openPage(ctx context.Context, link api.Dashboard) error {
	if runtime.GOOS == "linux" && os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "" &&
		os.Getenv("BROWSER") == "" {
		return errors.New("this session has no display")
	}
	if link.Page == "" {
		return errors.New("the page with the address could not be written")
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "xdg-open", link.Page)
	switch runtime.GOOS {
	case "darwin":
		cmd = exec.CommandContext(context.WithoutCancel(ctx), "open", link.Page)
	case "windows":
		cmd = exec.CommandContext(context.WithoutCancel(ctx), "rundll32", "url.dll,FileProtocolHandler", link.Page)
	}
	process.Detach(cmd) // Ctrl-C is for the command, not for the browser
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // if it stays, it ends after this process
	t := time.NewTimer(openerPatience)
	defer t.Stop()
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("%s: %w", cmd.Args[0], err)
		}
	case <-t.C:
	case <-ctx.Done():
	}
	return nil
}
