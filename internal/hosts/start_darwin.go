package hosts

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// startTime returns when a process started, in microseconds.
func startTime(pid int) (string, error) {
	info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil {
		return "", err
	}
	t := info.Proc.P_starttime
	return fmt.Sprint(t.Sec*1e6 + int64(t.Usec)), nil
}
