package service

import (
	"slices"
	"testing"

	"github.com/bastion-ssm/bastion/internal/fail"
)

func TestEscape(t *testing.T) {
	program, arg := "/opt/100%/bastion", "--profile=it's me"
	if err := escape(&program, &arg); err != nil ||
		!slices.Equal([]string{program, arg}, []string{"/opt/100%%/bastion", "--profile=it's me"}) {
		t.Errorf("%q, %q, %v", program, arg, err)
	}
	for _, bad := range []string{"a\"b", `a\b`, "$HOME", "a\nb", "a\x7fb"} {
		if err := escape(&bad); fail.KindOf(err) != fail.Usage || fail.NextOf(err) == "" {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
