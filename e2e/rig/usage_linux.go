//go:build linux

package rig

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Usage is what a process has used so far.
type Usage struct {
	CPU     time.Duration // user and system
	PeakRSS int64         // bytes
}

// Usage reads the process's CPU time and peak resident memory from /proc, or after its end from its exit record.
func (p *Proc) Usage() (Usage, error) {
	select {
	case <-p.done:
		ru, ok := p.Cmd.ProcessState.SysUsage().(*syscall.Rusage)
		if !ok {
			return Usage{}, errors.New("no resource usage in the exit record")
		}
		return Usage{
			CPU:     p.Cmd.ProcessState.UserTime() + p.Cmd.ProcessState.SystemTime(),
			PeakRSS: ru.Maxrss * 1024,
		}, nil
	default:
		return ProcessUsage(p.Cmd.Process.Pid)
	}
}

// ProcessUsage reads a live process's usage from /proc (Linux).
func ProcessUsage(pid int) (Usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Usage{}, err
	}
	// The command name, in parentheses, may hold spaces: fields are counted after it.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return Usage{}, fmt.Errorf("unexpected /proc/%d/stat", pid)
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return Usage{}, err
		}
		ticks += n
	}
	u := Usage{CPU: time.Duration(ticks) * (time.Second / 100)} // USER_HZ is 100 on every Linux that Go runs on
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Usage{}, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				return Usage{}, err
			}
			u.PeakRSS = kb * 1024
		}
	}
	return u, nil
}

// Listening reports whether something on this machine listens on the TCP port, without connecting to it.
func Listening(port int) (bool, error) {
	want := fmt.Sprintf(":%04X", port)
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := os.ReadFile(table)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		for line := range strings.Lines(string(b)) {
			// sl local_address rem_address st ...: state 0A is LISTEN.
			f := strings.Fields(line)
			if len(f) > 3 && strings.HasSuffix(f[1], want) && f[3] == "0A" {
				return true, nil
			}
		}
	}
	return false, nil
}
