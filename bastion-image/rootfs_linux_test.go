package image

import (
	"bytes"
	"context"
	"crypto/x509"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/google/go-cmp/cmp"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
)

// build runs rootfs.sh and returns the root.
func build(t *testing.T, env ...string) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "rootfs")
	cmd := exec.CommandContext(t.Context(), "./rootfs.sh", root)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	reachable(t, root)
	return root
}

// reachable lets the container's user get at a root, in this test alone.
func reachable(t *testing.T, root string) {
	t.Helper()
	for dir := filepath.Dir(root); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// listing returns a line for each file below root: its mode, its owner if the test is root's, and its path.
func listing(t *testing.T, root string) (lines []string) {
	t.Helper()
	if err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		owner := ""
		if os.Geteuid() == 0 {
			owner = fmt.Sprintf(" %d:%d", stat.Uid, stat.Gid)
		}
		lines = append(lines, fmt.Sprintf("%v%s %s", info.Mode(), owner, strings.TrimPrefix(path, root)))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return lines
}

// The image has what it should, and nothing else.
func TestRootFileSystem(t *testing.T) {
	root := build(t, "ALLOW=*.internal:5432", "VERSION=v1.2.3")
	got := listing(t, root)
	want := []string{
		"drwxr-xr-x 0:0 ",
		"-rwxr-xr-x 0:0 /bastiond",
		"drwxr-xr-x 0:0 /dev",
		"drwxr-xr-x 0:0 /etc",
		"drwxr-xr-x 0:0 /etc/bastiond",
		"-rw-r--r-- 0:0 /etc/bastiond/allow",
		"-rw-r--r-- 0:0 /etc/group",
		"-rw-r--r-- 0:0 /etc/hosts",
		"-rw-r--r-- 0:0 /etc/nsswitch.conf",
		"-rw-r--r-- 0:0 /etc/passwd",
		"drwxr-xr-x 0:0 /etc/ssl",
		"drwxr-xr-x 0:0 /etc/ssl/certs",
		"-rw-r--r-- 0:0 /etc/ssl/certs/ca-certificates.crt",
		"drwxr-xr-x 0:0 /managed-agents",
		"drwxr-xr-x 0:0 /proc",
		"drwxr-xr-x 0:0 /run",
		"drwx--x--- 65532:0 /run/bastiond",
		"drwxr-xr-x 0:0 /sys",
		"drwxr-xr-x 0:0 /var",
		"drwxr-xr-x 0:0 /var/lib",
		"drwxr-xr-x 0:0 /var/lib/amazon",
		"drwxr-xr-x 0:0 /var/lib/amazon/ssm",
		"drwxr-xr-x 0:0 /var/log",
		"drwxr-xr-x 0:0 /var/log/amazon",
		"drwxr-xr-x 0:0 /var/log/amazon/ssm",
	}
	if os.Geteuid() != 0 {
		for i, line := range want {
			fields := strings.SplitN(line, " ", 3)
			want[i] = fields[0] + " " + fields[2]
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}

	program, err := elf.Open(filepath.Join(root, "bastiond"))
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("bastiond is not static")
		}
	}
	pem, err := os.ReadFile(root + "/etc/ssl/certs/ca-certificates.crt")
	if err != nil || !x509.NewCertPool().AppendCertsFromPEM(pem) {
		t.Errorf("no certificates: %v", err)
	}
	out, err := exec.CommandContext(t.Context(), filepath.Join(root, "bastiond"), "version").Output()
	if err != nil || string(out) != "v1.2.3\n" {
		t.Errorf("version %q, %v", out, err)
	}
}

func TestRootFileSystemWantsAnEmptyPlace(t *testing.T) {
	dir := t.TempDir()
	precious := filepath.Join(dir, "precious")
	if err := os.WriteFile(precious, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "./rootfs.sh", dir).CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("not empty")) {
		t.Errorf("%v: %s", err, out)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

// sealed makes a root file system, $0, what the task definition makes it: read-only, but for the volume of the control socket, which takes
// its owner, group and mode from the image. What it runs has no capability, and cannot get any.
const sealed = `mount --make-rprivate / && mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" &&
	mount -t tmpfs -o "$(stat -c uid=%u,gid=%g,mode=%a "$0/run/bastiond")" none "$0/run/bastiond" &&
	exec setpriv --no-new-privs --bounding-set=-all,+setuid,+setgid,+sys_chroot chroot --userspec=65532:65532 "$0" /bastiond serve "$@"`

// taskRoot is the root of a sealed task, with its volume.
func taskRoot(pid int) string { return fmt.Sprintf("/proc/%d/root", pid) }

// inTask runs bastiond in a task as a user, with the capabilities that the task definition leaves to what ECS Exec starts there.
func inTask(ctx context.Context, t *testing.T, pid int, user uint32, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(ctx, "/bastiond", args...)
	cmd.Dir, cmd.Env = "/", []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: taskRoot(pid), Credential: &syscall.Credential{Uid: user, Gid: user}}
	var out []byte
	err := lab.InContainer(pid, dropped(t), func() (err error) {
		out, err = cmd.CombinedOutput()
		return err
	})
	return string(out), err
}

// dropped are the capabilities that the task definition drops.
func dropped(t *testing.T) []string {
	t.Helper()
	var task ecs.RegisterTaskDefinitionInput
	read(t, "task-definition.json", &task)
	return task.ContainerDefinitions[0].LinuxParameters.Capabilities.Drop
}

// wantSealed makes sure that a process has no capability, and not even root can write to its root file system.
func wantSealed(t *testing.T, pid int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Uid:\t65532\t"} {
		if !bytes.Contains(status, []byte("\n"+want)) {
			t.Errorf("the process has not %q:\n%s", want, status)
		}
	}
	for _, path := range []string{"/bastiond", "/etc/file", "/managed-agents/file"} {
		f, err := os.OpenFile(taskRoot(pid)+path, os.O_WRONLY|os.O_CREATE, 0o600)
		if err == nil {
			_ = f.Close()
		}
		if !errors.Is(err, syscall.EROFS) && !errors.Is(err, syscall.ETXTBSY) {
			t.Errorf("%s can be written: %v", path, err)
		}
	}
}

// The image runs as a task does: alone in its namespaces, as its own user, with nothing but its root file system, which is read-only, and
// without a capability. Commands that run in it, as ECS Exec's do, are root's.
func TestIsolatedTask(t *testing.T) {
	rig.NeedRoot(t)
	root := build(t, "ALLOW=*.internal:5432")
	t.Run("rootfs.sh", func(t *testing.T) { isolatedTask(t, root) })
	t.Run("account/image", func(t *testing.T) { isolatedTask(t, extract(t, ociImage(t, root))) })
}

func isolatedTask(t *testing.T, root string) {
	k := startTask(t, root, "--allow", "*:*", "--drain", "1s")
	var started struct{ Event, Listen, Allow, Limit any }
	if err := json.Unmarshal([]byte(k.lines()[0]), &started); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(started), "{start [127.0.0.1:2222 [::1]:2222] [*:*] [*.internal:5432]}"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	client := k.signedIn(time.Hour)
	for _, address := range []string{credentials + ":80", "10.0.0.1:5432", "127.0.0.1:2222"} {
		d := toDestination(address)
		k.isDenied(t, d, client, d.want)
	}
	if out, err := inTask(t.Context(), t, k.cmd.Process.Pid, 65532, "healthcheck"); err != nil {
		t.Errorf("healthcheck: %q, %v", out, err)
	}
	if out, err := inTask(t.Context(), t, k.cmd.Process.Pid, 65533, "healthcheck"); err == nil {
		t.Errorf("another user got an answer: %q", out)
	}

	if err := k.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	k.wait(func(e event) bool { return e.Event == "stop" })
	select {
	case <-k.done:
		if k.err != nil {
			t.Error(k.err)
		}
	case <-time.After(20 * time.Second):
		t.Error("it does not end")
	}
}
