package fargate

// sizes lists the sizes that Fargate offers: CPU units (1024 is a vCPU) and the memories for each, in MiB. Source:
// https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-tasks-services.html#fargate-tasks-size
var sizes = []struct {
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

func gigabytes(from, to, step int) []int {
	var out []int
	for n := from; n <= to; n += step {
		out = append(out, n<<10)
	}
	return out
}

// CPUs returns the CPU units that a task may have, the smallest first.
func CPUs() []int {
	var out []int
	for _, s := range sizes {
		out = append(out, s.cpu)
	}
	return out
}

// Memories returns the memories that a task with these CPU units may have, in MiB; none for unknown CPU units. The first is the
// default.
func Memories(cpu int) []int {
	for _, s := range sizes {
		if s.cpu == cpu {
			return s.memories
		}
	}
	return nil
}
