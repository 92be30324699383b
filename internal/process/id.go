package process

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
)

var ids atomic.Uint64

// NewID returns an id for something that this process leaves where others see it: its process id, its start time, because process ids
// recur, and a number.
func NewID() string {
	start, err := StartTime(os.Getpid())
	if err != nil {
		start = "0" // unknown on this system
	}
	return fmt.Sprintf("%d-%s-%d", os.Getpid(), start, ids.Add(1))
}

// Alive reports whether the process of an id from NewID still runs. An id of another form counts as alive.
func Alive(id string) bool {
	parts := strings.Split(id, "-")
	if len(parts) != 3 {
		return true
	}
	pid, err := strconv.Atoi(parts[0])
	if err != nil || pid <= 0 {
		return true
	}
	start, err := StartTime(pid)
	if errors.Is(err, os.ErrProcessDone) {
		return false
	}
	if err != nil || parts[1] == "0" {
		return Exists(pid)
	}
	return start == parts[1]
}
