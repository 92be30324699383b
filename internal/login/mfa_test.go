//go:build unix

package login_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/login"
)

// A command line has words, and no shell's meanings.
func TestWords(t *testing.T) {
	for command, want := range map[string][]string{
		"ykman oath accounts code --single aws": {"ykman", "oath", "accounts", "code", "--single", "aws"},
		`"C:\Program Files\x.exe" a`:            {`C:\Program Files\x.exe`, "a"},
		`x 'a "b" c' "d 'e'"`:                   {"x", `a "b" c`, "d 'e'"},
		`x a"b c"d ''`:                          {"x", "ab cd", ""},
		"x\t$HOME `y` *;z|&\n":                  {"x", "$HOME", "`y`", "*;z|&"},
		"":                                      nil,
		"  ":                                    nil,
		`'' x`:                                  nil,
		`x "y`:                                  nil,
	} {
		got, err := login.Words(command)
		if !slices.Equal(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%q: %q, %v", command, got, err)
		}
	}
}

// A program's output is the code: six digits and nothing else. Its failure is an error without its output.
func TestCodeBy(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "a code")
	code := func(ctx context.Context, script string) (string, error) {
		if err := os.WriteFile(program, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		return login.CodeBy(ctx, "'"+program+"' one 'two three'")("arn:aws:iam::1:mfa/me")
	}
	for script, want := range map[string]string{
		"echo 012345":             "012345",
		"printf ' 012345 \\r\\n'": "012345",
		`echo "01234$#"`:          "012342",
		`[ "$BASTION_MFA_DEVICE" = arn:aws:iam::1:mfa/me ] && echo 111111`: "111111",
	} {
		if got, err := code(t.Context(), script); got != want || err != nil {
			t.Errorf("%s: %q, %v", script, got, err)
		}
	}
	for script, want := range map[string]string{
		"echo 12345":                     "printed no code of six digits",
		"echo 1234567":                   "printed no code of six digits",
		"echo aws 012345":                "printed no code of six digits",
		"echo ١٢٣٤٥٦":                    "printed no code of six digits",
		"yes 012345 | head -c 100000":    "printed no code of six digits",
		"echo hush; exit 3":              "exit status 3",
		"echo touch the key >&2; exit 1": "exit status 1: touch the key",
	} {
		got, err := code(t.Context(), script)
		if got != "" || fail.KindOf(err) != fail.Credentials || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hush") ||
			!strings.Contains(fail.NextOf(err), "mfa_command") {
			t.Errorf("%s: %q, %v (%s)", script, got, err, fail.NextOf(err))
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	over := errors.New("over")
	cancel(over)
	if _, err := code(ctx, "sleep 30"); !errors.Is(err, over) {
		t.Error(err)
	}
	if _, err := login.CodeBy(t.Context(), filepath.Join(dir, "nothing"))("x"); fail.KindOf(err) != fail.Credentials {
		t.Error(err)
	}
	if _, err := login.CodeBy(t.Context(), "'")("x"); fail.KindOf(err) != fail.Usage {
		t.Error(err)
	}
}
