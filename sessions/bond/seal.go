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

// seals are the two directions of a subflow. They are nil in version 1, whose frames have no seals.
type seals struct{ out, in *seal }

// deriveSeals derives the client's seals of one subflow. The keys depend on every byte of its handshake. So frames of another
// subflow, or of this one under other nonces, do not verify here.
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

// swapped returns the same seals from the server's side.
func (s seals) swapped() seals { return seals{out: s.in, in: s.out} }

// seal authenticates the frames of one direction of one subflow. It is AES-256-GCM over additional data only, which is GMAC. The
// nonce is the frame's number, which is never sent. So an altered, repeated, missing or reordered frame fails to verify, and so
// does every frame after it. One goroutine at a time may use a seal.
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

// verify reports whether frame is the peer's next frame.
func (s *seal) verify(frame, code []byte) bool {
	_, err := s.aead.Open(nil, s.nonce[:], code, frame)
	s.count()
	return err == nil
}

// count advances the nonce to the next frame. The number does not wrap: no subflow carries 2^64 frames.
func (s *seal) count() {
	number := s.nonce[4:]
	binary.BigEndian.PutUint64(number, binary.BigEndian.Uint64(number)+1)
}

// errDamaged says that a frame does not verify: the subflow does not carry what the peer put on it. The error costs that subflow
// and nothing else.
var errDamaged = errors.New("damaged: a frame does not verify")
