package rig

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
)

// FarEnd is a TCP server for transfers. The client's first byte says what it wants:
//
//	'e'  echo: every byte comes back
//	'd'  download: 8 bytes of length follow, that many bytes of Data come back, then EOF
//	'u'  upload: 8 bytes of length follow, then the bytes; their SHA-256 (32 bytes) comes back
//	'b'  both: as download, while the client's bytes are swallowed until its EOF; their SHA-256 follows the download
type FarEnd struct{ *Server }

// StartFarEnd listens on addr, a loopback address.
func StartFarEnd(addr string) (*FarEnd, error) {
	if err := Guard(addr); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &FarEnd{Serve(l, func(c net.Conn) { _ = answer(c) })}, nil
}

func answer(c net.Conn) error {
	r := bufio.NewReaderSize(c, 64<<10)
	op, err := r.ReadByte()
	if err != nil {
		return err
	}
	if op == 'e' {
		_, err = io.Copy(c, r)
		return err
	}
	var n uint64
	if err := binary.Read(r, binary.BigEndian, &n); err != nil {
		return err
	}
	switch op {
	case 'd':
		_, err = io.Copy(c, Data(int64(n)))
		return err
	case 'u':
		h := sha256.New()
		if _, err := io.CopyN(h, r, int64(n)); err != nil {
			return err
		}
		_, err = c.Write(h.Sum(nil))
		return err
	case 'b':
		sum := make(chan []byte, 1)
		go func() {
			h := sha256.New()
			_, _ = io.Copy(h, r)
			sum <- h.Sum(nil)
		}()
		_, err := io.Copy(c, Data(int64(n)))
		s := <-sum // ends with the client's EOF or with the connection
		if err != nil {
			return err
		}
		_, err = c.Write(s)
		return err
	}
	return fmt.Errorf("unknown operation %q", op)
}

// Data returns a reader of n bytes that look random and are the same at every call.
func Data(n int64) io.Reader {
	var seed [32]byte
	copy(seed[:], "bastion transfer data")
	return io.LimitReader(rand.NewChaCha8(seed), n)
}

// DataSum returns the SHA-256 of Data(n).
func DataSum(n int64) [32]byte {
	h := sha256.New()
	_, _ = io.Copy(h, Data(n)) // neither side can fail
	return [32]byte(h.Sum(nil))
}

func request(c net.Conn, op byte, n int64) error {
	b := binary.BigEndian.AppendUint64([]byte{op}, uint64(n))
	_, err := c.Write(b)
	return err
}

// ErrCorrupt is wrapped by the error of a transfer whose bytes all came, but not as they were sent.
var ErrCorrupt = errors.New("the bytes differ from what was sent")

// Download reads n bytes from the far end behind c and compares their SHA-256. It does not wait for EOF, which some peers
// do not pass on.
func Download(ctx context.Context, c net.Conn, n int64) error {
	defer closeOnDone(ctx, c)()
	if err := request(c, 'd', n); err != nil {
		return err
	}
	h := sha256.New()
	got, err := io.CopyN(h, c, n)
	if err != nil {
		return fmt.Errorf("download: %w after %d of %d bytes", err, got, n)
	}
	if [32]byte(h.Sum(nil)) != DataSum(n) {
		return fmt.Errorf("download: %w", ErrCorrupt)
	}
	return nil
}

// Upload writes n bytes to the far end behind c and compares the SHA-256 that it answers.
func Upload(ctx context.Context, c net.Conn, n int64) error {
	defer closeOnDone(ctx, c)()
	if err := request(c, 'u', n); err != nil {
		return err
	}
	if got, err := io.Copy(c, Data(n)); err != nil {
		return fmt.Errorf("upload: %w after %d of %d bytes", err, got, n)
	}
	var sum [32]byte
	if _, err := io.ReadFull(c, sum[:]); err != nil {
		return fmt.Errorf("upload: no answer: %w", err)
	}
	if sum != DataSum(n) {
		return fmt.Errorf("upload: %w", ErrCorrupt)
	}
	return nil
}

// Both downloads and uploads n bytes at once over c, which must be able to close its writing half, and compares both sums.
func Both(ctx context.Context, c net.Conn, n int64) error {
	defer closeOnDone(ctx, c)()
	if err := request(c, 'b', n); err != nil {
		return err
	}
	up := make(chan error, 1)
	go func() {
		_, err := io.Copy(c, Data(n))
		if err == nil {
			err = c.(interface{ CloseWrite() error }).CloseWrite()
		}
		up <- err
	}()
	h := sha256.New()
	down, err := io.CopyN(h, c, n)
	if err != nil {
		_ = c.Close()
		return errors.Join(fmt.Errorf("both: %w after %d of %d bytes down", err, down, n), <-up)
	}
	if err := <-up; err != nil {
		return fmt.Errorf("both: upload: %w", err)
	}
	if [32]byte(h.Sum(nil)) != DataSum(n) {
		return fmt.Errorf("both: down: %w", ErrCorrupt)
	}
	var sum [32]byte
	if _, err := io.ReadFull(c, sum[:]); err != nil {
		return fmt.Errorf("both: no answer: %w", err)
	}
	if sum != DataSum(n) {
		return fmt.Errorf("both: up: %w", ErrCorrupt)
	}
	return nil
}

// Echo sends one byte and waits for it to come back. The connection's first call opens the echo.
type Echo struct {
	c      net.Conn
	opened bool
}

// NewEcho returns an Echo over c.
func NewEcho(c net.Conn) *Echo { return &Echo{c: c} }

// Round makes one round trip of one byte.
func (e *Echo) Round() error {
	msg := []byte{'x'}
	if !e.opened {
		msg = []byte{'e', 'x'}
		e.opened = true
	}
	if _, err := e.c.Write(msg); err != nil {
		return err
	}
	var b [1]byte
	_, err := io.ReadFull(e.c, b[:])
	return err
}

// closeOnDone closes c when ctx ends; the function that it returns stops that.
func closeOnDone(ctx context.Context, c net.Conn) func() {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	return func() { stop() }
}
