package rig

import (
	"fmt"
	"os/exec"
	"path/filepath"
)

// BuildBastiond builds the program of the lab's tasks into dir and returns its path.
func BuildBastiond(dir string) (string, error) {
	path := filepath.Join(dir, "bastiond")
	out, err := exec.Command("go", "build", "-o", path, "github.com/bastion-ssm/bastion/cmd/bastiond").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build bastiond: %w\n%s", err, out)
	}
	return path, nil
}
