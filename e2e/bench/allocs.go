//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"time"

	"github.com/bastion-ssm/bastion/e2e/rig"
)

// allocs is what BenchmarkAllocations of a package says about transfers of one size.
type allocs struct {
	size  int // MB
	perMB float64
}

var allocsLine = regexp.MustCompile(`(?m)^BenchmarkAllocations/size=([0-9]+)MB\S*\s.*?([0-9.e+]+) allocs/MB`)

// countAllocs runs BenchmarkAllocations of a package.
func countAllocs(ctx context.Context, pkg string) ([]allocs, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$",
		"-bench", "^BenchmarkAllocations$", "-benchtime", "1x", pkg)
	cmd.Dir = rig.Root()
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("go test -bench Allocations %s: %w\n%s", pkg, err, out)
	}
	return parseAllocs(out)
}

func parseAllocs(out []byte) ([]allocs, error) {
	var list []allocs
	for _, m := range allocsLine.FindAllSubmatch(out, -1) {
		size, err := strconv.Atoi(string(m[1]))
		if err != nil {
			return nil, err
		}
		perMB, err := strconv.ParseFloat(string(m[2]), 64)
		if err != nil {
			return nil, err
		}
		list = append(list, allocs{size, perMB})
	}
	if list == nil {
		return nil, fmt.Errorf("no figure in the benchmark's output:\n%s", bytes.TrimSpace(out))
	}
	return list, nil
}
