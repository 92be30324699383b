package hosts

import (
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

func mustAdd(t *testing.T, file, id string, names map[string]netip.Addr) *Block {
	t.Helper()
	b, err := Add(file, id, names)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What is outside of a block stays, whatever its line ends, and so do mode and owner.
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
				if err := b.Remove(); err != nil {
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
	if err := b.Remove(); err != nil {
		t.Error(err)
	}
	_, err := Add(file, "1-2-3", names("nas.lan", "127.64.0.1"))
	if fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "10.0.0.7") || fail.NextOf(err) == "" {
		t.Errorf("another address: %v", err)
	}
	if got := content(t, file); got != before {
		t.Errorf("written: %q", got)
	}
	have, err := Addresses(file)
	if err != nil || have["orders.example"] != netip.MustParseAddr("127.64.0.1") || len(have) != 4 {
		t.Errorf("Addresses: %v, %v", have, err)
	}
}

// Names come from AWS and configuration: none may write a line of its own, or take localhost or an address.
func TestHostileNames(t *testing.T) {
	file := hostsFile(t, original)
	for _, name := range []string{"a\n127.0.0.1 b", "a b", "a#b", "", "localhost", "LOCALHOST", "10.0.0.1", "é.example", strings.Repeat("a", 254)} {
		if _, err := Add(file, "1-2-3", names(name, "127.64.0.1")); fail.KindOf(err) != fail.Usage {
			t.Errorf("name %q: %v", name, err)
		}
	}
	if _, err := Add(file, "1-2-3", names("a.example", "10.0.0.1")); err == nil {
		t.Error("an address that is not loopback was accepted")
	}
	for _, id := range []string{"", "a b", "a\nb"} {
		if _, err := Add(file, id, names("a.example", "127.64.0.1")); err == nil {
			t.Errorf("id %q was accepted", id)
		}
	}
	if got := content(t, file); got != original {
		t.Errorf("written: %q", got)
	}
}

func TestSweep(t *testing.T) {
	file := hostsFile(t, original)
	alive := mustAdd(t, file, NewID(), names("alive.example", "127.64.0.1"))
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
	if err := Sweep(file, Alive); err != nil {
		t.Fatal(err)
	}
	if got := content(t, file); got != with+foreign {
		t.Errorf("swept:\n%s\nwant\n%s", got, with+foreign)
	}
	if err := alive.Remove(); err != nil {
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
			blocks[i], err = Add(file, fmt.Sprintf("1-1-%d", i), names(fmt.Sprintf("h%d.example", i), fmt.Sprintf("127.64.0.%d", i+1)))
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if have, err := Addresses(file); err != nil || len(have) != 3+len(blocks) {
		t.Errorf("%d names, %v", len(have), err)
	}
	for _, b := range blocks {
		wg.Go(func() {
			if err := b.Remove(); err != nil {
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
	f, err := openLocked(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, text := range []string{original + "more\n", "less\n"} {
		if err := overwrite(f, text); err != nil {
			t.Fatal(err)
		}
		if got := content(t, file); got != text {
			t.Errorf("%q, want %q", got, text)
		}
	}
}

func TestErrorsNameTheNextStep(t *testing.T) {
	want := names("a.example", "127.64.0.1")
	err := explain("/etc/hosts", want, fmt.Errorf("open: %w", os.ErrPermission))
	if next := fail.NextOf(err); !strings.Contains(next, elevate) || !strings.Contains(next, `"127.64.0.1 a.example"`) {
		t.Errorf("next step: %s", next)
	}
	missing := filepath.Join(t.TempDir(), "missing")
	for _, err := range []error{
		func() error { _, err := Add(missing, "1-2-3", want); return err }(),
		Sweep(missing, Alive),
		unusable(netip.MustParseAddr("127.64.0.1"), syscall.EADDRNOTAVAIL, "linux"),
	} {
		if err == nil || fail.NextOf(err) == "" {
			t.Errorf("%v", err)
		}
	}
	err = unusable(netip.MustParseAddr("127.64.0.1"), &net.OpError{Err: os.NewSyscallError("bind", syscall.EADDRNOTAVAIL)}, "darwin")
	if next := fail.NextOf(err); !strings.Contains(next, "sudo ifconfig lo0 alias 127.64.0.1 up") {
		t.Errorf("next step on macOS: %s", next)
	}
}

func TestAddress(t *testing.T) {
	nobody := func(netip.Addr) bool { return false }
	a := Address("orders.example", nobody)
	if b := Address("Orders.Example.", nobody); a != b {
		t.Errorf("%s and %s for one name", a, b)
	}
	// The address is stable over versions: people write it down.
	if want := netip.MustParseAddr("127.127.157.10"); a != want {
		t.Errorf("%s, want %s", a, want)
	}
	b := Address("orders.example", func(addr netip.Addr) bool { return addr == a })
	if a == b || !b.IsLoopback() {
		t.Errorf("%s, where %s is taken", b, a)
	}
	seen := make(map[netip.Addr]bool)
	for i := range 2000 {
		addr := Address(fmt.Sprint("host", i), func(addr netip.Addr) bool { return seen[addr] })
		if seen[addr] || !addr.IsLoopback() || addr.Compare(netip.MustParseAddr("127.64.0.1")) < 0 || addr.As4()[3] == 0 || addr.As4()[3] == 255 {
			t.Fatalf("%s for name %d", addr, i)
		}
		seen[addr] = true
	}
	if runtime.GOOS == "linux" {
		if err := Usable(t.Context(), a); err != nil {
			t.Error(err)
		}
	}
	if err := Usable(t.Context(), netip.MustParseAddr("203.0.113.1")); err == nil || fail.NextOf(err) == "" {
		t.Errorf("an address of somebody else: %v", err)
	}
}
