package notify

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// Texts are arguments of the program, also those that look like options or scripts.
func TestCommand(t *testing.T) {
	const title, text = `-u "x"`, `$(y); display dialog "z"`
	for system, program := range map[string]string{"linux": "notify-send", "freebsd": "notify-send", "darwin": "osascript", "windows": ""} {
		argv := command(system, func(name string) string {
			if name == "DISPLAY" {
				return ":0"
			}
			return ""
		}, title, text)
		if program == "" {
			if argv != nil {
				t.Errorf("%s: %q", system, argv)
			}
			continue
		}
		if len(argv) < 4 || argv[0] != program || !slices.Equal(argv[len(argv)-3:], []string{"--", title, text}) {
			t.Errorf("%s: %q", system, argv)
		}
	}
	if argv := command("linux", func(string) string { return "" }, title, text); argv != nil {
		t.Errorf("without a display: %q", argv)
	}
}

// Send runs the program, within its time, and reports its failure.
func TestSend(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the program is Linux's")
	}
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	t.Setenv("DISPLAY", ":0")
	program := func(script string) {
		if err := os.WriteFile(filepath.Join(dir, "notify-send"), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	program(`printf '%s|' "$@" > ` + out)
	if err := Send(t.Context(), "Title", "a\nb\x1b[31m"); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(out); err != nil || !strings.HasPrefix(string(got), "--app-name=bastion|") ||
		!strings.HasSuffix(string(got), "|--|Title|a b?[31m|") {
		t.Errorf("%q, %v", got, err)
	}
	program("exit 3")
	if err := Send(t.Context(), "t", "x"); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Error(err)
	}
	program("sleep 60")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := Send(ctx, "t", "x"); err == nil || time.Since(began) > 20*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
	t.Setenv("DISPLAY", "")
	t.Setenv("WAYLAND_DISPLAY", "")
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "")
	if err := Send(t.Context(), "t", "x"); !errors.Is(err, errNone) {
		t.Error(err)
	}
}
