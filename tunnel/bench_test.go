package tunnel

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

// quiet is the log of benchmarks.
var quiet = slog.New(slog.DiscardHandler)

// plainSSH dials by x/crypto/ssh alone, over its own connection to b: what a Link costs is the difference.
type plainSSH struct{ *ssh.Client }

func (p plainSSH) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return p.DialContext(ctx, network, addr)
}

func newPlainSSH(b *testing.B, srv *bastion) plainSSH {
	b.Helper()
	t, err := srv.Connect(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	conn, chans, reqs, err := ssh.NewClientConn(t.Conn, "", &ssh.ClientConfig{User: t.User, Auth: t.Auth, HostKeyCallback: t.HostKey})
	if err != nil {
		b.Fatal(err)
	}
	c := ssh.NewClient(conn, chans, reqs)
	b.Cleanup(func() { _ = c.Close() })
	return plainSSH{c}
}

// BenchmarkForward moves data through a forward, the SSH connection in memory and the bastion of these tests, all in one process.
// Client, SSH client, SSH server and destination share its processors.
func BenchmarkForward(b *testing.B) {
	srv := newBastion(b)
	l := readyLink(b, srv, LinkConfig{Logger: quiet})
	plain := newPlainSSH(b, srv)
	for _, dir := range []string{"download", "upload"} {
		for _, conns := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/conns=%d/link", dir, conns), func(b *testing.B) { benchmarkForward(b, l, dir, conns) })
			b.Run(fmt.Sprintf("%s/conns=%d/x-crypto", dir, conns), func(b *testing.B) { benchmarkForward(b, plain, dir, conns) })
		}
	}
}

func benchmarkForward(b *testing.B, d Dialer, dir string, conns int) {
	const block = 1 << 20
	var dest string
	if dir == "upload" {
		dest = serveTCP(b, func(c *net.TCPConn) {
			_, _ = io.Copy(io.Discard, c)
			_, _ = c.Write([]byte{1}) // all has arrived
		})
	} else {
		dest = serveBlocks(b, block)
	}
	addr := startForward(b, d, dest, ForwardConfig{Logger: quiet})
	var clients []*net.TCPConn
	for range conns {
		clients = append(clients, dialTCP(b, addr))
	}
	b.SetBytes(block)
	b.ResetTimer()
	var wg sync.WaitGroup
	for i, c := range clients {
		n := b.N / conns
		if i == 0 {
			n += b.N % conns
		}
		wg.Go(func() {
			buf := make([]byte, block)
			if dir == "upload" {
				for range n {
					if _, err := c.Write(buf); err != nil {
						b.Error(err)
						return
					}
				}
				_ = c.CloseWrite()
				if _, err := io.ReadFull(c, buf[:1]); err != nil {
					b.Error(err)
				}
				return
			}
			if _, err := c.Write(make([]byte, n)); err != nil { // ask for n blocks
				b.Error(err)
				return
			}
			for range n {
				if _, err := io.ReadFull(c, buf); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// serveBlocks sends a block for each byte that comes.
func serveBlocks(b *testing.B, size int) (addr string) {
	return serveTCP(b, func(c *net.TCPConn) {
		buf := make([]byte, size)
		for {
			if _, err := io.ReadFull(c, buf[:1]); err != nil {
				return
			}
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	})
}

// BenchmarkAllocations counts both ends' allocations for each MB of a download through a forward, including its connection. A
// figure that grows with the size shows a path that allocates for the bytes it moves.
func BenchmarkAllocations(b *testing.B) {
	const block = 1e6
	l := readyLink(b, newBastion(b), LinkConfig{Logger: quiet})
	addr := startForward(b, l, serveBlocks(b, block), ForwardConfig{Logger: quiet})
	for _, size := range []int{1, 4, 16, 64, 256} {
		b.Run(fmt.Sprintf("size=%dMB", size), func(b *testing.B) {
			b.SetBytes(int64(size) * block)
			download := func() {
				c := dialTCP(b, addr)
				defer c.Close()
				if _, err := c.Write(make([]byte, size)); err != nil {
					b.Fatal(err)
				}
				if _, err := io.CopyN(io.Discard, c, int64(size)*block); err != nil {
					b.Fatal(err)
				}
			}
			download() // fills the pools
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			b.ResetTimer()
			for range b.N {
				download()
			}
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(b.N*size), "allocs/MB")
		})
	}
}

// BenchmarkRoundTrip sends one byte to an echo and waits for it: without a tunnel, over x/crypto/ssh's own connection, over a
// Conn, and through a Forward.
func BenchmarkRoundTrip(b *testing.B) {
	srv := newBastion(b)
	l := readyLink(b, srv, LinkConfig{Logger: quiet})
	dest := serveTCP(b, echo)
	through := dialTCP(b, startForward(b, l, dest, ForwardConfig{Logger: quiet}))
	conn, err := l.Dial(b.Context(), "tcp", dest)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	plain, err := newPlainSSH(b, srv).Dial(b.Context(), "tcp", dest)
	if err != nil {
		b.Fatal(err)
	}
	defer plain.Close()
	for _, peer := range []struct {
		name string
		c    io.ReadWriter
	}{{"direct", dialTCP(b, dest)}, {"x-crypto", plain}, {"conn", conn}, {"forward", through}} {
		c := peer.c
		b.Run(peer.name, func(b *testing.B) {
			buf := []byte{1}
			for b.Loop() {
				if _, err := c.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkDial opens and closes connections.
func BenchmarkDial(b *testing.B) {
	srv := newBastion(b)
	l := readyLink(b, srv, LinkConfig{Logger: quiet})
	dest := serveTCP(b, func(*net.TCPConn) {})
	b.ReportAllocs()
	for b.Loop() {
		c, err := l.Dial(b.Context(), "tcp", dest)
		if err != nil {
			b.Fatal(err)
		}
		_ = c.Close()
	}
}
