//go:build !unix

package main

import "os"

// endSignals are the signals that end the lab, or are handed on to the command that it runs.
var endSignals = []os.Signal{os.Interrupt}

func exitCode(s *os.ProcessState) int { return s.ExitCode() }
