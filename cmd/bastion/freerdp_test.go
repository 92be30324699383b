//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf16"

	"golang.org/x/crypto/md4" //nolint:staticcheck // SA1019: NTLM's hash

	"github.com/bastion-ssm/bastion/e2e/rig"
)

// display starts an X server without a screen, and returns its name.
func display(t *testing.T) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command(rig.Need(t, "Xvfb"), "-displayfd", "3", "-screen", "0", "640x480x24", "-nolisten", "tcp", "-noreset")
	cmd.ExtraFiles = []*os.File{w}
	p, err := rig.StartCmd(nil, cmd)
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = p.Stop(syscall.SIGTERM) })
	if err := r.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var number int
	if _, err := fmt.Fscanln(r, &number); err != nil {
		t.Fatalf("Xvfb: %v\n%s", err, p.Output())
	}
	return fmt.Sprintf(":%d", number)
}

// ntHash is what NTLM keeps of a password.
func ntHash(password string) string {
	h := md4.New()
	for _, unit := range utf16.Encode([]rune(password)) {
		_ = binary.Write(h, binary.LittleEndian, unit)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// shadowServer starts FreeRDP's server, which lets the user of a password in by NLA (CredSSP), as Windows does.
func shadowServer(t *testing.T, display, user, password string) netip.AddrPort {
	t.Helper()
	ln := listenAt(t, 3389)
	addr := netip.MustParseAddrPort(ln.Addr().String())
	_ = ln.Close()
	home := t.TempDir()
	sam := filepath.Join(home, "sam")
	if err := os.WriteFile(sam, fmt.Appendf(nil, "%s:::%s:::\n", user, ntHash(password)), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := rig.Start([]string{"DISPLAY=" + display, "HOME=" + home, "XDG_CONFIG_HOME=" + home}, rig.Need(t, "freerdp-shadow-cli"),
		"/bind-address:"+addr.Addr().String(), fmt.Sprintf("/port:%d", addr.Port()), "/sec:nla", "/sam-file:"+sam, "+auth")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = p.Stop(syscall.SIGTERM)
		if t.Failed() {
			t.Logf("FreeRDP's server: %s", p.Output())
		}
	})
	eventually(t, "FreeRDP's server listens", func() bool {
		c, err := net.Dial("tcp", addr.String())
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return addr
}

// FreeRDP signs in to a desktop behind the bastion with the password that EC2 keeps, and with no other.
func TestFreeRDP(t *testing.T) {
	t.Parallel()
	rig.Need(t, "xfreerdp")
	e := startLab(t, nil)
	screen := display(t)
	w := e.addDesktops(shadowServer(t, screen, "Administrator", windowsPassword))
	e.addMachine(changedID, "changed-server", w.addr, w.encrypt("its first password"))
	env := []string{"DISPLAY=" + screen, "PATH=" + os.Getenv("PATH")}
	if r := e.run(env, "rdp", windowsID, "--key", w.keyFile, "--", "+auth-only"); r.code != 0 {
		t.Errorf("with the password: exit code %d\n%s", r.code, r.stderr)
	}
	r := e.run(env, "rdp", "changed-server", "--key", w.keyFile, "--", "+auth-only")
	if r.code != 1 || !strings.Contains(r.stderr, "xfreerdp: exit status") || !strings.Contains(r.stderr, "hint: ") {
		t.Errorf("with another password: exit code %d\n%s", r.code, r.stderr)
	}

	// The whole desktop, until the user ends the command.
	p := e.start(env, "rdp", "build-server", "--key", w.keyFile)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	eventually(t, "FreeRDP opens a window", func() bool {
		out, _ := exec.CommandContext(ctx, rig.Need(t, "xwininfo"), "-display", screen, "-root", "-tree").Output()
		return strings.Contains(string(out), "FreeRDP: 127.0.0.1")
	})
	e.stop(p, syscall.SIGINT, 130)
	e.noSessions()
}
