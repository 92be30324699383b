//go:build unix

package main

import (
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// An agent that is stopped cannot answer: a signal ends it, in order.
func TestStopOfAStoppedAgent(t *testing.T) {
	t.Parallel()
	p := newPerson(t, newCallers(t))
	_, out := p.run(nil, "agent", "status")
	found := regexp.MustCompile(`process (\d+)`).FindStringSubmatch(out)
	if found == nil {
		t.Fatal(out)
	}
	pid, err := strconv.Atoi(found[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	code, out := p.run(nil, "agent", "stop")
	if code != 0 || !strings.Contains(out, "the agent has ended") {
		t.Errorf("exit code %d\n%s", code, out)
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	if code, out := p.run(nil, "agent", "stop"); code != 0 || !strings.Contains(out, "no agent is running") {
		t.Errorf("exit code %d\n%s", code, out)
	}
}
