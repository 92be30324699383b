package forwarding

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/hosts"
	"github.com/bastion-ssm/bastion/internal/process"
	"github.com/bastion-ssm/bastion/targets"
)

// HostNames are the names that --hosts gives addresses. They are in the hosts file only while bastion listens at the addresses.
// Before and after, another user's program could listen there and pose as the target.
type HostNames struct {
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
	_ = file.Sweep(ctx, process.Alive)
	return file, context.Cause(ctx)
}

// PlanHosts gives each endpoint an address of its own and has the requests, which are in the endpoints' order, listen there.
// A port that the user has chosen stays. During puts the names into the hosts file once the forwards listen.
func PlanHosts(ctx context.Context, s config.Settings, endpoints []targets.Endpoint, items []request.Item) (*HostNames, error) {
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
	return &HostNames{file, names}, file.CanAdd(names)
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

// During has the names in the hosts file while work runs. A nil *HostNames has none.
func (h *HostNames) During(ctx context.Context, work func() error) (err error) {
	if h == nil {
		return work()
	}
	block, err := h.file.Add(ctx, process.NewID(), h.names)
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

// HostsFor does for forward what exec does itself: it looks the targets up, for their names are not known otherwise.
func (a *Forwarder) HostsFor(ctx context.Context, s config.Settings, groups []request.Group) (*HostNames, error) {
	for _, item := range request.Items(groups) {
		if _, err := targets.Parse(item.Request.Target); err != nil {
			return nil, err
		}
	}
	endpoints, _, err := a.LookUp(ctx, "forward", groups, "")
	if err != nil {
		return nil, err
	}
	return PlanHosts(ctx, s, endpoints, request.Items(groups))
}
