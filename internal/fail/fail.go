// Package fail gives the errors that reach a user their kind, from which the exit code follows, and their next step.
//
// A library wraps an error once, where it knows what it was doing; the command line prints the message and the next step.
package fail

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
)

// Kind says what sort of failure an error is. The zero kind is a failure of no special kind.
type Kind uint8

// The kinds, in the order of the exit codes that docs/exit-codes.md lists.
const (
	Other       Kind = iota
	Usage            // wrong flags, arguments or configuration
	NoTarget         // unknown or ambiguous target
	Credentials      // no, expired or invalid AWS credentials
	Denied           // refused by IAM or by the bastion's policy
	Start            // the bastion could not be started or reached
	PortInUse        // a local port is taken
	Lost             // the tunnel was lost and could not be restored
	Timeout          // a deadline passed
)

// kindNames are the names of the kinds in what programs read.
var kindNames = [...]string{"other", "usage", "no_target", "credentials", "denied", "start", "port_in_use", "lost", "timeout"}

// String returns the kind's name.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return kindNames[Other]
}

// MarshalText returns the kind's name.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads a kind's name. One that it does not know, a newer program's, is Other.
func (k *Kind) UnmarshalText(text []byte) error {
	*k = Kind(max(0, slices.Index(kindNames[:], string(text))))
	return nil
}

// Error is an error with its kind and what the user can do about it.
type Error struct {
	Kind Kind
	Op   string // what was being done, to what: "start the bastion in cluster demo"
	Err  error
	Next string // an imperative sentence for the user; may be empty
}

// New returns an *Error.
func New(kind Kind, op string, err error, next string) *Error {
	return &Error{Kind: kind, Op: op, Err: err, Next: next}
}

// Usagef returns the error of wrong options, arguments or configuration, with the next step.
func Usagef(next, format string, args ...any) *Error {
	return New(Usage, "", fmt.Errorf(format, args...), next)
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Op
	}
	if e.Op == "" {
		return e.Err.Error()
	}
	return e.Op + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of the outermost *Error in err's chain that has one; deadlines count as Timeout.
func KindOf(err error) Kind {
	for e := err; e != nil; {
		var f *Error
		if !errors.As(e, &f) {
			break
		}
		if f.Kind != Other {
			return f.Kind
		}
		e = f.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return Timeout
	}
	return Other
}

// NextOf returns the next step of the outermost *Error in err's chain that has one.
func NextOf(err error) string {
	for e := err; e != nil; {
		var f *Error
		if !errors.As(e, &f) {
			return ""
		}
		if f.Next != "" {
			return f.Next
		}
		e = f.Err
	}
	return ""
}

// NextUnanswered is the next step where AWS has not answered in time.
const NextUnanswered = "try again; if it lasts, check the network and the AWS endpoint"

// AWS wraps the error of an AWS API call. op is what was being done; action is the IAM action of the call ("ecs:RunTask"),
// which the next step after a denial names. What the answer means is package awsanswer's business. Errors without a kind of
// their own come back with kind.
func AWS(kind Kind, op, action string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", op, err)
	}
	answer := awsanswer.Of(err)
	if errors.Is(err, context.DeadlineExceeded) {
		return New(Timeout, op, err, cmp.Or(answer.Next, NextUnanswered))
	}
	if answer.Class == awsanswer.None {
		if credentialsMissing(err) {
			short := errors.New("no AWS credentials found")
			if !strings.Contains(err.Error(), noneFound) {
				short = fmt.Errorf("the AWS credentials could not be loaded: %w", err)
			}
			return New(Credentials, op, &cause{short, err}, signIn(err, awsanswer.NextSignIn))
		}
		return New(kind, op, err, awsanswer.NextUnreached(err))
	}
	next := answer.Next
	switch answer.Class {
	case awsanswer.Expired, awsanswer.BadCredentials:
		kind = Credentials
	case awsanswer.Denied:
		kind, next = Denied, cmp.Or(next, answer.NextDenied(action))
	case awsanswer.Config:
		kind = Usage
	}
	if answer.NeedsSignIn() {
		next = signIn(err, next)
	}
	return New(kind, op, &cause{errors.New(answer.String()), err}, next)
}

// signIn returns how to renew the credentials of the call that err is of, if its client has said so, else otherwise.
func signIn(err error, otherwise string) string {
	if known, ok := errors.AsType[interface {
		error
		NextSignIn() string
	}](err); ok {
		return known.NextSignIn()
	}
	return otherwise
}

// noneFound is in the SDK's error when its credential chain has come to its end, the instance metadata service.
const noneFound = "no EC2 IMDS role found"

// credentialsMissing recognises the SDK's error for a credential chain that gave nothing; the SDK exports no type for it.
func credentialsMissing(err error) bool {
	s := err.Error()
	return strings.Contains(s, "failed to refresh cached credentials") || strings.Contains(s, "get credentials") ||
		strings.Contains(s, "get identity")
}

// cause shows a short text for an API error and keeps the whole chain for errors.As.
type cause struct {
	short error
	whole error
}

func (c *cause) Error() string { return c.short.Error() }
func (c *cause) Unwrap() error { return c.whole }
