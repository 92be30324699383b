package main

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/hosts"
	"github.com/bastion-ssm/bastion/targets"
)

// hostsFile is the file that --hosts changes.
func hostsFile(s config.Settings) string {
	if s.HostsFile != "" {
		return s.HostsFile
	}
	return hosts.DefaultFile()
}

// addHosts gives each endpoint an address of its own and its name there in the hosts file, and returns where to listen, in their
// order. The caller removes the block when the listeners are closed. Blocks of processes that were killed go on the way.
func addHosts(ctx context.Context, s config.Settings, endpoints []targets.Endpoint) ([]string, *hosts.Block, error) {
	file := hostsFile(s)
	// Where there is something to sweep but not the right to, nothing new can be added either, and that says it better.
	_ = hosts.Sweep(file, hosts.Alive)
	have, err := hosts.Addresses(file)
	if err != nil {
		return nil, nil, err
	}
	owner := make(map[netip.Addr]string) // which name has an address
	for name, addr := range have {
		owner[addr] = name
	}
	names := make(map[string]netip.Addr)
	listen := make([]string, len(endpoints))
	for i, e := range endpoints {
		name := strings.ToLower(strings.TrimSuffix(e.Host, "."))
		addr, known := have[name]
		if !known || !addr.IsLoopback() { // another address there is for Add to refuse
			addr = hosts.Address(name, func(a netip.Addr) bool { return owner[a] != "" && owner[a] != name })
		}
		owner[addr] = name
		if err := hosts.Usable(ctx, addr); err != nil {
			return nil, nil, err
		}
		names[name] = addr
		listen[i] = net.JoinHostPort(addr.String(), strconv.Itoa(e.Port))
	}
	block, err := hosts.Add(file, hosts.NewID(), names)
	return listen, block, err
}
