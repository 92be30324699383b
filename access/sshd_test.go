package access

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
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
