//go:build linux || darwin

package process

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// child starts a program that runs until end is closed. It stays a zombie until the test waits for it.
func child(t *testing.T) (cmd *exec.Cmd, end io.Closer) {
	t.Helper()
	cmd = exec.Command("cat")
	end, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, end
}

// ways are the ways to watch a process.
var ways = map[string]func(pid int) (watcher, error){
	"watch": watch,
	"poll": func(pid int) (watcher, error) {
		p, err := poll(pid)
		if err == nil {
			p.every = time.Millisecond
		}
		return p, err
	},
}

// Each way tells a process's end before its parent has waited for it, and the end of the context.
func TestWaitForOther(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			cmd, end := child(t)
			w, err := way(cmd.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			defer w.close()
			stopped := errors.New("stopped")
			ctx, cancel := context.WithCancelCause(t.Context())
			waited := make(chan error, 1)
			go func() { waited <- w.wait(ctx) }()
			select {
			case err := <-waited:
				t.Errorf("a process that runs has ended: %v", err)
			case <-time.After(20 * time.Millisecond):
			}
			cancel(stopped)
			if err := <-waited; !errors.Is(err, stopped) {
				t.Errorf("after the end of the context: %v", err)
			}
			go func() { waited <- w.wait(t.Context()) }()
			_ = end.Close()
			if err := <-waited; err != nil {
				t.Errorf("after the end of the process: %v", err)
			}
			if _, err := way(cmd.Process.Pid); !errors.Is(err, os.ErrProcessDone) {
				t.Errorf("a zombie is watched: %v", err)
			}
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
			if _, err := way(cmd.Process.Pid); !errors.Is(err, os.ErrProcessDone) {
				t.Errorf("a process that has gone is watched: %v", err)
			}
		})
	}
}

// What is no process that the user can mean is refused, with a next step.
func TestOpenOther(t *testing.T) {
	own, err := StartTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	gone, end := child(t)
	_ = end.Close()
	if err := gone.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		pid  int
		own  string
		says string // "": none
	}{
		{os.Getpid(), own, ""},
		{os.Getppid(), own, ""},
		{os.Getpid(), "", ""},
		{os.Getpid(), "1", "began after this command"},
		{0, own, "0 is not a process id"},
		{-os.Getpid(), own, "is not a process id"},
		{gone.Process.Pid, own, "there is no process"},
	} {
		o, err := openOther(tt.pid, tt.own)
		switch {
		case tt.says == "" && err == nil:
			o.Close()
		case tt.says == "" || err == nil:
			t.Errorf("%d: %v", tt.pid, err)
		case !strings.Contains(err.Error(), tt.says) || fail.KindOf(err) != fail.Usage || fail.NextOf(err) == "":
			t.Errorf("%d: %v (%v, next: %q)", tt.pid, err, fail.KindOf(err), fail.NextOf(err))
		}
	}
}

// A polled process is not taken for a later one of its id.
func TestPolledReuse(t *testing.T) {
	p, err := poll(os.Getpid())
	if err != nil || p.ended() {
		t.Fatalf("this process has ended: %v", err)
	}
	p.start += "0"
	if !p.ended() {
		t.Error("another process of the id is taken for the one that was watched")
	}
}
