package bond

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// sealedStream is what an end writes that sends these frames.
func sealedStream(s *seal, frames []frame) (stream []byte, ends []int) {
	for i := range frames {
		stream = s.append(appendFrame(stream, &frames[i]), len(stream))
		ends = append(ends, len(stream))
	}
	return stream, ends
}

// readSealed returns how many frames are taken, and why no more are.
func readSealed(stream []byte, s *seal) (n int, err error) {
	r := newFrameReader(bytes.NewReader(stream))
	r.seal = s
	for f := (frame{}); ; n++ {
		if err := r.next(&f); err != nil {
			return n, err
		}
	}
}

// The reader takes the frames of a damaged stream before the damage, and none after.
func TestSealedFrames(t *testing.T) {
	client, server := sealsOf(1)
	frames := sampleFrames()
	stream, ends := sealedStream(client.out, frames)
	if n, err := readSealed(stream, server.in); n != len(frames) || !errors.Is(err, io.EOF) {
		t.Fatalf("%d of %d frames, %v", n, len(frames), err)
	}
	cut := func(i int) (before, frame, after []byte) {
		start := 0
		if i > 0 {
			start = ends[i-1]
		}
		return stream[:start], stream[start:ends[i]], stream[ends[i]:]
	}
	for i := range frames {
		before, one, after := cut(i)
		other, _ := sealsOf(2)
		var resealed []byte
		for s, n := other.out, 0; n <= i; n++ { // the right frame in the right place, of another subflow
			resealed = s.append(appendFrame(nil, &frames[n]), 0)
		}
		back, _ := sealsOf(1)
		var reflected []byte
		for s, n := back.in, 0; n <= i; n++ {
			reflected = s.append(appendFrame(nil, &frames[n]), 0)
		}
		for name, b := range map[string][]byte{
			"repeated":           bytes.Join([][]byte{before, one, one, after}, nil),
			"left out":           bytes.Join([][]byte{before, after}, nil),
			"without its code":   bytes.Join([][]byte{before, one[:len(one)-sealSize], after}, nil),
			"of another subflow": bytes.Join([][]byte{before, resealed, after}, nil),
			"reflected":          bytes.Join([][]byte{before, reflected, after}, nil),
			"without a seal":     bytes.Join([][]byte{before, one[:len(one)-sealSize], make([]byte, sealSize), after}, nil),
		} {
			want := i
			if name == "repeated" {
				want++
			}
			if name == "left out" && i == len(frames)-1 {
				continue // a stream that ends early is a subflow that is lost
			}
			_, peer := sealsOf(1)
			if n, err := readSealed(b, peer.in); n != want || !errors.Is(err, errDamaged) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("frame %d %s: %d frames are taken, %v", i, name, n, err)
			}
		}
	}
}

// No bit of a frame can change without notice.
func TestSealedFramesAltered(t *testing.T) {
	for _, f := range sampleFrames() {
		client, _ := sealsOf(1)
		stream, _ := sealedStream(client.out, []frame{f})
		for i := range stream {
			if i > 100 && i < len(stream)-100 && i%97 != 0 {
				continue
			}
			for bit := range 8 {
				altered := bytes.Clone(stream)
				altered[i] ^= 1 << bit
				_, peer := sealsOf(1)
				if n, err := readSealed(altered, peer.in); n != 0 || !errors.Is(err, errDamaged) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatalf("%s with bit %d of byte %d altered: %d frames are taken, %v", f.typ, bit, i, n, err)
				}
			}
		}
	}
}

// Sealing is on the data path: it must not feed the garbage collector.
func TestSealAllocations(t *testing.T) {
	client, server := sealsOf(1)
	f := frame{typ: frameData, data: make([]byte, 1000)}
	b := make([]byte, 0, 2000)
	if n := testing.AllocsPerRun(1000, func() {
		b = client.out.append(appendFrame(b[:0], &f), 0)
		if end := len(b) - sealSize; !server.in.verify(b[:end], b[end:]) {
			t.Fatal("it does not verify")
		}
	}); n != 0 {
		t.Errorf("%v allocations per frame", n)
	}
}

// FuzzSealedFrames: whatever is done to a sealed stream, the reader takes the frames before the first byte that differs, and none
// after.
func FuzzSealedFrames(f *testing.F) {
	frames := sampleFrames()[:5]
	frames[1].data = frames[1].data[:300]
	client, _ := sealsOf(1)
	stream, ends := sealedStream(client.out, frames)
	f.Add(uint16(0), uint16(0), []byte{1})
	f.Add(uint16(40), uint16(5), []byte{})
	f.Add(uint16(ends[0]), uint16(0), stream[:ends[0]])
	f.Add(uint16(ends[0]), uint16(ends[1]-ends[0]), stream[:ends[0]])
	f.Add(uint16(len(stream)), uint16(0), []byte("\x01\x00\x00\x00\x00\x00\x00\x00\x00\x40\x00"))
	// from: where the stream is altered; by leaving out so many bytes and putting others in their place.
	f.Fuzz(func(t *testing.T, from, out uint16, in []byte) {
		start := min(int(from), len(stream))
		altered := bytes.Join([][]byte{stream[:start], in, stream[min(start+int(out), len(stream)):]}, nil)
		same := 0
		for same < min(len(stream), len(altered)) && stream[same] == altered[same] {
			same++
		}
		want := 0
		for want < len(ends) && ends[want] <= same {
			want++
		}
		_, peer := sealsOf(1)
		n, err := readSealed(altered, peer.in)
		if n != want {
			t.Fatalf("%d frames are taken, want %d; then %v", n, want, err)
		}
		if !errors.Is(err, errDamaged) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	})
}
