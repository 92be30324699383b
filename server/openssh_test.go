package server

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/audit"
	"github.com/bastion-ssm/bastion/keys"
)

// openSSH is OpenSSH's client, set up for a bastion: its key comes from an ssh-agent socket.
type openSSH struct {
	b    *bastion
	ssh  string
	args []string
}

func newOpenSSH(t *testing.T, b *bastion) *openSSH {
	t.Helper()
	program := rig.Need(t, "ssh")
	dir := t.TempDir()
	socket := filepath.Join(dir, "agent.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	p := b.grant(t)
	go func() { done <- keys.ServeAgent(ctx, l, p.Signer()) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	known := filepath.Join(dir, "known_hosts")
	if err := os.WriteFile(known, []byte(keys.KnownHostsLine("127.0.0.1", b.Port(), b.HostKey())+"\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	return &openSSH{b: b, ssh: program, args: []string{
		"-F", "none", "-o", "IdentityAgent=" + socket, "-o", "UserKnownHostsFile=" + known, "-o", "GlobalKnownHostsFile=none",
		"-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-o", "IdentityFile=none",
		"-p", strconv.Itoa(b.Port()),
	}}
}

func (o *openSSH) run(t *testing.T, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, o.ssh, append(append([]string(nil), o.args...), args...)...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	cmd.Env = append(os.Environ(), "DISPLAY=:0")
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

func TestOpenSSHForwards(t *testing.T) {
	far := farEnd(t, func(conn *net.TCPConn) {
		all, _ := io.ReadAll(conn)
		_, _ = conn.Write(bytes.ToUpper(all))
	})
	b := start(t, Config{Allow: allowOnly(t, far)})
	o := newOpenSSH(t, b)
	out, errOut, code := o.run(t, "question", "-W", far, "someone@127.0.0.1")
	if out != "QUESTION" || code != 0 {
		t.Errorf("code %d, stdout %q, stderr %q", code, out, errOut)
	}
	if r := b.log.wait(t, audit.Close, 1); r.Result != audit.OK || *r.BytesUp != 8 || *r.BytesDown != 8 {
		t.Errorf("%+v", r)
	}
	if r := b.log.wait(t, audit.Auth, 1); r.User != "someone" || r.Who != arn {
		t.Errorf("%+v", r)
	}
}

func TestOpenSSHDenials(t *testing.T) {
	b := start(t, Config{Allow: mustAllow(t, "10.0.0.0/8:*"), Dial: newDialed(t).dial})
	o := newOpenSSH(t, b)
	sftp := rig.Need(t, "sftp")
	const prohibited = "administratively prohibited"
	for _, tt := range []struct {
		name    string
		args    []string
		request string // of the audit log
		stderr  string
	}{
		{"shell", []string{"a@127.0.0.1"}, "session", prohibited},
		{"exec", []string{"a@127.0.0.1", "id"}, "session", prohibited},
		{"terminal", []string{"-tt", "a@127.0.0.1"}, "session", prohibited},
		{"subsystem", []string{"-s", "a@127.0.0.1", "sftp"}, "session", prohibited},
		{"X11", []string{"-Y", "a@127.0.0.1"}, "session", prohibited},
		{"agent", []string{"-A", "a@127.0.0.1"}, "session", prohibited},
		{
			"remote forward",
			[]string{"-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1", "a@127.0.0.1"},
			"tcpip-forward", "remote port forwarding failed",
		},
		{
			"remote socket",
			[]string{"-N", "-o", "ExitOnForwardFailure=yes", "-R", "/tmp/s:127.0.0.1:1", "a@127.0.0.1"},
			"streamlocal-forward@openssh.com", "remote port forwarding failed",
		},
		{
			"destination",
			[]string{"-W", "169.254.169.254:80", "a@127.0.0.1"},
			directTCPIP,
			"169.254.169.254 is never permitted",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := b.log.count(t, audit.Denied)
			out, errOut, code := o.run(t, "", tt.args...)
			if code == 0 || out != "" || !strings.Contains(errOut, tt.stderr) {
				t.Errorf("code %d, stdout %q, stderr %q", code, out, errOut)
			}
			if r := b.log.wait(t, audit.Denied, before+1); r.Request != tt.request || r.Who != arn {
				t.Errorf("%+v", r)
			}
		})
	}
	t.Run("sftp", func(t *testing.T) {
		before := b.log.count(t, audit.Denied)
		files := &openSSH{b: b, ssh: sftp, args: append([]string{"-S", o.ssh}, portOption(o.args)...)}
		out, errOut, code := files.run(t, "ls\n", "a@127.0.0.1")
		if code == 0 {
			t.Errorf("code %d, stdout %q, stderr %q", code, out, errOut)
		}
		b.log.wait(t, audit.Denied, before+1)
	})
}

// portOption spells the port as sftp does.
func portOption(args []string) []string {
	args = append([]string(nil), args...)
	for i, arg := range args {
		if arg == "-p" {
			args[i] = "-P"
		}
	}
	return args
}

func TestOpenSSHWrongHostKey(t *testing.T) {
	b, other := start(t, Config{}), start(t, Config{})
	o := newOpenSSH(t, b)
	known := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(known, []byte(keys.KnownHostsLine("127.0.0.1", b.Port(), other.HostKey())+"\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	o.args = append([]string{"-o", "UserKnownHostsFile=" + known}, o.args...) // OpenSSH takes an option's first value
	_, errOut, code := o.run(t, "", "-N", "a@127.0.0.1")
	if code == 0 || !strings.Contains(errOut, "Host key verification failed") {
		t.Errorf("code %d, stderr %q", code, errOut)
	}
	if n := b.log.count(t, audit.Auth); n != 0 {
		t.Errorf("%d authentications", n)
	}
}
