//go:build unix

package bond

import (
	"syscall"
	"testing"
	"time"
)

// cpuTime is the processor time that this process has taken.
func cpuTime(t testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
