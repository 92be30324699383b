package access

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/keys"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/gateway"
	"github.com/bastion-ssm/bastion/sessions"
	"github.com/bastion-ssm/bastion/tunnel"
)

// echo serves connections on loopback, and sends back what they bring. It returns its address.
func echo(t *testing.T) string {
	t.Helper()
	s, err := rig.ServeLoopback(func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s.Addr()
}

// reaching lets the tasks of a lab reach this machine.
func reaching(c *lab.Config) { c.Allow = []string{"127.0.0.1:*"} }

// client logs in at a stream's server as another program's SSH client does.
func client(t *testing.T, s *SSHStream) (*ssh.Client, error) {
	t.Helper()
	signer, err := s.Signer(t.Context())
	if err != nil {
		return nil, err
	}
	conn, chans, requests, err := ssh.NewClientConn(s.Conn, "bastion", &ssh.ClientConfig{
		User: "bastion", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.FixedHostKey(s.HostKeys[0]),
	})
	if err != nil {
		return nil, err
	}
	return ssh.NewClient(conn, chans, requests), nil
}

// running returns the bastion that runs in the lab, as ECS tells of it.
func (l *testLab) running(a *Access) bastions.Bastion {
	l.t.Helper()
	spec, err := a.spec(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	all, err := a.manager.List(l.t.Context(), spec)
	if err != nil || len(all) != 1 {
		l.t.Fatalf("%+v, %v", all, err)
	}
	return all[0]
}

// Another program's SSH client gets a stream to bastiond with its host key and a key of its own, narrowed to what it may reach. The second
// stream begins before the grant's answer, because the host key is known by then.
func TestTaskStream(t *testing.T) {
	t.Parallel()
	to := echo(t)
	l := startLab(t, reaching)
	var steps steps
	a := l.access(Options{Progress: steps.add})
	var signers []ssh.PublicKey
	for i := range 2 {
		s, err := a.OpenSSH(t.Context(), []string{to})
		if err != nil {
			t.Fatal(err)
		}
		if early := s.opened.granted != nil; early != (i == 1) {
			t.Errorf("stream %d before its grant's answer: %v", i, early)
		}
		c, err := client(t, s)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := s.Signer(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		signers = append(signers, signer.PublicKey())
		conn, err := c.Dial("tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		echoes(t, conn)
		if _, err := c.Dial("tcp", "127.0.0.1:9"); err == nil || !strings.Contains(err.Error(), "administratively prohibited") {
			t.Errorf("beyond the grant: %v", err)
		}
		shown := a.Links()
		if len(shown) != 1 || shown[0].Bastion != describe(new(l.running(a))) || shown[0].Kind != "bond" || shown[0].BondVersion == 0 ||
			len(shown[0].Sessions) == 0 || shown[0].Document != sessions.DocumentSSH || shown[0].MaxAge != a.settings.Link.SessionMaxAge.Seconds() ||
			shown[0].Sent == 0 || shown[0].Received == 0 || len(shown[0].Lacks) != 0 {
			t.Errorf("%+v", shown)
		}
		a.probe()
		_ = c.Close()
		_ = s.Close()
		if left := a.Links(); len(left) != 0 {
			t.Errorf("after its end: %+v", left)
		}
	}
	if sameKey(signers[0], signers[1]) {
		t.Error("a key serves two streams")
	}
	l.wantCalls(map[string]int{"ecs:RunTask": 1, "ecs:ExecuteCommand": 2 + steps.early(), "sts:GetCallerIdentity": 1})
}

// A task whose bastiond takes no bonds is entered by a session alone, by the port that it names.
func TestTaskWithoutBond(t *testing.T) {
	t.Parallel()
	to := echo(t)
	l := startLab(t, func(c *lab.Config) {
		reaching(c)
		c.TaskEnv = map[string]string{"BASTIOND_BOND_LISTEN": "off", "BASTIOND_LISTEN": "127.0.0.1:0"}
		c.Gateway.ClosedPortDelay = time.Millisecond
	})
	a := l.access(Options{})
	link, err := a.Pool([]string{to}, func(tunnel.State) {})
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	link.Start(t.Context())
	conn, err := link.Dial(t.Context(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	echoes(t, conn)
	_, ports, known := a.hostKeys.get(l.running(a))
	if !known || ports.SSH == keys.DefaultPorts.SSH || ports.Bond != 0 {
		t.Errorf("bastiond names %+v", ports)
	}
	all := l.Gateway().Sessions()
	open := slices.DeleteFunc(slices.Clone(all), func(s gateway.Info) bool { return s.Document != gateway.DocSSH || s.Port != ports.SSH })
	if len(open) != 1 {
		t.Fatalf("sessions to port %d: %+v", ports.SSH, all)
	}
	shown := a.Links()
	if len(shown) != 1 || shown[0].Kind != "single" || len(shown[0].Lacks) != 2 || shown[0].BondVersion != 0 || shown[0].MaxAge != 0 {
		t.Errorf("%+v", shown)
	}
	if c := link.Condition(); c.Waiting {
		t.Errorf("%+v", c)
	}
	if err := link.Reach(t.Context()); err != nil {
		t.Error(err)
	}
	// The key is still granted, so the link comes back to the same bastion by a session alone.
	before := l.calls("ecs:ExecuteCommand", "ecs:ListTasks")
	if err := l.Gateway().Terminate(open[0].ID); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlives its session")
	}
	conn, err = link.Dial(t.Context(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	echoes(t, conn)
	if after := l.calls("ecs:ExecuteCommand", "ecs:ListTasks"); after[0] != before[0] || after[1] != before[1] {
		t.Errorf("ExecuteCommand and ListTasks: %v calls, before %v", after, before)
	}
}

// What an Access remembers of a bastion may be wrong: the grant's answer decides. Nothing that was opened on the word of a wrong host key
// stays open, and the next client has the right one.
func TestRememberedHostKeyIsWrong(t *testing.T) {
	t.Parallel()
	wrong, _ := newKey(t)
	l := startLab(t, func(c *lab.Config) { c.Gateway.ClosedPortDelay = time.Millisecond })
	a := l.access(Options{})
	up, err := a.Up(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b := l.running(a)
	right, ports, known := a.hostKeys.get(b)
	if !known || ssh.FingerprintSHA256(right) != up.HostKey {
		t.Fatalf("remembered %v, want %s", right, up.HostKey)
	}
	remember := func(key ssh.PublicKey, ports keys.Ports) {
		t.Helper()
		if err := a.hostKeys.put(b, key, ports); err != nil {
			t.Fatal(err)
		}
	}
	isRight := func() {
		t.Helper()
		if key, p, known := a.hostKeys.get(b); !known || !sameKey(key, right) || p != ports {
			t.Errorf("remembered %v, %+v", key, p)
		}
	}

	remember(wrong.PublicKey(), ports)
	s, err := a.OpenSSH(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !sameKey(s.HostKeys[0], wrong.PublicKey()) {
		t.Error("the remembered key is not shown")
	}
	select { // bastiond itself closes it later
	case <-s.opened.conn.Done():
	case <-time.After(5 * time.Second):
		t.Error("the answer does not end the stream")
	}
	_ = s.Close()
	isRight()

	// Ports that nobody listens at: the answer brings the right ones, for this client already.
	remember(right, keys.Ports{SSH: 1, Bond: 2})
	if s, err = a.OpenSSH(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	c, err := client(t, s)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	_ = s.Close()
	isRight()
}

// A stream that has begun before its grant ends with a refusal. Its client learns of the reason, and the key is not remembered for others.
func TestGrantIsRefusedAfterStart(t *testing.T) {
	t.Parallel()
	l := startLab(t, nil)
	a := l.access(Options{})
	if _, err := a.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := l.running(a)
	l.faults(lab.APIFaults{Deny: []string{"ecs:ExecuteCommand"}})
	s, err := a.OpenSSH(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	<-s.opened.conn.Done()
	if _, _, known := a.hostKeys.get(b); known {
		t.Error("the host key is still remembered")
	}
	if signer, err := s.Signer(t.Context()); signer != nil || fail.KindOf(err) != fail.Denied ||
		!strings.Contains(err.Error(), "hand a key to "+describe(&b)) {
		t.Errorf("%v, %v", signer, err)
	}
	_ = s.Close()
	// Without a remembered key the grant comes first, and no session is asked for in vain.
	before := l.calls("ssm:StartSession")
	if _, err := a.OpenSSH(t.Context(), nil); fail.KindOf(err) != fail.Denied {
		t.Errorf("%v", err)
	}
	if after := l.calls("ssm:StartSession"); after[0] != before[0] {
		t.Error("a session was asked for")
	}
}

// Where neither the session nor the grant is to be had, the grant's error counts: it has the bastion's own reason.
func TestGrantIsRefusedWithTheSession(t *testing.T) {
	t.Parallel()
	l := startLab(t, nil)
	a := l.access(Options{})
	if _, err := a.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := l.running(a)
	l.faults(lab.APIFaults{Deny: []string{"ssm:StartSession", "ecs:ExecuteCommand"}})
	_, err := a.OpenSSH(t.Context(), nil)
	if fail.KindOf(err) != fail.Denied || !strings.Contains(err.Error(), "hand a key to ") || strings.Contains(err.Error(), "StartSession") {
		t.Errorf("%v", err)
	}
	if _, _, known := a.hostKeys.get(b); known {
		t.Error("the host key is still remembered")
	}
}

// A client that gives up while its grant is on the way gets its own reason, from whichever step it waits in.
func TestStreamIsInterrupted(t *testing.T) {
	t.Parallel()
	l := startLab(t, func(c *lab.Config) { c.Gateway.ExecDelay = time.Hour }) // the bastion's answer does not come
	enough := errors.New("enough")
	var ctx context.Context
	var cancel context.CancelCauseFunc
	a := l.access(Options{Progress: func(step string) {
		if strings.HasPrefix(step, "handing a new key") {
			cancel(enough)
		}
	}})
	ctx, cancel = context.WithCancelCause(t.Context())
	if _, err := a.OpenSSH(ctx, nil); !errors.Is(err, enough) {
		t.Errorf("while the grant is on its way: %v", err)
	}
	host, _ := newKey(t)
	if err := a.hostKeys.put(l.running(a), host.PublicKey(), keys.DefaultPorts); err != nil {
		t.Fatal(err)
	}
	s, err := a.OpenSSH(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithCancelCause(t.Context())
	cancel(enough)
	if _, err := s.Signer(ctx); !errors.Is(err, enough) {
		t.Errorf("while its Signer waits: %v", err)
	}
	_ = s.Close()
}

// A grant is renewed while its connection lasts: the bastion ends what has none.
func TestGrantIsRenewed(t *testing.T) {
	t.Parallel()
	to := echo(t)
	l := startLab(t, reaching)
	a := l.access(Options{})
	lifetime := 3 * time.Second // less than the setting allows
	a.settings.Grant.Lifetime = lifetime
	task := &taskConnector{access: a, permit: []string{to}}
	o, err := task.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer o.conn.Close()
	first := task.admission.latest()
	if err := first.wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, err := client(t, &SSHStream{Conn: o.conn, HostKeys: o.hostKeys, opened: o})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn, err := c.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	// A grant lasts for its lifetime at most, so the one with such an end was made after the first grant's end.
	eventually(t, "another grant, made after the end of the first", func() bool {
		return task.admission.until().After(first.until.Add(lifetime))
	})
	echoes(t, conn)
}
