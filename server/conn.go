package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/audit"
	"github.com/bastion-ssm/bastion/keys"
)

// This project's global requests, and the standard ones that the server answers.
const (
	// RequestDrain announces to the client that the bastion is about to stop. It wants no reply. The payload is the remaining time
	// in seconds, in decimal digits.
	RequestDrain = "drain@bastion"
	// RequestInfo asks for Info, as JSON in the payload of the reply.
	RequestInfo = "info@bastion"

	// RequestHealth asks for TaskHealth, as JSON in the payload of the reply.
	RequestHealth = "health@bastion"

	requestKeepalive = "keepalive@openssh.com"
)

// Info is the answer to RequestInfo.
type Info struct {
	Version   string    `json:"version"`
	Ports     InfoPorts `json:"ports"`
	IdleStop  float64   `json:"idle_stop"`  // seconds without a connection after which the bastion stops; 0: never
	ExpiresAt time.Time `json:"expires_at"` // when the bastion stops at the latest
	Grant     string    `json:"grant"`      // the ID of this connection's grant
	NotAfter  time.Time `json:"not_after"`  // end of the grant, and of this connection
	Draining  bool      `json:"draining"`
}

// InfoPorts are the loopback ports inside the bastion.
type InfoPorts struct {
	SSH  int `json:"ssh"`
	Bond int `json:"bond,omitempty"` // 0: none
}

// client is one authenticated SSH connection.
type client struct {
	server *Server
	number uint64
	wire   *wire
	conn   *ssh.ServerConn // nil: an sshd has the connection
	user   string          // the SSH user name
	slot   *slot

	endOnce sync.Once
	reason  string // why the server ended the connection; written before the wire is closed
	drained sync.Once

	open   int       // channels, open or opening; guarded by Server.mu
	unused time.Time // when the last of them closed, or the client came; guarded by Server.mu
}

// serveConn serves one connection from the handshake to its end.
func (s *Server) serveConn(ctx context.Context, raw net.Conn, number uint64) {
	began := time.Now()
	w := newWire(raw)
	defer func() { _ = w.Close() }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = w.Close() })
	defer stop()

	c, chans, requests := s.handshake(w, number)
	if c == nil {
		return
	}
	defer s.detach(c)
	s.auditClient(c, audit.Record{Event: audit.Auth, Result: audit.OK})

	var work sync.WaitGroup
	work.Go(func() { c.answerRequests(requests) })
	work.Go(func() { c.keepAlive(ctx) })
	work.Go(func() { c.endUnused(ctx) })
	for newChannel := range chans { // ends with the connection
		c.handleChannel(ctx, &work, newChannel)
	}
	cancel()
	err := c.conn.Wait()
	work.Wait()

	if errors.Is(err, io.EOF) {
		err = nil
	}
	s.auditClient(c, audit.Record{Event: audit.Disconnect, Reason: s.whyEnded(c, err), DurationMS: since(began)})
}

// handshake authenticates the client within bounded time and tries. It returns nil after a failure, which it has audited.
func (s *Server) handshake(w *wire, number uint64) (*client, <-chan ssh.NewChannel, <-chan *ssh.Request) {
	refused := false
	refuse := func(meta ssh.ConnMetadata, key ssh.PublicKey, reason string) {
		refused = true
		r := audit.Record{Event: audit.AuthRefused, Result: audit.Refused, Reason: reason, Conn: number}
		from(&r, w.Conn)
		if meta != nil {
			r.User = meta.User()
		}
		if key != nil {
			r.Key = ssh.FingerprintSHA256(key)
		}
		s.audit.write(r)
	}

	config := *s.ssh
	tries := 0
	//nolint:gosec // G408: what it keeps is for the audit and the number of tries; the permissions alone say who has signed in
	config.PublicKeyCallback = func(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		find := s.grantFor
		if meta.User() == keys.UserPending {
			find = s.awaitGrant
		}
		g, err := find(key)
		if err != nil {
			refuse(meta, key, err.Error())
			if tries++; tries >= maxAuthTries { // x/crypto/ssh does not count the first few questions about keys
				_ = w.Close()
			}
			return nil, err
		}
		return &ssh.Permissions{ExtraData: map[any]any{slotKey{}: g}}, nil
	}
	var early ssh.ServerPreAuthConn
	config.PreAuthConnCallback = func(conn ssh.ServerPreAuthConn) { early = conn }
	// Only after the client has proved that it has the key: another client could use up the secret.
	config.VerifiedPublicKeyCallback = func(
		meta ssh.ConnMetadata, key ssh.PublicKey, permissions *ssh.Permissions, _ string,
	) (*ssh.Permissions, error) {
		if g, ok := permissions.ExtraData[slotKey{}].(*slot); ok {
			if proof := s.proof(g, key, meta.SessionID()); proof != "" {
				_ = early.SendAuthBanner(proof) // fails with the connection
			}
		}
		return permissions, nil
	}
	if err := w.SetDeadline(time.Now().Add(s.config.HandshakeTimeout)); err != nil {
		refuse(nil, nil, err.Error())
		return nil, nil, nil
	}
	conn, chans, requests, err := ssh.NewServerConn(w, &config)
	if err != nil {
		if !refused {
			refuse(nil, nil, "handshake: "+err.Error())
		}
		return nil, nil, nil
	}
	c := &client{server: s, number: number, wire: w, conn: conn, user: conn.User()}
	c.slot, _ = conn.Permissions.ExtraData[slotKey{}].(*slot)
	_ = w.SetDeadline(time.Time{}) // fails if the client has gone already, as serveConn notices
	if err := s.attach(c); err != nil {
		refuse(conn, nil, err.Error())
		s.abandon(c, chans, requests)
		return nil, nil, nil
	}
	return c, chans, requests
}

type slotKey struct{}

// attach makes c a live connection, unless its grant has ended or was dropped since the server checked the key.
func (s *Server) attach(c *client) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, kept := s.slots[c.slot]
	switch {
	case c.slot == nil || !c.slot.live(time.Now()):
		return errGrantExpired
	case !kept: // the grant's end would not end the connection
		return errNoGrant
	case s.draining:
		return errDraining
	}
	c.unused = time.Now()
	c.slot.clients[c] = struct{}{}
	s.clients[c] = struct{}{}
	return nil
}

// abandon ends a connection that was not attached.
func (s *Server) abandon(c *client, chans <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
	_ = c.wire.Close()
	for range chans { // these channels close when the connection has ended
	}
	for range requests {
	}
}

func (s *Server) detach(c *client) {
	seen := c.lastSeen()
	s.mu.Lock()
	if c.slot != nil {
		delete(c.slot.clients, c)
		c.slot.left = time.Now()
	}
	delete(s.clients, c)
	if seen.After(s.active) {
		s.active = seen
	}
	s.mu.Unlock()
	s.notify()
}

// end closes the connection, and the audit log gets the first reason. It may take seconds, because bytes written to a bond
// connection must arrive first.
func (c *client) end(reason string) {
	c.endOnce.Do(func() { c.reason = reason })
	_ = c.wire.Close()
}

// ended returns why the server ended the connection, or "". Call it after the connection has ended.
func (c *client) ended() string {
	c.endOnce.Do(func() {}) // orders the read after a running end
	return c.reason
}

// answerRequests answers the client's global requests until the connection ends.
func (c *client) answerRequests(requests <-chan *ssh.Request) {
	for request := range requests {
		var ok bool
		var reply []byte
		var err error
		switch request.Type {
		case RequestInfo:
			reply, err = json.Marshal(c.info())
			ok = err == nil
		case RequestHealth:
			reply, err = json.Marshal(c.server.taskHealth())
			ok = err == nil
		case requestKeepalive:
			ok = true
		case "tcpip-forward", "streamlocal-forward@openssh.com":
			c.auditDenied(audit.Record{Request: request.Type, Reason: "remote forwarding is never permitted"})
		}
		if request.WantReply {
			_ = request.Reply(ok, reply) // fails with the connection
		}
	}
}

func (c *client) info() Info {
	s := c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	return Info{
		Version: s.config.Version, Ports: InfoPorts{SSH: s.port, Bond: s.bondPort},
		IdleStop: max(0, s.config.IdleStop.Seconds()), ExpiresAt: s.expiresAt.UTC(),
		Grant: c.slot.grant.ID, NotAfter: c.slot.grant.NotAfter, Draining: s.draining,
	}
}

// keepAlive asks the client for a sign of life four times per ClientTimeout. It ends the connection if the client has not answered
// for ClientTimeout. Otherwise a client that vanished would keep the bastion from its idle stop.
func (c *client) keepAlive(ctx context.Context) {
	ticker := time.NewTicker(c.server.config.ClientTimeout / 4)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if !c.answers() {
			return
		}
	}
}

// answers asks once, and ends the connection if the client could answer but does not.
func (c *client) answers() bool {
	answered := make(chan bool, 1)
	go func() {
		_, _, err := c.conn.SendRequest(requestKeepalive, true, nil) // ends with the connection
		answered <- err == nil
	}()
	timeout := c.server.config.ClientTimeout
	late := time.NewTimer(timeout)
	defer late.Stop()
	for {
		select {
		case ok := <-answered:
			return ok
		case <-late.C:
		}
		if c.pathless() { // the bond bounds this time: see BondLinger
			late.Reset(timeout)
			continue
		}
		c.end("the client has not answered for " + timeout.String())
		return <-answered
	}
}

// drain announces to the client, once, that the server is about to stop. An sshd cannot.
func (c *client) drain(left time.Duration) {
	if c.conn == nil {
		return
	}
	c.drained.Do(func() {
		seconds := strconv.Itoa(int(math.Ceil(max(0, left.Seconds()))))
		_, _, _ = c.conn.SendRequest(RequestDrain, false, []byte(seconds)) // fails with the connection
	})
}

// whyEnded says in the audit log why a connection has ended. err is nil if its client has ended it.
func (s *Server) whyEnded(c *client, err error) string {
	switch {
	case c.ended() != "":
		return c.ended()
	case s.halted.Err() != nil:
		return "the bastion stopped"
	case err != nil:
		return "lost: " + cause(err).Error()
	}
	return "ended by the client"
}

// auditClient writes r with the connection's identity.
func (s *Server) auditClient(c *client, r audit.Record) {
	s.mu.Lock()
	r.Who, r.Grant = c.slot.grant.Principal, c.slot.grant.ID
	s.mu.Unlock()
	r.Key = c.slot.fingerprint
	r.Conn = c.number
	if r.Event == audit.Auth {
		r.User = c.user
		from(&r, c.wire.Conn)
	}
	s.audit.write(r)
}

func (c *client) auditDenied(r audit.Record) {
	r.Event, r.Result = audit.Denied, audit.Refused
	c.server.auditClient(c, r)
}

func since(t time.Time) *int64 {
	ms := time.Since(t).Milliseconds()
	return &ms
}
