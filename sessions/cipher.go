package sessions

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"
)

// dataKeySize is the length in bytes of a session's KMS data key: one AES-256 key for each direction.
const dataKeySize = 64

// payloadCipher encrypts and decrypts the payloads of a KMS-encrypted session. It is AES-256-GCM without additional data; a random
// 12-byte nonce precedes the ciphertext.
type payloadCipher struct {
	in, out cipher.AEAD
}

// newPayloadCipher returns the client's cipher for a data key. The agent encrypts with the key's first half, the client with its
// second.
func newPayloadCipher(key []byte) (*payloadCipher, error) {
	if len(key) != dataKeySize {
		return nil, fmt.Errorf("KMS data key of %d bytes, not %d", len(key), dataKeySize)
	}
	in, err := newGCM(key[:dataKeySize/2])
	if err != nil {
		return nil, err
	}
	out, err := newGCM(key[dataKeySize/2:])
	if err != nil {
		return nil, err
	}
	return &payloadCipher{in: in, out: out}, nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (c *payloadCipher) seal(dst, plaintext []byte) []byte {
	return c.out.Seal(dst, nil, plaintext, nil) //nolint:gosec // G407: this AEAD takes no nonce, it makes one
}

func (c *payloadCipher) open(payload []byte) ([]byte, error) {
	plain, err := c.in.Open(nil, nil, payload, nil)
	if err != nil {
		return nil, protocolError("a payload is not encrypted with the session's key")
	}
	return plain, nil
}
