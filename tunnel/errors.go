package tunnel

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// Permanent marks err as one that another attempt cannot mend: a Link whose Connector returns it gives up.
// It returns nil for nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

// IsPermanent reports whether a Link gives up on err: errors marked by [Permanent], and those whose kind says that
// nothing will change by itself (wrong usage, no such target, denied).
func IsPermanent(err error) bool {
	var p *permanentError
	if errors.As(err, &p) {
		return true
	}
	switch fail.KindOf(err) {
	case fail.Usage, fail.NoTarget, fail.Denied:
		return true
	}
	return false
}

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// errLost ends the streams of a connection whose link was lost. It is never io.EOF: see the package comment.
var errLost = errors.New("the link to the bastion was lost")

// IsLost reports whether err ended a connection because its link was lost, and not because one of its ends has ended it.
func IsLost(err error) bool { return errors.Is(err, errLost) }

// RefusedError is the bastion's refusal to open a connection.
type RefusedError struct {
	Dest    string              // host:port as it was asked for
	Reason  ssh.RejectionReason // ssh.Prohibited: by policy; ssh.ConnectionFailed: the destination cannot be reached
	Message string              // the bastion's own words, printable
}

func (e *RefusedError) Error() string {
	what := "the bastion refused it"
	if e.Reason == ssh.ConnectionFailed {
		what = "the bastion could not connect"
	}
	if e.Message == "" {
		return fmt.Sprintf("%s (%s)", what, e.Reason)
	}
	return what + ": " + e.Message
}

// refused turns a channel-open failure into the error that users see.
func refused(dest string, e *ssh.OpenChannelError) error {
	r := &RefusedError{Dest: dest, Reason: e.Reason, Message: printable(e.Message)}
	op := "open a connection to " + dest
	switch e.Reason {
	case ssh.Prohibited:
		return fail.New(fail.Denied, op, r, "ask the bastion's operator to allow "+dest)
	case ssh.ConnectionFailed:
		return fail.New(fail.Other, op, r,
			"check the name and the port, and that the security group of "+dest+" admits the bastion")
	case ssh.ResourceShortage:
		return fail.New(fail.Other, op, r, "close some connections, or try again later")
	}
	return fail.New(fail.Other, op, r, "check that the far end allows TCP forwarding")
}

// maxMessage bounds what is shown of a text that the far end chose.
const maxMessage = 300

// printable makes a text of the far end safe for a terminal and a log line.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, strings.TrimSpace(s))
	if r := []rune(s); len(r) > maxMessage {
		s = string(r[:maxMessage]) + "..."
	}
	return s
}
