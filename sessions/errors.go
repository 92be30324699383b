package sessions

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrSilent is wrapped by OpenPort's error when the far end should have spoken first but sent nothing.
var ErrSilent = errors.New("the far end sent nothing")

// ErrUnanswered is wrapped by the error for a session that the service started but the agent never joined. The container may have
// reached its limit of sessions.
var ErrUnanswered = errors.New("the agent did not answer")

// ErrDataKey is wrapped by Exec's error when the agent could not decrypt the session's data key. The key comes from the cluster's
// configuration, and the task role needs permission to decrypt with it.
var ErrDataKey = errors.New("the task cannot decrypt the session's data key")

// errNoResume is wrapped by errors after which a session cannot be resumed.
var errNoResume = errors.New("the session cannot be resumed")

// ClosedError says that the service closed the session.
type ClosedError struct {
	SessionID string
	// Output is the service's reason; empty if the session ended in good order.
	Output string
	// Incomplete says that data from before the end is missing.
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

// Unwrap returns io.EOF for an end in good order, io.ErrUnexpectedEOF if data is missing, and otherwise nil.
func (e *ClosedError) Unwrap() error {
	switch {
	case e.Incomplete:
		return io.ErrUnexpectedEOF
	case e.reason() == "":
		return io.EOF
	}
	return nil
}

// reason returns Output on one line, without the decoration that the agent adds for terminals.
func (e *ClosedError) reason() string {
	var lines []string
	for _, line := range strings.FieldsFunc(e.Output, func(r rune) bool { return r == '\n' || r == '\r' }) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "-----") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}

// protocolError is the peer's violation of the protocol, after which a stream cannot go on.
func protocolError(format string, args ...any) error {
	return fmt.Errorf("SSM data channel: "+format, args...)
}
