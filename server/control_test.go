package server

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/internal/audit"
	"github.com/bastion-ssm/bastion/keys"
)

// socketPath returns a path in a directory that does not exist yet.
func socketPath(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "run", "control.sock")
}

func TestControl(t *testing.T) {
	path := socketPath(t)
	b := start(t, Config{Socket: path, Version: "v3", MaxGrants: 1})
	for name, want := range map[string]fs.FileMode{path: fs.ModeSocket | 0o600, filepath.Dir(path): fs.ModeDir | 0o700} {
		if info, err := os.Stat(name); err != nil || info.Mode() != want {
			t.Errorf("%s: mode %v, %v, want %v", name, info.Mode(), err, want)
		}
	}
	p := pair(t)
	reply, err := PushGrant(t.Context(), path, word(t, p, time.Hour))
	if err != nil || reply.Error != "" {
		t.Fatalf("%+v, %v", reply, err)
	}
	key, err := reply.Key()
	if err != nil || !bytes.Equal(key.Marshal(), b.HostKey().Marshal()) || reply.Ports.SSH != b.Port() ||
		reply.Version != "v3" {
		t.Errorf("%+v, %v", reply, err)
	}
	if _, found, err := keys.FindGrantReply([]byte(reply.Line())); !found || err != nil {
		t.Errorf("the reply is not one: %v, %v", found, err)
	}
	c := b.dial(t, p)
	b.log.wait(t, audit.Auth, 1)
	health, err := CheckHealth(t.Context(), path)
	if err != nil || health.Connections != 1 || health.Grants != 1 || health.Port != b.Port() || health.Version != "v3" {
		t.Errorf("%+v, %v", health, err)
	}
	// The one place is taken as long as its key is in use.
	if reply, err := PushGrant(t.Context(), path, word(t, pair(t), time.Hour)); err != nil || reply.Code != keys.CodeFull {
		t.Errorf("%+v, %v", reply, err)
	}
	_ = c.Close()
	if reply, err := PushGrant(t.Context(), path, strings.Repeat("x", keys.MaxGrantWord+1)); err != nil ||
		reply.Code != keys.CodeInvalid {
		t.Errorf("%+v, %v", reply, err)
	}
}

func TestControlRefusesNonsense(t *testing.T) {
	path := socketPath(t)
	start(t, Config{Socket: path})
	for _, request := range []string{
		"\n", "GET / HTTP/1.1\n", "{}\n", `{"op":"stop"}` + "\n", `{"op":"health","extra":1}` + "\n", `[1]` + "\n",
		strings.Repeat("x", maxControlMessage) + "\n",
	} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, request); err != nil && len(request) < maxControlMessage {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(conn).ReadBytes('\n')
		var reply controlReply
		if err == nil {
			err = json.Unmarshal(line, &reply)
		}
		if (err != nil || reply.Error == "") && len(request) < maxControlMessage {
			t.Errorf("%.20q: %q, %v", request, line, err)
		}
		_ = conn.Close()
	}
	if _, err := CheckHealth(t.Context(), path); err != nil {
		t.Error(err)
	}
}

// Clients that say nothing take no more than their places.
func TestControlSilentClients(t *testing.T) {
	path := socketPath(t)
	start(t, Config{Socket: path})
	for range maxControlConns - 1 {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	if _, err := CheckHealth(t.Context(), path); err != nil {
		t.Error(err)
	}
}

func TestControlSocketPlace(t *testing.T) {
	listen := func(path string) error {
		s, err := New(Config{Listen: "localhost:0", Socket: path})
		if err == nil {
			_ = s.Close()
		}
		return err
	}
	t.Run("open directory", func(t *testing.T) {
		if runtime.GOOS == "windows" {
			return // it has no such modes
		}
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := listen(filepath.Join(dir, "s")); err == nil || !strings.Contains(err.Error(), "chmod 700") {
			t.Errorf("error %v", err)
		}
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
			t.Error("its mode was changed")
		}
	})
	t.Run("root's group", func(t *testing.T) {
		if os.Geteuid() != 0 {
			return // only root can give it a directory
		}
		for _, place := range []struct {
			group int
			mode  fs.FileMode
			want  fs.FileMode // of the socket; 0: refused
		}{{0, 0o710, 0o666}, {0, 0o700, 0o600}, {0, 0o750, 0}, {0, 0o711, 0}, {0, 0o730, 0}, {65532, 0o710, 0}, {65532, 0o700, 0o600}} {
			path := socketPath(t)
			dir := filepath.Dir(path)
			if err := errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, 0, place.group), os.Chmod(dir, place.mode)); err != nil {
				t.Fatal(err)
			}
			s, err := New(Config{Listen: "localhost:0", Socket: path})
			if err != nil {
				if place.want != 0 {
					t.Errorf("%+v: %v", place, err)
				}
				continue
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != place.want {
				t.Errorf("%+v: %v, %v", place, info.Mode(), err)
			}
			_ = s.Close()
		}
	})
	t.Run("file", func(t *testing.T) {
		path := socketPath(t)
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := listen(path); err == nil || !strings.Contains(err.Error(), "no socket") {
			t.Errorf("error %v", err)
		}
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	})
	t.Run("stale socket", func(t *testing.T) {
		path := socketPath(t)
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		_ = l.Close()
		if err := listen(path); err != nil {
			t.Error(err)
		}
	})
	t.Run("socket in use", func(t *testing.T) {
		path := socketPath(t)
		start(t, Config{Socket: path})
		if err := listen(path); err == nil || !strings.Contains(err.Error(), "another bastiond") {
			t.Errorf("error %v", err)
		}
		if _, err := CheckHealth(t.Context(), path); err != nil {
			t.Error(err)
		}
	})
	t.Run("gone with the server", func(t *testing.T) {
		path := socketPath(t)
		if err := listen(path); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v", err)
		}
		if _, err := CheckHealth(t.Context(), path); err == nil {
			t.Error("somebody answers")
		}
	})
}
