package gateway

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"sync"

	"github.com/creack/pty"
)

// ExecProcess starts cmd under a pty if the system has them, else on pipes with the line ends of a pty. The caller must call Wait
// after it has read to the end or called Kill.
func ExecProcess(cmd *exec.Cmd) (Process, error) {
	tty, err := pty.Start(cmd)
	if errors.Is(err, pty.ErrUnsupported) {
		return startPiped(cmd)
	}
	if err != nil {
		return nil, err
	}
	return &ptyProcess{cmd: cmd, tty: tty}, nil
}

type ptyProcess struct {
	cmd *exec.Cmd
	tty *os.File
}

// Read returns io.EOF for any error: the end of a pty looks different on each system.
func (p *ptyProcess) Read(b []byte) (int, error) {
	n, err := p.tty.Read(b)
	if err != nil {
		err = io.EOF
	}
	return n, err
}

func (p *ptyProcess) Write(b []byte) (int, error) { return p.tty.Write(b) }

func (p *ptyProcess) Resize(cols, rows int) error { return resize(p.tty, cols, rows) }

// Kill hangs up the terminal and kills the command with its process group.
func (p *ptyProcess) Kill() error {
	_ = p.tty.Close()
	return killGroup(p.cmd.Process)
}

func (p *ptyProcess) Wait() error {
	err := p.cmd.Wait()
	_ = p.tty.Close()
	return err
}

// pipedProcess stands in for a pty: stdout and stderr merged, LF written as CR LF.
type pipedProcess struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *os.File

	mu   sync.Mutex // of rest
	rest []byte     // converted but not yet read
}

func startPiped(cmd *exec.Cmd) (Process, error) {
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		_ = stdin.Close()
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		_ = stdin.Close()
		_ = r.Close()
		return nil, err
	}
	return &pipedProcess{cmd: cmd, stdin: stdin, out: r}, nil
}

func (p *pipedProcess) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(b) == 0 {
		return 0, nil
	}
	if len(p.rest) == 0 {
		buf := make([]byte, 1024)
		n, err := p.out.Read(buf)
		if err != nil {
			return 0, io.EOF
		}
		p.rest = bytes.ReplaceAll(buf[:n], []byte("\n"), []byte("\r\n"))
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func (p *pipedProcess) Write(b []byte) (int, error) { return p.stdin.Write(b) }

func (p *pipedProcess) Resize(int, int) error { return nil }

func (p *pipedProcess) Kill() error {
	_ = p.out.Close()
	_ = p.stdin.Close()
	return p.cmd.Process.Kill()
}

func (p *pipedProcess) Wait() error {
	err := p.cmd.Wait()
	_ = p.out.Close()
	return err
}
