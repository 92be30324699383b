package access

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/sessions"
	"github.com/bastion-ssm/bastion/tunnel"
)

// nodeID is a managed node with an SSH server.
const nodeID = "i-0123456789abcdef0"

// withNode gives a lab a managed node, whose port 22 is the SSH server's.
func withNode(n *sshNode) func(*lab.Config) {
	return func(c *lab.Config) {
		c.Instances = map[string]lab.Instance{nodeID: {Ports: map[int]string{22: n.addr}}}
	}
}

// keyFile writes a private key to a file.
func keyFile(t *testing.T, private string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(private), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// serverSettings lead to the node's SSH server.
func serverSettings(hostKey ssh.PublicKey, identity string) []string {
	return []string{
		"target=" + nodeID, "ssh_user=jo", "ssh_host_key=" + authorizedLine(hostKey), "ssh_identity=" + identity,
	}
}

// A plain SSH server behind a node carries connections without any bastion: no call is about tasks, and each session is a connection of
// its own. The link's report says what it lacks.
func TestServerCarriesConnections(t *testing.T) {
	t.Parallel()
	host, _ := newKey(t)
	user, private := newKey(t)
	node := startNode(t, only("jo", user.PublicKey()), host)
	l := startLab(t, withNode(node))
	var steps steps
	a := l.access(Options{Progress: steps.add}, serverSettings(host.PublicKey(), keyFile(t, private))...)
	link, err := a.Pool([]string{"ignored:1"}, func(tunnel.State) {})
	if err != nil {
		t.Fatal(err)
	}
	link.Start(t.Context())
	conn, err := link.Dial(t.Context(), "tcp", "db.internal:5432")
	if err != nil {
		t.Fatal(err)
	}
	echoes(t, conn)
	if users, dials := node.seen(); !slices.Equal(users, []string{"jo"}) || !slices.Equal(dials, []string{"db.internal:5432"}) {
		t.Errorf("the server has seen %v and %v", users, dials)
	}
	l.wantCalls(map[string]int{"ssm:StartSession": 1, "ecs:ListTasks": 0, "ecs:RunTask": 0, "ecs:ExecuteCommand": 0, "sts:GetCallerIdentity": 0})
	if !steps.has("opening a session to " + nodeID) {
		t.Errorf("the steps: %q", steps.texts())
	}
	if c := link.Condition(); c.Waiting {
		t.Errorf("%+v", c)
	}
	if err := link.Reach(t.Context()); err != nil {
		t.Error(err)
	}
	shown := a.Links()
	if len(shown) != 1 || len(shown[0].Sessions) != 1 {
		t.Fatalf("%+v", shown)
	}
	if s := shown[0]; s.Bastion != nodeID || s.Kind != "single" || s.State != string(tunnel.Up) || len(s.Lacks) != 2 || s.Channels != 1 ||
		s.Document != sessions.DocumentSSH || s.Sent == 0 || s.Received == 0 || s.Sessions[0].Channels != 1 {
		t.Errorf("%+v", s)
	}
	a.probe() // its session answers
	_ = conn.Close()
	if err := link.Close(); err != nil {
		t.Error(err)
	}
	if left := a.Links(); len(left) != 0 {
		t.Errorf("after its end: %+v", left)
	}
	if c := link.Condition(); c != (Condition{}) {
		t.Errorf("after its end: %+v", c)
	}
}

// A server with several host keys shows the pinned one, whatever its type.
func TestServerShowsThePinnedKey(t *testing.T) {
	t.Parallel()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	old, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	host, _ := newKey(t)
	user, identity := newKey(t)
	l := startLab(t, withNode(startNode(t, only("jo", user.PublicKey()), host, old)))
	file := keyFile(t, identity)
	for _, pinned := range []ssh.PublicKey{host.PublicKey(), old.PublicKey()} {
		a := l.access(Options{}, serverSettings(pinned, file)...)
		link, err := a.Pool(nil, func(tunnel.State) {})
		if err != nil {
			t.Fatal(err)
		}
		link.Start(t.Context())
		if err := link.Ready(t.Context()); err != nil {
			t.Errorf("%s: %v", pinned.Type(), err)
		}
		_ = link.Close()
	}
	if got := algorithms([]ssh.PublicKey{old.PublicKey(), host.PublicKey(), old.PublicKey()}); !slices.Equal(got, []string{
		ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256, ssh.KeyAlgoED25519,
	}) {
		t.Errorf("algorithms of three keys: %v", got)
	}
}

// Whatever keeps a link from its server ends it with the kind and the next step, and what needs no session is found out without one.
func TestServerFails(t *testing.T) {
	t.Parallel()
	host, _ := newKey(t)
	other, _ := newKey(t)
	user, private := newKey(t)
	_, strangers := newKey(t)
	l := startLab(t, withNode(startNode(t, only("jo", user.PublicKey()), host)))
	l.AddInstance("i-0aaaaaaaaaaaaaaaa", lab.Instance{Offline: true})
	own, foreign := keyFile(t, private), keyFile(t, strangers)
	for name, tt := range map[string]struct {
		hostKey  ssh.PublicKey
		identity string
		settings []string
		faults   lab.APIFaults
		sessions bool // a session is asked for
		kind     fail.Kind
		says     string
		next     string
	}{
		"another host key": {
			hostKey: other.PublicKey(), identity: own, sessions: true, kind: fail.Denied, says: "not the pinned", next: "before you know why",
		},
		"another user's key": {
			identity: foreign, sessions: true, kind: fail.Denied, says: nodeID,
		},
		"no key file": {
			identity: own + ".none", kind: fail.Usage, says: "no such file", next: "--ssh-identity",
		},
		"no SSH agent": {
			identity: "agent", kind: fail.Usage, says: "SSH_AUTH_SOCK is not set", next: "ssh-add",
		},
		"a right": {
			identity: own, faults: lab.APIFaults{Deny: []string{"ssm:StartSession"}}, sessions: true, kind: fail.Denied,
			says: "open port 22 of " + nodeID, next: "ssm:StartSession",
		},
		"a node that does not connect": {
			identity: own, settings: []string{"target=i-0aaaaaaaaaaaaaaaa", "connect_timeout=500ms"}, sessions: true, kind: fail.Timeout,
			says: "no connection within 500ms; the latest failure: ", next: "check that the node runs",
		},
	} {
		t.Run(name, func(t *testing.T) {
			l.faults(tt.faults)
			before := l.calls("ssm:StartSession")[0]
			if tt.hostKey == nil {
				tt.hostKey = host.PublicKey()
			}
			a := l.access(Options{}, append(serverSettings(tt.hostKey, tt.identity), tt.settings...)...)
			link, err := a.Pool(nil, func(tunnel.State) {})
			if err != nil {
				t.Fatal(err)
			}
			defer link.Close()
			link.Start(t.Context())
			err = link.Ready(t.Context())
			if err == nil || fail.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.says) || !strings.Contains(fail.NextOf(err), tt.next) {
				t.Errorf("%v error %v, hint %q; want %v with %q and the hint %q", fail.KindOf(err), err, fail.NextOf(err), tt.kind, tt.says, tt.next)
			}
			if asked := l.calls("ssm:StartSession")[0] > before; asked != tt.sessions {
				t.Errorf("a session was asked for: %v, want %v", asked, tt.sessions)
			}
		})
	}
}

// A node that starts is waited for, and its user told once what the wait is for.
func TestServerIsWaitedFor(t *testing.T) {
	t.Parallel()
	host, _ := newKey(t)
	user, private := newKey(t)
	l := startLab(t, withNode(startNode(t, only("jo", user.PublicKey()), host)))
	l.faults(lab.APIFaults{NotConnected: 2})
	var steps steps
	a := l.access(Options{Progress: steps.add}, serverSettings(host.PublicKey(), keyFile(t, private))...)
	s, err := a.OpenSSH(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	want := []string{"opening a session to " + nodeID, "waiting for " + nodeID + " to connect to SSM"}
	if !slices.Equal(steps.texts(), want) {
		t.Errorf("the steps: %q, want %q", steps.texts(), want)
	}
	l.wantCalls(map[string]int{"ssm:StartSession": 3})
}

// Another program's SSH client gets the session and the pinned keys, and uses its own key: no Signer, and no bastion's grant.
func TestServerStream(t *testing.T) {
	t.Parallel()
	host, _ := newKey(t)
	user, private := newKey(t)
	node := startNode(t, only("jo", user.PublicKey()), host)
	l := startLab(t, withNode(node))
	a := l.access(Options{}, serverSettings(host.PublicKey(), keyFile(t, private))...)
	s, err := a.OpenSSH(t.Context(), []string{"db:5432"})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.HostKeys) != 1 || !sameKey(s.HostKeys[0], host.PublicKey()) {
		t.Errorf("host keys %v", s.HostKeys)
	}
	if signer, err := s.Signer(t.Context()); signer != nil || err != nil {
		t.Errorf("a signer %v, %v", signer, err)
	}
	client, _, _, err := ssh.NewClientConn(s.Conn, nodeID, &ssh.ClientConfig{
		User: "jo", Auth: []ssh.AuthMethod{ssh.PublicKeys(user)}, HostKeyCallback: ssh.FixedHostKey(s.HostKeys[0]),
	})
	if err != nil {
		t.Fatal(err)
	}
	shown := a.Links()
	if len(shown) != 1 || shown[0].Bastion != nodeID || shown[0].Kind != "single" || shown[0].Channels != 1 || len(shown[0].Sessions) != 1 ||
		shown[0].Sent == 0 || shown[0].Received == 0 || shown[0].Document != sessions.DocumentSSH {
		t.Errorf("%+v", shown)
	}
	a.probe()
	_ = client.Close()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if left := a.Links(); len(left) != 0 {
		t.Errorf("after its end: %+v", left)
	}
}

// A host key that cannot be read ends a command before AWS is called, and no link is shown for it.
func TestServerWithoutHostKey(t *testing.T) {
	t.Parallel()
	l := startLab(t, nil)
	shows := 0
	a := l.access(Options{Show: func(*Access) func() { shows++; return func() {} }},
		"target="+nodeID, "ssh_host_key="+filepath.Join(t.TempDir(), "missing"))
	_, err := a.Pool(nil, func(tunnel.State) {})
	_, streamErr := a.OpenSSH(t.Context(), nil)
	for _, err := range []error{err, streamErr} {
		if err == nil || fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "read ssh_host_key") || fail.NextOf(err) == "" {
			t.Errorf("%v, %q", err, fail.NextOf(err))
		}
	}
	if shows != 0 || len(a.Links()) != 0 {
		t.Errorf("shown %d times: %+v", shows, a.Links())
	}
	if calls := l.Calls(); len(calls) != 0 {
		t.Errorf("calls: %v", calls)
	}
}

// Commands about tasks do not touch a server: they say so, without a call, and status shows the server.
func TestServerIsNoTask(t *testing.T) {
	t.Parallel()
	host, _ := newKey(t)
	l := startLab(t, nil)
	a := l.access(Options{}, serverSettings(host.PublicKey(), "agent")...)
	up, err := a.Up(t.Context())
	if err == nil || fail.KindOf(err) != fail.Usage || !strings.HasPrefix(err.Error(), "start the bastion: ") || fail.NextOf(err) == "" ||
		up.New {
		t.Errorf("up: %v, %+v", err, up)
	}
	down, err := a.Down(t.Context(), true)
	if err == nil || fail.KindOf(err) != fail.Usage || !strings.HasPrefix(err.Error(), "stop the bastion: ") || down.Stopped == nil ||
		down.Left == nil {
		t.Errorf("down: %v, %+v", err, down)
	}
	if calls := l.Calls(); len(calls) != 0 {
		t.Errorf("calls: %v", calls)
	}
	st, err := a.Status(t.Context())
	if err != nil || st.Target != nodeID || st.Cluster != "" || st.Bastions == nil || len(st.Bastions) != 0 || st.Region != lab.Region {
		t.Errorf("status: %+v, %v", st, err)
	}
	l.wantCalls(map[string]int{"sts:GetCallerIdentity": 1, "ecs:ListTasks": 0})
}

// A caller that gives up while a node is waited for gets its own reason back, and nothing is opened for it any more.
func TestServerWaitIsInterrupted(t *testing.T) {
	t.Parallel()
	host, _ := newKey(t)
	_, private := newKey(t)
	l := startLab(t, nil)
	l.AddInstance(nodeID, lab.Instance{Offline: true})
	interrupted := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	a := l.access(Options{Progress: func(step string) {
		if strings.HasPrefix(step, "waiting for ") {
			cancel(interrupted)
		}
	}}, serverSettings(host.PublicKey(), keyFile(t, private))...)
	began := time.Now()
	if _, err := a.OpenSSH(ctx, nil); !errors.Is(err, interrupted) || strings.Contains(err.Error(), "no connection within") {
		t.Errorf("%v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("after %s", took)
	}
	l.wantCalls(map[string]int{"ssm:StartSession": 1})
}
