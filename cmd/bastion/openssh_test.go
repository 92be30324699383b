package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
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
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/gateway"
)

// sshConfig writes ssh_config.example with this test's program in it, and returns its path.
func (e *labEnv) sshConfig() string {
	e.t.Helper()
	text, err := os.ReadFile("../../ssh_config.example")
	if err != nil {
		e.t.Fatal(err)
	}
	const named = "/usr/local/bin/bastion known-hosts"
	if !bytes.Contains(text, []byte(named)) {
		e.t.Fatalf("ssh_config.example does not name %s", named)
	}
	text = bytes.ReplaceAll(text, []byte(named), []byte(e.program+" known-hosts"))
	path := filepath.Join(e.t.TempDir(), "config")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		e.t.Fatal(err)
	}
	return path
}

// runtimeDir is the directory of the sockets.
func (e *labEnv) runtimeDir() string {
	e.t.Helper()
	for _, kv := range e.env {
		if dir, ok := strings.CutPrefix(kv, "XDG_RUNTIME_DIR="); ok {
			return filepath.Join(dir, "bastion")
		}
	}
	e.t.Fatal("the environment has no XDG_RUNTIME_DIR")
	return ""
}

// remembered returns the file with the remembered facts of the only bastion.
func (e *labEnv) remembered() string {
	e.t.Helper()
	paths, err := filepath.Glob(filepath.Join(e.runtimeDir(), "host-key-*"))
	if err != nil || len(paths) != 1 {
		e.t.Fatalf("remembered: %v, %v", paths, err)
	}
	return paths[0]
}

// ssh returns a command of OpenSSH that finds "bastion" in PATH, as ssh_config.example does.
func (e *labEnv) ssh(program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(e.t.Context(), program, args...)
	cmd.Env = append(slices.Clone(e.env), "PATH="+scratch+string(os.PathListSeparator)+os.Getenv("PATH"))
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// An OpenSSH client uses the bastion by ssh_config.example, several at once, with no key and no host key on disk.
func TestOpenSSHToTheBastion(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	client, config := rig.Need(t, "ssh"), e.sshConfig()
	e.must("up", "-q")
	type proxied struct {
		cmd    *exec.Cmd
		port   int
		stderr *bytes.Buffer
	}
	var all []proxied
	for range 3 {
		port, err := rig.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		p := proxied{port: port, stderr: new(bytes.Buffer)}
		p.cmd = e.ssh(client, "-F", config, "-o", "ExitOnForwardFailure=yes", "-N", "-D", "127.0.0.1:"+strconv.Itoa(port), "bastion")
		p.cmd.Stderr = p.stderr
		if err := p.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	for _, p := range all {
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("ssh says: %s", p.stderr)
			}
		})
		eventually(t, "ssh -D listens", func() bool {
			conn, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(p.port))
			if err == nil {
				_ = conn.Close()
			}
			return err == nil
		})
		dialer, err := proxy.SOCKS5("tcp", "127.0.0.1:"+strconv.Itoa(p.port), nil, proxy.Direct)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := dialer.Dial("tcp", lab.WebHost+":80")
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		fmt.Fprintf(conn, "GET / HTTP/1.0\r\nHost: %s\r\n\r\n", lab.WebHost)
		page, err := io.ReadAll(conn)
		_ = conn.Close()
		if err != nil || !bytes.Contains(page, []byte("wiki")) {
			t.Errorf("%v in %q", err, page)
		}
	}
	for _, p := range all {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		_ = p.cmd.Wait() // ended by the signal
		if p.stderr.Len() > 0 {
			t.Errorf("ssh says: %s", p.stderr)
		}
	}
	eventually(t, "the proxies end their sessions", func() bool { return len(e.Gateway().Sessions()) == 0 })
	eventually(t, "the sockets are removed", func() bool {
		left, err := filepath.Glob(filepath.Join(e.runtimeDir(), "*.sock"))
		return err == nil && len(left) == 0
	})

	// The bastion has no shell, and ssh shows the bastion's message.
	out, err := e.ssh(client, "-F", config, "bastion", "id").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "bastiond has no shell") {
		t.Errorf("%v: %s", err, out)
	}
	eventually(t, "no session is left", func() bool { return len(e.Gateway().Sessions()) == 0 })
}

// OpenSSH refuses a bastion whose host key is not the one that was told by ECS Exec. The proxy of the second client is one
// that answers known-hosts with another bastion's key.
func TestKnownHostsWithoutProxy(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	r := e.run(nil, "known-hosts", "bastion")
	if r.code != 1 || !strings.Contains(r.stderr, "no bastion proxy is running") || r.stdout != "" {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
	// A host that is not the bastion is no business of ours.
	if r := e.run(nil, "known-hosts", "app.corp.internal"); r.code != 0 || r.stdout != "" || r.stderr != "" {
		t.Errorf("%+v", r)
	}
}

// sshd serves SSH on a loopback address by `sshd -i`, one process for each connection.
type sshd struct {
	addr    string
	hostKey ssh.PublicKey
	active  string // directory of more authorized keys, by user
}

// startSSHD starts one that lets in the key, which may be nil.
func startSSHD(t *testing.T, authorized ssh.PublicKey) *sshd {
	t.Helper()
	program := rig.Need(t, "sshd")
	if os.Geteuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // its privilege separation wants it
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	hostKey := testIdentity(t)
	data, err := os.ReadFile(hostKey)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		t.Fatal(err)
	}
	keys, active := filepath.Join(dir, "authorized_keys"), filepath.Join(dir, "active")
	if authorized != nil {
		if err := os.WriteFile(keys, ssh.MarshalAuthorizedKey(authorized), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(active, 0o700); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "sshd_config")
	text := "HostKey " + hostKey + "\nAuthorizedKeysFile " + keys + " " + active +
		"/%u\nStrictModes no\nUsePAM no\nPidFile none\n" +
		"PasswordAuthentication no\nPermitRootLogin prohibit-password\nLogLevel ERROR\nSubsystem sftp internal-sftp\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context() // ends before the clean-up, which waits for the servers
	addr := serveTCP(t, func(conn net.Conn) {
		file, err := conn.(*net.TCPConn).File()
		_ = conn.Close()
		if err != nil {
			t.Error(err)
			return
		}
		defer file.Close()
		cmd := exec.CommandContext(ctx, program, "-i", "-f", config)
		cmd.Stdin, cmd.Stdout = file, file
		_ = cmd.Run() // its end is the connection's
	})
	return &sshd{addr: addr, hostKey: signer.PublicKey(), active: active}
}

func authorizedLine(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// sshdNode is a managed node with a stock OpenSSH server.
const sshdNode = "i-0123456789abcdef0"

// startNode starts a lab with such a node. It returns the address of the node's Redis, a known_hosts file with the node's host key,
// and the settings to reach it.
func startNode(t *testing.T) (e *labEnv, redis, known string, env []string) {
	t.Helper()
	identity := testIdentity(t)
	signer, err := ssh.ParsePrivateKey(mustRead(t, identity))
	if err != nil {
		t.Fatal(err)
	}
	server := startSSHD(t, signer.PublicKey())
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	e = startLab(t, func(c *lab.Config) {
		c.Instances = map[string]lab.Instance{sshdNode: {
			Ports: map[int]string{22: server.addr}, ActiveKeys: server.active, Tags: map[string]string{"bastion:host": "bastion-host"},
		}}
	})
	for _, db := range e.Databases() {
		if strings.Contains(db.Endpoint, "cache") {
			redis = db.Addr
		}
	}
	known = filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(known, []byte(sshdNode+" "+authorizedLine(server.hostKey)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return e, redis, known, []string{
		"BASTION_TARGET=" + sshdNode, "BASTION_SSH_USER=" + me.Username, "BASTION_SSH_IDENTITY=" + identity,
		"BASTION_SSH_HOST_KEY=" + known, "BASTION_RECONNECT_MAX=1s",
	}
}

// A stock OpenSSH server behind a managed node is the far end: no task, no bastiond, a pinned host key.
func TestForwardThroughOpenSSHServer(t *testing.T) {
	t.Parallel()
	e, redis, known, env := startNode(t)
	p, f := e.forwards(env, redis, ":")
	if err := ping(f[0].Listen); err != nil {
		t.Fatalf("%v\n%s", err, p.Output())
	}
	for _, s := range e.Gateway().Sessions() {
		if s.Document != gateway.DocSSH {
			t.Errorf("a session of %s", s.Document)
		}
		if err := e.Gateway().Terminate(s.ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := ping(f[0].Listen); err != nil {
		t.Errorf("after the end of the session: %v\n%s", err, p.Output())
	}
	e.stop(p, syscall.SIGINT, 130)
	e.noSessions()
	if calls := e.Calls(); calls["ecs:RunTask"]+calls["ecs:ListTasks"]+calls["ecs:ExecuteCommand"] != 0 {
		t.Errorf("calls: %v", calls)
	}

	// Another host key is refused.
	other, err := ssh.ParsePrivateKey(mustRead(t, testIdentity(t)))
	if err != nil {
		t.Fatal(err)
	}
	r := e.run(append(env, "BASTION_SSH_HOST_KEY="+authorizedLine(other.PublicKey())), "forward", redis, ":")
	if r.code != 5 || !strings.Contains(r.stderr, "not the server that was expected") {
		t.Errorf("another host key: exit code %d\n%s", r.code, r.stderr)
	}
	// So is another user key.
	r = e.run(append(env, "BASTION_SSH_IDENTITY="+testIdentity(t)), "forward", redis, ":")
	if r.code != 5 {
		t.Errorf("another user key: exit code %d\n%s", r.code, r.stderr)
	}
	e.noSessions()
	if r := e.must("status", "--target", sshdNode, "--ssh-host-key", known); !strings.Contains(r.stdout, sshdNode) {
		t.Errorf("status: %s", r.stdout)
	}
}

// endless serves as many bytes as its clients read, and returns its address.
func endless(t *testing.T) string {
	t.Helper()
	return serveTCP(t, func(conn net.Conn) {
		var err error
		for buf := make([]byte, 16<<10); err == nil; {
			_, err = conn.Write(buf)
		}
	})
}

// serveTCP serves each client by handle, and returns its address. The test's end closes all connections, and waits for handle.
func serveTCP(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		_ = ln.Close()
		cancel()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
				defer conn.Close()
				handle(conn)
			})
		}
	})
	return ln.Addr().String()
}

// download reads from addr until the connection ends, and returns it and how it ended.
func download(t *testing.T, addr string) (net.Conn, <-chan error) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := io.Copy(io.Discard, conn)
		ended <- err
	})
	t.Cleanup(func() {
		_ = conn.Close()
		wg.Wait()
	})
	return conn, ended
}

// links returns the links that status shows.
func (e *labEnv) links(env []string) []report.Link {
	e.t.Helper()
	r := e.run(env, "status", "-o", "json")
	var out struct {
		Processes []report.Process `json:"processes"`
	}
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil || r.code != 0 {
		e.t.Fatalf("status: %v, exit code %d\n%s%s", err, r.code, r.stdout, r.stderr)
	}
	var links []report.Link
	for _, p := range out.Processes {
		links = append(links, p.Links...)
	}
	return links
}

// An OpenSSH server knows no bond. Connections are spread over several SSH connections, as many as there is work for; each lives
// as long as its session.
func TestPoolToOpenSSHServer(t *testing.T) {
	t.Parallel()
	e, redis, _, env := startNode(t)
	env = append(env, "BASTION_SESSIONS=2")
	p, f := e.forwards(env, endless(t), ":", redis, ":")
	bulk, cache := f[0].Listen, f[1].Listen
	if err := ping(cache); err != nil {
		t.Fatal(err)
	}
	_, first := download(t, bulk)
	var link report.Link
	sessions := func(n int) func() bool {
		return func() bool {
			all := e.links(env)
			if len(all) != 1 {
				t.Fatalf("%d links", len(all))
			}
			link = all[0]
			return len(link.Sessions) == n
		}
	}
	eventually(t, "a second session beside a bulk transfer", sessions(2))
	held, err := net.Dial("tcp", cache)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := pingOn(held); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both are used", func() bool {
		return sessions(2)() && link.Sessions[0].Channels == 1 && link.Sessions[1].Channels == 1
	})
	s := link.Sessions[0]
	if link.Kind != "single" || link.Bastion != sshdNode || link.State != "up" || link.Channels != 2 || s.State != "up" ||
		s.ReceiveRate < 1e3 || s.RTT <= 0 || s.Age <= 0 || s.Received < 100e3 {
		t.Errorf("status: %+v", link)
	}
	r := e.run(env, "status")
	want := regexp.MustCompile(`(?s)\nforward \(process \d+\) to ` + sshdNode + `: up for \d+s, 2 connections\n` +
		`  no bond: a connection lives as long as its session\n.*\n  ` + s.ID + ` +up +\d+s +[0-9.]+ k?B/s +[0-9.]+ [kM]B/s +[0-9.]+ ms`)
	if r.code != 0 || !want.MatchString(r.stdout) {
		t.Errorf("status: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}

	// The end of one session ends its own connections only, and the others go on. It comes back by itself.
	if err := e.Gateway().Terminate(s.ID); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-first:
		if err == nil {
			t.Error("a transfer that was cut short ended well")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the transfer of an ended session goes on")
	}
	if err := pingOn(held); err != nil {
		t.Errorf("the other connection: %v\n%s", err, p.Output())
	}
	eventually(t, "the session is replaced", func() bool { return sessions(2)() && link.Sessions[0].ID != s.ID })
	if strings.Contains(p.Output(), "the link is lost") {
		t.Errorf("a link with a connection left is lost\n%s", p.Output())
	}
	e.stop(p, syscall.SIGINT, 130)
	e.noSessions()
	if got := e.links(env); len(got) != 0 {
		t.Errorf("status afterwards: %+v", got)
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// ssh and scp reach a host behind the bastion by ssh_config.example, with the user's own key.
func TestOpenSSHToAHostBehind(t *testing.T) {
	t.Parallel()
	client, copier := rig.Need(t, "ssh"), rig.Need(t, "scp")
	identity := testIdentity(t)
	signer, err := ssh.ParsePrivateKey(mustRead(t, identity))
	if err != nil {
		t.Fatal(err)
	}
	server := startSSHD(t, signer.PublicKey())
	_, port, err := net.SplitHostPort(server.addr)
	if err != nil {
		t.Fatal(err)
	}
	const host = "app-1.corp.internal"
	e := startLab(t, func(c *lab.Config) { c.Allow = []string{"127.0.0.1:" + port} })
	e.AddName(host, mustAddr("127.0.0.1:1").Addr())
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	known := filepath.Join(dir, "known_hosts")
	line := fmt.Sprintf("[%s]:%s %s\n", host, port, authorizedLine(server.hostKey))
	if err := os.WriteFile(known, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	options := []string{
		"-F", e.sshConfig(), "-o", "UserKnownHostsFile=" + known, "-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes",
		"-o", "IdentityFile=" + identity, "-o", "User=" + me.Username, "-o", "Port=" + port,
	}
	var stderr bytes.Buffer
	cmd := e.ssh(client, append(options, host, "echo", "hello")...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || string(out) != "hello\n" {
		t.Errorf("ssh: %q, %v\n%s", out, err, &stderr)
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	if err := os.WriteFile(from, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := e.ssh(copier, append(options, "-q", from, host+":"+to)...).CombinedOutput(); err != nil {
		t.Errorf("scp: %v\n%s", err, out)
	}
	if got := mustRead(t, to); !bytes.Equal(got, data) {
		t.Errorf("scp copied %d bytes of %d", len(got), len(data))
	}
	eventually(t, "the proxies end their sessions", func() bool { return len(e.Gateway().Sessions()) == 0 })
}

// ssh reaches an EC2 instance by its id, without a bastion: with the user's own key by ssh_config.example, and with ssh-config's
// block and a key that only EC2 Instance Connect gives the instance.
func TestOpenSSHToAnInstance(t *testing.T) {
	t.Parallel()
	client := rig.Need(t, "ssh")
	identity := testIdentity(t)
	signer, err := ssh.ParsePrivateKey(mustRead(t, identity))
	if err != nil {
		t.Fatal(err)
	}
	server := startSSHD(t, signer.PublicKey())
	e := startLab(t, func(c *lab.Config) {
		c.Instances = map[string]lab.Instance{
			sshdNode:              {Ports: map[int]string{22: server.addr}, ActiveKeys: server.active},
			"i-0aaaaaaaaaaaaaaaa": {Ports: map[int]string{22: server.addr}},
		}
	})
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	known := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(known, []byte("i-* "+authorizedLine(server.hostKey)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	printed := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(printed, []byte(e.must("ssh-config", "--instance-connect", "--connect-timeout", "2s").stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(config, host string, options ...string) (string, error) {
		args := append([]string{"-F", config, "-o", "UserKnownHostsFile=" + known, "-o", "StrictHostKeyChecking=yes"},
			options...)
		out, err := e.ssh(client, append(args, me.Username+"@"+host, "echo", "hello")...).CombinedOutput()
		return string(out), err
	}
	if out, err := run(e.sshConfig(), sshdNode, "-o", "IdentitiesOnly=yes", "-i", identity); err != nil ||
		out != "hello\n" {
		t.Errorf("with the user's own key: %v\n%s", err, out)
	}
	if calls := e.Calls(); calls["ssm:StartSession"] != 1 ||
		calls["ecs:RunTask"]+calls["ecs:ListTasks"]+calls["ecs:ExecuteCommand"] != 0 {
		t.Errorf("calls: %v", calls)
	}
	if out, err := run(printed, sshdNode); err != nil || out != "hello\n" {
		t.Errorf("with EC2 Instance Connect: %v\n%s", err, out)
	}
	sent := string(mustRead(t, filepath.Join(server.active, me.Username)))
	if !strings.HasPrefix(sent, "expiry-time=") || strings.Count(sent, "\n") != 1 ||
		strings.Contains(sent, authorizedLine(signer.PublicKey())) {
		t.Errorf("sent to the instance: %s", sent)
	}
	// An instance that takes no keys, and one that nobody knows: ssh shows why, and what it waits for before it gives up.
	for host, want := range map[string]string{
		"i-0aaaaaaaaaaaaaaaa": `leave out --instance-connect`,
		"i-0bbbbbbbbbbbbbbbb": `(?s)^bastion: waiting up to 2s for i-0bbbbbbbbbbbbbbbb: .*TargetNotConnected: i-0bbbbbbbbbbbbbbbb is not connected[^\n]*\n` +
			` *hint: check that the node runs[^\n]*\n` + `bastion: .*no connection within 2s.*\n *hint: `,
	} {
		if out, err := run(printed, host); err == nil || !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("%s: %v\n%s", host, err, out)
		}
	}
	// One that connects a moment later is reached, and its user knows what took so long.
	if err := e.SetAPIFaults(lab.APIFaults{NotConnected: 1}); err != nil {
		t.Fatal(err)
	}
	if out, err := run(printed, sshdNode); err != nil || strings.Count(out, "bastion: waiting up to 2s for ") != 1 || !strings.HasSuffix(out, "\nhello\n") {
		t.Errorf("once it is connected: %v\n%s", err, out)
	}
	eventually(t, "no session is left", func() bool { return len(e.Gateway().Sessions()) == 0 })
	left, err := filepath.Glob(filepath.Join(e.runtimeDir(), "*.sock"))
	if err != nil || len(left) != 0 {
		t.Errorf("sockets are left: %v, %v", left, err)
	}
}

// A reader that goes away does not keep a proxy from ending its session.
func TestProxyWithoutReader(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	cmd, in, out, _ := e.piped(nil, "proxy", lab.WebHost, "80")
	_ = out.Close()
	if _, err := fmt.Fprintf(in, "GET / HTTP/1.0\r\nHost: %s\r\n\r\n", lab.WebHost); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
		t.Errorf("ended by %v", exit)
	}
	e.noSessions()
}

// The first signal ends a command that waits, wherever it is; nothing stays.
func TestInterruptWhileStarting(t *testing.T) {
	t.Parallel()
	e := startLab(t, func(c *lab.Config) { c.ConnectDelay = time.Hour })
	p := e.start(nil, "forward", "cache", ":")
	eventually(t, "it waits for the exec agent", func() bool {
		return strings.Contains(p.Output(), "waiting for the bastion's exec agent to connect")
	})
	e.stop(p, syscall.SIGINT, 130)
	if strings.Contains(p.Output(), "hint: ") {
		t.Errorf("an error for who pressed Ctrl-C:\n%s", p.Output())
	}
	e.noSessions()
}
