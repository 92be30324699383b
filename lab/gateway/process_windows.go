package gateway

import "os"

// killGroup is not reached: there are no ptys here.
func killGroup(p *os.Process) error { return p.Kill() }

// resize is not reached either.
func resize(*os.File, int, int) error { return nil }
