package lab

import (
	"strconv"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// taskSize is a task's share of Fargate.
type taskSize struct {
	cpu    int // units of 1/1024 vCPU
	memory int // MiB
}

// defaultSize is the size in bastion-image's task definition.
var defaultSize = taskSize{cpu: 1024, memory: 2048}

func (s taskSize) texts() (cpu, memory string) { return strconv.Itoa(s.cpu), strconv.Itoa(s.memory) }

// sizeOf returns the size of a task of the definition with these overrides.
func sizeOf(def *TaskDefinition, o ecsOverrides) (taskSize, error) {
	size := taskSize{cpu: def.CPU, memory: def.Memory}
	var err error
	if o.CPU != "" {
		if size.cpu, err = strconv.Atoi(o.CPU); err != nil {
			return size, awsapi.Errorf("ClientException", "Invalid 'cpu' setting for task.")
		}
	}
	if o.Memory != "" {
		if size.memory, err = strconv.Atoi(o.Memory); err != nil {
			return size, awsapi.Errorf("ClientException", "Invalid 'memory' setting for task.")
		}
	}
	if !size.exists() {
		return size, awsapi.Errorf("ClientException", "No Fargate configuration exists for given values: %d CPU, %d memory. "+
			"See the Amazon ECS documentation for the valid values.", size.cpu, size.memory)
	}
	return size, nil
}

// exists reports whether Fargate has tasks of this size.
func (s taskSize) exists() bool {
	const gb = 1024
	between := func(least, most, step int) bool {
		return s.memory >= least*gb && s.memory <= most*gb && s.memory%(step*gb) == 0
	}
	switch s.cpu {
	case 256:
		return s.memory == 512 || s.memory == gb || s.memory == 2*gb
	case 512:
		return between(1, 4, 1)
	case 1024:
		return between(2, 8, 1)
	case 2048:
		return between(4, 16, 1)
	case 4096:
		return between(8, 30, 1)
	case 8192:
		return between(16, 60, 4)
	case 16384:
		return between(32, 120, 8)
	}
	return false
}
