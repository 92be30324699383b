package access

import (
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/keys"
)

func TestRefusal(t *testing.T) {
	for code, want := range map[string]fail.Kind{
		keys.CodeInvalid: fail.Denied, keys.CodeExpired: fail.Denied, keys.CodeFull: fail.Start,
		keys.CodeDraining: fail.Start, keys.CodeNoServer: fail.Start, "new": fail.Denied,
	} {
		err := refusal("op", keys.GrantReply{Code: code, Error: "no"})
		if got := fail.KindOf(err); got != want {
			t.Errorf("%s: kind %v, want %v", code, got, want)
		}
		if isTransient(err) != (code == keys.CodeNoServer) {
			t.Errorf("%s: transient %v", code, isTransient(err))
		}
	}
	if err := refusal("op", keys.GrantReply{HostKey: "x"}); err != nil {
		t.Errorf("an accepted grant: %v", err)
	}
}

func TestLastLine(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "\r\n\r\n": "", "a\r\nb\r\n": "b", "one": "one", "x\n  y  \n\n": "y",
		strings.Repeat("z", 300): strings.Repeat("z", 200) + "...",
	} {
		if got := lastLine([]byte(in)); got != want {
			t.Errorf("lastLine(%.20q) = %q, want %q", in, got, want)
		}
	}
}
