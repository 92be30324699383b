package lab

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// processUsage returns a process's usage, and zero for an ended one.
func processUsage(pid int) programUsage {
	var u programUsage
	if pid <= 0 {
		return u
	}
	var ts unix.Timespec
	const schedulersClock = 2 // CPUCLOCK_SCHED of the kernel, of the whole process
	if unix.ClockGettime(int32(^pid<<3|schedulersClock), &ts) == nil {
		u.cpu = time.Duration(ts.Nano())
	}
	if statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid)); err == nil {
		if fields := bytes.Fields(statm); len(fields) > 1 {
			pages, _ := strconv.ParseInt(string(fields[1]), 10, 64)
			u.memory = pages * int64(os.Getpagesize())
		}
	}
	return u
}
