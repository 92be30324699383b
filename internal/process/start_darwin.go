package process

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// StartTime returns a process's start time, in microseconds since the epoch.
func StartTime(pid int) (string, error) {
	info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil {
		return "", err
	}
	t := info.Proc.P_starttime
	return fmt.Sprint(t.Sec*1e6 + int64(t.Usec)), nil
}
