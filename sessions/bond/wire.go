package bond

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Sizes of frames, in bytes. DATA and FIN are counted with their headers, for ACK's received field.
const (
	maxData = 16384 // of a DATA frame's payload

	dataHeader  = 1 + 8 + 2
	finSize     = 1 + 8
	ackSize     = 1 + 8 + 8 + 8 + 4
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
)

func (t frameType) String() string {
	switch t {
	case frameData:
		return "DATA"
	case frameFIN:
		return "FIN"
	case frameAck:
		return "ACK"
	case framePing:
		return "PING"
	case framePong:
		return "PONG"
	case frameWant:
		return "WANT"
	case frameLeave:
		return "LEAVE"
	case frameReset:
		return "RESET"
	}
	return fmt.Sprintf("frame of type %d", uint8(t))
}

// frame is one frame of any type: the fields that its type does not have are zero.
type frame struct {
	typ frameType

	dsn  uint64 // DATA: of the payload's first byte. FIN: the length of the sender's stream
	data []byte // DATA: valid until the next call of frameReader.next

	ack      uint64 // ACK: the next DSN that the sender wants
	limit    uint64 // ACK: the first DSN that may not be sent yet
	received uint64 // ACK: bytes of DATA and FIN frames that came on this subflow
	delay    uint32 // ACK: microseconds that the newest of these waited

	token uint64 // PING, PONG

	code ResetCode // RESET
	text string    // RESET
}

// appendFrame appends an encoded frame. A frame that no end may send is a programming error and panics.
func appendFrame(dst []byte, f *frame) []byte {
	if f.typ == frameData {
		return append(appendDataHeader(dst, f.dsn, len(f.data)), f.data...)
	}
	dst = append(dst, byte(f.typ))
	switch f.typ {
	case frameFIN:
		return binary.BigEndian.AppendUint64(dst, f.dsn)
	case frameAck:
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

// appendDataHeader appends DATA up to its payload, of size bytes, which the caller appends: from wherever it is kept.
func appendDataHeader(dst []byte, dsn uint64, size int) []byte {
	if size <= 0 || size > maxData {
		panic(fmt.Sprintf("bond: DATA of %d bytes", size))
	}
	dst = append(dst, byte(frameData))
	dst = binary.BigEndian.AppendUint64(dst, dsn)
	return binary.BigEndian.AppendUint16(dst, uint16(size))
}

// clipText shortens a text to what RESET and REFUSE can carry, and makes it UTF-8.
func clipText(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), maxText)], "")
}

// readBuffer holds the largest frame, and enough of the following ones to make reads few.
const readBuffer = 32 << 10

// frameReader reads frames from one subflow. It is for one goroutine.
type frameReader struct {
	buf *bufio.Reader
}

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{buf: bufio.NewReaderSize(r, readBuffer)}
}

// Read gives the bytes before the first frame, ACCEPT or REFUSE, to whoever completes the handshake.
func (r *frameReader) Read(p []byte) (int, error) { return r.buf.Read(p) }

// next reads one frame. The error is io.EOF only where a frame could begin, io.ErrUnexpectedEOF within one, and a
// *protocolError for what is no frame.
func (r *frameReader) next(f *frame) error {
	head, err := r.buf.Peek(1)
	if err != nil {
		return err
	}
	*f = frame{typ: frameType(head[0])}
	switch f.typ {
	case frameData:
		if head, err = r.peek(dataHeader); err != nil {
			return err
		}
		f.dsn = binary.BigEndian.Uint64(head[1:])
		size := int(binary.BigEndian.Uint16(head[9:]))
		if size == 0 || size > maxData {
			return protocolErrorf("DATA of %d bytes", size)
		}
		if head, err = r.take(dataHeader + size); err != nil {
			return err
		}
		f.data = head[dataHeader:]
	case frameFIN:
		if head, err = r.take(finSize); err != nil {
			return err
		}
		f.dsn = binary.BigEndian.Uint64(head[1:])
	case frameAck:
		if head, err = r.take(ackSize); err != nil {
			return err
		}
		f.ack = binary.BigEndian.Uint64(head[1:])
		f.limit = binary.BigEndian.Uint64(head[9:])
		f.received = binary.BigEndian.Uint64(head[17:])
		f.delay = binary.BigEndian.Uint32(head[25:])
	case framePing, framePong:
		if head, err = r.take(pingSize); err != nil {
			return err
		}
		f.token = binary.BigEndian.Uint64(head[1:])
	case frameWant, frameLeave:
		_, err = r.take(bareSize)
		return err
	case frameReset:
		if head, err = r.peek(resetHeader); err != nil {
			return err
		}
		f.code = ResetCode(binary.BigEndian.Uint16(head[1:]))
		size := int(binary.BigEndian.Uint16(head[3:]))
		if size > maxText {
			return protocolErrorf("RESET with a text of %d bytes", size)
		}
		if head, err = r.take(resetHeader + size); err != nil {
			return err
		}
		f.text = string(head[resetHeader:])
	default:
		return protocolErrorf("unknown %s", f.typ)
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

// take is peek that consumes. What it returns stays as it is until the buffer is filled again, by the next peek.
func (r *frameReader) take(n int) ([]byte, error) {
	b, err := r.peek(n)
	if err != nil {
		return nil, err
	}
	_, err = r.buf.Discard(n)
	return b, err
}

// protocolError is a violation of the protocol by the peer.
type protocolError struct{ what string }

func (e *protocolError) Error() string { return "the peer violates the bond protocol: " + e.what }

func protocolErrorf(format string, args ...any) *protocolError {
	return &protocolError{what: fmt.Sprintf(format, args...)}
}

// ResetCode says why an end ended a connection.
type ResetCode uint16

// The codes of RESET.
const (
	ResetAborted  ResetCode = 1 // by the application
	ResetProtocol ResetCode = 2 // the other end violated the protocol
	ResetDraining ResetCode = 3 // the server shuts down
	ResetMemory   ResetCode = 4 // the end is out of memory
	ResetLinger   ResetCode = 5 // no path came in time
)

func (c ResetCode) String() string {
	switch c {
	case ResetAborted:
		return "aborted"
	case ResetProtocol:
		return "protocol error"
	case ResetDraining:
		return "shutting down"
	case ResetMemory:
		return "out of memory"
	case ResetLinger:
		return "no path for too long"
	}
	return fmt.Sprintf("code %d", uint16(c))
}

// ResetError is the error of a connection that one end ended before its streams were through.
type ResetError struct {
	Code   ResetCode
	Reason string // chosen by the end that reset; may be empty
	Remote bool   // the far end reset
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
	RefuseUnknown   RefuseCode = 3  // no such connection: it is gone, or the server is another one
	RefuseMAC       RefuseCode = 4  // the client does not have the connection's key
	RefuseConns     RefuseCode = 5  // too many connections
	RefuseSubflows  RefuseCode = 6  // too many subflows
	RefuseClosed    RefuseCode = 7  // the connection has ended in good order
	RefuseDraining  RefuseCode = 8  // the server shuts down
	RefuseMemory    RefuseCode = 9  // no memory for another connection
	RefuseUsed      RefuseCode = 10 // the subflow id was used before
)

func (c RefuseCode) String() string {
	switch c {
	case RefuseVersion:
		return "no version in common"
	case RefuseMalformed:
		return "malformed handshake"
	case RefuseUnknown:
		return "unknown connection"
	case RefuseMAC:
		return "wrong key"
	case RefuseConns:
		return "too many connections"
	case RefuseSubflows:
		return "too many subflows"
	case RefuseClosed:
		return "the connection has ended"
	case RefuseDraining:
		return "shutting down"
	case RefuseMemory:
		return "out of memory"
	case RefuseUsed:
		return "subflow id used before"
	}
	return fmt.Sprintf("code %d", uint8(c))
}

// RefusedError is the error of a subflow that the server does not take.
type RefusedError struct {
	Code   RefuseCode
	Reason string // chosen by the server; may be empty
}

func (e *RefusedError) Error() string {
	return withReason("bond subflow refused: "+e.Code.String(), e.Reason)
}

// Fatal reports that no other JOIN of the connection can succeed.
func (e *RefusedError) Fatal() bool {
	switch e.Code {
	case RefuseVersion, RefuseUnknown, RefuseMAC, RefuseClosed:
		return true
	}
	return false
}

// withReason adds a text that the peer may have chosen: quoted, because a terminal or a log may show it.
func withReason(s, reason string) string {
	if reason == "" {
		return s
	}
	return fmt.Sprintf("%s (%q)", s, reason)
}
