package printable

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// anyRaw is the field Raw of anything.
const anyRaw = "*.Raw"

// bypasses are the ways past the sanitizing writers of the programs, and the files that may take them, with the reason.
var bypasses = map[string]map[string]string{
	"os.Stdout": {
		"cmd/bastion/main.go":  "hands it to run, which wraps it",
		"cmd/bastiond/main.go": "the audit log and the grant's reply are JSON",
	},
	"os.Stderr": {
		"cmd/bastion/main.go":  "hands it to run, which wraps it",
		"cmd/bastiond/main.go": "hands it to run, which wraps it",
	},
	anyRaw: { // of an invocation
		"cmd/bastion/doctor.go":         "the report has colours at a terminal, and sanitizes its text",
		"cmd/bastion/exec.go":           "a child has the terminal itself",
		"internal/inventory/pick.go":    "the display moves the cursor, and sanitizes its text",
		"internal/sshcommands/proxy.go": "a stream of bytes",
		"cmd/bastion/rdp.go":            "looks whether it is a terminal",
		"cmd/bastion/top.go":            "the display moves the cursor, and sanitizes its text",
		"internal/invocation/aws.go":    "the display moves the cursor, and sanitizes its text",
	},
	"fmt.Print":   {},
	"fmt.Printf":  {},
	"fmt.Println": {},
	"log.Print":   {},
	"log.Printf":  {},
	"log.Println": {},
	"json.NewEncoder": { // in what prints for commands, beside console.WriteJSON
		"internal/console/json.go": "escapes what it has made",
	},
	"fmt.Fprintf": { // in what prints for commands, beside console.Printf
		"internal/sshcommands/knownhosts.go": "a line of known_hosts",
		"internal/cli/help.go":               "the program's own texts",
		"internal/console/print.go":          "sanitizes the arguments",
		"internal/console/progress.go":       "moves the cursor",
		"internal/sshconfig/block.go":        "a file of ssh's",
		"internal/sshconfig/pattern.go":      "numbers",
	},
}

// printing are the packages that print for commands.
var printing = []string{
	"agent/commands", "cmd/bastion", "internal/admin", "internal/cli", "internal/configure", "internal/console", "internal/forwarding",
	"internal/inventory", "internal/invocation", "internal/kubernetes", "internal/linkview", "internal/process", "internal/sshcommands", "internal/sshconfig", "internal/sshproxy",
	"internal/statusview",
}

// inCommand are the ways that only what prints for commands must not take: elsewhere they lead to a socket or a buffer.
var inCommand = []string{"json.NewEncoder", "fmt.Fprintf"}

// Nothing in the product writes to a terminal past the writers that sanitize.
func TestNoBypass(t *testing.T) {
	taken := make(map[string]bool)
	for _, dir := range []string{"access", "cmd/bastion", "cmd/bastiond", "agent", "bastions", "internal", "keys", "server", "sessions", "targets", "tunnel"} {
		err := filepath.WalkDir("../../"+dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			name := strings.TrimPrefix(filepath.ToSlash(path), "../../")
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				s, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				way := anyRaw
				if s.Sel.Name != "Raw" {
					x, ok := s.X.(*ast.Ident)
					if !ok {
						return true
					}
					way = x.Name + "." + s.Sel.Name
				}
				may, listed := bypasses[way]
				if !listed || slices.Contains(inCommand, way) && !slices.Contains(printing, filepath.ToSlash(filepath.Dir(name))) {
					return true
				}
				if may[name] == "" {
					t.Errorf("%s uses %s", name, way)
				}
				taken[way+" "+name] = true
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for way, may := range bypasses {
		for _, name := range slices.Sorted(maps.Keys(may)) {
			if !taken[way+" "+name] {
				t.Errorf("%s does not use %s any more: remove it from the list", name, way)
			}
		}
	}
}
