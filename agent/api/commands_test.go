package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bastion-ssm/bastion/internal/private"
	"github.com/bastion-ssm/bastion/internal/report"
)

// A command shows its links to other processes of its user, for reading, until it ends.
func TestCommands(t *testing.T) {
	dir, err := os.MkdirTemp("", "a") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if got, err := Commands(t.Context(), dir); err != nil || got == nil || len(got) != 0 {
		t.Errorf("without any: %v, %v", got, err)
	}
	want := report.Process{
		V: LinksVersion, PID: os.Getpid(), Command: "forward", Version: "1", Region: "eu-central-1",
		Links: []report.Link{{Bastion: "bastion 1", Sessions: []report.Session{}}},
	}
	stop, err := ServeLinks(dir, func() report.Process { return want })
	if err != nil {
		t.Fatal(err)
	}
	got, err := Commands(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]report.Process{want}, got); diff != "" {
		t.Error(diff)
	}

	// It is for reading, and for this user.
	socket := filepath.Join(dir, linksDir, fmt.Sprint(os.Getpid())+private.Suffix)
	if runtime.GOOS != "windows" {
		for path, want := range map[string]os.FileMode{socket: 0o600, filepath.Dir(socket): 0o700} {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
				t.Errorf("%s: %v, %v", path, info.Mode(), err)
			}
		}
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return private.DialSocket(socket) },
	}}
	for _, tt := range []struct {
		method, path string
		want         int
	}{
		{http.MethodGet, "/v1/links", http.StatusOK},
		{http.MethodPost, "/v1/links", http.StatusMethodNotAllowed},
		{http.MethodGet, "/v1/", http.StatusNotFound},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://bastion"+tt.path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != tt.want {
			t.Errorf("%s %s: %s", tt.method, tt.path, resp.Status)
		}
		_ = resp.Body.Close()
	}

	// A socket whose process was killed is removed; one that answers something else is left alone and not shown.
	stale := filepath.Join(dir, linksDir, "1.sock")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	_ = ln.Close()
	odd, err := net.Listen("unix", filepath.Join(dir, linksDir, "2.sock"))
	if err != nil {
		t.Fatal(err)
	}
	newer := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(report.Process{V: LinksVersion + 1})
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = newer.Serve(odd) })
	if got, err := Commands(t.Context(), dir); err != nil || len(got) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := os.Stat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the stale socket: %v", err)
	}
	if _, err := os.Stat(odd.Addr().String()); err != nil {
		t.Errorf("the other process's socket: %v", err)
	}
	_ = newer.Close()
	serving.Wait()

	stop()
	if left, err := filepath.Glob(filepath.Join(dir, linksDir, strconv.Itoa(os.Getpid())+"*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
