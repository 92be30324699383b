package server

import (
	"cmp"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/audit"
	"github.com/bastion-ssm/bastion/internal/private"
	"github.com/bastion-ssm/bastion/keys"
)

// SSHD has OpenSSH's server serve the SSH port, one process for each connection: it authenticates, encrypts, and connects to destinations.
// bastiond keeps the grants, the list, the lives and the audit log. See docs/adr/0016-openssh-serves-the-port.md.
type SSHD struct {
	Program string // path of sshd
	Config  string // path of its sshd_config, which this server's options complete
	Self    string // path of bastiond, which must be root's, as its directories must: sshd runs it for keys
}

// sshdFront is the part of a Server that only one with SSHD has.
type sshdFront struct {
	open  []literal    // what may be asked for
	args  []string     // of sshd
	names net.Listener // of nscd's protocol
}

const (
	hostKeyFile = "host_key" // beside the control socket
	nameSocket  = "nscd"     // beside the control socket
	// sshdExit bounds the time from the end of its client to the end of an sshd. Resolving a name holds it up.
	sshdExit = 10 * time.Second
	// sshdReport is how long after HandshakeTimeout sshd's line about a sign-in may come. Without that line the grant's end would not end the
	// connection, and the audit log would lack it. So an sshd whose lines this server does not know serves nobody.
	sshdReport = 2 * time.Second
)

// startSSHD prepares the host key's file, the names' socket and the arguments for the sshd of each connection.
func (s *Server) startSSHD() error {
	c := s.config.SSHD
	open, err := s.openable()
	if err != nil {
		return &ConfigError{err}
	}
	dir := filepath.Dir(s.config.Socket)
	block, err := ssh.MarshalPrivateKey(s.private, "")
	if err != nil {
		return fmt.Errorf("host key: %w", err)
	}
	key := filepath.Join(dir, hostKeyFile)
	if err := errors.Join(removeOld(key), os.WriteFile(key, pem.EncodeToMemory(block), 0o600)); err != nil {
		return fmt.Errorf("host key: %w", err)
	}
	names, err := private.ListenSocket(filepath.Join(dir, nameSocket))
	if err != nil {
		return fmt.Errorf("socket for names: %w", err)
	}
	permitOpen := "none"
	if len(open) > 0 {
		permitOpen = joinLiterals(open, " ")
	}
	seconds := func(d time.Duration) string { return fmt.Sprint(max(1, int(d.Seconds()))) }
	options := []string{
		"PermitOpen " + permitOpen,
		"AuthorizedKeysCommand " + c.Self + " authorized-key --socket " + s.config.Socket + " %u %t %k",
		"LoginGraceTime " + seconds(s.config.HandshakeTimeout),
		"ClientAliveInterval " + seconds(s.config.ClientTimeout/4),
	}
	if idle := s.config.IdleConn; idle > 0 {
		options = append(options, "ChannelTimeout direct-tcpip="+seconds(idle)+"s", "UnusedConnectionTimeout "+seconds(idle)+"s")
	}
	args := []string{"-i", "-e", "-f", c.Config, "-h", key}
	for _, o := range options {
		args = append(args, "-o", o)
	}
	s.sshd = &sshdFront{open: open, args: args, names: names}
	return nil
}

func removeOld(path string) error {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

func joinLiterals(all []literal, separator string) string {
	texts := make([]string, len(all))
	for i, l := range all {
		texts[i] = l.String()
	}
	return strings.Join(texts, separator)
}

// serveBySSHD serves one connection by an sshd of its own, which ends with it.
func (s *Server) serveBySSHD(ctx context.Context, raw net.Conn, number uint64) {
	began := time.Now()
	w := newWire(raw)
	defer func() { _ = w.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = w.Close() })
	defer stop()
	c := &client{server: s, number: number, wire: w}
	late := time.AfterFunc(s.config.HandshakeTimeout+sshdReport, func() { c.end("sshd has not reported a sign-in in time") })
	defer late.Stop()
	log := &sshdLog{client: c, s: s, late: late, channels: make(map[string]*sshdChannel)}

	up, down, err := s.runSSHD(w, log)
	log.end()
	if !log.signed {
		reason := cmp.Or(c.ended(), log.refusal, "handshake: the client left before it had signed in")
		if err != nil {
			reason = "handshake: " + err.Error()
		}
		r := audit.Record{Event: audit.AuthRefused, Result: audit.Refused, Reason: reason, Conn: number, User: log.user}
		from(&r, raw)
		s.audit.write(r)
		return
	}
	s.detach(c)
	s.auditClient(c, audit.Record{
		Event: audit.Disconnect, Reason: s.whyEnded(c, err), BytesUp: &up, BytesDown: &down, DurationMS: since(began),
	})
}

// runSSHD carries a connection to an sshd and back until it ends, and returns how many bytes went either way, SSH's own among them.
func (s *Server) runSSHD(w *wire, log *sshdLog) (up, down int64, err error) {
	// Without a context: sshd ends by itself when its client has gone, and closes its connections.
	cmd := exec.Command(s.config.SSHD.Program, s.sshd.args...)
	cmd.Env = []string{} // nothing of the task's: no credentials, no preloaded libraries
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	said, saidErr := cmd.StderrPipe()
	if err := errors.Join(inErr, outErr, saidErr); err != nil {
		return 0, 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	late := time.AfterFunc(s.config.MaxLife, func() { _ = cmd.Process.Kill() })
	var work sync.WaitGroup
	work.Go(func() { log.read(said) })
	work.Go(func() {
		up, _ = io.Copy(in, w) // ends with the client, or with sshd
		_ = in.Close()
		late.Reset(sshdExit)
	})
	down, _ = io.Copy(w, out) // ends with sshd, or with the client
	_ = w.Close()
	_, _ = io.Copy(io.Discard, out) // what a client has left, until sshd ends
	work.Wait()
	late.Stop()
	return up, down, unlessExit(cmd.Wait())
}

// unlessExit drops the exit code of an sshd, which is 255 for every client that leaves: its log says more.
func unlessExit(err error) error {
	if errors.As(err, new(*exec.ExitError)) {
		return nil
	}
	return err
}

// slotByFingerprint finds the slot of a key by its fingerprint.
func (s *Server) slotByFingerprint(fingerprint string) *slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	for g := range s.slots {
		if g.fingerprint == fingerprint {
			return g
		}
	}
	return nil
}

// whyNot returns why a key was refused.
func (s *Server) whyNot(fingerprint string) string {
	g := s.slotByFingerprint(fingerprint)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case g == nil:
		return errNoGrant.Error()
	case !g.live(time.Now()):
		return errGrantExpired.Error()
	}
	return "sshd refused the key"
}

// authorizedKey returns the line of authorized_keys for a key with a live grant. kind and key are the key's type and its base64.
func (s *Server) authorizedKey(user, kind, key string) (line string, err error) {
	if s.sshd == nil {
		return "", errors.New("this bastiond serves SSH itself")
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(kind + " " + key))
	if err != nil {
		return "", fmt.Errorf("key: %w", err)
	}
	find := s.grantFor
	if user == keys.UserPending {
		find = s.awaitGrant
	}
	g, err := find(public)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	permit, until, id := g.permit, g.grant.NotAfter, g.grant.ID
	s.mu.Unlock()
	open := narrowed(s.sshd.open, permit)
	if len(open) == 0 {
		return "", errors.New("the grant permits no destination of the allow-list")
	}
	// expiry-time has no more than seconds, and is for a new connection: the server ends those that live.
	options := []string{"restrict", "port-forwarding", `expiry-time="` + until.UTC().Format("20060102150405") + `Z"`}
	for _, l := range open {
		options = append(options, `permitopen="`+l.String()+`"`)
	}
	return strings.Join(options, ",") + " " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public))) + " " + id, nil
}
