package hosts

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/internal/process"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const original = "127.0.0.1\tlocalhost\n# mine\n10.0.0.7 nas  nas.lan\n"

func hostsFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func names(pairs ...string) map[string]netip.Addr {
	out := make(map[string]netip.Addr)
	for i := 0; i < len(pairs); i += 2 {
		out[pairs[i]] = netip.MustParseAddr(pairs[i+1])
	}
	return out
}

// open returns the hosts file at path with locks of the test's own.
func open(t *testing.T, path string) *File {
	t.Helper()
	return Open(path, filepath.Join(filepath.Dir(path), "locks"))
}

func mustAdd(t *testing.T, file, id string, names map[string]netip.Addr) *Block {
	t.Helper()
	b, err := open(t, file).Add(t.Context(), id, names)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Everything outside a block stays, whatever its line ends, and so do mode and owner.
func TestAddAndRemove(t *testing.T) {
	for name, tt := range map[string]struct{ before, during string }{
		"as usual": {original, original + "# BEGIN bastion 1-2-3\n127.64.0.1 a.example\n127.64.0.2 b.example\n# END bastion 1-2-3\n"},
		"no last line end": {
			"127.0.0.1 localhost", "127.0.0.1 localhost\n# BEGIN bastion 1-2-3\n127.64.0.1 a.example\n127.64.0.2 b.example\n# END bastion 1-2-3",
		},
		"Windows": {
			"127.0.0.1 localhost\r\n",
			"127.0.0.1 localhost\r\n# BEGIN bastion 1-2-3\r\n127.64.0.1 a.example\r\n127.64.0.2 b.example\r\n# END bastion 1-2-3\r\n",
		},
		"Windows, no last line end": {
			"127.0.0.1 localhost\r\n::1 localhost",
			"127.0.0.1 localhost\r\n::1 localhost\r\n# BEGIN bastion 1-2-3\r\n127.64.0.1 a.example\r\n127.64.0.2 b.example\r\n# END bastion 1-2-3",
		},
	} {
		t.Run(name, func(t *testing.T) {
			file := hostsFile(t, tt.before)
			if err := os.Chmod(file, 0o644); err != nil {
				t.Fatal(err)
			}
			b := mustAdd(t, file, "1-2-3", names("b.example", "127.64.0.2", "a.example", "127.64.0.1"))
			if got := content(t, file); got != tt.during {
				t.Errorf("with the block:\n%q, want\n%q", got, tt.during)
			}
			fi, err := os.Stat(file)
			if err != nil || runtime.GOOS != "windows" && fi.Mode().Perm() != 0o644 {
				t.Errorf("mode %v, %v", fi.Mode(), err)
			}
			for range 2 { // a second time is no error
				if err := b.Remove(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if got := content(t, file); got != tt.before {
				t.Errorf("afterwards:\n%q, want\n%q", got, tt.before)
			}
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".hosts*")); left != nil {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// A name that the file gives the same address needs no rights at all; another address is an error that changes nothing.
func TestNamesThatAreThere(t *testing.T) {
	file := hostsFile(t, original+"127.64.0.1 Orders.Example # for ever\n")
	before := content(t, file)
	b := mustAdd(t, file, "1-2-3", names("orders.example", "127.64.0.1"))
	if got := content(t, file); got != before {
		t.Errorf("written: %q", got)
	}
	if err := b.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	_, err := open(t, file).Add(t.Context(), "1-2-3", names("nas.lan", "127.64.0.1"))
	if fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "10.0.0.7") || fail.NextOf(err) == "" {
		t.Errorf("another address: %v", err)
	}
	if got := content(t, file); got != before {
		t.Errorf("written: %q", got)
	}
	have, err := open(t, file).Addresses()
	if err != nil || have["orders.example"] != netip.MustParseAddr("127.64.0.1") || len(have) != 4 {
		t.Errorf("Addresses: %v, %v", have, err)
	}
}

// Names come from AWS and configuration: none may write a line of its own, or take localhost or an address.
func TestHostileNames(t *testing.T) {
	file := hostsFile(t, original)
	for _, name := range []string{"a\n127.0.0.1 b", "a b", "a#b", "", "localhost", "LOCALHOST", "10.0.0.1", "é.example", strings.Repeat("a", 254)} {
		if _, err := open(t, file).Add(t.Context(), "1-2-3", names(name, "127.64.0.1")); fail.KindOf(err) != fail.Usage {
			t.Errorf("name %q: %v", name, err)
		}
	}
	if _, err := open(t, file).Add(t.Context(), "1-2-3", names("a.example", "10.0.0.1")); err == nil {
		t.Error("an address that is not loopback was accepted")
	}
	for _, id := range []string{"", "a b", "a\nb"} {
		if _, err := open(t, file).Add(t.Context(), id, names("a.example", "127.64.0.1")); err == nil {
			t.Errorf("id %q was accepted", id)
		}
	}
	if got := content(t, file); got != original {
		t.Errorf("written: %q", got)
	}
}

func TestSweep(t *testing.T) {
	file := hostsFile(t, original)
	alive := mustAdd(t, file, process.NewID(), names("alive.example", "127.64.0.1"))
	with := content(t, file)
	foreign := "# BEGIN bastion somebody-else's\n127.64.0.9 other.example\n# END bastion somebody-else's\n"
	// A process that has ended, and one whose process id another has by now.
	dead := exec.Command(os.Args[0], "-test.run=^$")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	for i, id := range []string{fmt.Sprintf("%d-1-1", dead.Process.Pid), fmt.Sprintf("%d-12345-1", os.Getpid())} {
		if runtime.GOOS == "linux" || i == 0 {
			mustAdd(t, file, id, names(fmt.Sprintf("dead%d.example", i), "127.64.0.2"))
		}
	}
	if err := os.WriteFile(file, []byte(content(t, file)+foreign), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := open(t, file).Sweep(t.Context(), process.Alive); err != nil {
		t.Fatal(err)
	}
	if got := content(t, file); got != with+foreign {
		t.Errorf("swept:\n%s\nwant\n%s", got, with+foreign)
	}
	if err := alive.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := content(t, file); got != original+foreign {
		t.Errorf("in the end:\n%s", got)
	}
}

// Somebody has edited the file: without its end a block ends where lines begin that are not of a block.
func TestBlockWithoutEnd(t *testing.T) {
	text := "a\n# BEGIN bastion 1-2-3\n127.64.0.1 a.example\n10.0.0.8 printer\n127.64.0.2 b.example\n"
	got := without(text, func(id string) bool { return id == "1-2-3" })
	if want := "a\n10.0.0.8 printer\n127.64.0.2 b.example\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := without(text, func(id string) bool { return id == "1-2" }); got != text {
		t.Errorf("%q", got)
	}
}

// Many at once: no block gets lost, none stays.
func TestConcurrent(t *testing.T) {
	file := hostsFile(t, original)
	var wg sync.WaitGroup
	blocks := make([]*Block, 20)
	for i := range blocks {
		wg.Go(func() {
			var err error
			blocks[i], err = open(t, file).Add(t.Context(), fmt.Sprintf("1-1-%d", i),
				names(fmt.Sprintf("h%d.example", i), fmt.Sprintf("127.64.0.%d", i+1)))
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if have, err := open(t, file).Addresses(); err != nil || len(have) != 3+len(blocks) {
		t.Errorf("%d names, %v", len(have), err)
	}
	for _, b := range blocks {
		wg.Go(func() {
			if err := b.Remove(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := content(t, file); got != original {
		t.Errorf("%q", got)
	}
}

// Where the file cannot be replaced it is written in place, shorter texts too.
func TestOverwrite(t *testing.T) {
	file := hostsFile(t, original)
	for _, text := range []string{original + "more\n", "less\n"} {
		if err := overwrite(file, func(string) (string, error) { return text, nil }); err != nil {
			t.Fatal(err)
		}
		if got := content(t, file); got != text {
			t.Errorf("%q, want %q", got, text)
		}
	}
}

func TestErrorsNameTheNextStep(t *testing.T) {
	want := names("a.example", "127.64.0.1")
	err := Open("/etc/hosts", "").explain(fmt.Errorf("open: %w", os.ErrPermission))
	if next := fail.NextOf(err); !strings.Contains(next, elevate) {
		t.Errorf("next step: %s", next)
	}
	missing := filepath.Join(t.TempDir(), "missing")
	for _, err := range []error{
		func() error { _, err := open(t, missing).Add(t.Context(), "1-2-3", want); return err }(),
		open(t, missing).Sweep(t.Context(), process.Alive),
		open(t, missing).CanAdd(want),
		unusable(netip.MustParseAddr("127.64.0.1"), 1, syscall.EADDRNOTAVAIL, "linux"),
		unusable(netip.MustParseAddr("127.64.0.1"), 1, errTaken, "linux"),
	} {
		if err == nil || fail.NextOf(err) == "" {
			t.Errorf("%v", err)
		}
	}
	err = unusable(netip.MustParseAddr("127.64.0.1"), 1, &net.OpError{Err: os.NewSyscallError("bind", syscall.EADDRNOTAVAIL)}, "darwin")
	if next := fail.NextOf(err); !strings.Contains(next, "sudo ifconfig lo0 alias 127.64.0.1 up") {
		t.Errorf("next step on macOS: %s", next)
	}
}

func TestEncodings(t *testing.T) {
	marked := hostsFile(t, "\ufeff127.0.0.1 marked.example\n")
	err := open(t, marked).CanAdd(names("marked.example", "127.0.0.2"))
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("the name behind a byte order mark is not seen: %v", err)
	}
	wide := hostsFile(t, "\xff\xfe#\x00\n\x00")
	if _, err := open(t, wide).Add(t.Context(), "1-1-1", names("a.example", "127.0.0.2")); !errors.Is(err, files.ErrUTF16) {
		t.Errorf("in UTF-16: %v", err)
	}
	if got := content(t, wide); got != "\xff\xfe#\x00\n\x00" {
		t.Errorf("the file in UTF-16 is %q then", got)
	}
}
