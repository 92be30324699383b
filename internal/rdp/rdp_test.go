package rdp

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/fail"
)

func write(t *testing.T, block *pem.Block) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The password is what EC2 has encrypted for the key, in each form that a key's file has.
func TestDecrypt(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	const password = "pa$$ wörd;-(4"
	cipher, err := rsa.EncryptPKCS1v15(rand.Reader, &key.PublicKey, []byte(password)) //nolint:staticcheck // SA1019: as EC2 does
	if err != nil {
		t.Fatal(err)
	}
	data := base64.StdEncoding.EncodeToString(cipher) + "\r\n"
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	openSSH, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"PKCS #1": {Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)},
		"PKCS #8": {Type: "PRIVATE KEY", Bytes: pkcs8},
		"OpenSSH": openSSH,
	} {
		k, err := ReadKey(write(t, block))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, err := k.Decrypt(data); err != nil || got != password {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	wrong, err := ReadKey(write(t, &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(other)}))
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range []string{data, "", "!", "AAAA"} {
		if got, err := wrong.Decrypt(data); err == nil || strings.Contains(err.Error(), password) {
			t.Errorf("%q by another key: %q, %v", data, got, err)
		}
	}
}

// A file that holds no key for it is refused, with the reason.
func TestReadKey(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := ssh.MarshalPrivateKey(ed, "")
	if err != nil {
		t.Fatal(err)
	}
	locked, err := ssh.MarshalPrivateKeyWithPassphrase(ed, "", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	for says, path := range map[string]string{
		"not an RSA key":   write(t, plain),
		"has a passphrase": write(t, locked),
		"no key found":     write(t, &pem.Block{}) + "-none",
		"regular file":     t.TempDir(),
	} {
		if strings.HasSuffix(path, "-none") {
			if err := os.WriteFile(path, []byte("text"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := ReadKey(path)
		if err == nil || !strings.Contains(err.Error(), says) || fail.KindOf(err) != fail.Usage || fail.NextOf(err) == "" {
			t.Errorf("%s: %v", says, err)
		}
	}
}

// Each system has its client, and FreeRDP alone takes the password, on its standard input.
func TestFind(t *testing.T) {
	for _, tt := range []struct {
		goos      string
		installed []string
		program   string // "": none
		args      []string
	}{
		{"windows", []string{"mstsc", "xfreerdp"}, "mstsc", []string{"f.rdp"}},
		{"darwin", []string{"open"}, "open", []string{"-W", "f.rdp"}},
		{"linux", []string{"open", "xfreerdp", "wlfreerdp"}, "xfreerdp", []string{"f.rdp", "/from-stdin:force", "/cert:ignore"}},
		{"linux", []string{"xfreerdp3", "xfreerdp"}, "xfreerdp3", []string{"f.rdp", "/from-stdin:force", "/cert:ignore"}},
		{"linux", []string{"mstsc", "open"}, "", nil},
		{"windows", nil, "", nil},
	} {
		c, err := Find(System{tt.goos, func(name string) (string, error) {
			if slices.Contains(tt.installed, name) {
				return name, nil
			}
			return "", errors.New("none")
		}})
		if err != nil {
			if tt.program != "" || fail.NextOf(err) == "" {
				t.Errorf("%+v: %v", tt, err)
			}
			continue
		}
		got := c.args("f.rdp", true)
		if c.Program != tt.program || !slices.Equal(got, tt.args) || c.TakesPassword() != strings.Contains(tt.program, "freerdp") {
			t.Errorf("%+v: %s %q", tt, c.Program, got)
		}
	}
}

func TestFile(t *testing.T) {
	got := File(netip.MustParseAddrPort("127.0.0.1:40123"), `CORP\ann`)
	for _, line := range []string{"full address:s:127.0.0.1:40123", `username:s:CORP\ann`} {
		if !bytes.Contains(got, []byte(line+"\r\n")) {
			t.Errorf("%q lacks %s", got, line)
		}
	}
	if bytes.Contains(got, []byte("password")) || bytes.Count(got, []byte("\n")) != bytes.Count(got, []byte("\r\n")) {
		t.Errorf("%q", got)
	}
	for user, ok := range map[string]bool{
		"Administrator": true, `CORP\ann`: true, "ann@corp.example": true, "": false, "a\r\nfull address:s:evil": false,
	} {
		if err := CheckUser(user); (err == nil) != ok {
			t.Errorf("%q: %v", user, err)
		}
	}
}
