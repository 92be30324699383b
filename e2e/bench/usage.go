//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/e2e/rig"
)

// usage is what a peer has used so far, all its processes together.
type usage struct {
	cpu       time.Duration // user and system
	rss, peak int64         // bytes resident now, and at most so far
}

// sessionUsage adds up the live processes of a session. Every peer starts as the head of one, and the AWS CLI and OpenSSH start
// others in it.
func sessionUsage(sid int) (usage, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return usage{}, err
	}
	var sum usage
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended since
		}
		session, pages, err := parseStat(stat)
		if err != nil {
			return usage{}, fmt.Errorf("%s: %w", path, err)
		}
		if session != sid {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return usage{}, err
		}
		u, err := rig.ProcessUsage(pid)
		if err != nil {
			continue
		}
		sum.cpu += u.CPU
		sum.peak += u.PeakRSS
		sum.rss += pages * int64(os.Getpagesize())
	}
	if sum.rss == 0 {
		return usage{}, fmt.Errorf("no process of session %d is left", sid)
	}
	return sum, nil
}

// parseStat reads the session and the resident pages of a process from its /proc/PID/stat.
func parseStat(stat []byte) (session int, pages int64, err error) {
	// The command name, in parentheses, may hold spaces: fields are counted after it.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 22 {
		return 0, 0, errors.New("too few fields")
	}
	if session, err = strconv.Atoi(fields[3]); err != nil {
		return 0, 0, err
	}
	pages, err = strconv.ParseInt(fields[21], 10, 64)
	return session, pages, err
}
