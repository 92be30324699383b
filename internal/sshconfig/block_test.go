package sshconfig

import (
	"bytes"
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/block"
	"github.com/bastion-ssm/bastion/internal/files"
)

// exampleBlock is what ssh_config.example has in place of this machine's paths.
var exampleBlock = Block{
	proxy: "bastion", known: "/usr/local/bin/bastion", identity: "${XDG_RUNTIME_DIR}/bastion/agent.sock",
	patterns: []string{"*.internal", "10.*"},
}

// The example is what ssh-config prints, with comments.
func TestExampleIsTheBlock(t *testing.T) {
	data, err := os.ReadFile("../../ssh_config.example")
	if err != nil {
		t.Fatal(err)
	}
	bare := func(text string) string {
		var out []string
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				out = append(out, line)
			}
		}
		return strings.Join(out, "\n")
	}
	if got, want := bare(string(data)), bare(exampleBlock.body()); got != want {
		t.Errorf("ssh_config.example says\n%s\n\nssh-config says\n%s", got, want)
	}
	connect := exampleBlock
	connect.connect = true
	_, stanza, _ := strings.Cut(connect.body(), "Host "+instancePatterns()+"\n")
	for line := range strings.Lines(stanza) {
		if !bytes.Contains(data, []byte(strings.TrimSpace(line))) {
			t.Errorf("ssh_config.example does not have %q, not even as a comment", line)
		}
	}
}

func TestEncodings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	stanzas := []byte(block.Begin("") + "\nHost a\n" + block.End("") + "\n")
	for old, want := range map[string]string{"\ufeffHost b\n": "\ufeff" + string(stanzas) + "Host b\n", "\xff\xfeH\x00o\x00": ""} {
		if err := os.WriteFile(file, []byte(old), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Edit(file, stanzas)
		got, readErr := os.ReadFile(file)
		if readErr != nil {
			t.Fatal(readErr)
		}
		if utf16 := want == ""; utf16 != errors.Is(err, files.ErrUTF16) || string(got) != cmp.Or(want, old) {
			t.Errorf("%q becomes %q, %v", old, got, err)
		}
	}
}
