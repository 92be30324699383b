package bond

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
)

// sealSize is how many bytes a seal adds to each frame.
const sealSize = 16

// seals are the two directions of a subflow of version 2. The zero value is that of version 1, whose frames have none.
type seals struct{ out, in *seal }

// deriveSeals makes the seals of one subflow, as the client has them. The keys depend on every byte of its handshake: what was said
// on another subflow, or on this one under other nonces, does not verify here.
func deriveSeals(key secret, version uint8, hello, open []byte) seals {
	if version < versionSealed {
		return seals{}
	}
	h := sha256.New()
	h.Write(hello)
	h.Write(open)
	handshake := string(h.Sum(nil))
	derive := func(label string) *seal {
		k, err := hkdf.Expand(sha256.New, key[:], label+handshake, len(secret{}))
		if err != nil {
			panic("bond: " + err.Error()) // of a length that HKDF cannot give
		}
		return newSeal(k)
	}
	return seals{out: derive(labelClientFrames), in: derive(labelServerFrames)}
}

// swapped are the same seals as the server has them.
func (s seals) swapped() seals { return seals{out: s.in, in: s.out} }

// seal authenticates the frames of one direction of one subflow: AES-256-GCM over nothing but additional data, which is GMAC. The
// nonce is the number of the frame, which is never sent. So a frame does not verify that is altered, repeated, left out or out of
// order, nor any frame after it. It is for one goroutine at a time.
type seal struct {
	aead  cipher.AEAD
	nonce [12]byte // four zeros, and the number of the next frame
}

func newSeal(key []byte) *seal {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("bond: " + err.Error()) // of a length that AES does not have
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("bond: " + err.Error()) // a block of another size than AES's
	}
	return &seal{aead: aead}
}

// append seals the frame that begins at start. A nil seal adds nothing.
func (s *seal) append(b []byte, start int) []byte {
	if s == nil {
		return b
	}
	b = s.aead.Seal(b, s.nonce[:], nil, b[start:])
	s.count()
	return b
}

// verify says whether the next frame is this one.
func (s *seal) verify(frame, code []byte) bool {
	_, err := s.aead.Open(nil, s.nonce[:], code, frame)
	s.count()
	return err == nil
}

// count goes on to the next frame. The number does not wrap: no subflow carries 2^64 frames.
func (s *seal) count() {
	number := s.nonce[4:]
	binary.BigEndian.PutUint64(number, binary.BigEndian.Uint64(number)+1)
}

// errDamaged says that a subflow does not carry what the peer put on it: a frame does not verify. The subflow is lost by it, and
// nothing else is.
var errDamaged = errors.New("damaged: a frame does not verify")
