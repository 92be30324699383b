package bond

import (
	"math/bits"
	"slices"
)

// streamBuf keeps a stretch of a byte stream, addressed by offsets in the stream. Bytes before base are gone. Its storage is
// circular and grows with the stretch; the caller bounds it.
type streamBuf struct {
	buf  []byte // length zero or a power of two
	base uint64 // the first byte kept
	end  uint64 // after the last byte that may be there
}

const leastStreamBuf = 4 << 10

// put writes p at offset, which is not before base.
func (b *streamBuf) put(offset uint64, p []byte) {
	end := offset + uint64(len(p))
	if need := int(end - b.base); need > len(b.buf) {
		b.grow(need)
	}
	mask := uint64(len(b.buf) - 1)
	n := copy(b.buf[offset&mask:], p)
	copy(b.buf, p[n:])
	b.end = max(b.end, end)
}

func (b *streamBuf) grow(need int) {
	grown := make([]byte, max(leastStreamBuf, 1<<bits.Len(uint(need-1))))
	for at := b.base; at < b.end; {
		old := b.buf[at&uint64(len(b.buf)-1):]
		old = old[:min(uint64(len(old)), b.end-at)]
		n := copy(grown[at&uint64(len(grown)-1):], old)
		at += uint64(n)
	}
	b.buf = grown
}

// copyOut fills p from offset on. The caller ensures that all these bytes are there.
func (b *streamBuf) copyOut(offset uint64, p []byte) {
	if len(p) == 0 {
		return
	}
	n := copy(p, b.buf[offset&uint64(len(b.buf)-1):])
	copy(p[n:], b.buf)
}

// advance drops all bytes before base.
func (b *streamBuf) advance(base uint64) {
	b.base = base
	b.end = max(b.end, base)
}

// idle reports whether the storage is allocated but empty.
func (b *streamBuf) idle() bool { return b.buf != nil && b.base == b.end }

// release frees the storage if it is empty.
func (b *streamBuf) release() {
	if b.idle() {
		b.buf = nil
	}
}

// interval has the bytes from start up to, but not including, end.
type interval struct{ start, end uint64 }

// maxGaps bounds the stretches that a receiver remembers beyond the first gap. A correct sender stays far below it, with at most
// maxFlight frames in flight.
const maxGaps = 2 * maxFlight

// assembly is the receiving end of the stream: the bytes received, in order and out of order, and how far the reader has read.
type assembly struct {
	buf    streamBuf // base: the next byte to read
	next   uint64    // the first byte not received
	later  []interval
	fin    bool
	length uint64 // of the stream; valid if fin
}

// add stores p at offset dsn, which the caller has checked against the window. It returns false if there are too many gaps.
func (a *assembly) add(dsn uint64, p []byte) bool {
	end := dsn + uint64(len(p))
	if end <= a.next {
		return true
	}
	if dsn < a.next {
		p, dsn = p[a.next-dsn:], a.next
	}
	if dsn == a.next && len(a.later) == 0 {
		a.buf.put(dsn, p)
		a.next = end
		return true
	}
	if !a.insert(interval{dsn, end}) {
		return false
	}
	a.buf.put(dsn, p)
	if a.later[0].start == a.next {
		a.next = a.later[0].end
		a.later = slices.Delete(a.later, 0, 1)
	}
	return true
}

// insert adds v to later. It returns false if there are too many gaps.
func (a *assembly) insert(v interval) bool {
	// The first that ends at or after v's start, then the first that begins after v's end.
	first, _ := slices.BinarySearchFunc(a.later, v.start, func(i interval, start uint64) int {
		if i.end < start {
			return -1
		}
		return 1
	})
	last := first
	merged := v
	for ; last < len(a.later) && a.later[last].start <= v.end; last++ {
		merged.start = min(merged.start, a.later[last].start)
		merged.end = max(merged.end, a.later[last].end)
	}
	if first == last && len(a.later) >= maxGaps {
		return false
	}
	a.later = slices.Replace(a.later, first, last, merged)
	return true
}

// readable returns how many bytes can be read.
func (a *assembly) readable() int { return int(a.next - a.buf.base) }

// read copies bytes in order and drops them.
func (a *assembly) read(p []byte) int {
	n := min(len(p), a.readable())
	a.buf.copyOut(a.buf.base, p[:n])
	a.buf.advance(a.buf.base + uint64(n))
	return n
}

// skip drops all readable bytes.
func (a *assembly) skip() { a.buf.advance(a.next) }

// complete reports whether all bytes up to the FIN have come.
func (a *assembly) complete() bool { return a.fin && a.next == a.length }

// ack returns the number for ACK: the next byte wanted, plus one after the FIN.
func (a *assembly) ack() uint64 {
	if a.complete() {
		return a.length + 1
	}
	return a.next
}
