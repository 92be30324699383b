package commands

import (
	"errors"
	"io"
	"slices"
	"testing"
)

// The log in JSON is an object for each whole line, however the file is read.
func TestLogLines(t *testing.T) {
	var got []string
	l := &logLines{print: func(line string) error { got = append(got, line); return nil }}
	for _, part := range []string{"one\ntw", "", "o\n\nfour\nfi"} {
		if _, err := io.WriteString(l, part); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"one", "two", "", "four"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	l.print = func(string) error { return errors.New("full") }
	if _, err := io.WriteString(l, "x\n"); err == nil {
		t.Error("an error is lost")
	}
}
