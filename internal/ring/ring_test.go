package ring

import "testing"

func TestRing(t *testing.T) {
	var r Ring[*int]
	next, first := 0, 0
	for round := range 100 {
		for range round {
			v := next
			r.Push(&v)
			next++
		}
		for range round / 2 {
			if got := **r.At(0); got != first {
				t.Fatalf("%d in front, want %d", got, first)
			}
			if got := *r.Pop(); got != first {
				t.Fatalf("%d taken, want %d", got, first)
			}
			first++
		}
		for i := range r.Len() {
			if got := **r.At(i); got != first+i {
				t.Fatalf("%d at %d, want %d", got, i, first+i)
			}
		}
		held := 0
		for _, v := range r.buf {
			if v != nil {
				held++
			}
		}
		if held != r.Len() || next-first != r.Len() {
			t.Fatalf("%d elements are held, and %d there, want %d", held, r.Len(), next-first)
		}
	}
	if r.Clear(); r.Len() != 0 {
		t.Errorf("%d left", r.Len())
	}
	v := 7
	if r.Push(&v); r.Len() != 1 || *r.Pop() != 7 {
		t.Error("not as new after Clear")
	}
}
