//go:build linux

package e2e

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/keys"
	"github.com/bastion-ssm/bastion/lab"
)

// AWS's own clients, OpenSSH and ssm-session-client talk through the lab to a stock sshd and to bastiond. All programs except the
// service are the real ones.

const (
	node      = "i-0123456789abcdef0"
	peer      = "arn:aws:iam::000000000000:user/peer"
	peerLimit = 2 * time.Minute // for a peer's whole run: the AWS CLI alone takes a second of CPU time to start
)

// aws is the AWS CLI with its plugin.
func (w *world) aws() string {
	w.t.Helper()
	rig.Need(w.t, "session-manager-plugin")
	return rig.Need(w.t, "aws")
}

// startSession is the AWS CLI's command line for a session.
func (w *world) startSession(document, target, parameters string) []string {
	return []string{
		w.aws(), "--endpoint-url", w.URL(), "ssm", "start-session", "--document-name", document,
		"--target", target, "--parameters", parameters,
	}
}

// execute runs a command in a task by `aws ecs execute-command` and returns what the CLI prints.
func (w *world) execute(task lab.Task, command string) string {
	w.t.Helper()
	// The plugin ends the session when its input ends: it stays open until the command is done.
	stdin, hold, err := os.Pipe()
	if err != nil {
		w.t.Fatal(err)
	}
	defer hold.Close()
	cmd := exec.Command(w.aws(), "--endpoint-url", w.URL(), "ecs", "execute-command", "--cluster", task.Cluster,
		"--task", task.ID, "--container", "bastion", "--interactive", "--command", command)
	cmd.Stdin = stdin
	p := w.startCmd(cmd)
	_ = stdin.Close()
	ctx, cancel := context.WithTimeout(w.t.Context(), peerLimit)
	defer cancel()
	code, err := p.Wait(ctx)
	if err != nil || code != 0 {
		w.t.Fatalf("aws ecs execute-command: exit code %d, %v\n%s", code, err, p.Output())
	}
	return p.Output()
}

// grant has a task's bastiond accept a key, by nothing but AWS's own tools.
func (w *world) grant(task lab.Task, key ssh.PublicKey, destinations ...string) keys.GrantReply {
	w.t.Helper()
	grant, err := keys.NewGrant(key, peer, destinations, time.Hour)
	if err != nil {
		w.t.Fatal(err)
	}
	word, err := grant.Encode()
	if err != nil {
		w.t.Fatal(err)
	}
	out := w.execute(task, "/bastiond grant "+word)
	reply, ok, err := keys.FindGrantReply([]byte(out))
	if !ok || err != nil || reply.Error != "" {
		w.t.Fatalf("no grant: %+v, %v in %q", reply, err, out)
	}
	return reply
}

// openSSH is a stock OpenSSH client that knows one server and has one key, from an agent.
type openSSH struct {
	w       *world
	options []string
	host    string
}

// openSSH returns a client for host, whose connections are made by the proxy command.
func (w *world) openSSH(pair *keys.Pair, host string, port int, hostKey ssh.PublicKey, proxy []string) openSSH {
	w.t.Helper()
	dir, err := os.MkdirTemp("", "a") // a short path, for the socket
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "agent"))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- keys.ServeAgent(ctx, l, pair.Signer()) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			w.t.Error(err)
		}
		_ = os.RemoveAll(dir)
	})
	known := filepath.Join(dir, "known_hosts")
	if err := os.WriteFile(known, []byte(keys.KnownHostsLine(host, port, hostKey)+"\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
	me, err := user.Current()
	if err != nil {
		w.t.Fatal(err)
	}
	options := []string{"-F", "/dev/null"}
	for _, o := range []string{
		"IdentityAgent=" + l.Addr().String(), "IdentityFile=none", "User=" + me.Username,
		"Port=" + strconv.Itoa(port), "UserKnownHostsFile=" + known, "GlobalKnownHostsFile=/dev/null",
		"StrictHostKeyChecking=yes", "BatchMode=yes", "LogLevel=ERROR", "ProxyCommand=" + strings.Join(proxy, " "),
	} {
		options = append(options, "-o", o)
	}
	return openSSH{w, options, host}
}

// run runs a command on the server, within limit, and returns the lines that it prints.
func (c openSSH) run(limit time.Duration, command string) ([]string, error) {
	c.w.t.Helper()
	p := c.w.start(rig.Need(c.w.t, "ssh"), append(c.options, c.host, command)...)
	ctx, cancel := context.WithTimeout(c.w.t.Context(), limit)
	defer cancel()
	code, err := p.Wait(ctx)
	if err != nil {
		_, _ = p.Stop(syscall.SIGKILL)
	}
	if err == nil && code != 0 {
		err = fmt.Errorf("ssh: exit code %d\n%s", code, p.Output())
	}
	return p.Stdout(), err
}

// copy copies a file by scp. The server's paths begin with a colon.
func (c openSSH) copy(from, to string) {
	c.w.t.Helper()
	place := func(path string) string {
		if strings.HasPrefix(path, ":") {
			return c.host + path
		}
		return path
	}
	code, out := c.w.run(peerLimit, rig.Need(c.w.t, "scp"), append(c.options, "-q", place(from), place(to))...)
	if code != 0 {
		c.w.t.Fatalf("scp: exit code %d\n%s", code, out)
	}
}

// forward forwards a socket of this machine to an address behind the server, until the test ends, and returns its path.
func (c openSSH) forward(addr string) string {
	c.w.t.Helper()
	dir, err := os.MkdirTemp("", "f")
	if err != nil {
		c.w.t.Fatal(err)
	}
	c.w.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	p := c.w.start(rig.Need(c.w.t, "ssh"), append(c.options, "-N", "-L", socket+":"+addr, "-o", "ExitOnForwardFailure=yes",
		"-o", "PermitLocalCommand=yes", "-o", "LocalCommand=echo connected", c.host)...)
	ctx, cancel := context.WithTimeout(c.w.t.Context(), peerLimit)
	defer cancel()
	if err := p.WaitOutput(ctx, "connected"); err != nil {
		c.w.t.Fatal(err)
	}
	return socket
}

func newPair(t *testing.T) *keys.Pair {
	t.Helper()
	pair, err := keys.NewPair("")
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func (w *world) noSessions() bool { return len(w.Gateway().Sessions()) == 0 }

// startSSHD starts a stock OpenSSH server that accepts the key.
func startSSHD(t *testing.T, key ssh.PublicKey) *rig.SSHD {
	t.Helper()
	s, err := rig.StartSSHD(rig.Need(t, "sshd"), key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("sshd says: %s", s.Log())
		}
	})
	return s
}

// transfers moves data through a forward that dial connects to. The five connections are open together but take turns: the plugin
// does not always survive more load (see the tests of lab/gateway).
func transfers(t *testing.T, dial func(context.Context) (net.Conn, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), peerLimit)
	defer cancel()
	idle, err := dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = idle.Close() })
	echo := rig.NewEcho(idle)
	round := func() {
		t.Helper()
		if err := echo.Round(); err != nil {
			t.Fatalf("echo: %v", err)
		}
	}
	type move func(context.Context, net.Conn, int64) error
	for _, move := range []move{rig.Download, rig.Upload, rig.Upload, rig.Download} {
		round()
		c, err := dial(ctx)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if err := move(ctx, c, 256<<10); err != nil {
			t.Error(err)
		}
	}
	round()
}

// A user of the AWS CLI reaches the sshd of a node: a command, and files both ways.
func TestAWSCLIToOpenSSHServer(t *testing.T) {
	pair := newPair(t)
	server := startSSHD(t, pair.PublicKey())
	w := newWorld(t, nil)
	w.AddInstance(node, lab.Instance{Ports: map[int]string{22: server.Addr()}})
	c := w.openSSH(pair, node, 22, server.HostKey, w.startSession("AWS-StartSSHSession", node, "portNumber=%p"))

	if out, err := c.run(peerLimit, "echo $((6*7))"); err != nil || !slices.Equal(out, []string{"42"}) {
		t.Errorf("the command printed %q, %v", out, err)
	}
	const size = 300_000
	data, err := io.ReadAll(rig.Data(size))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	from, there, back := filepath.Join(dir, "from"), filepath.Join(dir, "there"), filepath.Join(dir, "back")
	if err := os.WriteFile(from, data, 0o600); err != nil {
		t.Fatal(err)
	}
	c.copy(from, ":"+there)
	c.copy(":"+there, back)
	for _, path := range []string{there, back} {
		got, err := os.ReadFile(path)
		if err != nil || sha256.Sum256(got) != rig.DataSum(size) {
			t.Errorf("%s: %d bytes with another sum, %v", filepath.Base(path), len(got), err)
		}
	}
}

// A user of the AWS CLI and OpenSSH reaches hosts behind bastiond without the command bastion: the grant goes by ECS Exec, and the
// host key comes back by it.
func TestAWSCLIToBastiond(t *testing.T) {
	pair := newPair(t)
	w := newWorld(t, nil)
	task := w.up()
	reply := w.grant(task, pair.PublicKey(), w.far.Addr())
	hostKey, err := reply.Key()
	if err != nil {
		t.Fatal(err)
	}
	proxy := w.startSession("AWS-StartSSHSession", task.Target, "portNumber=%p")
	socket := w.openSSH(pair, "bastion", reply.Ports.SSH, hostKey, proxy).forward(w.far.Addr())
	transfers(t, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	})

	connects := w.audit(task, "connect")
	if len(connects) != 5 {
		t.Errorf("%d connections in the audit, want 5", len(connects))
	}
	for _, e := range connects {
		if e["who"] != peer || e["destination"] != w.far.Addr() || e["grant"] != reply.Grant {
			t.Errorf("audit: %v", e)
		}
	}

	// With another bastion's host key the client goes no further.
	other := newPair(t)
	stranger := w.openSSH(pair, "bastion", reply.Ports.SSH, other.PublicKey(), proxy)
	code, out := w.run(peerLimit, rig.Need(t, "ssh"), append(stranger.options, "-W", w.far.Addr(), "bastion")...)
	if code != 255 || !strings.Contains(out, "Host key verification failed") {
		t.Errorf("another host key: exit code %d\n%s", code, out)
	}
	if n := len(w.audit(task, "connect")); n != 5 {
		t.Errorf("%d connections in the audit, want still 5", n)
	}
}

var portOpened = regexp.MustCompile(`Port (\d+) opened for sessionId`)

// AWS's own port forwarding passes several connections, to a port of a node and to a host behind a task.
func TestAWSCLIPortForwarding(t *testing.T) {
	// The plugin counts its messages without a lock. When it is interrupted, its request to end the session sometimes has the
	// number of a message that another goroutine is still sending (SendInputDataMessage counts after sending). The agent then takes
	// it for a duplicate, as it must, and the session lasts until it has idled or is terminated. So of a few plugins one has to end
	// its session, and of the others the sessions are terminated, as AWS's users do.
	const tries = 5
	forward := func(w *world, document, target, parameters string) {
		w.t.Helper()
		for n := 1; ; n++ {
			args := w.startSession(document, target, parameters)
			p := w.start(args[0], args[1:]...)
			ctx, cancel := context.WithTimeout(w.t.Context(), peerLimit)
			err := p.WaitOutput(ctx, "opened for sessionId")
			cancel()
			if err != nil {
				w.t.Fatal(err)
			}
			addr := "127.0.0.1:" + portOpened.FindStringSubmatch(p.Output())[1]
			dial := func(ctx context.Context) (net.Conn, error) { return rig.Dial(ctx, addr) }
			if n == 1 {
				transfers(w.t, dial)
			}
			if _, err := p.Stop(syscall.SIGINT); err != nil {
				w.t.Error(err)
			}
			if !strings.Contains(p.Output(), "Exiting session with sessionId") {
				w.t.Errorf("the plugin has not asked for the end of its session:\n%s", p.Output())
			}
			if w.within(10*time.Second, w.noSessions) {
				return
			}
			if n == tries {
				w.t.Fatalf("%d plugins, and none has ended its session", n)
			}
			for _, s := range w.Gateway().Sessions() {
				w.t.Logf("try %d: the session lasts: %+v", n, s)
				code, out := w.run(peerLimit, w.aws(), "--endpoint-url", w.URL(), "ssm", "terminate-session", "--session-id", s.ID)
				if code != 0 {
					w.t.Errorf("terminate-session: exit code %d\n%s", code, out)
				}
			}
			w.eventually("the session ends", w.noSessions)
		}
	}
	t.Run("port", func(t *testing.T) {
		w := newWorld(t, nil)
		w.AddInstance(node, lab.Instance{Ports: map[int]string{8080: w.far.Addr()}})
		forward(w, "AWS-StartPortForwardingSession", node, "portNumber=8080,localPortNumber=0")
	})
	t.Run("remote host", func(t *testing.T) {
		w := newWorld(t, func(c *lab.Config) { // past bastiond, which the policy for people does not allow
			c.User = lab.IdentityConfig{Allow: []string{"*"}}
		})
		w.AddName("far.corp.internal", netip.MustParseAddr("127.0.0.1"))
		forward(w, "AWS-StartPortForwardingSessionToRemoteHost", w.up().Target,
			fmt.Sprintf("host=far.corp.internal,portNumber=%d,localPortNumber=0", w.far.Port()))
	})
}

// `aws ecs execute-command` runs bastiond's commands and passes their output unchanged, in the clear and encrypted by
// KMS.
func TestAWSCLIExec(t *testing.T) {
	want, err := exec.Command(filepath.Join(bin, "bastiond"), "version").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, kms := range []bool{false, true} {
		t.Run(fmt.Sprintf("kms=%v", kms), func(t *testing.T) {
			w := newWorld(t, func(c *lab.Config) { c.KMS = kms })
			task := w.up()
			before := w.Calls()["kms:GenerateDataKey"]
			out := w.execute(task, "/bastiond version")
			if !strings.Contains(strings.ReplaceAll(out, "\r\n", "\n"), "\n"+string(want)) {
				t.Errorf("no line %q in %q", want, out)
			}
			if reply := w.grant(task, newPair(t).PublicKey()); string(want) != reply.Version+"\n" {
				t.Errorf("a reply of version %q, want %q", reply.Version, want)
			}
			if n := w.Calls()["kms:GenerateDataKey"] - before; (n == 2) != kms || (n == 0) == kms {
				t.Errorf("%d calls of GenerateDataKey", n)
			}
			w.eventually("the sessions end", w.noSessions)
		})
	}
}

// ssm-session-client carries OpenSSH to a node's sshd.
func TestSSMSessionClientToOpenSSHServer(t *testing.T) {
	pair := newPair(t)
	server := startSSHD(t, pair.PublicKey())
	w := newWorld(t, nil)
	w.AddInstance(node, lab.Instance{Ports: map[int]string{22: server.Addr()}})
	c := w.openSSH(pair, node, 22, server.HostKey, []string{rig.Need(t, "ssmpeer"), "ssh", node, "%p"})
	// The library never resends. So the agent, which takes no data before it has dialed, may lose the client's first words for
	// good. The library also delivers a message twice if the agent resends it because the acknowledgement was late. Both happen
	// with the real agent too, and the next try is as good as the first.
	const tries = 5
	for n := 1; ; n++ {
		out, err := c.run(20*time.Second, "echo $((6*7))")
		if err == nil && slices.Equal(out, []string{"42"}) {
			return
		}
		if n == tries {
			t.Fatalf("the command printed %q, %v", out, err)
		}
		t.Logf("try %d: %v", n, err)
	}
}

// ssm-session-client forwards a port of a node and one of a task, a connection each.
func TestSSMSessionClientForward(t *testing.T) {
	w := newWorld(t, nil)
	w.AddInstance(node, lab.Instance{Ports: map[int]string{8080: w.far.Addr()}})
	task := w.up()
	for _, to := range []struct {
		target string
		port   int
		talk   func(context.Context, net.Conn) error
	}{
		{node, 8080, func(ctx context.Context, c net.Conn) error { return rig.Upload(ctx, c, 512<<10) }},
		{task.Target, w.far.Port(), func(_ context.Context, c net.Conn) error {
			echo := rig.NewEcho(c)
			for range 10 {
				if err := echo.Round(); err != nil {
					return err
				}
			}
			return nil
		}},
	} {
		// As in TestSSMSessionClientToOpenSSHServer, what the library loses stays lost.
		const tries = 5
		for n := 1; ; n++ {
			err := w.clientForward(to.target, to.port, to.talk)
			if err == nil {
				break
			}
			if n == tries {
				t.Fatalf("port %d of %s: %v", to.port, to.target, err)
			}
			t.Logf("port %d of %s, try %d: %v", to.port, to.target, n, err)
		}
	}
}

// clientForward talks through a forward of ssm-session-client, which serves one connection.
func (w *world) clientForward(target string, port int, talk func(context.Context, net.Conn) error) error {
	w.t.Helper()
	local, err := rig.FreePort()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), peerLimit/4)
	defer cancel()
	p := w.start(rig.Need(w.t, "ssmpeer"), "forward", target, strconv.Itoa(port), strconv.Itoa(local))
	defer func() {
		if _, err := p.Stop(syscall.SIGTERM); err != nil {
			w.t.Error(err)
		}
	}()
	if err := p.WaitOutput(ctx, "listening"); err != nil {
		return err
	}
	c, err := rig.Dial(ctx, net.JoinHostPort("127.0.0.1", strconv.Itoa(local)))
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	return talk(ctx, c)
}
