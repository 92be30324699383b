package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/printable"
	"github.com/bastion-ssm/bastion/keys"
	"github.com/bastion-ssm/bastion/server"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if buildDir != "" {
		_ = os.RemoveAll(buildDir)
	}
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

const arn = "arn:aws:sts::000000000000:assumed-role/developer/ada"

var buildDir string // set by binary

// binary builds bastiond as the image has it.
var binary = sync.OnceValues(func() (path string, err error) {
	if buildDir, err = os.MkdirTemp("", "bastiond-test-"); err != nil {
		return "", err
	}
	return rig.BuildBastiond(buildDir)
})

// daemon is a running bastiond.
type daemon struct {
	*rig.Proc
	program string
	socket  string
	port    int
}

func startDaemon(t *testing.T, args ...string) *daemon {
	t.Helper()
	program, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "run", "control.sock")
	env := []string{"BASTIOND_SOCKET=" + socket, "BASTIOND_LISTEN=localhost:0", "BASTIOND_BOND_LISTEN=localhost:0"}
	p, err := rig.Start(env, program, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = p.Stop(syscall.SIGKILL) })
	d := &daemon{Proc: p, program: program, socket: socket}
	line, err := p.Line(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	var started struct{ Listen []string }
	if err := json.Unmarshal([]byte(line), &started); err != nil || len(started.Listen) == 0 {
		t.Fatalf("first line %q: %v", line, err)
	}
	_, port, err := net.SplitHostPort(started.Listen[0])
	if err != nil {
		t.Fatal(err)
	}
	if d.port, err = strconv.Atoi(port); err != nil {
		t.Fatal(err)
	}
	return d
}

// command runs another bastiond command against the daemon.
func (d *daemon) command(t *testing.T, args ...string) (output string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), d.program, args...)
	cmd.Env = append(os.Environ(), "BASTIOND_SOCKET="+d.socket)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// connect grants a key by the command line and connects with it.
func (d *daemon) connect(t *testing.T) *ssh.Client {
	t.Helper()
	return d.connectBy(t, func(ports keys.Ports) (net.Conn, error) {
		return net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(ports.SSH)))
	})
}

// connectBy is connect over a connection that dial makes.
func (d *daemon) connectBy(t *testing.T, dial func(keys.Ports) (net.Conn, error)) *ssh.Client {
	t.Helper()
	pair, err := keys.NewPair("")
	if err != nil {
		t.Fatal(err)
	}
	grant, err := keys.NewGrant(pair.PublicKey(), arn, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	word, err := grant.Encode()
	if err != nil {
		t.Fatal(err)
	}
	out, code := d.command(t, "grant", word)
	reply, found, err := keys.FindGrantReply([]byte(out))
	if code != exitOK || !found || err != nil || reply.Error != "" || reply.Ports.SSH != d.port ||
		reply.Grant != grant.ID {
		t.Fatalf("code %d, output %q: %+v, %v, %v", code, out, reply, found, err)
	}
	key, err := reply.Key()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := dial(reply.Ports)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	_ = raw.SetDeadline(time.Now().Add(20 * time.Second))
	conn, chans, requests, err := ssh.NewClientConn(raw, "bastion", &ssh.ClientConfig{
		User: "bastion", Auth: []ssh.AuthMethod{ssh.PublicKeys(pair.Signer())}, HostKeyCallback: keys.PinnedHostKey(key),
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.SetDeadline(time.Time{})
	c := ssh.NewClient(conn, chans, requests)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestCommands(t *testing.T) {
	d := startDaemon(t)
	d.connect(t)
	out, code := d.command(t, "healthcheck")
	var health server.Health
	if err := json.Unmarshal([]byte(out), &health); err != nil || code != exitOK || health.Port != d.port ||
		health.Grants != 1 {
		t.Errorf("healthcheck: code %d, %q, %v", code, out, err)
	}
	out, code = d.command(t, "grant", "v1.nonsense")
	if r, found, err := keys.FindGrantReply([]byte(out)); code != exitFailed || !found || err != nil ||
		r.Code != keys.CodeInvalid {
		t.Errorf("a bad grant: code %d, %q", code, out)
	}
	if out, code := d.command(t, "version"); code != exitOK || strings.TrimSpace(out) != health.Version {
		t.Errorf("version: code %d, %q", code, out)
	}
	if code, err := d.Stop(syscall.SIGTERM); err != nil || code != exitOK {
		t.Errorf("after SIGTERM: code %d, %v", code, err)
	}
	if out, code := d.command(t, "healthcheck"); code != exitFailed || !strings.Contains(out, "control socket") {
		t.Errorf("healthcheck of nobody: code %d, %q", code, out)
	}
	out, code = d.command(t, "grant", "v1.nonsense")
	if r, found, err := keys.FindGrantReply([]byte(out)); code != exitFailed || !found || err != nil ||
		r.Code != keys.CodeNoServer {
		t.Errorf("a grant to nobody: code %d, %q", code, out)
	}
}

func TestSignals(t *testing.T) {
	far, err := rig.StartFarEnd("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	t.Run("drain", func(t *testing.T) {
		d := startDaemon(t, "--allow", far.Addr(), "--drain", "1h")
		conn, err := d.connect(t).Dial("tcp", far.Addr())
		if err != nil {
			t.Fatal(err)
		}
		echo := rig.NewEcho(conn)
		if err := echo.Round(); err != nil {
			t.Fatal(err)
		}
		if err := d.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := d.WaitOutput(t.Context(), `"event":"drain"`); err != nil {
			t.Fatal(err)
		}
		if err := echo.Round(); err != nil {
			t.Errorf("while draining: %v", err)
		}
		_ = conn.Close()
		wantExit(t, d, exitOK)
	})
	t.Run("end", func(t *testing.T) {
		d := startDaemon(t, "--allow", far.Addr(), "--drain", "1h")
		conn, err := d.connect(t).Dial("tcp", far.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := d.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := d.WaitOutput(t.Context(), `"event":"drain"`); err != nil {
			t.Fatal(err)
		}
		if err := d.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		wantExit(t, d, exitOK)
	})
	t.Run("idle", func(t *testing.T) {
		wantExit(t, startDaemon(t, "serve", "--idle-stop", "10ms"), exitOK)
	})
}

func wantExit(t *testing.T, d *daemon, want int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if code, err := d.Wait(ctx); err != nil || code != want {
		t.Errorf("code %d, %v, want %d:\n%s", code, err, want, d.Output())
	}
}

func TestSettings(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, tt := range map[string]struct {
		args []string
		env  []string
		code int
		says string
	}{
		"not on loopback":   {[]string{"--listen", "0.0.0.0:0"}, nil, exitUsage, "loopback only"},
		"all interfaces":    {nil, []string{"BASTIOND_LISTEN=:0"}, exitUsage, "loopback only"},
		"bad destination":   {nil, []string{"BASTIOND_ALLOW=db:5432,db"}, exitUsage, `allow: destination "db": want HOST:PORT`},
		"metadata":          {[]string{"--allow", "169.254.169.254:80"}, nil, exitUsage, "can never be permitted"},
		"bad duration":      {nil, []string{"BASTIOND_IDLE_STOP=soon"}, exitUsage, "idle-stop"},
		"negative duration": {[]string{"--drain", "-1s"}, nil, exitUsage, "drain: -1s is out of range"},
		"negative idle":     {[]string{"--idle-conn", "-1s"}, nil, exitUsage, "want at least 10s"},
		"short idle":        {nil, []string{"BASTIOND_IDLE_CONN=1s"}, exitUsage, "want at least 10s"},
		"bad idle":          {nil, []string{"BASTIOND_IDLE_CONN=15"}, exitUsage, "idle-conn"},
		"no life":           {[]string{"--max-life", "0"}, nil, exitUsage, "max-life: 0s is out of range"},
		"life within drain": {
			[]string{"--max-life", "10s"},
			nil, exitUsage,
			"maximum life 10s: want more than the drain time",
		},
		"bond not on loopback": {
			[]string{"--listen", "localhost:0", "--bond-listen", "0.0.0.0:0"},
			nil, exitUsage,
			"loopback only",
		},
		"bond port in use": {
			[]string{"--listen", "localhost:0", "--bond-listen", taken.Addr().String()},
			nil, exitFailed,
			"address already in use",
		},
		"no bond memory":      {nil, []string{"BASTIOND_BOND_MEMORY=0"}, exitUsage, "bond-memory: want at least 1"},
		"all memory":          {nil, []string{"BASTIOND_BOND_MEMORY=9000000"}, exitUsage, "bond-memory: want at most"},
		"no linger":           {[]string{"--bond-linger", "0"}, nil, exitUsage, "bond-linger: 0s is out of range"},
		"no connections":      {[]string{"--max-conns", "0"}, nil, exitUsage, "max-conns: want at least 1"},
		"bad resolver":        {nil, []string{"BASTIOND_RESOLVER=dns"}, exitUsage, `resolver "dns": want IP:PORT`},
		"bad level":           {[]string{"--log-level", "loud"}, nil, exitUsage, "loud"},
		"unknown flag":        {[]string{"--alow", "a:1"}, nil, exitUsage, "-alow"},
		"unknown command":     {[]string{"shell"}, nil, exitUsage, `unknown command or argument "shell"`},
		"flags before serve":  {[]string{"--allow", "a:1", "serve"}, nil, exitUsage, "put the flags after `serve`"},
		"grant without word":  {[]string{"grant"}, nil, exitUsage, "want one WORD"},
		"key without a type":  {[]string{"authorized-key", "ada"}, nil, exitUsage, "want USER TYPE KEY"},
		"argument to health":  {[]string{"healthcheck", "now"}, nil, exitUsage, "takes no arguments"},
		"no socket":           {[]string{"--socket", ""}, nil, exitUsage, "socket: want a path"},
		"port in use":         {[]string{"--listen", taken.Addr().String()}, nil, exitFailed, "address already in use"},
		"help":                {[]string{"--help"}, nil, exitOK, "BASTIOND_MAX_LIFE"},
		"help has exit codes": {[]string{"--help"}, nil, exitOK, "Exit codes: 0"},
	} {
		t.Run(name, func(t *testing.T) {
			program, err := binary()
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, program, tt.args...)
			cmd.Env = append(os.Environ(), "BASTIOND_SOCKET="+filepath.Join(t.TempDir(), "run", "s"))
			cmd.Env = append(cmd.Env, tt.env...)
			out, err := cmd.CombinedOutput()
			if cmd.ProcessState == nil {
				t.Fatal(err)
			}
			if code := cmd.ProcessState.ExitCode(); code != tt.code || !strings.Contains(string(out), tt.says) {
				t.Errorf("code %d, want %d, and %q in\n%s", code, tt.code, tt.says, out)
			}
		})
	}
}

// The bond port is there unless it is turned off.
func TestBondListen(t *testing.T) {
	for name, tt := range map[string]struct {
		args []string
		want bool
	}{"on": {nil, true}, "off": {[]string{"--bond-listen", "off"}, false}, "empty": {[]string{"--bond-listen="}, false}} {
		d := startDaemon(t, tt.args...)
		out, code := d.command(t, "healthcheck")
		var health server.Health
		if err := json.Unmarshal([]byte(out), &health); err != nil || code != exitOK || (health.BondPort > 0) != tt.want {
			t.Errorf("%s: code %d, %q, %v", name, code, out, err)
		}
	}
}

func TestUnknownVariablesAreNamed(t *testing.T) {
	t.Setenv("BASTIOND_ALOW", "db:5432")
	d := startDaemon(t)
	if err := d.WaitOutput(t.Context(), "BASTIOND_ALOW"); err != nil {
		t.Error(err)
	}
	if out := d.Output(); strings.Contains(out, "name=BASTIOND_SOCKET") {
		t.Errorf("a known one is named:\n%s", out)
	}
	if out, code := d.command(t, "healthcheck"); code != exitOK {
		t.Errorf("code %d: %s", code, out)
	}
}

// What bastiond says on standard error cannot draw on a terminal, whoever chose the arguments.
func TestErrorsArePrintable(t *testing.T) {
	const hostile = "x\x1b[2J\u009b\u202e\u200b\u2028\xff"
	for _, args := range [][]string{{hostile}, {"--" + hostile}, {"--allow", hostile}, {"--log-level", hostile}} {
		var stderr strings.Builder
		run(t.Context(), t.Context(), append([]string{"bastiond"}, args...), nil, io.Discard, &stderr)
		if text := stderr.String(); printable.Text(text) != text || !utf8.ValidString(text) || text == "" {
			t.Errorf("%q: %q", args, text)
		}
	}
}

func TestLimitFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	serve := func(t *testing.T, limit string, args ...string) (stdout, stderr string, code int) {
		t.Helper()
		var out, errOut strings.Builder
		ended, end := context.WithCancel(t.Context())
		end()
		a := &app{drain: ended, end: t.Context(), stdout: &out, stderr: &errOut, limitFile: limit}
		args = append([]string{
			"bastiond", "--listen", "localhost:0", "--bond-listen", "localhost:0",
			"--socket", filepath.Join(t.TempDir(), "run", "s"),
		}, args...)
		code = a.run(args)
		return out.String(), errOut.String(), code
	}
	if config, err := (&app{sshdConfig: filepath.Join(dir, "absent")}).openSSH(); config != nil || err != nil {
		t.Errorf("OpenSSH serves an image without its configuration: %+v, %v", config, err)
	}
	if config, err := (&app{sshdConfig: write("sshd_config", "")}).openSSH(); config == nil || err != nil ||
		config.Config != filepath.Join(dir, "sshd_config") {
		t.Errorf("OpenSSH does not serve: %+v, %v", config, err)
	}
	list := write("list", "a.test:1\nb.test:2\n")
	for name, tt := range map[string]struct {
		limit string
		args  []string
		code  int
		says  string
	}{
		"none":          {filepath.Join(dir, "absent"), []string{"--allow", "c.test:3"}, exitOK, `"allow":["c.test:3"]`},
		"the default":   {list, nil, exitOK, `"allow":["a.test:1","b.test:2"],"limit":["a.test:1","b.test:2"]`},
		"beside a list": {list, []string{"--allow", "c.test:3"}, exitOK, `"allow":["c.test:3"],"limit":["a.test:1","b.test:2"]`},
		"empty":         {write("empty", ""), []string{"--allow", "c.test:3"}, exitOK, `"allow":["c.test:3"],"host_key"`},
		"malformed":     {write("bad", "a.test"), nil, exitUsage, `bad: destination "a.test": want HOST:PORT`},
		"unreadable":    {dir, nil, exitUsage, dir},
		"too long":      {write("long", strings.Repeat(" ", maxLimitFile+1)), nil, exitUsage, "longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			out, errOut, code := serve(t, tt.limit, tt.args...)
			if code != tt.code || !strings.Contains(out+errOut, tt.says) {
				t.Errorf("code %d, want %d, and %s in\n%s%s", code, tt.code, tt.says, out, errOut)
			}
		})
	}
}
