package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/xtaci/smux"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

const rawVersion, muxVersion = "1.0.0.0", "1.3.0.0"

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// Bytes arrive once and in order in both directions, whatever the service does to the messages, and whichever side loses its websocket.
func TestBothWays(t *testing.T) {
	const size = 2 << 20
	for name, f := range map[string]faults{
		"calm": {}, "loss": {drop: .05}, "duplicates": {dup: .2, late: .1}, "all": {drop: .03, dup: .1, late: .1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				up, down := noise(1, size), noise(2, size)
				got := make(chan []byte, 1)
				handler := func(_ context.Context, _ Task, c net.Conn) {
					var writing sync.WaitGroup
					writing.Go(func() {
						if _, err := c.Write(down); err != nil {
							t.Errorf("the far end's Write: %v", err)
						}
					})
					b := make([]byte, size)
					if _, err := io.ReadFull(c, b); err != nil {
						t.Errorf("the far end's Read: %v", err)
					}
					got <- b
					writing.Wait()
					if n, err := c.Read(b); n > 0 || !errors.Is(err, io.EOF) {
						t.Errorf("the far end read %d bytes more: %v", n, err)
					}
				}
				r := start(t, someTask(t, docSSH), rawVersion, Config{Handler: handler}, f)
				r.g.mu.Lock()
				r.g.every = 397
				r.g.mu.Unlock()
				var writing sync.WaitGroup
				writing.Go(func() {
					if _, err := r.c.Write(up); err != nil {
						t.Errorf("the client's Write: %v", err)
					}
				})
				b := make([]byte, size)
				if _, err := io.ReadFull(r.c, b); err != nil {
					t.Errorf("the client's Read: %v", err)
				}
				if sha256.Sum256(b) != sha256.Sum256(down) {
					t.Error("the client read other bytes")
				}
				writing.Wait()
				if b := <-got; sha256.Sum256(b) != sha256.Sum256(up) {
					t.Error("the far end read other bytes")
				}
				r.g.mu.Lock()
				r.g.every = 0
				r.g.mu.Unlock()
				r.c.flag(frame.TerminateSession)
				if res := r.end(); res != (Result{Status: statusSuccess}) {
					t.Errorf("result %+v", res)
				}
				if min(r.g.dials[atNode], r.g.dials[atClient]) < 5 {
					t.Errorf("%v websockets: nothing was cut", r.g.dials)
				}
			})
		})
	}
}

// With a client that multiplexes, each of its connections is one of the far end's. One that nobody serves is told of.
func TestMultiplexed(t *testing.T) {
	for name, handler := range map[string]Handler{"served": echo, "not served": nil} {
		t.Run(name, func(t *testing.T) {
			// No bubble: package smux shares channels between them.
			r := start(t, someTask(t, docForward), muxVersion, Config{Handler: handler}, faults{drop: .01, dup: .1})
			r.c.await("the handshake", func() bool { return r.c.ready })
			cfg := smux.DefaultConfig()
			cfg.KeepAliveDisabled = true
			mux, err := smux.Client(r.c, cfg)
			if err != nil {
				t.Fatal(err)
			}
			var streams sync.WaitGroup
			for i := range 4 {
				streams.Go(func() {
					s, err := mux.OpenStream()
					if err != nil {
						t.Error(err)
						return
					}
					defer s.Close()
					sent := noise(uint64(i), 100_000)
					_, werr := s.Write(sent)
					got := make([]byte, len(sent))
					_, err = io.ReadFull(s, got)
					if handler == nil {
						if err == nil {
							t.Error("a connection that nobody serves has an end")
						}
						return
					}
					if werr != nil || err != nil || !bytes.Equal(sent, got) {
						t.Errorf("stream %d: %v, %v; or other bytes", i, werr, err)
					}
				})
			}
			streams.Wait()
			if handler == nil {
				want := slices.Repeat([]frame.StreamFlag{frame.ConnectToPortError}, 4)
				r.c.await("the flags", func() bool { return slices.Equal(r.c.flags, want) })
			}
			r.c.flag(frame.TerminateSession)
			if res := r.end(); res != (Result{Status: statusSuccess}) {
				t.Errorf("result %+v", res)
			}
			_ = mux.Close()
		})
	}
}

// Without multiplexing a client has one connection after another. The bytes of one never reach the next.
func TestConnectionsInSuccession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns := make(chan net.Conn, 4)
		handler := func(ctx context.Context, _ Task, c net.Conn) {
			conns <- c
			<-ctx.Done()
		}
		r := start(t, someTask(t, docForward), rawVersion, Config{Handler: handler}, faults{})
		first := <-conns
		readString(t, r.c, first, "one")
		r.c.flag(frame.DisconnectToPort)
		if n, err := first.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
			t.Errorf("after the client's close: read %d bytes, %v", n, err)
		}
		if _, err := first.Write([]byte("late")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after the client's close: Write: %v", err)
		}
		if _, err := r.c.Write([]byte("two")); err != nil {
			t.Error(err)
		}
		second := <-conns
		readString(t, nil, second, "two")
		if _, err := second.Write([]byte("back")); err != nil {
			t.Error(err)
		}
		readString(t, nil, r.c, "back")
		_ = second.Close() // the far end's close does not end the session
		if _, err := r.c.Write([]byte("three")); err != nil {
			t.Error(err)
		}
		third := <-conns
		readString(t, nil, third, "three")
		r.c.flag(frame.TerminateSession)
		if res := r.end(); res != (Result{Status: statusSuccess}) {
			t.Errorf("result %+v", res)
		}
	})
}

// readString reads what to writes, if that is not nil, or else what comes anyway.
func readString(t *testing.T, to io.Writer, from io.Reader, want string) {
	t.Helper()
	if to != nil {
		if _, err := io.WriteString(to, want); err != nil {
			t.Error(err)
		}
	}
	b := make([]byte, len(want))
	if _, err := io.ReadFull(from, b); err != nil || string(b) != want {
		t.Errorf("read %q, %v; want %q", b, err, want)
	}
}

// A session ends in each of these ways, with the outcome that the agent would report.
func TestEnds(t *testing.T) {
	hello := func(_ context.Context, _ Task, c net.Conn) { _, _ = io.WriteString(c, "hello") }
	idle := func(ctx context.Context, _ Task, _ net.Conn) { <-ctx.Done() }
	const handshake = "\n----------ERROR-------\nEncountered error while initiating handshake. "
	for name, tc := range map[string]struct {
		document string
		handler  Handler
		act      func(t *testing.T, r *rig)
		status   int
		want     Result
	}{
		"the far end closes": {
			docSSH, hello, func(t *testing.T, r *rig) { readString(t, nil, r.c, "hello") }, actionSuccess, Result{Status: statusSuccess},
		},
		"the client closes its connection of an SSH session": {
			docSSH, idle, func(_ *testing.T, r *rig) { r.c.flag(frame.DisconnectToPort) }, actionSuccess, Result{Status: statusFailed},
		},
		"channel_closed": {
			docSSH, idle, func(_ *testing.T, r *rig) {
				r.c.await("the handshake", func() bool { return r.c.ready })
				r.g.tell(atNode, note(frame.ChannelClosed))
			}, actionSuccess, Result{Status: statusSuccess},
		},
		"the port is not served": {
			docSSH, nil, func(*testing.T, *rig) {}, actionSuccess,
			Result{statusFailed, "Unable to connect to specified port: port 7022 is not served"},
		},
		"the client fails": {
			docSSH, idle, func(*testing.T, *rig) {}, 3, Result{statusFailed, handshake + "SessionType failed on client with status 3 error: no"},
		},
		"no client": {
			docSSH, idle, func(_ *testing.T, r *rig) { _ = r.c.Close(); r.g.cut(atClient) }, 0, Result{statusFailed, handshake +
				"Handshake timed out. Please ensure that you have the latest version of the session manager plugin."},
		},
		"the service refuses another websocket": {
			docSSH, idle, func(_ *testing.T, r *rig) {
				r.c.await("the handshake", func() bool { return r.c.ready })
				r.g.mu.Lock()
				r.g.refused[atNode] = errTerminated
				r.g.mu.Unlock()
				r.g.cut(atNode)
			}, actionSuccess, Result{Status: statusSuccess},
		},
		"the node stops": {
			docSSH, idle, func(_ *testing.T, r *rig) {
				r.c.await("the handshake", func() bool { return r.c.ready })
				r.cancel()
			}, actionSuccess, Result{statusFailed, "the node has stopped"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, someTask(t, tc.document), rawVersion, Config{Handler: tc.handler}, faults{})
				r.c.run.Lock()
				r.c.status = tc.status
				r.c.run.Unlock()
				begin := time.Now()
				tc.act(t, r)
				if res := r.end(); res != tc.want {
					t.Errorf("result %+v, want %+v", res, tc.want)
				}
				if took := time.Since(begin); took > handshakeTimeout+closeWait+time.Second {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// A service that accepts no websocket ends the session after as many attempts as the agent makes.
func TestNoWebsocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gateway{rng: rand.New(rand.NewPCG(1, 2))}
		g.refused[atNode] = errGone
		res := Serve(t.Context(), someTask(t, docSSH), Config{Dial: g.dial(atNode), Handler: echo})
		want := failed("Setting up data channel with id s-1 failed: gone")
		if res != want {
			t.Errorf("result %+v, want %+v", res, want)
		}
	})
}

// While the client is absent, the node sends nothing but to the service, and then all of it.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		more := make(chan struct{})
		handler := func(ctx context.Context, _ Task, c net.Conn) {
			for {
				_, _ = io.WriteString(c, "data")
				select {
				case <-more:
				case <-ctx.Done():
					return
				}
			}
		}
		r := start(t, someTask(t, docSSH), rawVersion, Config{Handler: handler}, faults{})
		readString(t, nil, r.c, "data")
		<-time.After(time.Second) // the client's ack, which would wake the node, has come
		r.g.mu.Lock()
		r.g.seen = func(side int, m *frame.Message) {
			if side == atNode && m.Type == frame.OutputStreamData {
				t.Error("sent to an absent client")
			}
		}
		r.g.mu.Unlock()
		r.g.tell(atNode, note(frame.PausePublication))
		synctest.Wait()
		more <- struct{}{}
		<-time.After(10 * time.Second)
		r.g.mu.Lock()
		r.g.seen = nil
		r.g.mu.Unlock()
		r.g.tell(atNode, note(frame.StartPublication))
		readString(t, nil, r.c, "data")
		r.c.flag(frame.TerminateSession)
		r.end()
	})
}

// A far end that does not read holds the client back, and memory is bounded.
func TestSlowFarEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 8 << 20
		goOn := make(chan struct{})
		sum := make(chan [sha256.Size]byte, 1)
		handler := func(_ context.Context, _ Task, c net.Conn) {
			s := c.(*conn).s
			<-goOn
			s.run.Lock()
			held := s.m.unread() + s.m.end.Stats().HeldBytes
			s.run.Unlock()
			if most := readHardFactor*s.m.cfg.limits.ReadBuffer + 5000; held > most {
				t.Errorf("%d bytes are kept, more than %d", held, most)
			}
			h := sha256.New()
			if n, err := io.CopyN(h, c, size); err != nil {
				t.Errorf("the far end read %d bytes: %v", n, err)
			}
			sum <- [sha256.Size]byte(h.Sum(nil))
		}
		r := start(t, someTask(t, docSSH), rawVersion, Config{Handler: handler, Limits: Limits{ReadBuffer: 64 << 10}}, faults{})
		up := noise(3, size)
		var writing sync.WaitGroup
		writing.Go(func() {
			if _, err := r.c.Write(up); err != nil {
				t.Error(err)
			}
		})
		<-time.After(30 * time.Second)
		close(goOn)
		writing.Wait()
		if got := <-sum; got != sha256.Sum256(up) {
			t.Error("the far end read other bytes")
		}
		r.end()
	})
}

// Deadlines and Close of a connection end its calls.
func TestConnDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handler := func(_ context.Context, task Task, c net.Conn) {
			if c.LocalAddr().String() != "s-1" || c.RemoteAddr().String() != task.Owner || c.LocalAddr().Network() != "ssm" {
				t.Errorf("from %v to %v", c.RemoteAddr(), c.LocalAddr())
			}
			_ = c.SetDeadline(time.Now().Add(time.Second))
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("Read: %v", err)
			}
			if _, err := c.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("Write: %v", err)
			}
			_ = c.SetDeadline(time.Time{})
			var reading sync.WaitGroup
			reading.Go(func() {
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
					t.Errorf("Read during Close: %v", err)
				}
			})
			synctest.Wait()
			_ = c.Close()
			reading.Wait()
			if err := c.SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
				t.Errorf("SetDeadline: %v", err)
			}
		}
		r := start(t, someTask(t, docSSH), rawVersion, Config{Handler: handler}, faults{})
		if res := r.end(); res != (Result{Status: statusSuccess}) {
			t.Errorf("result %+v", res)
		}
	})
}
