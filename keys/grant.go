package keys

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Bounds of a grant. A grant word is part of a command line, so it stays far below the system's limit.
const (
	MaxGrantWord = 8 << 10 // bytes of an encoded grant
	MaxPermits   = 64      // destination patterns of a grant
	maxPermit    = 300     // bytes of one pattern
	maxPrincipal = 1024    // bytes of a principal; an assumed role's longest ARN has about 750
	maxID        = 64
)

// The prefixes determine the fields of a grant's word. An older bastiond, which does not know secrets, refuses secretPrefix as
// invalid.
const (
	grantPrefix  = "v1."
	secretPrefix = "v2." // with a secret
)

// UserPending is the SSH user name of a client whose grant is still on its way. For it, the bastion waits for the grant of the
// client's key instead of refusing the key. User names mean nothing else to the bastion.
const UserPending = "grant-pending"

// A Grant asks a bastion to accept a public key: the key's owner, the destinations and the end. It proves nothing by itself.
// The bastion trusts it because of its channel (ECS Exec, authorized by IAM). All of it is public except Secret, which proves
// the bastion to the client, and not the client to the bastion.
type Grant struct {
	ID        string    `json:"id"`               // random; the audit log names it
	PublicKey string    `json:"key"`              // ssh-ed25519 in authorized_keys form, without a comment
	Principal string    `json:"who"`              // the STS ARN of the person or role, as the client states it
	Permit    []string  `json:"permit,omitempty"` // destination patterns; empty: all that the bastion allows
	NotAfter  time.Time `json:"not_after"`        // whole seconds, UTC
	Secret    Secret    `json:"secret,omitzero"`  // for the first contact with the bastion; zero: none
}

// NewGrant returns a grant for pub that ends in ttl (at least a second, at most ten years). permit has patterns in the form of
// the bastion's allow-list. They can narrow that list, never widen it.
func NewGrant(pub ssh.PublicKey, principal string, permit []string, ttl time.Duration) (Grant, error) {
	if ttl < time.Second || ttl > 10*365*24*time.Hour {
		return Grant{}, fmt.Errorf("grant lifetime %v: want between one second and ten years", ttl)
	}
	g := Grant{
		ID:        rand.Text(),
		PublicKey: authorizedKey(pub),
		Principal: principal,
		Permit:    append([]string(nil), permit...),
		NotAfter:  time.Now().Add(ttl).UTC().Truncate(time.Second),
	}
	if err := g.validate(); err != nil {
		return Grant{}, err
	}
	return g, nil
}

// Key returns the granted public key.
func (g Grant) Key() (ssh.PublicKey, error) {
	key, err := parseAuthorizedKey(g.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("grant: public key: %w", err)
	}
	return key, nil
}

// Encode returns the grant as one word of letters, digits, '-', '_' and '.'. It needs no quoting on any command line.
func (g Grant) Encode() (string, error) {
	if err := g.validate(); err != nil {
		return "", err
	}
	text, err := json.Marshal(g) //nolint:gosec // G117: the secret is there to be handed over
	if err != nil {
		return "", fmt.Errorf("grant: %w", err)
	}
	word := g.prefix() + base64.RawURLEncoding.EncodeToString(text)
	if len(word) > MaxGrantWord {
		return "", fmt.Errorf("grant: %d bytes when encoded, at most %d are allowed: permit fewer destinations",
			len(word), MaxGrantWord)
	}
	return word, nil
}

func (g Grant) prefix() string {
	if g.Secret.IsZero() {
		return grantPrefix
	}
	return secretPrefix
}

// ParseGrant reads a word written by Encode. It accepts only the canonical spelling: its result encodes to the same word. It
// does not compare NotAfter with the time; that is the bastion's task.
func ParseGrant(word string) (Grant, error) {
	if len(word) > MaxGrantWord {
		return Grant{}, fmt.Errorf("grant: longer than %d bytes", MaxGrantWord)
	}
	encoded, ok := strings.CutPrefix(word, grantPrefix)
	if !ok {
		encoded, ok = strings.CutPrefix(word, secretPrefix)
	}
	if !ok {
		return Grant{}, fmt.Errorf("grant: want a word that begins with %q or %q", grantPrefix, secretPrefix)
	}
	text, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return Grant{}, fmt.Errorf("grant: %w", err)
	}
	var g Grant
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&g); err != nil {
		return Grant{}, fmt.Errorf("grant: %w", err)
	}
	again, err := g.Encode()
	if err != nil {
		return Grant{}, err
	}
	if again != word {
		return Grant{}, errors.New("grant: not in canonical form")
	}
	return g, nil
}

func (g Grant) validate() error {
	if g.ID == "" || len(g.ID) > maxID || strings.ContainsFunc(g.ID, func(r rune) bool { return !idRune(r) }) {
		return fmt.Errorf("grant: id: want 1 to %d letters, digits, '-' or '_'", maxID)
	}
	if _, err := g.Key(); err != nil {
		return err
	}
	if g.Principal == "" || len(g.Principal) > maxPrincipal || strings.ContainsFunc(g.Principal, notPrintable) {
		return fmt.Errorf("grant: principal: want 1 to %d printable ASCII characters", maxPrincipal)
	}
	if len(g.Permit) > MaxPermits {
		return fmt.Errorf("grant: %d permitted destinations, at most %d are allowed", len(g.Permit), MaxPermits)
	}
	for _, p := range g.Permit {
		if p == "" || len(p) > maxPermit || strings.ContainsFunc(p, notPrintable) || strings.ContainsAny(p, " ,") {
			return fmt.Errorf("grant: permitted destination %.60q: want host:port, at most %d printable ASCII characters",
				p, maxPermit)
		}
	}
	if t := g.NotAfter; t.Location() != time.UTC || t.Nanosecond() != 0 || t.Year() < 2000 || t.Year() > 9999 {
		return errors.New("grant: not_after: want a UTC time in whole seconds")
	}
	return nil
}

func idRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_'
}
