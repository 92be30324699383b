package lab_test

import (
	"bufio"
	"bytes"
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

	"github.com/bastion-ssm/bastion/lab"
)

// image makes an image's root file system of a static bastiond. Root's group may enter the control socket's directory.
func image(t *testing.T) string { return imageWith(t, 0o710) }

// imageWith makes one with this mode of the control socket's directory.
func imageWith(t *testing.T, mode os.FileMode) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"run/bastiond", "tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(root, "run", "bastiond"), mode); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(buildBastiond(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bastiond"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	return root
}

func needRoot(t *testing.T) {
	t.Helper()
	need(t, "ip")
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("namespaces need root")
	}
	t.Skip("namespaces need root")
}

// startIsolated starts bastiond isolated, and waits until it is healthy.
func startIsolated(t *testing.T, r *lab.IsolatedRunner, env map[string]string) (c lab.Container, stderr *bytes.Buffer) {
	t.Helper()
	c, stderr = startContainer(t, r, env, "ALL")
	eventually(t, "bastiond is healthy", func() bool {
		select {
		case <-c.Done():
			t.Fatalf("bastiond ended: %s", stderr)
		default:
		}
		out, err := output(t, c, "/bastiond", "healthcheck")
		return err == nil && strings.HasPrefix(out, "{")
	})
	return c, stderr
}

// startContainer starts bastiond isolated, with an engine's capabilities but for those dropped.
func startContainer(t *testing.T, r *lab.IsolatedRunner, env map[string]string, drop ...string) (c lab.Container, stderr *bytes.Buffer) {
	t.Helper()
	stderr = new(bytes.Buffer)
	c, err := r.Start(t.Context(), lab.ContainerSpec{
		TaskID: "0123456789abcdef", Name: "bastion", Command: []string{"/bastiond"}, Env: env, Dir: t.TempDir(),
		Stdout: io.Discard, Stderr: stderr, DropCapabilities: drop,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Kill()
		<-c.Done()
	})
	return c, stderr
}

func output(t *testing.T, c lab.Container, argv ...string) (string, error) {
	t.Helper()
	p, err := c.Exec(t.Context(), argv)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	_, _ = out.ReadFrom(p) // any error is the end of a pty
	return out.String(), p.Wait()
}

func TestIsolatedRunner(t *testing.T) {
	needRoot(t)
	c, _ := startIsolated(t, &lab.IsolatedRunner{Root: image(t), UID: 65532, GID: 65532},
		map[string]string{"BASTIOND_LISTEN": "localhost:2222"})

	for _, ns := range []string{"net", "pid", "mnt", "uts", "ipc"} {
		own, err := os.Readlink("/proc/thread-self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		if its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", c.PID(), ns)); err != nil || its == own {
			t.Errorf("the container's %s namespace is %s, %v; the machine's is %s", ns, its, err, own)
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.PID()))
	if err != nil || !bytes.Contains(status, []byte("Uid:\t65532\t65532")) {
		t.Errorf("bastiond's user: %s, %v", status, err)
	}
	for _, host := range []string{"localhost", "127.0.0.1", "::1"} {
		conn, err := c.Dial(t.Context(), "tcp", net.JoinHostPort(host, "2222"))
		if err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "SSH-2.0-") {
			t.Errorf("%s greets with %q, %v", host, line, err)
		}
		_ = conn.Close()
	}
	// The container's loopback is not the machine's.
	echo := echoServer(t, hello)
	if conn, err := c.Dial(t.Context(), "tcp", echo); err == nil {
		_ = conn.Close()
		t.Error("the container reaches a port of the machine")
	}
	_ = dial(t, echo).Close() // and the threads that went there are home again

	for _, argv := range [][]string{{"sh", "-c", "echo hello"}, {"/bin/sh"}, {"/nope"}} {
		if out, err := output(t, c, argv...); err == nil || !strings.Contains(err.Error(), "executable file not found") {
			t.Errorf("%v in an image without it: %q, %v", argv, out, err)
		}
	}
	c.Terminate()
	select {
	case <-c.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("bastiond does not end")
	}
	if c.ExitCode() != 0 {
		t.Errorf("exit code %d", c.ExitCode())
	}
}

// A container, and what ECS Exec starts in it as root, has an engine's capabilities but for those that it drops.
func TestIsolatedRunnerCapabilities(t *testing.T) {
	needRoot(t)
	const engines = "00000000a80425fb" // as Docker's
	r := &lab.IsolatedRunner{Root: image(t), UID: 65532, GID: 65532}
	for _, tt := range []struct {
		drop []string
		want string
	}{{nil, engines}, {[]string{"ALL"}, "0000000000000000"}, {[]string{"DAC_OVERRIDE", "SYS_ADMIN"}, "00000000a80425f9"}} {
		c, _ := startContainer(t, r, nil, tt.drop...)
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.PID()))
		if err != nil {
			t.Fatal(err)
		}
		wantCapabilities(t, fmt.Sprintf("bastiond without %v", tt.drop), status, "0000000000000000", tt.want)
		var inside []byte
		if err := lab.InContainer(c.PID(), tt.drop, func() (err error) { // cat is this machine's, which the thread sees
			inside, err = exec.Command(need(t, "cat"), "/proc/self/status").Output()
			return err
		}); err != nil {
			t.Fatal(err)
		}
		wantCapabilities(t, fmt.Sprintf("root without %v", tt.drop), inside, tt.want, tt.want)
		if !bytes.Contains(inside, []byte("Uid:\t0\t0\t0\t0\n")) {
			t.Errorf("not root: %s", inside)
		}
	}
}

func wantCapabilities(t *testing.T, who string, status []byte, effective, bounding string) {
	t.Helper()
	for _, want := range []string{"CapInh:\t0000000000000000", "CapPrm:\t" + effective, "CapEff:\t" + effective, "CapBnd:\t" + bounding} {
		if !bytes.Contains(status, []byte("\n"+want+"\n")) {
			t.Errorf("%s has not %q:\n%s", who, want, status)
		}
	}
}

// Images and task definitions of before and of now go together, but for one: an image whose directory lets nobody but bastiond in needs a
// task definition that leaves root the capability to pass that.
func TestIsolatedRunnerOlderImages(t *testing.T) {
	needRoot(t)
	for _, tt := range []struct {
		name string
		mode os.FileMode
		drop []string
		fits bool
	}{
		{"older image, older definition", 0o700, nil, true},
		{"image of now, older definition", 0o710, nil, true},
		{"image and definition of now", 0o710, []string{"ALL"}, true},
		{"older image, definition of now", 0o700, []string{"ALL"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, stderr := startContainer(t, &lab.IsolatedRunner{Root: imageWith(t, tt.mode), UID: 65532, GID: 65532}, nil, tt.drop...)
			var out string
			eventually(t, "bastiond listens", func() bool {
				var err error
				if out, err = output(t, c, "/bastiond", "healthcheck"); err == nil {
					return true
				}
				return strings.Contains(out, "permission denied")
			})
			if got := strings.HasPrefix(out, "{"); got != tt.fits {
				t.Errorf("%q\n%s", out, stderr)
			}
		})
	}
}

func TestIsolatedRunnerInVPC(t *testing.T) {
	needRoot(t)
	name := fmt.Sprintf("labtest%d", os.Getpid())
	ip(t, "netns", "add", name)
	t.Cleanup(func() { ip(t, "netns", "del", name) })
	ip(t, "-n", name, "link", "set", "lo", "up")
	ip(t, "-n", name, "addr", "add", "10.99.0.5/32", "dev", "lo")

	var l net.Listener
	err := lab.InNetns("/run/netns/"+name, func() (err error) {
		l, err = net.Listen("tcp", "10.99.0.5:5432")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		greetAndEcho(l, hello)
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})

	r := &lab.IsolatedRunner{Root: image(t), VPC: &lab.VPCLink{Netns: name, Pool: netip.MustParsePrefix("10.99.200.0/24")}}
	for range 2 {
		c, _ := startIsolated(t, r, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		conn, err := c.Dial(ctx, "tcp", "10.99.0.5:5432")
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(conn).ReadString('\n'); line != "hello\n" {
			t.Errorf("the database greets with %q, %v", line, err)
		}
		_ = conn.Close()
	}
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func TestIsolatedRunnerInLab(t *testing.T) {
	needRoot(t)
	cfg := quick(t)
	cfg.Runner, cfg.TaskEnv = &lab.IsolatedRunner{Root: image(t)}, nil
	l := start(t, cfg)
	run(t, l)
	eventually(t, "bastiond is healthy", func() bool {
		out, err := exec1(t, l, l.Tasks()[0].ID, "/bastiond", "healthcheck")
		return err == nil && strings.HasPrefix(out, "{")
	})
}

func TestIsolatedRunnerWithoutProgram(t *testing.T) {
	needRoot(t)
	r := &lab.IsolatedRunner{Root: t.TempDir()}
	if _, err := r.Start(t.Context(), lab.ContainerSpec{Command: []string{"/bastiond"}, Dir: t.TempDir()}); err == nil {
		t.Error("an empty image runs")
	}
}

// A container reaches AWS's endpoints, and nothing else of the machine, if its runner says so.
func TestIsolatedRunnerEndpoints(t *testing.T) {
	needRoot(t)
	echo, other := echoServer(t, hello), echoServer(t, hello)
	r := &lab.IsolatedRunner{Root: image(t), UID: 65532, GID: 65532, Endpoints: true}
	c, err := r.Start(t.Context(), lab.ContainerSpec{
		TaskID: "0123456789abcdef", Name: "bastion", Command: []string{"/bastiond"}, Dir: t.TempDir(), Stdout: io.Discard, Stderr: io.Discard,
		Endpoints: map[string]string{"AWS_ENDPOINT_URL": "http://" + echo, "X": "http://" + echo + "/v4/x", "AWS_REGION": "eu-central-1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Kill()
		<-c.Done()
	})
	conn, err := c.Dial(t.Context(), "tcp", echo)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(conn)
	for _, want := range []string{hello, "over\n"} {
		if line, err := lines.ReadString('\n'); err != nil || line != want {
			t.Fatalf("%q, %v; want %q", line, err, want)
		}
		if _, err := io.WriteString(conn, "over\n"); err != nil {
			t.Fatal(err)
		}
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", c.PID()))
	if err != nil || !bytes.Contains(environ, []byte("AWS_ENDPOINT_URL=http://"+echo+"\x00")) {
		t.Errorf("environment %q, %v", environ, err)
	}
	if conn, err := c.Dial(t.Context(), "tcp", other); err == nil {
		_ = conn.Close()
		t.Error("the container reaches another port of the machine")
	}
	c.Kill()
	<-c.Done()
	if _, err := io.Copy(io.Discard, lines); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Error(err)
	}
}
