package bond

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// sampleFrames are one of each type, and the extremes.
func sampleFrames() []frame {
	return []frame{
		{typ: frameData, dsn: 7, data: []byte("x")},
		{typ: frameData, dsn: math.MaxUint64, data: bytes.Repeat([]byte{0xa5}, maxData)},
		{typ: frameFIN, dsn: 1 << 40},
		{typ: frameAck, ack: 1, limit: 2, received: 3, delay: 4},
		{typ: frameAck, ack: math.MaxUint64, limit: math.MaxUint64, received: math.MaxUint64, delay: math.MaxUint32},
		{typ: framePing, token: 0x0102030405060708},
		{typ: framePong, token: 9},
		{typ: frameWant},
		{typ: frameLeave},
		{typ: frameReset, code: ResetProtocol, text: "no"},
		{typ: frameReset, code: 65535, text: strings.Repeat("é", 127)},
		{typ: frameReset, code: ResetAborted},
	}
}

func TestFrames(t *testing.T) {
	var stream []byte
	want := sampleFrames()
	for i := range want {
		before := len(stream)
		stream = appendFrame(stream, &want[i])
		switch got := len(stream) - before; want[i].typ {
		case frameData:
			if got != dataHeader+len(want[i].data) {
				t.Errorf("DATA takes %d bytes", got)
			}
		case frameFIN:
			if got != finSize {
				t.Errorf("FIN takes %d bytes", got)
			}
		}
	}
	for name, r := range map[string]io.Reader{
		"at once":      bytes.NewReader(stream),
		"byte by byte": iotest.OneByteReader(bytes.NewReader(stream)),
		"halves":       iotest.HalfReader(bytes.NewReader(stream)),
		"data and EOF": iotest.DataErrReader(bytes.NewReader(stream)),
	} {
		t.Run(name, func(t *testing.T) {
			fr := newFrameReader(r)
			for _, want := range want {
				var got frame
				if err := fr.next(&got); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, got, cmp.AllowUnexported(frame{})); diff != "" {
					t.Error(diff)
				}
			}
			var f frame
			if err := fr.next(&f); err != io.EOF { //nolint:errorlint // between frames it is io.EOF itself
				t.Errorf("at the end: %v", err)
			}
		})
	}
}

// A stream that ends within a frame did not end in good order, wherever the cut is.
func TestFrameCut(t *testing.T) {
	for _, f := range sampleFrames() {
		whole := appendFrame(nil, &f)
		for n := 1; n < len(whole); n += 1 + n/50 {
			var got frame
			err := newFrameReader(bytes.NewReader(whole[:n])).next(&got)
			if err != io.ErrUnexpectedEOF { //nolint:errorlint // it is itself
				t.Fatalf("%s cut to %d of %d bytes: %v", f.typ, n, len(whole), err)
			}
		}
	}
}

// The error of a subflow's stream is passed on as it is, in whatever part of a frame it comes.
func TestFrameReadError(t *testing.T) {
	broken := errors.New("broken")
	whole := appendFrame(nil, &frame{typ: frameData, dsn: 1, data: make([]byte, 100)})
	for n := range whole {
		var f frame
		err := newFrameReader(io.MultiReader(bytes.NewReader(whole[:n]), iotest.ErrReader(broken))).next(&f)
		if !errors.Is(err, broken) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	}
}

func TestMalformedFrames(t *testing.T) {
	zeros := strings.Repeat("\x00", 8)
	for want, bytes := range map[string]string{
		"unknown frame of type 0":         "\x00",
		"unknown frame of type 9":         "\x09",
		"unknown frame of type 66":        "BOND",
		"DATA of 0 bytes":                 "\x01" + zeros + "\x00\x00",
		"DATA of 16385 bytes":             "\x01" + zeros + "\x40\x01",
		"DATA of 65535 bytes":             "\x01" + zeros + "\xff\xff",
		"RESET with a text of 256 bytes":  "\x08\x00\x02\x01\x00",
		"RESET with a text of 65280 byte": "\x08\x00\x02\xff\x00",
	} {
		var f frame
		err := newFrameReader(strings.NewReader(bytes)).next(&f)
		if violation := new(protocolError); !errors.As(err, &violation) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", bytes, err, want)
		}
	}
}

func TestAppendFramePanics(t *testing.T) {
	for _, f := range []frame{
		{typ: frameData},
		{typ: frameData, data: make([]byte, maxData+1)},
		{typ: frameReset, text: strings.Repeat("x", maxText+1)},
		{typ: 0},
		{typ: 10},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s with %d bytes is encoded", f.typ, len(f.data)+len(f.text))
				}
			}()
			appendFrame(nil, &f)
		}()
	}
}

func TestClipText(t *testing.T) {
	for in, want := range map[string]string{
		"":                             "",
		"plain":                        "plain",
		strings.Repeat("x", 255):       strings.Repeat("x", 255),
		strings.Repeat("x", 256):       strings.Repeat("x", 255),
		strings.Repeat("é", 128):       strings.Repeat("é", 127),
		"x" + strings.Repeat("😀", 64):  "x" + strings.Repeat("😀", 63),
		"a\xffb":                       "ab",
		strings.Repeat("\x80", 300):    "",
		strings.Repeat("\xc3\x28", 99): strings.Repeat("(", 99),
	} {
		if got := clipText(in); got != want || len(got) > maxText || !utf8.ValidString(got) {
			t.Errorf("clipText(%q) = %q, want %q", in, got, want)
		}
	}
}

// Reading is on the data path: it must not feed the garbage collector.
func TestFrameReaderAllocations(t *testing.T) {
	var stream []byte
	for range 20 {
		stream = appendFrame(stream, &frame{typ: frameData, dsn: 1, data: make([]byte, 1000)})
		stream = appendFrame(stream, &frame{typ: frameAck, ack: 1})
	}
	r := newFrameReader(endless{stream, new(int)})
	var f frame
	if n := testing.AllocsPerRun(1000, func() {
		for range 2 {
			if err := r.next(&f); err != nil {
				t.Fatal(err)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations per DATA and ACK", n)
	}
	dst := make([]byte, 0, len(stream))
	out := frame{typ: frameData, data: make([]byte, 1000)}
	if n := testing.AllocsPerRun(1000, func() { dst = appendFrame(dst[:0], &out) }); n != 0 {
		t.Errorf("%v allocations per frame encoded", n)
	}
}

// endless repeats bytes for ever.
type endless struct {
	b   []byte
	pos *int
}

func (e endless) Read(p []byte) (int, error) {
	n := copy(p, e.b[*e.pos:])
	*e.pos = (*e.pos + n) % len(e.b)
	return n, nil
}

// What a peer says is quoted, because an error reaches terminals and logs.
func TestErrorTexts(t *testing.T) {
	for want, err := range map[string]error{
		`bond reset by the far end: out of memory ("a\x1b[2Jb\n")`: &ResetError{Code: ResetMemory, Reason: "a\x1b[2Jb\n", Remote: true},
		`bond reset: aborted`:                                               &ResetError{Code: ResetAborted},
		`bond reset: code 77`:                                               &ResetError{Code: 77},
		`bond subflow refused: unknown connection ("\xff")`:                 &RefusedError{Code: RefuseUnknown, Reason: "\xff"},
		`bond subflow refused: code 200`:                                    &RefusedError{Code: 200},
		`the peer violates the bond protocol: it begins with "\x00", not x`: protocolErrorf("it begins with %q, not x", "\x00"),
	} {
		if got := err.Error(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	names := map[string]bool{}
	for code := RefuseVersion; code <= RefuseUsed; code++ {
		err := &RefusedError{Code: code}
		names[code.String()] = true
		fatal := code == RefuseVersion || code == RefuseUnknown || code == RefuseMAC || code == RefuseClosed
		if err.Fatal() != fatal {
			t.Errorf("%v: fatal %v", err, err.Fatal())
		}
	}
	for code := ResetAborted; code <= ResetLinger; code++ {
		names[code.String()] = true
	}
	for typ := frameData; typ <= frameReset; typ++ {
		names[typ.String()] = true
	}
	for name := range names {
		if strings.HasPrefix(name, "code ") || strings.HasPrefix(name, "frame of") {
			t.Errorf("a code without a name: %s", name)
		}
	}
	// "shutting down" and "out of memory" are codes of both.
	if want := 10 + 5 + 8 - 2; len(names) != want {
		t.Errorf("%d names, want %d: %v", len(names), want, names)
	}
}

// FuzzFrames: whatever is accepted encodes to the very same bytes, and how the stream is cut into reads changes nothing.
func FuzzFrames(f *testing.F) {
	var all []byte
	for _, s := range sampleFrames() {
		one := appendFrame(nil, &s)
		if len(one) < 1000 {
			f.Add(one)
			all = append(all, one...)
		}
	}
	f.Add(all)
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x00\x00\xff\xffgiant"))
	f.Add([]byte("\x08\x00\x01\x01\x00long"))
	f.Fuzz(func(t *testing.T, in []byte) {
		parse := func(r io.Reader) (out []byte, err error) {
			fr := newFrameReader(r)
			for {
				var f frame
				if err := fr.next(&f); err != nil {
					return out, err
				}
				out = appendFrame(out, &f)
			}
		}
		out, err := parse(bytes.NewReader(in))
		if !bytes.HasPrefix(in, out) {
			t.Fatalf("read %x, which encodes to %x", in, out)
		}
		violation := new(protocolError)
		switch {
		case errors.Is(err, io.EOF):
			if len(out) != len(in) {
				t.Fatalf("%d of %d bytes accepted, and then a good end", len(out), len(in))
			}
		case !errors.Is(err, io.ErrUnexpectedEOF) && !errors.As(err, &violation):
			t.Fatal(err)
		}
		again, errAgain := parse(iotest.OneByteReader(bytes.NewReader(in)))
		if !bytes.Equal(out, again) || fmt.Sprint(err) != fmt.Sprint(errAgain) {
			t.Fatalf("read at once: %x, %v; byte by byte: %x, %v", out, err, again, errAgain)
		}
	})
}
