//go:build !unix

package lab_test

import "os"

func alive(pid int) bool {
	_, err := os.FindProcess(pid) // fails for a process that is not there
	return err == nil
}
