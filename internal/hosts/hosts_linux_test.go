package hosts

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/process"
)

// A child that has ended and was not waited for is not alive.
func TestZombie(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cat")
	cmd.Stdin = r
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	start, err := process.StartTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprintf("%d-%s-1", cmd.Process.Pid, start)
	if !Alive(id) {
		t.Error("a running process is not alive")
	}
	_ = w.Close()
	// Its end without taking the zombie away.
	for {
		if _, err := process.StartTime(cmd.Process.Pid); err != nil {
			break
		}
		runtime.Gosched()
	}
	if Alive(id) {
		t.Error("a zombie is alive")
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if Alive(id) {
		t.Error("a process that has ended is alive")
	}
}

// A link stays a link, and the file behind it is what changes.
func TestLink(t *testing.T) {
	file := hostsFile(t, original)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	mustAdd(t, link, "1-2-3", names("a.example", "127.64.0.1"))
	if fi, err := os.Lstat(link); err != nil || fi.Mode()&os.ModeSymlink == 0 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	if !strings.Contains(content(t, file), "a.example") {
		t.Error("the file behind the link is as it was")
	}
}
