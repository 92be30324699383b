// Package frame is the codec of the SSM data channel's binary messages.
//
// It is pure: no I/O, no clock, no goroutines. It has its own names for the types of messages and payloads, so that it depends on no
// other implementation (docs/adr/0002-ssm-session-client.md).
package frame

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Flags of a message, as the peers send them. They are a number, not a set of bits, although AWS documents SYN and FIN as bits 0
// and 1.
const (
	FlagData uint64 = 0
	FlagSYN  uint64 = 1
	FlagFIN  uint64 = 2
	FlagAck  uint64 = 3
)

const (
	headerLen       = 116 // with the payload type
	headerLenClosed = 112 // channel_closed has none
	typeLen         = 32

	offType    = 4
	offSchema  = 36
	offCreated = 40
	offSeq     = 48
	offFlags   = 56
	offID      = 64
	offDigest  = 80
	offPayType = 112
)

// Overhead is the number of bytes that a message adds to its payload.
const Overhead = headerLen + 4

// MaxPayload is the largest payload, in bytes, that Decode accepts. The agent takes up to 256 KiB, and no known peer sends more.
const MaxPayload = 1 << 20

// ErrMalformed is wrapped by every decoding error.
var ErrMalformed = errors.New("malformed data channel message")

// Message is one message of the data channel.
type Message struct {
	Type    MessageType
	Schema  uint32
	Created time.Time // millisecond precision on the wire
	Seq     int64
	Flags   uint64
	ID      uuid.UUID
	// PayloadType is absent on the wire, and zero here, in channel_closed.
	PayloadType PayloadType
	Payload     []byte

	wire wireForm
}

// wireForm is the sender's layout of the header, in which the peers differ. Decode records it so that Append reproduces the bytes
// read. For messages made here it is the usual form of the message type.
type wireForm uint8

const (
	wireUsual wireForm = iota
	wireSpaces
	wireNUL
	wireShortSpaces // a header without the payload type
	wireShortNUL
)

func (m *Message) form() wireForm {
	if m.wire != wireUsual {
		return m.wire
	}
	if m.Type == ChannelClosed {
		return wireShortNUL
	}
	return wireSpaces
}

// Append appends the encoded message to dst and returns the extended slice. It panics on a message type longer than 32 bytes, which
// is a programming error.
func (m *Message) Append(dst []byte) []byte {
	hlen, pad := headerLen, byte(' ')
	switch m.form() {
	case wireNUL:
		pad = 0
	case wireShortSpaces:
		hlen = headerLenClosed
	case wireShortNUL:
		hlen, pad = headerLenClosed, 0
	}
	if len(m.Type) > typeLen {
		panic("frame: message type longer than 32 bytes: " + string(m.Type))
	}
	schema := cmp.Or(m.Schema, 1)
	dst = slices.Grow(dst, Overhead+len(m.Payload))
	dst = binary.BigEndian.AppendUint32(dst, uint32(hlen))
	dst = append(dst, m.Type...)
	for i := len(m.Type); i < typeLen; i++ {
		dst = append(dst, pad)
	}
	dst = binary.BigEndian.AppendUint32(dst, schema)
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.Created.UnixMilli()))
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.Seq))
	dst = binary.BigEndian.AppendUint64(dst, m.Flags)
	dst = append(dst, m.ID[8:]...)
	dst = append(dst, m.ID[:8]...)
	sum := sha256.Sum256(m.Payload)
	dst = append(dst, sum[:]...)
	if hlen == headerLen {
		dst = binary.BigEndian.AppendUint32(dst, uint32(m.PayloadType))
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(m.Payload)))
	return append(dst, m.Payload...)
}

// cutType splits the type field into the type and its padding byte. A type that fills the field counts as padded with spaces.
func cutType(field []byte) (MessageType, byte, error) {
	pad := byte(' ')
	if field[typeLen-1] == 0 {
		pad = 0
	}
	n := typeLen
	for n > 0 && field[n-1] == pad {
		n--
	}
	typ := field[:n]
	if n == 0 || typ[n-1] == ' ' || bytes.IndexByte(typ, 0) >= 0 {
		return "", 0, fmt.Errorf("%w: message type %q", ErrMalformed, field)
	}
	// Constants for the usual types save an allocation per message.
	switch string(typ) {
	case string(OutputStreamData):
		return OutputStreamData, pad, nil
	case string(InputStreamData):
		return InputStreamData, pad, nil
	case string(Acknowledge):
		return Acknowledge, pad, nil
	}
	return MessageType(typ), pad, nil
}

// Decode parses one message. Message.Payload aliases b, which Decode only reads. Decode checks every field against the length of b,
// and the payload against its digest; an error wraps ErrMalformed. Append encodes the result to the same bytes.
func Decode(b []byte) (Message, error) {
	if len(b) < headerLenClosed+4 {
		return Message{}, fmt.Errorf("%w: %d bytes, shorter than a header", ErrMalformed, len(b))
	}
	hlen := int64(binary.BigEndian.Uint32(b))
	if hlen != headerLen && hlen != headerLenClosed {
		return Message{}, fmt.Errorf("%w: header length %d", ErrMalformed, hlen)
	}
	if int64(len(b)) < hlen+4 {
		return Message{}, fmt.Errorf("%w: %d bytes, shorter than its header", ErrMalformed, len(b))
	}
	n := int64(binary.BigEndian.Uint32(b[hlen:]))
	if n > MaxPayload {
		return Message{}, fmt.Errorf("%w: payload of %d bytes, more than %d", ErrMalformed, n, MaxPayload)
	}
	if int64(len(b)) != hlen+4+n {
		return Message{}, fmt.Errorf("%w: payload length %d in a message of %d bytes", ErrMalformed, n, len(b))
	}
	typ, pad, err := cutType(b[offType : offType+typeLen])
	if err != nil {
		return Message{}, err
	}
	m := Message{
		Type:    typ,
		Schema:  binary.BigEndian.Uint32(b[offSchema:]),
		Created: time.UnixMilli(int64(binary.BigEndian.Uint64(b[offCreated:]))),
		Seq:     int64(binary.BigEndian.Uint64(b[offSeq:])),
		Flags:   binary.BigEndian.Uint64(b[offFlags:]),
		Payload: b[hlen+4:],
	}
	copy(m.ID[:8], b[offID+8:])
	copy(m.ID[8:], b[offID:])
	switch {
	case hlen == headerLen && pad == 0:
		m.wire = wireNUL
	case hlen == headerLen:
		m.wire = wireSpaces
	case pad == 0:
		m.wire = wireShortNUL
	default:
		m.wire = wireShortSpaces
	}
	if hlen == headerLen {
		m.PayloadType = PayloadType(binary.BigEndian.Uint32(b[offPayType:]))
	}
	if m.Schema < 1 {
		return Message{}, fmt.Errorf("%w: schema version %d", ErrMalformed, m.Schema)
	}
	if m.Seq < 0 {
		return Message{}, fmt.Errorf("%w: sequence number %d", ErrMalformed, m.Seq)
	}
	if sum := sha256.Sum256(m.Payload); !bytes.Equal(sum[:], b[offDigest:offDigest+sha256.Size]) {
		return Message{}, fmt.Errorf("%w: payload does not match its digest", ErrMalformed)
	}
	return m, nil
}
