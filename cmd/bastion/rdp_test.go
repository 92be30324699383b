//go:build unix

package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/targets"
)

// The negotiation of RDP's security (MS-RDPBCGR 2.2.1.1), in TPKT and X.224.
const (
	x224Request  = 0xe0
	x224Confirm  = 0xd0
	rdpNegotiate = 1
	rdpSelected  = 2
	rdpTLS       = 1 // PROTOCOL_SSL
)

// tpkt reads one packet.
func tpkt(r io.Reader) ([]byte, error) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	if head[0] != 3 {
		return nil, fmt.Errorf("TPKT version %d", head[0])
	}
	body := make([]byte, max(4, int(binary.BigEndian.Uint16(head[2:])))-4)
	_, err := io.ReadFull(r, body)
	return body, err
}

// desktopServer is a Windows desktop up to the security of its connections: it answers X.224's connection request, and then TLS.
func desktopServer(cert tls.Certificate) func(net.Conn) {
	return func(c net.Conn) {
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		request, err := tpkt(c)
		// The variable part is a cookie, if any, and the negotiation request.
		if err != nil || len(request) < 15 || int(request[0]) != len(request)-1 || request[1] != x224Request {
			return
		}
		neg := request[len(request)-8:]
		if neg[0] != rdpNegotiate || binary.LittleEndian.Uint16(neg[2:]) != 8 || binary.LittleEndian.Uint32(neg[4:])&rdpTLS == 0 {
			return
		}
		confirm := []byte{3, 0, 0, 19, 14, x224Confirm, 0, 0, 0x12, 0x34, 0, rdpSelected, 0, 8, 0, rdpTLS, 0, 0, 0}
		if _, err := c.Write(confirm); err != nil {
			return
		}
		secure := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
		if body, err := tpkt(secure); err == nil {
			_, _ = fmt.Fprintf(secure, "read %d bytes", len(body))
		}
		_ = secure.Close()
	}
}

// negotiate is a client of desktopServer.
func negotiate(addr string, roots *x509.CertPool, name string) error {
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	cookie := "Cookie: mstshash=Ann\r\n"
	request := []byte{byte(6 + len(cookie) + 8), x224Request, 0, 0, 0, 0, 0}
	request = append(append(request, cookie...), rdpNegotiate, 0, 8, 0, rdpTLS, 0, 0, 0)
	if _, err := c.Write(append([]byte{3, 0, 0, byte(4 + len(request))}, request...)); err != nil {
		return err
	}
	confirm, err := tpkt(c)
	if err != nil || len(confirm) != 15 || confirm[1] != x224Confirm || confirm[7] != rdpSelected || confirm[11] != rdpTLS {
		return fmt.Errorf("the confirmation is %x, %w", confirm, err)
	}
	secure := tls.Client(c, &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12})
	if _, err := secure.Write([]byte{3, 0, 0, 8, 1, 2, 3, 4}); err != nil {
		return err
	}
	answer, err := io.ReadAll(secure)
	if string(answer) != "read 4 bytes" {
		return fmt.Errorf("the answer is %q, %w", answer, err)
	}
	return nil
}

// windows is an instance of the lab with a desktop, and the key of its pair.
type windows struct {
	addr    netip.AddrPort
	roots   *x509.CertPool
	keyFile string
	encrypt func(password string) []byte // for the key
}

const (
	windowsID       = "i-0123456789abcdef0"
	newID           = "i-0123456789abcdef1"
	changedID       = "i-0123456789abcdef2"
	windowsPassword = "s3cret;(word) of the lab"
)

func (e *labEnv) addWindows() *windows {
	e.t.Helper()
	ca, cert := kubeCert(e.t, "EC2AMAZ-LAB")
	ln := listenAt(e.t, 3389)
	server := rig.Serve(ln, desktopServer(cert))
	e.t.Cleanup(func() { _ = server.Close() })
	w := e.addDesktops(netip.MustParseAddrPort(ln.Addr().String()))
	w.roots.AppendCertsFromPEM(ca)
	return w
}

// addDesktops adds an instance whose desktop is at an address, with its password, and one elsewhere that has none yet.
func (e *labEnv) addDesktops(addr netip.AddrPort) *windows {
	e.t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		e.t.Fatal(err)
	}
	w := &windows{addr: addr, roots: x509.NewCertPool(), keyFile: filepath.Join(e.t.TempDir(), "windows.pem")}
	data := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	if err := os.WriteFile(w.keyFile, data, 0o600); err != nil {
		e.t.Fatal(err)
	}
	w.encrypt = func(password string) []byte {
		out, err := rsa.EncryptPKCS1v15(rand.Reader, &key.PublicKey, []byte(password)) //nolint:staticcheck // SA1019: as EC2 does
		if err != nil {
			e.t.Fatal(err)
		}
		return out
	}
	e.addMachine(windowsID, "build-server", addr, w.encrypt(windowsPassword))
	e.addMachine(newID, "new-server", netip.MustParseAddrPort("127.99.99.99:3389"), nil)
	return w
}

func (e *labEnv) addMachine(id, name string, addr netip.AddrPort, password []byte) {
	e.t.Helper()
	m := lab.Machine{ID: id, Tags: map[string]string{"Name": name}, Addr: addr.Addr(), Ports: []uint16{addr.Port()}, PasswordData: password}
	if err := e.AddMachine(m); err != nil {
		e.t.Fatal(err)
	}
}

// A fake FreeRDP writes down what it gets, and ends when the test lets it.
const fakeClient = `#!/bin/sh
printf '%s\n' "$@" >"$FAKE/args"
cat "$1" >"$FAKE/file"
stat -c %a "$1" >"$FAKE/mode"
env >"$FAKE/env"
read -r password; printf '%s' "$password" >"$FAKE/stdin"
echo ready >"$FAKE/ready"
until [ -e "$FAKE/end" ]; do sleep 0.05; done
`

// bastion rdp runs the client with a file that leads to the desktop, and the password on its standard input and nowhere else.
func TestRDP(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	w := e.addWindows()
	for _, tt := range []struct {
		instance string
		key      bool
	}{{windowsID, true}, {"build-server", false}, {w.addr.Addr().String(), true}, {w.addr.String(), false}} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "xfreerdp"), []byte(fakeClient), 0o700); err != nil {
			t.Fatal(err)
		}
		args := []string{"rdp", tt.instance, "--user", `CORP\ann`}
		if tt.key {
			args = append(args, "--key", w.keyFile)
		}
		p := e.start([]string{"FAKE=" + dir, "PATH=" + dir + ":" + os.Getenv("PATH")}, append(args, "--", "/size:800x600")...)
		eventually(t, tt.instance+": the client runs", func() bool {
			_, err := os.Stat(filepath.Join(dir, "ready"))
			return err == nil
		})
		read := func(name string) string { return string(mustRead(t, filepath.Join(dir, name))) }
		m := regexp.MustCompile(`full address:s:(127\.0\.0\.1:\d+)\r\n`).FindStringSubmatch(read("file"))
		if m == nil || !strings.Contains(read("file"), "username:s:CORP\\ann\r\n") || strings.TrimSpace(read("mode")) != "600" {
			t.Fatalf("%s: the file is %q with mode %s", tt.instance, read("file"), read("mode"))
		}
		if err := negotiate(m[1], w.roots, "EC2AMAZ-LAB"); err != nil {
			t.Errorf("%s: %v", tt.instance, err)
		}
		given := strings.Fields(read("args"))
		want := ""
		if tt.key {
			want = windowsPassword
		}
		if read("stdin") != want || (len(given) == 4) != tt.key || given[len(given)-1] != "/size:800x600" {
			t.Errorf("%s: the client gets %q, and %q on its input", tt.instance, given, read("stdin"))
		}
		for _, where := range []string{"args", "file", "env"} {
			if strings.Contains(read(where), "s3cret") || strings.Contains(read(where), "AWS_") {
				t.Errorf("%s: the %s has %s", tt.instance, where, read(where))
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "end"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		if code, err := p.Wait(ctx); err != nil || code != 0 || strings.Contains(p.Output(), "s3cret") {
			t.Errorf("%s: exit code %d, %v\n%s", tt.instance, code, err, p.Output())
		}
		cancel()
		if _, err := os.Stat(given[0]); err == nil {
			t.Errorf("%s: %s stays", tt.instance, given[0])
		}
	}
	e.noSessions()
}

// With --file the file is the user's alone, and a client of the user's own reaches the desktop.
func TestRDPFile(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	w := e.addWindows()
	file := filepath.Join(t.TempDir(), "desktop.rdp")
	p := e.start(nil, "rdp", windowsID, "--file", file)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if line, err := p.Line(ctx, 0); err != nil || line != file {
		t.Fatalf("%q, %v\n%s", line, err, p.Output())
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	m := regexp.MustCompile(`full address:s:(\S+)`).FindSubmatch(mustRead(t, file))
	if m == nil {
		t.Fatalf("%s", mustRead(t, file))
	}
	if err := negotiate(string(m[1]), w.roots, "EC2AMAZ-LAB"); err != nil {
		t.Error(err)
	}
	e.stop(p, syscall.SIGTERM, 143)
}

// The password is shown at a terminal on request, and what goes wrong with it has a next step.
func TestRDPPassword(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	w := e.addWindows()
	dir := t.TempDir()
	file := filepath.Join(dir, "desktop.rdp")
	cmd := exec.CommandContext(t.Context(), e.program, "rdp", windowsID, "--key", w.keyFile, "--show-password", "--file", file)
	cmd.Env = e.env
	terminal, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	shown := make(chan string, 1)
	go func() {
		data, _ := io.ReadAll(terminal) // a terminal ends in an error
		shown <- string(data)
	}()
	eventually(t, "the file is written", func() bool {
		_, err := os.Stat(file)
		return err == nil
	})
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_ = cmd.Wait()
	if text := <-shown; !strings.Contains(text, windowsPassword+"\r\n") {
		t.Errorf("the terminal shows %q", text)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	otherFile := filepath.Join(dir, "other.pem")
	data := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(other)})
	if err := os.WriteFile(otherFile, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{windowsID, "--key", otherFile}, 2, "is not the key of the instance's key pair"},
		{[]string{newID, "--key", w.keyFile}, 3, "EC2 has none"},
		{[]string{"i-0123456789abcdef7"}, 3, "i-0123456789abcdef7"},
		{[]string{"no-server"}, 3, "no-server"},
		{[]string{windowsID, "--key", filepath.Join(dir, "none")}, 2, "none"},
		{[]string{windowsID, "--show-password"}, 2, "needs the key"},
		{[]string{windowsID, "--show-password", "--key", w.keyFile}, 2, "at a terminal only"},
		{[]string{"windows.example", "--key", w.keyFile}, 2, "--key is for EC2 instances"},
		{[]string{windowsID, "--user", "a\nb"}, 2, "not a user name"},
		{[]string{windowsID, "other"}, 2, "one instance at a time"},
		{[]string{"rds:orders:x"}, 2, ""},
		{[]string{"rds:orders"}, 2, "has no desktop"},
		{[]string{"eks:prod"}, 2, "has no desktop"},
	} {
		r := e.run(nil, append(append([]string{"rdp"}, tt.args...), "--file", filepath.Join(dir, "none.rdp"))...)
		if r.code != tt.code || !strings.Contains(r.stderr, tt.says) || !strings.Contains(r.stderr, "hint: ") || r.stdout != "" {
			t.Errorf("%v: exit code %d, want %d\n%s%s", tt.args, r.code, tt.code, r.stdout, r.stderr)
		}
	}
	env, err := e.AddIdentity("restricted", lab.IdentityConfig{Deny: []string{"ec2:GetPasswordData"}})
	if err != nil {
		t.Fatal(err)
	}
	r := e.run(env, "rdp", windowsID, "--key", w.keyFile, "--file", file)
	if r.code != 5 || !strings.Contains(r.stderr, "ec2:GetPasswordData") {
		t.Errorf("without the permission: exit code %d, %s", r.code, r.stderr)
	}
}

// An instance is written as people write it, and is an EC2 instance where its password is asked for.
func TestDesktopSpec(t *testing.T) {
	s := config.Settings{Targets: map[string]config.Target{"win": {Spec: "ec2:desktop:3390"}, "db": {Spec: "rds:orders"}}}
	for _, tt := range []struct{ text, plain, withKey string }{ // "": refused
		{windowsID, "ec2:" + windowsID + ":3389", "ec2:" + windowsID + ":3389"},
		{windowsID + ":3390", "ec2:" + windowsID + ":3390", "ec2:" + windowsID + ":3390"},
		{"build-server", "ec2:build-server:3389", "ec2:build-server:3389"},
		{"build-server:3390", "ec2:build-server:3390", "ec2:build-server:3390"},
		{"ec2:build-server", "ec2:build-server:3389", "ec2:build-server:3389"},
		{"10.0.1.2", "10.0.1.2:3389", "ec2:10.0.1.2:3389"},
		{"10.0.1.2:3390", "10.0.1.2:3390", "ec2:10.0.1.2:3390"},
		{"fd00::1", "[fd00::1]:3389", ""},
		{"[fd00::1]:3390", "[fd00::1]:3390", ""},
		{"windows.corp.internal", "windows.corp.internal:3389", ""},
		{"windows.corp.internal:3390", "windows.corp.internal:3390", ""},
		{"cloudmap:corp.internal/desktops", "cloudmap:corp.internal/desktops:3389", ""},
		{"win", "ec2:desktop:3390", "ec2:desktop:3390"},
		{"db", "", ""},
		{"rds", "", ""},
		{"redis:a:b", "", ""},
		{"", "", ""},
		{"a b", "", ""},
	} {
		for asEC2, want := range map[bool]string{false: tt.plain, true: tt.withKey} {
			spec, err := desktopSpec(tt.text, s, asEC2)
			if err != nil {
				spec = targets.Spec{}
			}
			if (err != nil) != (want == "") || want != "" && spec.String() != want {
				t.Errorf("%q with key %t: %s, %v; want %q", tt.text, asEC2, spec, err, want)
			}
		}
	}
}
