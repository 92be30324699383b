package frame

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
)

// recorded returns every frame of the transcripts.
func recorded(t testing.TB) [][]byte {
	t.Helper()
	files, err := filepath.Glob("../../e2e/vectors/testdata/*.jsonl")
	if err != nil || len(files) != 9 {
		t.Fatalf("%d transcripts: %v", len(files), err)
	}
	var frames [][]byte
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(bytes.NewReader(data))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var e struct{ Frame string }
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if e.Frame == "" {
				continue
			}
			b, err := hex.DecodeString(e.Frame)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			frames = append(frames, b)
		}
	}
	return frames
}

// Every frame of AWS's own peers decodes, and encodes to the same bytes, both as decoded and when made from its fields.
func TestRecorded(t *testing.T) {
	frames := recorded(t)
	if len(frames) < 400 {
		t.Fatalf("%d frames", len(frames))
	}
	data := map[string]Message{}
	for _, b := range frames {
		before := bytes.Clone(b)
		m, err := Decode(b)
		if err != nil {
			t.Fatalf("%v\n%s", err, hex.Dump(b))
		}
		if !bytes.Equal(b, before) {
			t.Fatal("Decode has changed what it read")
		}
		if got := m.Append([]byte("x"))[1:]; !bytes.Equal(got, b) {
			t.Fatalf("%s\nbecame\n%s", hex.Dump(b), hex.Dump(got))
		}
		made := Message{
			Type: m.Type, Schema: m.Schema, Created: m.Created, Seq: m.Seq, Flags: m.Flags, ID: m.ID,
			PayloadType: m.PayloadType, Payload: m.Payload,
		}
		if m.Type == ChannelClosed {
			continue // the recorder's own, in another form than ours; a client makes none
		}
		if got := made.Append(nil); !bytes.Equal(got, b) {
			t.Fatalf("%s\nmade anew became\n%s", hex.Dump(b), hex.Dump(got))
		}
		switch m.Type {
		case InputStreamData, OutputStreamData:
			data[m.ID.String()] = m
		case Acknowledge:
			a, err := ParseAck(m.Payload)
			if err != nil {
				t.Fatal(err)
			}
			of, ok := data[a.ID.String()]
			if !ok || of.Seq != a.Seq || of.Type != a.Type || !a.Sequential {
				t.Fatalf("ack %+v of %+v", a, of)
			}
			if got := AppendAck(nil, &of); !bytes.Equal(got, m.Payload) {
				t.Fatalf("ack %s, made here %s", m.Payload, got)
			}
		}
	}
}

func sample() Message {
	return Message{
		Type: InputStreamData, Created: time.UnixMilli(1_800_000_000_123), Seq: 7,
		ID: uuid.MustParse("00010203-0405-0607-0809-0a0b0c0d0e0f"), PayloadType: PayloadOutput, Payload: []byte("payload"),
	}
}

func TestAppendLayout(t *testing.T) {
	m := sample()
	b := m.Append(nil)
	want := sample()
	want.Schema = 1
	got, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Message{})); diff != "" {
		t.Error(diff)
	}
	// The halves of the id change places.
	if id := b[offID : offID+16]; !bytes.Equal(id, []byte{8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7}) {
		t.Errorf("id % x", id)
	}
	if string(b[offType:offType+typeLen]) != "input_stream_data               " {
		t.Errorf("type %q", b[offType:offType+typeLen])
	}
	m.Type = ChannelClosed
	if b = m.Append(nil); len(b) != headerLenClosed+4+len(m.Payload) || b[offType+typeLen-1] != 0 {
		t.Errorf("channel_closed:\n%s", hex.Dump(b))
	}
}

func TestDecodeRefuses(t *testing.T) {
	m := sample()
	good := m.Append(nil)
	change := func(at int, b ...byte) []byte {
		bad := bytes.Clone(good)
		copy(bad[at:], b)
		return bad
	}
	for name, b := range map[string][]byte{
		"nothing":                nil,
		"one byte":               good[:1],
		"a header's half":        good[:60],
		"no payload length":      good[:headerLen],
		"a payload cut short":    good[:len(good)-1],
		"bytes after it":         append(bytes.Clone(good), 0),
		"header length 0":        change(0, 0, 0, 0, 0),
		"header length 113":      change(3, 113),
		"header length 2^32-1":   change(0, 255, 255, 255, 255),
		"payload length 2^32-1":  change(headerLen, 255, 255, 255, 255),
		"payload longer":         change(headerLen+3, 8),
		"payload tampered with":  change(headerLen+4, 'P'),
		"digest tampered with":   change(offDigest, 0, 0),
		"no type":                change(offType, bytes.Repeat([]byte{' '}, typeLen)...),
		"type with NUL inside":   change(offType+3, 0),
		"type padded both ways":  change(offType+typeLen-1, 0),
		"schema version 0":       change(offSchema, 0, 0, 0, 0),
		"sequence number -1":     change(offSeq, 255, 255, 255, 255, 255, 255, 255, 255),
		"short header, long one": change(3, headerLenClosed),
	} {
		if _, err := Decode(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	huge := sample()
	huge.Payload = make([]byte, MaxPayload+1)
	if _, err := Decode(huge.Append(nil)); !errors.Is(err, ErrMalformed) {
		t.Errorf("payload of %d bytes: %v", len(huge.Payload), err)
	}
	huge.Payload = huge.Payload[1:]
	if _, err := Decode(huge.Append(nil)); err != nil {
		t.Errorf("payload of %d bytes: %v", len(huge.Payload), err)
	}
}

func TestAppendPanicsOnLongType(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	m := sample()
	m.Type = MessageType(strings.Repeat("t", typeLen+1))
	m.Append(nil)
}

func TestParseAck(t *testing.T) {
	m := sample()
	usual := string(AppendAck(nil, &m))
	for name, tc := range map[string]struct {
		payload string
		ok      bool
	}{
		"usual":         {usual, true},
		"spaces":        {strings.ReplaceAll(usual, ",", ", "), true},
		"other order":   {`{"AcknowledgedMessageSequenceNumber":7,"AcknowledgedMessageType":"input_stream_data"}`, true},
		"empty":         {"", false},
		"not JSON":      {usual[:20], false},
		"no type":       {`{"AcknowledgedMessageSequenceNumber":7}`, false},
		"no number":     {`{"AcknowledgedMessageType":"input_stream_data","IsSequentialMessage":true}`, false},
		"negative":      {strings.Replace(usual, ":7,", ":-7,", 1), false},
		"not a number":  {strings.Replace(usual, ":7,", ":x,", 1), false},
		"beyond int64":  {strings.Replace(usual, ":7,", ":99999999999999999999,", 1), false},
		"id not a UUID": {strings.Replace(usual, "-", "_", 1), false},
	} {
		a, err := ParseAck([]byte(tc.payload))
		if tc.ok != (err == nil) || err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
		if tc.ok && (a.Seq != 7 || a.Type != InputStreamData) {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

// FuzzDecode checks that nothing makes Decode panic, and that what it accepts encodes to the same bytes: no message has two
// forms.
func FuzzDecode(f *testing.F) {
	m := sample()
	f.Add(m.Append(nil))
	m.Type = ChannelClosed
	f.Add(m.Append(nil))
	m.Type, m.Payload = Acknowledge, AppendAck(nil, &m)
	f.Add(m.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		decodeRoundTrip(t, b)
		// Most changes only break the digest: mend it, to get further.
		for _, hlen := range []int{headerLenClosed, headerLen} {
			if len(b) >= hlen+4 {
				mended := bytes.Clone(b)
				sum := sha256.Sum256(b[hlen+4:])
				copy(mended[offDigest:], sum[:])
				decodeRoundTrip(t, mended)
			}
		}
	})
}

func decodeRoundTrip(t *testing.T, b []byte) {
	m, err := Decode(b)
	if err != nil {
		if !errors.Is(err, ErrMalformed) {
			t.Fatalf("%v is not ErrMalformed", err)
		}
		return
	}
	if got := m.Append(nil); !bytes.Equal(got, b) {
		t.Fatalf("%x\nbecame\n%x", b, got)
	}
	if m.Type == Acknowledge {
		ackRoundTrip(t, m.Payload)
	}
}

func FuzzParseAck(f *testing.F) {
	m := sample()
	f.Add(AppendAck(nil, &m))
	f.Fuzz(ackRoundTrip)
}

// ackRoundTrip checks the quick parser against the JSON decoder.
func ackRoundTrip(t *testing.T, payload []byte) {
	quick, ok := parseUsualAck(payload)
	if !ok {
		_, _ = ParseAck(payload) // must not panic
		return
	}
	var slow Ack
	if err := json.Unmarshal(payload, &slow); err != nil && quick.Seq < 10 {
		// A number with a leading zero is none in JSON; everything else must be the same to both.
		return
	} else if err == nil && slow != quick {
		t.Fatalf("%s: %+v and %+v", payload, quick, slow)
	}
}

func BenchmarkDecode(b *testing.B) {
	m := sample()
	m.Payload = make([]byte, 1024)
	msg := m.Append(nil)
	b.SetBytes(int64(len(m.Payload)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(msg); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseAck(b *testing.B) {
	m := sample()
	ack := AppendAck(nil, &m)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseAck(ack); err != nil {
			b.Fatal(err)
		}
	}
}
