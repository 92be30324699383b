package bond

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fault alters what goes one way of a stream.
type fault struct {
	at   int // the byte at which it happens; -1: nowhere
	what func(before []byte, next byte) []byte

	done []byte // that went, unaltered
}

// pass returns b with the fault.
func (f *fault) pass(b []byte) []byte {
	if f == nil || f.at < len(f.done) || f.at >= len(f.done)+len(b) {
		if f != nil {
			f.done = append(f.done, b...)
		}
		return b
	}
	k := f.at - len(f.done)
	f.done = append(f.done, b[:k]...)
	instead := f.what(f.done, b[k])
	rest := bytes.Clone(b[k+1:])
	f.done = append(f.done, b[k:]...)
	return bytes.Join([][]byte{b[:k], instead, rest}, nil)
}

// faults are what may happen to a stream at a byte.
var streamFaults = map[string]func(before []byte, next byte) []byte{
	"altered":                func(_ []byte, next byte) []byte { return []byte{next ^ 0xa5} },
	"off by one bit":         func(_ []byte, next byte) []byte { return []byte{next ^ 1} },
	"left out":               func([]byte, byte) []byte { return nil },
	"all before it repeated": func(before []byte, next byte) []byte { return append(bytes.Clone(before), next) },
	"a piece repeated": func(before []byte, next byte) []byte {
		return append(bytes.Clone(before[max(0, len(before)-70):]), next)
	},
}

// faulty is a client's stream with a fault in one or both directions.
type faulty struct {
	net.Conn
	up, down *fault
	got      []byte // that came and was not read
}

func (s *faulty) LocalAddr() net.Addr { return addr("faulty") }

func (s *faulty) Write(b []byte) (int, error) {
	if _, err := s.Conn.Write(s.up.pass(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (s *faulty) Read(b []byte) (int, error) {
	for len(s.got) == 0 {
		in := make([]byte, 4<<10)
		n, err := s.Conn.Read(in)
		if s.got = s.down.pass(in[:n]); n == 0 && err != nil {
			return 0, err
		}
	}
	n := copy(b, s.got)
	s.got = s.got[n:]
	return n, nil
}

// echoAll serves all connections of a far end with an echo.
func (f *far) echoAll(t *testing.T) {
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := f.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				_, _ = io.Copy(struct{ io.Writer }{c}, c)
				_ = c.(*Conn).CloseWrite()
			})
		}
	})
	t.Cleanup(func() {
		_ = f.Close()
		work.Wait()
	})
}

// echoThrough writes and reads the echo, and ends the connection in good order.
func echoThrough(c *Conn, size int) error {
	b := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	written := make(chan error, 1)
	go func() {
		_, err := c.Write(b)
		written <- errors.Join(err, c.CloseWrite())
	}()
	got, err := io.ReadAll(c)
	if err := errors.Join(err, <-written); err != nil {
		return err
	}
	if !bytes.Equal(got, b) {
		return fmt.Errorf("%d bytes came back, not the %d that were written", len(got), len(b))
	}
	<-c.Done()
	if err := c.Err(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("it ended with %w", err)
	}
	return nil
}

// dialFaulty begins a connection whose first stream, at least, has a fault.
func (f *far) dialFaulty(t *testing.T, cfg DialConfig, wrap func(n int, stream net.Conn) net.Conn) (*Conn, *int, error) {
	var mu sync.Mutex
	opens := 0
	cfg.Open = func(context.Context) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		opens++
		return wrap(opens, &faulty{Conn: f.pipes.dial()}), nil
	}
	c, err := Dial(t.Context(), cfg)
	return c, &opens, err
}

// Whatever happens to the first session, at any byte of the handshake or of the first frames, every byte arrives.
func TestFirstSessionDamaged(t *testing.T) {
	const bytesUp, bytesDown = openNewLen + 150, helloLen + 1 + macLen + 150
	step := 1
	if testing.Short() {
		step = 7
	}
	for name, what := range streamFaults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, isUp := range []bool{true, false} {
				for at := 0; at < bytesUp && isUp || at < bytesDown && !isUp; at += step {
					synctest.Test(t, func(t *testing.T) {
						f := startFar(t, ListenerConfig{})
						f.echoAll(t)
						began := time.Now()
						c, opens, err := f.dialFaulty(t, DialConfig{Max: 2}, func(n int, stream net.Conn) net.Conn {
							switch s := stream.(*faulty); {
							case n > 1:
							case isUp:
								s.up = &fault{at: at, what: what}
							default:
								s.down = &fault{at: at, what: what}
							}
							return stream
						})
						if err == nil {
							err = echoThrough(c, 4000)
							_ = c.Close()
						}
						if took := time.Since(began); err != nil || *opens > 4 || took > time.Minute {
							t.Errorf("byte %d (up: %v): %d sessions in %v: %v", at, isUp, *opens, took, err)
						}
					})
				}
			}
		})
	}
}

// The same for a session that joins: the connection goes on over its other session, and gets another.
func TestJoinDamaged(t *testing.T) {
	const bytesUp, bytesDown = openJoinLen + 100, helloLen + 1 + macLen + 100
	for name, what := range streamFaults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for at := 0; at < bytesUp; at += 5 {
				for _, isUp := range []bool{true, false} {
					if !isUp && at >= bytesDown {
						continue
					}
					synctest.Test(t, func(t *testing.T) {
						f := startFar(t, ListenerConfig{})
						f.echoAll(t)
						var first net.Conn
						c, _, err := f.dialFaulty(t, DialConfig{Max: 2}, func(n int, stream net.Conn) net.Conn {
							switch s := stream.(*faulty); {
							case n == 1:
								first = stream
							case n > 2:
							case isUp:
								s.up = &fault{at: at, what: what}
							default:
								s.down = &fault{at: at, what: what}
							}
							return stream
						})
						if err != nil {
							t.Fatal(err)
						}
						<-after(100 * time.Millisecond)
						_ = first.Close()
						if err := echoThrough(c, 4000); err != nil {
							t.Errorf("byte %d (up: %v): %v", at, isUp, err)
						}
						_ = c.Close()
					})
				}
			}
		})
	}
}

// forger answers in the far end's place as soon as a client has sent its OPEN.
type forger struct {
	net.Conn
	answer []byte
}

func (s *forger) LocalAddr() net.Addr { return addr("forged") }

func (s *forger) Write(b []byte) (int, error) { return len(b), nil } // the far end hears nothing

func (s *forger) Read(b []byte) (int, error) {
	if s.answer == nil {
		return 0, io.EOF
	}
	n := copy(b, s.answer)
	if s.answer = s.answer[n:]; len(s.answer) == 0 {
		s.answer = nil
	}
	return n, nil
}

func forgedHello() []byte {
	s := &scripted{}
	if _, err := serverHello(s, maxVersion); err != nil {
		panic(err)
	}
	return s.out.Bytes()
}

// A refusal without proof of the connection's key neither ends a live connection nor makes one end in good order.
func TestForgedRefusals(t *testing.T) {
	for code := RefuseVersion; code <= RefuseUsed; code++ {
		for name, mac := range map[string][]byte{"no mac": nil, "zeros": make([]byte, macLen), "random": bytesFrom(1, macLen)} {
			t.Run(fmt.Sprintf("%v, %s", code, name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := startFar(t, ListenerConfig{})
					f.echoAll(t)
					answer := bytes.Join([][]byte{forgedHello(), {byte(code), 0}, mac}, nil)
					var mu sync.Mutex
					isForging := true
					c, opens, err := f.dialFaulty(t, DialConfig{Max: 2}, func(n int, stream net.Conn) net.Conn {
						mu.Lock()
						defer mu.Unlock()
						if n > 1 && isForging {
							_ = stream.Close()
							near, far := net.Pipe()
							_ = far.Close()
							return &forger{near, bytes.Clone(answer)}
						}
						return stream
					})
					if err != nil {
						t.Fatal(err)
					}
					buf := make([]byte, 5)
					for range 60 { // data now and then makes the client want a second session
						if _, err := c.Write([]byte("hello")); err != nil {
							t.Fatal(err)
						}
						if _, err := io.ReadFull(c, buf); err != nil {
							t.Fatal(err)
						}
						<-after(time.Second)
					}
					mu.Lock()
					tried := *opens
					isForging = false
					mu.Unlock()
					if tried < 5 {
						t.Errorf("%d sessions: a forged refusal keeps others from being tried", tried)
					}
					if err := echoThrough(c, 4000); err != nil {
						t.Error(err)
					}
					_ = c.Close()
				})
			})
		}
	}
}

// A connection without any path believes that it is gone when several sessions in succession say so, and not before.
func TestUnknownConnectionIsBelieved(t *testing.T) {
	for lies := range 6 {
		t.Run(fmt.Sprint(lies), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := startFar(t, ListenerConfig{})
				f.echoAll(t)
				answer := append(forgedHello(), byte(RefuseUnknown), 0)
				var first net.Conn
				c, _, err := f.dialFaulty(t, DialConfig{}, func(n int, stream net.Conn) net.Conn {
					if n == 1 {
						first = stream
					} else if n <= 1+lies {
						_ = stream.Close()
						near, far := net.Pipe()
						_ = far.Close()
						return &forger{near, bytes.Clone(answer)}
					}
					return stream
				})
				if err != nil {
					t.Fatal(err)
				}
				<-after(100 * time.Millisecond)
				_ = first.Close()
				err = echoThrough(c, 4000)
				var refused *RefusedError
				if lies < mostDenials && err != nil || lies >= mostDenials && (!errors.As(err, &refused) || refused.Code != RefuseUnknown) {
					t.Error(err)
				}
				_ = c.Close()
			})
		})
	}
}

// A relay that inserts bytes into a session ends this session and nothing else.
func TestForgedFrames(t *testing.T) {
	stranger := newSeal(make([]byte, 32))
	for _, f := range sampleFrames() {
		for name, b := range map[string][]byte{
			"without a seal": appendFrame(nil, &f), "with zeros": append(appendFrame(nil, &f), make([]byte, sealSize)...),
			"with another key": stranger.append(appendFrame(nil, &f), 0),
		} {
			t.Run(f.typ.String()+" "+name, func(t *testing.T) {
				client, server, cut := newPair(t, 1)
				a, b2 := tcpPair(t)
				relay := &injecting{Conn: b2, extra: append(b, make([]byte, maxData+dataHeader+sealSize)...)}
				attachPair(t, client, server, 1, a, relay)
				for range 50 {
					if _, err := server.Write(make([]byte, 4000)); err != nil {
						t.Fatal(err)
					}
					if _, err := io.ReadFull(client, make([]byte, 4000)); err != nil {
						t.Fatal(err)
					}
				}
				_, _ = server, cut
				if st := client.Stats(); st.Damaged != 1 || len(st.Subflows) != 1 {
					t.Errorf("%d sessions are damaged, %d left", st.Damaged, len(st.Subflows))
				}
				if err := errors.Join(client.Err(), server.Err()); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// injecting inserts bytes of its own before the second write.
type injecting struct {
	net.Conn
	writes int
	extra  []byte
}

func (s *injecting) Write(b []byte) (int, error) {
	if s.writes++; s.writes == 2 {
		if _, err := s.Conn.Write(s.extra); err != nil {
			return 0, err
		}
	}
	return s.Conn.Write(b)
}

// Ends of different versions speak the lower one, and a relay cannot make two new ends do so.
func TestVersions(t *testing.T) {
	for _, tt := range []struct{ client, server, want uint8 }{{1, 1, 1}, {1, 2, 1}, {2, 1, 1}, {2, 2, 2}} {
		t.Run(fmt.Sprintf("client %d, server %d", tt.client, tt.server), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := startFar(t, ListenerConfig{Config: Config{highest: tt.server}})
				f.echoAll(t)
				c, _, err := f.dialFaulty(t, DialConfig{Config: Config{highest: tt.client}},
					func(_ int, stream net.Conn) net.Conn { return stream })
				if err != nil {
					t.Fatal(err)
				}
				if got := c.Stats().Version; got != int(tt.want) {
					t.Errorf("they speak version %d", got)
				}
				for range 30 {
					if _, err := c.Write([]byte("hello")); err != nil {
						t.Fatal(err)
					}
					if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
						t.Fatal(err)
					}
					<-after(100 * time.Millisecond)
				}
				wantUp(t, c, 2, 2)
				if err := echoThrough(c, 4000); err != nil {
					t.Error(err)
				}
				_ = c.Close()
			})
		})
	}
	t.Run("downgraded", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := startFar(t, ListenerConfig{})
			f.echoAll(t)
			c, _, err := f.dialFaulty(t, DialConfig{}, func(n int, stream net.Conn) net.Conn {
				if n == 1 {
					stream.(*faulty).down = &fault{at: len(magic), what: func([]byte, byte) []byte { return []byte{1} }}
				}
				return stream
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := echoThrough(c, 4000); err != nil {
				t.Error(err)
			}
			if got := c.who.Load().version; got != maxVersion {
				t.Errorf("they speak version %d", got)
			}
			_ = c.Close()
		})
	})
}
