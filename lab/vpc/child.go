package vpc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// child is a server program that this process started. Its goroutine starts it, waits for its end, and then closes done.
type child struct {
	name    string
	process *os.Process
	logPath string
	done    chan struct{}
	err     error // how it ended; valid once done is closed
}

// startChild starts cmd with its output in the file logPath. If this process dies without stopping the program, the program gets
// orphanSignal, where the system can do that. It does not get the terminal's signals: its owner stops it.
func startChild(name string, cmd *exec.Cmd, logPath string, orphanSignal syscall.Signal) (*child, error) {
	logFile, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer logFile.Close() //nolint:errcheck // the program has its own descriptor; nothing is written by this one
	cmd.Stdout, cmd.Stderr = logFile, logFile
	setChildAttributes(cmd, orphanSignal)

	c := &child{name: name, logPath: logPath, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer close(c.done)
		// Linux sends the orphan signal when the *thread* that started the program ends. So this goroutine keeps its thread while
		// the program runs.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		c.process = cmd.Process
		started <- nil
		c.err = cmd.Wait()
	}()
	if err := <-started; err != nil {
		<-c.done
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return c, nil
}

// ended returns an error with the end of the program's output if the program has ended.
func (c *child) ended() error {
	select {
	case <-c.done:
	default:
		return nil
	}
	how := "ended"
	if c.err != nil {
		how = c.err.Error()
	}
	return fmt.Errorf("%s: %s%s", c.name, how, c.tail())
}

// tail returns the last lines of the program's output, indented, or nothing.
func (c *child) tail() string {
	const most = 2 << 10
	f, err := os.Open(c.logPath)
	if err != nil {
		return ""
	}
	defer f.Close() //nolint:errcheck // only read
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, size-most), io.SeekStart)
	}
	text, _ := io.ReadAll(io.LimitReader(f, most))
	out := strings.TrimSpace(string(text))
	if out == "" {
		return ""
	}
	return "\n  " + strings.ReplaceAll(out, "\n", "\n  ")
}

// stop asks the program to end by each of the signals in turn, waiting for grace after each, then kills it.
// It returns once the program has ended.
func (c *child) stop(grace time.Duration, signals ...os.Signal) error {
	for _, sig := range signals {
		if err := c.process.Signal(sig); err != nil {
			if errors.Is(err, os.ErrProcessDone) {
				<-c.done
				return nil
			}
			continue // this system cannot send it: try the next
		}
		t := time.NewTimer(grace)
		select {
		case <-c.done:
			t.Stop()
			return nil
		case <-t.C:
		}
	}
	_ = c.process.Kill() // fails only if it has ended
	<-c.done
	if len(signals) == 0 || runtime.GOOS == "windows" {
		return nil // there was no gentler way
	}
	return fmt.Errorf("stop %s: it did not end in time and was killed%s", c.name, c.tail())
}
