package vpc

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestOrphansEnd kills a process that runs the servers by SIGKILL: the servers must go with it.
func TestOrphansEnd(t *testing.T) {
	if len(modes(t, "postgres")) < 2 || len(modes(t, "redis-server")) < 2 {
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "VPC_TEST_ORPHAN=1")
	cmd.Stderr = t.Output()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Error(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
	words := strings.Fields(line)
	if len(words) != 4 {
		t.Fatalf("the process said %q", line)
	}
	for _, addr := range words[:2] {
		waitFor(t, func() bool {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				_ = c.Close()
			}
			return err != nil
		})
	}
	for _, dir := range words[2:] { // a killed process cannot remove them
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}
}
