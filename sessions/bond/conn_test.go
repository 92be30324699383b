package bond

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"golang.org/x/net/nettest"
)

// newPair returns the two ends of a connection over n subflows, which are TCP connections. After cut, the i-th ends.
func newPair(t testing.TB, n int) (client, server *Conn, cut func(i int)) {
	t.Helper()
	return newPairOf(t, n, maxVersion)
}

func newPairOf(t testing.TB, n int, version uint8) (client, server *Conn, cut func(i int)) {
	t.Helper()
	id, err := newConnID()
	if err != nil {
		t.Fatal(err)
	}
	client = newConn(identity{id: id}, Config{}, true)
	server = newConn(identity{id: id}, Config{}, false)
	t.Cleanup(func() {
		_ = client.Close()
		_ = server.Close()
	})
	var streams []net.Conn
	for i := range n {
		a, b := tcpPair(t)
		streams = append(streams, a)
		attachPairOf(t, client, server, uint32(i), a, b, version)
	}
	return client, server, func(i int) { _ = streams[i].Close() }
}

func attachPair(t testing.TB, client, server *Conn, id uint32, a, b net.Conn) {
	t.Helper()
	attachPairOf(t, client, server, id, a, b, maxVersion)
}

func attachPairOf(t testing.TB, client, server *Conn, id uint32, a, b net.Conn, version uint8) {
	t.Helper()
	var keys, peers seals
	if version >= versionSealed {
		keys, peers = sealsOf(id)
	}
	for _, end := range []struct {
		c    *Conn
		s    net.Conn
		keys seals
	}{{client, a, keys}, {server, b, peers}} {
		if err := end.c.attach(id, end.s, newFrameReader(end.s), end.keys, fmt.Sprint("subflow ", id), nil); err != nil {
			t.Fatal(err)
		}
	}
}

// sealsOf are the seals of a subflow that had no handshake.
func sealsOf(id uint32) (client, server seals) {
	open := binary.BigEndian.AppendUint32(nil, id)
	return deriveSeals(secret{9}, versionSealed, nil, open), deriveSeals(secret{9}, versionSealed, nil, open).swapped()
}

func tcpPair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

func TestConn(t *testing.T) {
	for _, n := range []int{1, 3} {
		t.Run(fmt.Sprint(n, " subflows"), func(t *testing.T) {
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				a, b, _ := newPair(t, n)
				return a, b, func() {
					var both sync.WaitGroup
					both.Go(func() { _ = a.Close() })
					both.Go(func() { _ = b.Close() })
					both.Wait()
				}, nil
			})
		})
	}
}

// transfer sends size random bytes from one end to the other, and fails the test if they do not arrive as they were. What
// arrives is written to watchers too.
func transfer(t *testing.T, from, to *Conn, size int, watchers ...io.Writer) {
	t.Helper()
	sum := make(chan [32]byte, 1)
	go func() {
		h := sha256.New()
		all := io.MultiWriter(append(watchers, h)...)
		if _, err := io.Copy(all, io.LimitReader(to, int64(size))); err != nil {
			t.Error(err)
		}
		sum <- [32]byte(h.Sum(nil))
	}()
	data := make([]byte, size)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(data)
	for rest := data; len(rest) > 0; {
		n := min(len(rest), 32<<10)
		if _, err := from.Write(rest[:n]); err != nil {
			t.Error(err)
			break
		}
		rest = rest[n:]
	}
	if got, want := <-sum, sha256.Sum256(data); got != want {
		t.Errorf("%d bytes arrived as others", size)
	}
}

// milestones tells of each MiB that is written to it. The channel has room for all of them.
type milestones struct {
	passed chan struct{}
	since  int
}

func (m *milestones) Write(p []byte) (int, error) {
	for m.since += len(p); m.since >= 1<<20; m.since -= 1 << 20 {
		m.passed <- struct{}{}
	}
	return len(p), nil
}

func TestTransferBothWays(t *testing.T) {
	a, b, _ := newPair(t, 4)
	var both sync.WaitGroup
	both.Go(func() { transfer(t, a, b, 32<<20) })
	both.Go(func() { transfer(t, b, a, 32<<20) })
	both.Wait()
}

func TestSubflowsLost(t *testing.T) {
	a, b, cut := newPair(t, 4)
	progress := &milestones{passed: make(chan struct{}, 32)}
	var both sync.WaitGroup
	both.Go(func() { transfer(t, a, b, 32<<20) })
	both.Go(func() { transfer(t, b, a, 32<<20, progress) })
	for i := range 4 {
		select {
		case <-progress.passed:
		case <-a.Done():
			t.Fatalf("the connection ended: %v", a.Err())
		}
		cut(i)
		if i == 1 {
			x, y := tcpPair(t)
			attachPair(t, a, b, 9, x, y)
		}
	}
	both.Wait()
	if a.Stats().Reinjected+b.Stats().Reinjected == 0 {
		t.Error("nothing was sent again")
	}
}

func TestHalfClose(t *testing.T) {
	a, b, _ := newPair(t, 2)
	if _, err := a.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	if err := a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, []byte("question")) {
		t.Fatalf("got %q, %v", got, err)
	}
	if _, err := b.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	if err := b.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(a); err != nil || !bytes.Equal(got, []byte("answer")) {
		t.Fatalf("got %q, %v", got, err)
	}
	for _, c := range []*Conn{a, b} {
		<-c.Done()
		if !errors.Is(c.Err(), io.EOF) {
			t.Errorf("ended with %v", c.Err())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

func BenchmarkTransfer(b *testing.B) {
	for _, n := range []int{1, 8} {
		b.Run(fmt.Sprint(n, " subflows"), func(b *testing.B) {
			x, y, _ := newPair(b, n)
			go func() { _, _ = io.Copy(io.Discard, y) }()
			chunk := make([]byte, 32<<10)
			b.SetBytes(int64(len(chunk)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := x.Write(chunk); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
