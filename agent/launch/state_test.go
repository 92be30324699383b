package launch

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/files"
)

// An agent that ends closes its socket first, and releases its lock at the very end. Whoever stops a forward meanwhile waits for that.
func TestStopForwardOfAnEndingAgent(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "agent.sock")
	s, err := config.FromTexts(map[string]string{"state_dir": filepath.Join(dir, "state")}) // which is made
	if err != nil {
		t.Fatal(err)
	}
	lock, err := files.TryLock(socket + ".lock")
	if err != nil || lock == nil {
		t.Fatalf("%v, %v", lock, err)
	}
	if !agent.Locked(socket) {
		t.Error("the lock is not seen")
	}
	ended := time.AfterFunc(3*Poll, func() { _ = lock.Close() })
	defer ended.Stop()
	if stopped, err := StopForward(t.Context(), api.NewClient(socket), s, "all"); err != nil || len(stopped) != 0 {
		t.Errorf("%+v, %v", stopped, err)
	}
	if agent.Locked(socket) {
		t.Error("somebody has the lock still")
	}
}
