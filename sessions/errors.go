package sessions

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrSilent is wrapped by OpenPort's error when the far end sent nothing although it was to speak first.
var ErrSilent = errors.New("the far end sent nothing")

// ErrUnanswered is wrapped by the error for a session that the service has started, but whose agent never came: the container
// may have as many sessions as it may have.
var ErrUnanswered = errors.New("the agent did not answer")

// ErrDataKey is wrapped by Exec's error when the agent could not decrypt the session's data key: the key of ECS Exec is the cluster's,
// and the task role decrypts with it.
var ErrDataKey = errors.New("the task cannot decrypt the session's data key")

// errNoResume is wrapped by the errors after which a session cannot be resumed.
var errNoResume = errors.New("the session cannot be resumed")

// ClosedError says that the service closed the session.
type ClosedError struct {
	SessionID string
	// Output is the service's reason; empty at the regular end of a session.
	Output string
	// Incomplete says that data which came before the end is missing.
	Incomplete bool
}

func (e *ClosedError) Error() string {
	s := "session " + e.SessionID + " was closed"
	if out := e.reason(); out != "" {
		s += ": " + out
	}
	if e.Incomplete {
		s += " (data is missing)"
	}
	return s
}

// Unwrap returns io.EOF at a regular end, io.ErrUnexpectedEOF when data is missing, and otherwise nil.
func (e *ClosedError) Unwrap() error {
	switch {
	case e.Incomplete:
		return io.ErrUnexpectedEOF
	case e.reason() == "":
		return io.EOF
	}
	return nil
}

// reason returns Output on one line, without the decoration that the agent puts around it for terminals.
func (e *ClosedError) reason() string {
	var lines []string
	for _, line := range strings.FieldsFunc(e.Output, func(r rune) bool { return r == '\n' || r == '\r' }) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "-----") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}

// protocolError is a violation by the peer that a stream cannot survive.
func protocolError(format string, args ...any) error {
	return fmt.Errorf("SSM data channel: "+format, args...)
}
