package image

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/keys"
)

// openSSHRoot builds the root file system of the OpenSSH variant.
func openSSHRoot(t *testing.T) string {
	t.Helper()
	rig.Need(t, "sshd")
	root := filepath.Join(t.TempDir(), "rootfs")
	if out, err := exec.CommandContext(t.Context(), "./openssh/rootfs.sh", root).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	reachable(t, root)
	return root
}

// The variant with a real sshd: what it does. What it refuses is in the table of denials.
func TestOpenSSH(t *testing.T) {
	k := startTask(t, openSSHRoot(t), "--resolver", resolver, "--allow", allowed, "--drain", "20s")
	for _, part := range []struct {
		name string
		test func(*testing.T, *task)
	}{
		{"files", openSSHFiles},
		{"forwards", openSSHForwards},
		{"names", openSSHNames},
		{"keys", openSSHKeys},
		{"grant ends", openSSHGrantEnds},
		{"wants literals", openSSHWantsLiterals},
		{"drains", openSSHDrains},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, k) })
	}
}

// A real sshd carries connections to what the list names, by name and by address, and the audit log has them.
func openSSHForwards(t *testing.T, k *task) {
	client := k.signedIn(time.Hour)
	for destination, address := range map[string]string{
		"db.internal:5432": database + ":5432", database + ":5433": database + ":5433",
	} {
		conn, err := client.Dial("tcp", destination)
		if err != nil {
			t.Fatalf("%s: %v", destination, err)
		}
		if _, err := io.WriteString(conn, "hello"); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(io.LimitReader(conn, 5)); err != nil || string(got) != "hello" {
			t.Errorf("%s: %q, %v", destination, got, err)
		}
		_ = conn.Close()
		opened := k.wait(func(e event) bool { return e.Event == "connect" && e.Destination == destination })
		if opened.Result != "ok" || opened.Address != address || !strings.HasSuffix(opened.Who, "/ada") {
			t.Errorf("%+v", opened)
		}
		k.wait(func(e event) bool {
			return e.Event == "close" && e.Channel == opened.Channel && e.Destination == destination
		})
	}
	_ = client.Close()
	if e := k.wait(func(e event) bool { return e.Event == "disconnect" }); e.BytesUp == nil || *e.BytesUp == 0 || *e.BytesDown == 0 {
		t.Errorf("%+v", e)
	}
	if e := k.wait(func(e event) bool { return e.Event == "auth" }); e.User != "bastion" || e.Result != "ok" {
		t.Errorf("%+v", e)
	}
}

// An entry of an address permits that address, and no name that leads there.
func openSSHNames(t *testing.T, k *task) {
	d := toDestination("db.internal:5433")
	k.isDenied(t, d, k.signedIn(time.Hour), d.want)
}

// Only keys with a live grant sign in, as one of the two users.
func openSSHKeys(t *testing.T, k *task) {
	pair := newPair(t)
	reply := k.grant(pair, time.Hour)
	key, err := reply.Key()
	if err != nil {
		t.Fatal(err)
	}
	host := keys.PinnedHostKey(key)
	for _, tt := range []struct {
		user, logged, reason string // sshd names no user who has tried no key
		auth                 ssh.AuthMethod
	}{
		{"bastion", "bastion", "no grant for this key", ssh.PublicKeys(newPair(t).Signer())},
		{"bastiond", "bastiond", "unknown user", ssh.PublicKeys(pair.Signer())},
		{"ada", "ada", "unknown user", ssh.PublicKeys(pair.Signer())},
		{"bastion", "", "handshake", ssh.Password("")},
	} {
		if _, err := k.dial(tt.user, host, tt.auth); err == nil {
			t.Errorf("%s: signed in", tt.reason)
		}
		k.wait(func(e event) bool {
			return e.Event == "auth-refused" && e.User == tt.logged && strings.Contains(e.Reason, tt.reason)
		})
	}
	// A client whose grant is on its way waits for it.
	late := newPair(t)
	signed := make(chan error, 1)
	go func() {
		_, err := k.dial(keys.UserPending, host, ssh.PublicKeys(late.Signer()))
		signed <- err
	}()
	k.grant(late, time.Hour)
	if err := <-signed; err != nil {
		t.Error(err)
	}
}

// The end of a grant ends its connections, and nobody signs in with its key again.
func openSSHGrantEnds(t *testing.T, k *task) {
	client := k.signedIn(2 * time.Second)
	conn, err := client.Dial("tcp", "db.internal:5432")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); err != nil && !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	k.wait(func(e event) bool { return e.Event == "close" && e.Grant == k.last })
	k.wait(func(e event) bool {
		return e.Event == "disconnect" && e.Grant == k.last && e.Reason == "the grant has ended"
	})
}

// SIGTERM drains: what is open may finish, and nothing begins.
func openSSHDrains(t *testing.T, k *task) {
	client := k.signedIn(time.Hour)
	conn, err := client.Dial("tcp", "db.internal:5432")
	if err != nil {
		t.Fatal(err)
	}
	k.wait(func(e event) bool { return e.Event == "connect" && e.Grant == k.last })
	if err := k.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	k.wait(func(e event) bool { return e.Event == "drain" })
	if _, err := io.WriteString(conn, "still"); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(io.LimitReader(conn, 5)); err != nil || string(got) != "still" {
		t.Errorf("%q, %v", got, err)
	}
	_ = conn.Close()
	k.wait(func(e event) bool { return e.Event == "stop" })
}

// A list that OpenSSH could not keep is refused at the start.
func openSSHWantsLiterals(t *testing.T, k *task) {
	for _, entry := range []string{"10.0.0.0/8:5432", "*.internal:5432", "*:5432", "db.internal:*", "db.internal:1-2"} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		cmd := exec.CommandContext(ctx, "/bastiond", "serve", "--allow", entry, "--socket", "/run/bastiond/other/s", "--listen", "127.0.0.1:0")
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: taskRoot(k.cmd.Process.Pid), Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
		out, err := cmd.CombinedOutput()
		cancel()
		if cmd.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), "PermitOpen takes one name or address") {
			t.Errorf("%s: %v: %s", entry, err, out)
		}
	}
}

// The variant's image has the settings of the other.
func TestOpenSSHDockerfile(t *testing.T) {
	settings := func(path string) (lines []string) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, last, _ := strings.Cut(string(text), "FROM scratch\n")
		return regexp.MustCompile(`(?m)^(VOLUME|USER|ENTRYPOINT|CMD|ENV|EXPOSE) .*$`).FindAllString(last, -1)
	}
	if d := cmp.Diff(settings("Dockerfile"), settings("openssh/Dockerfile")); d != "" || len(settings("Dockerfile")) < 4 {
		t.Error(d)
	}
}

// sshd's configuration says what it must even where something else says it too, and sshd understands it so.
func TestOpenSSHConfig(t *testing.T) {
	if os.Geteuid() == 0 { // sshd's separation of privileges wants it; without the service nobody has made it
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	key := filepath.Join(t.TempDir(), "key")
	if out, err := exec.CommandContext(t.Context(), rig.Need(t, "ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), rig.Need(t, "sshd"), "-T", "-f", "openssh/sshd_config", "-h", key,
		"-o", "AuthorizedKeysCommand /bastiond authorized-key %u %t %k")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	lines := strings.Split(string(out), "\n")
	for _, want := range []string{
		"authenticationmethods publickey", "passwordauthentication no", "kbdinteractiveauthentication no", "hostbasedauthentication no",
		"permitrootlogin no", "usepam no", "authorizedkeysfile none", "maxsessions 0", "permittty no", "allowtcpforwarding local", "permitopen none",
		"permitlisten none", "allowstreamlocalforwarding no", "allowagentforwarding no", "x11forwarding no", "permittunnel no", "gatewayports no",
		"permituserenvironment no", "usedns no", "hostkeyalgorithms ssh-ed25519", "pubkeyacceptedalgorithms ssh-ed25519", "loglevel VERBOSE",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if weak := regexp.MustCompile(`(?m)^(kexalgorithms|ciphers|macs) .*(sha1|cbc|ecdh-sha2-nistp|diffie-hellman|hmac-md5|umac)`).Find(out); weak != nil {
		t.Errorf("%s", weak)
	}
}

// There is no program but bastiond, sshd and what sshd needs of shared libraries, and nothing that its user may write but the
// control socket's directory.
func openSSHFiles(t *testing.T, k *task) {
	library := regexp.MustCompile(`/(lib|lib64|usr/lib)/.*\.so(\.[0-9]+)*$|/usr/lib/openssh/sshd-(session|auth)$`)
	for _, line := range listing(t, k.root) {
		mode, path := strings.Fields(line)[0], line[strings.LastIndex(line, " ")+1:]
		if strings.HasPrefix(path, "/run/bastiond") || strings.HasPrefix(path, "/dev/") {
			continue
		}
		if !strings.Contains(line, " 0:0 ") || !strings.HasPrefix(mode, "L") && strings.ContainsAny(mode[5:], "w") {
			t.Errorf("writable: %s", line)
		}
		if strings.HasPrefix(mode, "-") && strings.Contains(mode, "x") && path != "/bastiond" && path != "/usr/sbin/sshd" &&
			!library.MatchString(path) {
			t.Errorf("a program: %s", line)
		}
		if strings.ContainsAny(mode, "sS") {
			t.Errorf("privileged: %s", line)
		}
	}
	packages, err := os.ReadFile(k.root + "/etc/bastiond/packages")
	if err != nil || !regexp.MustCompile(`(?m)^openssh-server \S+$`).Match(packages) {
		t.Errorf("%q, %v", packages, err)
	}
}
