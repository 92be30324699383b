package keys

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"strings"

	"golang.org/x/crypto/ssh"
)

const maxComment = 128 // bytes

// A Pair is an ed25519 key pair that stays in memory: it has no encoding, and formatting it shows only the public key's
// fingerprint.
type Pair struct {
	signer  ssh.Signer
	comment string
}

// NewPair makes a pair from the system's random source. The comment is public: at most 128 bytes of printable ASCII and spaces.
func NewPair(comment string) (*Pair, error) {
	if len(comment) > maxComment || strings.ContainsFunc(comment, notPrintable) {
		return nil, fmt.Errorf("key comment: want at most %d printable ASCII characters", maxComment)
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key pair: %w", err)
	}
	signer, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		return nil, fmt.Errorf("make a key pair: %w", err)
	}
	return &Pair{signer: signer, comment: comment}, nil
}

// Signer returns the signer, which is safe for concurrent use.
func (p *Pair) Signer() ssh.Signer { return p.signer }

// PublicKey returns the public half.
func (p *Pair) PublicKey() ssh.PublicKey { return p.signer.PublicKey() }

// AuthorizedKey returns the public half as a line of an authorized_keys file, with the comment and without a line end.
func (p *Pair) AuthorizedKey() string {
	line := authorizedKey(p.PublicKey())
	if p.comment != "" {
		line += " " + p.comment
	}
	return line
}

// Format implements fmt.Formatter so that no verb prints the private half.
func (p *Pair) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, ssh.FingerprintSHA256(p.PublicKey()))
}

// authorizedKey returns key in authorized_keys form, without a comment or line end.
func authorizedKey(key ssh.PublicKey) string {
	return strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(key)), "\n")
}

// parseAuthorizedKey accepts only authorizedKey's form, and only ed25519, the one type that this project makes.
func parseAuthorizedKey(s string) (ssh.PublicKey, error) {
	key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(s))
	switch {
	case err != nil:
		return nil, err
	case key.Type() != ssh.KeyAlgoED25519:
		return nil, fmt.Errorf("key type %q is not accepted, want %s", key.Type(), ssh.KeyAlgoED25519)
	case len(options) > 0 || authorizedKey(key) != s:
		return nil, fmt.Errorf("want the key's type and base64 text alone")
	}
	return key, nil
}

func notPrintable(r rune) bool { return r < ' ' || r > '~' }
