package rig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// BuildBastiond builds the program of the lab's tasks into dir, static as in the image, and returns its path. env is added to this
// process's environment.
func BuildBastiond(dir string, env ...string) (string, error) {
	path := filepath.Join(dir, "bastiond")
	cmd := exec.Command("go", "build", "-o", path, "github.com/bastion-ssm/bastion/cmd/bastiond")
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0"), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build bastiond: %w\n%s", err, out)
	}
	return path, nil
}
