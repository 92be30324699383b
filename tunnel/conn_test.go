package tunnel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"
)

// tunnelPipe returns a connection through a link and its far end at the destination.
func tunnelPipe(t testing.TB, cfg LinkConfig) (b *bastion, near *Conn, far *net.TCPConn) {
	t.Helper()
	b = newBastion(t)
	l := readyLink(t, b, cfg)
	accepted := make(chan *net.TCPConn)
	hold := make(chan struct{})
	addr := serveTCP(t, func(c *net.TCPConn) {
		accepted <- c
		<-hold
	})
	t.Cleanup(func() { close(hold) })
	c, err := l.Dial(context.Background(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return b, c.(*Conn), <-accepted
}

func TestConnIsANetConn(t *testing.T) {
	for _, swap := range []bool{false, true} {
		nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
			_, near, far := tunnelPipe(t, LinkConfig{})
			stop = func() {
				_ = near.Close()
				_ = far.Close()
			}
			if swap {
				return far, near, stop, nil
			}
			return near, far, stop, nil
		})
	}
}

func TestConnAddresses(t *testing.T) {
	_, near, far := tunnelPipe(t, LinkConfig{})
	if got, want := near.RemoteAddr().String(), far.LocalAddr().String(); got != want {
		t.Errorf("RemoteAddr %s, want %s", got, want)
	}
	if got := near.RemoteAddr().Network(); got != "tcp" {
		t.Errorf("network %s, want tcp", got)
	}
}

func TestConnHalfClose(t *testing.T) {
	_, near, far := tunnelPipe(t, LinkConfig{})
	if _, err := io.WriteString(near, "question"); err != nil {
		t.Fatal(err)
	}
	if err := near.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(far); string(got) != "question" || err != nil {
		t.Fatalf("far end read %q, %v", got, err)
	}
	if _, err := near.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("write after CloseWrite: %v", err)
	}
	if isClosed(near.Gone()) {
		t.Error("gone while the far end still sends")
	}
	if _, err := io.WriteString(far, "answer"); err != nil {
		t.Fatal(err)
	}
	_ = far.Close()
	if got, err := io.ReadAll(near); string(got) != "answer" || err != nil {
		t.Errorf("near end read %q, %v", got, err)
	}
	<-near.Gone()
	if _, err := near.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read after the end: %v, want io.EOF", err)
	}
}

// The peer is silent: it neither takes data nor answers the close. With x/crypto/ssh alone both calls would stay.
func TestConnCloseEndsCallsOnSilentPeer(t *testing.T) {
	bubble(t, func(t *testing.T, b *bastion) {
		l := readyLink(t, b, LinkConfig{Keepalive: Keepalive{Interval: -1}})
		raw, err := l.Dial(t.Context(), "tcp", "db:5432")
		if err != nil {
			t.Fatal(err)
		}
		c := raw.(*Conn)
		b.session(0).near.blackhole()
		results := make(chan error, 2)
		go func() {
			_, err := c.Read(make([]byte, 1))
			results <- err
		}()
		go func() {
			_, err := c.Write(make([]byte, 8<<20)) // more than SSH's window
			results <- err
		}()
		synctest.Wait()
		select {
		case err := <-results:
			t.Fatal("a call ended by itself:", err)
		default:
		}
		if err := c.Close(); err != nil {
			t.Error("Close:", err)
		}
		for range 2 {
			if err := <-results; !errors.Is(err, net.ErrClosed) {
				t.Errorf("%v, want %v", err, net.ErrClosed)
			}
		}
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second Close: %v", err)
		}
		if err := c.SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("SetDeadline: %v", err)
		}
	})
}

// Nothing is lost or repeated when deadlines interrupt reads and writes.
func TestConnGoesOnAfterDeadlines(t *testing.T) {
	bubble(t, func(t *testing.T, b *bastion) {
		l := readyLink(t, b, LinkConfig{})
		c, err := l.Dial(t.Context(), "tcp", "db:5432")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, text := range []string{"one", "two", "three"} {
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := c.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("read: %v, want %v", err, os.ErrDeadlineExceeded)
			}
			_ = c.SetReadDeadline(time.Time{})
			mustEcho(t, c, text)
		}
	})
}

// A Write that ends early returns exactly how much has gone and will go, whether it waits for its turn or for SSH's window. So
// later writes, by the same connection or by another, neither repeat nor lose bytes.
func TestConnWriteCounts(t *testing.T) {
	data := make([]byte, 6<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	for name, full := range map[string]bool{"its turn": true, "the window": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bastion) {
				l := readyLink(t, b, LinkConfig{Keepalive: Keepalive{Interval: -1}})
				c, err := l.Dial(t.Context(), "tcp", "db:5432")
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				near := b.session(0).near
				near.hold(full)
				_ = c.SetWriteDeadline(time.Now().Add(time.Second))
				n, err := c.Write(data) // nobody reads the echo
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("%d, %v; want %v", n, err, os.ErrDeadlineExceeded)
				}
				_ = c.SetWriteDeadline(time.Time{})
				near.hold(false)
				var writer sync.WaitGroup
				writer.Go(func() {
					if _, err := c.Write(data[n:]); err != nil {
						t.Error(err)
					}
					_ = c.(*Conn).CloseWrite()
				})
				got, err := io.ReadAll(c)
				writer.Wait()
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("%d of %d bytes came back, %v, after a write of %d", len(got), len(data), err, n)
				}
			})
		})
	}
}

// The transport has handed on its last bytes: whether more will come is open until the reader comes back or gives up.
func TestWireAliveWaitsForTheReader(t *testing.T) {
	for _, lives := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			near, far := memPipe()
			w := newWire(near)
			_, _ = far.Write([]byte("x"))
			_, _ = w.Read(make([]byte, 1))
			answer := make(chan bool, 1)
			go func() { answer <- w.watch.Alive() }()
			synctest.Wait()
			select {
			case a := <-answer:
				t.Fatalf("answered %v too early", a)
			default:
			}
			if lives {
				go func() { _, _ = w.Read(make([]byte, 1)) }()
			} else {
				_ = w.Close()
			}
			if got := <-answer; got != lives {
				t.Errorf("alive %v, want %v", got, lives)
			}
			_ = w.Close()
			<-w.shut
		})
	}
}

func TestConnLostLinkIsNotTheEnd(t *testing.T) {
	for name, breakIt := range map[string]func(b *bastion){
		"transport cut": func(b *bastion) { b.session(0).near.cut() },
		"clean end of the transport": func(b *bastion) { // what a proxy makes of it
			b.session(0).near.in.update(func() { b.session(0).near.in.ended = true })
		},
		"server closes": func(b *bastion) { _ = b.session(0).conn(t).Close() },
		"corrupt packet": func(b *bastion) {
			b.session(0).near.in.update(func() {
				h := b.session(0).near.in
				h.buf = append(h.buf, make([]byte, 4096)...)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			for range 8 { // it is a matter of the order of events
				b, near, far := tunnelPipe(t, LinkConfig{})
				if _, err := io.WriteString(far, "half an answer"); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(near, make([]byte, 4)); err != nil {
					t.Fatal(err)
				}
				breakIt(b)
				if _, err := io.Copy(io.Discard, near); !errors.Is(err, errLost) {
					t.Fatalf("read: %v, want %v", err, errLost)
				}
				if _, err := near.Write([]byte("x")); !errors.Is(err, errLost) {
					t.Fatalf("write: %v, want %v", err, errLost)
				}
			}
		})
	}
}
