package process_test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
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
	if !process.Alive(id) {
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
	if process.Alive(id) {
		t.Error("a zombie is alive")
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if process.Alive(id) {
		t.Error("a process that has ended is alive")
	}
}
