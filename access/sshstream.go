package access

import (
	"context"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/sessions"
	"github.com/bastion-ssm/bastion/tunnel"
)

// SSHStream is a session to the bastion's SSH server, for another program's SSH client.
type SSHStream struct {
	Conn     net.Conn
	HostKeys []ssh.PublicKey

	access *Access
	opened *opened
	own    bool // the user has their own key
	began  time.Time
	hide   func()
}

// OpenSSH opens a session to the bastion's SSH server. In a task it grants a new key, narrowed to permit. The caller must close
// the stream.
func (a *Access) OpenSSH(ctx context.Context, permit []string) (*SSHStream, error) {
	c, err := a.connector(permit)
	if err != nil {
		return nil, err
	}
	o, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	s := &SSHStream{
		Conn: o.conn, HostKeys: o.hostKeys, access: a, opened: o, own: a.settings.SSHD.Target != "", began: time.Now(),
	}
	s.hide = a.addLink(s)
	return s, nil
}

// Close closes the stream's connection.
func (s *SSHStream) Close() error {
	s.hide()
	return s.Conn.Close()
}

// Signer waits until the bastion accepts the granted key and returns its signer; nil if the user has their own key.
func (s *SSHStream) Signer(ctx context.Context) (ssh.Signer, error) {
	if s.own {
		return nil, nil
	}
	if s.opened.granted != nil {
		if err := s.opened.granted(ctx); err != nil {
			return nil, err
		}
	}
	signers, err := s.opened.signers()
	if err != nil {
		return nil, err
	}
	return signers[0], nil
}

func (s *SSHStream) probe() {
	if stream, ok := s.opened.conn.(*sessions.Stream); ok {
		stream.Probe()
	}
}

// live returns the state of a stream that another program's SSH client uses.
func (s *SSHStream) live() []report.Link {
	out := report.Link{
		Bastion: s.opened.describe, State: string(tunnel.Up), Since: s.began, Kind: "single", Channels: 1, Sessions: []report.Session{},
	}
	switch conn := s.opened.conn.(type) {
	case bonded:
		st := conn.Stats()
		out.Sent, out.Received = st.Sent, st.Received
	case *sessions.Stream:
		st := conn.Stats()
		out.Sent, out.Received = st.Sent, st.Received
	}
	s.access.addConn(&out, s.opened.conn)
	return []report.Link{out}
}
