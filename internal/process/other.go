package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// Other is another process, whose end this one waits for.
type Other struct {
	pid int
	way watcher
}

// watcher is how the system tells a process's end.
type watcher interface {
	wait(ctx context.Context) error // nil: the process has ended
	close()
}

// OpenOther finds a process that runs. From then on another process that gets its id is not taken for it. One that is younger than
// this process has got its id meanwhile: nobody can have named it on this command line.
func OpenOther(pid int) (*Other, error) {
	own, err := StartTime(os.Getpid())
	if err != nil {
		own = "" // not to be known here
	}
	return openOther(pid, own)
}

// openOther is OpenOther for the start time of this process; "": unknown.
func openOther(pid int, own string) (*Other, error) {
	if pid <= 0 {
		return nil, fail.Usagef("give the id of a running process, such as $$ in a shell", "%d is not a process id", pid)
	}
	way, err := watch(pid)
	if errors.Is(err, os.ErrProcessDone) {
		return nil, fail.Usagef("give the id of a running process, such as $$ in a shell", "there is no process %d", pid)
	}
	if err != nil {
		return nil, fail.New(fail.Other, fmt.Sprintf("watch the process %d", pid), err, "choose a process of your own")
	}
	if start, err := StartTime(pid); err == nil && own != "" && later(start, own) {
		way.close()
		return nil, fail.Usagef("give the id of a process that still runs",
			"the process %d began after this command: the one that was meant has ended, and another has its id", pid)
	}
	return &Other{pid, way}, nil
}

// later reports whether a start time is after another.
func later(start, than string) bool {
	a, errA := strconv.ParseUint(start, 10, 64)
	b, errB := strconv.ParseUint(than, 10, 64)
	return errA == nil && errB == nil && a > b
}

// Wait returns nil once the process has ended, or ctx's cause.
func (o *Other) Wait(ctx context.Context) error { return o.way.wait(ctx) }

// Close frees what Wait needs. It must not be called during Wait.
func (o *Other) Close() { o.way.close() }

// pollInterval is how often a polled process is looked at.
const pollInterval = 500 * time.Millisecond

// polled is a process whose end the system does not tell, or not to this user.
type polled struct {
	pid   int
	start string // "": unknown
	every time.Duration
}

// poll watches a process by looking at it now and then. It is told from a later one of the same id by its start time.
func poll(pid int) (*polled, error) {
	start, err := StartTime(pid)
	switch {
	case errors.Is(err, os.ErrProcessDone), err != nil && !Exists(pid):
		return nil, os.ErrProcessDone
	case err != nil:
		start = ""
	}
	return &polled{pid, start, pollInterval}, nil
}

func (p *polled) ended() bool {
	start, err := StartTime(p.pid)
	switch {
	case errors.Is(err, os.ErrProcessDone):
		return true
	case err != nil:
		return !Exists(p.pid)
	}
	return p.start != "" && start != p.start
}

func (p *polled) wait(ctx context.Context) error {
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	for !p.ended() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (p *polled) close() {}
