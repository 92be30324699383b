// Package ring has the queue of data in flight for a session's stream and for each subflow of a bond.
package ring

// Ring is a queue on a circular slice that grows as needed; its user bounds it. The zero value is empty.
type Ring[T any] struct {
	buf  []T // length zero or a power of two
	head int
	n    int
}

// Len returns the number of elements.
func (r *Ring[T]) Len() int { return r.n }

// At returns the i-th element from the front. It is valid until the next Push or Pop.
func (r *Ring[T]) At(i int) *T { return &r.buf[(r.head+i)&(len(r.buf)-1)] }

// Push appends v.
func (r *Ring[T]) Push(v T) {
	if r.n == len(r.buf) {
		grown := make([]T, max(16, 2*len(r.buf)))
		for i := range r.n {
			grown[i] = *r.At(i)
		}
		r.buf, r.head = grown, 0
	}
	r.n++
	*r.At(r.n - 1) = v
}

// Pop removes and returns the first element. The Ring must not be empty.
func (r *Ring[T]) Pop() T {
	var zero T
	front := r.At(0)
	v := *front
	*front = zero
	r.head = (r.head + 1) & (len(r.buf) - 1)
	r.n--
	return v
}

// Clear removes all elements.
func (r *Ring[T]) Clear() {
	for r.n > 0 {
		r.Pop()
	}
	r.head = 0
}
