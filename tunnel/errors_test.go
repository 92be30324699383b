package tunnel

import (
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// What a refusal leads to: an operator can lengthen the allow-list, but no list permits instance metadata.
func TestRefusedHasNextStep(t *testing.T) {
	for _, tt := range []struct {
		reason        ssh.RejectionReason
		message, next string
	}{
		{ssh.Prohibited, "destination db:22: no entry of the allow-list permits it", "operator to allow db:22"},
		{ssh.Prohibited, "destination db:22: 127.0.0.1 is a loopback address, which no entry of the allow-list names", "operator to allow db:22"},
		{ssh.Prohibited, "", "operator to allow db:22"},
		{ssh.Prohibited, "destination db:22: 169.254.169.254 is never permitted (link-local)", "another destination"},
		{ssh.ConnectionFailed, "connection refused", "the security group of db:22"},
		{ssh.ResourceShortage, "", "close some connections"},
	} {
		err := refused("db:22", &ssh.OpenChannelError{Reason: tt.reason, Message: tt.message})
		if next := fail.NextOf(err); !strings.Contains(next, tt.next) {
			t.Errorf("%v %q leads to %q, want %q", tt.reason, tt.message, next, tt.next)
		}
	}
}
