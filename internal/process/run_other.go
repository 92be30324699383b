//go:build !unix

package process

import "os"

var passedSignals []os.Signal

// fromTerminal is true of Ctrl-C: a console sends it to all of its processes, and nobody can send it to one.
func fromTerminal(sig os.Signal) bool { return sig == os.Interrupt }

func endedBy(*os.ProcessState) int { return 0 }
