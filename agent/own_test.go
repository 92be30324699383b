package agent

import (
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/fail"
)

func TestSocketPathTooLong(t *testing.T) {
	long := "/" + strings.Repeat("x", maxSocketPath)
	if err := CheckSocket(long[:maxSocketPath]); err != nil {
		t.Errorf("the longest path: %v", err)
	}
	_, listen := ListenOwn(long)
	_, openSSH := ServeOpenSSH(long, 1, false, nil)
	for what, err := range map[string]error{"agent": listen, "OpenSSH": openSSH} {
		if fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "may have 103") ||
			!strings.Contains(fail.NextOf(err), "runtime_dir") {
			t.Errorf("%s: %v (%s)", what, err, fail.NextOf(err))
		}
	}
}
