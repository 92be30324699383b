package deptest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// costly are functions that no product package calls while the program starts: every command, however short, would pay for them.
// internal/pattern compiles an expression at its first use.
var costly = []string{"regexp.MustCompile", "regexp.Compile", "template.Must"}

// TestStartIsShort looks for package variables whose values are costly.
func TestStartIsShort(t *testing.T) {
	lookAtSources(t)
	out, err := exec.CommandContext(t.Context(), "git", "-C", "../..", "ls-files", "*.go").Output()
	if err != nil {
		t.Skip("not in a git checkout: ", err)
	}
	for path := range strings.Lines(string(out)) {
		path = strings.TrimSpace(path)
		own := pkg{ImportPath: module + "/" + filepath.ToSlash(filepath.Dir(path))}
		if strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "tools/") || !own.isProduct() {
			continue
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, filepath.Join("..", "..", path), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, call := range atStart(file) {
			t.Errorf("%s: %s while the program starts: use internal/pattern", set.Position(call.Pos()), function(call))
		}
	}
}

// atStart returns the costly calls of a file's package variables.
func atStart(file *ast.File) (calls []*ast.CallExpr) {
	for _, decl := range file.Decls {
		if v, ok := decl.(*ast.GenDecl); !ok || v.Tok != token.VAR {
			continue
		}
		ast.Inspect(decl, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && slices.Contains(costly, function(call)) {
				calls = append(calls, call)
			}
			_, later := n.(*ast.FuncLit)
			return !later
		})
	}
	return calls
}

// function is the package and name of what a call calls; "" if it is not a package's function.
func function(call *ast.CallExpr) string {
	if f, ok := call.Fun.(*ast.SelectorExpr); ok {
		if from, ok := f.X.(*ast.Ident); ok {
			return from.Name + "." + f.Sel.Name
		}
	}
	return ""
}

func TestAtStart(t *testing.T) {
	const source = `package p
var (
	a = regexp.MustCompile("a")
	b = []rule{{text: regexp.MustCompile("b")}}
	c = func() *regexp.Regexp { return regexp.MustCompile("c") }
	d = pattern.Lazy("d")
)
var e = template.Must(template.New("e").Parse("e"))
func f() { _ = regexp.MustCompile("f") }
`
	file, err := parser.ParseFile(token.NewFileSet(), "p.go", source, 0)
	if err != nil {
		t.Fatal(err)
	}
	if calls := atStart(file); len(calls) != 3 {
		t.Errorf("%d calls, want those of a, b and e", len(calls))
	}
}
