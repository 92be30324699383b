// Package vectors has the transcripts of sessions between AWS's own agent and clients, for the tests of each end of a session and of the
// lab's gateway. testdata/README.md describes them.
package vectors

import (
	"bufio"
	"embed"
	"encoding/hex"
	"encoding/json"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

//go:embed testdata/*.jsonl
var files embed.FS

// Event is a line of a transcript.
type Event struct {
	MS    float64 // since StartSession
	From  string
	Event string
	Info  json.RawMessage
	Frame string // in hexadecimal

	Raw     []byte        // of an event "frame"
	Message frame.Message // the same, decoded
}

// At is the event's time since StartSession.
func (e *Event) At() time.Duration { return time.Duration(e.MS * float64(time.Millisecond)) }

// Lane says whom a frame of the gateway's is for: "up" is the agent, "down" the client.
func (e *Event) Lane() string {
	var info struct{ Lane string }
	_ = json.Unmarshal(e.Info, &info) // other events have other infos
	return info.Lane
}

// All returns the transcripts by their names.
func All(t testing.TB) map[string][]*Event {
	t.Helper()
	entries, err := files.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string][]*Event, len(entries))
	for _, entry := range entries {
		name := strings.TrimSuffix(entry.Name(), ".jsonl")
		all[name] = Read(t, name)
	}
	return all
}

// Read returns the transcript of a name.
func Read(t testing.TB, name string) (events []*Event) {
	t.Helper()
	file, err := files.Open(path.Join("testdata", name+".jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		e := new(Event)
		if err := json.Unmarshal(lines.Bytes(), e); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if e.Event == "frame" {
			if e.Raw, err = hex.DecodeString(e.Frame); err != nil {
				t.Fatalf("%s at %v ms: %v", name, e.MS, err)
			}
			if e.Message, err = frame.Decode(e.Raw); err != nil {
				t.Fatalf("%s at %v ms: %v", name, e.MS, err)
			}
		}
		events = append(events, e)
	}
	if err := lines.Err(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return events
}
