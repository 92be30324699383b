package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/smithy-go"
	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
	sshagent "golang.org/x/crypto/ssh/agent"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/keys"
	"github.com/bastion-ssm/bastion/sessions"
	"github.com/bastion-ssm/bastion/tunnel"
)

func TestMain(m *testing.M) {
	if os.Getenv(envObserve) != "" {
		printObserved()
		return
	}
	home, err := os.MkdirTemp("", "agent")
	if err != nil {
		panic(err)
	}
	// Nothing is asked of AWS, of the network or of a real profile: what is not on loopback meets a proxy that is not there.
	for name, value := range map[string]string{
		"HOME": home, "HTTP_PROXY": "http://127.0.0.1:1", "HTTPS_PROXY": "http://127.0.0.1:1", "NO_PROXY": "",
	} {
		_ = os.Setenv(name, value)
	}
	if err := ForgetEnv(); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(home)
		os.Exit(code)
	}))
}

// testAgent returns an Agent that knows no AWS.
func testAgent(t *testing.T, s Settings) *Agent {
	a := &Agent{settings: s, clock: new(clock), log: slog.New(slog.DiscardHandler), progress: func(string) {}}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	t.Cleanup(a.Close)
	return a
}

func newKey(t *testing.T) (ssh.Signer, string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	return signer, string(pem.EncodeToMemory(block))
}

// answered is a grant that the bastion has accepted until then, or refused.
func answered(until time.Time, err error) *push {
	p := &push{done: make(chan struct{}), until: until, err: err}
	close(p.done)
	return p
}

func TestKeepGranted(t *testing.T) {
	const lifetime = time.Hour
	type answer struct {
		after time.Duration // of the start: when the renewal must come
		until time.Duration // of the start: what the bastion grants
		err   error
	}
	denied := errors.New("signed out")
	for _, tt := range []struct {
		name    string
		answers []answer
		ended   time.Duration // of the start: when the session ends; 0: never
		last    time.Duration // the grant that counts at the end
	}{
		{name: "renewed before its end", answers: []answer{
			{after: 45 * time.Minute, until: 105 * time.Minute},
			{after: 90 * time.Minute, until: 150 * time.Minute},
		}, ended: 100 * time.Minute, last: 150 * time.Minute},
		{name: "session ends first", ended: 30 * time.Minute, last: time.Hour},
		{name: "bastion's life ends", answers: []answer{
			{after: 45 * time.Minute, until: 80 * time.Minute},
			{after: 65 * time.Minute, until: 80 * time.Minute},
		}, last: 80 * time.Minute},
		{name: "tried again", answers: []answer{
			{after: 45 * time.Minute, err: denied},
			{after: 46*time.Minute + 30*time.Second, until: 106 * time.Minute},
		}, ended: 50 * time.Minute, last: 106 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := testAgent(t, Settings{GrantLifetime: lifetime})
				began := time.Now()
				x := &access{agent: a, push: answered(began.Add(lifetime), nil)}
				ended := make(chan struct{})
				if tt.ended > 0 {
					time.AfterFunc(tt.ended, func() { close(ended) })
				}
				n := 0
				x.keepGranted(ended, func() (*push, error) {
					if n == len(tt.answers) {
						t.Fatalf("a renewal after %v", time.Since(began))
					}
					next := tt.answers[n]
					n++
					if got := time.Since(began); got != next.after {
						t.Errorf("renewal %d after %v, want %v", n, got, next.after)
					}
					return answered(began.Add(next.until), next.err), nil
				})
				if n != len(tt.answers) {
					t.Errorf("%d renewals, want %d", n, len(tt.answers))
				}
				if got := x.until().Sub(began); got != tt.last {
					t.Errorf("granted until %v, want %v", got, tt.last)
				}
			})
		})
	}
}

// What passes by itself is waited for, and a target that is not connected is looked at now and then: it may have stopped.
func TestPatience(t *testing.T) {
	api := func(op, code, message string) error {
		return fail.AWS(fail.Start, "do it", "x:Y", &smithy.OperationError{
			ServiceID: "X", OperationName: op, Err: &smithy.GenericAPIError{Code: code, Message: message},
		})
	}
	notRunning := api("ExecuteCommand", "InvalidParameterException", "... or the execute command agent isn’t running. Wait and try again")
	refused := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{notRunning, true},
		{api("ExecuteCommand", "InvalidParameterException", "Command cannot be empty."), false},
		{api("StartSession", "TargetNotConnected", "x is not connected."), true},
		{api("StartSession", "ThrottlingException", "Rate exceeded"), true},
		{api("StartSession", "InternalServerError", ""), true},
		{api("ExecuteCommand", "ClientException", "the maximum session limit of 2 has been reached."), true},
		{fmt.Errorf("open: %w", &sessions.ClosedError{Output: "CommandBufferFull"}), true},
		{fmt.Errorf("open: %w", &sessions.ClosedError{Output: "no such command"}), false},
		{fmt.Errorf("open: %w within 8s", sessions.ErrUnanswered), true},
		{fmt.Errorf("open: %w in 3 sessions", sessions.ErrSilent), false},
		{api("StartSession", "AccessDeniedException", ""), false},
		{api("StartSession", "ExpiredTokenException", ""), false},
		{errors.New("odd"), false},
		{refused, true},
	} {
		var p patience
		if again, gone := p.passes(t.Context(), tt.err); again != tt.want || gone != nil {
			t.Errorf("%v: again %v, gone %v", tt.err, again, gone)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var asked []time.Duration
		stopped := &goneError{errors.New("the task has stopped"), cutOff}
		p := patience{stands: func(context.Context) error {
			if asked = append(asked, time.Since(began)); len(asked) == 3 {
				return stopped
			}
			return nil
		}}
		for {
			again, gone := p.passes(t.Context(), notRunning)
			if gone != nil {
				break
			}
			if !again || time.Since(began) > time.Minute {
				t.Fatalf("again %v after %v", again, time.Since(began))
			}
			<-time.After(time.Second)
		}
		if want := []time.Duration{firstStands, firstStands + goneCheck, firstStands + 2*goneCheck}; !slices.Equal(asked, want) {
			t.Errorf("asked after %v, want %v", asked, want)
		}
	})
	var p patience
	tries := 1
	for again := true; again; tries++ {
		again, _ = p.passes(t.Context(), refused)
	}
	if tries != networkTries+1 {
		t.Errorf("given up after %d tries", tries-1)
	}
}

// A grant that is never renewed again ends the renewing with it.
func TestKeepGrantedGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := testAgent(t, Settings{GrantLifetime: time.Hour})
		began := time.Now()
		x := &access{agent: a, push: answered(began.Add(time.Hour), nil)}
		x.keepGranted(nil, func() (*push, error) { return nil, errors.New("signed out") })
		if d := time.Since(began); d < time.Hour || d > 62*time.Minute {
			t.Errorf("gave up after %v", d)
		}
	})
}

// fakeConnector fails with what it has in store.
type fakeConnector struct{ errs []error }

func (c *fakeConnector) Connect(ctx context.Context) (*tunnel.Transport, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	err := c.errs[0]
	c.errs = c.errs[1:]
	return nil, err
}
func (c *fakeConnector) open(context.Context) (*opened, error) { return nil, nil }
func (c *fakeConnector) onState(tunnel.State)                  {}

func TestGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plain := fail.New(fail.Start, "", errors.New("plain"), "do this")
		c := &fakeConnector{errs: []error{&transientError{plain}, plain, plain, plain}}
		g := &giveUp{connector: c, answers: new(lastFailure), after: time.Minute}
		g.onState(tunnel.State{Phase: tunnel.Connecting})
		if _, err := g.Connect(t.Context()); tunnel.IsPermanent(err) {
			t.Errorf("a transient first failure is permanent: %v", err)
		}
		if _, err := g.Connect(t.Context()); !tunnel.IsPermanent(err) {
			t.Errorf("a first failure is not permanent: %v", err)
		}
		g.onState(tunnel.State{Phase: tunnel.Up})
		g.onState(tunnel.State{Phase: tunnel.Reconnecting})
		<-time.After(30 * time.Second)
		if _, err := g.Connect(t.Context()); tunnel.IsPermanent(err) {
			t.Errorf("gave up early: %v", err)
		}
		<-time.After(30 * time.Second)
		_, err := g.Connect(t.Context())
		if !tunnel.IsPermanent(err) || fail.KindOf(err) != fail.Lost {
			t.Errorf("did not give up: %v", err)
		}
		if !errors.Is(err, plain) || fail.NextOf(err) != plain.Next {
			t.Errorf("gave up without the latest failure: %v", err)
		}
		// Nobody waits for an idle link.
		c.errs = []error{plain}
		g.onState(tunnel.State{Phase: tunnel.Idle})
		<-time.After(time.Hour)
		if _, err := g.Connect(t.Context()); tunnel.IsPermanent(err) {
			t.Errorf("gave up an idle link: %v", err)
		}
	})
}

func TestOnce(t *testing.T) {
	calls := 0
	f := once(func(context.Context) (int, error) {
		calls++
		if calls == 1 {
			return 0, errors.New("not yet")
		}
		return 7, nil
	})
	if _, err := f(t.Context()); err == nil {
		t.Error("the failure is lost")
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if v, err := f(t.Context()); v != 7 || err != nil {
				t.Errorf("%d, %v", v, err)
			}
		})
	}
	wg.Wait()
	if calls != 2 {
		t.Errorf("%d calls, want 2: a success is remembered, a failure is not", calls)
	}
}

func TestHostKeys(t *testing.T) {
	h := &hostKeys{dir: t.TempDir()}
	signer, _ := newKey(t)
	b := bastions.Bastion{TaskARN: "arn:task/1", RuntimeID: "1-2"}
	if _, _, ok := h.get(b); ok {
		t.Error("known before it is")
	}
	if err := h.put(b, signer.PublicKey(), keys.Ports{SSH: 2222, Bond: 2223}); err != nil {
		t.Fatal(err)
	}
	key, ports, ok := h.get(b)
	if !ok || ports != (keys.Ports{SSH: 2222, Bond: 2223}) || !sameKey(key, signer.PublicKey()) {
		t.Errorf("got %v, %+v, %v", key, ports, ok)
	}
	info, err := os.Stat(h.path(b))
	if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	// Another run of the container has another key; so has another task.
	for _, other := range []bastions.Bastion{{TaskARN: "arn:task/1", RuntimeID: "1-3"}, {TaskARN: "arn:task/2", RuntimeID: "1-2"}, {TaskARN: "arn:task/1"}} {
		if _, _, ok := h.get(other); ok {
			t.Errorf("known for %+v", other)
		}
	}
	data, err := os.ReadFile(h.path(b))
	if err != nil {
		t.Fatal(err)
	}
	// A file of a program that knew nothing of bonds still counts.
	if err := os.WriteFile(h.path(b), []byte(strings.Replace(string(data), `,"bond_port":2223`, "", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ports, ok := h.get(b); !ok || ports != (keys.Ports{SSH: 2222}) {
		t.Errorf("of an old file: %+v, %v", ports, ok)
	}
	// A file that says something else is not believed.
	for _, bad := range []string{
		"", "{}", strings.Replace(string(data), "2222", "0", 1), strings.Replace(string(data), "2222", "70000", 1),
		strings.Replace(string(data), "2223", "-1", 1), strings.Replace(string(data), "2223", "70000", 1),
		strings.Replace(string(data), "ssh-ed25519", "ssh-none", 1), strings.Replace(string(data), "task/1", "task/9", 1),
	} {
		if err := os.WriteFile(h.path(b), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, ok := h.get(b); ok {
			t.Errorf("believed %s", bad)
		}
	}
	// Files of tasks that must have ended are removed with the next one.
	old := time.Now().Add(-2 * hostKeyMaxAge)
	if err := os.Chtimes(h.path(b), old, old); err != nil {
		t.Fatal(err)
	}
	if err := h.put(bastions.Bastion{TaskARN: "arn:task/3", RuntimeID: "1"}, signer.PublicKey(), keys.Ports{SSH: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(h.path(b)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old file: %v", err)
	}
	var none *hostKeys
	if _, _, ok := none.get(b); ok || none.put(b, signer.PublicKey(), keys.Ports{SSH: 1}) != nil {
		t.Error("nil remembers")
	}
}

// A remembered host key that a client does not find at the server is not trusted again, and not found by the next client.
func TestHostKeyIsForgotten(t *testing.T) {
	right, _ := newKey(t)
	wrong, _ := newKey(t)
	b := bastions.Bastion{TaskARN: "arn:task/1", RuntimeID: "1-2"}
	for name, tt := range map[string]struct {
		use   func(*opened, *push) error
		known bool
	}{
		"the key": {func(o *opened, _ *push) error { return o.check("bastion", nil, right.PublicKey()) }, true},
		"another": {func(o *opened, _ *push) error { return o.check("bastion", nil, wrong.PublicKey()) }, false},
		"granted": {func(o *opened, p *push) error { close(p.done); return o.granted(t.Context()) }, true},
		"ended before": {func(o *opened, _ *push) error {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return o.granted(ctx)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := testAgent(t, Settings{})
			a.hostKeys = &hostKeys{dir: t.TempDir()}
			if err := a.hostKeys.put(b, right.PublicKey(), keys.Ports{SSH: 2222}); err != nil {
				t.Fatal(err)
			}
			o, p := &opened{check: keys.PinnedHostKey(right.PublicKey())}, &push{done: make(chan struct{})}
			(&access{agent: a, bastion: b}).untrustOnFailure(o, p)
			if err := tt.use(o, p); (err == nil) != tt.known {
				t.Errorf("the client: %v", err)
			}
			if _, _, known := a.hostKeys.get(b); known != tt.known {
				t.Errorf("known: %v, want %v", known, tt.known)
			}
		})
	}
}

func TestOpenSSHPathTooLong(t *testing.T) {
	_, err := ServeOpenSSH("/"+strings.Repeat("x", 103), 1, false, nil)
	if fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "may have 103") || !strings.Contains(fail.NextOf(err), "runtime_dir") {
		t.Errorf("%v (%s)", err, fail.NextOf(err))
	}
}

func TestPinnedServer(t *testing.T) {
	const target = "i-0123456789abcdef0"
	signer, _ := newKey(t)
	other, _ := newKey(t)
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	file := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(file, fmt.Appendf(nil, "elsewhere %s\n[%s]:2222 %s\n", line, target, line), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, setting string
		port          int
		wrong         string
	}{
		{name: "key", setting: line, port: 22},
		{name: "key with a comment", setting: line + " web", port: 22},
		{name: "file", setting: file, port: 2222},
		{name: "file, other port", setting: file, port: 22, wrong: "has no key of " + target},
		{name: "no file", setting: file + ".none", port: 22, wrong: "no such file"},
		{name: "no key", setting: "ssh-ed25519 AAAA", port: 22, wrong: "read ssh_host_key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			check, pinned, err := pinnedServer(tt.setting, target, tt.port)
			if tt.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wrong) || fail.KindOf(err) != fail.Usage {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil || len(pinned) != 1 {
				t.Fatalf("%v, %v", pinned, err)
			}
			if err := check("x", &net.TCPAddr{}, signer.PublicKey()); err != nil {
				t.Errorf("the pinned key: %v", err)
			}
			if err := check("x", &net.TCPAddr{}, other.PublicKey()); err == nil {
				t.Error("another key is accepted")
			}
			if got := algorithms(pinned); len(got) != 1 || got[0] != ssh.KeyAlgoED25519 {
				t.Errorf("algorithms %v", got)
			}
		})
	}
}

// An SSH agent that does not answer is not waited for longer than the attempt to connect may take.
func TestSilentAgent(t *testing.T) {
	dir, err := os.MkdirTemp("", "id") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ln, err := net.Listen("unix", filepath.Join(dir, "agent"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	t.Setenv("SSH_AUTH_SOCK", ln.Addr().String())
	ctx, cancel := context.WithCancelCause(t.Context())
	var server sync.WaitGroup
	defer server.Wait()
	server.Go(func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Read(make([]byte, 1)) // it has been asked
		cancel(errors.New("enough"))
		_, _ = io.Copy(io.Discard, conn)
	})
	if _, err := identity(ctx, "agent", nil); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("got %v", err)
	}
}

func TestIdentity(t *testing.T) {
	dir, err := os.MkdirTemp("", "id") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	signer, private := newKey(t)
	file := filepath.Join(dir, "key")
	if err := os.WriteFile(file, []byte(private), 0o600); err != nil {
		t.Fatal(err)
	}
	check := func(name, setting string) {
		t.Helper()
		signers, err := identity(t.Context(), setting, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		got, err := signers()
		if err != nil || len(got) != 1 {
			t.Errorf("%s: %d signers, %v", name, len(got), err)
			return
		}
		sig, err := got[0].Sign(rand.Reader, []byte("data"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if err := signer.PublicKey().Verify([]byte("data"), sig); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	check("file", file)

	t.Setenv("SSH_AUTH_SOCK", "")
	if _, err := identity(t.Context(), "agent", nil); err == nil || fail.KindOf(err) != fail.Usage {
		t.Errorf("without an agent: %v", err)
	}
	socket := filepath.Join(dir, "agent")
	t.Setenv("SSH_AUTH_SOCK", socket)
	if _, err := identity(t.Context(), "agent", nil); err == nil {
		t.Error("an agent that is not there was asked")
	}
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := keys.ServeAgent(ctx, ln, signer); err != nil {
			t.Error(err)
		}
	})
	check("agent", "agent")
	cancel()
	wg.Wait()

	locked, err := ssh.MarshalPrivateKeyWithPassphrase(ed25519.NewKeyFromSeed(make([]byte, 32)), "", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(locked), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := identity(t.Context(), file, nil); err == nil || !strings.Contains(err.Error(), "has a passphrase") {
		t.Errorf("a locked key: %v", err)
	}
}

// ssh clients are told apart by their process ids: each gets the key of its own proxy, whichever socket it connects to.
func TestOpenSSHSockets(t *testing.T) {
	dir, err := os.MkdirTemp("", "o") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	log := slog.New(slog.DiscardHandler)
	// A socket that a killed process left behind.
	stale := filepath.Join(dir, "agent-1.sock")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	_ = ln.Close()

	mine, err := ServeOpenSSH(dir, os.Getpid(), true, log)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stale); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the stale socket: %v", err)
	}
	others, err := ServeOpenSSH(dir, 2, true, log)
	if err != nil {
		t.Fatal(err)
	}
	myKey, _ := newKey(t)
	otherKey, _ := newKey(t)
	host, _ := newKey(t)

	// The answer is waited for.
	asked := make(chan []ssh.PublicKey, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		got, err := AskHostKeys(t.Context(), dir, os.Getpid())
		if err != nil {
			t.Error(err)
		}
		asked <- got
	})
	mine.OfferHostKeys([]ssh.PublicKey{host.PublicKey()})
	if got := <-asked; len(got) != 1 || !sameKey(got[0], host.PublicKey()) {
		t.Errorf("host keys %v", got)
	}
	wg.Wait()
	mine.OfferSigner(myKey)
	others.OfferSigner(otherKey)

	first := func() ssh.PublicKey {
		t.Helper()
		conn, err := net.Dial("unix", filepath.Join(dir, agentLink))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		list, err := sshagent.NewClient(conn).List()
		if err != nil || len(list) != 1 {
			t.Fatalf("%v, %v", list, err)
		}
		key, err := ssh.ParsePublicKey(list[0].Blob)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	if to, err := os.Readlink(filepath.Join(dir, agentLink)); err != nil || to != "agent-2.sock" {
		t.Errorf("the link leads to %s, %v; want the latest proxy", to, err)
	}
	want := myKey.PublicKey()
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		want = otherKey.PublicKey() // peers have no ids
	}
	if !sameKey(first(), want) {
		t.Error("the key is another proxy's")
	}
	others.Close()
	if to, err := os.Readlink(filepath.Join(dir, agentLink)); err != nil || to != filepath.Base(mine.path(agentPrefix)) {
		t.Errorf("the link leads to %s, %v; want the proxy that is left", to, err)
	}
	if !sameKey(first(), myKey.PublicKey()) {
		t.Error("the key is not the one that is left")
	}
	mine.Close()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := AskHostKeys(t.Context(), dir, os.Getpid()); err == nil || fail.NextOf(err) == "" {
		t.Errorf("without a proxy: %v", err)
	}
}

// The newest proxy, which holds the common socket, hands the clients of older ones on while its own key is not known yet.
func TestOpenSSHSocketsRelayAtOnce(t *testing.T) {
	dir, err := os.MkdirTemp("", "o")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	log := slog.New(slog.DiscardHandler)
	list := func(path string) (string, error) {
		conn, err := net.Dial("unix", path)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return "", err
		}
		keys, err := sshagent.NewClient(conn).List()
		if err != nil || len(keys) != 1 {
			return "", fmt.Errorf("%v, %w", keys, err)
		}
		return string(keys[0].Blob), nil
	}
	older, err := ServeOpenSSH(dir, os.Getpid(), true, log)
	if err != nil {
		t.Fatal(err)
	}
	defer older.Close()
	newest, err := ServeOpenSSH(dir, 2, true, log)
	if err != nil {
		t.Fatal(err)
	}
	defer newest.Close()
	key, _ := newKey(t)
	older.OfferSigner(key)
	if runtime.GOOS == "linux" || runtime.GOOS == "darwin" { // elsewhere peers have no ids
		if got, err := list(filepath.Join(dir, agentLink)); err != nil || got != string(key.PublicKey().Marshal()) {
			t.Errorf("the older proxy's client got %q, %v", got, err)
		}
	}

	// A client of a proxy whose key is not known waits for it, and no longer than the proxy lives.
	for _, offered := range []bool{true, false} {
		o, err := ServeOpenSSH(dir, os.Getpid(), true, log) // takes the older one's place
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			got, err := list(o.path(agentPrefix))
			if offered && (err != nil || got != string(key.PublicKey().Marshal())) {
				t.Errorf("the client that waited got %q, %v", got, err)
			}
			if !offered && (err == nil || errors.Is(err, os.ErrDeadlineExceeded)) {
				t.Errorf("the client of a closed proxy got %q, %v", got, err)
			}
		})
		if offered {
			o.OfferSigner(key)
			wg.Wait()
		}
		o.Close()
		wg.Wait()
	}
}

// Closing before the answer is known ends those who wait for it.
func TestOpenSSHSocketsCloseEarly(t *testing.T) {
	dir, err := os.MkdirTemp("", "o")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	o, err := ServeOpenSSH(dir, 3, false, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", o.path(knownPrefix))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	o.Close()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection goes on")
	}
	long := filepath.Join(dir, strings.Repeat("x", 100))
	if _, err := ServeOpenSSH(long, 3, false, slog.New(slog.DiscardHandler)); err == nil || fail.KindOf(err) != fail.Usage {
		t.Errorf("a long path: %v", err)
	}
}

func TestRefusal(t *testing.T) {
	for code, want := range map[string]fail.Kind{
		keys.CodeInvalid: fail.Denied, keys.CodeExpired: fail.Denied, keys.CodeFull: fail.Start,
		keys.CodeDraining: fail.Start, keys.CodeNoServer: fail.Start, "new": fail.Denied,
	} {
		err := refusal("op", keys.GrantReply{Code: code, Error: "no"})
		if got := fail.KindOf(err); got != want {
			t.Errorf("%s: kind %v, want %v", code, got, want)
		}
		if isTransient(err) != (code == keys.CodeNoServer) {
			t.Errorf("%s: transient %v", code, isTransient(err))
		}
	}
	if err := refusal("op", keys.GrantReply{HostKey: "x"}); err != nil {
		t.Errorf("an accepted grant: %v", err)
	}
}

func TestLastLine(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "\r\n\r\n": "", "a\r\nb\r\n": "b", "one": "one", "x\n  y  \n\n": "y",
		strings.Repeat("z", 300): strings.Repeat("z", 200) + "...",
	} {
		if got := lastLine([]byte(in)); got != want {
			t.Errorf("lastLine(%.20q) = %q, want %q", in, got, want)
		}
	}
}
