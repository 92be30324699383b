package tunnel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// toldDest is a destination that, when told to, sends its data and closes the connection both ways.
type toldDest struct {
	net.Conn
	says string
	told chan struct{}
}

func (d *toldDest) Read(p []byte) (int, error) {
	<-d.told
	if d.says == "" {
		return 0, io.EOF
	}
	n := copy(p, d.says)
	d.says = ""
	return n, nil
}

func (d *toldDest) Write([]byte) (int, error) { <-d.told; return 0, io.ErrClosedPipe }

func (d *toldDest) CloseWrite() error { return nil }

// While the bastion reads nothing and the transport is full, x/crypto/ssh has to answer a far end that closes its connection. What
// the bastion sends must still arrive: two ends that stop reading until they have answered would wait for each other for ever.
func TestReadsGoOnWhileTheTransportIsFull(t *testing.T) {
	bubble(t, func(t *testing.T, b *bastion) {
		echo, closing, late := b.dial, make(chan struct{}), make(chan struct{})
		b.dial = func(ctx context.Context, addr string) (net.Conn, error) {
			conn, err := echo(ctx, addr)
			switch {
			case err != nil || addr == "bulk:1":
				return conn, err
			case addr == "closes:1":
				return &toldDest{conn, "", closing}, nil
			}
			return &toldDest{conn, "late", late}, nil
		}
		l := readyLink(t, b, LinkConfig{Keepalive: Keepalive{Interval: time.Hour}})
		dial := func(addr string) net.Conn {
			c, err := l.Dial(t.Context(), "tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			return c
		}
		closes, bulk, other := dial("closes:1"), dial("bulk:1"), dial("late:1")
		if _, err := closes.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		near := b.session(0).near
		near.hold(true)
		var writer sync.WaitGroup
		writer.Go(func() {
			if _, err := bulk.Write(make([]byte, 1<<20)); err != nil {
				t.Errorf("write: %v", err)
			}
		})
		synctest.Wait() // the transport is full
		close(closing)
		synctest.Wait()
		close(late)
		if err := other.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 4)
		if _, err := io.ReadFull(other, got); err != nil || string(got) != "late" {
			t.Errorf("another connection: %q, %v", got, err)
		}
		near.hold(false)
		if _, err := io.CopyN(io.Discard, bulk, 1<<20); err != nil {
			t.Errorf("the data that waited: %v", err)
		}
		writer.Wait()
	})
}

// slowWriter takes a write when told to.
type slowWriter struct {
	take chan struct{}

	mu    sync.Mutex
	taken []byte
	err   error
}

func (w *slowWriter) Write(p []byte) (int, error) {
	<-w.take
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, w.err
	}
	w.taken = append(w.taken, p...)
	return len(p), nil
}

// Senders of data get their turns in order, and only as many as there is room for.
func TestOutboxTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &slowWriter{take: make(chan struct{})}
		o := newOutbox(w.Write, func() { t.Error("it has failed") })
		var mu sync.Mutex
		var order []byte
		for i := range byte(6) {
			go func() {
				o.turn(nil)
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				if _, err := o.write(bytes.Repeat([]byte{i}, chunk)); err != nil {
					t.Error(err)
				}
			}()
			synctest.Wait() // in order
		}
		sent := func() []byte {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(order)
		}
		if got := sent(); len(got) != 2 {
			t.Errorf("%v had their turns at once, want two", got)
		}
		for n := range 4 {
			w.take <- struct{}{}
			synctest.Wait()
			if got := sent(); len(got) != 3+n {
				t.Errorf("after %d packets: %v", n+1, got)
			}
		}
		if got := sent(); !slices.Equal(got, []byte{0, 1, 2, 3, 4, 5}) {
			t.Errorf("the order is %v", got)
		}
		// A sender that stops waiting takes no turn from others, and the waiting bytes are written at the end.
		gone := make(chan struct{})
		close(gone)
		o.turn(gone)
		o.close()
		close(w.take)
		<-o.done
		if len(w.taken) != 6*chunk {
			t.Errorf("%d bytes were written, want %d", len(w.taken), 6*chunk)
		}
		if _, err := o.write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a write after close: %v", err)
		}
	})
}

// One with a turn may have nothing to send, because its peer takes no data: the others go on.
func TestOutboxTurnUnused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &slowWriter{take: make(chan struct{})}
		o := newOutbox(w.Write, func() {})
		if _, err := o.write(make([]byte, outboxRoom)); err != nil {
			t.Fatal(err)
		}
		var turns sync.WaitGroup
		for range 10 {
			turns.Go(func() { o.turn(nil) })
		}
		synctest.Wait()
		close(w.take)
		turns.Wait()
		o.close()
		<-o.done
	})
}

// After a write that failed nobody waits, and later writes fail.
func TestOutboxFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		w := &slowWriter{take: make(chan struct{}), err: broken}
		failed := 0
		o := newOutbox(w.Write, func() { failed++ })
		if _, err := o.write(make([]byte, outboxRoom)); err != nil {
			t.Fatal(err)
		}
		var turns sync.WaitGroup
		for range 3 {
			turns.Go(func() { o.turn(nil) })
		}
		synctest.Wait()
		close(w.take)
		turns.Wait()
		<-o.done
		if _, err := o.write([]byte("x")); !errors.Is(err, broken) || failed != 1 {
			t.Errorf("a write after the failure: %v; told %d times", err, failed)
		}
	})
}

// A peer that asks for answers and takes none ends the connection: what waits for it is bounded.
func TestOutboxBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &slowWriter{take: make(chan struct{})}
		failed := 0
		o := newOutbox(w.Write, func() { failed++ })
		o.most = 4 * chunk
		var err error
		n := 0
		for ; err == nil && n < 10; n++ {
			_, err = o.write(make([]byte, chunk))
		}
		if !errors.Is(err, errFlooded) || n != 5 || failed != 1 {
			t.Errorf("write %d: %v; told %d times", n, err, failed)
		}
		o.turn(nil) // nobody waits any more
		if _, err := o.write([]byte("x")); !errors.Is(err, errFlooded) || failed != 1 {
			t.Errorf("a write after it: %v; told %d times", err, failed)
		}
		o.close()
		close(w.take)
		<-o.done
	})
}

// A handshake whose transport takes nothing fails at once, though nothing is read that could fail.
func TestHandshakeWriteFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, _ := memPipe()
		near.out.update(func() { near.out.writeErr = errors.New("broken") })
		began := time.Now()
		_, err := handshake(t.Context(), &Transport{Conn: near, HostKey: ssh.InsecureIgnoreHostKey(), Describe: "b"},
			time.Minute, Keepalive{}, testLog(t))
		if took := time.Since(began); fail.KindOf(err) != fail.Lost || took > 10*time.Second {
			t.Errorf("after %v: %v (%v)", took, err, fail.KindOf(err))
		}
	})
}
