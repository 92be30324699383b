package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/e2e/rig"
)

// The test binary is the command line: started as "bastion", it is that.
func TestMain(m *testing.M) {
	testscript.Main(suite{m}, map[string]func(){"bastion": main})
}

// scratch is a directory for all tests. It holds "bastion".
var scratch string

// suite runs the tests with a scratch directory, and fails if they leave goroutines behind.
type suite struct{ m *testing.M }

func (s suite) Run() int {
	code, err := s.run()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func (s suite) run() (code int, err error) {
	rig.DefaultSignals()
	if scratch, err = os.MkdirTemp("", "bastion"); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	if err := os.Symlink(self, filepath.Join(scratch, "bastion")); err != nil {
		return 0, err
	}
	// Most of these tests wait, for a bastion's start or for a deadline. So more of them run at once than there are processors. An option of the
	// command line counts before this.
	if err := flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))); err != nil {
		return 0, err
	}
	if code = s.m.Run(); code != 0 {
		return code, nil
	}
	return 0, goleak.Find()
}

func mustAddr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// testIdentity writes a private key and returns its path.
func testIdentity(t *testing.T) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// offline is an environment in which no AWS can be found.
func offline(home string) []string {
	return []string{
		"HOME=" + home, "XDG_CONFIG_HOME=" + filepath.Join(home, ".config"), "XDG_RUNTIME_DIR=" + filepath.Join(home, "run"),
		"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=" + filepath.Join(home, "none"),
		"AWS_SHARED_CREDENTIALS_FILE=" + filepath.Join(home, "none"), "TERM=dumb", "BASTION_NO_AGENT=true",
		"BASTION_STATE_DIR=" + filepath.Join(home, "state"), "BASTION_SHARED_CONFIG=off",
	}
}

// The scripts run without AWS: what they show must be found out before any call.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			home := filepath.Join(env.WorkDir, "home")
			env.Vars = append(append(env.Vars, offline(home)...), "GORACE="+os.Getenv("GORACE"))
			return os.MkdirAll(filepath.Join(home, "run"), 0o700)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":  exits,
			"occupy": occupy,
			"fill":   fill,
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// occupy listens on a free port until the script ends, and puts its number into a variable: occupy NAME
func occupy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: occupy NAME")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = ln.Close() })
	ts.Setenv(args[0], strconv.Itoa(ln.Addr().(*net.TCPAddr).Port))
}

// fill replaces the variables in a file: fill FILE
func fill(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: fill FILE")
	}
	text := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// exits runs a command and compares its exit code: exits CODE COMMAND ARGS...
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}
