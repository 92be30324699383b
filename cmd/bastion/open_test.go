//go:build unix

package main

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Open hands the page of a target to the browser, whose PAC file sends the target's host through the bastion, also where the host is in no
// setting. The forward has gone when the browser has.
func TestOpen(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	program := write("browser", "#!/bin/sh\nprintf '%s\\n' \"$@\" >"+dir+"/args\n", 0o700)
	config := write("bastion.yaml", "targets:\n  wiki: wiki.example:8443\n", 0o600)
	for _, tt := range []struct {
		target []string
		page   string
	}{
		{[]string{"wiki"}, "https://wiki.example:8443/"},
		{[]string{"wiki.example:80", "--path", "a/b?c=d"}, "http://wiki.example/a/b?c=d"},
	} {
		args := append([]string{"open", "--config", config, "--browser", program, "--fresh"}, tt.target...)
		if r := e.run(nil, args...); r.code != 0 {
			t.Errorf("%v: exit code %d\n%s", tt.target, r.code, r.stderr)
		}
		given := strings.Fields(string(mustRead(t, filepath.Join(dir, "args"))))
		pac := ""
		for _, arg := range given {
			if text, ok := strings.CutPrefix(arg, "--proxy-pac-url=data:application/x-ns-proxy-autoconfig;base64,"); ok {
				data, err := base64.StdEncoding.DecodeString(text)
				if err != nil {
					t.Fatal(err)
				}
				pac = string(data)
			}
		}
		if len(given) == 0 || given[len(given)-1] != tt.page || !strings.Contains(pac, `"wiki.example"`) {
			t.Errorf("%v: the browser gets %q, and the PAC file\n%s", tt.target, given, pac)
		}
	}
	e.noSessions()
	r := e.run(nil, "open", "rds:orders", "--browser", program, "--fresh")
	if r.code != 2 || !strings.Contains(r.stderr, "rds:orders is a database (postgresql)") {
		t.Errorf("a database: exit code %d, %s", r.code, r.stderr)
	}
}
