//go:build unix

package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/e2e/rig"
)

// exists reports whether a file is there.
func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return err == nil
}

// The file that a killed command has written for its program goes with the next command of the kind. Those of commands that run stay.
func TestFilesOfKilledCommands(t *testing.T) {
	t.Parallel()
	e := startAgentLab(t, nil)
	e.addKube("prod")
	w := e.addWindows()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "xfreerdp"), []byte("#!/bin/sh\necho \"$1\"\nexec sleep 60\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	env := []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
	for name, args := range map[string][]string{
		"exec": {"exec", "eks:prod", "--", "sh", "-c", `echo "$KUBECONFIG"; exec sleep 60`},
		"rdp":  {"rdp", w.addr.String()},
	} {
		start := func() (p *rig.Proc, path string) {
			p = e.start(env, args...)
			eventuallyWithin(t, time.Minute, name+" names its file", func() bool {
				for word := range strings.FieldsSeq(p.Output()) {
					if filepath.Dir(word) == e.socketDir() && exists(t, word) {
						path = word
					}
				}
				return path != ""
			})
			return p, path
		}
		killed, left := start()
		if _, err := killed.Stop(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if !exists(t, left) {
			t.Errorf("%s: the killed command has left no %s", name, left)
		}
		p, path := start()
		if exists(t, left) {
			t.Errorf("%s: %s stays", name, left)
		}
		other, _ := start()
		if !exists(t, path) {
			t.Errorf("%s: %s of a command that runs is removed", name, path)
		}
		for _, p := range []*rig.Proc{p, other} {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			_ = p.Signal(syscall.SIGTERM)
			if _, err := p.Wait(ctx); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			cancel()
		}
		if exists(t, path) {
			t.Errorf("%s: %s stays after the end", name, path)
		}
	}
	page := filepath.Join(e.socketDir(), "dashboard-0.html")
	writeFile(t, page, "of an agent that was killed")
	e.must("dashboard", "--no-open")
	if exists(t, page) {
		t.Errorf("%s stays", page)
	}
}
