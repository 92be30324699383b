//go:build linux

package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/net/proxy"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
)

// The programs of OpenSSH, and those that use it, reach a stock sshd behind the bastion by `bastion proxy`, through the agent.

// sshHost is a host's name that only the bastion can resolve.
const sshHost = "app-1.internal"

// sshUser is a user with an ssh_config and a key, and the host that it leads to.
type sshUser struct {
	*world
	config string // path of the ssh_config
	server *rig.SSHD
	dir    string
}

// identityFile writes a new private key into dir, and returns its path and its public half.
func identityFile(t *testing.T, dir string) (string, ssh.PublicKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "identity")
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, key
}

// newSSHUser makes a user whose ssh_config begins with the block that write puts at its top.
func newSSHUser(t *testing.T, write func(w *world, config string)) *sshUser {
	t.Helper()
	dir := t.TempDir()
	identity, key := identityFile(t, dir)
	server := startSSHD(t, key)
	_, port, err := net.SplitHostPort(server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	u := &sshUser{world: newWorld(t, func(c *lab.Config) { c.Allow = append(c.Allow, server.Addr()) }), server: server, dir: dir}
	u.AddName(sshHost, netip.MustParseAddr("127.0.0.1"))
	u.useAgent()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	known := filepath.Join(dir, "known_hosts")
	line := fmt.Sprintf("[%s]:%s %s", sshHost, port, ssh.MarshalAuthorizedKey(server.HostKey))
	if err := os.WriteFile(known, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	own := fmt.Sprintf("BatchMode yes\nLogLevel ERROR\n\nHost %s\n  User %s\n  Port %s\n  IdentityFile %s\n  IdentitiesOnly yes\n"+
		"  UserKnownHostsFile %s\n  StrictHostKeyChecking yes\n", sshHost, me.Username, port, identity, known)
	u.config = filepath.Join(dir, "config")
	if err := os.WriteFile(u.config, []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	write(u.world, u.config)
	return u
}

// useAgent has commands use the agent, which is ended with the test.
func (w *world) useAgent() {
	w.t.Helper()
	w.env = append(w.env, "BASTION_NO_AGENT=false")
	w.t.Cleanup(func() {
		cmd := exec.Command(filepath.Join(bin, "bastion"), "agent", "stop")
		cmd.Env = append(os.Environ(), w.env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			w.t.Errorf("bastion agent stop: %v\n%s", err, out)
		}
	})
}

// shippedExample puts ssh_config.example on top of the file, as it says that one should. The path that it names is this
// machine's.
func shippedExample(w *world, config string) {
	w.t.Helper()
	example, err := os.ReadFile(filepath.Join(rig.Root(), "ssh_config.example"))
	if err != nil {
		w.t.Fatal(err)
	}
	const named = "/usr/local/bin/bastion known-hosts"
	if bytes.Count(example, []byte(named)) != 1 {
		w.t.Fatalf("ssh_config.example does not name %s", named)
	}
	example = bytes.Replace(example, []byte(named), []byte(filepath.Join(bin, "bastion")+" known-hosts"), 1)
	own, err := os.ReadFile(config)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(config, slices.Concat(example, []byte("Host *\n"), own), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// writtenBlock has the program write its block.
func writtenBlock(w *world, config string) {
	w.t.Helper()
	if code, out := w.run(peerLimit, filepath.Join(bin, "bastion"), "ssh-config", "--write", "--file", config); code != 0 {
		w.t.Fatalf("bastion ssh-config: exit code %d\n%s", code, out)
	}
}

// must runs a program that must succeed, with standard input from in, and returns what it prints.
func (u *sshUser) must(in io.Reader, name string, args ...string) string {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), peerLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, rig.Need(u.t, name), args...)
	cmd.Env = append(os.Environ(), u.env...)
	cmd.Env = append(cmd.Env, "GIT_SSH_COMMAND=ssh -F "+u.config, "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	cmd.Dir, cmd.Stdin, cmd.WaitDelay = u.dir, in, 10*time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		u.t.Fatalf("%s %q: %v\n%s%s", name, args, err, &stdout, &stderr)
	}
	return stdout.String()
}

func (u *sshUser) ssh(args ...string) string {
	u.t.Helper()
	return u.must(nil, "ssh", append([]string{"-F", u.config}, args...)...)
}

func TestOpenSSHPrograms(t *testing.T) {
	for name, write := range map[string]func(*world, string){"example": shippedExample, "ssh-config": writtenBlock} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := newSSHUser(t, write)
			data := make([]byte, 300<<10)
			_, _ = rand.Read(data)
			from := filepath.Join(u.dir, "from")
			if err := os.WriteFile(from, data, 0o640); err != nil {
				t.Fatal(err)
			}
			same := func(path string) {
				t.Helper()
				if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s: %d bytes of %d, %v", path, len(got), len(data), err)
				}
			}
			if out := u.ssh(sshHost, "echo", "hello"); out != "hello\n" {
				t.Errorf("ssh: %q", out)
			}
			u.scp(from, same)
			u.sftp(from, same)
			u.rsync(from, same)
			u.git()
			u.controlMaster()
			u.fdpass(from, same)
			u.forwards()
			u.jump()

			// All that was one link, and no other bastion than one.
			if n := u.Calls()["ecs:RunTask"]; n != 1 {
				t.Errorf("%d tasks were started", n)
			}
		})
	}
}

func (u *sshUser) scp(from string, same func(string)) {
	u.t.Helper()
	to := filepath.Join(u.dir, "scp")
	u.must(nil, "scp", "-F", u.config, "-q", from, sshHost+":"+to)
	same(to)
	u.must(nil, "scp", "-F", u.config, "-q", sshHost+":"+to, to+"-back")
	same(to + "-back")
}

func (u *sshUser) sftp(from string, same func(string)) {
	u.t.Helper()
	to := filepath.Join(u.dir, "sftp")
	batch := fmt.Sprintf("put %s %s\nget %s %s-back\n", from, to, to, to)
	u.must(strings.NewReader(batch), "sftp", "-F", u.config, "-q", "-b", "-", sshHost)
	same(to)
	same(to + "-back")
}

func (u *sshUser) rsync(from string, same func(string)) {
	u.t.Helper()
	to := filepath.Join(u.dir, "rsync")
	shell := "ssh -F " + u.config
	u.must(nil, "rsync", "-a", "-e", shell, from, sshHost+":"+to)
	same(to)
	u.must(nil, "rsync", "-a", "-e", shell, sshHost+":"+to, to+"-back")
	same(to + "-back")
}

// git clones from the host, pushes to it, and finds the pushed commit there.
func (u *sshUser) git() {
	u.t.Helper()
	bare, clone := filepath.Join(u.dir, "repo.git"), filepath.Join(u.dir, "clone")
	u.must(nil, "git", "init", "-q", "--bare", "-b", "main", bare)
	u.must(nil, "git", "clone", "-q", "ssh://"+sshHost+bare, clone)
	if err := os.WriteFile(filepath.Join(clone, "file"), []byte("content\n"), 0o600); err != nil {
		u.t.Fatal(err)
	}
	in := func(args ...string) string {
		u.t.Helper()
		return u.must(nil, "git", append([]string{"-C", clone, "-c", "user.name=me", "-c", "user.email=me@example.org"}, args...)...)
	}
	in("checkout", "-q", "-b", "main")
	in("add", "file")
	in("commit", "-q", "-m", "first")
	in("push", "-q", "origin", "main")
	if pushed, local := u.must(nil, "git", "-C", bare, "rev-parse", "main"), in("rev-parse", "HEAD"); pushed != local || local == "" {
		u.t.Errorf("pushed %q, the repository has %q", local, pushed)
	}
	if out := in("ls-remote", "origin", "refs/heads/main"); !strings.HasSuffix(out, "\trefs/heads/main\n") {
		u.t.Errorf("ls-remote: %q", out)
	}
}

// controlMaster runs several sessions at once over one connection.
func (u *sshUser) controlMaster() {
	u.t.Helper()
	options := []string{"-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-o", "ControlPath=" + filepath.Join(u.dir, "cm")}
	u.ssh(append(options, sshHost, "true")...)
	began := u.server.Connections()
	var sessions sync.WaitGroup
	for i := range 5 {
		sessions.Go(func() {
			want := strconv.Itoa(i)
			cmd := exec.CommandContext(u.t.Context(), "ssh", append(append([]string{"-F", u.config}, options...), sshHost, "echo", want)...)
			cmd.Env = append(os.Environ(), u.env...)
			var stderr strings.Builder // also has what the user's shell says when it starts
			cmd.Stderr = &stderr
			if out, err := cmd.Output(); err != nil || string(out) != want+"\n" {
				u.t.Errorf("a session of a master: %v, %q\n%s", err, out, &stderr)
			}
		})
	}
	sessions.Wait()
	if n := u.server.Connections(); n != began {
		u.t.Errorf("the sessions of a master made %d connections", n-began)
	}
	u.ssh(append(options, "-O", "exit", sshHost)...)
}

// fdpass has ssh take over the proxy's connection to the agent.
func (u *sshUser) fdpass(from string, same func(string)) {
	u.t.Helper()
	options := []string{"-o", "ProxyUseFdpass=yes", "-o", "ProxyCommand=" + filepath.Join(bin, "bastion") + " proxy --fdpass %h %p"}
	for range 5 { // the server's first bytes may come before or after the connection is handed over
		if out := u.ssh(append(options, sshHost, "echo", "passed")...); out != "passed\n" {
			u.t.Errorf("ssh with ProxyUseFdpass: %q", out)
		}
	}
	to := filepath.Join(u.dir, "fdpass")
	u.must(nil, "scp", append(append([]string{"-F", u.config, "-q"}, options...), from, sshHost+":"+to)...)
	same(to)
}

// listening starts ssh with a forward to this machine's port, until the returned function is called.
func (u *sshUser) listening(port int, args ...string) (end func()) {
	u.t.Helper()
	p := u.start(rig.Need(u.t, "ssh"), append([]string{"-F", u.config, "-o", "ExitOnForwardFailure=yes"}, args...)...)
	u.eventually("ssh listens", func() bool {
		up, err := rig.Listening(port)
		if err != nil {
			u.t.Fatal(err)
		}
		select {
		case <-p.Ended():
			u.t.Fatalf("ssh has ended\n%s", p.Output())
		default:
		}
		return up
	})
	return func() {
		if _, err := p.Stop(syscall.SIGTERM); err != nil {
			u.t.Error(err)
		}
	}
}

// forwards are what VS Code Remote and others do: -N with -L or -D, to the host and to the bastion itself.
func (u *sshUser) forwards() {
	u.t.Helper()
	for _, host := range []string{sshHost, "bastion"} {
		port, err := rig.FreePort()
		if err != nil {
			u.t.Fatal(err)
		}
		local := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		end := u.listening(port, "-N", "-L", local+":"+u.far.Addr(), host)
		u.echo(host+" -L", func(ctx context.Context) (net.Conn, error) { return rig.Dial(ctx, local) })
		end()
		end = u.listening(port, "-N", "-D", local, host)
		u.echo(host+" -D", func(context.Context) (net.Conn, error) {
			dialer, err := proxy.SOCKS5("tcp", local, nil, proxy.Direct)
			if err != nil {
				return nil, err
			}
			return dialer.Dial("tcp", u.far.Addr())
		})
		end()
	}
}

// echo sends bytes to the far end and waits for them.
func (u *sshUser) echo(what string, dial func(context.Context) (net.Conn, error)) {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), peerLimit)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		u.t.Errorf("%s: %v", what, err)
		return
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(peerLimit)); err != nil {
		u.t.Fatal(err)
	}
	if err := rig.NewEcho(conn).Round(); err != nil {
		u.t.Errorf("%s: %v", what, err)
	}
}

// jump goes to the host by the bastion's own SSH server, which ssh -J asks for a stream as -W does.
func (u *sshUser) jump() {
	u.t.Helper()
	if out := u.ssh("-J", "bastion", sshHost, "echo", "jumped"); out != "jumped\n" {
		u.t.Errorf("ssh -J: %q", out)
	}
	host, port, err := net.SplitHostPort(u.server.Addr())
	if err != nil {
		u.t.Fatal(err)
	}
	p := u.start(rig.Need(u.t, "ssh"), "-F", u.config, "-W", net.JoinHostPort(host, port), "bastion")
	ctx, cancel := context.WithTimeout(u.t.Context(), peerLimit)
	defer cancel()
	if err := p.WaitOutput(ctx, "SSH-2.0-OpenSSH"); err != nil {
		u.t.Errorf("ssh -W: %v\n%s", err, p.Output())
	}
}

// oneProxy is a `bastion proxy` to the far end's echo.
type oneProxy struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    io.Reader
	stderr bytes.Buffer
}

func (w *world) startProxy(ctx context.Context) (*oneProxy, error) {
	host, port, err := net.SplitHostPort(w.far.Addr())
	if err != nil {
		return nil, err
	}
	p := &oneProxy{cmd: exec.CommandContext(ctx, filepath.Join(bin, "bastion"), "proxy", host, port)}
	p.cmd.Env = append(os.Environ(), w.env...)
	p.cmd.Stderr = &p.stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if p.out, err = p.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	return p, p.cmd.Start()
}

// echo sends text, once 'e' was sent, and waits for it.
func (p *oneProxy) echo(text string) error {
	if _, err := io.WriteString(p.in, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(p.out, got); err != nil || string(got) != text {
		return fmt.Errorf("%q came back as %q: %w\n%s", text, got, err, &p.stderr)
	}
	return nil
}

// end closes the proxy's input, and waits for the end of both.
func (p *oneProxy) end() error {
	if err := p.in.Close(); err != nil {
		return err
	}
	if rest, err := io.ReadAll(p.out); err != nil || len(rest) > 0 {
		return fmt.Errorf("%q and %w after the end", rest, err)
	}
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("%w\n%s", err, &p.stderr)
	}
	return nil
}

// 200 proxies are connected at the same time, over one link.
func TestManyProxies(t *testing.T) {
	const n = 200
	w := newWorld(t, nil)
	w.useAgent()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var all, connected sync.WaitGroup
	connected.Add(n)
	began := time.Now()
	for i := range n {
		all.Go(func() {
			p, err := w.startProxy(ctx)
			if err == nil {
				_, err = io.WriteString(p.in, "e")
			}
			if err == nil {
				err = p.echo(fmt.Sprintf("this is %d", i))
			}
			connected.Done()
			connected.Wait() // none ends before all are connected
			if err == nil {
				err = p.echo(fmt.Sprintf("%d once more", i))
			}
			if err == nil {
				err = p.end()
			}
			if err != nil {
				t.Errorf("proxy %d: %v", i, err)
				cancel()
			}
		})
	}
	all.Wait()
	t.Logf("%d proxies in %s", n, time.Since(began))
	if runs := w.Calls()["ecs:RunTask"]; runs != 1 {
		t.Errorf("%d tasks were started", runs)
	}
}

// A proxy uses the present link: it asks nothing of AWS, so only the start of a process remains.
func TestWarmProxy(t *testing.T) {
	w := newWorld(t, nil)
	w.useAgent()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	once := func() time.Duration {
		t.Helper()
		began := time.Now()
		p, err := w.startProxy(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(p.in, "e"); err != nil {
			t.Fatal(err)
		}
		if err := p.echo("x"); err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		if err := p.end(); err != nil {
			t.Fatal(err)
		}
		return took
	}
	cold := once()
	before := w.Calls()
	var warm []time.Duration
	for range 20 {
		warm = append(warm, once())
	}
	after := w.Calls()
	// A link may grow, and the session of the first contact's grant ends after the connection that it was for has begun.
	for _, call := range []string{"ssm:StartSession", "ssm:TerminateSession"} {
		delete(before, call)
		delete(after, call)
	}
	if !maps.Equal(before, after) {
		t.Errorf("calls before %v, after %v", before, after)
	}
	slices.Sort(warm)
	t.Logf("first byte: cold %s; warm median %s, least %s, most %s", cold, warm[len(warm)/2], warm[0], warm[len(warm)-1])
}
