package launch

import (
	"slices"
	"testing"
)

// The agent gets nothing of the environment that could be a secret of the command that starts it.
func TestAgentEnviron(t *testing.T) {
	got := environFrom([]string{
		"HOME=/h", "PATH=/bin", "PGPASSWORD=secret", "AWS_SECRET_ACCESS_KEY=secret", "BASTION_QUIET=1", "SSH_AUTH_SOCK=/s", "LC_ALL=C",
		"XDG_STATE_HOME=/x", "https_proxy=http://p", "GITHUB_TOKEN=secret", "Path=C:",
	})
	want := []string{"HOME=/h", "PATH=/bin", "LC_ALL=C", "XDG_STATE_HOME=/x", "https_proxy=http://p", "Path=C:"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
