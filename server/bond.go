package server

import (
	"errors"
	"time"

	"github.com/bastion-ssm/bastion/internal/audit"
	"github.com/bastion-ssm/bastion/sessions/bond"
)

// listenBond starts to accept connections on the bond port. They are SSH connections like those of the SSH port, within the same
// limits, but several sessions carry each one, and it outlives them.
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

// auditBond writes the events of the bond port. The client is unknown before the SSH handshake: the connection's auth event has the
// same bond field.
func (s *Server) auditBond(e bond.Event) {
	r := audit.Record{Reason: e.Reason, Bond: e.Conn}
	if e.Type != bond.EventClosed {
		r.Subflow = &e.Subflow
		r.Client = e.Remote.String()
	}
	switch e.Type {
	case bond.EventOpened:
		r.Event, r.Result = audit.BondOpen, audit.OK
	case bond.EventJoined:
		r.Event, r.Result = audit.SubflowJoin, audit.OK
	case bond.EventRefused:
		r.Event, r.Result = audit.SubflowDeny, audit.Refused
	case bond.EventLost:
		r.Event = audit.SubflowLost
	case bond.EventClosed:
		r.Event = audit.BondClose
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

// pathless reports whether the client is unreachable at present but may yet come back.
func (c *client) pathless() bool {
	b, ok := c.wire.Conn.(*bond.Conn)
	return ok && b.Err() == nil && !b.Stats().Pathless.IsZero()
}

// lastSeen returns when an ended client was last present. A client that did not come back had gone long before its end. So the idle
// stop and linger overlap, instead of following one another.
func (c *client) lastSeen() time.Time {
	now := time.Now()
	b, ok := c.wire.Conn.(*bond.Conn)
	if !ok {
		return now
	}
	if reset, ok := errors.AsType[*bond.ResetError](b.Err()); ok && reset.Code == bond.ResetLinger && !reset.Remote {
		return now.Add(-c.server.config.BondLinger)
	}
	return now
}
