package console

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestReaderGone(t *testing.T) {
	for err, want := range map[error]bool{
		&outputError{syscall.EPIPE}: true, fmt.Errorf("print: %w", &outputError{fmt.Errorf("write: %w", syscall.EPIPE)}): true,
		&outputError{syscall.ENOSPC}: false, syscall.EPIPE: false, nil: false,
	} {
		if ReaderGone(err) != want {
			t.Errorf("%v: %t", err, !want)
		}
	}
}

// A list that is missing is an empty one wherever it stands, and all else is as it was.
func TestListed(t *testing.T) {
	type inner struct {
		Text string
		List []int
	}
	at := time.Unix(1, 0).UTC()
	in := struct {
		At     time.Time
		Inner  []inner
		By     map[string][]string
		Any    any
		Bytes  []byte
		At2    *inner
		hidden []int
	}{At: at, Inner: []inner{{Text: "a"}}, By: map[string][]string{"x": nil}, Any: inner{Text: "b"}, At2: &inner{Text: "c"}}
	var b bytes.Buffer
	if err := WriteJSON(&b, in, ""); err != nil {
		t.Fatal(err)
	}
	want := `{"At":"1970-01-01T00:00:01Z","Inner":[{"Text":"a","List":[]}],"By":{"x":[]},"Any":{"Text":"b","List":[]},"Bytes":null,` +
		`"At2":{"Text":"c","List":[]}}`
	if got := strings.TrimSpace(b.String()); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if in.hidden != nil || in.Inner[0].List != nil || listed(reflect.ValueOf(nil)).IsValid() {
		t.Errorf("the value itself has changed: %+v", in)
	}
}

// An argument has one line, unless it is a paragraph, whose further lines are indented.
func TestPrintf(t *testing.T) {
	var b bytes.Buffer
	if err := Printf(&b, "%s, %d, %q: %s\n", "a\nb\x1b[2J", 3, "x\n", Paragraph("one\n\ttwo\n")); err != nil {
		t.Fatal(err)
	}
	if want := "a b?[2J, 3, \"x\\n\": one\n   two\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}
