package sessions

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/sessions/frame"
	"github.com/bastion-ssm/bastion/sessions/reliable"
)

var (
	simSeed = flag.Uint64("sessions.seed", 0, "run the simulation of this seed only, and log what happens in it")
	simRuns = flag.Int("sessions.runs", 0, "how many simulations to run (default 1000, or 200 with -short)")
)

// The model of a session, in virtual time and without goroutines. It has a machine and its Stream's part, the gateway, and an agent
// (simAgent). Seeds make a run repeatable.
//
// Between the two ends messages take their time, are dropped, come twice and out of order. The websocket is cut, with or
// without a word to the client, and cannot be made again for a while. The agent is away for a while, and the service says so, or
// not. Both applications write and read at random.
//
// Invariants: each end reads the other's bytes, each once and in order. An ack is for a message that the client has, and a resent
// message is unchanged. Memory is bounded; timers and the writer do not spin. Once the faults are over, all bytes arrive, and the
// stream ends in time and for the true reason.

const (
	simFaults  = time.Minute     // of virtual time; after it nothing fails any more, unless the run is about that
	simPrompt  = 3 * time.Minute // by then, after the faults, the stream has ended
	simSocket  = 64 << 10        // bytes that a websocket takes while nobody reads from it
	simLongest = 3000            // bytes of a message that gets through, in a run that is about that
)

// simEnding is what a run is about.
type simEnding uint8

const (
	simCloses   simEnding = iota // the client closes when all has come
	simFarEnds                   // the far end has said all, and the service closes the session
	simVanishes                  // the agent ends in the middle of it
	simAbandons                  // the client does
	simRefused                   // ResumeSession is refused
	simCutOff                    // the gateway cannot be reached any more
	simTooLong                   // long messages do not get through
)

type simEvent struct {
	at time.Time
	do func()
}

// simLink is one websocket.
type simLink struct {
	cut     bool             // nothing comes through
	delay   [2]time.Duration // up, down
	last    [2]time.Time     // when the latest message arrives
	inbox   [][]byte         // messages that the client has not read
	unread  int              // bytes in it
	writing bool
}

type sim struct {
	t      testing.TB
	seed   uint64
	rng    *rand.Rand
	now    time.Time
	start  time.Time
	events []simEvent // in the order in which they will come
	log    *strings.Builder
	failed string

	ending  simEnding
	pattern []byte
	faults  faults
	calm    time.Duration // between other faults, at most
	count   struct{ dropped, doubled, reordered, cuts, silent, away int }

	m        *machine
	link     *simLink
	timer    time.Time
	spins    int
	written  int // bytes, by the client's application
	goal     int
	read     int
	lazy     bool
	readLast bool    // the client reads only when the far end has all
	acting   [2]bool // the application is about to write, to read
	sentBy   map[int64][]byte
	over     []byte // channel_closed, once the service has ended the session
	toldAway bool   // the service's last word on the websocket is that the agent is away
	agent    *simAgent
}

func newSim(t testing.TB, seed uint64) *sim {
	w := &sim{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 0x5e)), start: time.Unix(1e9, 0), sentBy: map[int64][]byte{}}
	w.now = w.start
	w.ending = [...]simEnding{
		simCloses, simCloses, simCloses, simCloses, simFarEnds, simFarEnds, simFarEnds, simVanishes, simAbandons, simRefused,
		simCutOff, simTooLong,
	}[w.rng.IntN(12)]
	share := func() float64 { return max(0, w.rng.Float64()*.2-.1) }
	w.faults = faults{drop: share(), dup: share(), reorder: share()}
	w.calm = 100 * time.Millisecond << w.rng.IntN(9)
	w.pattern = noise(seed, 1<<16)
	sizes := []int{1, 100, 5_000, 50_000, 200_000}
	size := func() int { return w.rng.IntN(1 + sizes[w.rng.IntN(len(sizes))]) }
	w.goal, w.lazy, w.readLast = size(), w.rng.IntN(4) == 0, w.rng.IntN(8) == 0
	exec := w.rng.IntN(3) == 0
	cfg := machineConfig{
		sessionID: "s-1", targetID: "i-1", exec: exec,
		resumeTimeout: 2 * time.Minute, closeTimeout: 2 * time.Second,
		pingInterval: 5*time.Second + w.upTo(15*time.Second), pingTimeout: time.Second + w.upTo(5*time.Second),
		sendWindow: 4 << 10 << w.rng.IntN(10), maxPayload: 1 << 10 << w.rng.IntN(5),
		writeBuffer: 1 << 10 << w.rng.IntN(9), readSoft: 4 << 10 << w.rng.IntN(5),
		heldBytes: 8 << 10 << w.rng.IntN(6), heldSpan: 64 << w.rng.IntN(5),
	}
	if w.ending == simTooLong {
		cfg.sendWindow, cfg.maxPayload, w.goal, w.faults = 1<<20, 16<<10, 4<<20, faults{}
		cfg.writeBuffer = 256 << 10
	}
	cfg.readHard = (2 + w.rng.IntN(3)) * cfg.readSoft
	w.m = newMachine(cfg, w.rng, w.now)
	w.agent = &simAgent{w: w, goal: size(), exec: exec, kms: exec && w.rng.IntN(2) == 0, early: map[int64]frame.Message{}}
	if w.rng.IntN(3) == 0 {
		w.agent.peer = reliable.NewEnd(reliable.Config{
			Sends: frame.OutputStreamData, Takes: frame.InputStreamData, Rand: w.rng,
			SendWindow: 64 << 10, MaxPayload: 1024, HeldBytes: 16 << 20, HeldSpan: 1 << 16,
		})
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

func (w *sim) roll(share float64) bool { return w.rng.Float64() < share }

// closes reports whether the client closes. Messages may never have become too long.
func (w *sim) closes() bool { return w.ending == simCloses || w.ending == simTooLong }

func (w *sim) faulty() bool { return w.now.Sub(w.start) < simFaults && w.ending != simTooLong }

// bytes returns n bytes of an end's stream, from a place on; the far end's are the complement of the client's.
func (w *sim) bytes(far bool, from, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = w.pattern[(from+i)%len(w.pattern)]
		if far {
			b[i] ^= 0xff
		}
	}
	return b
}

// run runs until the stream has ended.
func (w *sim) run() {
	w.m.OnTimer(w.now)
	w.settle()
	w.agent.begin()
	w.after(w.upTo(w.calm), w.trouble)
	if w.ending >= simVanishes && w.ending != simTooLong {
		w.after(w.upTo(simFaults/2), w.intervene)
	}
	limit := w.start.Add(simFaults + simPrompt)
	for len(w.events) > 0 && w.failed == "" && w.m.err == nil {
		next := w.events[0]
		w.events = w.events[1:]
		w.now = next.at
		if w.now.After(limit) {
			w.fail("it has not ended: %s", w.describe())
			return
		}
		next.do()
	}
	if w.failed == "" {
		w.verdict()
	}
}

func (w *sim) describe() string {
	m, a := w.m, w.agent
	end := m.end.Stats()
	return fmt.Sprintf("ending %d, exec %v, kms %v, peer %v; link %v, open %v, closed %v/%d; client wrote %d of %d, %d sent, %d outstanding "+
		"(%d lost, paused %v, window %d, in flight %d), read %d of %d, recv.next %d; agent expects %d, has %d, complete %v, away %v, paused %v, unacked %d",
		w.ending, a.exec, a.kms, a.peer != nil, m.link.Up(), m.open, m.closed, m.closing, w.written, w.goal, m.sent, m.end.Outstanding(),
		end.Lost, end.Paused, end.Window, end.InFlight, w.read, a.written, end.Next, a.expected, a.read, a.complete, a.away,
		a.paused, a.outstanding())
}

// verdict judges how the stream ended.
func (w *sim) verdict() {
	m, a := w.m, w.agent
	w.logf("ended with %v", m.err)
	w.readAll(1 << 30)
	closed, isClosed := errors.AsType[*ClosedError](m.err)
	switch {
	case m.Deadline() != time.Time{} || m.Pending():
		w.fail("a machine that has ended asks for more")
	case w.ending == simAbandons && m.tooLong == 0:
		if !errors.Is(m.err, net.ErrClosed) || m.closeError() != nil {
			w.fail("abandoned, it ended with %v, and Close says %v", m.err, m.closeError())
		}
	case m.closed && errors.Is(m.err, net.ErrClosed):
		if !w.closes() || w.read != a.written {
			w.fail("it was closed, and has read %d bytes of %d: %s", w.read, a.written, w.describe())
		}
		if m.closeError() == nil && a.read != w.written {
			w.fail("Close is content, and the far end has %d bytes of %d: %s", a.read, w.written, w.describe())
		}
		if m.closeError() != nil && a.read == w.written && m.closing != flushing {
			w.fail("Close says %v, and all has come", m.closeError())
		}
	case isClosed && errors.Is(closed, io.EOF):
		if w.over == nil || closed.Output != "" || m.end.Gap() || w.ending == simFarEnds && w.read != a.goal {
			w.fail("it ended in good order, and has read %d bytes of %d: %s", w.read, a.goal, w.describe())
		}
	case isClosed:
		if w.ending != simVanishes || !closed.Incomplete || !m.end.Gap() {
			w.fail("it ended with %v: %s", m.err, w.describe())
		}
	case fail.KindOf(m.err) == fail.Lost && m.tooLong > 0:
		// A message on which the websocket was cut again and again counts as one that is too long, by whatever it was cut.
		byChance := m.end.Stats().ProbeCuts >= reliable.ProbeMaxCuts && w.count.cuts >= reliable.ProbeMaxCuts
		if w.ending != simTooLong && !byChance || m.tooLong > simLongest && !byChance {
			w.fail("it ended with %v: %s", m.err, w.describe())
		}
	case fail.KindOf(m.err) == fail.Lost && errors.Is(m.err, errNoResume):
		if w.ending != simRefused && w.over == nil {
			w.fail("it ended with %v: %s", m.err, w.describe())
		}
	case fail.KindOf(m.err) == fail.Lost:
		if w.ending != simCutOff {
			w.fail("it ended with %v: %s", m.err, w.describe())
		}
	default:
		w.fail("it ended with %v: %s", m.err, w.describe())
	}
}

// --- the applications ---

// act has the client's application do what it can do now, after a pause of its own.
func (w *sim) act() {
	pause := w.upTo(20 * time.Millisecond)
	if w.lazy || w.rng.IntN(30) == 0 {
		pause = w.upTo(2 * time.Second)
	}
	// An agent with KMS discards bytes from before a late handshake.
	ready := !w.agent.kms || w.m.hs.cipher != nil
	if !w.acting[0] && w.m.writable() > 0 && w.written < w.goal && ready {
		w.acting[0] = true
		w.after(pause, func() {
			w.acting[0] = false
			n := min(w.goal-w.written, 1+w.rng.IntN(32<<10))
			w.written += w.m.write(w.bytes(false, w.written, n))
			w.settle()
		})
	}
	if !w.acting[1] && w.m.in.Len() > 0 && !(w.readLast && w.agent.read < w.goal) {
		w.acting[1] = true
		w.after(pause, func() {
			w.acting[1] = false
			w.readAll(1 + w.rng.IntN(64<<10))
			w.settle()
		})
	}
	if w.closes() && !w.m.closed && w.written == w.goal && w.read == w.agent.goal && w.m.open {
		w.logf("the client closes")
		w.m.close(false, w.now)
	}
}

// readAll reads up to n bytes and compares them with the written ones.
func (w *sim) readAll(n int) {
	buf := make([]byte, min(n, w.m.in.Len()))
	w.m.in.Read(buf)
	if w.read+len(buf) > w.agent.written || !bytes.Equal(buf, w.bytes(true, w.read, len(buf))) {
		w.fail("the client read other bytes than were written, from %d on: %s", w.read, w.describe())
	}
	w.read += len(buf)
}

// --- what a Stream does ---

// settle does what a Stream does after each of the machine's methods.
func (w *sim) settle() {
	m := w.m
	w.check()
	if w.failed != "" || m.err != nil {
		return
	}
	w.act()
	r := m.Requested()
	if r.Connect {
		w.after(w.upTo(500*time.Millisecond), w.connect)
	}
	if key := m.takeKey(); key != nil {
		w.after(w.upTo(200*time.Millisecond), func() {
			m.keyMade(key, noise(1, dataKeySize), []byte("sealed"), nil, w.now)
			w.settle()
		})
	}
	if l := w.link; r.Ping > 0 && l != nil {
		w.ping(l, r.Ping)
	}
	w.pump()
	w.readLink()
	if at := m.Deadline(); !at.IsZero() && !at.Equal(w.timer) && m.err == nil {
		if at.Before(w.now) {
			at = w.now
		}
		w.timer = at
		w.at(at, func() { w.fire(at) })
	}
}

func (w *sim) fire(at time.Time) {
	if !w.timer.Equal(at) || w.m.err != nil {
		return
	}
	w.timer = time.Time{}
	w.m.OnTimer(w.now)
	// Once may be chance; a machine that asks for the past again and again is a busy loop in a Stream.
	if next := w.m.Deadline(); next.IsZero() || next.After(w.now) {
		w.spins = 0
	} else if w.spins++; w.spins > 10 {
		w.fail("the timer spins, %s late: %s", w.now.Sub(next), w.describe())
	}
	w.settle()
}

// check looks at what must always hold.
func (w *sim) check() {
	m, cfg := w.m, &w.m.cfg
	longest := cfg.maxPayload + frame.Overhead + 28
	// A payload of the agent's is 1024 bytes at most, and a few that were held may come with it.
	bound := func(what string, n, most int) {
		if n > most {
			w.fail("%s: %d, more than %d: %s", what, n, most, w.describe())
		}
	}
	bound("bytes unread", m.in.Len(), cfg.readHard+cfg.heldBytes)
	end := m.end.Stats()
	if end.HeldMessages == 0 {
		bound("bytes out of order, without a message", end.HeldBytes, 0)
	}
	bound("bytes not sent", m.out.Len(), cfg.writeBuffer)
	bound("bytes out of order", end.HeldBytes, cfg.heldBytes)
	bound("messages out of order", end.HeldMessages, int(cfg.heldSpan))
	bound("acks", end.Acks, reliable.MostAcks)
	bound("bytes in flight", end.InFlight, max(cfg.sendWindow, reliable.InitialWindow)+longest+1024)
	bound("messages kept", m.end.Outstanding(), reliable.MaxSpan+4)
	bound("bytes kept for reuse", end.Spare, reliable.SpareBytes)
	bound("own messages", len(m.control), 4)
}

// connect is a ResumeSession and a dial that have come to their end.
func (w *sim) connect() {
	m := w.m
	switch gone := w.over != nil && m.link.Made() > 0; {
	case m.err != nil:
		return
	case w.ending == simRefused && m.link.Made() > 0 && w.now.Sub(w.start) > simFaults/2, gone:
		m.NotConnected(errNoResume, w.now)
	case w.ending == simCutOff && w.now.Sub(w.start) > simFaults/2, w.faulty() && w.roll(.3):
		m.NotConnected(errors.New("no route to host"), w.now)
	default:
		l := &simLink{delay: [2]time.Duration{w.upTo(150 * time.Millisecond), w.upTo(150 * time.Millisecond)}}
		w.link, w.toldAway = l, false
		w.logf("connected: %v", l.delay)
		m.Connected(w.now)
		w.agent.peerPresent(true)
		if w.over != nil {
			w.arrive(l, w.over, 0)
		} else if w.rng.IntN(2) == 0 {
			w.announce()
		}
	}
	w.settle()
}

// announce has the service say whether the agent is there.
func (w *sim) announce() {
	typ := frame.StartPublication
	if w.toldAway = w.agent.away; w.toldAway {
		typ = frame.PausePublication
	}
	msg := frame.Message{Type: typ, Created: w.now, Flags: frame.FlagAck, ID: w.m.end.NewID(), Payload: []byte("{}")}
	if w.link != nil {
		w.arrive(w.link, msg.Append(nil), 0)
	}
}

// pump lets the writer write, if it is free.
func (w *sim) pump() {
	l := w.link
	if l == nil || l.writing || !w.m.Pending() {
		return
	}
	var b reliable.Batch
	w.m.Fill(&b, w.now)
	if len(b.Ends) == 0 {
		w.fail("the writer spins: %s", w.describe())
		return
	}
	start := 0
	for _, end := range b.Ends {
		w.send(l, b.Buf[start:end:end])
		start = end
	}
	l.writing = true
	w.after(w.upTo(10*time.Millisecond), func() {
		l.writing = false
		w.settle()
	})
}

// send puts a message of the client's on its way.
func (w *sim) send(l *simLink, msg []byte) {
	m, err := frame.Decode(msg)
	if err != nil {
		w.fail("the client sends what is no message: %v", err)
		return
	}
	if m.Type == frame.InputStreamData {
		if before, ok := w.sentBy[m.Seq]; ok && !bytes.Equal(before, msg) {
			w.fail("message %d was sent again as another one", m.Seq)
		}
		w.sentBy[m.Seq] = msg
	}
	if w.ending == simTooLong && len(msg) > simLongest {
		if w.seed%2 == 0 {
			w.after(l.delay[0], w.cut)
		}
		return
	}
	w.afflict(func(late time.Duration) {
		at := w.now.Add(l.delay[0] + late)
		if at.Before(l.last[0]) {
			at = l.last[0]
		}
		if late == 0 {
			l.last[0] = at
		}
		w.at(at, func() {
			if !l.cut && w.over == nil && !w.agent.away {
				w.agent.receive(&m, msg)
				w.settle()
			}
		})
	})
}

// afflict calls send once, or twice, later, or not at all.
func (w *sim) afflict(send func(late time.Duration)) {
	if !w.faulty() {
		send(0)
		return
	}
	switch roll := w.rng.Float64(); {
	case roll < w.faults.drop:
		w.count.dropped++
		return
	case roll < w.faults.drop+w.faults.dup:
		w.count.doubled++
		send(0)
		send(w.upTo(time.Second))
	case roll < w.faults.drop+w.faults.dup+w.faults.reorder:
		w.count.reordered++
		send(w.upTo(300 * time.Millisecond))
	default:
		send(0)
	}
}

// arrive puts a message on its way to the client.
func (w *sim) arrive(l *simLink, msg []byte, late time.Duration) {
	at := w.now.Add(l.delay[1] + late)
	if late == 0 {
		if at.Before(l.last[1]) {
			at = l.last[1]
		}
		l.last[1] = at
	}
	w.at(at, func() {
		if l.cut || w.link != l {
			return
		}
		l.inbox = append(l.inbox, msg)
		l.unread += len(msg)
		w.settle()
	})
}

// readLink is the reader: it takes messages as long as the machine wants more.
func (w *sim) readLink() {
	l := w.link
	for l != nil && w.link == l && len(l.inbox) > 0 && w.m.err == nil && !w.m.Throttled(w.now) {
		b := l.inbox[0]
		l.inbox = l.inbox[1:]
		l.unread -= len(b)
		if w.m.in.Len() >= w.m.cfg.readSoft && !w.m.end.Stats().Starved {
			w.fail("a message is taken with %d bytes unread: %s", w.m.in.Len(), w.describe())
		}
		msg, err := frame.Decode(b)
		if err != nil {
			w.fail("%v", err)
			return
		}
		before := w.m.in.Len()
		if _, err := w.m.Receive(&msg, &reliable.Inbound{B: b}, w.now); err != nil {
			w.fail("a message is ignored: %v", err)
		}
		if before >= w.m.cfg.readHard && w.m.in.Len() > before {
			w.fail("a message is consumed with %d bytes unread: %s", before, w.describe())
		}
		w.settle()
	}
}

// ping has a pong come, unless it cannot.
func (w *sim) ping(l *simLink, within time.Duration) {
	took := l.delay[0] + l.delay[1]
	err := error(nil)
	if l.cut || took > within || w.m.Throttling() {
		took, err = within, errors.New("no pong")
	}
	w.after(took, func() {
		if w.link != l || w.m.err != nil {
			return
		}
		if !w.m.Pinged(err, err != nil, w.now) {
			w.drop(l, err)
		}
		w.settle()
	})
}

// drop is that the client gives a websocket up.
func (w *sim) drop(l *simLink, err error) {
	if w.link != l || w.m.err != nil {
		return
	}
	w.logf("disconnected: %v", err)
	l.cut = true
	w.link = nil
	w.agent.peerPresent(false)
	w.m.Disconnected(err, w.now)
	if end := w.m.end.Stats(); end.InFlight > 0 || end.Acks > 0 {
		w.fail("%d bytes in flight and %d acks on a lost websocket", end.InFlight, end.Acks)
	}
	w.settle()
}

// --- faults ---

// trouble does something bad now and then.
func (w *sim) trouble() {
	if !w.faulty() {
		return
	}
	switch w.rng.IntN(4) {
	case 0, 1:
		w.cut()
	case 2:
		w.m.link.Probe(w.now)
		w.settle()
	case 3:
		if w.agent.away {
			break
		}
		w.logf("the agent is away")
		w.count.away++
		w.agent.leave()
		if w.rng.IntN(4) > 0 {
			w.announce()
		}
		w.after(w.upTo(10*time.Second), func() {
			w.logf("the agent is back")
			w.agent.comeBack()
			w.settle()
		})
	}
	w.after(w.upTo(w.calm), w.trouble)
}

// cut cuts the websocket. The client hears of it soon, or has to find out.
func (w *sim) cut() {
	l := w.link
	if l == nil || l.cut {
		return
	}
	l.cut = true
	w.count.cuts++
	w.agent.peerPresent(false)
	if w.rng.IntN(4) == 0 && w.now.Sub(w.start) < simFaults/2 {
		w.logf("cut, without a word")
		w.count.silent++
		return
	}
	w.logf("cut")
	w.after(w.upTo(200*time.Millisecond), func() { w.drop(l, io.ErrUnexpectedEOF) })
}

// intervene does what the run is about.
func (w *sim) intervene() {
	switch w.ending {
	case simVanishes:
		w.agent.end()
	case simAbandons:
		w.m.close(true, w.now)
	case simRefused, simCutOff:
		w.at(w.start.Add(simFaults/2+time.Second), w.cut)
		w.at(w.start.Add(simFaults/2+30*time.Second), w.cut) // if there was none just then
	}
	w.settle()
}

// TestMachineSimulation explores the model.
func TestMachineSimulation(t *testing.T) {
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
		if runs = 1000; testing.Short() {
			runs = 200
		}
	}
	var complete, resent, duplicates, refused, resumed, dropped, cuts, silent, away int
	for seed := uint64(1); seed <= uint64(runs); seed++ {
		w := newSim(t, seed)
		w.run()
		if w.failed != "" {
			t.Fatalf("%s\nreproduce: go test ./sessions -run '^TestMachineSimulation$' -sessions.seed=%d", w.failed, seed)
		}
		if w.ending <= simFarEnds && w.read == w.agent.goal {
			complete++
		}
		resent += int(min(w.m.end.Stats().Resends, 1))
		duplicates += int(min(w.m.end.Stats().Duplicates, 1))
		refused += int(min(w.m.end.Stats().Dropped, 1))
		resumed += int(min(w.m.link.Resumes(), 1))
		dropped, cuts, silent, away = dropped+w.count.dropped, cuts+w.count.cuts, silent+w.count.silent, away+w.count.away
	}
	t.Logf("%d runs, %d complete; %d messages dropped, %d cuts of which %d silent, the agent %d times away; "+
		"runs with resends %d, duplicates %d, refused messages %d, resumes %d",
		runs, complete, dropped, cuts, silent, away, resent, duplicates, refused, resumed)
	if complete < runs/2 || resent < runs/3 || duplicates < runs/4 || refused == 0 || resumed < runs/3 || silent < runs/20 || away < runs/2 {
		t.Error("the runs are too quiet to show anything")
	}
}
