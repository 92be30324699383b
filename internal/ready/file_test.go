package ready

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/process"
)

var message = NewMessage([]api.Forward{
	{Name: "orders", Kind: api.KindTCP, Target: "orders.example:5432", Listen: "127.0.0.1:12345", Engine: "postgres", TLS: true},
	{Name: "proxy", Kind: api.KindProxy, Listen: "[::1]:1080"},
})

// The message has names, addresses and ports, and each of the two ways brings the same line.
func TestMessage(t *testing.T) {
	line, err := message.line()
	if err != nil {
		t.Fatal(err)
	}
	start, _ := process.StartTime(os.Getpid())
	want := `{"pid":` + jsonOf(t, os.Getpid()) + `,"start":` + jsonOf(t, start) + `,"forwards":[` +
		`{"name":"orders","kind":"tcp","target":"orders.example:5432","listen":"127.0.0.1:12345","address":"127.0.0.1","port":12345,` +
		`"engine":"postgres","tls":true},` +
		`{"name":"proxy","kind":"proxy","listen":"[::1]:1080","address":"::1","port":1080,"tls":false}]}` + "\n"
	if string(line) != want {
		t.Errorf("got  %s\nwant %s", line, want)
	}
}

func jsonOf(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// The file is the user's alone, and goes at the end. One of somebody else's that has taken its place stays.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ready.json")
	f, err := NewFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Remove(); err != nil {
		t.Errorf("before it is written: %v", err)
	}
	if err := f.Write(message); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	line, _ := message.line()
	if data, err := os.ReadFile(path); err != nil || !bytes.Equal(data, line) {
		t.Errorf("%q, %v", data, err)
	}
	if err := f.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the file stays")
	}
	if err := f.Remove(); err != nil {
		t.Errorf("somebody has removed it: %v", err)
	}
	if err := f.Write(message); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Remove(); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(path); string(data) != "mine" {
		t.Errorf("another's file: %q, %v", data, err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// An empty file and one of a command that was killed make place. Everything else stays, and the error says why.
func TestPlace(t *testing.T) {
	ended := exec.Command(os.Args[0], "-test.run=^$")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	of := func(pid int, start string) string {
		return jsonOf(t, Message{PID: pid, Start: start, Forwards: []Forward{}})
	}
	parent, err := process.StartTime(os.Getppid())
	if err != nil {
		parent = ""
	}
	for _, tt := range []struct{ what, content, says string }{
		{"empty", "", ""},
		{"of a process that has ended", of(ended.Process.Pid, "1"), ""},
		{"of an earlier process of the id", of(os.Getppid(), "1"), ""},
		{"of this process", of(os.Getpid(), ""), ""},
		{"of a process that runs", of(os.Getppid(), parent), "has it, whose forwards are open"},
		{"of a process that runs, without a start time", of(os.Getppid(), ""), "has it, whose forwards are open"},
		{"text", "select 1;\n", "not a file of bastion forward"},
		{"other JSON", "{}", "not a file of bastion forward"},
		{"JSON with a pid", `{"pid": 1}`, "not a file of bastion forward"},
		{"large", strings.Repeat(" ", maxFile+1), "larger than"},
	} {
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, []byte(tt.content), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := NewFile(path)
		_, left := os.Lstat(path)
		if tt.says == "" && (err != nil || left == nil) {
			t.Errorf("%s: %v, and it stays: %t", tt.what, err, left == nil)
		}
		if tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says) || fail.KindOf(err) != fail.Usage || left != nil) {
			t.Errorf("%s: %v, and it stays: %t", tt.what, err, left == nil)
		}
	}
	dir := t.TempDir()
	if err := os.Symlink("nowhere", filepath.Join(dir, "link")); err != nil {
		t.Skip(err)
	}
	for path, says := range map[string]string{
		dir: "not a file", filepath.Join(dir, "link"): "not a file", filepath.Join(dir, "none", "f"): fs.ErrNotExist.Error(),
	} {
		if _, err := NewFile(path); err == nil || !(strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "no such file")) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
