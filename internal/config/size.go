package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// fargate lists the sizes that Fargate has: for each cpu, in units of 1/1024 vCPU, the memories in MiB. The first of them is the
// one that a task gets when only its cpu is set.
var fargate = []struct {
	cpu      int
	memories []int
}{
	{256, []int{512, 1024, 2048}},
	{512, gigabytes(1, 4, 1)},
	{1024, gigabytes(2, 8, 1)},
	{2048, gigabytes(4, 16, 1)},
	{4096, gigabytes(8, 30, 1)},
	{8192, gigabytes(16, 60, 4)},
	{16384, gigabytes(32, 120, 8)},
}

// sizes are the names of task_size and the cpu of each.
var sizes = []struct {
	name string
	cpu  int
}{{"small", 256}, {"medium", 512}, {"large", 1024}}

func gigabytes(from, to, step int) []int {
	var out []int
	for n := from; n <= to; n += step {
		out = append(out, n<<10)
	}
	return out
}

func sizeNames() []string {
	var names []string
	for _, s := range sizes {
		names = append(names, s.name)
	}
	return names
}

// TaskFargate returns the cpu (1024 is a vCPU) and the memory (MiB) that a new task is to have: those of task_size, which task_cpu
// and task_memory replace. Both are 0 if none of the three is set: then the task definition's size counts.
func (s *Settings) TaskFargate() (cpu, memory int) {
	for _, size := range sizes {
		if size.name == s.Bastion.Size {
			cpu = size.cpu
		}
	}
	if s.Bastion.CPU != 0 {
		cpu = s.Bastion.CPU
	}
	if s.Bastion.Memory != 0 {
		return cpu, s.Bastion.Memory
	}
	return cpu, leastMemory(cpu)
}

func leastMemory(cpu int) int {
	for _, f := range fargate {
		if f.cpu == cpu {
			return f.memories[0]
		}
	}
	return 0
}

// checkFargate tells whether Fargate has such a task.
func (s *Settings) checkFargate() error {
	cpu, memory := s.TaskFargate()
	switch {
	case cpu == 0 && memory == 0:
		return nil
	case cpu == 0:
		return fmt.Errorf("task_memory (%d) needs task_cpu or task_size: Fargate has certain memories for each cpu", memory)
	}
	for _, f := range fargate {
		if f.cpu == cpu && !slices.Contains(f.memories, memory) {
			return fmt.Errorf("task_memory: no Fargate task has %d CPU units with %d MiB; with %d CPU units it has %s",
				cpu, memory, cpu, numbers(f.memories))
		}
	}
	return nil
}

// taskCPU takes a cpu that Fargate has, or 0.
func taskCPU(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number of CPU units; 1024 is a vCPU", text)
	}
	var have []int
	for _, f := range fargate {
		have = append(have, f.cpu)
	}
	if n == 0 || slices.Contains(have, n) {
		return n, nil
	}
	return 0, fmt.Errorf("no Fargate task has %d CPU units (1024 is a vCPU); there are %s", n, numbers(have))
}

// taskMemory takes a number of MiB, or 0. Which ones there are depends on the cpu.
func taskMemory(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is not a number of MiB; a GB is 1024", text)
	}
	return n, nil
}

// numbers joins numbers for a message: with "to" where many follow each other in equal steps.
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
