//go:build linux

package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/bastion-ssm/bastion/e2e/rig"
)

// in runs bastion as a user in a directory.
func (n *neighbours) in(u rig.User, dir string, args ...string) (int, string) {
	n.t.Helper()
	return n.as(u, nil, "/bin/sh", append([]string{"-c", `cd "$1" && shift && exec "$@"`, "sh", dir, n.path}, args...)...)
}

// A bastion.yaml that another user has put above a user's directory chooses nothing and breaks nothing. One in a directory of her
// own sets personal settings only after she has agreed.
func TestPlantedConfiguration(t *testing.T) {
	n := newNeighbours(t)
	shared := filepath.Join(n.dir, "shared")
	hers := filepath.Join(shared, "hers")
	planted := filepath.Join(shared, "bastion.yaml")
	for _, err := range []error{
		os.Mkdir(shared, 0o700), os.Chmod(shared, 0o777|os.ModeSticky),
		os.Mkdir(hers, 0o755), os.Chown(hers, aliceUID, aliceUID),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	plant := `umask 0; printf 'cluster: \033[31mevil\nbrowser: /bin/evil\n' > "$0"`
	if code, out := n.as(n.mallory, nil, "/bin/sh", "-c", plant, planted); code != 0 {
		t.Fatalf("exit code %d\n%s", code, out)
	}
	code, out := n.in(n.alice, hers, "forward", "-d", n.far.Addr(), ":")
	if code != 0 || !strings.Contains(out, planted+" is not used") || !strings.Contains(out, "another user (uid 60912)") {
		t.Errorf("with a planted file: exit code %d\n%s", code, out)
	}

	own := filepath.Join(hers, "bastion.yaml")
	write := func(text string) {
		t.Helper()
		for _, err := range []error{os.WriteFile(own, []byte(text), 0o644), os.Chown(own, aliceUID, aliceUID)} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	write("sessions: 2\ngrant_command: /evil \x7f\n")
	if code, out := n.in(n.alice, hers, "ls"); code != 2 || !strings.Contains(out, "bastion.yaml:2:16: grant_command") ||
		!strings.Contains(out, "bastion trust bastion.yaml") || strings.Contains(out, "\x7f") {
		t.Errorf("before she trusts: exit code %d\n%q", code, out)
	}
	if code, out := n.in(n.alice, hers, "trust"); code != 2 || !strings.Contains(out, "--yes") || strings.Contains(out, "\x7f") {
		t.Errorf("trust without a terminal: exit code %d\n%q", code, out)
	}
	if code, out := n.in(n.alice, hers, "trust", "--yes"); code != 0 || !strings.Contains(out, `grant_command = "/evil \x7f"`) {
		t.Errorf("trust: exit code %d\n%s", code, out)
	}
	if code, out := n.in(n.alice, hers, "ls"); code != 0 {
		t.Errorf("once she trusts: exit code %d\n%s", code, out)
	}
	if code, out := n.in(n.alice, hers, "trust", "--list"); code != 0 || !strings.Contains(out, own) {
		t.Errorf("trust --list: exit code %d\n%s", code, out)
	}
	// Another user's trust is none of hers.
	if code, out := n.in(n.mallory, hers, "ls"); code != 0 || !strings.Contains(out, own+" is not used") {
		t.Errorf("another user: exit code %d\n%s", code, out)
	}
	write("sessions: 2\ngrant_command: /worse\n")
	if code, out := n.in(n.alice, hers, "ls"); code != 2 || !strings.Contains(out, "has changed since you trusted it") {
		t.Errorf("edited: exit code %d\n%s", code, out)
	}
	write("sessions: 2\ncluster: default\n")
	if code, out := n.in(n.alice, hers, "trust"); code != 0 || !strings.Contains(out, "needs no trust") {
		t.Errorf("a file of a team: exit code %d\n%s", code, out)
	}
	if err := os.Chmod(own, 0o666); err != nil {
		t.Fatal(err)
	}
	if code, out := n.in(n.alice, hers, "ls"); code != 0 || !strings.Contains(out, "chmod go-w "+own) {
		t.Errorf("writable by others: exit code %d\n%s", code, out)
	}
}

// Root with another user's environment, as sudo -E, su -m and doas leave it, leaves nothing in her directories. Files that it
// replaces there stay hers.
func TestRootForAnother(t *testing.T) {
	n := newNeighbours(t)
	root := rig.User{UID: 0, Home: n.alice.Home}
	ssh := filepath.Join(n.alice.Home, ".ssh")
	target := filepath.Join(n.alice.Home, "dotfiles")
	config := filepath.Join(ssh, "config")
	for _, err := range []error{
		os.Mkdir(ssh, 0o700), os.WriteFile(target, []byte("Host x\n"), 0o600), os.Symlink("../dotfiles", config),
		os.Lchown(ssh, aliceUID, aliceUID), os.Lchown(target, aliceUID, malloryUID), os.Lchown(config, aliceUID, aliceUID),
		os.Chmod(target, 0o640),
		os.WriteFile(filepath.Join(n.alice.Home, "bastion.yaml"), []byte("browser: /bin/true\n"), 0o600),
		os.Lchown(filepath.Join(n.alice.Home, "bastion.yaml"), aliceUID, aliceUID),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	run := func(want int, say string, args ...string) {
		t.Helper()
		code, out := n.as(root, []string{"BASTION_CONFIG="}, n.path, args...)
		if code != want || !strings.Contains(out, say) {
			t.Errorf("root's bastion %q: exit code %d, want %d and %q\n%s", args, code, want, say, out)
		}
	}
	const foreign = "belongs to another user (uid 60911)"
	run(2, "bastion trust", "version") // it is her file, and not trusted yet
	run(1, "without sudo", "trust", "--yes")
	if err := os.Remove(filepath.Join(n.alice.Home, "bastion.yaml")); err != nil {
		t.Fatal(err)
	}
	run(0, "was written", "ssh-config", "--write")
	if err := os.Rename(target, target+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(config); err != nil {
		t.Fatal(err)
	}
	run(2, foreign, "ssh-config", "--write")
	run(2, foreign, "ssh-config", "--write", "--file", filepath.Join(n.alice.Home, "new", "config"))
	run(2, foreign, "man", "--dir", filepath.Join(n.alice.Home, "man"))
	run(2, foreign, "agent", "run", "--log-file", filepath.Join(n.alice.Home, "log"))
	run(1, foreign, "ls", "--runtime-dir", filepath.Join(n.alice.Home, "run"))
	run(1, foreign, "agent", "logs", "--state-dir", filepath.Join(n.alice.Home, "state"))
	run(0, "", "ls")
	run(0, "", "forward", "--help")
	run(2, "only the agent keeps a forward", "forward", "-d", n.far.Addr(), ":")
	run(0, "sh", "exec", n.far.Addr(), "--", "/bin/echo", "sh") // with a link, host keys and a socket of its own

	if err := filepath.WalkDir(n.alice.Home, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st := info.Sys().(*syscall.Stat_t); st.Uid != aliceUID {
			t.Errorf("%s belongs to %d", path, st.Uid)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(target + ".old")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(target + ".old")
	if st := info.Sys().(*syscall.Stat_t); err != nil || st.Gid != malloryUID || info.Mode() != 0o640 ||
		!strings.Contains(string(text), "# BEGIN bastion") {
		t.Errorf("her file: %v, group %d, %v\n%s", info.Mode(), st.Gid, err, text)
	}
	// And she goes on as ever.
	if code, out := n.as(n.alice, nil, n.path, "forward", "-d", n.far.Addr(), ":"); code != 0 {
		t.Errorf("her own forward: exit code %d\n%s", code, out)
	}
}
