package keys

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// ProofTime bounds the life of a secret at both ends: the bastion proves itself by it within this time of the grant, and
// the client believes no proof that comes later than this after it made the secret.
const ProofTime = time.Minute

const (
	secretSize  = 32 // bytes
	proofMarker = "bastion-proof v1 "
	proofLabel  = "bastion first contact v1"
)

// A Secret travels with one grant, by ECS Exec, and lets the grant's receiver prove its host key on the data path, once.
// The zero value is no secret. Formatting a Secret does not show it.
type Secret [secretSize]byte

// NewSecret returns a secret from the system's random source.
func NewSecret() Secret {
	var s Secret
	_, _ = rand.Read(s[:]) // never fails
	return s
}

// IsZero reports whether s is no secret.
func (s Secret) IsZero() bool { return s == Secret{} }

// Format implements fmt.Formatter so that no verb prints the secret.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[secret]") }

// MarshalText is for the grant's word.
func (s Secret) MarshalText() ([]byte, error) {
	return []byte(base64.RawURLEncoding.EncodeToString(s[:])), nil
}

// UnmarshalText is for the grant's word.
func (s *Secret) UnmarshalText(text []byte) error {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(string(text))
	if err != nil || len(raw) != secretSize {
		return fmt.Errorf("secret: want %d bytes in base64", secretSize)
	}
	*s = Secret(raw)
	return nil
}

// A Contact is what a proof is bound to: one SSH connection, by its session id, and the keys of both its ends.
type Contact struct {
	Session   []byte
	HostKey   ssh.PublicKey
	ClientKey ssh.PublicKey
}

// Prove returns the proof that the holder of the secret has the contact's host key: one line, which the bastion sends as
// a banner.
func (s Secret) Prove(c Contact) string {
	return proofMarker + base64.RawURLEncoding.EncodeToString(s.mac(c)) + "\n"
}

// ErrWrongProof says that a server claims a host key as a grant's receiver, and does not know the grant's secret.
var ErrWrongProof = errors.New("the server's proof of its host key is wrong: it has not received the grant")

// IsProof reports whether a banner is a proof, right or wrong.
func IsProof(banner string) bool { return strings.HasPrefix(banner, proofMarker) }

// Check returns ErrWrongProof unless banner is what Prove returns for the same secret and contact.
func (s Secret) Check(banner string, c Contact) error {
	text, marked := strings.CutPrefix(strings.TrimSuffix(banner, "\n"), proofMarker)
	mac, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if s.IsZero() || !marked || err != nil || !hmac.Equal(mac, s.mac(c)) {
		return ErrWrongProof
	}
	return nil
}

func (s Secret) mac(c Contact) []byte {
	h := hmac.New(sha256.New, s[:])
	h.Write(ssh.Marshal(struct { // each field with its length, so that none can run into the next
		Label, Session, HostKey, ClientKey string
	}{proofLabel, string(c.Session), string(c.HostKey.Marshal()), string(c.ClientKey.Marshal())}))
	return h.Sum(nil)
}
