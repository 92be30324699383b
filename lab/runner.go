package lab

import (
	"context"
	"io"
	"net"
	"os/exec"

	"github.com/bastion-ssm/bastion/lab/gateway"
)

// Runner runs the containers of tasks.
type Runner interface {
	// Start starts a container's program and returns once it runs. ctx bounds only the start.
	Start(ctx context.Context, spec ContainerSpec) (Container, error)
}

// ContainerSpec describes a container to run.
type ContainerSpec struct {
	TaskID  string
	Name    string
	Image   string
	Command []string          // the program's path in the image, and its arguments
	Env     map[string]string // of the container definition and the overrides
	Dir     string            // exists, belongs to the task, and has a path short enough for a unix socket in it
	Stdout  io.Writer
	Stderr  io.Writer
	// DropCapabilities are the capabilities that the container drops of an engine's default ones, by ECS's names; ALL: each.
	DropCapabilities []string
	// Endpoints are variables with the URLs of AWS's endpoints on this machine's loopback.
	Endpoints map[string]string
}

// Container is a running container.
type Container interface {
	// Dial connects from inside the container.
	Dial(ctx context.Context, network, addr string) (net.Conn, error)
	// Exec starts a command inside the container, under a pty.
	Exec(ctx context.Context, argv []string) (gateway.Process, error)
	// Terminate asks the program to end; Kill ends it.
	Terminate()
	Kill()
	// Done returns a channel that is closed when the program has ended and its output is written; ExitCode is then valid.
	Done() <-chan struct{}
	ExitCode() int
	// PID returns the program's process id on the host, or 0 if it has none.
	PID() int
}

// program is a container's program, as a process of this machine.
type program struct {
	cmd  *exec.Cmd
	code int
	done chan struct{}
}

// wait waits for the program's end, gives back what the container held, and says that it is done.
func (p *program) wait(release func()) {
	_ = p.cmd.Wait() // the exit code tells the result
	p.code = p.cmd.ProcessState.ExitCode()
	if p.code < 0 {
		p.code = exitCodeOfSignal(p.cmd.ProcessState)
	}
	release()
	close(p.done)
}

func (p *program) Done() <-chan struct{} { return p.done }
func (p *program) ExitCode() int         { return p.code }
func (p *program) PID() int              { return p.cmd.Process.Pid }
func (p *program) Terminate()            { terminate(p.cmd.Process) }
func (p *program) Kill()                 { _ = p.cmd.Process.Kill() } // it may have ended
