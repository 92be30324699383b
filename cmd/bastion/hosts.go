package main

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/hosts"
	"github.com/bastion-ssm/bastion/targets"
)

// addHosts gives each endpoint an address of its own and its name there in the hosts file, and has the requests, which
// are in the endpoints' order, listen there. A port that the user has chosen stays. The caller removes the block when
// the listeners are closed. Blocks of processes that were killed go on the way.
func addHosts(ctx context.Context, s config.Settings, endpoints []targets.Endpoint,
	requests []api.ForwardRequest,
) (*hosts.Block, error) {
	file := hosts.File(s.HostsFile)
	// Where there is something to sweep but not the right to, nothing new can be added either, and that says it better.
	_ = hosts.Sweep(file, hosts.Alive)
	have, err := hosts.Addresses(file)
	if err != nil {
		return nil, err
	}
	owner := make(map[netip.Addr]string) // which name has an address
	for name, addr := range have {
		owner[addr] = name
	}
	names := make(map[string]netip.Addr)
	for i, e := range endpoints {
		name := strings.ToLower(strings.TrimSuffix(e.Host, "."))
		addr, known := have[name]
		if !known || !addr.IsLoopback() { // another address there is for Add to refuse
			addr = hosts.Address(name, func(a netip.Addr) bool { return owner[a] != "" && owner[a] != name })
		}
		owner[addr] = name
		if err := hosts.Usable(ctx, addr); err != nil {
			return nil, err
		}
		names[name] = addr
		port := e.Port
		if l := requests[i].Listen; l != "" {
			local, err := targets.ParseLocal(l)
			if err != nil {
				return nil, err
			}
			if local.Host != "" {
				return nil, usage("leave the address out", "--hosts gives %s an address, and %s is another", e.Name, l)
			}
			if local.Port != 0 {
				port = local.Port
			}
		}
		requests[i].Listen = net.JoinHostPort(addr.String(), strconv.Itoa(port))
	}
	return hosts.Add(file, hosts.NewID(), names)
}

// removeHosts removes a block at the end of its command.
func (a *app) removeHosts(block *hosts.Block) {
	if err := block.Remove(); err != nil {
		printError(a.err, err)
	}
}

// hostsFor does for forward what exec does itself: it looks the targets up, for their names are not known otherwise.
func (a *app) hostsFor(ctx context.Context, s config.Settings, requests []api.ForwardRequest) (*hosts.Block, error) {
	pairs := make([]targets.Pair, len(requests))
	for i, r := range requests {
		spec, err := targets.Parse(r.Target)
		if err != nil {
			return nil, err
		}
		pairs[i].Target = spec
	}
	endpoints, _, err := a.lookUp(ctx, "forward", s, pairs)
	if err != nil {
		return nil, err
	}
	return addHosts(ctx, s, endpoints, requests)
}

// sudoDir is the runtime directory of commands that root runs for another user.
const sudoDir = "/var/run/bastion-sudo"

// underSudo keeps what root does for another user, as --hosts may want it (sudo -E), out of that user's directories,
// where the user could not use what root has made, and away from the user's agent, which root is not.
func underSudo(s *config.Settings, getenv func(string) string, euid int) {
	if uid := getenv("SUDO_UID"); euid != 0 || uid == "" || uid == "0" || s.RuntimeDir != "" {
		return
	}
	s.NoAgent, s.RuntimeDir = true, sudoDir
}
