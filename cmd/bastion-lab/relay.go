package main

import (
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/term"
)

// relay hands signals on to a started command and waits until it has ended.
func (p *program) relay(cmd *exec.Cmd) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // the state says it
	}()
	for {
		select {
		case <-ended:
			return
		case sig := <-p.signals:
			// A terminal has sent its Ctrl-C and Ctrl-\ to the command already, as both are in its foreground.
			if (sig == os.Interrupt || isQuit(sig)) && p.onTerminal() {
				continue
			}
			_ = cmd.Process.Signal(sig) // it may have ended
		}
	}
}

func (p *program) onTerminal() bool {
	f, ok := p.in.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func isQuit(sig os.Signal) bool {
	n, ok := sig.(syscall.Signal)
	return ok && n == syscall.SIGQUIT
}

// codeOf is the exit code of a program that a signal ends.
func codeOf(sig os.Signal) int {
	if n, ok := sig.(syscall.Signal); ok {
		return 128 + int(n)
	}
	return 130
}
