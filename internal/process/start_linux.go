package process

import (
	"errors"
	"os"
	"strconv"
	"strings"
)

// StartTime returns a process's start time, in clock ticks since the machine's boot.
func StartTime(pid int) (string, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", err
	}
	// The name in parentheses may contain spaces and parentheses. The 20th field after it is the 22nd of all.
	i := strings.LastIndexByte(string(data), ')')
	fields := strings.Fields(string(data[i+1:]))
	if i < 0 || len(fields) < 20 {
		return "", errors.ErrUnsupported
	}
	if fields[0] == "Z" { // a zombie: its parent has not waited for it yet
		return "", os.ErrProcessDone
	}
	return fields[19], nil
}
