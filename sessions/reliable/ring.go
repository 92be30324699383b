package reliable

// ByteRing is a queue of bytes on a circular slice. It grows as needed; the writer bounds it. It frees unneeded storage after a
// while, not each time it is empty, because in a bulk transfer it is empty all the time.
type ByteRing struct {
	buf  []byte // length zero or a power of two
	head int
	n    int

	most    int // the largest n since the last judgement of the storage
	emptied int // how often n was zero since then
}

const (
	keepBytes  = 64 << 10 // of storage, always kept
	judgeAfter = 64       // times empty
)

// Len returns the number of bytes.
func (r *ByteRing) Len() int { return r.n }

// Write appends p.
func (r *ByteRing) Write(p []byte) {
	if need := r.n + len(p); need > len(r.buf) {
		size := max(4<<10, len(r.buf))
		for size < need {
			size *= 2
		}
		grown := make([]byte, size)
		r.peek(grown)
		r.buf, r.head = grown, 0
	}
	tail := (r.head + r.n) & (len(r.buf) - 1)
	copied := copy(r.buf[tail:], p)
	copy(r.buf, p[copied:])
	r.n += len(p)
	r.most = max(r.most, r.n)
}

// peek copies up to len(p) bytes from the front without taking them.
func (r *ByteRing) peek(p []byte) int {
	if r.n == 0 {
		return 0
	}
	p = p[:min(len(p), r.n)]
	copied := copy(p, r.buf[r.head:])
	copy(p[copied:], r.buf)
	return len(p)
}

// Read takes up to len(p) bytes from the front.
func (r *ByteRing) Read(p []byte) int {
	n := r.peek(p)
	r.n -= n
	if r.n == 0 {
		r.head = 0
		if r.emptied++; r.emptied == judgeAfter {
			if len(r.buf) > max(keepBytes, 4*r.most) {
				r.buf = nil
			}
			r.most, r.emptied = 0, 0
		}
		return n
	}
	r.head = (r.head + n) & (len(r.buf) - 1)
	return n
}

// Clear removes all bytes and frees the storage.
func (r *ByteRing) Clear() { *r = ByteRing{} }
