package targets

import (
	"strings"
	"testing"
)

// The first slash before any colon ends an environment. Nothing that was a target before is cut.
func TestCutEnvironment(t *testing.T) {
	for text, want := range map[string][2]string{
		"prod/orders": {"prod", "orders"}, "prod/rds:shop/reader:5433": {"prod", "rds:shop/reader:5433"}, "a-b_9/db.internal:80": {"a-b_9", "db.internal:80"},
		"prod/": {"prod", ""}, "prod/a/b": {"prod", "a/b"}, "prod/[::1]:80": {"prod", "[::1]:80"}, "-/x": {"-", "x"},
		"orders": {"", "orders"}, "rds:shop/reader": {"", "rds:shop/reader"}, "rds:shop/writer:1": {"", "rds:shop/writer:1"},
		"10.0.0.0/8": {"", "10.0.0.0/8"}, "12/x": {"", "12/x"}, "/x": {"", "/x"}, "": {"", ""}, "a b/x": {"", "a b/x"}, "a.b/x": {"", "a.b/x"},
		"[::1]/x": {"", "[::1]/x"}, "http://x": {"", "http://x"}, "pröd/x": {"", "pröd/x"},
	} {
		environment, spec := CutEnvironment(text)
		if environment != want[0] || spec != want[1] || InEnvironment(environment, spec) != text {
			t.Errorf("%q: %q and %q, want %q", text, environment, spec, want)
		}
	}
}

// An error names the target as the user wrote it, with its environment.
func TestErrorNamesTheEnvironment(t *testing.T) {
	for _, text := range []string{"prod/", "prod/dev/orders", "prod/rds:"} {
		if _, err := ParseTarget(text); err == nil || !strings.HasPrefix(err.Error(), `target "`+text+`": `) {
			t.Errorf("%s: got %v", text, err)
		}
	}
}
