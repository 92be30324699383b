package invocation

import (
	"bytes"
	"io"
	"testing"

	"github.com/bastion-ssm/bastion/internal/config"
)

func testInvocation() (*Invocation, *bytes.Buffer) {
	var out bytes.Buffer
	return New(Stdio{Out: &out, Err: &out}, "test"), &out
}

// A value for programs is printed as it is or not at all.
func TestPrintExact(t *testing.T) {
	in, out := testInvocation()
	if err := in.PrintExact("it", "postgres://localhost/ä", ""); err != nil || out.String() != "postgres://localhost/ä\n" {
		t.Errorf("%q, %v", out, err)
	}
	out.Reset()
	if err := in.PrintExact("it", "x\u202ey", ""); err == nil || out.Len() > 0 {
		t.Errorf("%q, %v", out, err)
	}
}

// What does not go through printf is sanitized too: both streams are.
func TestStreamsAreSanitized(t *testing.T) {
	in, out := testInvocation()
	for _, w := range []io.Writer{in.Out, in.Err} {
		if _, err := io.WriteString(w, "\x1b[2J\u202e\n"); err != nil {
			t.Fatal(err)
		}
	}
	if want := "?[2J?\n?[2J?\n"; out.String() != want {
		t.Errorf("%q, want %q", out, want)
	}
}

func TestUnderSudo(t *testing.T) {
	for name, tt := range map[string]struct {
		uid  string
		euid int
		dir  string
		want config.Settings
	}{
		"a user":              {"", 1000, "", config.Settings{}},
		"root":                {"", 0, "", config.Settings{}},
		"sudo":                {"1000", 0, "", config.Settings{Local: config.Local{NoAgent: true, RuntimeDir: sudoDir}}},
		"root by sudo":        {"0", 0, "", config.Settings{}},
		"a user by sudo":      {"1000", 1001, "", config.Settings{}},
		"sudo, and it is set": {"1000", 0, "/run/x", config.Settings{Local: config.Local{RuntimeDir: "/run/x"}}},
	} {
		s := config.Settings{Local: config.Local{RuntimeDir: tt.dir}}
		underSudo(&s, func(string) string { return tt.uid }, tt.euid)
		if s.Local.NoAgent != tt.want.Local.NoAgent || s.Local.RuntimeDir != tt.want.Local.RuntimeDir {
			t.Errorf("%s: NoAgent %v, RuntimeDir %q", name, s.Local.NoAgent, s.Local.RuntimeDir)
		}
	}
}
