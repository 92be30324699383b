package access

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/keys"
	"github.com/bastion-ssm/bastion/tunnel"
)

// closed is a grant command that AWS runs.
var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// contactServer is the other end of a first contact: a bastion, or an attacker that poses as one.
type contactServer struct {
	signer   ssh.Signer
	banner   func(keys.Contact) string // what it says when it has seen the client's key
	channels atomic.Int32              // that were asked for
}

// serve is the life of one SSH connection.
func (s *contactServer) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	var early ssh.ServerPreAuthConn
	config := &ssh.ServerConfig{
		PreAuthConnCallback: func(c ssh.ServerPreAuthConn) { early = c },
		PublicKeyCallback:   func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil },
		VerifiedPublicKeyCallback: func(
			meta ssh.ConnMetadata, key ssh.PublicKey, p *ssh.Permissions, _ string,
		) (*ssh.Permissions, error) {
			if text := s.banner(keys.Contact{Session: meta.SessionID(), HostKey: s.signer.PublicKey(), ClientKey: key}); text != "" {
				_ = early.SendAuthBanner(text)
			}
			return p, nil
		},
	}
	config.AddHostKey(s.signer)
	sc, chans, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for ch := range chans {
		s.channels.Add(1)
		_ = ch.Reject(ssh.ConnectionFailed, "nothing is here")
	}
	_ = sc.Wait()
}

// A server is the bastion if it proves its host key by the grant's secret, or the bastion's own answer shows that key. No
// channel is opened before. What poses as the bastion is refused for good, with a reason.
func TestFirstContact(t *testing.T) {
	right, _ := newKey(t)
	wrong, _ := newKey(t)
	secret := keys.NewSecret()
	none := func(keys.Contact) string { return "" }
	proof := func(change func(*keys.Contact)) func(keys.Contact) string {
		return func(c keys.Contact) string {
			if change != nil {
				change(&c)
			}
			return secret.Prove(c)
		}
	}
	refusal := fail.New(fail.Denied, "hand a key to bastion t", errors.New("the grant ended"), "check this machine's clock")
	for name, tt := range map[string]struct {
		server ssh.Signer
		banner func(keys.Contact) string
		age    time.Duration // of the secret
		answer ssh.Signer    // the bastion's; it comes when the client waits for it; nil: it does not come
		err    error         // the bastion refuses the grant
		up     bool
		says   string // the error of a link that does not come up
	}{
		"proof, no answer yet":        {server: right, banner: proof(nil), up: true},
		"no proof, the answer agrees": {server: right, banner: none, answer: right, up: true},
		"another banner":              {server: right, banner: func(keys.Contact) string { return "welcome\n" }, answer: right, up: true},
		"late proof, the answer agrees": {
			server: right, banner: proof(nil), age: keys.ProofTime, answer: right, up: true,
		},
		"late proof, the answer does not": {
			server: wrong, banner: proof(nil), age: keys.ProofTime, answer: right, says: "not the pinned",
		},
		"no proof, the answer does not agree": {server: wrong, banner: none, answer: right, says: "not the pinned"},
		"proof of another secret": {
			server: wrong, banner: func(c keys.Contact) string { return keys.NewSecret().Prove(c) }, says: "proof of its host key is wrong",
		},
		"proof of another session": {
			server: right, banner: proof(func(c *keys.Contact) { c.Session = []byte("recorded") }), says: "proof of its host key is wrong",
		},
		"proof of another host key": {
			server: wrong, banner: proof(func(c *keys.Contact) { c.HostKey = right.PublicKey() }), says: "proof of its host key is wrong",
		},
		"proof of another client": {
			server: right, banner: proof(func(c *keys.Contact) { c.ClientKey = wrong.PublicKey() }), says: "proof of its host key is wrong",
		},
		"wrong proof, whatever the answer": {
			server: right, banner: func(c keys.Contact) string { return keys.NewSecret().Prove(c) }, answer: right,
			says: "proof of its host key is wrong",
		},
		"the grant is refused": {server: right, banner: none, err: refusal, says: "the grant ended"},
	} {
		t.Run(name, func(t *testing.T) {
			server := &contactServer{signer: tt.server, banner: tt.banner}
			p := &push{secret: secret, made: time.Now().Add(-tt.age), started: closed, done: make(chan struct{})}
			l := firstContactLink(t, server, p)
			if tt.answer != nil || tt.err != nil {
				p.err = tt.err
				if tt.answer != nil {
					p.hostKey = tt.answer.PublicKey()
				}
				close(p.done)
			}
			err := l.Ready(t.Context())
			if tt.up {
				if err != nil {
					t.Fatal(err)
				}
				// The server takes channels now; this one has nothing to offer.
				var refused *tunnel.RefusedError
				if _, err := l.Dial(t.Context(), "tcp", "db:5432"); !errors.As(err, &refused) || server.channels.Load() != 1 {
					t.Errorf("%d channels: %v", server.channels.Load(), err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.says) || fail.KindOf(err) != fail.Denied || fail.NextOf(err) == "" {
				t.Errorf("the link: %v", err)
			}
			if n := server.channels.Load(); n != 0 {
				t.Errorf("%d channels were opened", n)
			}
		})
	}
}

// firstContactLink returns a started link whose only transport is a first contact with server, for the grant of p.
func firstContactLink(t *testing.T, server *contactServer, p *push) *tunnel.Link {
	t.Helper()
	listening, err := rig.ServeLoopback(server.serve)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := keys.NewPair("")
	if err != nil {
		t.Fatal(err)
	}
	var denial atomic.Pointer[error]
	a := testAccess(t, Settings{})
	x := &admission{
		access: a, bastion: bastions.Bastion{TaskID: "t"}, pair: pair, push: p,
		contradicted: func(err error) { denial.Store(&err) },
	}
	l := tunnel.NewLink(tunnel.ConnectorFunc(func(context.Context) (*tunnel.Transport, error) {
		if err := denial.Load(); err != nil {
			return nil, *err
		}
		conn, err := net.Dial("tcp", listening.Addr())
		if err != nil {
			return nil, err
		}
		o := &opened{
			conn: &doneConn{Conn: conn}, describe: "bastion t",
			signers: func() ([]ssh.Signer, error) { return []ssh.Signer{pair.Signer()}, nil },
		}
		x.provisional(o, p)
		return o.transport(), nil
	}), tunnel.LinkConfig{})
	l.Start(t.Context())
	t.Cleanup(func() { // before the Access is closed, which waits for the answer
		_ = l.Close()
		_ = listening.Close()
		select {
		case <-p.done:
		default:
			p.err = errors.New("the test is over")
			a.cancel()
			close(p.done)
		}
	})
	return l
}

// doneConn is a connection that tells of its end to nobody.
type doneConn struct{ net.Conn }

func (*doneConn) Done() <-chan struct{} { return nil }

// An answer that contradicts the proof ends the connection for good: somebody knows the secret who is not the bastion.
func TestAnswerContradictsProof(t *testing.T) {
	right, _ := newKey(t)
	wrong, _ := newKey(t)
	p := &push{secret: keys.NewSecret(), made: time.Now(), started: closed, done: make(chan struct{})}
	l := firstContactLink(t, &contactServer{signer: wrong, banner: p.secret.Prove}, p)
	if err := l.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.hostKey = right.PublicKey()
	close(p.done)
	<-l.Done()
	if err := l.Err(); err == nil || !strings.Contains(err.Error(), "not the pinned") || fail.KindOf(err) != fail.Denied {
		t.Errorf("the link ended with %v", err)
	}
}

// So does an answer that refuses the grant.
func TestAnswerRefusesAfterProof(t *testing.T) {
	right, _ := newKey(t)
	p := &push{secret: keys.NewSecret(), made: time.Now(), started: closed, done: make(chan struct{})}
	l := firstContactLink(t, &contactServer{signer: right, banner: p.secret.Prove}, p)
	if err := l.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.err = fail.New(fail.Denied, "hand a key to bastion t", errors.New("the grant ended"), "check this machine's clock")
	close(p.done)
	<-l.Done()
	if err := l.Err(); err == nil || !strings.Contains(err.Error(), "the grant ended") {
		t.Errorf("the link ended with %v", err)
	}
}
