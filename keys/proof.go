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

// ProofTime bounds a secret's life at both ends. The bastion proves itself with it only within this time after the grant. The
// client accepts no proof later than this after it made the secret.
const ProofTime = time.Minute

const (
	secretSize  = 32 // bytes
	proofMarker = "bastion-proof v1 "
	proofLabel  = "bastion first contact v1"
)

// A Secret travels with one grant, by ECS Exec. With it, the grant's receiver proves its host key on the data path, once. The
// zero value means that there is none. Formatting a Secret does not show it.
type Secret [secretSize]byte

// NewSecret returns a secret from the system's random source.
func NewSecret() Secret {
	var s Secret
	_, _ = rand.Read(s[:]) // never fails
	return s
}

// IsZero reports whether s is the zero Secret.
func (s Secret) IsZero() bool { return s == Secret{} }

// Format implements fmt.Formatter so that no verb prints the secret.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[secret]") }

// MarshalText encodes the secret for the grant's word.
func (s Secret) MarshalText() ([]byte, error) {
	return []byte(base64.RawURLEncoding.EncodeToString(s[:])), nil
}

// UnmarshalText decodes the secret from the grant's word.
func (s *Secret) UnmarshalText(text []byte) error {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(string(text))
	if err != nil || len(raw) != secretSize {
		return fmt.Errorf("secret: want %d bytes in base64", secretSize)
	}
	*s = Secret(raw)
	return nil
}

// A Contact identifies the connection that a proof is bound to: an SSH connection's session id and the keys of both ends.
type Contact struct {
	Session   []byte
	HostKey   ssh.PublicKey
	ClientKey ssh.PublicKey
}

// Prove returns the proof that the secret's holder has the contact's host key: one line, which the bastion sends as a banner.
func (s Secret) Prove(c Contact) string {
	return proofMarker + base64.RawURLEncoding.EncodeToString(s.mac(c)) + "\n"
}

// ErrWrongProof says that a server with this host key does not know the grant's secret.
var ErrWrongProof = errors.New("the server's proof of its host key is wrong: it has not received the grant")

// IsProof reports whether a banner is a proof, right or wrong.
func IsProof(banner string) bool { return strings.HasPrefix(banner, proofMarker) }

// Check returns ErrWrongProof unless banner is Prove's result for the same secret and contact.
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
	h.Write(ssh.Marshal(struct { // ssh.Marshal prefixes each field with its length, so that fields cannot run together
		Label, Session, HostKey, ClientKey string
	}{proofLabel, string(c.Session), string(c.HostKey.Marshal()), string(c.ClientKey.Marshal())}))
	return h.Sum(nil)
}
