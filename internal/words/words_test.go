package words

import "testing"

func TestWords(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{Count(0, "session"), "0 sessions"},
		{Count(1, "session"), "1 session"},
		{Count(2, "session"), "2 sessions"},
		{Bytes(0), "0 B"},
		{Bytes(999), "999 B"},
		{Bytes(1000), "1.0 kB"},
		{Bytes(12_345_678), "12.3 MB"},
		{Parenthesis(""), ""},
		{Parenthesis("idle"), " (idle)"},
		{Dash(""), "-"},
		{Dash("x"), "x"},
	} {
		if tt.got != tt.want {
			t.Errorf("%q, want %q", tt.got, tt.want)
		}
	}
}
