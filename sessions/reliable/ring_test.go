package reliable

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestByteRing(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var r ByteRing
	var want []byte
	for i := range 20000 {
		if rng.IntN(2) == 0 {
			p := randomBytes(rng, rng.IntN(700))
			r.Write(p)
			want = append(want, p...)
		} else {
			got := make([]byte, rng.IntN(800))
			peeked := bytes.Clone(got[:r.peek(got)])
			got = got[:r.Read(got)]
			if !bytes.Equal(got, want[:len(got)]) || !bytes.Equal(peeked, got) || len(got) == 0 && cap(got) > 0 && len(want) > 0 {
				t.Fatalf("step %d: read %d bytes, or other ones", i, len(got))
			}
			want = want[len(got):]
		}
		if r.Len() != len(want) {
			t.Fatalf("step %d: %d bytes, want %d", i, r.Len(), len(want))
		}
	}
}

// Storage stays while it is used, and goes when it is not.
func TestByteRingStorage(t *testing.T) {
	var r ByteRing
	big, small := make([]byte, 1<<20), make([]byte, 10)
	for range 1000 {
		r.Write(big)
		r.Read(big)
	}
	if n := testing.AllocsPerRun(1000, func() { r.Write(big); r.Read(big) }); n > 0 {
		t.Errorf("%v allocations for each use", n)
	}
	for range 3 * judgeAfter {
		r.Write(small)
		r.Read(small)
	}
	if len(r.buf) > keepBytes {
		t.Errorf("%d bytes of storage for messages of %d", len(r.buf), len(small))
	}
}

func randomBytes(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}
