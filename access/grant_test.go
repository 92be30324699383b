package access

import (
	"errors"
	"fmt"
	"io"
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
	// Root in the task has no capability, and the image's bastiond does not expect that: it lasts.
	shut := refusal("op", keys.GrantReply{
		Code: keys.CodeNoServer, Error: "control socket: dial unix /run/bastiond/control.sock: connect: permission denied",
	})
	if isTransient(shut) || !strings.Contains(fail.NextOf(shut), "linuxParameters.capabilities") {
		t.Errorf("%v (%s)", shut, fail.NextOf(shut))
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

// A program in bastiond's place may print its arguments. The grant among them, whole or in part, is in no error.
func TestGrantIsHidden(t *testing.T) {
	word := "v2." + strings.Repeat("c2VjcmV0LWJ5dGVz", 40)
	for name, err := range map[string]error{
		"printed":    noAnswer("op", "/bin/echo", word, []byte("grant "+word+"\r\n"), io.EOF),
		"in quotes":  noAnswer("op", "/bin/echo", word, []byte("sh: '"+word+"': not found"), io.EOF),
		"cut":        noAnswer("op", "/bin/echo", word, []byte("a\n"+word[100:150]), io.EOF),
		"of the end": noAnswer("op", "/bin/echo", word, nil, fmt.Errorf("closed: cannot run grant %s: %w", word, io.EOF)),
	} {
		for i := range len(word) - 20 {
			if strings.Contains(err.Error(), word[i:i+20]) {
				t.Errorf("%s: %v", name, err)
				break
			}
		}
		if !strings.Contains(err.Error(), "(the grant)") {
			t.Errorf("%s: %v", name, err)
		}
		if name == "of the end" && !errors.Is(err, io.EOF) {
			t.Errorf("%v has lost its cause", err)
		}
	}
	if err := noAnswer("op", "c", word, []byte("no such file or directory"), io.EOF); !strings.Contains(err.Error(), "answered: no such file") {
		t.Errorf("%v", err)
	}
}
