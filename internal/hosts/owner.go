package hosts

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
)

var blocks atomic.Uint64

// NewID returns an id for a block that this process owns: its process id and when it started, because process ids come again, and a
// number.
func NewID() string {
	start, err := startTime(os.Getpid())
	if err != nil {
		start = "0" // not known on this system
	}
	return fmt.Sprintf("%d-%s-%d", os.Getpid(), start, blocks.Add(1))
}

// Alive says whether the process that made an id by NewID still runs. An id of another form is taken for alive: it is not ours to
// judge.
func Alive(id string) bool {
	parts := strings.Split(id, "-")
	if len(parts) != 3 {
		return true
	}
	pid, err := strconv.Atoi(parts[0])
	if err != nil || pid <= 0 {
		return true
	}
	start, err := startTime(pid)
	if errors.Is(err, os.ErrProcessDone) {
		return false
	}
	if err != nil || parts[1] == "0" {
		return exists(pid)
	}
	return start == parts[1]
}
