package server

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/audit"
	"github.com/bastion-ssm/bastion/keys"
)

// slot holds the grant of one public key, and the connections that the key has opened. A newer grant for the key replaces the older
// one in the slot, and live connections go on under it. When the grant ends, so do its connections. Server.mu guards all fields
// except blob and fingerprint.
type slot struct {
	blob        []byte // the key in wire format
	fingerprint string
	grant       keys.Grant
	permit      *Allow // nil: the grant does not narrow the server's list
	clients     map[*client]struct{}
	left        time.Time // when the last of clients left; zero: the key was never used

	secret      keys.Secret // proves the host key to the grant's sender, once; zero: none, or used
	secretUntil time.Time   // when the server forgets it
}

func (g *slot) live(now time.Time) bool { return now.Before(g.grant.NotAfter) }

// AddGrant accepts the grant that word encodes, or refuses it with a code in the reply. A grant for a key that already has one
// replaces it. Every grant ends with the server's maximum life.
func (s *Server) AddGrant(word string) keys.GrantReply {
	g, key, permit, err := readGrant(word)
	if err != nil {
		return s.refuseGrant(g, "", keys.CodeInvalid, err)
	}
	fingerprint := ssh.FingerprintSHA256(key)
	blob := key.Marshal()

	s.mu.Lock()
	now := time.Now()
	if g.NotAfter.After(s.expiresAt) {
		g.NotAfter = s.expiresAt.UTC().Truncate(time.Second)
	}
	entry := s.slotOf(blob)
	var replaces string
	var code string
	switch {
	case s.draining:
		code, err = keys.CodeDraining, errors.New("the bastion is stopping")
	case !now.Before(g.NotAfter):
		code, err = keys.CodeExpired, fmt.Errorf("the grant ended at %s", stamp(g.NotAfter))
	case entry != nil:
		if entry.live(now) {
			replaces = entry.grant.ID
		}
	case !s.roomForGrant(now):
		code, err = keys.CodeFull, fmt.Errorf("the bastion already holds %d grants", s.config.MaxGrants)
	default:
		entry = &slot{blob: blob, fingerprint: fingerprint, clients: map[*client]struct{}{}}
		s.slots[entry] = struct{}{}
	}
	if err == nil {
		entry.secret, entry.secretUntil = g.Secret, now.Add(keys.ProofTime)
		entry.grant, entry.permit = g, permit
		entry.grant.Secret = keys.Secret{}
		s.active = now // a client is about to connect
		if s.granted != nil {
			close(s.granted)
			s.granted = nil
		}
	}
	s.mu.Unlock()
	s.notify()

	if err != nil {
		return s.refuseGrant(g, fingerprint, code, err)
	}
	s.audit.write(audit.Record{
		Event: audit.Grant, Result: audit.OK, Who: g.Principal, Grant: g.ID, Key: fingerprint,
		NotAfter: stamp(g.NotAfter), Permit: g.Permit, Replaces: replaces,
	})
	return keys.GrantReply{
		V: keys.ReplyVersion, Version: s.config.Version, HostKey: s.hostKeyLine(),
		Ports: keys.Ports{SSH: s.port, Bond: s.bondPort}, Grant: g.ID, NotAfter: g.NotAfter,
	}
}

func readGrant(word string) (keys.Grant, ssh.PublicKey, *Allow, error) {
	g, err := keys.ParseGrant(word)
	if err != nil {
		return keys.Grant{}, nil, nil, err
	}
	key, err := g.Key()
	if err != nil {
		return keys.Grant{}, nil, nil, err
	}
	if len(g.Permit) == 0 {
		return g, key, nil, nil
	}
	permit, err := parseEntries(g.Permit)
	if err != nil {
		return g, key, nil, fmt.Errorf("grant: %w", err)
	}
	return g, key, &permit, nil
}

func (s *Server) refuseGrant(g keys.Grant, fingerprint, code string, err error) keys.GrantReply {
	s.audit.write(audit.Record{
		Event: audit.GrantRefused, Result: audit.Refused, Reason: code + ": " + err.Error(),
		Who: g.Principal, Grant: g.ID, Key: fingerprint,
	})
	return keys.GrantReply{V: keys.ReplyVersion, Version: s.config.Version, Grant: g.ID, Code: code, Error: err.Error()}
}

// slotOf finds the slot of a key, and compares each in constant time. Callers hold s.mu.
func (s *Server) slotOf(blob []byte) *slot {
	var found *slot
	for g := range s.slots {
		if subtle.ConstantTimeCompare(g.blob, blob) == 1 {
			found = g
		}
	}
	return found
}

// roomForGrant makes room for a grant, if needed, by forgetting ended ones. It keeps these while there is room, so that the audit
// log can say "expired" rather than "no grant". If all grants live, it forgets the one whose used key has been away for longest.
// Clients make a key for each run and cannot give a grant back, and a client that does return asks for another grant. A key in use,
// or not used yet, keeps its grant. Callers hold s.mu.
func (s *Server) roomForGrant(now time.Time) bool {
	if len(s.slots) < s.config.MaxGrants {
		return true
	}
	var away *slot
	for g := range s.slots {
		switch {
		case len(g.clients) > 0:
		case !g.live(now):
			delete(s.slots, g)
		case !g.left.IsZero() && (away == nil || g.left.Before(away.left)):
			away = g
		}
	}
	if len(s.slots) >= s.config.MaxGrants && away != nil {
		delete(s.slots, away)
	}
	return len(s.slots) < s.config.MaxGrants
}

// endExpired ends the connections whose grants have ended, and forgets old secrets. It returns when the next grant or secret ends,
// or zero.
func (s *Server) endExpired(now time.Time) (next time.Time) {
	var ended []*client
	s.mu.Lock()
	for g := range s.slots {
		if !g.live(now) {
			ended = slices.AppendSeq(ended, maps.Keys(g.clients))
		} else if next.IsZero() || g.grant.NotAfter.Before(next) {
			next = g.grant.NotAfter
		}
		if !now.Before(g.secretUntil) {
			g.secret = keys.Secret{}
		}
		if !g.secret.IsZero() && (next.IsZero() || g.secretUntil.Before(next)) {
			next = g.secretUntil
		}
	}
	s.mu.Unlock()
	for _, c := range ended {
		s.work.Go(func() { c.end("the grant has ended") })
	}
	return next
}

var (
	errNoGrant      = errors.New("no grant for this key")
	errGrantExpired = errors.New("the grant for this key has ended")
)

// grantFor returns the slot of a key with a live grant.
func (s *Server) grantFor(key ssh.PublicKey) (*slot, error) {
	blob := key.Marshal()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch g := s.slotOf(blob); {
	case g == nil:
		return nil, errNoGrant
	case !g.live(time.Now()):
		return nil, errGrantExpired
	default:
		return g, nil
	}
}

// proof returns the proof of the host key for a client that has just proved its key, which is g's. The proof is bound to the SSH
// connection with the given session id. It returns "" if g has no secret. It forgets the secret, so that nobody who learns it later
// can prove anything by it.
func (s *Server) proof(g *slot, key ssh.PublicKey, session []byte) string {
	s.mu.Lock()
	secret := g.secret
	if !time.Now().Before(g.secretUntil) {
		secret = keys.Secret{}
	}
	g.secret = keys.Secret{}
	s.mu.Unlock()
	if secret.IsZero() {
		return ""
	}
	return secret.Prove(keys.Contact{Session: session, HostKey: s.hostKey, ClientKey: key})
}

// pendingTime bounds the wait for a grant that is on its way. ECS Exec starts a command within seconds.
const pendingTime = 10 * time.Second

// awaitGrant is grantFor for a key whose grant is on its way (keys.UserPending): it waits for the grant.
func (s *Server) awaitGrant(key ssh.PublicKey) (*slot, error) {
	timeUp := time.NewTimer(pendingTime)
	defer timeUp.Stop()
	for {
		// A grant added after this closes the channel, and one added before is found.
		s.mu.Lock()
		if s.granted == nil {
			s.granted = make(chan struct{})
		}
		granted := s.granted
		s.mu.Unlock()
		g, err := s.grantFor(key)
		if !errors.Is(err, errNoGrant) {
			return g, err
		}
		select {
		case <-granted:
		case <-timeUp.C:
			return nil, err
		case <-s.halted.Done():
			return nil, err
		}
	}
}
