package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/bastion-ssm/bastion/internal/fargate"
)

// sizes maps task_size's names to CPU units.
var sizes = []struct {
	name string
	cpu  int
}{{"small", 256}, {"medium", 512}, {"large", 1024}}

func sizeNames() []string {
	var names []string
	for _, s := range sizes {
		names = append(names, s.name)
	}
	return names
}

// TaskSize returns a new task's size: task_size's, with task_cpu and task_memory in place of its values. It is zero if none of
// the three is set; then the task definition's size applies.
func (s *Settings) TaskSize() fargate.Size {
	var out fargate.Size
	for _, size := range sizes {
		if size.name == s.Bastion.Size {
			out.CPU = size.cpu
		}
	}
	if s.Bastion.CPU != 0 {
		out.CPU = s.Bastion.CPU
	}
	out.Memory = s.Bastion.Memory
	if memories := fargate.Memories(out.CPU); out.Memory == 0 && len(memories) > 0 {
		out.Memory = memories[0]
	}
	return out
}

// checkFargate returns an error if Fargate does not offer TaskSize.
func (s *Settings) checkFargate() error {
	size := s.TaskSize()
	switch {
	case size == fargate.Size{}:
		return nil
	case size.CPU == 0:
		return fmt.Errorf("task_memory (%d) needs task_cpu or task_size: Fargate has certain memories for each cpu", size.Memory)
	}
	if memories := fargate.Memories(size.CPU); !slices.Contains(memories, size.Memory) {
		return fmt.Errorf("task_memory: no Fargate task has %d CPU units with %d MiB; with %d CPU units it has %s",
			size.CPU, size.Memory, size.CPU, numbers(memories))
	}
	return nil
}

// taskCPU parses a number of CPU units that Fargate offers, or 0.
func taskCPU(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number of CPU units; 1024 is a vCPU", text)
	}
	have := fargate.CPUs()
	if n == 0 || slices.Contains(have, n) {
		return n, nil
	}
	return 0, fmt.Errorf("no Fargate task has %d CPU units (1024 is a vCPU); there are %s", n, numbers(have))
}

// taskMemory parses a number of MiB, or 0. The CPU determines which ones Fargate offers.
func taskMemory(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is not a number of MiB; a GB is 1024", text)
	}
	return n, nil
}

// numbers joins numbers for a message. Many numbers in equal steps become a range.
func numbers(all []int) string {
	if n := len(all); n > 4 && all[1]-all[0] == all[n-1]-all[n-2] {
		return fmt.Sprintf("%d to %d in steps of %d", all[0], all[n-1], all[1]-all[0])
	}
	var words []string
	for _, n := range all {
		words = append(words, strconv.Itoa(n))
	}
	return strings.Join(words, ", ")
}
