package server

import (
	"errors"
	"time"

	"github.com/bastion-ssm/bastion/sessions/bond"
)

// listenBond begins to accept connections on the bond port. They are SSH connections like those of the SSH port, within
// the same limits, but each is carried by several sessions, and outlives them.
func (s *Server) listenBond() *bond.Listener {
	memory, streams := s.config.BondMemory, 0
	if s.taskMemory > 0 {
		memory, streams = min(memory, int(s.taskMemory/8)), maxSessions(s.taskMemory)
	}
	return bond.Listen(s.bonds, bond.ListenerConfig{
		MaxStreams: streams, Spare: spareSessions,
		Config:   bond.Config{Linger: s.config.BondLinger, Logger: s.config.Logger},
		MaxConns: s.config.BondMaxConns, MaxSubflows: s.config.BondMaxSubflows, Memory: memory,
		HandshakeTimeout: min(bond.DefaultHandshakeTimeout, s.config.HandshakeTimeout),
		OnEvent:          s.auditBond,
	})
}

// auditBond writes what happens on the bond port. Who is connected by it is not known before the SSH handshake: the auth
// event of a connection has the same bond field.
func (s *Server) auditBond(e bond.Event) {
	r := record{Reason: e.Reason, Bond: e.Conn}
	if e.Type != bond.EventClosed {
		r.Subflow = &e.Subflow
		r.Client = e.Remote.String()
	}
	switch e.Type {
	case bond.EventOpened:
		r.Event, r.Result = eventBondOpen, resultOK
	case bond.EventJoined:
		r.Event, r.Result = eventSubflowJoin, resultOK
	case bond.EventRefused:
		r.Event, r.Result = eventSubflowDeny, resultRefused
	case bond.EventLost:
		r.Event = eventSubflowLost
	case bond.EventClosed:
		r.Event = eventBondClose
		up, down := int64(e.Received), int64(e.Sent)
		r.BytesUp, r.BytesDown = &up, &down
	}
	if e.Type == bond.EventLost || e.Type == bond.EventClosed {
		ms := e.Duration.Milliseconds()
		r.DurationMS = &ms
	}
	s.audit.write(r)
	s.adjustMemory()
}

// pathless says whether nothing can reach the client at present, and it may yet come back.
func (c *client) pathless() bool {
	b, ok := c.wire.Conn.(*bond.Conn)
	return ok && b.Err() == nil && !b.Stats().Pathless.IsZero()
}

// lastSeen returns when the client was last there, after its connection has ended. One that did not come back had gone
// long before that: idle stop and linger go by at the same time, not one after the other.
func (c *client) lastSeen() time.Time {
	now := time.Now()
	b, ok := c.wire.Conn.(*bond.Conn)
	if !ok {
		return now
	}
	var reset *bond.ResetError
	if errors.As(b.Err(), &reset) && reset.Code == bond.ResetLinger && !reset.Remote {
		return now.Add(-c.server.config.BondLinger)
	}
	return now
}
