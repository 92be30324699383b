package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/google/shlex"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

const (
	sessionTypeCommand = "InteractiveCommands"
	sessionTypeShell   = "Standard_Stream"
)

// runExec is the agent's plugin for commands and shells. Without encryption the session has no handshake.
func (a *agent) runExec() result {
	if a.spec.KMSKeyID == "" {
		a.accept(nil)
	} else {
		sessionType := sessionTypeCommand
		if a.spec.Document == DocShell {
			sessionType = sessionTypeShell
		}
		if _, err := a.handshake(sessionType, nil); err != nil {
			return handshakeFailure(err)
		}
	}
	argv, err := shlex.Split(a.spec.Command)
	if err != nil {
		return a.notStarted("Failed to parse commands input: " + err.Error())
	}
	proc, err := a.spec.Exec(a.ctx, argv)
	if err != nil {
		return a.notStarted("Failed to start pty: " + err.Error())
	}
	ctx, cancel := context.WithCancel(a.ctx)
	defer cancel()
	a.accept(func(m *frame.Message) error { return toProcess(proc, m) }) // whoever sees output may send input
	pumped := make(chan struct{})
	go func() {
		defer close(pumped)
		defer cancel()
		if !sleep(ctx.Done(), a.cfg.ExecDelay) {
			return
		}
		filter := utf8Filter{send: a.sendOutput}
		_ = a.pump(ctx, proc, costOutput, filter.write)
	}()
	<-ctx.Done() // the command has ended, or the session is over
	a.accept(nil)
	ended := a.ctx.Err() == nil
	if err := proc.Kill(); err != nil { // has no effect on an ended process; also ends a read of the pty
		a.log.Debug("agent: kill", "err", err)
	}
	<-pumped
	if err := proc.Wait(); err != nil {
		a.log.Debug("agent: command ended", "err", err)
	}
	if ended {
		a.flush()
	}
	return result{orderly: true}
}

// notStarted ends a session whose command failed to start. The agent reports that after twice the time of a first output.
func (a *agent) notStarted(why string) result {
	sleep(a.done, 2*a.cfg.ExecDelay)
	return result{output: errorHeading + "Unable to start command: " + why + "\n\n"}
}

// toProcess passes a message to the command's pty.
func toProcess(proc Process, m *frame.Message) error {
	switch m.PayloadType {
	case frame.PayloadOutput:
		_, err := proc.Write(m.Payload)
		return err
	case frame.PayloadSize:
		var size struct {
			Cols int `json:"cols"`
			Rows int `json:"rows"`
		}
		if err := json.Unmarshal(m.Payload, &size); err != nil {
			return fmt.Errorf("size message: %w", err)
		}
		if size.Cols < 0 || size.Rows < 0 || size.Cols > 0xffff || size.Rows > 0xffff {
			return fmt.Errorf("size message: %d x %d", size.Cols, size.Rows)
		}
		return proc.Resize(size.Cols, size.Rows)
	}
	return nil
}

// utf8Filter sends whole characters only. It keeps up to three bytes of an incomplete one for later, and loses them at the end, as
// the agent does. Bytes that are certainly not UTF-8 pass.
type utf8Filter struct {
	send func([]byte) error
	rest []byte
}

func (f *utf8Filter) write(p []byte) error {
	b := append(bytes.Clone(f.rest), p...)
	n := 0
	for n < len(b) {
		r, size := utf8.DecodeRune(b[n:])
		if r == utf8.RuneError && size <= 1 && len(b)-n < utf8.UTFMax {
			break
		}
		n += size
	}
	f.rest = b[n:]
	return f.send(b[:n])
}
