package gateway

import (
	"bytes"
	"time"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

// nodeEnd is a node's end of a session. The session's mutex guards it.
type nodeEnd struct {
	token string // opens the node's next websocket; empty: used, or none yet
	sock  *socket
}

// NodeToken returns a token for another websocket of the target's node in the session, and voids an earlier one. Its error is
// ErrNoSession, also for a session to another target, ErrTerminated or ErrDown.
func (g *Gateway) NodeToken(session, target string) (token string, err error) {
	if g.downFor() > 0 {
		return "", ErrDown
	}
	s, err := g.lookup(session)
	if err != nil {
		return "", err
	}
	if !s.spec.Node || s.spec.Target != target {
		return "", ErrNoSession
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return "", ErrTerminated
	}
	s.node.token = newToken()
	return s.node.token, nil
}

// runNode gives the session to the target's node, and waits until the node reports its end.
func (s *session) runNode() result {
	if !s.spec.NoAgent && !s.gw.toNode(s.spec.Target, s.task()) {
		s.log.Debug("gateway: the control channel has gone before the session's task was sent") // nobody sends it again
	}
	select {
	case r := <-s.reported:
		return r
	case <-s.ctx.Done():
		return result{}
	}
}

// serveNode relays a node's messages until its websocket ends.
func (g *Gateway) serveNode(k *socket, h opening, s *session) error {
	if h.ClientInstanceID != s.spec.Target || !s.attachNode(k, h.TokenValue) {
		return k.refuse()
	}
	defer s.detachNode(k)
	life := time.AfterFunc(g.cfg.SocketLife, func() { s.cutNode(k) })
	defer life.Stop()
	return k.relay(s.log, func(b []byte) bool {
		switch typ := typeOf(b); typ {
		case frame.OutputStreamData, frame.Acknowledge:
			return k.relayData(s.down, b)
		default: // agent_session_state is for the gateway
			s.log.Debug("gateway: message of the node not relayed", "type", typ)
			return true
		}
	})
}

// typeOf returns the message type of a frame, "" for none.
func typeOf(b []byte) frame.MessageType {
	const at, length = 4, 32
	if len(b) < at+length {
		return ""
	}
	return frame.MessageType(bytes.TrimRight(b[at:at+length], " \x00"))
}

// attachNode makes k the node's websocket if its token is right.
func (s *session) attachNode(k *socket, token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.node.token == "" || !equal([]byte(token), []byte(s.node.token)) {
		return false
	}
	s.node.token = ""
	if old := s.node.sock; old != nil {
		s.detachNodeLocked()
		old.shut("replaced by another connection")
	}
	s.node.sock = k
	k.out, k.gen = s.up, s.up.attach()
	s.announcePresence()
	return true
}

// detachNode records that the node's websocket k is gone.
func (s *session) detachNode(k *socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.node.sock == k {
		s.detachNodeLocked()
	}
}

func (s *session) detachNodeLocked() {
	s.up.detach(s.node.sock.gen)
	s.node.sock = nil
	s.announceAbsence()
}

// cutNode closes k if it still is the node's websocket.
func (s *session) cutNode(k *socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.node.sock == k {
		s.detachNodeLocked()
		k.shut("Bye")
	}
}

// closeNode tells the node that the service has ended the session. AWS's agent understands that on both channels, and which of them AWS
// uses is not known. So it comes on both. Callers hold mu.
func (s *session) closeNode() {
	s.up.control(s.channelClosed(""))
	s.gw.toNode(s.spec.Target, s.channelClosed(""))
}
