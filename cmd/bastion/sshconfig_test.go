package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/block"
	"github.com/bastion-ssm/bastion/internal/sshconfig"
)

// sshConfigHome is a home directory.
type sshConfigHome struct {
	t             *testing.T
	home, program string
	env           []string
}

func newSSHConfigHome(t *testing.T) *sshConfigHome {
	t.Helper()
	home := t.TempDir()
	h := &sshConfigHome{t: t, home: home, program: filepath.Join(scratch, "bastion")}
	if err := os.Mkdir(filepath.Join(home, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	h.env = append(rig.Environ(), offline(home)...)
	return h
}

func (h *sshConfigHome) run(args ...string) (string, int) {
	h.t.Helper()
	cmd := exec.CommandContext(h.t.Context(), h.program, append([]string{"ssh-config"}, args...)...)
	cmd.Env, cmd.Dir = h.env, h.home
	out, err := cmd.CombinedOutput()
	if exit := cmd.ProcessState; exit == nil {
		h.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func (h *sshConfigHome) must(args ...string) string {
	h.t.Helper()
	out, code := h.run(args...)
	if code != 0 {
		h.t.Fatalf("ssh-config %q: exit code %d\n%s", args, code, out)
	}
	return out
}

// effective returns what OpenSSH makes of the file for host.
func (h *sshConfigHome) effective(file, host string) map[string]string {
	h.t.Helper()
	out, err := exec.CommandContext(h.t.Context(), rig.Need(h.t, "ssh"), "-F", file, "-G", host).CombinedOutput()
	if err != nil {
		h.t.Fatalf("ssh -G %s: %v\n%s", host, err, out)
	}
	options := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), " ")
		options[k] = v
	}
	return options
}

// The block goes to the top of the file, is replaced in place and leaves nothing behind. The file's own bytes, its mode and the
// symbolic link to it stay.
func TestSSHConfigWrite(t *testing.T) {
	t.Parallel()
	h := newSSHConfigHome(t)
	const own = "ServerAliveInterval 7\r\n\n# dots\nHost *.internal\n  User me\nMatch host x\n\tPort 5\n  # no line end"
	target := filepath.Join(h.home, "dotfiles", "ssh")
	file := filepath.Join(h.home, ".ssh", "config")
	for _, dir := range []string{filepath.Dir(target), filepath.Dir(file)} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(target, []byte(own), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../dotfiles/ssh", file); err != nil {
		t.Fatal(err)
	}
	if out := h.must("--write"); !strings.Contains(out, "was written") {
		t.Errorf("%s", out)
	}
	first := mustRead(t, file)
	kept, rest, ok := strings.Cut(string(first), block.End("")+"\n")
	if !ok || rest != own || !strings.HasPrefix(kept, block.Begin("")+"\n") {
		t.Fatalf("the file is\n%s", first)
	}
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if out := h.must("--write"); !strings.Contains(out, "is up to date") {
		t.Errorf("%s", out)
	}
	after, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if link, err := os.Lstat(file); err != nil || link.Mode()&os.ModeSymlink == 0 || after.Mode().Perm() != 0o640 ||
		!os.SameFile(before, after) {
		t.Errorf("link %v, mode %v, %v", link, after.Mode(), err)
	}

	// Where a user has moved the block to, there it is replaced.
	moved := "Host other\n" + kept + block.End("") + "\n" + own
	if err := os.WriteFile(target, []byte(moved), 0o600); err != nil {
		t.Fatal(err)
	}
	h.must("--write", "--profile", "it's", "*.corp")
	got := string(mustRead(t, file))
	if !strings.HasPrefix(got, "Host other\n"+block.Begin("")+"\n") || !strings.HasSuffix(got, "\n"+block.End("")+"\n"+own) ||
		!strings.Contains(got, "\nHost *.corp\n") || strings.Count(got, block.Begin("")) != 1 {
		t.Errorf("the file is\n%s", got)
	}
	h.must("--remove")
	if got := string(mustRead(t, file)); got != "Host other\n"+own {
		t.Errorf("the file is\n%s", got)
	}
	if out := h.must("--remove"); !strings.Contains(out, "has no block") {
		t.Errorf("%s", out)
	}
	for _, dir := range []string{filepath.Dir(target), filepath.Dir(file)} {
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Errorf("%s holds %v, %v", dir, left, err)
		}
	}
}

// Without a file there is one afterwards, which is the user's alone.
func TestSSHConfigNewFile(t *testing.T) {
	t.Parallel()
	h := newSSHConfigHome(t)
	h.must("--write")
	dir := filepath.Join(h.home, ".ssh")
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "config"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	printed := h.must()
	if got := string(mustRead(t, filepath.Join(dir, "config"))); got != printed {
		t.Errorf("the file is\n%s\nprinted is\n%s", got, printed)
	}
}

// OpenSSH reads the block as intended: lines before the first Host of a user's own file still apply to all hosts.
func TestSSHConfigAsOpenSSHReadsIt(t *testing.T) {
	t.Parallel()
	h := newSSHConfigHome(t)
	file := filepath.Join(h.home, "config")
	if err := os.WriteFile(file, []byte("User everyone\nConnectTimeout 9\nHost i-*\n  Port 2222\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.must("--write", "--file", "config", "--region", "eu-west-1", "--instance-connect", "*.corp", "10.*")
	const proxy = "bastion --region=eu-west-1 proxy"
	for host, want := range map[string]map[string]string{
		"example.org": {"user": "everyone", "connecttimeout": "9", "proxycommand": "", "port": "22"},
		"a.corp":      {"user": "everyone", "proxycommand": proxy + " %h %p", "connecttimeout": "600"},
		"10.0.0.1":    {"user": "everyone", "proxycommand": proxy + " %h %p"},
		"bastion": {
			"user": "bastion", "proxycommand": proxy + " %h %p",
			"knownhostscommand": "bastion --region=eu-west-1 known-hosts %H",
			"identityagent":     filepath.Join(h.home, "run", "bastion", "agent.sock"), "stricthostkeychecking": "true",
		},
		"i-0123456789abcdef0": {"user": "everyone", "port": "2222", "proxycommand": proxy + " --instance-connect=%r %h %p"},
	} {
		got := h.effective(file, host)
		for k, v := range want {
			g := got[k]
			if dir, rest, ok := strings.Cut(g, "/bastion --"); ok && filepath.IsAbs(dir) {
				g = "bastion --" + rest
			}
			if g != v {
				t.Errorf("%s: %s is %q, want %q", host, k, got[k], v)
			}
		}
	}
}

// A program in an odd place and odd settings get through OpenSSH and the shell as they are.
func TestSSHConfigQuoting(t *testing.T) {
	t.Parallel()
	client := rig.Need(t, "ssh")
	identity, err := ssh.ParsePrivateKey(mustRead(t, testIdentity(t)))
	if err != nil {
		t.Fatal(err)
	}
	server := startSSHD(t, identity.PublicKey())
	address, port, err := net.SplitHostPort(server.addr)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir() + "/my 100% 'own' $tools\\"
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "bastion")
	// It notes what it was called with, and does what proxy and known-hosts do.
	script := fmt.Sprintf(`#!/bin/bash
printf '%%s\n' "$@" >> "${0%%/*}/calls"
case "$2" in
proxy) exec 3<>/dev/tcp/%s/%s; cat <&3 & trap "kill $!" EXIT HUP TERM; cat >&3 ;;
known-hosts) echo "$3 %s" ;;
esac
`, address, port, authorizedLine(server.hostKey))
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	const profile = `it's 50% \of $prod`
	self := exec.Cmd{
		Path: filepath.Join(scratch, "bastion"), Args: []string{"bastion", "ssh-config", "--profile", profile},
		Env: append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "BASTION_CONFIG="+os.DevNull, "BASTION_SHARED_CONFIG=off",
			"BASTION_RUNTIME_DIR="+filepath.Join(dir, "run")),
	}
	block, err := self.Output()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config")
	if _, err := sshconfig.Edit(file, block); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, client, "-F", file, "bastion")
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "Permission denied (publickey") {
		t.Errorf("the host key should be known and there is no key: %v\n%s", err, out)
	}
	given := "--profile=" + profile + "\n"
	calls := string(mustRead(t, filepath.Join(dir, "calls")))
	if !strings.HasPrefix(calls, given+"proxy\nbastion\n22\n") ||
		!strings.Contains(calls, given+"known-hosts\nbastion\n") {
		t.Errorf("called with\n%s", calls)
	}
}

func TestSSHConfigBad(t *testing.T) {
	t.Parallel()
	h := newSSHConfigHome(t)
	for name, content := range map[string]string{
		"open":   block.Begin("") + "\n",
		"closed": "Host x\n" + block.End("") + "\n",
		"twice":  block.Begin("") + "\n" + block.End("") + "\n" + block.Begin("") + "\n" + block.End("") + "\n",
	} {
		if err := os.WriteFile(filepath.Join(h.home, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("nowhere", filepath.Join(h.home, "dangling")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--write", "--remove"}, "exclude each other"},
		{[]string{"--file", "x"}, "add --write or --remove"},
		{[]string{"--remove", "*.x"}, "usage: bastion ssh-config --remove"},
		{[]string{"*"}, "would send every ssh through the bastion"},
		{[]string{"a b"}, "is not a pattern of hosts"},
		{[]string{"a\nProxyCommand x"}, "is not a pattern of hosts"},
		{[]string{"--profile", "a\nb"}, "ssh_config cannot hold"},
		{[]string{"--write", "--file", "open"}, "has no end"},
		{[]string{"--write", "--file", "closed"}, "ends before it begins"},
		{[]string{"--remove", "--file", "twice"}, "begins twice"},
		{[]string{"--write", "--file", "dangling"}, "leads nowhere"},
		{[]string{"--write", "--file", "."}, "not a file"},
	} {
		out, code := h.run(tt.args...)
		if code != 2 || !strings.Contains(out, tt.want) || !strings.Contains(out, "\n  hint: ") {
			t.Errorf("%q: exit code %d\n%s", tt.args, code, out)
		}
	}
}

// An ssh that stops at an option which it does not know gets none of those.
func TestSSHConfigForOldOpenSSH(t *testing.T) {
	t.Parallel()
	h := newSSHConfigHome(t)
	bin := t.TempDir()
	for version, has := range map[string]bool{
		"8.4p1": false, "7.9": false, "8.5p1": true, "10.0p2": true,
		"unreadable": true,
	} {
		script := "#!/bin/sh\necho OpenSSH_" + version + ", OpenSSL >&2\n"
		if err := os.WriteFile(filepath.Join(bin, "ssh"), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		h.env = append(h.env, "PATH="+bin)
		out := h.must()
		if got := strings.Contains(out, "\n    KnownHostsCommand "); got != has ||
			!strings.Contains(out, "\nHost *.internal\n") {
			t.Errorf("OpenSSH %s: %s", version, out)
		}
	}
}

// The stanza for instances matches their ids and no other name. A name of one's own with a HostName behind the patterns goes
// through the proxy, which receives the HostName.
func TestSSHConfigTakesTheRightHosts(t *testing.T) {
	t.Parallel()
	h := newSSHConfigHome(t)
	file := filepath.Join(h.home, "config")
	own := "Host db web\n  User admin\nHost db\n  HostName db-1.corp.internal\nHost web\n  HostName i-0123456789abcdef0\n"
	if err := os.WriteFile(file, []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	h.must("--write", "--file", "config", "*.internal", "!plain.internal", "fd00:*", "db", "web")
	for host, want := range map[string]struct {
		proxied  bool
		hostname string
	}{
		"i-0123456789abcdef0": {true, ""}, "i-01234567": {true, ""}, "mi-0123456789abcdef0": {true, ""},
		"i-web": {}, "i-am-a-host": {}, "i-abcdefgh": {}, "i-0123456": {}, "i-0123456789abcdef": {}, "i-01234567.corp": {},
		"i-0123456789abcdefg": {}, "i-ABCDEF12": {}, "i-web-0123": {}, "mi-01234567": {}, "mi-media-servers-0123": {}, "i-a.corp.de": {},
		"xi-0123456789abcdef0": {}, "i-0123_567": {}, "i-": {},
		"a.internal": {true, ""}, "plain.internal": {}, "fd00::1": {true, ""}, "fe80::1": {},
		"db": {true, "db-1.corp.internal"}, "web": {true, "i-0123456789abcdef0"}, "other": {},
	} {
		got := h.effective(file, host)
		if proxied := strings.HasSuffix(got["proxycommand"], " proxy %h %p"); proxied != want.proxied {
			t.Errorf("%s: ProxyCommand %q", host, got["proxycommand"])
		}
		if want.hostname != "" && (got["hostname"] != want.hostname || got["user"] != "admin") {
			t.Errorf("%s: HostName %q, User %q", host, got["hostname"], got["user"])
		}
	}
}
