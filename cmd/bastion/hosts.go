package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/hosts"
	"github.com/bastion-ssm/bastion/targets"
)

// hostNames are the names that --hosts gives addresses. They are in the hosts file only while bastion listens at the addresses.
// Before and after, another user's program could listen there and pose as the target.
type hostNames struct {
	file  *hosts.File // nil: without --hosts
	names map[string]netip.Addr
}

// hostsRemoval bounds the removal of names when a command ends.
const hostsRemoval = 15 * time.Second

// rootLocks is where root takes the locks of hosts files, whatever its runtime directory is.
const rootLocks = "/var/run/bastion-hosts"

// openHosts returns the hosts file of the settings, and sweeps what commands that were killed have left there.
func openHosts(ctx context.Context, s config.Settings) (*hosts.File, error) {
	locks := rootLocks
	if os.Geteuid() != 0 { // -1 on Windows
		var err error
		if locks, err = dirs.Runtime(s.Local.RuntimeDir); err != nil {
			return nil, err
		}
	}
	file := hosts.Open(s.Local.HostsFile, locks)
	// Where there is something to sweep but not the right to, nothing new can be added either, and that says it better.
	_ = file.Sweep(ctx, hosts.Alive)
	return file, context.Cause(ctx)
}

// planHosts gives each endpoint an address of its own and has the requests, which are in the endpoints' order, listen there.
// A port that the user has chosen stays. During puts the names into the hosts file once the forwards listen.
func planHosts(ctx context.Context, s config.Settings, endpoints []targets.Endpoint, items []request.Item) (*hostNames, error) {
	file, err := openHosts(ctx, s)
	if err != nil {
		return nil, err
	}
	have, err := file.Addresses()
	if err != nil {
		return nil, err
	}
	owner := make(map[netip.Addr]string) // which name has an address
	for name, addr := range have {
		owner[addr] = name
	}
	names := make(map[string]netip.Addr)
	for i, e := range endpoints {
		port, err := hostsPort(items[i].Request.Listen, e)
		if err != nil {
			return nil, err
		}
		name := strings.ToLower(strings.TrimSuffix(e.Host, "."))
		addr, known := names[name]
		if !known {
			addr, known = have[name]
		}
		switch {
		case known && addr.IsLoopback(): // another address there is for CanAdd to refuse
			err = hosts.Usable(ctx, addr, port)
		default:
			addr, err = hosts.Address(ctx, port, func(a netip.Addr) bool { return owner[a] != "" })
		}
		if err != nil {
			return nil, err
		}
		owner[addr] = name
		names[name] = addr
		items[i].Request.Listen = net.JoinHostPort(addr.String(), strconv.Itoa(port))
	}
	return &hostNames{file, names}, file.CanAdd(names)
}

// hostsPort is the port that the forward to an endpoint listens on.
func hostsPort(listen string, e targets.Endpoint) (int, error) {
	if listen == "" {
		return e.Port, nil
	}
	local, err := targets.ParseLocal(listen)
	switch {
	case err != nil:
		return 0, err
	case local.Host != "":
		return 0, fail.Usagef("leave out the address", "--hosts gives %s an address, and %s is another", e.Name, listen)
	case local.Port != 0:
		return local.Port, nil
	}
	return e.Port, nil
}

// during has the names in the hosts file while work runs. A nil *hostNames has none.
func (h *hostNames) during(ctx context.Context, work func() error) (err error) {
	if h == nil {
		return work()
	}
	block, err := h.file.Add(ctx, hosts.NewID(), h.names)
	if err != nil {
		return err
	}
	defer func() {
		// ctx may have ended: that is no reason to leave the names.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), hostsRemoval)
		defer cancel()
		err = errors.Join(err, block.Remove(end))
	}()
	return work()
}

// eachBroker replaces the MSK clusters among pairs by their brokers, for clients of Kafka need each by its name. A named target with
// settings of its own stays.
func (a *app) eachBroker(ctx context.Context, command string, s config.Settings, pairs []targets.Pair) ([]targets.Pair, error) {
	if !s.Forward.Hosts {
		return pairs, nil
	}
	var out []targets.Pair
	for _, p := range pairs {
		specs, err := a.brokersFor(ctx, command, s, p)
		if err != nil {
			return nil, err
		}
		for _, spec := range specs {
			p.Target = spec
			out = append(out, p)
		}
	}
	return out, nil
}

// brokersFor returns the brokers of a pair's MSK cluster; for another target, the target.
func (a *app) brokersFor(ctx context.Context, command string, s config.Settings, p targets.Pair) ([]targets.Spec, error) {
	same := []targets.Spec{p.Target}
	settings, err := request.SettingsOf(p, s, a.SettingsOf)
	if err != nil {
		return nil, err
	}
	spec := p.Target
	if named, ok := settings.Targets[spec.ID]; ok && spec.Kind == targets.Name {
		if named.HasOwn() {
			return same, nil
		}
		spec, _ = targets.Parse(named.Spec) // the configuration has been checked
	}
	if spec.Kind != targets.MSK {
		return same, nil
	}
	run, err := a.Open(ctx, command, settings)
	if err != nil {
		return nil, err
	}
	defer run.Close()
	run.Progress.Step("looking up the brokers of " + p.String())
	return run.Access.Brokers(ctx, p.Target)
}

// brokersOf is eachBroker for groups.
func (a *app) brokersOf(ctx context.Context, s config.Settings, groups []request.Group) ([]request.Group, error) {
	var pairs []targets.Pair
	for _, item := range request.Items(groups) {
		pairs = append(pairs, item.Pair)
	}
	all, err := a.eachBroker(ctx, "forward", s, pairs)
	if err != nil || slices.Equal(all, pairs) {
		return groups, err
	}
	return request.For(all, s, a.SettingsOf)
}

// hostsFor does for forward what exec does itself: it looks the targets up, for their names are not known otherwise.
func (a *app) hostsFor(ctx context.Context, s config.Settings, groups []request.Group) (*hostNames, error) {
	for _, item := range request.Items(groups) {
		if _, err := targets.Parse(item.Request.Target); err != nil {
			return nil, err
		}
	}
	endpoints, _, err := a.lookUp(ctx, "forward", groups, "")
	if err != nil {
		return nil, err
	}
	return planHosts(ctx, s, endpoints, request.Items(groups))
}
