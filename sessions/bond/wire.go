package bond

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Sizes of frames, in bytes. ACK's received field counts DATA and FIN with their headers.
const (
	maxData = 16384 // of a DATA frame's payload

	dataHeader  = 1 + 8 + 2
	finSize     = 1 + 8
	ackSize     = 1 + 8 + 8 + 8 + 4
	ackOfSize   = ackSize + 4
	pingSize    = 1 + 8
	bareSize    = 1 // WANT, LEAVE
	resetHeader = 1 + 2 + 2

	maxText = 255 // of RESET's and REFUSE's text
)

type frameType uint8

const (
	frameData  frameType = 1
	frameFIN   frameType = 2
	frameAck   frameType = 3
	framePing  frameType = 4
	framePong  frameType = 5
	frameWant  frameType = 6
	frameLeave frameType = 7
	frameReset frameType = 8
	frameAckOf frameType = 9 // from version 2 on
)

// frameNames are the names of the types of frames.
var frameNames = [...]string{
	frameData:  "DATA",
	frameFIN:   "FIN",
	frameAck:   "ACK",
	framePing:  "PING",
	framePong:  "PONG",
	frameWant:  "WANT",
	frameLeave: "LEAVE",
	frameReset: "RESET",
	frameAckOf: "ACKOF",
}

func (t frameType) String() string { return named(frameNames[:], t, "frame of type") }

// named returns the name of a code, or what it is and its number if it has none.
func named[T ~uint8 | ~uint16](names []string, code T, what string) string {
	if int(code) < len(names) && names[code] != "" {
		return names[code]
	}
	return fmt.Sprintf("%s %d", what, code)
}

// frame is a frame of any type. Fields that its type does not have are zero.
type frame struct {
	typ frameType

	dsn  uint64 // DATA: offset of the payload's first byte. FIN: length of the sender's stream
	data []byte // DATA: valid until the next call of frameReader.next

	ack      uint64 // ACK: the next DSN that the sender wants
	limit    uint64 // ACK: the first DSN that the peer may not send yet
	received uint64 // ACK: bytes of DATA and FIN frames received on this subflow
	delay    uint32 // ACK: microseconds since the newest of these came
	subflow  uint32 // ACKOF, an ACK sent on another subflow: the subflow that it is about

	token uint64 // PING, PONG

	code ResetCode // RESET
	text string    // RESET
}

// appendFrame appends an encoded frame. It panics on a frame that no end may send, which is a programming error.
func appendFrame(dst []byte, f *frame) []byte {
	if f.typ == frameData {
		return append(appendDataHeader(dst, f.dsn, len(f.data)), f.data...)
	}
	dst = append(dst, byte(f.typ))
	switch f.typ {
	case frameFIN:
		return binary.BigEndian.AppendUint64(dst, f.dsn)
	case frameAck, frameAckOf:
		if f.typ == frameAckOf {
			dst = binary.BigEndian.AppendUint32(dst, f.subflow)
		}
		dst = binary.BigEndian.AppendUint64(dst, f.ack)
		dst = binary.BigEndian.AppendUint64(dst, f.limit)
		dst = binary.BigEndian.AppendUint64(dst, f.received)
		return binary.BigEndian.AppendUint32(dst, f.delay)
	case framePing, framePong:
		return binary.BigEndian.AppendUint64(dst, f.token)
	case frameWant, frameLeave:
		return dst
	case frameReset:
		if len(f.text) > maxText {
			panic(fmt.Sprintf("bond: RESET with a text of %d bytes", len(f.text)))
		}
		dst = binary.BigEndian.AppendUint16(dst, uint16(f.code))
		dst = binary.BigEndian.AppendUint16(dst, uint16(len(f.text)))
		return append(dst, f.text...)
	}
	panic("bond: cannot encode a " + f.typ.String())
}

// appendDataHeader appends a DATA frame without its payload. The caller appends the payload, of size bytes, from its own storage.
func appendDataHeader(dst []byte, dsn uint64, size int) []byte {
	if size <= 0 || size > maxData {
		panic(fmt.Sprintf("bond: DATA of %d bytes", size))
	}
	dst = append(dst, byte(frameData))
	dst = binary.BigEndian.AppendUint64(dst, dsn)
	return binary.BigEndian.AppendUint16(dst, uint16(size))
}

// clipText shortens a text to fit RESET and REFUSE, and makes it valid UTF-8.
func clipText(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), maxText)], "")
}

// readBuffer holds the largest frame, and enough of the following ones to make reads few.
const readBuffer = 32 << 10

// frameReader reads frames from one subflow. One goroutine uses it.
type frameReader struct {
	buf  *bufio.Reader
	seal *seal // of the peer's frames; nil in version 1
}

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{buf: bufio.NewReaderSize(r, readBuffer)}
}

// Read returns the bytes before the first frame, ACCEPT or REFUSE, to the code that completes the handshake.
func (r *frameReader) Read(p []byte) (int, error) { return r.buf.Read(p) }

// next reads one frame. The error is io.EOF where a frame could begin, and io.ErrUnexpectedEOF within a frame.
//
// With a seal, bytes that the peer did not send here give errDamaged, and a frame that it must not send gives a *protocolError.
// Without a seal, bytes that do not form a frame are a *protocolError.
func (r *frameReader) next(f *frame) error {
	size, err := r.measure()
	if err != nil {
		return r.damaged(err)
	}
	var code []byte
	b, err := r.take(size + r.overhead())
	if err != nil {
		return err
	}
	if b, code = b[:size], b[size:]; r.seal != nil && !r.seal.verify(b, code) {
		return errDamaged
	}
	return f.parse(b)
}

// overhead returns how many bytes follow each frame.
func (r *frameReader) overhead() int {
	if r.seal == nil {
		return 0
	}
	return sealSize
}

// damaged turns a protocol error in unverified bytes into errDamaged: such bytes say nothing about the peer.
func (r *frameReader) damaged(err error) error {
	if violation, ok := errors.AsType[*protocolError](err); ok && r.seal != nil {
		return fmt.Errorf("%w: %s", errDamaged, violation.what)
	}
	return err
}

// measure returns the next frame's size from its first bytes. It bounds how long take waits, because nothing is verified yet.
func (r *frameReader) measure() (int, error) {
	head, err := r.buf.Peek(1)
	if err != nil {
		return 0, err
	}
	switch typ := frameType(head[0]); typ {
	case frameData:
		if head, err = r.peek(dataHeader); err != nil {
			return 0, err
		}
		size := int(binary.BigEndian.Uint16(head[dataHeader-2:]))
		if size > maxData {
			return 0, protocolErrorf("DATA of %d bytes", size)
		}
		return dataHeader + size, nil
	case frameFIN:
		return finSize, nil
	case frameAck:
		return ackSize, nil
	case frameAckOf:
		if r.seal != nil {
			return ackOfSize, nil
		}
	case framePing, framePong:
		return pingSize, nil
	case frameWant, frameLeave:
		return bareSize, nil
	case frameReset:
		if head, err = r.peek(resetHeader); err != nil {
			return 0, err
		}
		size := int(binary.BigEndian.Uint16(head[resetHeader-2:]))
		if size > maxText {
			return 0, protocolErrorf("RESET with a text of %d bytes", size)
		}
		return resetHeader + size, nil
	}
	return 0, protocolErrorf("unknown frame of type %d", head[0])
}

// parse decodes a frame of the size that measure found.
func (f *frame) parse(b []byte) error {
	*f = frame{typ: frameType(b[0])}
	switch f.typ {
	case frameData:
		f.dsn = binary.BigEndian.Uint64(b[1:])
		if f.data = b[dataHeader:]; len(f.data) == 0 {
			return protocolErrorf("DATA of 0 bytes")
		}
	case frameFIN:
		f.dsn = binary.BigEndian.Uint64(b[1:])
	case frameAckOf:
		f.subflow = binary.BigEndian.Uint32(b[1:])
		b = b[4:]
		fallthrough
	case frameAck:
		f.ack = binary.BigEndian.Uint64(b[1:])
		f.limit = binary.BigEndian.Uint64(b[9:])
		f.received = binary.BigEndian.Uint64(b[17:])
		f.delay = binary.BigEndian.Uint32(b[25:])
	case framePing, framePong:
		f.token = binary.BigEndian.Uint64(b[1:])
	case frameReset:
		f.code = ResetCode(binary.BigEndian.Uint16(b[1:]))
		f.text = string(b[resetHeader:])
	case frameWant, frameLeave:
	}
	return nil
}

// peek returns the next n bytes of a frame that has begun, and leaves them in the buffer.
func (r *frameReader) peek(n int) ([]byte, error) {
	b, err := r.buf.Peek(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

// take is peek that consumes the bytes. The result stays valid until the next peek fills the buffer again.
func (r *frameReader) take(n int) ([]byte, error) {
	b, err := r.peek(n)
	if err != nil {
		return nil, err
	}
	_, err = r.buf.Discard(n)
	return b, err
}

// protocolError is the peer's violation of the protocol.
type protocolError struct{ what string }

func (e *protocolError) Error() string { return "the peer violates the bond protocol: " + e.what }

func protocolErrorf(format string, args ...any) *protocolError {
	return &protocolError{what: fmt.Sprintf(format, args...)}
}

// ResetCode says why an end failed a connection.
type ResetCode uint16

// The codes of RESET.
const (
	ResetAborted  ResetCode = 1 // by the application
	ResetProtocol ResetCode = 2 // the other end violated the protocol
	ResetDraining ResetCode = 3 // the server shuts down
	ResetMemory   ResetCode = 4 // the end is out of memory
	ResetLinger   ResetCode = 5 // no subflow came in time
)

// resetTexts are what the codes of RESET say.
var resetTexts = [...]string{
	ResetAborted:  "aborted",
	ResetProtocol: "protocol error",
	ResetDraining: "shutting down",
	ResetMemory:   "out of memory",
	ResetLinger:   "no path for too long",
}

func (c ResetCode) String() string { return named(resetTexts[:], c, "code") }

// ResetError is the error of a connection that one end ended before both streams were complete.
type ResetError struct {
	Code   ResetCode
	Reason string // chosen by the end that reset; may be empty
	Remote bool   // the far end sent RESET
}

func (e *ResetError) Error() string {
	s := "bond reset"
	if e.Remote {
		s += " by the far end"
	}
	return withReason(s+": "+e.Code.String(), e.Reason)
}

// RefuseCode says why a server refuses a subflow.
type RefuseCode uint8

// The codes of REFUSE.
const (
	RefuseVersion   RefuseCode = 1  // no version in common
	RefuseMalformed RefuseCode = 2  // not an OPEN
	RefuseUnknown   RefuseCode = 3  // unknown connection: it is gone, or this is another server
	RefuseMAC       RefuseCode = 4  // the client does not have the connection's key
	RefuseConns     RefuseCode = 5  // too many connections
	RefuseSubflows  RefuseCode = 6  // too many subflows
	RefuseClosed    RefuseCode = 7  // the connection has ended in good order
	RefuseDraining  RefuseCode = 8  // the server shuts down
	RefuseMemory    RefuseCode = 9  // no memory for another connection
	RefuseUsed      RefuseCode = 10 // the subflow id was used before
)

// refuseTexts are what the codes of REFUSE say.
var refuseTexts = [...]string{
	RefuseVersion:   "no version in common",
	RefuseMalformed: "malformed handshake",
	RefuseUnknown:   "unknown connection",
	RefuseMAC:       "wrong key",
	RefuseConns:     "too many connections",
	RefuseSubflows:  "too many subflows",
	RefuseClosed:    "the connection has ended",
	RefuseDraining:  "shutting down",
	RefuseMemory:    "out of memory",
	RefuseUsed:      "subflow id used before",
}

func (c RefuseCode) String() string { return named(refuseTexts[:], c, "code") }

// RefusedError is the error of a subflow that the server refuses.
type RefusedError struct {
	Code   RefuseCode
	Reason string // chosen by the server; may be empty

	// sure says that the refusal surely comes from the server. Either the server proved that it has the connection's key, or, in
	// version 1, only the server makes this code. Any other refusal may be damage on the way.
	sure bool
}

func (e *RefusedError) Error() string {
	return withReason("bond subflow refused: "+e.Code.String(), e.Reason)
}

// Fatal reports whether the refusal, if the server sent it, means that no other JOIN of the connection can succeed.
func (e *RefusedError) Fatal() bool {
	switch e.Code {
	case RefuseVersion, RefuseUnknown, RefuseMAC, RefuseClosed:
		return true
	}
	return false
}

// withReason appends a text that the peer may have chosen. It quotes the text, because a terminal or a log may show it.
func withReason(s, reason string) string {
	if reason == "" {
		return s
	}
	return fmt.Sprintf("%s (%q)", s, reason)
}
