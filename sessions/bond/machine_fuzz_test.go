package bond

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// operations are fuzz bytes, as what happens to one end: frames from a peer that may be hostile, the application's calls, and
// time. An oracle that knows nothing of the machine's inside says what must come of each.
type operations struct {
	t    testing.TB
	in   []byte
	now  time.Time
	m    *machine
	subs []*oracleSubflow
	kept machineCheck

	written  []byte // by the application
	finished bool
	onWire   []bool // the bytes that were ever sent
	finWire  bool
	limit    uint64 // of what this end may send
	acked    uint64

	have   []bool // the bytes that came; the value of a byte follows from its place
	come   uint64 // all before have come
	read   uint64
	given  uint64 // the highest limit that was sent to the peer
	fin    bool
	length uint64
	top    uint64 // after the last byte that came
}

// oracleSubflow is what the oracle knows of a path.
type oracleSubflow struct {
	p              *path
	seal           *seal  // of what this end writes, as the peer has it
	sent, received uint64 // by this end: bytes of DATA and FIN written, and acknowledged
	came           uint64
	left, peerLeft bool
	asked          map[uint64]bool // tokens of PINGs that came
}

const oracleWindow = 96 << 10

func newOperations(t testing.TB, in []byte) *operations {
	o := &operations{t: t, in: in, now: time.Unix(1e9, 0), limit: initialLimit, given: initialLimit}
	isClient := o.byte()%2 == 0
	o.m = newMachine(isClient, oracleWindow, 64<<10, time.Minute, o.now)
	return o
}

func (o *operations) byte() byte {
	if len(o.in) == 0 {
		return 0
	}
	b := o.in[0]
	o.in = o.in[1:]
	return b
}

func (o *operations) number(n int) int { return (int(o.byte())<<8 | int(o.byte())) % n }

// near returns a number close to one that matters.
func (o *operations) near(v uint64) uint64 { return v + uint64(int64(int8(o.byte()))) } // it may wrap: that is one of the games

func streamByte(i uint64) byte { return byte(i*31 + i>>8) }

// run performs all operations. It returns early once the connection has ended.
func (o *operations) run() {
	for steps := 0; len(o.in) > 0 && o.m.err == nil && steps < 4000; steps++ {
		o.step()
		o.check()
	}
	if o.m.err != nil {
		for _, s := range o.subs {
			o.fill(s)
		}
	}
}

func (o *operations) step() {
	switch op := o.byte() % 16; op {
	case 0:
		if len(o.subs) < 4 {
			own, peers := sealsOf(uint32(len(o.in)))
			s := &oracleSubflow{p: o.m.join(uint32(len(o.in)), "", o.now), seal: peers.in, asked: map[uint64]bool{}}
			s.p.seal = own.out
			o.subs = append(o.subs, s)
		}
	case 1:
		if s := o.pick(); s != nil && o.byte()%4 == 0 {
			o.lose(s)
		}
	case 2, 3, 4:
		o.data()
	case 5:
		o.frameFIN()
	case 6, 7:
		o.ack()
	case 8:
		o.small()
	case 9:
		n := o.m.write(o.fresh(o.number(20_000)), o.now)
		o.written = append(o.written, o.fresh(n)...)
		o.onWire = append(o.onWire, make([]bool, n)...)
	case 10:
		o.readSome(1 + o.number(60_000))
	case 11, 12, 13:
		if s := o.pick(); s != nil {
			o.fill(s)
		}
	case 14:
		o.pass(time.Duration(o.number(5000)) * time.Millisecond / 4)
	case 15:
		switch o.byte() % 8 {
		case 0:
			o.m.closeWrite(o.now)
			o.finished = true
		case 1:
			if s := o.pick(); s != nil {
				o.m.leave(s.p, o.now)
			}
		case 2:
			o.m.probe(time.Second, o.now)
		}
	}
}

// fresh returns the next n bytes that the application writes.
func (o *operations) fresh(n int) []byte {
	if o.finished {
		n = 0
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = streamByte(uint64(len(o.written) + i))
	}
	return b
}

func (o *operations) pick() *oracleSubflow {
	if len(o.subs) == 0 {
		return nil
	}
	return o.subs[int(o.byte())%len(o.subs)]
}

func (o *operations) lose(s *oracleSubflow) {
	o.m.lose(s.p, o.now)
	o.subs = slices.DeleteFunc(o.subs, func(other *oracleSubflow) bool { return other == s })
}

// receive gives the machine a frame of which the oracle knows whether it is a violation.
func (o *operations) receive(s *oracleSubflow, f *frame, violation bool) {
	o.t.Helper()
	err := o.m.onFrame(s.p, f, o.now)
	if isViolation := errors.As(err, new(*protocolError)); isViolation != violation || err != nil && !isViolation {
		o.t.Fatalf("%s dsn %d length %d ack %d limit %d received %d: got %v, want a violation: %v",
			f.typ, f.dsn, len(f.data), f.ack, f.limit, f.received, err, violation)
	}
	if err != nil {
		o.m.fail(err)
	}
}

func (o *operations) data() {
	s := o.pick()
	if s == nil {
		return
	}
	dsn := []uint64{o.come, o.come, o.come + 3000, o.near(o.come), o.near(o.given), o.near(o.length), o.near(0), 1 << 63}[o.byte()%8]
	f := frame{typ: frameData, dsn: dsn, data: make([]byte, 1+o.number(maxData))}
	for i := range f.data {
		f.data[i] = streamByte(dsn + uint64(i))
	}
	end := dsn + uint64(len(f.data))
	violation := end < dsn || end > o.given || o.fin && end > o.length || s.peerLeft
	o.receive(s, &f, violation)
	if violation {
		return
	}
	s.came += uint64(dataHeader + len(f.data))
	o.top = max(o.top, end)
	if grow := int(end) - len(o.have); grow > 0 {
		o.have = append(o.have, make([]bool, grow)...)
	}
	for i := dsn; i < end; i++ {
		o.have[i] = true
	}
	for o.come < uint64(len(o.have)) && o.have[o.come] {
		o.come++
	}
}

func (o *operations) frameFIN() {
	s := o.pick()
	if s == nil {
		return
	}
	f := frame{typ: frameFIN, dsn: []uint64{o.top, o.near(o.top), o.near(o.given), o.length}[o.byte()%4]}
	violation := o.fin && f.dsn != o.length || f.dsn < o.top || f.dsn > o.given || s.peerLeft
	o.receive(s, &f, violation)
	if !violation {
		s.came += finSize
		o.fin, o.length = true, f.dsn
	}
}

func (o *operations) ack() {
	s := o.pick()
	if s == nil {
		return
	}
	sent := uint64(0) // in one piece, on the wire
	for sent < uint64(len(o.onWire)) && o.onWire[sent] {
		sent++
	}
	f := frame{typ: frameAck, delay: uint32(o.number(65536))}
	f.ack = []uint64{sent, o.near(sent), o.acked, o.near(o.acked), sent / 2, uint64(len(o.written)) + 1}[o.byte()%6]
	f.limit = []uint64{o.limit, o.near(o.limit), o.limit + 5000, 0, 1<<64 - 1}[o.byte()%5]
	f.received = []uint64{s.sent, s.sent, s.received, o.near(s.sent), o.near(s.received)}[o.byte()%5]

	isFIN := o.m.finSent && f.ack == uint64(len(o.written))+1
	certain := f.received > s.sent || f.ack > o.m.next && !isFIN
	unsent := f.ack > sent && !(o.finWire && f.ack == uint64(len(o.written))+1)
	if !certain && (unsent || f.limit < f.ack) {
		// Scheduled and not sent yet, or a limit that is below: the machine may see it either way.
		if err := o.m.onFrame(s.p, &f, o.now); err != nil {
			o.m.fail(err)
			return
		}
	} else if o.receive(s, &f, certain); certain {
		return
	}
	s.received = max(s.received, f.received) // an older one may come later, by another subflow
	o.limit = max(o.limit, f.limit)
	o.acked = max(o.acked, min(f.ack, uint64(len(o.written))))
}

func (o *operations) small() {
	s := o.pick()
	if s == nil {
		return
	}
	switch o.byte() % 16 {
	case 0, 1, 2, 3:
		token := uint64(o.byte())
		s.asked[token] = true
		o.receive(s, &frame{typ: framePing, token: token}, false)
	case 4, 5, 6, 7:
		o.receive(s, &frame{typ: framePong, token: uint64(o.byte() % 8)}, false)
	case 8, 9, 10:
		o.receive(s, &frame{typ: frameWant}, false)
	case 11, 12:
		s.peerLeft = true
		o.receive(s, &frame{typ: frameLeave}, false)
	case 13:
		if o.byte()%8 == 0 {
			o.receive(s, &frame{typ: frameReset, code: ResetAborted, text: "x"}, false)
			if reset := new(ResetError); !o.m.through() && (!errors.As(o.m.err, &reset) || !reset.Remote) {
				o.t.Fatalf("after RESET: %v", o.m.err)
			}
		}
	}
}

func (o *operations) readSome(n int) {
	buf := make([]byte, n)
	got, err := o.m.read(buf)
	for i, b := range buf[:got] {
		if b != streamByte(o.read+uint64(i)) {
			o.t.Fatalf("byte %d is not what came", o.read+uint64(i))
		}
	}
	want := min(uint64(n), o.come-o.read)
	isEnd := o.fin && o.come == o.length && o.read == o.come
	if uint64(got) != want || isEnd != errors.Is(err, io.EOF) || !isEnd && err != nil {
		o.t.Fatalf("read %d, %v; want %d bytes, the end: %v", got, err, want, isEnd)
	}
	o.read += want
}

// fill takes what the machine writes on a subflow, and judges it as the peer would.
func (o *operations) fill(s *oracleSubflow) {
	ended := o.m.err != nil
	b := o.m.fill(s.p, nil, 16<<10, o.now)
	if len(b) == 0 && o.m.pending(s.p) {
		o.t.Fatal("it has something to write, and writes nothing")
	}
	r := newFrameReader(bytes.NewReader(b))
	r.seal = s.seal
	for {
		var f frame
		if err := r.next(&f); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			o.t.Fatal(err)
		}
		if problem := o.judge(s, &f); problem != "" {
			o.t.Fatalf("it writes %s dsn %d length %d ack %d limit %d received %d: %s",
				f.typ, f.dsn, len(f.data), f.ack, f.limit, f.received, problem)
		}
		if ended && f.typ != frameReset {
			o.t.Fatalf("%s after the end", f.typ)
		}
	}
}

func (o *operations) judge(s *oracleSubflow, f *frame) string {
	switch f.typ {
	case frameData:
		end := f.dsn + uint64(len(f.data))
		switch {
		case end > o.limit:
			return fmt.Sprintf("the limit is %d", o.limit)
		case end > uint64(len(o.written)) || !bytes.Equal(f.data, o.written[f.dsn:end]):
			return "not what was written"
		case s.left:
			return "after LEAVE"
		}
		for i := f.dsn; i < end; i++ {
			o.onWire[i] = true
		}
		s.sent += uint64(dataHeader + len(f.data))
	case frameFIN:
		if !o.finished || f.dsn != uint64(len(o.written)) || s.left {
			return "not the end, or after LEAVE"
		}
		o.finWire = true
		s.sent += finSize
	case frameAck:
		want := o.come
		if o.fin && o.come == o.length {
			want++
		}
		if f.ack != want || f.limit < o.given || f.limit > o.read+max(oracleWindow, initialLimit) || f.received != s.came {
			return fmt.Sprintf("want ack %d, received %d, limit from %d on", want, s.came, o.given)
		}
		o.given = f.limit
	case framePong:
		if !s.asked[f.token] {
			return "nobody asked"
		}
	case frameLeave:
		if s.left {
			return "twice"
		}
		s.left = true
	case frameWant:
		if o.m.client {
			return "by a client"
		}
	case frameReset:
		if o.m.err == nil {
			return "without a reason"
		}
	case framePing:
	}
	return ""
}

// pass lets time pass, with the timer.
func (o *operations) pass(d time.Duration) {
	until := o.now.Add(d)
	for range 1000 {
		at := o.m.deadline()
		if at.IsZero() || at.After(until) {
			o.now = until
			return
		}
		if at.After(o.now) {
			o.now = at
		}
		expired := o.m.onTimer(o.now)
		o.kept.called(o.now, o.m)
		for _, p := range expired {
			o.lose(o.subs[slices.IndexFunc(o.subs, func(s *oracleSubflow) bool { return s.p == p })])
		}
	}
	o.t.Fatalf("the timer spins: %s", o.now.Sub(o.m.deadline()))
}

// check looks at what must always hold.
func (o *operations) check() {
	m := o.m
	o.kept.called(o.now, m)
	switch {
	case m.in.held() > max(oracleWindow, initialLimit):
		o.t.Fatalf("%d bytes are held", m.in.held())
	case m.written-m.acked > uint64(m.buffer) || m.acked < o.acked:
		o.t.Fatalf("written %d, acked %d", m.written, m.acked)
	case len(m.in.later) > maxGaps || m.flying() > maxFlight:
		o.t.Fatalf("%d gaps, %d on their way", len(m.in.later), m.flying())
	case m.in.readable() != int(o.come-o.read):
		o.t.Fatalf("%d bytes can be read, want %d", m.in.readable(), o.come-o.read)
	}
	for _, p := range m.paths {
		if len(p.control) > 5 {
			o.t.Fatalf("%d frames wait", len(p.control))
		}
	}
}

func FuzzMachine(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(randomOperations(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) { newOperations(t, in).run() })
}

func randomOperations(seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 0xf0))
	b := make([]byte, 16<<rng.IntN(8))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// Random operations, as many as fit in a moment: the fuzzer's corpus alone is small.
func TestMachineOperations(t *testing.T) {
	ended := 0
	const runs = 5000
	for seed := range uint64(runs) {
		o := newOperations(t, randomOperations(seed))
		o.run()
		if o.m.err != nil {
			ended++
		}
	}
	if ended < runs/10 || ended > runs*9/10 {
		t.Errorf("%d of %d runs ended by a violation: the operations are not varied enough", ended, runs)
	}
}
