package bond

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a net.Listener of streams in memory.
type pipes struct {
	streams chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

func newPipes() *pipes { return &pipes{streams: make(chan net.Conn), closed: make(chan struct{})} }

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case stream := <-l.streams:
		return stream, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipes) Addr() net.Addr { return addr("pipes") }

func (l *pipes) dial() net.Conn {
	near, far := net.Pipe()
	select {
	case l.streams <- far:
	case <-l.closed:
		_ = far.Close()
	}
	return near
}

// far is a Listener under test, in a synctest bubble.
type far struct {
	*Listener
	pipes *pipes

	mu     sync.Mutex
	events []Event
}

func startFar(t *testing.T, cfg ListenerConfig) *far {
	t.Helper()
	f := &far{pipes: newPipes()}
	cfg.OnEvent = func(e Event) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.events = append(f.events, e)
	}
	f.Listener = Listen([]net.Listener{f.pipes}, cfg)
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if n := len(f.conns); n > 0 || f.memory != f.cfg.Memory {
			t.Errorf("%d connections and %d of %d bytes of memory are left", n, f.memory, f.cfg.Memory)
		}
	})
	return f
}

// told returns the events so far, without their addresses and times.
func (f *far) told() []Event {
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	events := slices.Clone(f.events)
	for i := range events {
		events[i].Remote, events[i].Duration = nil, 0
	}
	return events
}

func (f *far) count(typ EventType) (n int) {
	for _, e := range f.told() {
		if e.Type == typ {
			n++
		}
	}
	return n
}

// near is the client's end of a connection.
type near struct {
	*Conn
	far *far
}

// connect begins a connection, which the test's end aborts.
func (f *far) connect(t *testing.T) (*near, error) {
	t.Helper()
	id, err := newConnID()
	if err != nil {
		t.Fatal(err)
	}
	return f.connectAs(t, id)
}

func (f *far) connectAs(t *testing.T, id connID) (*near, error) {
	t.Helper()
	stream := f.pipes.dial()
	h, err := clientNew(stream, id, maxVersion, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := newFrameReader(stream)
	if err := h.awaitAccept(r); err != nil {
		_ = stream.Close()
		return nil, err
	}
	n := &near{far: f, Conn: newConn(h.identity, Config{}, true)}
	if err := n.attach(0, stream, r, h.seals(), "", nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n, nil
}

// mustConnect begins a connection and returns both its ends.
func (f *far) mustConnect(t *testing.T) (*near, *Conn) {
	t.Helper()
	n, err := f.connect(t)
	if err != nil {
		t.Fatal(err)
	}
	c, err := f.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return n, c.(*Conn)
}

// join adds a subflow to the connection.
func (n *near) join(t *testing.T, subflow uint32) error {
	t.Helper()
	return n.joinAs(t, *n.who.Load(), subflow)
}

func (n *near) joinAs(t *testing.T, who identity, subflow uint32) error {
	t.Helper()
	stream := n.far.pipes.dial()
	h, err := clientJoin(stream, who, subflow)
	if err != nil {
		t.Fatal(err)
	}
	r := newFrameReader(stream)
	if err := h.awaitAccept(r); err != nil {
		_ = stream.Close()
		return err
	}
	if err := n.attach(subflow, stream, r, h.seals(), "", nil); err != nil {
		_ = stream.Close()
		return err
	}
	return nil
}

func wantRefusal(t *testing.T, err error, code RefuseCode, reason string) {
	t.Helper()
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Code != code || !strings.Contains(refused.Reason, reason) {
		t.Errorf("%v; want it refused: %v, with %q", err, code, reason)
		return
	}
	if sure := !code.byDamage() || code == RefuseUnknown && refused.Reason != ""; refused.sure != sure {
		t.Errorf("%v: sure %v, want %v", err, refused.sure, sure)
	}
}

// A connection lives as long as any of its subflows can carry it, and its events tell its life.
func TestListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startFar(t, ListenerConfig{})
		n, c := f.mustConnect(t)
		echoed := make(chan error, 1)
		go func() {
			_, err := io.Copy(struct{ io.Writer }{c}, c)
			echoed <- errors.Join(err, c.CloseWrite())
		}()
		for _, subflow := range []uint32{2, 1} { // handshakes may overtake each other
			if err := n.join(t, subflow); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		data := make([]byte, 3<<20)
		_, _ = rand.Read(data)
		wrote := make(chan error, 1)
		go func() {
			half := len(data) / 2
			_, err := n.Write(data[:half])
			n.drop(0)
			_, err2 := n.Write(data[half:])
			wrote <- errors.Join(err, err2, n.CloseWrite())
		}()
		got, err := io.ReadAll(n)
		if err := errors.Join(err, <-wrote, <-echoed); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes of %d came back, or others: %v", len(got), len(data), err)
		}
		_ = n.Close()
		_ = c.Close()

		events := f.told()
		for i := range events {
			if events[i].Conn != n.RemoteAddr().String() {
				t.Errorf("%+v", events[i])
			}
			events[i].Conn = ""
			if events[i].Reason == io.ErrClosedPipe.Error() {
				events[i].Reason = "ended by the far end" // seen by the writer, not by the reader
			}
		}
		if len(events) != 7 {
			t.Fatalf("%+v", events)
		}
		slices.SortFunc(events[4:6], func(a, b Event) int { return int(a.Subflow) - int(b.Subflow) })
		want := []Event{
			{Type: EventOpened},
			{Type: EventJoined, Subflow: 2},
			{Type: EventJoined, Subflow: 1},
			{Type: EventLost, Reason: "ended by the far end"},
			{Type: EventLost, Subflow: 1, Reason: "ended by the far end"},
			{Type: EventLost, Subflow: 2, Reason: "ended by the far end"},
			{Type: EventClosed, Reason: "both ends had finished", Sent: uint64(len(data)), Received: uint64(len(data))},
		}
		if !slices.Equal(events, want) {
			t.Errorf("%+v, want\n%+v", events, want)
		}
	})
}

func TestListenerRefusesJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startFar(t, ListenerConfig{})
		n, c := f.mustConnect(t)
		other, _ := f.mustConnect(t)
		if err := n.join(t, 70); err != nil {
			t.Fatal(err)
		}
		for _, used := range []uint32{70, 6, 1} { // the last two are so far below that they may have been
			wantRefusal(t, n.join(t, used), RefuseUsed, "")
		}
		if err := n.join(t, 7); err != nil {
			t.Error(err)
		}
		who, stranger := *n.who.Load(), *n.who.Load()
		stranger.key = other.who.Load().key
		wantRefusal(t, n.joinAs(t, stranger, 71), RefuseMAC, "")
		if err := n.join(t, 71); err != nil {
			t.Errorf("a join without the key took the place of one with it: %v", err)
		}
		stranger = who
		stranger.id[0]++
		wantRefusal(t, n.joinAs(t, stranger, 72), RefuseUnknown, "")
		older := who
		older.version--
		wantRefusal(t, n.joinAs(t, older, 72), RefuseMalformed, "speaks version 2")
		_, err := f.connectAs(t, who.id)
		wantRefusal(t, err, RefuseUsed, "connection id")
		if got := f.count(EventRefused); got != 7 {
			t.Errorf("%d events of refusals, want 7: %+v", got, f.told())
		}

		// The end is remembered for a while.
		ended := time.Now()
		_ = c.Close()
		_ = n.Close()
		wantRefusal(t, n.join(t, 73), RefuseUnknown, "closed by this end")
		_, err = f.connectAs(t, who.id)
		wantRefusal(t, err, RefuseUsed, "connection id")
		<-after(time.Until(ended.Add(tombstoneTime - time.Second)))
		wantRefusal(t, n.join(t, 74), RefuseUnknown, "closed by this end")
		<-after(time.Until(ended.Add(tombstoneTime + partTimeout)))
		wantRefusal(t, n.join(t, 75), RefuseUnknown, "")
		if err := other.join(t, 1); err != nil {
			t.Errorf("the other connection: %v", err)
		}
	})
}

// A client that lost its paths before it was told learns from the refusal whether all bytes arrived.
func TestListenerTellsOfAFinishedConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startFar(t, ListenerConfig{})
		n, c := f.mustConnect(t)
		for _, conn := range []*Conn{n.Conn, c} {
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
		}
		<-after(partTimeout)
		if err := c.Err(); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		wantRefusal(t, n.join(t, 1), RefuseClosed, "both ends had finished")
	})
}

func TestListenerBounds(t *testing.T) {
	t.Run("connections", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := startFar(t, ListenerConfig{MaxConns: 2})
			first, _ := f.mustConnect(t)
			f.mustConnect(t)
			_, err := f.connect(t)
			wantRefusal(t, err, RefuseConns, "there are 2")
			_ = first.Close()
			synctest.Wait()
			f.mustConnect(t)
		})
	})
	t.Run("connections that nobody accepts", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := startFar(t, ListenerConfig{MaxConns: 2})
			for range 2 {
				n, err := f.connect(t)
				if err != nil {
					t.Fatal(err)
				}
				_ = n.Close()
			}
			synctest.Wait()
			_, err := f.connect(t)
			wantRefusal(t, err, RefuseConns, "")
			accepted := make(chan net.Conn)
			go func() {
				c, _ := f.Accept() // passes over those that have ended
				accepted <- c
			}()
			synctest.Wait()
			n, err := f.connect(t)
			if err != nil {
				t.Fatal(err)
			}
			if c := <-accepted; c.RemoteAddr() != n.RemoteAddr() {
				t.Errorf("accepted %v, want %v", c.RemoteAddr(), n.RemoteAddr())
			}
		})
	})
	t.Run("subflows", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := startFar(t, ListenerConfig{MaxSubflows: 2})
			n, _ := f.mustConnect(t)
			other, _ := f.mustConnect(t)
			if err := n.join(t, 1); err != nil {
				t.Fatal(err)
			}
			wantRefusal(t, n.join(t, 2), RefuseSubflows, "has 2")
			if err := other.join(t, 1); err != nil {
				t.Error(err)
			}
			n.drop(0)
			synctest.Wait()
			if err := n.join(t, 2); err != nil {
				t.Errorf("after one had ended, with the id of the refused one: %v", err)
			}
		})
	})
	t.Run("stalled subflows", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := startFar(t, ListenerConfig{MaxSubflows: 2})
			n, server := f.mustConnect(t)
			if err := n.join(t, 1); err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // else the client's first ACK, when it is read after what follows, is a sign of life
			// As after an outage: the client has given a subflow up, which for the server is open, and silent.
			server.mu.Lock()
			for p := range server.subflows {
				if p.id == 0 {
					server.m.stall(p, time.Now())
				}
			}
			server.mu.Unlock()
			if err := n.join(t, 2); err != nil {
				t.Errorf("in the place of one that is stalled: %v", err)
			}
			wantRefusal(t, n.join(t, 3), RefuseSubflows, "has 2")
		})
	})
	// A task has room for so many of the agent's processes, whoever they are for; the last places are for those who come new.
	t.Run("streams", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := startFar(t, ListenerConfig{MaxStreams: 5, Spare: 2})
			n, _ := f.mustConnect(t)
			for id := range uint32(2) {
				if err := n.join(t, 1+id); err != nil {
					t.Fatal(err)
				}
			}
			wantRefusal(t, n.join(t, 3), RefuseMemory, "room for 5 sessions")
			f.mustConnect(t)
			f.mustConnect(t)
			_, err := f.connect(t)
			wantRefusal(t, err, RefuseMemory, "room for 5 sessions")
			if got := f.Streams(); got != 5 {
				t.Errorf("%d subflows", got)
			}
			n.drop(0)
			n.drop(1)
			synctest.Wait()
			f.mustConnect(t)
			wantRefusal(t, n.join(t, 4), RefuseMemory, "")
			if got := f.Streams(); got != 4 {
				t.Errorf("%d subflows", got)
			}
		})
	})
	t.Run("memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := startFar(t, ListenerConfig{MaxConns: 100, Memory: 20 << 20})
			var conns []*near
			var windows []int
			for {
				n, err := f.connect(t)
				if err != nil {
					wantRefusal(t, err, RefuseMemory, "20 MiB")
					break
				}
				c, err := f.Accept()
				if err != nil {
					t.Fatal(err)
				}
				if m := c.(*Conn).m; m.window != m.buffer {
					t.Errorf("window %d, send buffer %d", m.window, m.buffer)
				}
				windows = append(windows, c.(*Conn).m.window>>10)
				conns = append(conns, n)
			}
			// Each takes at most half of the memory left, down to the least.
			if want := []int{4096, 2048, 1024, 1024, 512, 512, 256, 256}; !slices.Equal(windows, want) {
				t.Errorf("windows of %v KiB, want %v", windows, want)
			}
			var err error
			for id := uint32(1); err == nil && id < 50; id++ {
				err = conns[id%8].join(t, id)
			}
			wantRefusal(t, err, RefuseMemory, "")
			_ = conns[0].Close()
			<-after(partTimeout)
			if _, c := f.mustConnect(t); c.m.window < 1<<20 {
				t.Errorf("a window of %d bytes when there is memory again", c.m.window)
			}
		})
	})
	t.Run("handshakes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := startFar(t, ListenerConfig{HandshakeTimeout: time.Minute})
			began := time.Now()
			for range maxHandshakes {
				stream := f.pipes.dial()
				t.Cleanup(func() { _ = stream.Close() })
				go func() { _, _ = io.Copy(io.Discard, stream) }()
			}
			if _, err := f.connect(t); err != nil { // waits for a place
				t.Error(err)
			}
			if d := time.Since(began); d != time.Minute {
				t.Errorf("it took %v", d)
			}
			if n := f.count(EventRefused); n != maxHandshakes {
				t.Errorf("%d of %d are told", n, maxHandshakes)
			}
		})
	})
}

func TestListenerDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startFar(t, ListenerConfig{})
		n, c := f.mustConnect(t)
		f.Drain()
		_, err := f.connect(t)
		wantRefusal(t, err, RefuseDraining, "")
		if err := n.join(t, 1); err != nil {
			t.Error(err)
		}
		n.drop(0)
		if _, err := n.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
	})
}

// Close ends connections, accepted or not, and handshakes, and tells the clients.
func TestListenerClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startFar(t, ListenerConfig{HandshakeTimeout: time.Hour})
		n, c := f.mustConnect(t)
		waiting, err := f.connect(t)
		if err != nil {
			t.Fatal(err)
		}
		silent := f.pipes.dial()
		if _, err := readHello(silent, minVersion, maxVersion); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		for what, conn := range map[string]*Conn{"client": n.Conn, "server": c, "client of the unaccepted": waiting.Conn} {
			_, err := conn.Read(make([]byte, 1))
			var reset *ResetError
			if !errors.As(err, &reset) || reset.Code != ResetDraining || reset.Remote != (conn != c) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if _, err := silent.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("a handshake under way: %v", err)
		}
		if _, err := f.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: %v", err)
		}
		if n := f.count(EventClosed); n != 2 {
			t.Errorf("the end of %d connections is told", n)
		}
	})
}

// A client that has sent frames right after OPEN gets the refusal, although the server does not read the frames.
func TestRefusalArrives(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := Listen([]net.Listener{tcp}, ListenerConfig{})
	defer l.Close()
	l.Drain()
	for range 3 {
		stream, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		h, err := clientNew(stream, sampleID, maxVersion, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Write(make([]byte, 16<<20)); err != nil { // more than the sockets hold
			t.Fatal(err)
		}
		wantRefusal(t, h.awaitAccept(stream), RefuseDraining, "")
		_ = stream.Close()
	}
}

// tiredListener fails a few times, as when the process has no descriptor left.
type tiredListener struct {
	*pipes
	failures int
}

func (l *tiredListener) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, errors.New("too many open files")
	}
	return l.pipes.Accept()
}

func TestListenerGoesOnAfterFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &far{pipes: newPipes()}
		f.Listener = Listen([]net.Listener{&tiredListener{f.pipes, 3}}, ListenerConfig{})
		defer f.Close()
		began := time.Now()
		f.mustConnect(t)
		if d := time.Since(began); d != 3*acceptPause {
			t.Errorf("it took %v", d)
		}
	})
}

func TestIDWindow(t *testing.T) {
	var w idWindow
	used := map[uint32]bool{}
	for _, id := range []uint32{0, 0, 1, 3, 2, 2, 63, 64, 65, 1 << 20, 1<<20 - 63, 1<<20 - 63, 1<<20 - 64, 1<<32 - 1, 1<<32 - 1} {
		tooLow := uint64(id)+64 < w.next
		if got := w.take(id); got != (!used[id] && !tooLow) {
			t.Errorf("%d is taken: %v", id, got)
		}
		used[id] = true
	}
}

func TestTombstonesAreBounded(t *testing.T) {
	var stones tombstones
	now := time.Unix(0, 0)
	id := func(i int) (id connID) {
		copy(id[:], fmt.Sprint(i))
		return id
	}
	for i := range maxTombstones + 1 {
		stones.add(identity{id: id(i)}, &RefusedError{Reason: fmt.Sprint(i)}, now.Add(time.Duration(i)))
	}
	if _, ok := stones.find(id(0), now); ok || len(stones.byID) != maxTombstones {
		t.Errorf("%d are kept", len(stones.byID))
	}
	if stone, ok := stones.find(id(7), now); !ok || stone.refusal.Reason != "7" {
		t.Errorf("%v, %v", stone, ok)
	}
	if _, ok := stones.find(id(maxTombstones), now.Add(tombstoneTime+maxTombstones)); ok || len(stones.byID) > 0 {
		t.Errorf("%d are kept for ever", len(stones.byID))
	}
}
