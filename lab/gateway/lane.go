package gateway

import (
	"bytes"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

const (
	laneBytes     = 16 << 20              // queued in one direction before a push waits
	reorderHold   = 20 * time.Millisecond // a message to be overtaken waits no longer than this for the next one
	maxBatchBytes = 256 << 10             // returned by one pop
)

// lane carries the messages of one session in one direction, with the gateway's faults. It owns no goroutine: the consumer waits in
// pop, and a producer waits in push while the lane is full. Messages are immutable once pushed.
//
// A consumer attaches and gets a generation. A new attach makes earlier generations stale, so that an ending websocket cannot take
// its successor's messages. Without a consumer the lane discards messages: the gateway keeps nothing for an absent side.
type lane struct {
	faults  *atomic.Pointer[Faults]
	ownRate atomic.Int64 // replaces the faults' RateBps, unless it is 0
	payload atomic.Int64 // payload bytes of data messages passed to the consumer
	last    atomic.Int64 // when the latest of them passed, in ns since the epoch

	mu       sync.Mutex
	gen      uint64 // of the attached consumer; meaningful while attached
	attached bool
	ending   bool // no more messages; pop returns io.EOF once the queue is empty
	q        []packet
	head     int // q[:head] is consumed
	queued   int // bytes in q[head:]
	held     *packet
	holdEnd  time.Time // when held goes without waiting for another
	lineFree time.Time // when the rate-limited line will have sent all pushed messages
	allowed  float64   // data messages under the limit of their rate, at the time of counted
	counted  time.Time // zero: never
	draws    draws

	avail chan struct{} // capacity 1: the queue or the faults have changed
	space chan struct{} // capacity 1: the queue may have room, or the consumer has gone
}

type packet struct {
	b    []byte
	data bool
	due  time.Time // zero: at once
}

func newLane(faults *atomic.Pointer[Faults], salt uint64) *lane {
	return &lane{
		faults: faults, draws: draws{salt: salt},
		avail: make(chan struct{}, 1), space: make(chan struct{}, 1),
	}
}

// wake makes the goroutine that waits on c look again. c has capacity 1, so a wake-up is never lost and the send never blocks.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// attach makes the caller the consumer of an empty lane.
func (l *lane) attach() (gen uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gen++
	l.attached = true
	l.clear()
	return l.gen
}

// detach ends the consumer gen, if it still is the consumer, and reports whether it was.
func (l *lane) detach(gen uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.attached || l.gen != gen {
		return false
	}
	l.attached = false
	l.clear()
	wake(l.avail)
	return true
}

// end lets the consumer take the queued messages, then returns io.EOF to it.
func (l *lane) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ending = true
	wake(l.avail)
	wake(l.space)
}

// clear empties the queue. Callers hold mu.
func (l *lane) clear() {
	clear(l.q)
	l.q, l.head, l.queued, l.held = l.q[:0], 0, 0, nil
	l.lineFree = time.Time{}
	wake(l.space)
}

// changed wakes all waiters after a change of the faults.
func (l *lane) changed() {
	wake(l.avail)
	wake(l.space)
}

// isData reports whether the faults of data messages apply to b.
func isData(b []byte) bool {
	const at = 4 // of the message type in a frame
	return len(b) > at &&
		(bytes.HasPrefix(b[at:], []byte("input_stream_data")) || bytes.HasPrefix(b[at:], []byte("output_stream_data")))
}

// push queues a message, or loses it as the faults say. It waits while the lane is full; it returns false only if done ended the
// wait. It discards a message for an absent consumer.
func (l *lane) push(done <-chan struct{}, b []byte) bool {
	data := isData(b)
	for {
		l.mu.Lock()
		f := l.faults.Load()
		switch {
		case !l.attached || l.ending:
			wake(l.space) // another producer may be waiting too
			l.mu.Unlock()
			return true
		case l.queued == 0 || l.queued+len(b) <= l.limit(f):
			idle := l.head == len(l.q)
			l.admit(f, b, data)
			if l.queued < l.limit(f) {
				wake(l.space)
			}
			// While the queue is not empty, the consumer is awake, or its timer is set for the queue's head.
			if idle || l.held != nil {
				wake(l.avail)
			}
			l.mu.Unlock()
			return true
		}
		l.mu.Unlock()
		select {
		case <-l.space:
		case <-done:
			return false
		}
	}
}

// control queues a message of the gateway itself. It never waits, and no fault but delay and pause applies.
func (l *lane) control(b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.attached || l.ending {
		return
	}
	l.enqueue(l.faults.Load(), packet{b: b})
	wake(l.avail)
}

// limit returns how many bytes the lane may queue. On a slow line it queues no more than a router would, so that the queue does not
// hide the rate.
func (l *lane) limit(f *Faults) int {
	rate := l.rate(f)
	if rate <= 0 {
		return laneBytes
	}
	held := time.Duration(f.DelayMS)*time.Millisecond + 100*time.Millisecond
	return min(laneBytes, 64<<10+int(float64(rate)*held.Seconds()))
}

// rate returns the line's rate in bytes per second; 0: unlimited.
func (l *lane) rate(f *Faults) int64 {
	if own := l.ownRate.Load(); own > 0 {
		return own
	}
	return f.RateBps
}

// admit makes the random choices about a message and queues the result. Callers hold mu.
func (l *lane) admit(f *Faults, b []byte, data bool) {
	if data && (f.refuses(b) || !l.allows(f)) {
		return
	}
	p := packet{b: b, data: data}
	if !data || (f.Drop == 0 && f.Duplicate == 0 && f.Reorder == 0) {
		l.enqueue(f, p)
		if data {
			l.release(f)
		}
		return
	}
	rng := l.draws.random(f)
	drop, dup, reorder := rng.Float64() < f.Drop, rng.Float64() < f.Duplicate, rng.Float64() < f.Reorder
	switch {
	case drop:
		return
	case reorder && l.held == nil:
		l.held, l.holdEnd = &p, time.Now().Add(reorderHold)
		l.queued += len(b)
	default:
		l.enqueue(f, p)
		l.release(f)
	}
	if dup {
		l.enqueue(f, p)
	}
}

// allows counts a data message, and reports whether it is within the limit of their rate. Callers hold mu.
func (l *lane) allows(f *Faults) bool {
	if f.MessageRate == 0 {
		l.counted = time.Time{}
		return true
	}
	now, burst := time.Now(), float64(f.MessageRate)
	if l.counted.IsZero() {
		l.allowed = burst
	} else {
		l.allowed = min(burst, l.allowed+burst*now.Sub(l.counted).Seconds())
	}
	l.counted = now
	if l.allowed < 1 {
		return false
	}
	l.allowed--
	return true
}

// release queues the message that waits to be overtaken. Callers hold mu.
func (l *lane) release(f *Faults) {
	if p := l.held; p != nil {
		l.held = nil
		l.queued -= len(p.b)
		l.enqueue(f, *p)
	}
}

// enqueue appends p and computes its earliest arrival: not before the message in front of it. Callers hold mu.
func (l *lane) enqueue(f *Faults, p packet) {
	if rate := l.rate(f); f.DelayMS > 0 || rate > 0 {
		p.due = time.Now()
		if rate > 0 {
			if p.due.Before(l.lineFree) {
				p.due = l.lineFree
			}
			p.due = p.due.Add(time.Duration(float64(len(p.b)) / float64(rate) * float64(time.Second)))
			l.lineFree = p.due
		}
		p.due = p.due.Add(time.Duration(f.DelayMS) * time.Millisecond)
	}
	if l.head > 0 && len(l.q) == cap(l.q) {
		n := copy(l.q, l.q[l.head:])
		clear(l.q[n:])
		l.q, l.head = l.q[:n], 0
	}
	l.q = append(l.q, p)
	l.queued += len(p.b)
}

// pop waits for messages that have arrived and appends them to dst. It returns io.EOF after end, errStale if gen is no longer the
// consumer, and errDone when done is closed.
func (l *lane) pop(gen uint64, done <-chan struct{}, dst [][]byte) ([][]byte, error) {
	for {
		l.mu.Lock()
		if !l.attached || l.gen != gen {
			wake(l.avail) // for the current consumer
			l.mu.Unlock()
			return dst, errStale
		}
		out, wait, err := l.take(dst)
		l.mu.Unlock()
		if len(out) > len(dst) || err != nil {
			return out, err
		}
		if !l.wait(done, wait) {
			return dst, errDone
		}
	}
}

// wait returns when there may be messages to take, or after d unless d is 0. It returns false if done ended it.
func (l *lane) wait(done <-chan struct{}, d time.Duration) bool {
	var expired <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		expired = t.C
	}
	select {
	case <-l.avail:
		return true
	case <-expired:
		return true
	case <-done:
		return false
	}
}

// take appends the arrived messages to dst. Without any it returns how long to wait (0: until avail). Callers hold mu.
func (l *lane) take(dst [][]byte) (_ [][]byte, wait time.Duration, err error) {
	f := l.faults.Load()
	if f.Pause {
		return dst, 0, nil
	}
	var now time.Time
	if l.held != nil {
		now = time.Now()
		if wait = l.holdEnd.Sub(now); wait <= 0 || l.ending {
			l.release(f)
			wait = 0
		}
	}
	size, data, some, n := 0, 0, false, len(dst)
	for l.head < len(l.q) && size < maxBatchBytes {
		p := &l.q[l.head]
		if !p.due.IsZero() {
			if now.IsZero() {
				now = time.Now()
			}
			if d := p.due.Sub(now); d > 0 {
				if wait == 0 || d < wait {
					wait = d
				}
				break
			}
		}
		if p.data {
			data += len(p.b) - frame.Overhead
			some = true
		}
		size += len(p.b)
		dst = append(dst, p.b)
		*p = packet{}
		l.head++
	}
	l.queued -= size
	if some {
		l.payload.Add(int64(data))
		l.last.Store(time.Now().UnixNano())
	}
	if l.head == len(l.q) {
		l.q, l.head = l.q[:0], 0
	}
	if len(dst) > n {
		wake(l.space)
		return dst, 0, nil
	}
	if l.ending && l.head == len(l.q) && l.held == nil {
		return dst, 0, io.EOF
	}
	return dst, wait, nil
}
