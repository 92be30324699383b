//go:build unix

package ready

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// inherited returns a copy of a descriptor as a program gets it from its parent.
func inherited(t *testing.T, f *os.File) int {
	t.Helper()
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) }) // closed already, if all goes well
	return fd
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	return r, w
}

func TestFD(t *testing.T) {
	r, w := pipe(t)
	f, err := NewFD(strconv.Itoa(inherited(t, w)))
	if err != nil {
		t.Fatal(err)
	}
	if flags, err := unix.FcntlInt(uintptr(f.n), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("programs that are started inherit it: %v", err)
	}
	_ = w.Close()
	if err := f.Write(t.Context(), message); err != nil {
		t.Fatal(err)
	}
	want, _ := message.line()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	if err := f.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
}

// A number that is not a writable descriptor of the parent's is refused before anything starts.
func TestFDRefused(t *testing.T) {
	r, w := pipe(t)
	for text, says := range map[string]string{
		"":                              "not a file descriptor",
		"three":                         "not a file descriptor",
		"-1":                            "not a file descriptor",
		"0":                             "is a standard stream",
		"1":                             "is a standard stream",
		"2":                             "is a standard stream",
		"99999":                         "is not open",
		strconv.Itoa(int(w.Fd())):       "is not open", // this process has opened it itself
		strconv.Itoa(inherited(t, r)):   "is not open for writing",
		"99999999999999999999999999999": "not a file descriptor",
	} {
		if _, err := NewFD(text); err == nil || !strings.Contains(err.Error(), says) || fail.KindOf(err) != fail.Usage || fail.NextOf(err) == "" {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A reader that is full or has gone is an error, and no wait without an end.
func TestFDReader(t *testing.T) {
	r, w := pipe(t)
	f, err := NewFD(strconv.Itoa(inherited(t, w)))
	if err != nil {
		t.Fatal(err)
	}
	fd := int(w.Fd()) // once, because it makes writes block
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := unix.Write(fd, make([]byte, 512)); err != nil {
			break
		}
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped")
	cancel(stopped)
	if err := f.Write(ctx, message); !errors.Is(err, stopped) {
		t.Errorf("to a reader that is full: %v", err)
	}
	f, err = NewFD(strconv.Itoa(inherited(t, w)))
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	if err := f.Write(t.Context(), message); !errors.Is(err, unix.EPIPE) {
		t.Errorf("to a reader that has gone: %v", err)
	}
}
