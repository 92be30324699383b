package duration

import (
	"strings"
	"testing"
	"time"
)

func TestString(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"0s": 0, "10s": 10 * time.Second, "1m": time.Minute, "10m": 10 * time.Minute, "1h": time.Hour, "10h": 10 * time.Hour,
		"1h30m": 90 * time.Minute, "1h0m5s": time.Hour + 5*time.Second, "1m5s": 65 * time.Second, "250ms": time.Second / 4,
	} {
		if got := String(d); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if got, err := Parse(want); got != d || err != nil {
			t.Errorf("Parse(%q) = %v, %v", want, got, err)
		}
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"90": `"90" has no unit; write for example 90s or 90m`, "": "is not a duration", "soon": "is not a duration such as 90s",
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}
