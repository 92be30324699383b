package gateway

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

const dataKeyBytes = 64 // two AES-256 keys: first the agent's, then the client's

// sessionCipher encrypts the agent's payloads and decrypts the client's: AES-256-GCM with the nonce in front.
type sessionCipher struct{ out, in cipher.AEAD }

func newSessionCipher(key []byte) (*sessionCipher, error) {
	if len(key) != dataKeyBytes {
		return nil, fmt.Errorf("data key of %d bytes, not %d", len(key), dataKeyBytes)
	}
	out, err := newGCM(key[:dataKeyBytes/2])
	if err != nil {
		return nil, err
	}
	in, err := newGCM(key[dataKeyBytes/2:])
	return &sessionCipher{out, in}, err
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func (c *sessionCipher) seal(plain []byte) []byte {
	nonce := randomBytes(c.out.NonceSize())
	return c.out.Seal(nonce, nonce, plain, nil)
}

func (c *sessionCipher) open(sealed []byte) ([]byte, error) {
	if len(sealed) < c.in.NonceSize() {
		return nil, errors.New("encrypted payload is shorter than its nonce")
	}
	return c.in.Open(nil, sealed[:c.in.NonceSize()], sealed[c.in.NonceSize():], nil)
}

// encrypted reports whether payloads of this type are encrypted in a KMS session.
func encrypted(typ frame.PayloadType) bool {
	return typ == frame.PayloadOutput || typ == frame.PayloadStderr || typ == frame.PayloadExitCode
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

func equal(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }
