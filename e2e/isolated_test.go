//go:build linux

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
)

// The network of the VPC: its addresses exist in namespaces that the test makes, and nothing is ever sent to them from
// outside.
const (
	vpcNetwork = "10.99.0.0/16"
	vpcCache   = "10.99.1.10"
	vpcTasks   = "10.99.2.0/24"
	imageUser  = 65532
)

// The image runs as a task as isolated as on Fargate. Its root file system has only bastiond, and its network is the VPC, with a
// Redis that this machine cannot reach. `bastion forward` has one.
func TestIsolatedTask(t *testing.T) {
	rig.NeedRoot(t)
	redis := rig.Need(t, "redis-server")
	rig.Need(t, "ip")
	vpc := newNetns(t)
	vpc.ip("link", "set", "lo", "up")
	vpc.ip("addr", "add", vpcCache+"/32", "dev", "lo")

	w := newWorld(t, func(c *lab.Config) {
		c.Runner = &lab.IsolatedRunner{
			Root: imageRoot(t), UID: imageUser, GID: imageUser,
			VPC: &lab.VPCLink{Netns: vpc.name, Pool: netip.MustParsePrefix(vpcTasks)},
		}
		c.Allow = []string{vpcCache + ":6379"}
	})
	server := w.start("ip", "netns", "exec", vpc.name, redis, "--bind", vpcCache, "--port", "6379",
		"--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := server.WaitOutput(ctx, "Ready to accept connections"); err != nil {
		t.Fatal(err)
	}
	value := "from inside " + vpc.name
	if err := vpc.do(func() error {
		conn, err := net.DialTimeout("tcp", vpcCache+":6379", 10*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		got, err := redisCommand(conn, "SET", "greeting", value)
		if err == nil && got != "+OK" {
			err = fmt.Errorf("SET answered %q", got)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}

	// This machine has neither an address of that network nor a route into it.
	if out := ip(t, "route", "show", "table", "all", "to", "root", vpcNetwork); out != "" {
		t.Fatalf("this machine has routes to %s: %s", vpcNetwork, out)
	}
	p, addrs := w.forward(vpcCache+":6379", ":")
	task := w.Tasks()[0]
	conn := dial(ctx, t, addrs[0])
	defer conn.Close()
	if got, err := redisCommand(conn, "GET", "greeting"); err != nil || got != value {
		t.Errorf("GET answered %q, %v\n%s", got, err, p.Output())
	}
	if connects := w.audit(task, "connect"); len(connects) != 1 || connects[0]["address"] != vpcCache+":6379" {
		t.Errorf("audit: %v", connects)
	}

	// The task is what the image makes it.
	proc := fmt.Sprintf("/proc/%d", task.PID)
	for _, kind := range []string{"net", "pid", "mnt", "uts", "ipc"} {
		ours, theirs := readlink(t, "/proc/thread-self/ns/"+kind), readlink(t, filepath.Join(proc, "ns", kind))
		if ours == theirs {
			t.Errorf("the task shares this machine's %s namespace", kind)
		}
	}
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		fmt.Sprintf("NSpid:\t%d\t1\n", task.PID), fmt.Sprintf("Uid:\t%d\t", imageUser), "CapEff:\t0000000000000000\n", "CapBnd:\t0000000000000000\n",
	} {
		if !strings.Contains(string(status), want) {
			t.Errorf("no %q in its status:\n%s", want, status)
		}
	}
	if _, err := os.Stat(filepath.Join(proc, "root", "bin")); !os.IsNotExist(err) {
		t.Errorf("its root file system is not the image's: %v", err)
	}

	w.interrupt(p)
	if code, out := w.run(time.Minute, filepath.Join(bin, "bastion"), "down", "-q"); code != 0 {
		t.Errorf("bastion down: exit code %d\n%s", code, out)
	}
	w.eventually("the task stops", func() bool { return w.Tasks()[0].LastStatus == "STOPPED" })
	if out := vpc.ip("-j", "link", "show", "type", "veth"); strings.TrimSpace(out) != "[]" {
		t.Errorf("the task's network device is left behind: %s", out)
	}
}

// A client of now uses the images and task definitions of before: those in which root needs a capability to enter the control socket's
// directory, and those that leave it one. Where an image needs what its definition drops, the client says so at once.
func TestIsolatedTaskOfBefore(t *testing.T) {
	rig.NeedRoot(t)
	rig.Need(t, "ip")
	for _, tt := range []struct {
		name  string
		mode  os.FileMode // of the control socket's directory in the image
		older bool        // the task definition
		code  int
		want  string
	}{
		{"both", 0o700, true, 0, "was started"},
		{"task definition", 0o710, true, 0, "was started"},
		{"image", 0o700, false, 6, "leave linuxParameters.capabilities out of the definition"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := imageRoot(t)
			if err := os.Chmod(filepath.Join(root, "run", "bastiond"), tt.mode); err != nil {
				t.Fatal(err)
			}
			w := newWorld(t, func(c *lab.Config) {
				c.Runner = &lab.IsolatedRunner{Root: root, UID: imageUser, GID: imageUser}
			})
			if tt.older {
				w.AddTaskDefinition(lab.TaskDefinition{Family: "bastion", LikeStack: true})
			}
			if code, out := w.run(time.Minute, filepath.Join(bin, "bastion"), "up"); code != tt.code || !strings.Contains(out, tt.want) {
				t.Errorf("bastion up: exit code %d\n%s", code, out)
			}
		})
	}
}

// The OpenSSH variant is a bastion as any other to the client: it hands its grant over, and forwards by a real sshd.
func TestIsolatedTaskWithOpenSSH(t *testing.T) {
	rig.NeedRoot(t)
	redis := rig.Need(t, "redis-server")
	for _, program := range []string{"ip", "sshd"} {
		rig.Need(t, program)
	}
	vpc := newNetns(t)
	vpc.ip("link", "set", "lo", "up")
	vpc.ip("addr", "add", vpcCache+"/32", "dev", "lo")
	w := newWorld(t, func(c *lab.Config) {
		c.Runner = &lab.IsolatedRunner{
			Root: rootOf(t, filepath.Join("openssh", "rootfs.sh")), UID: imageUser, GID: imageUser,
			VPC: &lab.VPCLink{Netns: vpc.name, Pool: netip.MustParsePrefix(vpcTasks)},
			Env: map[string]string{"BASTIOND_ALLOW": vpcCache + ":6379"},
		}
	})
	server := w.start("ip", "netns", "exec", vpc.name, redis, "--bind", vpcCache, "--port", "6379",
		"--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := server.WaitOutput(ctx, "Ready to accept connections"); err != nil {
		t.Fatal(err)
	}
	p, addrs := w.forward(vpcCache+":6379", ":")
	task := w.Tasks()[0]
	for range 2 { // by the same link
		conn := dial(ctx, t, addrs[0])
		if got, err := redisCommand(conn, "PING"); err != nil || got != "+PONG" {
			t.Errorf("PING answered %q, %v\n%s", got, err, p.Output())
		}
		_ = conn.Close()
	}
	w.eventually("the log has both connections", func() bool { return len(w.audit(task, "close")) == 2 })
	for _, connect := range w.audit(task, "connect") {
		if connect["address"] != vpcCache+":6379" || connect["who"] == "" || connect["conn"] != w.audit(task, "auth")[0]["conn"] {
			t.Errorf("audit: %v", connect)
		}
	}
	w.interrupt(p)
	p, addrs = w.forward(vpcCache+":6379", ":") // the host key is known now
	conn := dial(ctx, t, addrs[0])
	defer conn.Close()
	if got, err := redisCommand(conn, "PING"); err != nil || got != "+PONG" {
		t.Errorf("PING answered %q, %v\n%s", got, err, p.Output())
	}
	w.interrupt(p)
	if code, out := w.run(time.Minute, filepath.Join(bin, "bastion"), "down", "-q"); code != 0 {
		t.Errorf("bastion down: exit code %d\n%s", code, out)
	}
}

// imageRoot builds the root file system of the bastion's image.
func imageRoot(t *testing.T) string {
	t.Helper()
	return rootOf(t, "rootfs.sh", "ALLOW="+vpcNetwork+":5432,"+vpcNetwork+":6379")
}

// rootOf builds a root file system by a script of bastion-image.
func rootOf(t *testing.T, script string, env ...string) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(rig.Root(), "bastion-image", script), root)
	cmd.Env = append(append(os.Environ(), "BASTIOND="+filepath.Join(bin, "bastiond")), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return root
}

// netns is a network namespace of the test's own.
type netns struct {
	t    *testing.T
	name string
}

func newNetns(t *testing.T) netns { return newNetnsOf(t, "vpc") }

// newNetnsOf makes one of several.
func newNetnsOf(t *testing.T, of string) netns {
	t.Helper()
	n := netns{t, fmt.Sprintf("bastion-e2e-%d-%s", os.Getpid(), of)}
	ip(t, "netns", "add", n.name)
	t.Cleanup(func() { ip(t, "netns", "delete", n.name) })
	return n
}

func (n netns) ip(args ...string) string {
	n.t.Helper()
	return ip(n.t, append([]string{"-n", n.name}, args...)...)
}

// do runs f on a thread inside the namespace.
func (n netns) do(f func() error) error { return lab.InNetns("/run/netns/"+n.name, f) }

func ip(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func readlink(t *testing.T, path string) string {
	t.Helper()
	to, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// redisCommand sends a command and returns the answer: a string's text, or else the line.
func redisCommand(conn net.Conn, args ...string) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return "", err
	}
	request := fmt.Sprintf("*%d\r\n", len(args))
	for _, a := range args {
		request += fmt.Sprintf("$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return "", err
	}
	r := bufio.NewReader(conn)
	line, err := r.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "$") {
		return strings.TrimSpace(line), err
	}
	text, err := r.ReadString('\n')
	return strings.TrimSuffix(text, "\r\n"), err
}
