package reliable

import "testing"

func TestRecvQueue(t *testing.T) {
	type step struct {
		seq  int64
		full bool // the reader has no room
		want Verdict
		pops int // messages that follow at once
	}
	for name, steps := range map[string][]step{
		"in order":            {{seq: 0, want: Consume}, {seq: 1, want: Consume}},
		"duplicate":           {{seq: 0, want: Consume}, {seq: 0, want: Duplicate}},
		"swapped":             {{seq: 1, want: Keep}, {seq: 0, want: Consume, pops: 1}, {seq: 2, want: Consume}},
		"duplicate of a held": {{seq: 1, want: Keep}, {seq: 1, want: Duplicate}, {seq: 0, want: Consume, pops: 1}},
		"gap in the held":     {{seq: 1, want: Keep}, {seq: 3, want: Keep}, {seq: 0, want: Consume, pops: 1}, {seq: 2, want: Consume, pops: 1}},
		"too far ahead":       {{seq: 8, want: Drop}, {seq: 7, want: Keep}},
		"too many bytes":      {{seq: 1, want: Keep}, {seq: 2, want: Keep}, {seq: 3, want: Keep}, {seq: 4, want: Drop}, {seq: 0, want: Consume, pops: 3}},
		"room again": {
			{seq: 1, want: Keep},
			{seq: 2, want: Keep},
			{seq: 3, want: Keep},
			{seq: 0, want: Consume, pops: 3},
			{seq: 5, want: Keep},
			{seq: 6, want: Keep},
			{seq: 7, want: Keep},
			{seq: 8, want: Drop},
		},
		"reader full":          {{seq: 0, full: true, want: Drop}, {seq: 0, want: Consume}},
		"reader full and gap":  {{seq: 1, full: true, want: Keep}, {seq: 0, full: true, want: Drop}, {seq: 0, want: Consume, pops: 1}},
		"largest number there": {{seq: 1<<63 - 1, want: Drop}},
	} {
		t.Run(name, func(t *testing.T) {
			q := newRecvQueue[int64](300, 8)
			next := int64(0)
			for i, s := range steps {
				if got := q.push(s.seq, s.seq, 100, !s.full); got != s.want {
					t.Fatalf("step %d: verdict %d, want %d", i, got, s.want)
				}
				if s.want == Consume {
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
			want := Keep
			switch {
			case seq < next || have:
				want = Duplicate
			case seq == next && full, seq > next && (seq-next >= maxSpan || bytes+size > maxBytes):
				want = Drop
			case seq == next:
				want = Consume
			}
			if got != want {
				t.Fatalf("number %d of %d bytes with %d next: verdict %d, want %d", seq, size, next, got, want)
			}
			if want == Keep {
				kept[seq] = size
			}
			if want != Consume {
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
