package sessions

import "testing"

func TestRecvQueue(t *testing.T) {
	type step struct {
		seq  int64
		full bool // the reader has no room
		want recvVerdict
		pops int // messages that follow at once
	}
	for name, steps := range map[string][]step{
		"in order":            {{seq: 0, want: recvNext}, {seq: 1, want: recvNext}},
		"duplicate":           {{seq: 0, want: recvNext}, {seq: 0, want: recvDuplicate}},
		"swapped":             {{seq: 1, want: recvHeld}, {seq: 0, want: recvNext, pops: 1}, {seq: 2, want: recvNext}},
		"duplicate of a held": {{seq: 1, want: recvHeld}, {seq: 1, want: recvDuplicate}, {seq: 0, want: recvNext, pops: 1}},
		"gap in the held":     {{seq: 1, want: recvHeld}, {seq: 3, want: recvHeld}, {seq: 0, want: recvNext, pops: 1}, {seq: 2, want: recvNext, pops: 1}},
		"too far ahead":       {{seq: 8, want: recvDropped}, {seq: 7, want: recvHeld}},
		"too many bytes":      {{seq: 1, want: recvHeld}, {seq: 2, want: recvHeld}, {seq: 3, want: recvHeld}, {seq: 4, want: recvDropped}, {seq: 0, want: recvNext, pops: 3}},
		"room again": {
			{seq: 1, want: recvHeld},
			{seq: 2, want: recvHeld},
			{seq: 3, want: recvHeld},
			{seq: 0, want: recvNext, pops: 3},
			{seq: 5, want: recvHeld},
			{seq: 6, want: recvHeld},
			{seq: 7, want: recvHeld},
			{seq: 8, want: recvDropped},
		},
		"reader full":          {{seq: 0, full: true, want: recvDropped}, {seq: 0, want: recvNext}},
		"reader full and gap":  {{seq: 1, full: true, want: recvHeld}, {seq: 0, full: true, want: recvDropped}, {seq: 0, want: recvNext, pops: 1}},
		"largest number there": {{seq: 1<<63 - 1, want: recvDropped}},
	} {
		t.Run(name, func(t *testing.T) {
			q := newRecvQueue[int64](300, 8)
			next := int64(0)
			for i, s := range steps {
				if got := q.push(s.seq, s.seq, 100, !s.full); got != s.want {
					t.Fatalf("step %d: verdict %d, want %d", i, got, s.want)
				}
				if s.want == recvNext {
					next = s.seq + 1
				}
				for range s.pops {
					if v, ok := q.pop(); !ok || v != next {
						t.Fatalf("step %d: popped %d %v, want %d", i, v, ok, next)
					}
					next++
				}
				if v, ok := q.pop(); ok {
					t.Fatalf("step %d: popped %d too", i, v)
				}
			}
		})
	}
}

// FuzzReceiveQueue pushes numbers in any order. It checks that every number comes out once, in order, whatever the queue refused,
// and that the queue keeps every acknowledged message.
func FuzzReceiveQueue(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3})
	f.Add([]byte{3, 2, 1, 0, 0, 4})
	f.Fuzz(func(t *testing.T, ops []byte) {
		const maxBytes, maxSpan = 1000, 40
		q := newRecvQueue[int64](maxBytes, maxSpan)
		kept := map[int64]int{} // acknowledged and not consumed, with their sizes
		next := int64(0)
		for len(ops) >= 2 {
			seq := next + int64(ops[0]%64) - 8
			size, full := int(ops[1]), ops[1]%5 == 0
			ops = ops[2:]
			if seq < 0 {
				continue
			}
			_, have := kept[seq]
			bytes := 0
			for _, n := range kept {
				bytes += n
			}
			got := q.push(seq, seq, size, !full)
			want := recvHeld
			switch {
			case seq < next || have:
				want = recvDuplicate
			case seq == next && full, seq > next && (seq-next >= maxSpan || bytes+size > maxBytes):
				want = recvDropped
			case seq == next:
				want = recvNext
			}
			if got != want {
				t.Fatalf("number %d of %d bytes with %d next: verdict %d, want %d", seq, size, next, got, want)
			}
			if want == recvHeld {
				kept[seq] = size
			}
			if want != recvNext {
				continue
			}
			for next++; ; next++ {
				v, ok := q.pop()
				if _, have := kept[next]; have != ok {
					t.Fatalf("%d next: popped is %v, kept is %v", next, ok, have)
				}
				if !ok {
					break
				}
				if v != next {
					t.Fatalf("popped %d, want %d", v, next)
				}
				delete(kept, next)
			}
			if q.gap() != (len(kept) > 0) {
				t.Fatalf("gap %v with %d kept", q.gap(), len(kept))
			}
		}
	})
}
