package lab

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/bastion-ssm/bastion/internal/sleep"
	"github.com/bastion-ssm/bastion/lab/awsapi"
	"github.com/bastion-ssm/bastion/lab/gateway"
)

// Statuses of tasks, in the order in which they come.
const (
	statusProvisioning   = "PROVISIONING"
	statusPending        = "PENDING"
	statusActivating     = "ACTIVATING"
	statusRunning        = "RUNNING"
	statusDeactivating   = "DEACTIVATING"
	statusStopping       = "STOPPING"
	statusDeprovisioning = "DEPROVISIONING"
	statusStopped        = "STOPPED"
)

// Stop codes of tasks.
const (
	stopFailedToStart   = "TaskFailedToStart"
	stopEssentialExited = "EssentialContainerExited"
	stopUser            = "UserInitiated"
	stopScaling         = "ServiceSchedulerInitiated"
)

// task is one task. The ecs service's mutex guards its fields below the line.
type task struct {
	id, arn    string
	cluster    string // name
	def        *TaskDefinition
	runtimeID  string
	exec       bool // enableExecuteCommand
	env        map[string]string
	command    []string
	startedBy  string
	group      string
	subnet, ip string
	publicIP   bool
	capacity   string // capacity provider; empty: the launch type FARGATE
	overrides  ecsOverrides
	size       taskSize
	machine    *gateway.Machine // nil: unlimited
	created    time.Time
	dir        string        // scratch directory
	stop       chan struct{} // closed to stop the task
	done       chan struct{} // closed when it is STOPPED
	service    *ecsService   // that has started it; nil: none

	// ---
	last, desired                  string
	agent                          string // status of the exec agent; empty without exec
	agentReason                    string
	platform                       string // Fargate's version; empty: 1.4.0
	connected                      bool   // the exec agent really answers
	version                        int64
	pullStart, pullStop, started   time.Time
	agentAt                        time.Time
	stopping, execStopped, stopped time.Time
	stopCode, stoppedReason        string
	containerReason                string
	exitCode                       *int
	container                      Container
	tags                           []ecsTag
	stdout, stderr                 *outputFile
	credentials                    awsapi.Identity // its role's, as its program has got them last
}

// timing is the durations of a task's states.
type timing struct {
	state   time.Duration // PROVISIONING, PENDING, ACTIVATING, and the way down from DEPROVISIONING
	agent   time.Duration // from RUNNING until the exec agent is RUNNING
	connect time.Duration // from there until it answers
	grace   time.Duration // from SIGTERM to SIGKILL: the container's stopTimeout
}

// live takes a task through its life. Apart from stop requests, only live changes the task's states.
func (e *ecs) live(ctx context.Context, t *task) {
	defer close(t.done)
	log := e.log.With("task", t.id)
	if e.bringUp(ctx, t, log) {
		e.waitForEnd(ctx, t)
	}
	e.tearDown(ctx, t, log)
}

// bringUp returns true for a RUNNING task. It returns false if the task must be torn down; its stop reason is then set.
func (e *ecs) bringUp(ctx context.Context, t *task, log *slog.Logger) bool {
	if !e.pause(ctx, t, e.timing.state) {
		return false
	}
	e.update(t, func() { t.last, t.pullStart = statusPending, e.now() })
	if !e.pause(ctx, t, e.timing.state) {
		return false
	}
	if reason := cmp.Or(e.faults.taskFailure(), e.pull(t)); reason != "" {
		e.fail(t, stopFailedToStart, reason)
		return false
	}
	c, err := e.startContainer(ctx, t)
	if err != nil {
		log.Warn("the task's program does not start", "error", err)
		e.fail(t, stopFailedToStart, "CannotStartContainerError: "+err.Error())
		return false
	}
	e.update(t, func() { t.last, t.pullStop, t.container = statusActivating, e.now(), c })
	if !e.pause(ctx, t, e.timing.state) {
		return false
	}
	e.update(t, func() { t.last, t.started = statusRunning, e.now() })
	if t.machine != nil {
		e.wg.Go(func() { e.meter(ctx, t, c) }) // live has not ended yet, so wg.Wait follows this
	}
	log.Info("task runs", "pid", c.PID())
	return true
}

// waitForEnd brings the exec agent up and waits until the task is stopped or its program ends.
func (e *ecs) waitForEnd(ctx context.Context, t *task) {
	if t.exec {
		if !e.pause(ctx, t, e.timing.agent) {
			return
		}
		starts, answers := e.faults.execAgent()
		if starts {
			e.update(t, func() { t.agent, t.agentAt = statusRunning, e.now() })
		}
		if !e.pause(ctx, t, e.timing.connect) {
			return
		}
		answers = answers && e.mayListen(t)
		e.update(t, func() { t.connected = answers })
		if answers {
			e.sessions.gw.Claim(t.target())
		}
	}
	e.served(t)
	select {
	case <-ctx.Done():
		e.fail(t, stopUser, closingReason)
	case <-t.stop:
	case <-t.container.Done():
	}
}

func (e *ecs) tearDown(ctx context.Context, t *task, log *slog.Logger) {
	e.update(t, func() {
		if t.stopCode == "" {
			t.stopCode, t.stoppedReason = stopEssentialExited, "Essential container in task exited"
		}
		t.desired, t.last = statusStopped, statusDeactivating
		if t.stopping.IsZero() {
			t.stopping = e.now()
		}
	})
	e.served(t)
	if t.container != nil {
		e.update(t, func() { t.last = statusStopping })
		e.endContainer(ctx, t)
		code := t.container.ExitCode()
		e.update(t, func() { t.exitCode, t.execStopped = &code, e.now() })
	}
	e.update(t, func() {
		t.last, t.connected = statusDeprovisioning, false
		if t.agent != "" {
			t.agent = statusStopped
		}
	})
	e.sessions.endAll(t.target())
	e.sessions.gw.Release(t.target())
	_ = sleep.For(ctx, e.timing.state) // the lab's end cuts this short
	e.update(t, func() {
		t.last, t.stopped = statusStopped, e.now()
		t.stdout.close()
		t.stderr.close()
	})
	log.Info("task stopped", "code", t.stopCode, "reason", t.stoppedReason)
}

// endContainer ends the program as a container engine does. At the lab's own end it waits only closeGrace.
func (e *ecs) endContainer(ctx context.Context, t *task) {
	t.container.Terminate()
	kill := time.NewTimer(cmp.Or(t.def.StopTimeout, e.timing.grace))
	defer kill.Stop()
	select {
	case <-t.container.Done():
		return
	case <-kill.C:
	case <-ctx.Done():
		hurry := time.NewTimer(closeGrace)
		defer hurry.Stop()
		select {
		case <-t.container.Done():
			return
		case <-hurry.C:
		}
	}
	t.container.Kill()
	<-t.container.Done()
}

const closingReason = "The lab is closing"

// closeGrace is a task's time to end when the lab ends.
const closeGrace = time.Second

// pause waits for d. It returns false if the task must be torn down instead: it is stopped, or its program has ended.
func (e *ecs) pause(ctx context.Context, t *task, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	var ended <-chan struct{}
	if t.container != nil { // only this goroutine writes it
		ended = t.container.Done()
	}
	select {
	case <-timer.C:
		return true
	case <-ended:
	case <-t.stop:
	case <-ctx.Done():
		e.fail(t, stopUser, closingReason)
	}
	return false
}

func (e *ecs) startContainer(ctx context.Context, t *task) (Container, error) {
	dir, err := os.MkdirTemp(e.dir, "t")
	if err != nil {
		return nil, err
	}
	stdout, err := newOutputFile(filepath.Join(dir, "stdout"))
	if err != nil {
		return nil, err
	}
	stderr, err := newOutputFile(filepath.Join(dir, "stderr"))
	if err != nil {
		stdout.close()
		return nil, err
	}
	e.update(t, func() { t.dir, t.stdout, t.stderr = dir, stdout, stderr })
	c, err := e.runner.Start(ctx, ContainerSpec{
		TaskID: t.id, Name: t.def.Container, Image: t.def.Image, Command: t.command,
		Env: t.env, Dir: dir, Stdout: stdout, Stderr: stderr, Endpoints: e.endpoints(t),
		DropCapabilities: t.def.DropCapabilities,
	})
	if err != nil {
		return nil, fmt.Errorf("failed to create task for container: %w", err)
	}
	return c, nil
}

// fail records why a task ends, unless a reason is known already.
func (e *ecs) fail(t *task, code, reason string) {
	e.update(t, func() {
		if t.stopCode == "" {
			t.stopCode, t.stoppedReason = code, reason
			if code == stopFailedToStart {
				t.containerReason = reason
			}
		}
	})
}

// update changes a task under the lock.
func (e *ecs) update(t *task, change func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change()
	t.version++
}
