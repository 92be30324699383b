package openssh

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
	sshagent "golang.org/x/crypto/ssh/agent"

	"github.com/bastion-ssm/bastion/internal/fail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPathTooLong(t *testing.T) {
	_, err := Serve("/"+strings.Repeat("x", 103), 1, false, nil)
	if fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "sockets for OpenSSH") ||
		!strings.Contains(err.Error(), "may have 103") ||
		!strings.Contains(fail.NextOf(err), "runtime_dir") {
		t.Errorf("%v (%s)", err, fail.NextOf(err))
	}
}

// ssh clients are told apart by their process ids: each gets the key of its own proxy, whichever socket it connects to.
func TestSockets(t *testing.T) {
	dir, err := os.MkdirTemp("", "o") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	log := slog.New(slog.DiscardHandler)
	// A socket that a killed process left behind.
	stale := filepath.Join(dir, "agent-1.sock")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	_ = ln.Close()

	mine, err := Serve(dir, os.Getpid(), true, log)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stale); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the stale socket: %v", err)
	}
	others, err := Serve(dir, 2, true, log)
	if err != nil {
		t.Fatal(err)
	}
	myKey := newKey(t)
	otherKey := newKey(t)
	host := newKey(t)

	// The answer is waited for.
	asked := make(chan []ssh.PublicKey, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		got, err := AskHostKeys(t.Context(), dir, os.Getpid())
		if err != nil {
			t.Error(err)
		}
		asked <- got
	})
	mine.OfferHostKeys([]ssh.PublicKey{host.PublicKey()})
	if got := <-asked; len(got) != 1 || !sameKey(got[0], host.PublicKey()) {
		t.Errorf("host keys %v", got)
	}
	wg.Wait()
	mine.OfferSigner(myKey)
	others.OfferSigner(otherKey)

	first := func() ssh.PublicKey {
		t.Helper()
		conn, err := net.Dial("unix", filepath.Join(dir, agentLink))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		list, err := sshagent.NewClient(conn).List()
		if err != nil || len(list) != 1 {
			t.Fatalf("%v, %v", list, err)
		}
		key, err := ssh.ParsePublicKey(list[0].Blob)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	if to, err := os.Readlink(filepath.Join(dir, agentLink)); err != nil || to != "agent-2.sock" {
		t.Errorf("the link leads to %s, %v; want the latest proxy", to, err)
	}
	want := myKey.PublicKey()
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		want = otherKey.PublicKey() // peers have no ids
	}
	if !sameKey(first(), want) {
		t.Error("the key is another proxy's")
	}
	others.Close()
	if to, err := os.Readlink(filepath.Join(dir, agentLink)); err != nil || to != filepath.Base(mine.path(agentPrefix)) {
		t.Errorf("the link leads to %s, %v; want the proxy that is left", to, err)
	}
	if !sameKey(first(), myKey.PublicKey()) {
		t.Error("the key is not the one that is left")
	}
	mine.Close()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := AskHostKeys(t.Context(), dir, os.Getpid()); err == nil || fail.NextOf(err) == "" {
		t.Errorf("without a proxy: %v", err)
	}
}

// The newest proxy, which holds the common socket, hands the clients of older ones on while its own key is not known yet.
func TestSocketsRelayAtOnce(t *testing.T) {
	dir, err := os.MkdirTemp("", "o")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	log := slog.New(slog.DiscardHandler)
	list := func(path string) (string, error) {
		conn, err := net.Dial("unix", path)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return "", err
		}
		keys, err := sshagent.NewClient(conn).List()
		if err != nil || len(keys) != 1 {
			return "", fmt.Errorf("%v, %w", keys, err)
		}
		return string(keys[0].Blob), nil
	}
	older, err := Serve(dir, os.Getpid(), true, log)
	if err != nil {
		t.Fatal(err)
	}
	defer older.Close()
	newest, err := Serve(dir, 2, true, log)
	if err != nil {
		t.Fatal(err)
	}
	defer newest.Close()
	key := newKey(t)
	older.OfferSigner(key)
	if runtime.GOOS == "linux" || runtime.GOOS == "darwin" { // elsewhere peers have no ids
		if got, err := list(filepath.Join(dir, agentLink)); err != nil || got != string(key.PublicKey().Marshal()) {
			t.Errorf("the older proxy's client got %q, %v", got, err)
		}
	}

	// A client of a proxy whose key is not known waits for it, and no longer than the proxy lives.
	for _, offered := range []bool{true, false} {
		o, err := Serve(dir, os.Getpid(), true, log) // takes the older one's place
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			got, err := list(o.path(agentPrefix))
			if offered && (err != nil || got != string(key.PublicKey().Marshal())) {
				t.Errorf("the client that waited got %q, %v", got, err)
			}
			if !offered && (err == nil || errors.Is(err, os.ErrDeadlineExceeded)) {
				t.Errorf("the client of a closed proxy got %q, %v", got, err)
			}
		})
		if offered {
			o.OfferSigner(key)
			wg.Wait()
		}
		o.Close()
		wg.Wait()
	}
}

// Closing before the answer is known ends those who wait for it.
func TestSocketsCloseEarly(t *testing.T) {
	dir, err := os.MkdirTemp("", "o")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	o, err := Serve(dir, 3, false, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", o.path(knownPrefix))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	o.Close()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection goes on")
	}
	long := filepath.Join(dir, strings.Repeat("x", 100))
	if _, err := Serve(long, 3, false, slog.New(slog.DiscardHandler)); err == nil || fail.KindOf(err) != fail.Usage {
		t.Errorf("a long path: %v", err)
	}
}

func newKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func sameKey(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }
