package access

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/gateway"
	"github.com/bastion-ssm/bastion/targets"
)

// bastiond builds the program of the lab's tasks, once.
var bastiond = sync.OnceValues(func() (string, error) {
	return rig.BuildBastiond(os.Getenv("HOME"), "HOME="+userHome)
})

// testLab is a local AWS without delays and databases.
type testLab struct {
	*lab.Lab
	t   *testing.T
	env map[string]string // of the identity that may do everything
	dir string            // runtime directory of its Accesses
}

// startLab starts a lab. Its end checks that no session is left.
func startLab(t *testing.T, change func(*lab.Config)) *testLab {
	t.Helper()
	program, err := bastiond()
	if err != nil {
		t.Fatal(err)
	}
	cfg := lab.Config{
		Bastiond: program, Postgres: lab.Off, Redis: lab.Off, NoWeb: true, StateDelay: -1, ExecDelay: -1, ConnectDelay: -1,
		StopTimeout: 3 * time.Second, Gateway: gateway.Config{AgentDelay: time.Millisecond, ExecDelay: 20 * time.Millisecond},
	}
	if change != nil {
		change(&cfg)
	}
	l, err := lab.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left := l.Gateway().Sessions(); len(left) > 0 {
			t.Errorf("%d sessions are left: %+v", len(left), left)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(t.TempDir(), "run")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return &testLab{Lab: l, t: t, env: environment(l.Env()), dir: dir}
}

// environment returns an environment as a map.
func environment(env []string) map[string]string {
	vars := make(map[string]string)
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		vars[name] = value
	}
	return vars
}

// access returns an Access to the lab with further settings, given as KEY=TEXT. The test's end closes it.
func (l *testLab) access(o Options, settings ...string) *Access {
	l.t.Helper()
	texts := map[string]string{"runtime_dir": l.dir}
	for _, kv := range settings {
		key, text, _ := strings.Cut(kv, "=")
		texts[key] = text
	}
	s, err := config.FromTexts(texts)
	if err != nil {
		l.t.Fatal(err)
	}
	if o.Env == nil {
		o.Env = awssdk.NewEnv(l.env)
	}
	a, err := New(l.t.Context(), s, o)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(a.Close)
	return a
}

// faults replaces the faults of the lab's API.
func (l *testLab) faults(f lab.APIFaults) {
	l.t.Helper()
	if err := l.SetAPIFaults(f); err != nil {
		l.t.Fatal(err)
	}
}

// calls returns how often each of the actions was called.
func (l *testLab) calls(actions ...string) []int {
	all := l.Calls()
	out := make([]int, len(actions))
	for i, action := range actions {
		out[i] = all[action]
	}
	return out
}

// wantCalls checks how often each action was called in all: "ssm:StartSession" 1, "ecs:RunTask" 0.
func (l *testLab) wantCalls(want map[string]int) {
	l.t.Helper()
	all := l.Calls()
	for action, n := range want {
		if all[action] != n {
			l.t.Errorf("%s was called %d times, want %d", action, all[action], n)
		}
	}
}

// eventually waits for what no channel tells of.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	limit := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("not reached: %s", what)
		}
	}
}

// steps collects the steps of an Access's progress.
type steps struct {
	mu   sync.Mutex
	all  []string // without immediate repetitions
	vain int      // grant commands that ran before bastiond served
}

func (s *steps) add(step string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if step == "waiting for bastiond" {
		s.vain++
	}
	if len(s.all) == 0 || s.all[len(s.all)-1] != step {
		s.all = append(s.all, step)
	}
}

func (s *steps) has(step string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.all, step)
}

// texts returns the steps until now, without immediate repetitions.
func (s *steps) texts() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

// early returns how many grant commands ran before bastiond served. The lab's tasks start without delay, so the first command and
// bastiond's start race. The Access tells of each such command once and runs another.
func (s *steps) early() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.vain
}

// sshNode is an SSH server, as a managed node has one. Each destination behind it echoes.
type sshNode struct {
	addr     string
	hostKeys []ssh.Signer
	admits   func(user string, key ssh.PublicKey) bool

	mu    sync.Mutex
	users []string // who has logged in
	dials []string // where its clients were connected to
}

// startNode starts an SSH server on loopback. The test's end closes its connections and waits for them.
func startNode(t *testing.T, admits func(user string, key ssh.PublicKey) bool, hostKeys ...ssh.Signer) *sshNode {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &sshNode{addr: ln.Addr().String(), hostKeys: hostKeys, admits: admits}
	var work sync.WaitGroup
	var mu sync.Mutex
	open := make(map[net.Conn]bool)
	work.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[conn] = true
			mu.Unlock()
			work.Go(func() {
				n.serve(conn)
				mu.Lock()
				delete(open, conn)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for conn := range open {
			_ = conn.Close()
		}
		mu.Unlock()
		work.Wait()
	})
	return n
}

// serve is the life of one SSH connection.
func (n *sshNode) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	cfg := &ssh.ServerConfig{PublicKeyCallback: func(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if !n.admits(meta.User(), key) {
			return nil, fmt.Errorf("%s is unknown", meta.User())
		}
		return nil, nil
	}}
	for _, key := range n.hostKeys {
		cfg.AddHostKey(key)
	}
	sc, chans, requests, err := ssh.NewServerConn(conn, cfg)
	if err != nil {
		return
	}
	n.mu.Lock()
	n.users = append(n.users, sc.User())
	n.mu.Unlock()
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { ssh.DiscardRequests(requests) })
	for ch := range chans {
		var to struct {
			Host string
			Port uint32
			Rest []byte `ssh:"rest"`
		}
		if ch.ChannelType() != "direct-tcpip" || ssh.Unmarshal(ch.ExtraData(), &to) != nil {
			_ = ch.Reject(ssh.UnknownChannelType, "nothing is here")
			continue
		}
		n.mu.Lock()
		n.dials = append(n.dials, Destination(to.Host, int(to.Port)))
		n.mu.Unlock()
		c, reqs, err := ch.Accept()
		if err != nil {
			continue
		}
		work.Go(func() { ssh.DiscardRequests(reqs) })
		work.Go(func() {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		})
	}
}

// seen returns who has logged in, and where clients were connected to.
func (n *sshNode) seen() (users, dials []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.users), slices.Clone(n.dials)
}

// only admits one user with one key.
func only(user string, key ssh.PublicKey) func(string, ssh.PublicKey) bool {
	return func(u string, k ssh.PublicKey) bool { return u == user && sameKey(k, key) }
}

// authorizedLine returns a key in authorized_keys form.
func authorizedLine(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// echoes checks that a connection sends back what it gets.
func echoes(t *testing.T, conn net.Conn) {
	t.Helper()
	const text = "hello"
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, len(text))
	if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != text {
		t.Fatalf("%q, %v", buf, err)
	}
}

// parseAll parses targets.
func parseAll(t *testing.T, texts ...string) []targets.Spec {
	t.Helper()
	specs := make([]targets.Spec, len(texts))
	for i, text := range texts {
		var err error
		if specs[i], err = targets.Parse(text); err != nil {
			t.Fatal(err)
		}
	}
	return specs
}
