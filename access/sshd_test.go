package access

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	sshagent "golang.org/x/crypto/ssh/agent"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/keys"
)

func TestPinnedServer(t *testing.T) {
	const target = "i-0123456789abcdef0"
	signer, _ := newKey(t)
	other, _ := newKey(t)
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	file := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(file, fmt.Appendf(nil, "elsewhere %s\n[%s]:2222 %s\n", line, target, line), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, setting string
		port          int
		wrong         string
	}{
		{name: "key", setting: line, port: 22},
		{name: "key with a comment", setting: line + " web", port: 22},
		{name: "file", setting: file, port: 2222},
		{name: "file, other port", setting: file, port: 22, wrong: "has no key of " + target},
		{name: "no file", setting: file + ".none", port: 22, wrong: "no such file"},
		{name: "no key", setting: "ssh-ed25519 AAAA", port: 22, wrong: "read ssh_host_key"},
		{name: "two keys", setting: line + "\n" + line, port: 22, wrong: "there is more than one key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			check, pinned, err := pinnedServer(tt.setting, target, tt.port)
			if tt.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wrong) || fail.KindOf(err) != fail.Usage {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil || len(pinned) != 1 {
				t.Fatalf("%v, %v", pinned, err)
			}
			if err := check("x", &net.TCPAddr{}, signer.PublicKey()); err != nil {
				t.Errorf("the pinned key: %v", err)
			}
			if err := check("x", &net.TCPAddr{}, other.PublicKey()); err == nil {
				t.Error("another key is accepted")
			}
			if got := algorithms(pinned); len(got) != 1 || got[0] != ssh.KeyAlgoED25519 {
				t.Errorf("algorithms %v", got)
			}
		})
	}
}

// An SSH agent that does not answer is not waited for longer than the attempt to connect may take.
func TestSilentAgent(t *testing.T) {
	dir, err := os.MkdirTemp("", "id") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ln, err := net.Listen("unix", filepath.Join(dir, "agent"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	t.Setenv("SSH_AUTH_SOCK", ln.Addr().String())
	ctx, cancel := context.WithCancelCause(t.Context())
	var server sync.WaitGroup
	defer server.Wait()
	server.Go(func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Read(make([]byte, 1)) // it has been asked
		cancel(errors.New("enough"))
		_, _ = io.Copy(io.Discard, conn)
	})
	if _, err := identity(ctx, "agent", nil); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("got %v", err)
	}
}

func TestIdentity(t *testing.T) {
	dir, err := os.MkdirTemp("", "id") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	signer, private := newKey(t)
	file := filepath.Join(dir, "key")
	if err := os.WriteFile(file, []byte(private), 0o600); err != nil {
		t.Fatal(err)
	}
	check := func(name, setting string) {
		t.Helper()
		signers, err := identity(t.Context(), setting, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		got, err := signers()
		if err != nil || len(got) != 1 {
			t.Errorf("%s: %d signers, %v", name, len(got), err)
			return
		}
		sig, err := got[0].Sign(rand.Reader, []byte("data"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if err := signer.PublicKey().Verify([]byte("data"), sig); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	check("file", file)

	t.Setenv("SSH_AUTH_SOCK", "")
	if _, err := identity(t.Context(), "agent", nil); err == nil || fail.KindOf(err) != fail.Usage {
		t.Errorf("without an agent: %v", err)
	}
	socket := filepath.Join(dir, "agent")
	t.Setenv("SSH_AUTH_SOCK", socket)
	if _, err := identity(t.Context(), "agent", nil); err == nil {
		t.Error("an agent that is not there was asked")
	}
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := keys.ServeAgent(ctx, ln, signer); err != nil {
			t.Error(err)
		}
	})
	check("agent", "agent")
	cancel()
	wg.Wait()

	locked, err := ssh.MarshalPrivateKeyWithPassphrase(ed25519.NewKeyFromSeed(make([]byte, 32)), "", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(locked), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := identity(t.Context(), file, nil); err == nil || !strings.Contains(err.Error(), "has a passphrase") {
		t.Errorf("a locked key: %v", err)
	}
}

// serveKeyring serves an SSH agent with keys, and makes it the user's.
func serveKeyring(t *testing.T, keyring sshagent.Agent) {
	t.Helper()
	dir, err := os.MkdirTemp("", "id") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", filepath.Join(dir, "agent"))
	if err != nil {
		t.Fatal(err)
	}
	server := rig.Serve(ln, func(conn net.Conn) { _ = sshagent.ServeAgent(keyring, conn) })
	t.Cleanup(func() {
		_ = server.Close()
		_ = os.RemoveAll(dir)
	})
	t.Setenv("SSH_AUTH_SOCK", ln.Addr().String())
}

// An agent's RSA key signs by SHA-2, as the server asks for it, and a key that is gone from the agent by then signs nothing. An
// agent without keys is of no use, which is said before a session is opened.
func TestAgentSigns(t *testing.T) {
	keyring := sshagent.NewKeyring()
	serveKeyring(t, keyring)
	if _, err := identity(t.Context(), "agent", nil); fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "it has no keys") ||
		fail.NextOf(err) != "add one with ssh-add" {
		t.Errorf("an agent without keys: %v, hint %q", err, fail.NextOf(err))
	}
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if err := keyring.Add(sshagent.AddedKey{PrivateKey: private}); err != nil {
		t.Fatal(err)
	}
	source, err := identity(t.Context(), "agent", nil)
	if err != nil {
		t.Fatal(err)
	}
	signers, err := source()
	if err != nil || len(signers) != 1 {
		t.Fatalf("%v, %v", signers, err)
	}
	signer, ok := signers[0].(ssh.AlgorithmSigner)
	if !ok {
		t.Fatal("the signer takes no algorithm")
	}
	for _, algorithm := range []string{ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512} {
		sig, err := signer.SignWithAlgorithm(rand.Reader, []byte("data"), algorithm)
		if err != nil || sig.Format != algorithm {
			t.Errorf("%s: %+v, %v", algorithm, sig, err)
			continue
		}
		if err := signer.PublicKey().Verify([]byte("data"), sig); err != nil {
			t.Errorf("%s: %v", algorithm, err)
		}
	}
	if err := keyring.RemoveAll(); err != nil {
		t.Fatal(err)
	}
	if _, err := signer.SignWithAlgorithm(rand.Reader, []byte("data"), ssh.KeyAlgoRSASHA256); err == nil {
		t.Error("a removed key signs")
	}
}

// A key file that cannot be used is named with what to do about it.
func TestKeyFileFails(t *testing.T) {
	for name, tt := range map[string]struct{ text, says, next string }{
		"no key":  {"hello", "no key found", "OpenSSH or PEM form"},
		"half":    {"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", "", "OpenSSH or PEM form"},
		"public":  {"ssh-ed25519 AAAA", "no key found", "OpenSSH or PEM form"},
		"no file": {"", "no such file", "--ssh-identity"},
	} {
		file := filepath.Join(t.TempDir(), "key")
		if tt.text != "" {
			if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := identity(t.Context(), file, nil)
		if fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), tt.says) || !strings.Contains(fail.NextOf(err), tt.next) {
			t.Errorf("%s: %v, hint %q", name, err, fail.NextOf(err))
		}
	}
}
