package dashboard

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/bastion-ssm/bastion/e2e/rig"
)

// Another user gets no answer, not even the page.
func TestOtherUsers(t *testing.T) {
	rig.NeedRoot(t)
	curl := rig.Need(t, "curl")
	s := serve(t, newFake(), Options{})
	ask := func(uid uint32) (string, error) {
		cmd := exec.CommandContext(t.Context(), curl, "-sS", "--max-time", "30", "--noproxy", "*", "http://"+s.Addr()+"/")
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := ask(uint32(os.Geteuid())); err != nil || !strings.Contains(out, "<title>bastion</title>") {
		t.Errorf("this user: %v\n%s", err, out)
	}
	const nobody = 65534
	if out, err := ask(nobody); err == nil || strings.Contains(out, "bastion</title>") {
		t.Errorf("another user: %v\n%s", err, out)
	}
}
