package tunnel

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// openSSH is a Connector to a stock OpenSSH server, one process for each connection (sshd -i).
type openSSH struct {
	t       testing.TB
	sshd    string
	dir     string
	user    string
	options []string
	host    ssh.Signer
	key     ssh.Signer

	wg    sync.WaitGroup
	mu    sync.Mutex
	procs []*exec.Cmd
}

// newOpenSSH prepares a server whose user may connect to the permitted destinations only.
func newOpenSSH(t testing.TB, permit ...string) *openSSH {
	t.Helper()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	s := &openSSH{t: t, sshd: tool(t, "/usr/sbin/sshd", "sshd"), dir: t.TempDir(), user: me.Username}
	if os.Getuid() == 0 { // sshd's privilege separation needs it
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.host = s.newKeyFile("host_key")
	s.key = newSigner(t)
	grant := "restrict,port-forwarding"
	for _, dest := range permit {
		grant += fmt.Sprintf(",permitopen=%q", dest)
	}
	grant += " " + string(ssh.MarshalAuthorizedKey(s.key.PublicKey()))
	s.write("authorized_keys", []byte(grant))
	s.options = []string{
		"HostKey=" + s.path("host_key"), "AuthorizedKeysFile=" + s.path("authorized_keys"),
		"StrictModes=no", "UsePAM=no", "PasswordAuthentication=no", "KbdInteractiveAuthentication=no",
		"PidFile=none", "LogLevel=ERROR",
	}
	t.Cleanup(s.stop)
	return s
}

func (s *openSSH) path(name string) string { return filepath.Join(s.dir, name) }

func (s *openSSH) write(name string, data []byte) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), data, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *openSSH) newKeyFile(name string) ssh.Signer {
	s.t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		s.t.Fatal(err)
	}
	s.write(name, pem.EncodeToMemory(block))
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	return signer
}

// Connect starts a server on one end of a socket and returns the other.
func (s *openSSH) Connect(ctx context.Context) (*Transport, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	near, err := new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
	if err != nil {
		return nil, err
	}
	accepted, err := ln.Accept()
	if err != nil {
		return nil, err
	}
	defer accepted.Close()
	far, err := accepted.(*net.TCPConn).File()
	if err != nil {
		return nil, err
	}
	defer far.Close()
	args := []string{"-i", "-e", "-f", "/dev/null"}
	for _, o := range s.options {
		args = append(args, "-o", o)
	}
	cmd := exec.Command(s.sshd, args...) // without ctx: stop ends it
	cmd.Stdin, cmd.Stdout, cmd.Stderr = far, far, s.t.Output()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.procs = append(s.procs, cmd)
	s.mu.Unlock()
	s.wg.Go(func() { _ = cmd.Wait() })
	return &Transport{
		Conn: near, User: s.user, Describe: "sshd",
		Auth: []ssh.AuthMethod{ssh.PublicKeys(s.key)}, HostKey: ssh.FixedHostKey(s.host.PublicKey()),
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
	}, nil
}

// kill kills the latest server, as when its machine dies.
func (s *openSSH) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.procs[len(s.procs)-1].Process.Kill()
}

func (s *openSSH) stop() {
	s.mu.Lock()
	for _, p := range s.procs {
		_ = p.Process.Kill()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func TestOpenSSHForward(t *testing.T) {
	dest := serveTCP(t, func(c *net.TCPConn) {
		q, _ := io.ReadAll(c)
		_, _ = fmt.Fprintf(c, "answer to %s", q)
	})
	echoes := serveTCP(t, echo)
	gone := listen(t)
	refusing := gone.Addr().String()
	_ = gone.Close()
	s := newOpenSSH(t, dest, echoes, refusing)
	l := readyLink(t, s, LinkConfig{Keepalive: Keepalive{Interval: 50 * time.Millisecond, MaxMissed: 100}, BackoffMin: time.Millisecond})

	addr := startForward(t, l, dest, ForwardConfig{})
	for range 3 { // half-close
		c := dialTCP(t, addr)
		_, _ = io.WriteString(c, "question")
		_ = c.CloseWrite()
		if got, err := io.ReadAll(c); string(got) != "answer to question" || err != nil {
			t.Fatalf("read %q, %v", got, err)
		}
	}

	if _, err := l.Dial(t.Context(), "tcp", "127.0.0.1:9"); fail.KindOf(err) != fail.Denied || !strings.Contains(err.Error(), "127.0.0.1:9") {
		t.Errorf("not permitted: %v, want a denial that names the destination", err)
	}
	if _, err := l.Dial(t.Context(), "tcp", refusing); err == nil || replyCode(err) != 5 {
		t.Errorf("nobody listens: %v (SOCKS reply %d), want a refused connection", err, replyCode(err))
	}

	through := dialTCP(t, startForward(t, l, echoes, ForwardConfig{}))
	mustEcho(t, through, "hello")
	s.kill()
	if _, err := io.Copy(io.Discard, through); err == nil {
		t.Error("a connection whose server was killed ended as if it were complete")
	}
	again := dialTCP(t, addr) // the same listener
	_, _ = io.WriteString(again, "again")
	_ = again.CloseWrite()
	if got, err := io.ReadAll(again); string(got) != "answer to again" || err != nil {
		t.Errorf("after the reconnect: read %q, %v", got, err)
	}
}

func TestOpenSSHManyConnections(t *testing.T) {
	s := newOpenSSH(t)
	dest := serveTCP(t, echo)
	l := readyLink(t, s, LinkConfig{})
	addr := startForward(t, l, dest, ForwardConfig{})
	var wg sync.WaitGroup
	for i := range 50 {
		c := dialTCP(t, addr)
		wg.Go(func() {
			text := strings.Repeat(fmt.Sprintf("%d,", i), 20_000)
			go func() {
				_, _ = io.WriteString(c, text)
				_ = c.CloseWrite()
			}()
			if got, err := io.ReadAll(c); string(got) != text || err != nil {
				t.Errorf("connection %d: %d bytes of %d, %v", i, len(got), len(text), err)
			}
		})
	}
	wg.Wait()
}

func TestOpenSSHWrongHostKey(t *testing.T) {
	s := newOpenSSH(t)
	s.host = newSigner(t)
	l := startLink(t, s, LinkConfig{})
	if err := l.Ready(soon(t)); fail.KindOf(err) != fail.Denied || !strings.Contains(err.Error(), "host key mismatch") {
		t.Errorf("Ready: %v", err)
	}
}

func TestOpenSSHWrongUserKey(t *testing.T) {
	s := newOpenSSH(t)
	s.key = newSigner(t)
	l := startLink(t, s, LinkConfig{})
	if err := l.Ready(soon(t)); fail.KindOf(err) != fail.Denied || !strings.Contains(err.Error(), "does not accept the key") {
		t.Errorf("Ready: %v", err)
	}
}
