//go:build linux

package browser

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The system's program opens a page. A missing display, page or program, and the program's failure, are errors.
func TestOpenPage(t *testing.T) {
	dir := t.TempDir()
	opened := filepath.Join(dir, "opened")
	for _, variable := range []string{"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"} {
		t.Setenv(variable, "")
	}
	t.Setenv("PATH", dir)
	try := func(page, want string) {
		t.Helper()
		err := OpenPage(t.Context(), page)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", page, err, want)
		}
	}
	try("page.html", "no display")
	t.Setenv("DISPLAY", ":0")
	try("", "could not be written")
	try("page.html", "xdg-open")
	for script, want := range map[string]string{"echo \"$1\" > '" + opened + "'": "", "exit 3": "xdg-open: exit status 3"} {
		if err := os.WriteFile(filepath.Join(dir, "xdg-open"), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		try("page.html", want)
	}
	if text, err := os.ReadFile(opened); err != nil || string(text) != "page.html\n" {
		t.Errorf("%q, %v", text, err)
	}
}
