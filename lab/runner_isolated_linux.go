package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bastion-ssm/bastion/lab/gateway"
)

// IsolatedRunner runs containers as a container engine does, but without one. They run in an image's root file system, with
// network, process, mount, host name and IPC namespaces of their own, with the capabilities that an engine leaves them. It needs root. A
// container reaches only itself, unless VPC links it to a network namespace of the caller.
type IsolatedRunner struct {
	// Root is the directory with the image's root file system. Each container gets a copy of it.
	Root string
	// Env is added to the environment of the containers, and wins over it.
	Env map[string]string
	// UID and GID are the user of the image.
	UID, GID uint32
	// VPC links the containers to a network; nil: no link.
	VPC *VPCLink
	// Endpoints lets the containers reach AWS's endpoints, at the addresses that these have on the machine's loopback.
	Endpoints bool

	mu       sync.Mutex
	launched int
}

// VPCLink links containers to a network namespace that stands for the VPC. Each has a pair of virtual Ethernet devices with a /30
// network of its own, through which it reaches every address of that namespace.
type VPCLink struct {
	Netns string       // name of the namespace, made by `ip netns add`
	Pool  netip.Prefix // IPv4 addresses for the /30 networks; none may be in use
}

// isolatedContainer is a container and the thread that its process depends on.
type isolatedContainer struct {
	*program // PID 1, with which all of the container ends
	runner   *IsolatedRunner
	root     string // its copy of the root file system
	env      []string
	drop     []string // the capabilities that it drops
	netns    *os.File // its network namespace

	endpoints map[string]string // variables; nil: it reaches none
	ways      *endpointWays
}

// Start implements Runner.
func (r *IsolatedRunner) Start(ctx context.Context, spec ContainerSpec) (Container, error) {
	root := filepath.Join(spec.Dir, "root")
	if err := copyRoot(root, r.Root, int(r.UID), int(r.GID)); err != nil {
		return nil, fmt.Errorf("copy the image's root file system: %w", err)
	}
	if err := makeDevices(root); err != nil {
		return nil, fmt.Errorf("make the container's devices: %w", err)
	}
	env := map[string]string{
		"PATH":     "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOSTNAME": spec.TaskID,
	}
	var endpoints map[string]string
	if r.Endpoints {
		endpoints = spec.Endpoints
	}
	maps.Copy(env, endpoints)
	maps.Copy(env, spec.Env)
	maps.Copy(env, r.Env)
	cmd := exec.Command(spec.Command[0], spec.Command[1:]...)
	cmd.Path, cmd.Err = spec.Command[0], nil // a path inside the root
	cmd.Env, cmd.Dir = environ(env), "/"
	cmd.Stdout, cmd.Stderr = spec.Stdout, spec.Stderr
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = childAttributes()
	cmd.SysProcAttr.Chroot = root
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: r.UID, Gid: r.GID}
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC
	c := &isolatedContainer{
		program: &program{cmd: cmd, done: make(chan struct{})}, runner: r, root: root, env: cmd.Env, drop: spec.DropCapabilities,
		endpoints: endpoints,
	}
	if err := c.start(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// start makes the network namespace and starts the program in it, on an OS thread that ends with the program. The thread cannot be
// reused, because it has left the machine's network and given capabilities away.
func (c *isolatedContainer) start(ctx context.Context) error {
	started := make(chan error, 1)
	onOwnThread(func() {
		if err := c.enterNewNetwork(ctx); err != nil {
			started <- err
			return
		}
		if err := c.startProgram(); err != nil {
			c.ways.close()
			started <- errors.Join(err, c.netns.Close())
			return
		}
		started <- nil
		c.wait(func() {
			c.ways.close()
			_ = c.netns.Close()
		})
	})
	return <-started
}

// startProgram starts the program on the calling thread, which is in the container's network.
func (c *isolatedContainer) startProgram() (err error) {
	if c.ways, err = openEndpointWays(c.endpoints); err != nil {
		return fmt.Errorf("open ways to AWS's endpoints: %w", err)
	}
	if err := limitCapabilities(c.drop); err != nil {
		return err
	}
	return c.cmd.Start()
}

// onOwnThread runs f on a new goroutine with an OS thread that ends with it. It never uses the process's main thread, which cannot
// end and would keep f's namespaces alive.
func onOwnThread(f func()) {
	go func() {
		runtime.LockOSThread() // for good
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		taken := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(taken)
			f()
		}()
		<-taken // until then this goroutine keeps the main thread from the other one
		runtime.UnlockOSThread()
	}()
}

// enterNewNetwork moves the calling thread to a new network namespace, with its loopback up and a link to the VPC.
func (c *isolatedContainer) enterNewNetwork(ctx context.Context) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace (this needs root): %w", err)
	}
	netns, err := threadNetns()
	if err != nil {
		return err
	}
	c.netns = netns
	commands, err := c.runner.networkCommands()
	for _, args := range commands {
		if err != nil {
			break
		}
		err = runIP(ctx, args)
	}
	if err != nil {
		return errors.Join(err, netns.Close())
	}
	return nil
}

// networkCommands returns the commands of ip that set up the network of another container, to run inside its namespace.
func (r *IsolatedRunner) networkCommands() ([][]string, error) {
	commands := [][]string{{"link", "set", "lo", "up"}}
	if r.VPC == nil {
		return commands, nil
	}
	r.mu.Lock()
	n := r.launched
	r.launched++
	r.mu.Unlock()
	gateway, own, err := r.VPC.addresses(n)
	if err != nil {
		return nil, err
	}
	peer := "t" + randomHex(8)
	// eth0 is the container's end of the pair, its ENI. The other end moves to the VPC's namespace, where another ip sets it up.
	return append(commands,
		[]string{"link", "add", "eth0", "type", "veth", "peer", "name", peer, "netns", r.VPC.Netns},
		[]string{"addr", "add", own.String() + "/30", "dev", "eth0"},
		[]string{"link", "set", "eth0", "up"},
		[]string{"-n", r.VPC.Netns, "addr", "add", gateway.String() + "/30", "dev", peer},
		[]string{"-n", r.VPC.Netns, "link", "set", peer, "up"},
		[]string{"route", "add", "default", "via", gateway.String()},
	), nil
}

// addresses returns the addresses of the pool's n-th /30 network.
func (v *VPCLink) addresses(n int) (gateway, container netip.Addr, err error) {
	if !v.Pool.IsValid() || !v.Pool.Addr().Is4() || v.Pool.Bits() > 30 {
		return gateway, container, fmt.Errorf("%v is no pool of IPv4 addresses", v.Pool)
	}
	if n >= 1<<(30-v.Pool.Bits()) {
		return gateway, container, fmt.Errorf("the pool %v has no network left", v.Pool)
	}
	b := v.Pool.Masked().Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(4*n+1))
	gateway = netip.AddrFrom4(b)
	return gateway, gateway.Next(), nil
}

func runIP(ctx context.Context, args []string) error {
	if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// devices are those that a container engine makes and programs here use: the minor numbers of memory devices.
var devices = map[string]uint32{"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}

func makeDevices(root string) error {
	dir := filepath.Join(root, "dev")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, minor := range devices {
		path := filepath.Join(dir, name)
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o666); err != nil { // whatever the umask
			return err
		}
	}
	return nil
}

// copyRoot copies a root file system with its modes. As in an image, it is root's, but for the directories that others cannot enter: these
// are the user's, and root's group's if it may do something there. It copies only files, directories and links.
func copyRoot(dst, src string, uid, gid int) error {
	return filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		to := filepath.Join(dst, rel)
		owner, group := 0, 0
		switch {
		case d.IsDir():
			if info.Mode().Perm()&0o007 == 0 {
				owner = uid
			}
			if info.Mode().Perm()&0o077 == 0 {
				group = gid
			}
			err = os.Mkdir(to, 0o700)
		case info.Mode().IsRegular():
			err = copyFile(to, path)
		case info.Mode()&fs.ModeSymlink != 0:
			return copyLink(to, path)
		default:
			return nil
		}
		if err != nil {
			return err
		}
		return errors.Join(os.Chown(to, owner, group), os.Chmod(to, info.Mode()))
	})
}

func copyFile(dst, src string) (err error) {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // it was only read
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func copyLink(dst, src string) error {
	to, err := os.Readlink(src)
	if err != nil {
		return err
	}
	return os.Symlink(to, dst)
}

// Dial connects from inside the container's network. Its addresses do not exist outside, so Dial allows all of them.
func (c *isolatedContainer) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	hosts, port, err := hostsOf(addr)
	if err != nil {
		return nil, err
	}
	var conn net.Conn
	for _, h := range hosts {
		// Other threads, which are in another network, would look up a name.
		if _, err = netip.ParseAddr(h); err != nil {
			return nil, err
		}
		inside := func() error {
			var dialErr error
			conn, dialErr = new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(h, port))
			return dialErr
		}
		if err = inNetns(c.netns, inside); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// Exec starts a command inside the container, as root: ECS Exec's agent is root whatever the image's user is. It has the container's
// capabilities, as what an engine starts in a container.
func (c *isolatedContainer) Exec(_ context.Context, argv []string) (p gateway.Process, err error) {
	if len(argv) == 0 {
		argv = []string{"/bin/sh"}
	}
	program := c.lookPath(argv[0])
	if program == "" { // as an engine reports it
		return nil, &exec.Error{Name: argv[0], Err: exec.ErrNotFound}
	}
	cmd := exec.Command(program, argv[1:]...)
	cmd.Args[0], cmd.Dir = argv[0], "/"
	cmd.Env = append(slices.Clone(c.env), "TERM=xterm")
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: c.root, Credential: &syscall.Credential{}}
	err = InContainer(c.PID(), c.drop, func() error {
		p, err = gateway.ExecProcess(cmd)
		return err
	})
	return p, err
}

// lookPath returns the path in the container of a program that is one or is in its PATH; "" if there is none.
func (c *isolatedContainer) lookPath(name string) string {
	if filepath.IsAbs(name) {
		if _, err := os.Stat(filepath.Join(c.root, name)); err != nil {
			return ""
		}
		return name
	}
	for _, kv := range c.env {
		path, ok := strings.CutPrefix(kv, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(path) {
			file := filepath.Join(dir, name)
			if fi, err := os.Stat(filepath.Join(c.root, file)); err == nil && fi.Mode()&0o111 != 0 {
				return file
			}
		}
	}
	return ""
}

// InNetns runs f on a thread inside a network namespace ("/run/netns/vpc"): sockets that f makes, on its own goroutine, belong
// there. The caller must be root.
func InNetns(path string, f func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(inNetns(ns, f), ns.Close())
}

// threadNetns opens the network namespace of the calling thread.
func threadNetns() (*os.File, error) {
	return os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
}

func inNetns(ns *os.File, f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := threadNetns()
		if err != nil {
			runtime.UnlockOSThread()
			result <- err
			return
		}
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
			err = f()
		}
		// A thread that cannot return to its namespace ends with this goroutine, because it stays locked to it.
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		_ = home.Close()
		result <- err
	}()
	return <-result
}
