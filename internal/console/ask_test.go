package console

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

func TestConfirm(t *testing.T) {
	for typed, want := range map[string]bool{
		"y\n": true, "YES\n": true, " yes \r\n": true, "y": true, "n\n": false, "\n": false, "": false, "yess\n": false, "yes please\n": false,
	} {
		var asked strings.Builder
		got, err := Confirm(t.Context(), strings.NewReader(typed), &asked, "Go on? [y/N] ")
		if got != want || err != nil || asked.String() != "Go on? [y/N] " {
			t.Errorf("%q: %v, %v after %q", typed, got, err, asked.String())
		}
	}
}

// A question without an answer ends with its context.
func TestAskEnds(t *testing.T) {
	never, end := io.Pipe()
	defer end.Close() // and with it the reader
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("interrupted")
	cancel(why)
	if line, err := Ask(ctx, never, io.Discard, "?"); line != "" || !errors.Is(err, why) {
		t.Errorf("%q, %v", line, err)
	}
	if _, err := Ask(t.Context(), never, failing{}, "?"); err == nil {
		t.Error("a question that nobody can see was asked")
	}
}

func TestCanAsk(t *testing.T) {
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if CanAsk(file) {
		t.Error("somebody can answer at " + os.DevNull)
	}
}

// failing is a writer whose reader is gone.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
