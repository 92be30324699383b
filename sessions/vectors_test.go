package sessions

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

// event is a line of a transcript; testdata/vectors/README.md describes it.
type event struct {
	MS    float64
	From  string
	Event string
	Info  json.RawMessage
	Frame string

	raw []byte
	msg frame.Message
}

func (e *event) at() time.Duration { return time.Duration(e.MS * float64(time.Millisecond)) }

// lane says whom a frame of the gateway's is for.
func (e *event) lane() string {
	var info struct{ Lane string }
	_ = json.Unmarshal(e.Info, &info) // other events have other infos
	return info.Lane
}

// transcripts reads all of them.
func transcripts(t testing.TB) map[string][]*event {
	t.Helper()
	files, err := filepath.Glob("testdata/vectors/*.jsonl")
	if err != nil || len(files) != 9 {
		t.Fatalf("%d transcripts, want 9: %v", len(files), err)
	}
	all := map[string][]*event{}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var events []*event
		lines := bufio.NewScanner(bytes.NewReader(data))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			e := new(event)
			if err := json.Unmarshal(lines.Bytes(), e); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if e.Event == "frame" {
				if e.raw, err = hex.DecodeString(e.Frame); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if e.msg, err = frame.Decode(e.raw); err != nil {
					t.Fatalf("%s at %v ms: %v", name, e.MS, err)
				}
			}
			events = append(events, e)
		}
		all[strings.TrimSuffix(filepath.Base(name), ".jsonl")] = events
	}
	return all
}
