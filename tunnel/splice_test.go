package tunnel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// pair returns the two ends of a TCP connection over loopback.
func pair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	ln := listen(t)
	a = dialTCP(t, ln.Addr().String())
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return a, c.(*net.TCPConn)
}

// startSplice splices two TCP connections and returns their outer ends and the result.
func startSplice(ctx context.Context, t *testing.T) (left, right *net.TCPConn, result <-chan error) {
	t.Helper()
	left, a := pair(t)
	b, right := pair(t)
	done := make(chan error, 1)
	go func() { done <- Splice(ctx, a, b) }()
	return left, right, done
}

func TestSpliceHalfClose(t *testing.T) {
	for _, swap := range []bool{false, true} { // either side may end first
		asking, answering, result := startSplice(t.Context(), t)
		if swap {
			asking, answering = answering, asking
		}
		if _, err := io.WriteString(asking, "question"); err != nil {
			t.Fatal(err)
		}
		_ = asking.CloseWrite()
		if got, err := io.ReadAll(answering); string(got) != "question" || err != nil {
			t.Fatalf("read %q, %v", got, err)
		}
		big := bytes.Repeat([]byte("answer"), 100_000)
		go func() {
			_, _ = answering.Write(big)
			_ = answering.CloseWrite()
		}()
		if got, err := io.ReadAll(asking); !bytes.Equal(got, big) || err != nil {
			t.Fatalf("read %d bytes, %v; want %d", len(got), err, len(big))
		}
		if err := <-result; err != nil {
			t.Error(err)
		}
	}
}

func TestSpliceCancelResetsBoth(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	left, right, result := startSplice(ctx, t)
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for _, c := range []net.Conn{left, right} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read: %v, want a reset", err)
		}
	}
}

func TestSpliceErrorResetsTheOther(t *testing.T) {
	left, right, result := startSplice(t.Context(), t)
	_ = left.SetLinger(0)
	_ = left.Close()
	if err := <-result; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
	if _, err := right.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v, want a reset", err)
	}
}

// A far end that is gone for good is not kept waiting for by a client that neither reads nor writes.
func TestSpliceEndsWhenFarEndIsGone(t *testing.T) {
	b, near, far := tunnelPipe(t, LinkConfig{})
	_ = b
	client, local := pair(t)
	result := make(chan error, 1)
	go func() { result <- Splice(t.Context(), local, near) }()
	mustEchoThrough(t, client, far)
	if _, err := io.WriteString(far, "bye"); err != nil {
		t.Fatal(err)
	}
	_ = far.CloseWrite()
	// The bastion closes the channel both ways once it cannot write to the destination any more.
	_ = far.SetLinger(0)
	_ = far.Close()
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil && !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}

func mustEchoThrough(t *testing.T, a, b io.ReadWriter) {
	t.Helper()
	for _, dir := range [][2]io.ReadWriter{{a, b}, {b, a}} {
		if _, err := io.WriteString(dir[0], "ping"); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 4)
		if _, err := io.ReadFull(dir[1], got); err != nil || string(got) != "ping" {
			t.Fatalf("read %q, %v", got, err)
		}
	}
}

// plainConn has no CloseWrite.
type plainConn struct{ net.Conn }

func TestSpliceWithoutHalfClose(t *testing.T) {
	left, a := pair(t)
	b, right := pair(t)
	result := make(chan error, 1)
	go func() { result <- Splice(t.Context(), asDuplex(plainConn{a}), b) }()
	mustEchoThrough(t, left, right)
	_ = right.CloseWrite()
	if _, err := left.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read: %v, want io.EOF", err)
	}
	if err := <-result; err != nil && !isShutdown(err) {
		t.Error(err)
	}
}

func TestPipeHalfClose(t *testing.T) {
	for _, first := range []string{"in", "conn"} {
		t.Run(first+" ends first", func(t *testing.T) {
			inR, inW := io.Pipe()
			outR, outW := io.Pipe()
			conn, far := pair(t)
			result := make(chan error, 1)
			go func() { result <- Pipe(t.Context(), inR, outW, conn) }()
			steps := []func(){
				func() {
					_, _ = io.WriteString(inW, "question")
					_ = inW.Close()
					if got, err := io.ReadAll(far); string(got) != "question" || err != nil {
						t.Errorf("far end read %q, %v", got, err)
					}
				},
				func() {
					_, _ = io.WriteString(far, "answer")
					_ = far.CloseWrite()
					if got, err := io.ReadAll(outR); string(got) != "answer" || err != nil {
						t.Errorf("out got %q, %v", got, err)
					}
				},
			}
			if first == "conn" {
				steps[0], steps[1] = steps[1], steps[0]
			}
			for _, step := range steps {
				step()
			}
			if err := <-result; err != nil {
				t.Error(err)
			}
		})
	}
}

// A Read of in and a Write of out that wait are ended by the end of conn, or of ctx, and leave no goroutine.
func TestPipeInterruptsFiles(t *testing.T) {
	for name, files := range map[string]func() (in io.ReadCloser, out io.WriteCloser, clean func()){
		"io.Pipe": func() (io.ReadCloser, io.WriteCloser, func()) {
			inR, inW := io.Pipe()
			outR, outW := io.Pipe()
			return inR, outW, func() { _, _ = inW.Close(), outR.Close() }
		},
		"os.Pipe": func() (io.ReadCloser, io.WriteCloser, func()) {
			inR, inW, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			outR, outW, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			return inR, outW, func() { _, _ = inW.Close(), outR.Close() }
		},
	} {
		t.Run(name, func(t *testing.T) {
			in, out, clean := files()
			defer clean()
			conn, far := pair(t)
			ctx, cancel := context.WithCancel(t.Context())
			result := make(chan error, 1)
			go func() { result <- Pipe(ctx, in, out, conn) }()
			if _, err := far.Write(make([]byte, 1<<20)); err != nil { // more than out takes: nobody reads it
				t.Fatal(err)
			}
			cancel()
			if err := <-result; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
}

// stubborn is a file whose calls nothing ends, like stdin on a terminal.
type stubborn struct {
	release chan struct{}
	wg      sync.WaitGroup
}

func (s *stubborn) Read([]byte) (int, error) {
	s.wg.Add(1)
	defer s.wg.Done()
	<-s.release
	return 0, io.EOF
}
func (s *stubborn) Write(p []byte) (int, error) { return s.Read(p) }
func (*stubborn) Close() error                  { return nil }
func (*stubborn) SetDeadline(time.Time) error   { return os.ErrNoDeadline }

func TestPipeLeavesStubbornFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := &stubborn{release: make(chan struct{})}
		out := &stubborn{release: make(chan struct{})}
		conn, far := memPipe()
		_, _ = far.Write([]byte("hello"))
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { result <- Pipe(ctx, in, out, conn) }()
		synctest.Wait()
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		close(in.release)
		close(out.release)
		in.wg.Wait()
		out.wg.Wait()
	})
}

// What a far end has said before it took no more reaches a client that still sends.
func TestSpliceDeliversLastWords(t *testing.T) {
	for range 20 {
		_, near, far := tunnelPipe(t, LinkConfig{})
		client, local := pair(t)
		result := make(chan error, 1)
		go func() { result <- Splice(t.Context(), local, near) }()
		mustEchoThrough(t, client, far)
		var sending sync.WaitGroup
		sending.Go(func() { _, _ = client.Write(make([]byte, 8<<20)) }) // ends with the connection
		if _, err := far.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(far, "too large"); err != nil {
			t.Fatal(err)
		}
		_ = far.Close() // with bytes unread: a reset
		got := make([]byte, 9)
		if n, err := io.ReadFull(client, got); err != nil || string(got) != "too large" {
			t.Fatalf("read %q, %v", got[:n], err)
		}
		_ = client.Close()
		sending.Wait()
		if err := <-result; err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Error(err)
		}
	}
}
