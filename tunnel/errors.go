package tunnel

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/printable"
)

// Permanent marks err as one that another attempt cannot mend: a Link whose Connector returns it gives up. It returns nil for nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

// IsPermanent reports whether a Link gives up on err. That holds for errors marked by [Permanent], and for those whose kind says
// that nothing changes by itself (wrong usage, unknown target, denied).
func IsPermanent(err error) bool {
	if _, ok := errors.AsType[*permanentError](err); ok {
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

// Gone says that a Link's server has ended for good, for the reason err. The Connector started no other one, because [UseOf] did
// not ask for it. The Link is then Idle.
func Gone(err error) error { return &goneError{err} }

// IsGone reports whether err comes from [Gone].
func IsGone(err error) bool {
	_, ok := errors.AsType[*goneError](err)
	return ok
}

type goneError struct{ error }

func (e *goneError) Unwrap() error { return e.error }

// errLost ends the streams of a connection whose link was lost. It is never io.EOF: see the package comment.
var errLost = errors.New("the link to the bastion was lost")

// IsLost reports whether a lost link, and not one of its ends, ended a connection.
func IsLost(err error) bool { return errors.Is(err, errLost) }

// RefusedError is the bastion's refusal to open a connection.
type RefusedError struct {
	Dest    string              // host:port as the caller gave it
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

// refused turns a channel-open failure into the error for users.
func refused(dest string, e *ssh.OpenChannelError) error {
	r := &RefusedError{Dest: dest, Reason: e.Reason, Message: farText(e.Message)}
	op := "open a connection to " + dest
	switch e.Reason {
	case ssh.Prohibited:
		if strings.Contains(r.Message, "is never permitted") { // whatever the allow-list says
			return fail.New(fail.Denied, op, r, "name another destination: no allow-list can permit this one")
		}
		return fail.New(fail.Denied, op, r, "ask the bastion's operator to allow "+dest)
	case ssh.ConnectionFailed:
		return fail.New(fail.Other, op, r,
			"check the name and the port, and that the security group of "+dest+" admits the bastion")
	case ssh.ResourceShortage:
		return fail.New(fail.Other, op, r, "close some connections, or try again later")
	}
	return fail.New(fail.Other, op, r, "check that the far end allows TCP forwarding")
}

// maxMessage bounds how much of the far end's text an error shows.
const maxMessage = 300

// farText makes the far end's text safe for a terminal and a log line.
func farText(s string) string {
	s = printable.Line(strings.TrimSpace(s))
	if r := []rune(s); len(r) > maxMessage {
		s = string(r[:maxMessage]) + "..."
	}
	return s
}
