package sessions

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/smithy-go"
	"go.uber.org/goleak"
	"golang.org/x/net/nettest"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/sessions/frame"
	"github.com/bastion-ssm/bastion/sessions/reliable"
	"github.com/bastion-ssm/bastion/sessions/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pipe returns a stream and the far end of it.
func pipe(t testing.TB, opts fakeOptions, cfg Config) (*Stream, net.Conn, *fakeService) {
	t.Helper()
	near, far := net.Pipe()
	f := newFakeService(t, opts, func(int) (net.Conn, error) { return near, nil })
	s, err := f.client(cfg).OpenPort(t.Context(), Port{Target: "i-0123456789abcdef0", Port: 22})
	if err != nil {
		t.Fatal(err)
	}
	return s, far, f
}

// shut ends what pipe made, and checks that nothing is left of it.
func shut(s *Stream, far net.Conn, f *fakeService) {
	far.Close()
	s.Close()
	f.close()
	f.checkTerminated()
}

func TestConn(t *testing.T) {
	opts := fakeOptions{interval: time.Millisecond}
	t.Run("stream", func(t *testing.T) {
		nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
			s, far, f := pipe(t, opts, Config{})
			return s, far, func() { shut(s, far, f) }, nil
		})
	})
	t.Run("far end", func(t *testing.T) {
		nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
			s, far, f := pipe(t, opts, Config{})
			return far, s, func() { shut(s, far, f) }, nil
		})
	})
}

// wait lets d pass, in the time of a synctest bubble.
func wait(d time.Duration) { <-time.After(d) }

// noise returns n bytes that are the same for the same seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = rng.Read(b) // never fails
	return b
}

// exchange sends up and down through s at the same time, and fails the test unless both arrive as they were.
func exchange(t *testing.T, s *Stream, far net.Conn, up, down []byte) {
	t.Helper()
	limit := func(at time.Time) {
		for _, c := range []net.Conn{s, far} {
			if err := c.SetDeadline(at); err != nil {
				t.Error(err)
			}
		}
	}
	limit(time.Now().Add(time.Hour)) // of a bubble's time, mostly
	defer limit(time.Time{})
	var wg sync.WaitGroup
	send := func(name string, w io.Writer, p []byte) {
		if _, err := w.Write(p); err != nil {
			t.Errorf("%s: write: %v", name, err)
		}
	}
	receive := func(name string, r io.Reader, want []byte) {
		got := make([]byte, len(want))
		if n, err := io.ReadFull(r, got); err != nil {
			t.Errorf("%s: read %d of %d bytes: %v", name, n, len(want), err)
		} else if !bytes.Equal(got, want) {
			t.Errorf("%s: the bytes have changed", name)
		}
	}
	wg.Go(func() { send("up", s, up) })
	wg.Go(func() { send("down", far, down) })
	wg.Go(func() { receive("up", far, up) })
	wg.Go(func() { receive("down", s, down) })
	wg.Wait()
}

// TestSimulation moves data both ways over a path that drops, duplicates, reorders, delays and is cut. It checks that the data
// arrives unchanged, over one session.
func TestSimulation(t *testing.T) {
	type path struct {
		faults faults
		cuts   int
		bytes  int
	}
	for name, p := range map[string]path{
		"clean":      {bytes: 1 << 20},
		"delay":      {faults: faults{delay: 20 * time.Millisecond}, bytes: 512 << 10},
		"issue":      {faults: faults{drop: .01, dup: .01, reorder: .02}, cuts: 3, bytes: 512 << 10},
		"acks too":   {faults: faults{drop: .01, dup: .01, reorder: .02, acksToo: true}, cuts: 3, bytes: 768 << 10},
		"bad":        {faults: faults{drop: .1, dup: .1, reorder: .1, delay: 10 * time.Millisecond}, cuts: 5, bytes: 256 << 10},
		"only cuts":  {faults: faults{delay: time.Millisecond}, cuts: 20, bytes: 512 << 10},
		"duplicates": {faults: faults{dup: .5}, bytes: 128 << 10},
		"reordered":  {faults: faults{reorder: .4}, bytes: 128 << 10},
	} {
		for seed := range uint64(3) {
			t.Run(fmt.Sprintf("%s/%d", name, seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s, far, f := pipe(t, fakeOptions{faults: p.faults, interval: time.Millisecond, seed: seed}, Config{})
					defer shut(s, far, f)
					stop := make(chan struct{})
					var cutter sync.WaitGroup
					cutter.Go(func() {
						rng := rand.New(rand.NewPCG(seed, 1))
						for range p.cuts {
							select {
							case <-time.After(time.Duration(rng.IntN(400)) * time.Millisecond):
								f.session(0).cut()
							case <-stop:
								return
							}
						}
					})
					exchange(t, s, far, noise(seed, p.bytes), noise(seed+100, p.bytes))
					close(stop)
					cutter.Wait()
					st := s.Stats()
					if f.count(&f.started) != 1 {
						t.Errorf("%d sessions", f.count(&f.started))
					}
					if p.cuts > 0 && st.Resumes == 0 {
						t.Error("never resumed")
					}
					// So many messages come down that a fault of this kind cannot have spared them all.
					sure := func(share float64) bool { return share*float64(p.bytes)/1024 > 12 }
					if sure(p.faults.drop) && st.Resends == 0 || sure(p.faults.dup) && st.Duplicates == 0 {
						t.Errorf("no faults: %+v", st)
					}
					if st.Received != uint64(p.bytes) || st.Sent != uint64(p.bytes) {
						t.Errorf("sent %d, received %d, want %d", st.Sent, st.Received, p.bytes)
					}
				})
			})
		}
	}
}

// A clean path costs nothing that is not needed.
func TestNothingResentOnACleanPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, far, f := pipe(t, fakeOptions{faults: faults{delay: 20 * time.Millisecond}, interval: time.Millisecond}, Config{})
		defer shut(s, far, f)
		exchange(t, s, far, noise(1, 4<<20), noise(2, 64<<10))
		st := s.Stats()
		if st.Resends != 0 || st.Dropped != 0 || st.Resumes != 0 {
			t.Errorf("%+v", st)
		}
		if st.RTT < 40*time.Millisecond || st.RTT > 80*time.Millisecond {
			t.Errorf("round trip %v on a path of 40 ms", st.RTT)
		}
		if st.Payload != maxPayload {
			t.Errorf("payload %d", st.Payload)
		}
	})
}

func TestCloseFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, far, f := pipe(t, fakeOptions{faults: faults{drop: .05, delay: 10 * time.Millisecond}}, Config{})
		want := noise(1, 100<<10)
		var got []byte
		var wg sync.WaitGroup
		wg.Go(func() {
			var err error
			if got, err = io.ReadAll(far); err != nil {
				t.Error(err)
			}
		})
		if _, err := s.Write(want); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		wg.Wait() // the agent has closed the far connection
		if !bytes.Equal(got, want) {
			t.Errorf("%d of %d bytes arrived", len(got), len(want))
		}
		for range 2 {
			if err := s.Close(); err != nil {
				t.Errorf("Close again: %v", err)
			}
		}
		if !errors.Is(s.Err(), net.ErrClosed) {
			t.Errorf("Err: %v", s.Err())
		}
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read: %v", err)
		}
		if _, err := s.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write: %v", err)
		}
		if err := s.SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("SetDeadline: %v", err)
		}
		shut(s, far, f)
	})
}

// The far end takes nothing: Close gives up in time, and says so.
func TestCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, far, f := pipe(t, fakeOptions{}, Config{CloseTimeout: 3 * time.Second})
		if _, err := s.Write(make([]byte, 10<<10)); err != nil {
			t.Error(err)
		}
		start := time.Now()
		if err := s.Close(); err == nil || !strings.Contains(err.Error(), "not acknowledged") {
			t.Errorf("Close: %v", err)
		}
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("Close took %v", d)
		}
		shut(s, far, f)
	})
}

func TestFarEndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, far, f := pipe(t, fakeOptions{faults: faults{drop: .02}}, Config{})
		want := noise(1, 30<<10)
		if _, err := far.Write(want); err != nil {
			t.Error(err)
		}
		far.Close()
		got, err := io.ReadAll(s)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("read %d of %d bytes: %v", len(got), len(want), err)
		}
		<-s.Done()
		var closed *ClosedError
		if err := s.Err(); !errors.As(err, &closed) || !errors.Is(err, io.EOF) || closed.SessionID != s.SessionID() {
			t.Errorf("Err: %v", err)
		}
		if _, err := s.Write([]byte("x")); !errors.As(err, &closed) {
			t.Errorf("Write: %v", err)
		}
		shut(s, far, f)
	})
}

// A session that ends while messages are missing has not ended well.
func TestEndWithAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, far, f := pipe(t, fakeOptions{}, Config{})
		fs := f.session(0)
		fs.a.mu.Lock()
		fs.a.next++ // as if a message were on its way for ever
		fs.a.mu.Unlock()
		if _, err := far.Write([]byte("after the gap")); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		fs.end("")
		if got, err := io.ReadAll(s); len(got) > 0 || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("read %q: %v", got, err)
		}
		shut(s, far, f)
	})
}

func TestWriteBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const window, buffer = 64 << 10, 32 << 10
		s, far, f := pipe(t, fakeOptions{}, Config{SendWindow: window, WriteBuffer: buffer, CloseTimeout: time.Millisecond})
		// Until the agent has dialed, it leaves the first message to be sent again and takes any number that follow as out of
		// order. From then on it stops at what the far end does not read.
		synctest.Wait()
		if err := s.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Error(err)
		}
		n, err := s.Write(make([]byte, 1<<20)) // nobody reads at the far end
		if !errors.Is(err, os.ErrDeadlineExceeded) || n < buffer || n > buffer+window {
			t.Errorf("%d bytes written, then %v", n, err)
		}
		var ne net.Error
		if !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("%v is no timeout", err)
		}
		// The far end reads again: nothing is lost.
		if err := far.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Error(err)
		}
		if got, err := io.ReadFull(far, make([]byte, n)); err != nil {
			t.Errorf("%d of %d bytes: %v", got, n, err)
		}
		shut(s, far, f)
	})
}

// A slow reader holds the sender back, and the buffered bytes are bounded.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const soft = 64 << 10
		s, far, f := pipe(t, fakeOptions{interval: time.Millisecond}, Config{ReadBuffer: soft})
		want := noise(1, 1<<20)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := far.Write(want); err != nil {
				t.Error(err)
			}
		})
		wait(10 * time.Second)
		if n := s.unread(); n < soft || n > soft+1024 {
			t.Errorf("%d bytes kept", n)
		}
		// Even so, our own direction works: its acks are behind what the reader does not take.
		up := noise(2, 256<<10)
		start := time.Now()
		wg.Go(func() {
			if _, err := s.Write(up); err != nil {
				t.Error(err)
			}
		})
		got := make([]byte, len(up))
		if _, err := io.ReadFull(far, got); err != nil || !bytes.Equal(got, up) {
			t.Errorf("up: %v", err)
		}
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("up took %v", d)
		}
		if n := s.unread(); n > readHardFactor*soft+1024 {
			t.Errorf("%d bytes kept", n)
		}
		got = make([]byte, len(want))
		if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("down: %v", err)
		}
		wg.Wait()
		shut(s, far, f)
	})
}

// Messages beyond the bound of the reorder buffer are refused unacknowledged, and come again.
func TestReorderBufferIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, far, f := pipe(t, fakeOptions{faults: faults{reorder: .2, drop: .02}, interval: time.Millisecond},
			Config{ReorderBuffer: 8 << 10})
		exchange(t, s, far, nil, noise(1, 100<<10))
		if s.Stats().Dropped == 0 {
			t.Error("nothing was refused")
		}
		shut(s, far, f)
	})
}

func TestResumeRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, far, f := pipe(t, fakeOptions{}, Config{})
		f.resumeErr = func(int) error { return accessDenied() }
		f.session(0).cut()
		_, err := s.Read(make([]byte, 1))
		if fail.KindOf(err) != fail.Lost || !errors.Is(err, errNoResume) || !strings.Contains(err.Error(), "AccessDenied") {
			t.Errorf("Read: %v", err)
		}
		var api smithy.APIError
		if !errors.As(err, &api) {
			t.Error("the service's error is not in the chain")
		}
		if f.count(&f.resumed) != 1 {
			t.Errorf("%d ResumeSession calls, want 1", f.count(&f.resumed))
		}
		<-s.Done()
		if _, err2 := s.Write([]byte("x")); !errors.Is(err2, s.Err()) {
			t.Errorf("Write: %v", err2)
		}
		if !strings.Contains(err.Error(), s.SessionID()) || fail.NextOf(err) == "" {
			t.Errorf("%v; next: %s", err, fail.NextOf(err))
		}
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		shut(s, far, f)
	})
}

func TestResumeDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const deadline = time.Minute
		s, far, f := pipe(t, fakeOptions{}, Config{ResumeTimeout: deadline})
		wait(time.Hour)
		f.dialErr = func(int) error { return errors.New("no route to host") }
		f.session(0).cut()
		start := time.Now()
		_, err := s.Read(make([]byte, 1))
		if d := time.Since(start); d != deadline {
			t.Errorf("gave up after %v", d)
		}
		if fail.KindOf(err) != fail.Lost || !strings.Contains(err.Error(), "no route to host") {
			t.Errorf("Read: %v", err)
		}
		if f.count(&f.resumed) < 6 || f.count(&f.resumed) > 20 {
			t.Errorf("%d attempts in %v", f.count(&f.resumed), deadline)
		}
		shut(s, far, f)
	})
}

// What fails for a while is tried again, and neither side of the stream sees it.
func TestResumeRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, far, f := pipe(t, fakeOptions{interval: time.Millisecond}, Config{})
		f.resumeErr = func(n int) error {
			if n < 5 {
				return &smithy.GenericAPIError{Code: "ThrottlingException"}
			}
			return nil
		}
		var wg sync.WaitGroup
		wg.Go(func() { wait(20 * time.Millisecond); f.session(0).cut() })
		exchange(t, s, far, noise(1, 64<<10), noise(2, 64<<10))
		wg.Wait()
		if st := s.Stats(); st.Resumes != 1 {
			t.Errorf("%+v", st)
		}
		shut(s, far, f)
	})
}

// What a cut has swallowed goes out again as soon as there is a connection, without waiting for a timeout.
func TestCutIsMendedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, far, f := pipe(t, fakeOptions{faults: faults{delay: 50 * time.Millisecond}}, Config{})
		want := noise(1, 8<<10)
		if _, err := s.Write(want); err != nil {
			t.Error(err)
		}
		wait(10 * time.Millisecond)
		f.session(0).cut()
		start := time.Now()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(far, got); err != nil || !bytes.Equal(got, want) {
			t.Error(err)
		}
		if d := time.Since(start); d > 100*time.Millisecond+50*time.Millisecond { // the pause, the way
			t.Errorf("arrived after %v", d)
		}
		shut(s, far, f)
	})
}

// A pause ends with start_publication, or when the agent shows itself.
func TestPause(t *testing.T) {
	for _, sign := range []string{"start", "data"} {
		t.Run(sign, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, far, f := pipe(t, fakeOptions{}, Config{})
				fs := f.session(0)
				synctest.Wait() // what the agent still had to say of the handshake would end a pause
				fs.sock.deliver(fs.control(frame.PausePublication), 0)
				synctest.Wait()
				if _, err := s.Write([]byte("x")); err != nil {
					t.Error(err)
				}
				wait(time.Minute)
				if n := s.Stats().Sent; n > 0 {
					t.Errorf("%d bytes sent in a pause", n)
				}
				if sign == "start" {
					fs.sock.deliver(fs.control(frame.StartPublication), 0)
				} else if _, err := far.Write([]byte("y")); err != nil {
					t.Error(err)
				}
				if err := far.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
					t.Error(err)
				}
				if _, err := io.ReadFull(far, make([]byte, 1)); err != nil {
					t.Errorf("after the pause: %v", err)
				}
				shut(s, far, f)
			})
		})
	}
}

// While the reader is slow the pongs are among the unread messages, and their absence means nothing.
func TestSlowReaderIsNotADeadPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		f := newFakeService(t, fakeOptions{}, func(int) (net.Conn, error) { return near, nil })
		c := f.client(Config{ReadBuffer: 4 << 10})
		c.dial = func(ctx context.Context, g grant) (transport.Socket, error) {
			s, err := f.dial(ctx, g)
			return pongless{s}, err
		}
		s, err := c.OpenPort(t.Context(), somePort)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the handshake's last ack has come
		want := noise(1, 64<<10)
		if _, err := far.Write(want); err != nil {
			t.Error(err)
		}
		wait(10 * time.Minute)
		if n := s.Stats().Resumes; n > 0 {
			t.Errorf("%d resumes of a session that is only slow", n)
		}
		if _, err := io.ReadFull(s, make([]byte, len(want))); err != nil {
			t.Error(err)
		}
		wait(10 * time.Minute)
		if s.Stats().Resumes == 0 {
			t.Error("missing pongs do not matter any more")
		}
		shut(s, far, f)
	})
}

// Acks go together while many are due, and soon in any case; with data, at once.
func TestAcksGoTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		f := newFakeService(t, fakeOptions{interval: time.Millisecond}, func(int) (net.Conn, error) { return near, nil })
		c := f.client(Config{})
		sock := &batchCounter{}
		c.dial = func(ctx context.Context, g grant) (transport.Socket, error) {
			s, err := f.dial(ctx, g)
			sock.Socket = s
			return sock, err
		}
		s, err := c.OpenPort(t.Context(), somePort)
		if err != nil {
			t.Fatal(err)
		}
		wait(time.Second)
		sock.count()
		a := &f.session(0).a
		before := a.sentAgain() // the first message of all may come too early
		const messages = 1000
		exchange(t, s, far, nil, noise(1, messages<<10))
		wait(2 * reliable.AckDelay)
		if writes, batches := sock.count(); writes != messages || batches > messages/4 {
			t.Errorf("%d acks in %d batches", writes, batches)
		}
		if n, again := a.pending(), a.sentAgain()-before; n > 0 || again > 0 {
			t.Errorf("%d messages not acknowledged, %d sent again", n, again)
		}
		wait(time.Second)
		sock.count()
		exchange(t, s, far, nil, []byte("?"))
		exchange(t, s, far, []byte("!"), nil)
		wait(0)
		if writes, batches := sock.count(); writes != 2 || batches != 1 {
			t.Errorf("an ack and data are %d messages in %d batches", writes, batches)
		}
		shut(s, far, f)
	})
}

// batchCounter counts writes and batches.
type batchCounter struct {
	transport.Socket
	mu              sync.Mutex
	writes, batches int
}

func (b *batchCounter) Write(p []byte, more bool) error {
	b.mu.Lock()
	b.writes++
	if !more {
		b.batches++
	}
	b.mu.Unlock()
	return b.Socket.Write(p, more)
}

// count returns the counts since it was called before.
func (b *batchCounter) count() (writes, batches int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	writes, batches = b.writes, b.batches
	b.writes, b.batches = 0, 0
	return writes, batches
}

// pongless is a websocket on which no pong ever comes.
type pongless struct{ transport.Socket }

func (pongless) Ping(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// A gateway that opens each websocket and closes it again is not asked for another one all the time.
func TestFlapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, far, f := pipe(t, fakeOptions{}, Config{})
		for start := time.Now(); time.Since(start) < time.Minute; {
			wait(10 * time.Millisecond)
			f.session(0).cut()
		}
		if f.count(&f.resumed) > 20 {
			t.Errorf("%d ResumeSession calls in a minute", f.count(&f.resumed))
		}
		exchange(t, s, far, []byte("up"), []byte("down"))
		// A good link is replaced at once again.
		wait(time.Hour)
		f.session(0).cut()
		start := time.Now()
		exchange(t, s, far, []byte("up"), []byte("down"))
		if d := time.Since(start); d > 300*time.Millisecond {
			t.Errorf("resumed after %v", d)
		}
		shut(s, far, f)
	})
}

// Close does not wait for a connection that is lost when there is nothing to send.
func TestCloseWhileLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, far, f := pipe(t, fakeOptions{}, Config{})
		f.dialErr = func(int) error { return errors.New("no route to host") }
		synctest.Wait() // the handshake's last ack has come
		f.session(0).cut()
		wait(time.Second)
		start := time.Now()
		if err := s.Close(); err != nil || time.Since(start) > 0 {
			t.Errorf("Close: %v after %v", err, time.Since(start))
		}
		shut(s, far, f)
	})
}

// deafSocket is a websocket whose other end has vanished without a word.
type deafSocket struct {
	transport.Socket
	deaf chan struct{} // closed when it is
	half bool          // what the other end sends still comes
}

func (d deafSocket) gone() bool {
	select {
	case <-d.deaf:
		return true
	default:
		return false
	}
}

func (d deafSocket) Write(p []byte, more bool) error {
	if d.gone() {
		return nil
	}
	return d.Socket.Write(p, more)
}

func (d deafSocket) Read(buf []byte) ([]byte, error) {
	for {
		b, err := d.Socket.Read(buf)
		if err != nil || d.half || !d.gone() {
			return b, err
		}
	}
}

func (d deafSocket) Ping(ctx context.Context) error {
	if d.gone() {
		<-ctx.Done()
		return ctx.Err()
	}
	return d.Socket.Ping(ctx)
}

func TestDeadPeer(t *testing.T) {
	const interval, timeout = time.Minute, 5 * time.Second
	for name, tc := range map[string]struct {
		half, write, ask bool
		limit            time.Duration
	}{
		"idle":            {limit: interval + timeout},
		"asked for":       {ask: true, limit: timeout},
		"acks are missed": {write: true, limit: 3*time.Second /* three timeouts */ + timeout},
		"deaf, not dumb":  {half: true, write: true, limit: 3*time.Second + (1+2+4+8)*timeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				f := newFakeService(t, fakeOptions{}, func(int) (net.Conn, error) { return near, nil })
				c := f.client(Config{PingInterval: interval, PingTimeout: timeout})
				deaf := make(chan struct{})
				c.dial = func(ctx context.Context, g grant) (transport.Socket, error) {
					s, err := f.dial(ctx, g)
					if f.count(&f.dials) == 1 {
						s = deafSocket{s, deaf, tc.half}
					}
					return s, err
				}
				s, err := c.OpenPort(t.Context(), Port{Target: "i-1", Port: 1})
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait() // for the last ack
				close(deaf)
				start := time.Now()
				if tc.half { // the agent goes on, and gets no ack
					if _, err := far.Write([]byte("down")); err != nil {
						t.Error(err)
					}
				}
				if tc.write {
					if _, err := s.Write([]byte("hello")); err != nil {
						t.Error(err)
					}
				}
				if tc.ask {
					s.Probe()
				}
				for s.Stats().Resumes == 0 && time.Since(start) < time.Hour {
					wait(100 * time.Millisecond)
				}
				if d := time.Since(start); d > tc.limit+300*time.Millisecond || d < timeout {
					t.Errorf("noticed after %v, want %v", d, tc.limit)
				} else if tc.write {
					if _, err := io.ReadFull(far, make([]byte, 5)); err != nil {
						t.Error(err)
					}
				}
				shut(s, far, f)
			})
		})
	}
}

// Something on the way does not take long messages: the stream says so, and the next one keeps to what gets through.
func TestLongMessagesRefused(t *testing.T) {
	for _, closes := range []bool{false, true} {
		t.Run(fmt.Sprintf("closes=%v", closes), func(t *testing.T) { testLongMessagesRefused(t, closes) })
	}
}

func testLongMessagesRefused(t *testing.T, closes bool) {
	synctest.Test(t, func(t *testing.T) {
		pipes := make(chan net.Conn, 2)
		f := newFakeService(t, fakeOptions{maxFrame: 3000, closes: closes}, func(int) (net.Conn, error) {
			near, far := net.Pipe()
			pipes <- far
			return near, nil
		})
		c := f.client(Config{})
		s, err := c.OpenPort(t.Context(), Port{Target: "i-1", Port: 1})
		if err != nil {
			t.Fatal(err)
		}
		far := <-pipes
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.Copy(io.Discard, far) })
		for err == nil {
			_, err = s.Write(make([]byte, 10<<10))
		}
		if !strings.Contains(err.Error(), "more than 2048 bytes do not get through") {
			t.Errorf("Write: %v", err)
		}
		shut(s, far, f)
		wg.Wait()
		if s, err = c.OpenPort(t.Context(), Port{Target: "i-1", Port: 1}); err != nil {
			t.Fatal(err)
		}
		far = <-pipes
		exchange(t, s, far, noise(1, 4<<20), nil)
		if p := s.Stats().Payload; p != 2048 {
			t.Errorf("payload %d", p)
		}
		shut(s, far, f)
	})
}

func TestMalformedMessagesAreIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, far, f := pipe(t, fakeOptions{}, Config{})
		sock := f.session(0).sock
		for _, b := range [][]byte{nil, {0}, make([]byte, 120), bytes.Repeat([]byte{255}, 200)} {
			sock.deliver(b, 0)
		}
		exchange(t, s, far, []byte("up"), []byte("down"))
		if n := s.Stats().Dropped; n != 4 {
			t.Errorf("%d messages dropped, want 4", n)
		}
		shut(s, far, f)
	})
}
