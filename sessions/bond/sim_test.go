package bond

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	simSeed = flag.Uint64("bond.seed", 0, "run the simulation of this seed only, and log what happens in it")
	simRuns = flag.Int("bond.runs", 0, "how many simulations to run (default 10000, or 1000 with -short)")
)

// The model of a connection: two machines, joined by subflows that fail in every way a path can, in virtual time. Seeds make
// a run repeatable.
//
// A subflow is an ordered stream in each direction, with a delay and a rate of its own, until it dies. Then its bytes on their way
// are lost, from a random one on. Each end hears of it at another time, or late. Before, it may hold back what it carries, deliver
// a stretch twice, or deliver other bytes. New subflows join while old ones go. Both ends write, read and close at random.
//
// Invariants: each end reads the other's bytes, from the first one on, without a gap. No end sees a violation of the protocol, or
// exceeds its memory. Timers do not spin, and the connection ends. It ends in good order, with everything delivered, unless an
// application aborts or the paths stay away; then both ends know an error.

const (
	simLinger = 10 * time.Minute
	simFaults = 2 * time.Minute // of virtual time; after it no subflow fails any more
	simEnough = time.Hour       // by then every run is over
	simPrompt = 5 * time.Minute // by then, if it ends in good order: the faults, the server's farewell, and some
	simSocket = 64 << 10        // what a stream takes while nothing comes through
)

type simEvent struct {
	at time.Time
	do func()
}

// simBatch is what one write of a subflow's writer put on the way.
type simBatch struct {
	bytes   []byte
	arrived bool
}

// simLane is one direction of a subflow.
type simLane struct {
	delay   time.Duration
	rate    float64   // bytes per second
	busy    bool      // the writer waits
	last    time.Time // when the last batch arrives
	held    time.Time // nothing arrives before
	batches []*simBatch
	damage  simDamage // of the next batch that arrives
	in      *seal     // of what arrives
	rest    []byte    // that arrived and is no whole frame yet
}

// simDamage is what a lane does to a batch.
type simDamage uint8

const (
	simNone     simDamage = iota
	simRepeated           // a stretch comes twice
	simAltered            // some bytes are others
)

// simLink is a subflow.
type simLink struct {
	id    uint32
	lanes [2]simLane // by the end that writes
	seals [2]seals   // by the end that has them
	paths [2]*path   // nil: the end does not have it yet, or has it no more
	shut  bool       // the writers' bytes go nowhere
}

// simEnd is one end's application and what a Conn does around its machine.
type simEnd struct {
	index   int
	m       *machine
	written []byte // by this end's application
	read    int    // bytes that came from the other
	goal    int    // bytes to write
	lazy    bool   // reads late
	writes  bool   // is about to
	reads   bool   // is about to
	closed  bool   // has closed its writing half
	ending  bool   // as a Conn's
	parting bool   // the server, which waits for the client to close
	ended   bool
	timer   time.Time
	spins   int
	check   machineCheck
}

func (e *simEnd) String() string { return [2]string{"client", "server"}[e.index] }

type sim struct {
	t      testing.TB
	seed   uint64
	rng    *rand.Rand
	now    time.Time
	start  time.Time
	events []simEvent // in the order in which they will come
	ends   [2]*simEnd
	links  []*simLink
	nextID uint32
	want   int           // subflows that the client keeps
	known  bool          // the server has heard of the connection
	calm   time.Duration // between the faults of a subflow, at most
	faults int
	broken int  // subflows that an end closed because of damage
	starve bool // the client gives up joining at some time
	aborts bool
	reader *frameReader
	buf    []byte
	log    *strings.Builder
	failed string
}

// simBytes are the written bytes. The run's offset in it differs by seed and end.
var simBytes = func() []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 1<<20)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}()

func newSim(t testing.TB, seed uint64) *sim {
	w := &sim{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 0xb0)), start: time.Unix(1e9, 0)}
	w.now = w.start
	w.reader, w.buf = newFrameReader(nil), make([]byte, 16<<10)
	w.calm = 100 * time.Millisecond << w.rng.IntN(9)
	w.want = 1 + w.rng.IntN(5)
	w.starve = w.rng.IntN(20) == 0
	w.aborts = w.rng.IntN(20) == 0
	sizes := []int{0, 1, 1000, 20_000, 100_000, 400_000}
	for i := range w.ends {
		window := 16 << 10 << w.rng.IntN(7)
		if w.rng.IntN(3) > 0 {
			window = max(window, initialLimit)
		}
		e := &simEnd{index: i, lazy: w.rng.IntN(4) == 0}
		e.m = newMachine(i == 0, max(window, initialLimit), 8<<10<<w.rng.IntN(8), simLinger, w.now)
		if n := sizes[w.rng.IntN(len(sizes))]; n > 0 {
			e.goal = 1 + w.rng.IntN(n)
		}
		w.ends[i] = e
	}
	return w
}

func (w *sim) logf(format string, args ...any) {
	if w.log != nil {
		fmt.Fprintf(w.log, "%12s  %s\n", w.now.Sub(w.start), fmt.Sprintf(format, args...))
	}
}

// fail stops the run.
func (w *sim) fail(format string, args ...any) {
	if w.failed == "" {
		w.failed = fmt.Sprintf(format, args...)
		w.logf("FAILED: %s", w.failed)
	}
}

func (w *sim) after(d time.Duration, do func()) { w.at(w.now.Add(d), do) }

func (w *sim) at(at time.Time, do func()) {
	i := slices.IndexFunc(w.events, func(e simEvent) bool { return e.at.After(at) })
	if i < 0 {
		i = len(w.events)
	}
	w.events = slices.Insert(w.events, i, simEvent{at, do})
}

// upTo returns a random time, short ones being likelier.
func (w *sim) upTo(d time.Duration) time.Duration {
	return time.Duration(w.rng.Int64N(1 + w.rng.Int64N(int64(d))))
}

func (w *sim) faulty() bool { return w.now.Sub(w.start) < simFaults }

// run runs until both ends have ended.
func (w *sim) run() {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case violation:
			w.fail("%s", v)
		default:
			panic(v)
		}
	}()
	w.manage()
	for _, e := range w.ends {
		w.act(e)
		if w.aborts && w.rng.IntN(2) == 0 {
			w.after(w.upTo(20*time.Second), func() {
				w.logf("%v aborts", e)
				if !e.ending {
					e.m.fail(&ResetError{Code: ResetAborted})
				}
				w.settle(e)
			})
		}
	}
	for len(w.events) > 0 && w.failed == "" && !(w.ends[0].ended && w.ends[1].ended) {
		next := w.events[0]
		w.events = w.events[1:]
		w.now = next.at
		if w.now.Sub(w.start) > simEnough {
			break
		}
		next.do()
	}
	if w.failed == "" {
		w.verdict()
	}
}

// verdict judges how a run ended.
func (w *sim) verdict() {
	for _, e := range w.ends {
		if !e.ended {
			w.fail("the %v has not ended: %s", e, w.describe(e))
			return
		}
	}
	for _, e := range w.ends {
		other := w.ends[1-e.index]
		if e.m.err == nil {
			if e.read != len(other.written) || !other.closed {
				w.fail("the %v ended in good order and has %d bytes of %d", e, e.read, len(other.written))
			}
			if other.read != len(e.written) && other.m.err == nil {
				w.fail("the %v ended in good order, and %d bytes of %d were read", e, other.read, len(e.written))
			}
			continue
		}
		if w.aborts || w.starve {
			continue
		}
		// The other end may be done, and the news of it lost with the last subflow. Then this end waits in vain, as in any
		// protocol. But nothing else is missing.
		if other.m.err == nil && other.read == len(e.written) && e.m.in.complete() {
			continue
		}
		w.fail("the %v ended with %v", e, e.m.err)
	}
	if took := w.now.Sub(w.start); took > simPrompt && w.ends[0].m.err == nil && w.ends[1].m.err == nil {
		w.fail("it took %s", took)
	}
	if (w.ends[0].m.err == nil) != (w.ends[1].m.err == nil) && w.failed == "" {
		// One error alone means that only the confirmation is missing. An application that aborts may not have read it all.
		for _, e := range w.ends {
			other := w.ends[1-e.index]
			if e.m.err == nil && (int(other.m.in.next) != len(e.written) || e.read != len(other.written)) {
				w.fail("the %v ended in good order and the other with %v, having %d of %d bytes",
					e, other.m.err, other.m.in.next, len(e.written))
			}
		}
	}
}

func (w *sim) describe(e *simEnd) string {
	m := e.m
	s := fmt.Sprintf("written %d of %d, next %d, acked %d, limit %d, finished %v, FIN sent %v acked %v, again %d; "+
		"read %d, next %d, gaps %d, FIN %v; err %v;",
		m.written, e.goal, m.next, m.acked, m.limit, m.finished, m.finSent, m.finAcked, len(m.again),
		e.read, m.in.next, len(m.in.later), m.in.fin, m.err)
	for _, p := range m.paths {
		s += fmt.Sprintf(" [%d: stalled %v leaving %v/%v/%v in flight %d, waiting %d]",
			p.id, p.stalled, p.leaving, p.left, p.peerLeft, p.flow.inFlight(), p.flow.waiting.Len())
	}
	return s
}

// --- the applications ---

// act has the application do what it can do now, after a pause of its own.
func (w *sim) act(e *simEnd) {
	if e.ending {
		return
	}
	if !e.writes && !e.closed && (len(e.written) == e.goal || e.m.writable() > 0) {
		e.writes = true
		pause := w.upTo(50 * time.Millisecond)
		if w.rng.IntN(20) == 0 {
			pause = w.upTo(5 * time.Second)
		}
		w.after(pause, func() { w.write(e) })
	}
	if !e.reads && e.m.in.readable() > 0 {
		e.reads = true
		pause := w.upTo(20 * time.Millisecond)
		if e.lazy {
			pause = w.upTo(3 * time.Second)
		}
		w.after(pause, func() {
			if e.reads = false; !e.ending {
				w.readAll(e, 1+w.rng.IntN(128<<10))
				w.settle(e)
			}
		})
	}
}

func (w *sim) write(e *simEnd) {
	e.writes = false
	if e.ending {
		return
	}
	n := min(e.goal-len(e.written), 1+w.rng.IntN(1+w.rng.IntN(64<<10)))
	if n == 0 {
		w.logf("%v closes its half after %d bytes", e, len(e.written))
		e.closed = true
		e.m.closeWrite(w.now)
		w.settle(e)
		return
	}
	from := (int(w.seed)*7919 + e.index*524_287 + len(e.written)) % (len(simBytes) - n)
	p := simBytes[from : from+n]
	n = e.m.write(p, w.now)
	e.written = append(e.written, p[:n]...)
	if int(e.m.written) != len(e.written) || e.m.written-e.m.acked > uint64(e.m.buffer) {
		w.fail("the %v keeps %d bytes in a buffer of %d", e, e.m.written-e.m.acked, e.m.buffer)
	}
	w.settle(e)
}

// readAll reads up to n bytes and compares them with the written ones.
func (w *sim) readAll(e *simEnd, n int) {
	other := w.ends[1-e.index]
	for n > 0 {
		buf := w.buf[:min(n, len(w.buf))]
		got, err := e.m.read(buf)
		if e.read+got > len(other.written) || !bytes.Equal(buf[:got], other.written[e.read:e.read+got]) {
			w.fail("the %v read other bytes than were written, from %d on", e, e.read)
			return
		}
		e.read += got
		n -= got
		if errors.Is(err, io.EOF) {
			if e.read != len(other.written) || !other.closed {
				w.fail("the %v read EOF after %d bytes of %d", e, e.read, len(other.written))
			}
			return
		}
		if err != nil {
			w.fail("read: %v", err)
			return
		}
		if got == 0 {
			return
		}
	}
}

// --- what a Conn does ---

// settle does what a Conn does after each change: writers, ends, timer.
func (w *sim) settle(e *simEnd) {
	if e.ended || w.failed != "" {
		return
	}
	e.check.called(w.now, e.m)
	if e.check.calls%64 == 0 && e.m.err == nil {
		must(e.m.underWay(), "the first byte that the peer misses is not on its way: %s", w.describe(e))
	}
	for _, l := range slices.Clone(w.links) {
		w.pump(e, l)
		if p := l.paths[e.index]; p != nil && e.index == 0 && p.over() && !l.lanes[0].busy {
			w.logf("subflow %d is over", l.id)
			w.close(e, l)
		}
	}
	m := e.m
	if held, window := m.in.held(), m.window; held > max(window, initialLimit) {
		w.fail("the %v holds %d bytes in a window of %d", e, held, window)
	}
	if !e.ending && (m.err != nil || m.through()) {
		w.logf("%v is ending: %v", e, m.err)
		e.ending = true
		w.after(tellTimeout, func() { w.part(e) })
	}
	if e.ending {
		if m.told() && !w.writing(e) {
			w.part(e)
		}
		if e.parting && len(m.paths) == 0 {
			w.end(e)
		}
		return
	}
	w.act(e)
	at := m.deadline()
	if at.IsZero() || at.Equal(e.timer) {
		return
	}
	if at.Before(w.now) {
		at = w.now
	}
	e.timer = at
	w.at(at, func() { w.fire(e, at) })
}

// writing says that a write of this end is not through.
func (w *sim) writing(e *simEnd) bool {
	return slices.ContainsFunc(w.links, func(l *simLink) bool { return l.paths[e.index] != nil && l.lanes[e.index].busy })
}

// part ends an end that has told the other everything.
func (w *sim) part(e *simEnd) {
	if e.ended || e.parting {
		return
	}
	if e.index == 0 || e.m.err != nil {
		w.end(e)
		return
	}
	e.parting = true
	w.after(partTimeout, func() { w.end(e) })
}

func (w *sim) fire(e *simEnd, at time.Time) {
	if e.ending || !e.timer.Equal(at) {
		return
	}
	e.timer = time.Time{}
	for _, p := range e.m.onTimer(w.now) {
		if i := slices.IndexFunc(w.links, func(l *simLink) bool { return l.paths[e.index] == p }); i >= 0 {
			w.logf("%v: subflow %d has expired", e, p.id)
			w.close(e, w.links[i])
		} else {
			w.fail("%v: a subflow has expired that is gone", e)
		}
	}
	if next := e.m.deadline(); !next.IsZero() && !next.After(w.now) {
		// Once may be chance; a machine that asks for the past again and again is a busy loop in a Conn.
		if e.spins++; e.spins > 10 {
			w.fail("the timer of the %v spins: %s late: %s", e, w.now.Sub(next), w.describe(e))
		}
	} else {
		e.spins = 0
	}
	w.settle(e)
}

// end takes an end down: its subflows are closed, and no more is asked of it.
func (w *sim) end(e *simEnd) {
	if e.ended {
		return
	}
	if e.m.err == nil {
		w.readAll(e, 1<<30)
	}
	w.logf("%v has ended: %v", e, e.m.err)
	e.ended = true
	for _, l := range slices.Clone(w.links) {
		if l.paths[e.index] != nil {
			w.close(e, l)
		}
	}
}

// pump lets a subflow's writer write, if it is free.
func (w *sim) pump(e *simEnd, l *simLink) {
	p, lane := l.paths[e.index], &l.lanes[e.index]
	if p == nil || lane.busy || !e.m.pending(p) {
		return
	}
	buf := e.m.fill(p, nil, 32<<10, w.now)
	if len(buf) == 0 {
		if e.m.pending(p) {
			w.fail("the writer of the %v spins: %s", e, w.describe(e))
		}
		return
	}
	lane.busy = true
	done := w.now.Add(time.Duration(float64(len(buf)) / lane.rate * float64(time.Second)))
	arrive := done.Add(lane.delay)
	if arrive.Before(lane.held) {
		arrive = lane.held
		queued := 0
		for _, b := range lane.batches {
			queued += len(b.bytes)
		}
		if queued > simSocket {
			done = lane.held
		}
	}
	if arrive.Before(lane.last) {
		arrive = lane.last
	}
	lane.last = arrive
	b := &simBatch{bytes: buf}
	lane.batches = append(lane.batches, b)
	w.at(done, func() {
		lane.busy = false
		if e.ended {
			return
		}
		w.settle(e)
	})
	w.at(arrive, func() {
		if l.shut || b.arrived {
			return
		}
		b.arrived = true
		lane.batches = lane.batches[1:]
		w.deliver(w.ends[1-e.index], l, w.damaged(lane, b.bytes))
	})
}

// damaged returns what a lane delivers of a batch.
func (w *sim) damaged(lane *simLane, b []byte) []byte {
	from := w.rng.IntN(len(b))
	to := from + 1 + w.rng.IntN(len(b)-from)
	switch lane.damage {
	case simRepeated:
		b = slices.Concat(b[:to], b[from:])
	case simAltered:
		b = bytes.Clone(b)
		for i := from; i < to; i++ {
			b[i] ^= byte(1 + w.rng.IntN(255))
		}
	}
	lane.damage = simNone
	return b
}

// deliver gives an end the frames of a batch, which may be cut.
func (w *sim) deliver(e *simEnd, l *simLink, b []byte) {
	lane := &l.lanes[1-e.index]
	lane.rest = append(lane.rest, b...)
	w.reader.seal = lane.in
	w.reader.buf.Reset(bytes.NewReader(lane.rest))
	defer func() {
		left, _ := io.ReadAll(w.reader.buf) // cannot fail
		lane.rest = append(lane.rest[:0], left...)
	}()
	var f frame
	for {
		p := l.paths[e.index]
		if p == nil || e.ended {
			return
		}
		err := w.reader.next(&f)
		if errors.Is(err, errDamaged) {
			w.logf("the %v sees damage on subflow %d", e, l.id)
			w.broken++
			w.close(e, l)
			break
		}
		if errors.As(err, new(*protocolError)) {
			w.fail("the %v sees what is no frame: %v", e, err)
			return
		}
		if err != nil {
			break
		}
		if err := e.m.onFrame(p, &f, w.now); err != nil {
			w.fail("the %v sees a violation: %v", e, err)
			return
		}
		e.check.called(w.now, e.m)
	}
	w.settle(e)
}

// close closes an end's side of a subflow. The other sees the end of the stream after the bytes on their way, or at once, as when a
// socket with unread bytes is closed.
func (w *sim) close(e *simEnd, l *simLink) {
	w.drop(e, l)
	other := w.ends[1-e.index]
	at := l.lanes[e.index].last
	if at.Before(w.now) {
		at = w.now
	}
	if w.faulty() && w.rng.IntN(10) == 0 {
		at = w.now
	}
	w.at(at.Add(l.lanes[e.index].delay), func() {
		l.shut = true
		if l.paths[other.index] != nil {
			w.drop(other, l)
			w.settle(other)
		}
	})
}

// drop takes a subflow from an end.
func (w *sim) drop(e *simEnd, l *simLink) {
	p := l.paths[e.index]
	if p == nil {
		return
	}
	w.logf("%v has lost subflow %d", e, l.id)
	l.paths[e.index] = nil
	e.m.lose(p, w.now)
	if l.paths[1-e.index] == nil {
		w.links = slices.DeleteFunc(w.links, func(other *simLink) bool { return other == l })
	}
}

// --- the paths ---

// manage is the client's path manager: it opens a subflow, if there are too few, and looks again later.
func (w *sim) manage() {
	if w.ends[0].ending || w.starve && w.now.Sub(w.start) > 5*time.Second {
		return
	}
	// A connection that the server does not know yet has no other subflows.
	if len(w.links) < w.want && (w.nextID == 0 || w.known) {
		w.open()
	}
	w.after(w.upTo(10*time.Second), w.manage)
}

func (w *sim) open() {
	client, server := w.ends[0], w.ends[1]
	l := &simLink{id: w.nextID}
	w.nextID++
	for i := range l.lanes {
		l.lanes[i].delay = w.upTo(150 * time.Millisecond)
		l.lanes[i].rate = float64(int(10_000) << w.rng.IntN(10))
	}
	keys, peers := sealsOf(l.id)
	l.seals = [2]seals{keys, peers}
	l.lanes[0].in, l.lanes[1].in = peers.in, keys.in
	w.links = append(w.links, l)
	w.logf("the client opens subflow %d: %+v", l.id, l.lanes)
	there := l.lanes[0].delay
	if l.id == 0 { // NEW: frames may follow at once
		w.join(client, l)
		l.lanes[0].last = w.now.Add(there)
		w.settle(client)
	} else if w.faulty() && w.rng.IntN(20) == 0 {
		there += w.upTo(30 * time.Second)
	}
	w.after(there, func() {
		if server.ending {
			w.after(l.lanes[1].delay, func() { w.refused(l) })
			return
		}
		w.known = true
		w.logf("the server has subflow %d", l.id)
		w.join(server, l)
		accepted := w.now.Add(l.lanes[1].delay)
		l.lanes[1].last = accepted
		w.at(accepted, func() { w.accepted(l) })
		w.settle(server)
	})
}

// accepted is the server's answer to an OPEN that it takes.
func (w *sim) accepted(l *simLink) {
	client := w.ends[0]
	if l.shut || !slices.Contains(w.links, l) {
		return
	}
	w.after(w.upTo(w.calm), func() { w.fault(l) })
	if l.id == 0 {
		return
	}
	w.logf("subflow %d is accepted", l.id)
	if client.ending {
		l.shut = true
		w.drop(w.ends[1], l)
		w.settle(w.ends[1])
		return
	}
	w.join(client, l)
	w.settle(client)
}

// join gives an end its side of a subflow.
func (w *sim) join(e *simEnd, l *simLink) {
	p := e.m.join(l.id, "", w.now)
	p.seal = l.seals[e.index].out
	l.paths[e.index] = p
}

// refused is the server's answer to a JOIN when it has ended the connection.
func (w *sim) refused(l *simLink) {
	client, server := w.ends[0], w.ends[1]
	w.drop(client, l)
	w.links = slices.DeleteFunc(w.links, func(other *simLink) bool { return other == l })
	if client.ending {
		return
	}
	if server.m.err == nil {
		client.m.fail(&RefusedError{Code: RefuseClosed, sure: true})
	} else {
		client.m.fail(&RefusedError{Code: RefuseUnknown, sure: true})
	}
	w.settle(client)
}

// fault does something bad to a subflow.
func (w *sim) fault(l *simLink) {
	if !w.faulty() || !slices.Contains(w.links, l) || l.shut {
		return
	}
	w.faults++
	switch w.rng.IntN(9) {
	case 7, 8: // delivers something else than it was given
		l.lanes[w.rng.IntN(2)].damage = simRepeated + simDamage(w.rng.IntN(2))
	case 0: // holds back what it carries, in one direction or both
		for i := range l.lanes {
			if w.rng.IntN(3) > 0 {
				hold := w.upTo(20 * time.Second)
				if w.rng.IntN(10) == 0 {
					hold = w.upTo(simLinger) // with other subflows beside it
				}
				l.lanes[i].held = w.now.Add(hold)
				w.logf("subflow %d holds back what the %v writes until %s", l.id, w.ends[i], l.lanes[i].held.Sub(w.start))
			}
		}
	case 1: // becomes another path
		for i := range l.lanes {
			l.lanes[i].delay = w.upTo(500 * time.Millisecond)
			l.lanes[i].rate = float64(int(5_000) << w.rng.IntN(10))
		}
	case 2: // all die at once
		for _, l := range slices.Clone(w.links) {
			w.die(l)
		}
		return
	case 3: // an end replaces it
		if e := w.ends[w.rng.IntN(2)]; l.paths[e.index] != nil && !e.ending {
			w.logf("the %v leaves subflow %d", e, l.id)
			e.m.leave(l.paths[e.index], w.now)
			w.settle(e)
		}
	case 4: // an end slept, or its network changed
		if e := w.ends[w.rng.IntN(2)]; !e.ending {
			w.logf("the %v probes", e)
			e.m.probe(time.Millisecond+w.upTo(time.Second), w.now)
			w.settle(e)
		}
	default:
		w.die(l)
		return
	}
	w.after(w.upTo(w.calm), func() { w.fault(l) })
}

// die loses a subflow with the bytes on their way.
func (w *sim) die(l *simLink) {
	if l.shut {
		return
	}
	w.logf("subflow %d dies", l.id)
	for i := range l.lanes {
		if lane := &l.lanes[i]; len(lane.batches) > 0 && w.rng.IntN(2) == 0 {
			b := lane.batches[0]
			w.deliver(w.ends[1-i], l, b.bytes[:w.rng.IntN(len(b.bytes))])
		}
	}
	l.shut = true
	for _, e := range w.ends {
		late := w.upTo(200 * time.Millisecond)
		if w.rng.IntN(3) == 0 {
			late = w.upTo(time.Minute) // nothing tells it
		}
		w.after(late, func() {
			if l.paths[e.index] != nil && !e.ended {
				w.drop(e, l)
				w.settle(e)
			}
		})
	}
}

// TestSimulation explores the model.
func TestSimulation(t *testing.T) {
	if *simSeed != 0 {
		w := newSim(t, *simSeed)
		w.log = new(strings.Builder)
		w.run()
		t.Log("\n" + w.log.String())
		if w.failed != "" {
			t.Fatalf("seed %d: %s", w.seed, w.failed)
		}
		return
	}
	runs := *simRuns
	if runs == 0 {
		if runs = 10_000; testing.Short() {
			runs = 1000
		}
	}
	const shards = 4
	var completed [shards]int
	var unsure [shards]int
	var faults, reinjected, broken [shards]int
	t.Run("shards", func(t *testing.T) {
		for shard := range shards {
			t.Run(fmt.Sprint(shard), func(t *testing.T) {
				t.Parallel()
				for seed := uint64(1 + shard); seed <= uint64(runs); seed += shards {
					w := newSim(t, seed)
					w.run()
					if w.failed != "" {
						t.Fatalf("%s\nreproduce: go test ./sessions/bond -run '^TestSimulation$' -bond.seed=%d", w.failed, seed)
					}
					faults[shard] += w.faults
					broken[shard] += w.broken
					if w.ends[0].m.reinjected+w.ends[1].m.reinjected > 0 {
						reinjected[shard]++
					}
					a, b := w.ends[0].m.err, w.ends[1].m.err
					if a == nil && b == nil {
						completed[shard]++
					} else if (a == nil) != (b == nil) {
						unsure[shard]++
					}
				}
			})
		}
	})
	sum := func(counts [shards]int) (n int) {
		for _, c := range counts {
			n += c
		}
		return n
	}
	t.Logf("%d runs with %d faults, reinjection in %d, %d subflows damaged; "+
		"%d ended in good order, %d so that one end missed the last confirmation",
		runs, sum(faults), sum(reinjected), sum(broken), sum(completed), sum(unsure))
	if sum(completed) < runs*8/10 || sum(unsure) > runs/12 {
		t.Error("too few runs end in good order at both ends")
	}
	if sum(reinjected) < runs/3 || sum(faults) < 3*runs || sum(broken) < runs/4 {
		t.Error("the runs are too quiet to show anything")
	}
}
