package access

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/keys"
)

// hostKeys remembers the host keys of running tasks, each in a small file. The keys are public. The directory's mode keeps
// other users from writing them. An entry only ever comes from a task's own answer by ECS Exec.
//
// All failures mean that a key is unknown.
type hostKeys struct{ dir string }

// remembered is a file's content.
type remembered struct {
	Task    string `json:"task"`
	Runtime string `json:"runtime"` // the container's runtime id: each run has another key
	HostKey string `json:"host_key"`
	Port    int    `json:"port"`                // SSH port
	Bond    int    `json:"bond_port,omitempty"` // 0: bastiond takes no bonds, or an older program wrote the entry
}

const (
	hostKeyPrefix = "host-key-"
	hostKeyMaxAge = 7 * 24 * time.Hour // longer than a task lives
)

func (h *hostKeys) path(b bastions.Bastion) string {
	sum := sha256.Sum256([]byte(b.TaskARN + "\n" + b.RuntimeID))
	return filepath.Join(h.dir, hostKeyPrefix+hex.EncodeToString(sum[:12]))
}

// get returns the host key and the ports of the task's bastiond, if they are known.
func (h *hostKeys) get(b bastions.Bastion) (ssh.PublicKey, keys.Ports, bool) {
	if h == nil || b.RuntimeID == "" {
		return nil, keys.Ports{}, false
	}
	data, err := os.ReadFile(h.path(b))
	if err != nil || len(data) > 4096 {
		return nil, keys.Ports{}, false
	}
	var r remembered
	if json.Unmarshal(data, &r) != nil || r.Task != b.TaskARN || r.Runtime != b.RuntimeID ||
		r.Port < 1 || r.Port > 65535 || r.Bond < 0 || r.Bond > 65535 {
		return nil, keys.Ports{}, false
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(r.HostKey))
	if err != nil {
		return nil, keys.Ports{}, false
	}
	return key, keys.Ports{SSH: r.Port, Bond: r.Bond}, true
}

// put remembers a key. It replaces the file atomically, so a reader sees the old one or the new one.
func (h *hostKeys) put(b bastions.Bastion, key ssh.PublicKey, ports keys.Ports) error {
	if h == nil || b.RuntimeID == "" {
		return nil
	}
	data, err := json.Marshal(remembered{
		Task: b.TaskARN, Runtime: b.RuntimeID, Port: ports.SSH, Bond: ports.Bond,
		HostKey: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))),
	})
	if err != nil {
		return err
	}
	if err := files.Replace(h.path(b), data, 0o600); err != nil {
		return err
	}
	files.Sweep(h.dir, files.Before(time.Now().Add(-hostKeyMaxAge)), hostKeyPrefix, documentPrefix) // of tasks that must have ended
	return nil
}

func (h *hostKeys) forget(b bastions.Bastion) {
	if h != nil {
		_ = os.Remove(h.path(b)) // it may not exist
	}
}
