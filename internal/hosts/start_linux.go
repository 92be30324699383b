package hosts

import (
	"errors"
	"os"
	"strconv"
	"strings"
)

// startTime returns when a process started, in the kernel's ticks since the machine did.
func startTime(pid int) (string, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", err
	}
	// The name in parentheses may have spaces and parentheses itself; the 20th field behind it is the 22nd of all.
	i := strings.LastIndexByte(string(data), ')')
	fields := strings.Fields(string(data[i+1:]))
	if i < 0 || len(fields) < 20 {
		return "", errors.ErrUnsupported
	}
	if fields[0] == "Z" { // its parent has not asked yet how it ended
		return "", os.ErrProcessDone
	}
	return fields[19], nil
}
