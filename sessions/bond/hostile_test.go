package bond

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// hostileTime bounds each test against a hostile peer: none waits for a time-out of the code.
const hostileTime = 20 * time.Second

// listenTCP starts a Listener on loopback.
func listenTCP(t *testing.T, cfg ListenerConfig) (l *Listener, dial func() net.Conn) {
	t.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l = Listen([]net.Listener{tcp}, cfg)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l, func() net.Conn {
		t.Helper()
		stream, err := net.Dial("tcp", tcp.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { stream.Close() })
		stream.SetDeadline(time.Now().Add(hostileTime))
		return stream
	}
}

// openRaw makes a connection and returns its stream, on which the test speaks the protocol by hand, and the server's end.
func openRaw(t *testing.T, l *Listener, stream net.Conn) (*clientHandshake, connID, *Conn) {
	t.Helper()
	id, err := newConnID()
	if err != nil {
		t.Fatal(err)
	}
	h, err := clientNew(stream, id, maxVersion, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.awaitAccept(stream); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	victim := c.(*Conn)
	t.Cleanup(func() { abort(victim) })
	return h, id, victim
}

// abort ends a connection without waiting for a peer that does not answer.
func abort(c *Conn) {
	c.fail(&ResetError{Code: ResetAborted})
	c.Close()
}

// encode gives each frame's bytes.
func encode(frames ...frame) (encoded [][]byte) {
	for i := range frames {
		encoded = append(encoded, appendFrame(nil, &frames[i]))
	}
	return encoded
}

// sealed is what an end with this seal writes for the frames.
func sealed(s *seal, frames ...[]byte) (b []byte) {
	for _, f := range frames {
		b = s.append(append(b, f...), len(b))
	}
	return b
}

func dataOf(dsn uint64, size int) frame {
	return frame{typ: frameData, dsn: dsn, data: make([]byte, size)}
}

func ackOf(ack, limit, received uint64) frame {
	return frame{typ: frameAck, ack: ack, limit: limit, received: received}
}

// game is what a hostile peer sends to an end, and how the end ends the connection for it.
type game struct {
	name   string
	frames [][]byte // some of which are none
	// hello: the end has written "hello", and the peer has it, when it sends bytes. finished: and no more is to come.
	hello, finished bool
	want            string // of the error and of RESET; empty: no harm is done
	leaves          bool   // the subflow may end, and the connection does not
	stale           bool   // from version 2 on that is an older frame, which is nothing
	shapeless       bool   // with seals, this is taken for damage: the subflow ends, and the connection does not
}

func games() []game {
	const lots = 1 << 62
	fin := func(dsn uint64) frame { return frame{typ: frameFIN, dsn: dsn} }
	random := make([]byte, 4096)
	rng := rand.New(rand.NewPCG(7, 7))
	for i := range random {
		random[i] = byte(rng.Uint32()) | 0x80 // no type of frame
	}
	var gaps [][]byte
	for dsn := uint64(1); dsn < initialLimit; dsn += 2 {
		gaps = append(gaps, encode(frame{typ: frameData, dsn: dsn, data: []byte{1}})...)
	}
	leave := frame{typ: frameLeave}
	late := ackOf(5, lots, 16)
	late.delay = math.MaxUint32
	return []game{
		{name: "data at the limit", frames: encode(dataOf(DefaultWindow, 1)), want: "is the limit"},
		{name: "data across the limit", frames: encode(dataOf(DefaultWindow-1, 2)), want: "is the limit"},
		{name: "data far away", frames: encode(dataOf(1<<63, maxData)), want: "is the limit"},
		{name: "data that wraps", frames: encode(dataOf(math.MaxUint64, 2)), want: "is the limit"},
		{name: "data of nothing", frames: [][]byte{[]byte("\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")}, want: "DATA of 0 bytes"},
		{name: "data, giant", frames: [][]byte{[]byte("\x01\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff")}, want: "DATA of 65535 bytes", shapeless: true},
		{name: "reset, giant", frames: [][]byte{[]byte("\x08\x00\x01\xff\xff")}, want: "text of 65535 bytes", shapeless: true},
		{name: "gaps", frames: gaps, want: "more gaps"},
		{name: "type 0", frames: [][]byte{{0}}, want: "type 0", shapeless: true},
		{name: "type 10", frames: [][]byte{{10}}, want: "type 10", shapeless: true},
		{name: "garbage", frames: [][]byte{random}, want: "unknown frame", shapeless: true},
		{name: "another handshake", frames: [][]byte{[]byte(magic)}, want: "type 66", shapeless: true},

		{name: "data beyond FIN", frames: encode(fin(5), dataOf(5, 1)), want: "after FIN"},
		{name: "data across FIN", frames: encode(fin(5), dataOf(0, 6)), want: "after FIN"},
		{name: "FIN grows", frames: encode(fin(5), fin(6)), want: "after FIN"},
		{name: "FIN shrinks", frames: encode(fin(5), fin(4)), want: "after FIN"},
		{name: "FIN below data", frames: encode(dataOf(10, 10), fin(19)), want: "with data up to"},
		{name: "FIN below data in order", frames: encode(dataOf(0, 10), fin(0)), want: "with data up to"},
		{name: "FIN beyond the limit", frames: encode(fin(lots)), want: "FIN at"},
		{name: "FIN wraps", frames: encode(fin(math.MaxUint64)), want: "FIN at"},
		{name: "data after LEAVE", frames: encode(leave, dataOf(0, 1)), want: "after LEAVE"},
		{name: "FIN after LEAVE", frames: encode(leave, fin(0)), want: "after LEAVE"},

		{name: "ack of nothing sent", frames: encode(ackOf(1, lots, 0)), want: "bytes were sent"},
		{name: "ack of all there is", frames: encode(ackOf(math.MaxUint64, math.MaxUint64, 0)), want: "bytes were sent"},
		{name: "received of nothing sent", frames: encode(ackOf(0, lots, 1)), want: "bytes on a subflow"},
		{name: "ack of one more", hello: true, frames: encode(ackOf(6, lots, 16)), want: "bytes were sent"},
		{name: "received of one more", hello: true, frames: encode(ackOf(5, lots, 17)), want: "bytes on a subflow"},
		{name: "received goes back", hello: true, frames: encode(ackOf(5, lots, 16), ackOf(5, lots, 0)), want: "on a subflow", stale: true},
		{name: "limit below ack", hello: true, frames: encode(ackOf(5, 4, 16)), want: "with the limit"},
		{name: "ack beyond FIN", finished: true, frames: encode(ackOf(7, lots, 16+finSize)), want: "bytes were sent"},

		{name: "limit goes back", hello: true, frames: encode(ackOf(0, lots, 16), ackOf(0, 0, 16), ackOf(5, lots, 16))},
		{name: "ack goes back", hello: true, frames: encode(ackOf(5, lots, 16), ackOf(0, lots, 16), ackOf(5, lots, 16))},
		{name: "delay beyond all", hello: true, frames: encode(late)},
		{name: "answers without questions", frames: slices.Repeat(encode(frame{typ: framePong, token: 1}), 1000)},
		{name: "wants without end", frames: slices.Repeat(encode(frame{typ: frameWant}), 10_000)},
		{name: "the same FIN again", frames: encode(fin(9), fin(9), fin(9))},
		{name: "the same data again", frames: slices.Repeat(encode(dataOf(3, 1000)), 1000)},
		{name: "leaves without end", frames: slices.Repeat(encode(leave), 1000), leaves: true},
	}
}

// play sends a game's frames to victim, whose subflow the hostile peer holds the other end of, with the peer's seals.
func (g *game) play(t *testing.T, stream net.Conn, keys seals, victim *Conn) {
	t.Helper()
	if g.stale && keys != (seals{}) {
		fresh := *g
		fresh.want, g = "", &fresh
	}
	r := newFrameReader(stream)
	r.seal = keys.in
	endsSubflow := g.leaves || g.shapeless && keys.out != nil
	if g.hello || g.finished {
		if _, err := victim.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
	if g.finished {
		if err := victim.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	var f frame
	for need := map[frameType]bool{frameAck: true, frameData: g.hello || g.finished, frameFIN: g.finished}; need[frameAck] ||
		need[frameData] || need[frameFIN]; need[f.typ] = false {
		if err := r.next(&f); err != nil {
			t.Fatal(err)
		}
	}

	// Asking for an answer shows that all before was taken without harm.
	sent := sealed(keys.out, append(slices.Clone(g.frames), encode(frame{typ: framePing, token: 0xabcdef})...)...)
	var writing sync.WaitGroup
	defer writing.Wait()
	writing.Go(func() { _, _ = stream.Write(sent) }) // the victim may close at any byte
	for {
		err := r.next(&f)
		switch {
		case err != nil && endsSubflow:
			if err := victim.Err(); err != nil {
				t.Errorf("ended with %v", err)
			}
			return
		case err != nil:
			// A stream closed with unread bytes may lose bytes on their way back.
			if g.want == "" || !errors.As(err, new(*net.OpError)) {
				t.Errorf("the answers end: %v", err)
			}
			g.ended(t, victim)
			return
		case f.typ == framePong && f.token == 0xabcdef:
			if g.want != "" {
				t.Error("it is taken")
			}
			return
		case f.typ == frameReset:
			if g.want == "" || endsSubflow || f.code != ResetProtocol || !strings.Contains(f.text, g.want) {
				t.Errorf("RESET %d, %q; want %q", f.code, f.text, g.want)
			}
			g.ended(t, victim)
			return
		}
	}
}

func (g *game) ended(t *testing.T, victim *Conn) {
	t.Helper()
	select {
	case <-victim.Done():
	case <-after(hostileTime):
		t.Fatal("the connection goes on")
	}
	violation := new(protocolError)
	if err := victim.Err(); !errors.As(err, &violation) || !strings.Contains(err.Error(), g.want) {
		t.Errorf("ended with %v, want %q", err, g.want)
	}
	// Nobody who reads takes it for an end in good order.
	if _, err := io.ReadAll(victim); !errors.As(err, &violation) {
		t.Errorf("reading: %v", err)
	}
}

func TestHostileClient(t *testing.T) {
	l, dial := listenTCP(t, ListenerConfig{MaxConns: 1000, Memory: 1 << 40})
	for _, g := range games() {
		t.Run(g.name, func(t *testing.T) {
			stream := dial()
			h, _, victim := openRaw(t, l, stream)
			g.play(t, stream, h.seals(), victim)
		})
	}
	// After all of that, others are served.
	stream := dial()
	h, _, c := openRaw(t, l, stream)
	last := encode(frame{typ: frameData, data: []byte("still here")}, frame{typ: frameFIN, dsn: 10})
	if _, err := stream.Write(sealed(h.seals().out, last...)); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "still here" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestHostileServer(t *testing.T) {
	for _, g := range games() {
		if g.want == "after LEAVE" {
			continue // a client closes the subflow once both ends have left it, and may not read later frames
		}
		for version := uint8(minVersion); version <= maxVersion; version++ {
			t.Run(fmt.Sprintf("%s, version %d", g.name, version), func(t *testing.T) {
				near, far := tcpPair(t)
				t.Cleanup(func() { far.Close() })
				far.SetDeadline(time.Now().Add(hostileTime))
				victim := newConn(identity{id: connID{1}, key: secret{1}}, Config{}, true)
				t.Cleanup(func() { abort(victim) })
				var keys, peers seals
				if version >= versionSealed {
					keys, peers = sealsOf(0)
				}
				if err := victim.attach(0, near, newFrameReader(near), keys, "", nil); err != nil {
					t.Fatal(err)
				}
				g.play(t, far, peers, victim)
			})
		}
	}
}

// A violation on one subflow ends the connection on all of them.
func TestViolationEndsAll(t *testing.T) {
	l, dial := listenTCP(t, ListenerConfig{})
	first, second := dial(), dial()
	h, id, victim := openRaw(t, l, first)
	join, err := clientJoin(second, identity{id, h.key, maxVersion}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := join.awaitAccept(second); err != nil {
		t.Fatal(err)
	}
	keys := map[net.Conn]seals{first: h.seals(), second: join.seals()}
	if _, err := second.Write(sealed(keys[second].out, encode(ackOf(1, 1<<30, 0))...)); err != nil {
		t.Fatal(err)
	}
	for _, stream := range []net.Conn{first, second} {
		r := newFrameReader(stream)
		r.seal = keys[stream].in
		var f frame
		for f.typ != frameReset {
			if err := r.next(&f); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.next(&f); !errors.Is(err, io.EOF) {
			t.Errorf("after RESET: %v, %v", f.typ, err)
		}
	}
	if err := victim.Err(); !errors.As(err, new(*protocolError)) {
		t.Errorf("ended with %v", err)
	}
}

func TestHostileHandshakes(t *testing.T) {
	l, dial := listenTCP(t, ListenerConfig{})
	first := dial()
	h, id, c := openRaw(t, l, first)

	// What somebody who reads the sessions has: the bytes of a JOIN that was accepted.
	stream := dial()
	join, err := clientJoin(stream, identity{id, h.key, maxVersion}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := join.awaitAccept(stream); err != nil {
		t.Fatal(err)
	}
	stream.Close()

	join2 := bytes.Clone(join.open)
	join2[openHead-1] = 2 // another subflow
	version := bytes.Clone(join.open)
	version[len(magic)] = maxVersion + 1
	stranger := bytes.Clone(join.open)
	stranger[len(magic)+2] ^= 1
	for name, c := range map[string]struct {
		open []byte
		want RefuseCode
	}{
		"JOIN replayed":             {join.open, RefuseMAC},
		"JOIN replayed, id altered": {join2, RefuseMAC},
		"NEW replayed":              {h.open, RefuseMAC},
		"JOIN, unknown connection":  {stranger, RefuseUnknown},
		"another version":           {version, RefuseVersion},
		"SSH":                       {[]byte("SSH-2.0-OpenSSH_9.9\r\n" + strings.Repeat("x", 200)), RefuseMalformed},
		"zeros":                     {make([]byte, openNewLen), RefuseMalformed},
		"its own HELLO":             {nil, RefuseMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			stream := dial()
			hello, err := readHello(stream, minVersion, maxVersion)
			if err != nil {
				t.Fatal(err)
			}
			if c.open == nil {
				// Reflected: version and kind are both 1, so it begins well; the subflow id is of the key's bytes.
				c.open = bytes.Repeat(hello, 2)
			}
			if _, err := stream.Write(c.open); err != nil {
				t.Fatal(err)
			}
			wantRefusal(t, (&clientHandshake{identity: identity{version: maxVersion}}).awaitAccept(stream), c.want, "")
			if _, err := stream.Read(make([]byte, 1)); err == nil {
				t.Error("the stream goes on")
			}
		})
	}
	for name, key := range map[string]secret{"no key": {}, "another key": {1}} {
		t.Run(name, func(t *testing.T) {
			stream := dial()
			h, err := clientJoin(stream, identity{id, key, maxVersion}, 3)
			if err != nil {
				t.Fatal(err)
			}
			wantRefusal(t, h.awaitAccept(stream), RefuseMAC, "")
		})
	}

	// None of this has touched the connection.
	if _, err := first.Write(sealed(h.seals().out, encode(frame{typ: frameData, data: []byte("hello")})...)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Error(err)
	}
}

// Clients that say nothing, or a byte now and then, do not keep their place.
func TestSlowHandshakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startFar(t, ListenerConfig{})
		began := time.Now()
		var streams sync.WaitGroup
		for i := range 2 * maxHandshakes {
			streams.Go(func() {
				stream := f.pipes.dial()
				defer stream.Close()
				if _, err := readHello(stream, minVersion, maxVersion); err != nil {
					t.Error(err)
					return
				}
				if i%2 == 0 { // a byte each second: all of OPEN would take far longer than the time there is
					for n := range openNewLen {
						if _, err := stream.Write([]byte(magic + "\x01\x01" + strings.Repeat("x", openNewLen))[n:][:1]); err != nil {
							break
						}
						<-after(time.Second)
					}
				}
				if _, err := stream.Read(make([]byte, 1)); err == nil {
					t.Error("it is answered")
				}
			})
		}
		streams.Wait()
		if took := time.Since(began); took > 3*DefaultHandshakeTimeout {
			t.Errorf("they were there for %s", took)
		}
		if _, err := f.connect(t); err != nil {
			t.Error(err)
		}
	})
}

// Thousands of handshakes, good and bad, leave nothing behind, and the existing connection goes on.
func TestManyHandshakes(t *testing.T) {
	l, dial := listenTCP(t, ListenerConfig{MaxConns: 3})
	stream := dial()
	first, id, c := openRaw(t, l, stream)

	count := 2000
	if testing.Short() {
		count = 300
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	one := func(i int) error {
		stream, err := net.Dial("tcp", stream.RemoteAddr().String())
		if err != nil {
			return err
		}
		defer stream.Close()
		stream.SetDeadline(time.Now().Add(hostileTime))
		switch i % 4 {
		case 0:
			return nil // gone at once
		case 1:
			_, _ = stream.Write(bytes.Repeat([]byte{0xff}, 1000)) // refused at some byte, maybe
			_, _ = io.Copy(io.Discard, stream)
			return nil
		case 2:
			h, err := clientJoin(stream, identity{id, secret{byte(i)}, maxVersion}, uint32(i))
			if err == nil {
				err = h.awaitAccept(stream)
			}
			if refused := new(RefusedError); !errors.As(err, &refused) || refused.Code != RefuseMAC {
				return fmt.Errorf("JOIN: %w", err)
			}
			return nil
		default: // more connections than there may be, nearly all of them
			h, err := clientNew(stream, connID{byte(i), byte(i >> 8), 1}, maxVersion, nil)
			if err == nil {
				err = h.awaitAccept(stream)
			}
			if refused := new(RefusedError); err != nil && !errors.As(err, &refused) {
				return fmt.Errorf("NEW: %w", err)
			}
			return nil
		}
	}
	before := heap()
	var work sync.WaitGroup
	for worker := range 8 {
		work.Go(func() {
			for i := worker; i < count; i += 8 {
				if err := one(i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	work.Wait()
	if after := heap(); after > before+16<<20 {
		t.Errorf("the heap grew from %d to %d bytes", before, after)
	}
	if _, err := stream.Write(sealed(first.seals().out, encode(frame{typ: frameData, data: []byte("hello")})...)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Error(err)
	}
}

// A peer that asks again and again without reading gets only the latest answer; its questions use no memory.
func TestQuestionsPileUp(t *testing.T) {
	l, dial := listenTCP(t, ListenerConfig{})
	stream := dial()
	h, _, c := openRaw(t, l, stream)
	keys := h.seals()
	const last = 300_000
	var ask []byte
	for token := range uint64(last) {
		ask = append(ask, sealed(keys.out, encode(frame{typ: framePing, token: token + 1})...)...)
	}
	if _, err := stream.Write(ask); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	for _, p := range c.m.paths {
		if len(p.control) > 2 {
			t.Errorf("%d frames wait", len(p.control))
		}
	}
	c.mu.Unlock()
	r := newFrameReader(stream)
	r.seal = keys.in
	for f := (frame{}); f.token != last; {
		if err := r.next(&f); err != nil {
			t.Fatal(err)
		}
	}
}

// A connection that was delivered whole, and then forgotten by one end, is not an error for the other.
func TestRefusedAfterGoodEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startFar(t, ListenerConfig{})
		n, c := f.mustConnect(t)
		for _, end := range []*Conn{n.Conn, c} {
			if err := end.CloseWrite(); err != nil {
				t.Fatal(err)
			}
		}
		for _, end := range []*Conn{n.Conn, c} {
			if got, err := io.ReadAll(end); err != nil || len(got) > 0 {
				t.Fatal(got, err)
			}
			<-end.Done()
			if !errors.Is(end.Err(), io.EOF) {
				t.Errorf("ended with %v", end.Err())
			}
		}
		wantRefusal(t, n.join(t, 1), RefuseClosed, "")

		// The client that has all, and waits for no more than the word that the server has, takes this for it.
		m := newMachine(true, DefaultWindow, DefaultSendBuffer, DefaultLinger, time.Now())
		p := m.join(0, "", time.Now())
		m.write([]byte("x"), time.Now())
		m.closeWrite(time.Now())
		m.fill(p, nil, 1000, time.Now())
		feed(t, m, p, time.Now(), frame{typ: frameFIN}, ackOf(1, DefaultWindow, 0))
		m.lose(p, time.Now())
		m.onTimer(time.Now().Add(2 * farewell))
		if m.through() {
			t.Error("a client that can ask again takes silence for an answer")
		}
		if m.fail(&RefusedError{Code: RefuseClosed, sure: true}); m.err != nil || !m.through() {
			t.Errorf("it ended with %v", m.err)
		}
		// One that misses something does not.
		m = newMachine(true, DefaultWindow, DefaultSendBuffer, DefaultLinger, time.Now())
		if m.fail(&RefusedError{Code: RefuseClosed, sure: true}); m.err == nil {
			t.Error("a connection that had not finished ended in good order")
		}
	})
}
