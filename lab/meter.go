package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/bastion-ssm/bastion/lab/gateway"
)

const (
	meterEvery = 100 * time.Millisecond
	// cgroupDir is where a task's program finds the kernel's figures of the task, below the task's directory.
	cgroupDir = "cgroup"
)

// outOfMemory is ECS's reason for a container that the kernel has killed.
const outOfMemory = "OutOfMemoryError: container killed due to memory usage"

// meter charges the task's machine for its program's work, updates the program's cgroup files, and kills a program that exceeds the
// task's memory. It returns when the container has ended.
func (e *ecs) meter(ctx context.Context, t *task, c Container) {
	ticker := time.NewTicker(meterEvery)
	defer ticker.Stop()
	var before time.Duration
	var shown gateway.MachineUsage
	for first := true; ; first = false {
		own := processUsage(c.PID())
		if own.cpu > before {
			t.machine.Spend(own.cpu - before)
			before = own.cpu
		}
		used := t.machine.Usage()
		memory := used.Memory + own.memory
		if first || used != shown {
			shown = used
			if err := writeCgroup(filepath.Join(t.dir, cgroupDir), t.size, used, memory); err != nil {
				e.log.Warn("the task's cgroup cannot be shown", "task", t.id, "error", err)
			}
		}
		if memory > int64(t.size.memory)<<20 {
			e.update(t, func() { t.containerReason = outOfMemory })
			c.Kill()
			return
		}
		select {
		case <-ticker.C:
		case <-c.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

// writeCgroup writes a task's version 2 cgroup files.
func writeCgroup(dir string, size taskSize, used gateway.MachineUsage, memory int64) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"cpu.max": "max 100000\n", // the quota is the task's, from ECS's metadata
		"cpu.stat": fmt.Sprintf("usage_usec %d\nnr_periods %d\nnr_throttled %d\nthrottled_usec %d\n",
			used.CPU.Microseconds(), used.Periods, used.Throttled, used.Waited.Microseconds()),
		"memory.max":     fmt.Sprintf("%d\n", int64(size.memory)<<20),
		"memory.current": fmt.Sprintf("%d\n", memory),
	} {
		if err := replaceFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// programUsage is the usage of a task's program.
type programUsage struct {
	cpu    time.Duration // so far
	memory int64         // resident, bytes
}
