package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/bastion-ssm/bastion/lab/gateway"
)

// HostRunner runs containers as plain processes of this machine, in its network: every port of a task is one of the
// machine's loopback ports. It is the default, and needs no privileges.
type HostRunner struct {
	// Programs maps paths in the image to programs of this machine: {"/bastiond": "/usr/local/bin/bastiond"}.
	Programs map[string]string
	// AllowHostExec lets ECS Exec run any command of this machine. Otherwise it runs only the Programs, because the bastion's image
	// holds nothing else.
	AllowHostExec bool
}

// Start implements Runner.
func (r *HostRunner) Start(_ context.Context, spec ContainerSpec) (Container, error) {
	if len(spec.Command) == 0 {
		return nil, errors.New("the container definition has no command")
	}
	program, ok := r.Programs[spec.Command[0]]
	if !ok || program == "" {
		return nil, fmt.Errorf("exec: %q: the lab has no program for this path of the image", spec.Command[0])
	}
	c := &hostContainer{runner: r, mapped: map[string]bool{}}
	env := map[string]string{
		"PATH": os.Getenv("PATH"),
		"HOME": spec.Dir,
		// Tasks share the machine's ports and file system, so the defaults would collide.
		"BASTIOND_LISTEN":      "localhost:0",
		"BASTIOND_BOND_LISTEN": "localhost:0",
		"BASTIOND_SOCKET":      filepath.Join(spec.Dir, "s"),
		"BASTIOND_CGROUP":      filepath.Join(spec.Dir, cgroupDir),
	}
	if root := os.Getenv("SYSTEMROOT"); root != "" { // without it Windows programs have no sockets
		env["SYSTEMROOT"] = root
	}
	maps.Copy(env, spec.Endpoints)
	maps.Copy(env, spec.Env)
	for port, name := range bastiondPorts {
		_, set := spec.Env[name]
		c.mapped[port] = !set
	}
	c.env, c.socket = environ(env), env["BASTIOND_SOCKET"]

	cmd := exec.Command(program, spec.Command[1:]...)
	cmd.Env, cmd.Dir = c.env, spec.Dir
	cmd.Stdout, cmd.Stderr = spec.Stdout, spec.Stderr
	cmd.WaitDelay = time.Second // a grandchild may hold the pipes open
	cmd.SysProcAttr = childAttributes()
	var err error
	if c.program, err = startProgram(cmd); err != nil {
		return nil, err
	}
	return c, nil
}

// bastiondPorts are bastiond's ports in a real task, each with the variable that sets it.
var bastiondPorts = map[string]string{"2222": "BASTIOND_LISTEN", "2223": "BASTIOND_BOND_LISTEN"}

type hostContainer struct {
	*program
	runner *HostRunner
	env    []string
	socket string          // of bastiond
	mapped map[string]bool // bastiondPorts that stand for bastiond's actual ports
}

// startProgram starts cmd on an OS thread that lives as long as the process. Linux sends the parent-death signal at the end of the
// thread that made a child, not at the end of its process.
func startProgram(cmd *exec.Cmd) (*program, error) {
	p := &program{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.wait(func() {})
		}
	}()
	return p, <-started
}

func (c *hostContainer) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err == nil && c.mapped[port] {
		if port, err = c.portOf(ctx, port); err != nil {
			return nil, fmt.Errorf("dial %s: %w", addr, err)
		}
		addr = net.JoinHostPort(host, port)
	}
	return dialLoopback(ctx, network, addr)
}

// portOf asks bastiond for its machine port that stands for a port of the task.
func (c *hostContainer) portOf(ctx context.Context, port string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.socket)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var reply struct {
		Health struct {
			Port     int `json:"port"`
			BondPort int `json:"bond_port"`
		} `json:"health"`
	}
	if _, err := fmt.Fprintln(conn, `{"op":"health"}`); err != nil {
		return "", err
	}
	if err := json.NewDecoder(conn).Decode(&reply); err != nil {
		return "", err
	}
	got := reply.Health.Port
	if bastiondPorts[port] == "BASTIOND_BOND_LISTEN" {
		got = reply.Health.BondPort
	}
	if got == 0 {
		return "", syscall.ECONNREFUSED
	}
	return strconv.Itoa(got), nil
}

func (c *hostContainer) Exec(_ context.Context, argv []string) (gateway.Process, error) {
	if len(argv) == 0 {
		argv = []string{"/bin/sh"}
	}
	program, ok := c.runner.Programs[argv[0]]
	if !ok && !c.runner.AllowHostExec {
		return nil, &exec.Error{Name: argv[0], Err: exec.ErrNotFound}
	}
	if !ok {
		program = argv[0]
	}
	cmd := exec.Command(program, argv[1:]...)
	cmd.Env = append(slices.Clone(c.env), "TERM=xterm")
	cmd.Dir = c.cmd.Dir
	return gateway.ExecProcess(cmd)
}

// dialLoopback connects only to addresses of this machine, because nothing of the lab may leave it.
func dialLoopback(ctx context.Context, network, addr string) (net.Conn, error) {
	hosts, port, err := hostsOf(addr)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	for _, h := range hosts {
		ip, perr := netip.ParseAddr(h)
		if perr != nil || !ip.Unmap().IsLoopback() {
			return nil, fmt.Errorf("dial %s: the lab connects to loopback addresses only", addr)
		}
		var conn net.Conn
		if conn, err = d.DialContext(ctx, network, net.JoinHostPort(h, port)); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// hostsOf splits an address. "localhost" is ::1 or 127.0.0.1, in this order.
func hostsOf(addr string) (hosts []string, port string, err error) {
	host, port, err := net.SplitHostPort(addr)
	if host == "localhost" || host == "" {
		return []string{"::1", "127.0.0.1"}, port, err
	}
	return []string{host}, port, err
}

// environ returns a map as an environment, sorted.
func environ(m map[string]string) []string {
	env := make([]string, 0, len(m))
	for k, v := range m {
		env = append(env, k+"="+v)
	}
	slices.Sort(env)
	return env
}
