package config

import (
	"strings"
	"testing"
)

// Every size that Fargate has is taken, as the documentation of ECS lists them, and no other.
func TestFargateSizes(t *testing.T) {
	have := map[string]bool{"256/512": true}
	for cpu, memories := range map[string][]string{
		"256":   {"512", "1024", "2048"},
		"512":   {"1024", "2048", "3072", "4096"},
		"1024":  {"2048", "3072", "4096", "5120", "6144", "7168", "8192"},
		"2048":  {"4096", "5120", "9216", "16384"},
		"4096":  {"8192", "9216", "29696", "30720"},
		"8192":  {"16384", "20480", "61440"},
		"16384": {"32768", "40960", "122880"},
	} {
		for _, memory := range memories {
			have[cpu+"/"+memory] = true
		}
	}
	for pair := range have {
		cpu, memory, _ := strings.Cut(pair, "/")
		if _, err := FromTexts(map[string]string{"task_cpu": cpu, "task_memory": memory}); err != nil {
			t.Errorf("%s: %v", pair, err)
		}
	}
	for _, c := range []struct{ size, cpu, memory, want string }{
		{"", "256", "4096", "no Fargate task has 256 CPU units with 4096 MiB; with 256 CPU units it has 512, 1024, 2048"},
		{"", "512", "512", "with 512 CPU units it has 1024, 2048, 3072, 4096"},
		{"", "1024", "2047", "with 1024 CPU units it has 2048 to 8192 in steps of 1024"},
		{"", "4096", "31744", "with 4096 CPU units it has 8192 to 30720 in steps of 1024"},
		{"", "8192", "17408", "with 8192 CPU units it has 16384 to 61440 in steps of 4096"},
		{"", "16384", "36864", "with 16384 CPU units it has 32768 to 122880 in steps of 8192"},
		{"large", "0", "1024", "with 1024 CPU units it has 2048 to 8192"},
		{"medium", "256", "4096", "with 256 CPU units it has 512, 1024, 2048"},
		{"", "500", "0", "no Fargate task has 500 CPU units (1024 is a vCPU); there are 256, 512, 1024, 2048, 4096, 8192, 16384"},
		{"", "-256", "0", "no Fargate task has -256"},
		{"", "0.5", "0", "1024 is a vCPU"},
		{"", "0", "1024", "task_memory (1024) needs task_cpu or task_size"},
		{"", "512", "1GB", "a GB is 1024"},
		{"huge", "0", "0", "small, medium, large"},
	} {
		texts := map[string]string{"task_cpu": c.cpu, "task_memory": c.memory}
		if c.size != "" {
			texts["task_size"] = c.size
		}
		if _, err := FromTexts(texts); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestTaskSize(t *testing.T) {
	for _, c := range []struct {
		size                string
		cpu, memory         int
		wantCPU, wantMemory int
	}{
		{},
		{"small", 0, 0, 256, 512},
		{"medium", 0, 0, 512, 1024},
		{"large", 0, 0, 1024, 2048},
		{"medium", 0, 4096, 512, 4096},
		{"medium", 2048, 0, 2048, 4096},
		{"", 1024, 0, 1024, 2048},
		{"", 8192, 20480, 8192, 20480},
	} {
		s := Settings{Bastion: Bastion{Size: c.size, CPU: c.cpu, Memory: c.memory}}
		if size := s.TaskSize(); size.CPU != c.wantCPU || size.Memory != c.wantMemory {
			t.Errorf("%+v: %+v", c, size)
		}
	}
}
