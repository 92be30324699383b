package gateway

import "os"

// killGroup is never called: the system has no ptys.
func killGroup(p *os.Process) error { return p.Kill() }

// resize is never called either.
func resize(*os.File, int, int) error { return nil }
