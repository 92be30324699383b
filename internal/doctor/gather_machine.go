package doctor

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/launch"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/hosts"
	"github.com/bastion-ssm/bastion/internal/printable"
	"github.com/bastion-ssm/bastion/internal/process"
	"github.com/bastion-ssm/bastion/internal/sshconfig"
)

// directories looks at the private directories, and at the agent in one of them.
func (g *gatherer) directories(ctx context.Context) {
	m, local := &g.facts.Machine, g.Settings.Local
	if m.Socket, m.RuntimeErr = api.SocketPath(g.Settings); m.RuntimeErr != nil {
		return
	}
	if _, m.StateErr = dirs.State(local.StateDir); m.StateErr != nil {
		return
	}
	client, err := launch.Client(g.Settings)
	if err != nil {
		m.AgentErr = err
		return
	}
	ctx, cancel := context.WithTimeout(ctx, localLimit)
	defer cancel()
	if m.Agent, m.AgentErr = client.Info(ctx); m.AgentErr == nil {
		if st, err := client.State(ctx); err == nil {
			m.State = st
		}
	}
	if errors.Is(m.AgentErr, api.ErrNotRunning) {
		_, err := os.Lstat(m.Socket)
		m.Stale = err == nil
	}
}

func (g *gatherer) openSSH(ctx context.Context) {
	m := &g.facts.Machine
	path, err := sshconfig.File("")
	if err != nil {
		m.SSHErr = err
		return
	}
	dir, err := dirs.Runtime(g.Settings.Local.RuntimeDir)
	if err != nil {
		return // machine.directories says so
	}
	ctx, cancel := context.WithTimeout(ctx, localLimit)
	defer cancel()
	m.SSH, m.SSHErr = sshconfig.Look(ctx, path, g.Program, dir)
}

func (g *gatherer) hosts() {
	m := &g.facts.Machine
	m.HostsFile = hosts.Path(g.Settings.Local.HostsFile)
	m.HostsDead, m.HostsErr = hosts.Open(g.Settings.Local.HostsFile, "").Dead(process.Alive)
	if ca := g.Settings.Forward.TLSCA; ca != "" {
		f, err := os.Open(ca)
		if err == nil {
			err = f.Close()
		}
		m.CAErr = err
	}
}

// ports tries the local ports of the target, or of all configured targets.
func (g *gatherer) ports(ctx context.Context) {
	wanted := make(map[string]int)
	for name, t := range g.Settings.Targets {
		if t.LocalPort != 0 && (g.Target == "" || g.Target == name) {
			wanted[name] = t.LocalPort
		}
	}
	if g.Target != "" && wanted[g.Target] == 0 && g.facts.Where.Endpoint.Port != 0 {
		wanted[g.Target] = g.facts.Where.Endpoint.Port
	}
	if len(wanted) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, localLimit)
	defer cancel()
	ours := forwards(g.facts.Machine.State)
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		p := Port{Number: wanted[name], For: name}
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Number)))
		if err == nil {
			_ = l.Close()
		} else {
			p.Err, p.Ours, p.By = err, ours[p.Number], listener(p.Number)
		}
		g.facts.Machine.Ports = append(g.facts.Machine.Ports, p)
	}
}

// forwards returns the names of the agent's forwards by their local ports.
func forwards(st api.State) map[int]string {
	out := make(map[int]string)
	for _, f := range st.Forwards {
		if addr, err := netip.ParseAddrPort(f.Listen); err == nil {
			out[int(addr.Port())] = f.Name
		}
	}
	return out
}

// listener returns the process that listens on a local port, where the system shows it: Linux does, for the user's own processes.
func listener(port int) string {
	if runtime.GOOS != "linux" {
		return ""
	}
	sockets := make(map[string]bool)
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) < 10 || fields[3] != "0A" { // LISTEN
				continue
			}
			_, hex, _ := strings.Cut(fields[1], ":")
			if n, err := strconv.ParseUint(hex, 16, 16); err == nil && int(n) == port {
				sockets["socket:["+fields[9]+"]"] = true
			}
		}
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is well-formed
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && sockets[to] {
			pid := strings.Split(link, "/")[2]
			name, _ := os.ReadFile("/proc/" + pid + "/comm")
			return cmp.Or(printable.Line(strings.TrimSpace(string(name))), "a program") + " (process " + pid + ")"
		}
	}
	return ""
}
