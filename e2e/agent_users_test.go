//go:build linux

package e2e

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
)

// The ids of users that no machine has: below those of systemd's dynamic users, above those of people.
const (
	aliceUID   = 60911
	malloryUID = 60912
)

// neighbours are two users of one machine and a world in which the first has an agent with a forward.
type neighbours struct {
	*world
	dir            string // which both can enter
	path           string // of bastion, which both can run
	alice, mallory rig.User
}

func newNeighbours(t *testing.T) *neighbours {
	t.Helper()
	rig.NeedRoot(t)
	n := &neighbours{world: newWorld(t, nil)}
	var err error
	if n.dir, err = os.MkdirTemp("/tmp", "n"); err != nil { // short: sockets are made below it
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(n.dir) })
	n.path = filepath.Join(n.dir, "bastion")
	program, err := os.ReadFile(filepath.Join(bin, "bastion"))
	if err != nil {
		t.Fatal(err)
	}
	// Whatever the umask is.
	for _, err := range []error{os.WriteFile(n.path, program, 0o755), os.Chmod(n.path, 0o755), os.Chmod(n.dir, 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for uid, u := range map[int]*rig.User{aliceUID: &n.alice, malloryUID: &n.mallory} {
		if *u, err = rig.NewUser(n.dir, uid); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, u := range []rig.User{n.alice, n.mallory} {
			if code, out := n.as(u, nil, n.path, "agent", "stop"); code != 0 {
				t.Errorf("stop the agent of %d: exit code %d\n%s", u.UID, code, out)
			}
		}
	})
	return n
}

// as runs a program as a user, to its end, with env added to his environment.
func (n *neighbours) as(u rig.User, env []string, name string, args ...string) (int, string) {
	n.t.Helper()
	all := append(u.Env(), "AWS_ENDPOINT_URL="+n.URL(), "AWS_REGION="+lab.Region, "AWS_EC2_METADATA_DISABLED=true",
		"BASTION_QUIET=true", "BASTION_AGENT_IDLE=5m", "PATH=/usr/bin:/bin")
	// The lab's files are root's.
	p, err := rig.StartCmd(append(append(all, n.credentials("lab").env()...), env...), u.Command(name, args...))
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	code, err := p.Wait(ctx)
	if err != nil {
		_, _ = p.Stop(syscall.SIGKILL)
		n.t.Fatal(err)
	}
	return code, p.Output()
}

// Where a user's agent keeps its socket and its files.
func runtimeOf(u rig.User) string { return filepath.Join(u.Home, "bastion") }
func socketOf(u rig.User) string  { return filepath.Join(runtimeOf(u), "control.sock") }

// Another user reaches neither the agent nor its sockets, files and log: not as they are, and not when their modes are opened up.
func TestNeighbours(t *testing.T) {
	curl := rig.Need(t, "curl")
	n := newNeighbours(t)
	if code, out := n.as(n.alice, nil, n.path, "forward", "-d", n.far.Addr(), ":"); code != 0 {
		t.Fatalf("bastion forward -d: exit code %d\n%s", code, out)
	}
	ask := []string{"-sS", "--max-time", "20", "--unix-socket", socketOf(n.alice), "http://agent" + api.PathState}
	if code, out := n.as(n.alice, nil, curl, ask...); code != 0 || !strings.Contains(out, n.far.Addr()) {
		t.Fatalf("her own curl: exit code %d\n%s", code, out)
	}

	var files []string
	if err := filepath.WalkDir(n.alice.Home, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if mode := info.Mode().Perm(); mode&0o077 != 0 {
			t.Errorf("%s has mode %04o", path, mode)
		}
		files = append(files, path)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"control.sock", "control.sock.lock", "agent.log", "forwards.json"} {
		if !contains(files, name) {
			t.Errorf("there is no %s among %q", name, files)
		}
	}
	n.refused(curl, ask, files, "as they are")

	for _, path := range files {
		mode := fs.FileMode(0o666)
		if info, err := os.Lstat(path); err != nil {
			t.Fatal(err)
		} else if info.IsDir() {
			mode = 0o777
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	n.refused(curl, ask, nil, "with open modes")
	// Whose directory others can enter is told so.
	code, out := n.as(n.alice, nil, n.path, "ls")
	if code == 0 || !strings.Contains(out, "others can enter") || !strings.Contains(out, "mode 0700") {
		t.Errorf("her own ls, with open modes: exit code %d\n%s", code, out)
	}
	for _, path := range files {
		if info, err := os.Lstat(path); err != nil {
			t.Fatal(err)
		} else if err := os.Chmod(path, info.Mode().Perm()&^0o077); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(n.alice.Home, 0o700); err != nil {
		t.Fatal(err)
	}
	if code, out := n.as(n.alice, nil, n.path, "ls"); code != 0 || !strings.Contains(out, n.far.Addr()) {
		t.Errorf("her own ls, after all: exit code %d\n%s", code, out)
	}
}

// refused makes sure that the other user gets nothing out of the first one's agent.
func (n *neighbours) refused(curl string, ask, files []string, how string) {
	n.t.Helper()
	secret := n.far.Addr()
	if code, out := n.as(n.mallory, nil, curl, ask...); code == 0 || strings.Contains(out, secret) {
		n.t.Errorf("another user's curl, %s: exit code %d\n%s", how, code, out)
	}
	for _, args := range [][]string{{"ls", "-o", "json"}, {"stop", "all"}, {"agent", "stop"}, {"forward", "-d", secret, ":"}} {
		env := []string{"BASTION_RUNTIME_DIR=" + runtimeOf(n.alice)}
		code, out := n.as(n.mallory, env, n.path, args...)
		if code == 0 || !strings.Contains(out, "BASTION_RUNTIME_DIR") {
			n.t.Errorf("another user's bastion %s, %s: exit code %d\n%s", args[0], how, code, out)
		}
	}
	for _, path := range files {
		if code, out := n.as(n.mallory, nil, "/bin/cat", path); code == 0 || strings.Contains(out, secret) {
			n.t.Errorf("another user's cat %s, %s: exit code %d\n%s", path, how, code, out)
		}
	}
	if code, out := n.as(n.alice, nil, curl, ask...); code != 0 || !strings.Contains(out, secret) {
		n.t.Errorf("after another user has tried, %s: exit code %d\n%s", how, code, out)
	}
}

// What another user has put where a user's directories are to be is not used, and said so.
func TestPlantedDirectories(t *testing.T) {
	n := newNeighbours(t)
	shared := filepath.Join(n.dir, "shared")
	for _, err := range []error{os.Mkdir(shared, 0o700), os.Chmod(shared, 0o777|os.ModeSticky)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, plant := range map[string][]string{
		"closed": {"mkdir", "-m", "0700"},
		"open":   {"mkdir", "-m", "0777"},
		"file":   {"touch"},
		"link":   {"ln", "-s", n.alice.Home}, // to a place that is hers
	} {
		path := filepath.Join(shared, name)
		if code, out := n.as(n.mallory, nil, "/bin/"+plant[0], append(plant[1:], path)...); code != 0 {
			t.Fatalf("%q: exit code %d\n%s", plant, code, out)
		}
		for _, setting := range []string{"BASTION_RUNTIME_DIR", "BASTION_STATE_DIR"} {
			code, out := n.as(n.alice, []string{setting + "=" + path}, n.path, "forward", "-d", n.far.Addr(), ":")
			if code == 0 || !strings.Contains(out, path) || !strings.Contains(out, setting) {
				t.Errorf("%s is another user's %s: exit code %d\n%s", setting, name, code, out)
			}
		}
	}

	// A socket that another user serves, in the right place: its agent is not asked.
	if code, out := n.as(n.mallory, nil, n.path, "agent", "start"); code != 0 {
		t.Fatalf("bastion agent start: exit code %d\n%s", code, out)
	}
	for _, err := range []error{
		os.MkdirAll(runtimeOf(n.alice), 0o700), os.Chown(runtimeOf(n.alice), aliceUID, aliceUID),
		os.Link(socketOf(n.mallory), socketOf(n.alice)), os.Chmod(socketOf(n.alice), 0o777),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"ls"}, {"forward", "-d", n.far.Addr(), ":"}, {"proxy", "127.0.0.1", "1"}} {
		code, out := n.as(n.alice, nil, n.path, args...)
		if code == 0 || !strings.Contains(out, fmt.Sprintf("another user (uid %d)", malloryUID)) {
			t.Errorf("bastion %s with another user's socket: exit code %d\n%s", args[0], code, out)
		}
	}
	if err := os.Remove(socketOf(n.alice)); err != nil {
		t.Fatal(err)
	}
}

// contains reports whether one of the paths has the name.
func contains(paths []string, name string) bool {
	for _, p := range paths {
		if filepath.Base(p) == name {
			return true
		}
	}
	return false
}
