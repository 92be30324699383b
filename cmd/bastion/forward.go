package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/forwarding"
	"github.com/bastion-ssm/bastion/internal/invocation"
)

func (a *app) forwardCommand() *cli.Command {
	var o forwardOptions
	return &cli.Command{
		Name:    "forward",
		Summary: "forward local ports to targets",
		Group:   groupConnect,
		Args:    "SPEC [LPORT] [SPEC [LPORT]]...", MaxArgs: cli.AnyNumber,
		About: []cli.Passage{
			cli.Para(`Listens on local ports and forwards each connection to its target through your bastion. It starts the bastion and the
				background agent if they are not running.`),
			cli.Terms("SPEC", `rds:ID, cache:ID, another KIND:ID (bastion help targets), HOST:PORT or a name from the configuration's targets.
				A bare rds means the region's only one. Trailing digits are the port: rds:orders:5433, rds:5432. ENV/SPEC is in that
				environment.`,
				"LPORT", "local port; : or 0 picks a free one (default: the target's port number)"),
			cli.Para(`One link carries all forwards. While it has no path to the bastion, connections wait and listeners stay open. At a
				terminal, without a target it offers a list to choose from.`),
			cli.Para(`The forwards end with this command. With --detach the agent keeps them until bastion stop, and opens them again when it
				restarts. With --no-agent this process has the link and the listeners.`),
			cli.Para(`Standard output has one line for each forward, LISTEN -> TARGET, once all are ready. With -o json it has one line of
				JSON, then one for each event of the link.`),
		},
		Examples: []string{
			"bastion forward rds:orders 12345 cache:sessions 16379",
			"bastion forward -d orders          # a name from bastion.yaml; stays after the command has ended",
			"bastion forward dev/orders : prod/orders :      # of two environments; prints the free ports",
		},
		Flags: append([]cli.Option{
			cli.Func("[BIND:]PORT:HOST:HOSTPORT", "forward as ssh -L does, also to rds:ID or another kind; may be repeated",
				func(v string) error { o.local = append(o.local, v); return nil }, "L"),
			forwarding.DetachFlag(&o.detach),
			cli.Text(&o.name, "NAME", "name of the forward for stop, wait and url (default: the target's name)", "name"),
			invocation.YesFlag(&o.yes),
		}, o.ready.Options()...),
		Settings: []string{config.GroupAWS, config.GroupLink, config.GroupOutput},
		Complete: func([]string) []cli.Candidate { return a.targets() },
		Run:      a.With(func(ctx context.Context, s config.Settings, args []string) error { return a.forward(ctx, s, args, o) }),
	}
}

// forwardOptions are the options of forward that are no settings.
type forwardOptions struct {
	local  []string // as ssh -L has it
	detach bool
	name   string
	ready  forwarding.ScriptOptions
	yes    bool
}

// forward runs `bastion forward`.
func (a *app) forward(ctx context.Context, s config.Settings, args []string, o forwardOptions) error {
	args, err := a.inventory().OrPick(ctx, s, len(args)+len(o.local) > 0, args)
	if err != nil {
		return err
	}
	groups, notes, err := a.Groups(ctx, "forward", s, args, o.local)
	for _, note := range notes {
		a.Note(s, "%s", note)
	}
	if err != nil {
		return err
	}
	if o.name != "" {
		if items := request.Items(groups); len(items) != 1 {
			return fail.Usagef("run bastion forward --name NAME once for each forward", "--name names one forward, and the command has %d",
				len(items))
		}
		groups[0].Requests[0].Name = o.name
	}
	if err := a.ConfirmGroups(ctx, o.yes, groups); err != nil {
		return err
	}
	p, err := o.ready.Open(o.detach)
	if err != nil {
		return err
	}
	defer p.Close()
	var names *forwarding.HostNames
	if s.Forward.Hosts {
		if o.detach {
			return fail.Usagef("leave out --detach or --hosts",
				"--detach cannot keep the names that --hosts sets: they end with the command")
		}
		if groups, err = a.BrokersOf(ctx, s, groups); err != nil {
			return err
		}
		if names, err = a.HostsFor(ctx, s, groups); err != nil {
			return err
		}
	}
	w := forwarding.Wanted{Command: "forward", Groups: groups, Named: o.name != ""}
	return a.ServeForScript(ctx, s, w, p, forwarding.Served{
		Detached: o.detach, Names: names,
		Show: func(_ context.Context, forwards []api.Forward) error { return a.printForwards(forwards, s) },
	})
}

// printForwards says on standard output where the forwards listen. In JSON it is one line, so that a reader that gets a
// line has it all while the command goes on.
func (a *app) printForwards(forwards []api.Forward, s config.Settings) error {
	if s.Output.Format == "json" {
		return a.PrintLine(map[string]any{"forwards": forwards})
	}
	var b strings.Builder
	for _, f := range forwards {
		_ = console.Printf(&b, "%s -> %s\n", f.Listen, f.Target)
	}
	_, err := fmt.Fprint(a.Out, b.String())
	return err
}
