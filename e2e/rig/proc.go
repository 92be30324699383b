package rig

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Proc is a program that a test started: its output is kept, and it is ended by its own process id.
type Proc struct {
	Cmd  *exec.Cmd
	done chan struct{}

	mu     sync.Mutex
	out    bytes.Buffer // both streams, for messages
	stdout []string     // whole lines
	change chan struct{}
}

// DefaultSignals makes signals end the programs that a test starts. They would inherit ignored signals if the test itself was
// started by nohup, or in the background of a shell.
func DefaultSignals() {
	for _, sig := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM} {
		if signal.Ignored(sig) {
			signal.Notify(make(chan os.Signal, 1), sig) // a caught signal has its default in a new program
		}
	}
}

// Environ is the environment without the variables that would lead a test to a real account, or to somebody's settings. A test that
// wants a shared configuration sets BASTION_SHARED_CONFIG itself: elsewhere its look-up would be a call more.
func Environ() []string {
	return append(slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "AWS_") || strings.HasPrefix(kv, "BASTION_") || strings.HasPrefix(kv, "SSH_")
	}), "BASTION_SHARED_CONFIG=off")
}

// Start starts a program, in a process group of its own, with env added to Environ. It reads nothing on stdin.
// End it by Stop.
func Start(env []string, name string, args ...string) (*Proc, error) {
	return StartCmd(env, exec.Command(name, args...))
}

// StartCmd starts as Start does a program that has its stdin already.
func StartCmd(env []string, cmd *exec.Cmd) (*Proc, error) {
	p := &Proc{Cmd: cmd, done: make(chan struct{}), change: make(chan struct{})}
	p.Cmd.Env = append(Environ(), env...)
	ownGroup(p.Cmd)
	stdout, err := p.Cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	stderr, err := p.Cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := p.Cmd.Start(); err != nil {
		return nil, err
	}
	var readers sync.WaitGroup
	readers.Go(func() { p.read(stdout, true) })
	readers.Go(func() { p.read(stderr, false) })
	go func() {
		readers.Wait()
		_ = p.Cmd.Wait() // ProcessState says it
		close(p.done)
	}()
	return p, nil
}

func (p *Proc) read(r io.Reader, isStdout bool) {
	br := bufio.NewReader(r)
	for {
		line, err := br.ReadString('\n')
		if line != "" {
			p.mu.Lock()
			p.out.WriteString(line)
			if isStdout {
				p.stdout = append(p.stdout, strings.TrimRight(line, "\r\n"))
			}
			close(p.change)
			p.change = make(chan struct{})
			p.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// Output returns what the program has printed so far on both streams.
func (p *Proc) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// Stdout returns the lines that the program has printed so far on stdout.
func (p *Proc) Stdout() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.stdout)
}

// WaitOutput waits until the program's output contains text.
func (p *Proc) WaitOutput(ctx context.Context, text string) error {
	return p.wait(ctx, "output "+strconv.Quote(text), func() bool { return strings.Contains(p.out.String(), text) })
}

// Line waits for the program's n-th line on stdout, counted from 0, and returns it.
func (p *Proc) Line(ctx context.Context, n int) (string, error) {
	var line string
	err := p.wait(ctx, fmt.Sprintf("line %d of stdout", n), func() bool {
		if len(p.stdout) <= n {
			return false
		}
		line = p.stdout[n]
		return true
	})
	return line, err
}

// wait calls ok, with the lock held, at each change of the output.
func (p *Proc) wait(ctx context.Context, what string, ok func() bool) error {
	for {
		p.mu.Lock()
		found, change := ok(), p.change
		p.mu.Unlock()
		if found {
			return nil
		}
		select {
		case <-change:
		case <-p.done:
			p.mu.Lock()
			found = ok()
			p.mu.Unlock()
			if found {
				return nil
			}
			return fmt.Errorf("%s ended (%s) before %s:\n%s", p.Cmd.Path, p.Cmd.ProcessState, what, p.Output())
		case <-ctx.Done():
			return fmt.Errorf("%s: %w while waiting for %s:\n%s", p.Cmd.Path, ctx.Err(), what, p.Output())
		}
	}
}

// Ended is closed when the program has ended.
func (p *Proc) Ended() <-chan struct{} { return p.done }

// Wait waits for the program's end and returns its exit code.
func (p *Proc) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.done:
		return p.Cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return -1, fmt.Errorf("%s: %w while waiting for its end:\n%s", p.Cmd.Path, ctx.Err(), p.Output())
	}
}

// Signal sends sig to the program and the children it started, as a terminal does.
func (p *Proc) Signal(sig syscall.Signal) error { return signalGroup(p.Cmd, sig) }

// Alive reports whether the program or any that it started still runs.
func (p *Proc) Alive() bool { return signalGroup(p.Cmd, 0) == nil }

// Stop sends sig, waits for the program's end, and returns its exit code; a program that ignores sig is killed after 20 s.
func (p *Proc) Stop(sig syscall.Signal) (int, error) {
	_ = p.Signal(sig)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	code, err := p.Wait(ctx)
	if err != nil {
		_ = p.Signal(syscall.SIGKILL)
		<-p.done
	}
	return code, err
}
