//go:build !unix

package process

import "os"

var passedSignals []os.Signal

// fromTerminal reports whether a signal is Ctrl-C. A console sends it to all of its processes, and a process cannot send it to just
// one.
func fromTerminal(sig os.Signal) bool { return sig == os.Interrupt }

func endedBy(*os.ProcessState) int { return 0 }
