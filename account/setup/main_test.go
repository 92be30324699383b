package setup

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// programs are small programs in the place of bastiond, by architecture, once for all tests.
var programs = sync.OnceValues(func() (map[string][]byte, error) {
	module, err := os.MkdirTemp("", "small")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(module)
	dir := filepath.Join(module, "cmd", "bastiond")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for file, content := range map[string]string{
		filepath.Join(module, "go.mod"): "module example.com/bastion\n\ngo 1.26\n",
		filepath.Join(dir, "main.go"):   "package main\n\nfunc main() {}\n",
	} {
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			return nil, err
		}
	}
	binaries := make(map[string][]byte)
	for _, arch := range []string{"amd64", "arm64"} {
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", arch, "./cmd/bastiond")
		cmd.Dir = module
		cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=0", "GOFLAGS=")
		if text, err := cmd.CombinedOutput(); err != nil {
			return nil, &exec.Error{Name: string(text), Err: err}
		}
		if binaries[arch], err = os.ReadFile(filepath.Join(module, arch)); err != nil {
			return nil, err
		}
	}
	return binaries, nil
})

func testPrograms(t *testing.T) map[string][]byte {
	t.Helper()
	binaries, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	return binaries
}
