// Package fail gives the errors that reach a user their kind, which determines the exit code, and a hint.
//
// A library wraps an error once, where it knows the operation. The command line prints the message and the hint.
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

// Kind classifies a failure. The zero kind is Other.
type Kind uint8

// The kinds, in the order of the exit codes that docs/exit-codes.md lists.
const (
	Other       Kind = iota
	Usage            // wrong flags, arguments or configuration
	NoTarget         // unknown or ambiguous target
	Credentials      // AWS credentials are missing, expired or invalid
	Denied           // refused by IAM or by the bastion's policy
	Start            // the bastion could not be started or reached
	PortInUse        // a local port is taken
	Lost             // the tunnel was lost and could not be restored
	Timeout          // a deadline passed
)

// kindNames are the kinds' names in machine-readable output.
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

// UnmarshalText reads a kind's name. It reads an unknown name, from a newer program, as Other.
func (k *Kind) UnmarshalText(text []byte) error {
	*k = Kind(max(0, slices.Index(kindNames[:], string(text))))
	return nil
}

// Error is an error with its kind and a hint.
type Error struct {
	Kind Kind
	Op   string // the operation and its object: "start the bastion in cluster demo"
	Err  error
	Next string // hint: an imperative sentence for the user; may be empty
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
	for f, ok := errors.AsType[*Error](err); ok; f, ok = errors.AsType[*Error](f.Err) {
		if f.Kind != Other {
			return f.Kind
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return Timeout
	}
	return Other
}

// NextOf returns the hint of the outermost *Error in err's chain that has one.
func NextOf(err error) string {
	for f, ok := errors.AsType[*Error](err); ok; f, ok = errors.AsType[*Error](f.Err) {
		if f.Next != "" {
			return f.Next
		}
	}
	return ""
}

// NextUnanswered is the hint after a call that AWS did not answer in time.
const NextUnanswered = "try again; if it lasts, check the network and the AWS endpoint"

// AdminAWS is AWS for the calls of an administrator, who can change policies. After a denial the hint has the statement that would allow
// the call. resource is the call's, for answers that name none; empty: any.
func AdminAWS(kind Kind, op, action, resource string, err error) error {
	wrapped := AWS(kind, op, action, err)
	f, ok := errors.AsType[*Error](wrapped)
	if statement := awsanswer.Of(err).Statement(action, resource); ok && statement != "" {
		f.Next += StatementToAdd + statement
	}
	return wrapped
}

// StatementToAdd precedes a policy's statement in the hint after a denial.
const StatementToAdd = "; the statement to add: "

// AWS wraps the error of an AWS API call. op is the operation. action is the call's IAM action ("ecs:RunTask"), for the hint
// after a denial. Package awsanswer judges the answer. An error without a kind of its own gets kind.
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

// signIn returns how to renew the credentials of err's call, if its client has added that, or else otherwise.
func signIn(err error, otherwise string) string {
	if known, ok := errors.AsType[interface {
		error
		NextSignIn() string
	}](err); ok {
		return known.NextSignIn()
	}
	return otherwise
}

// noneFound occurs in the SDK's error when the last provider of its credential chain, the instance metadata service, has
// failed.
const noneFound = "no EC2 IMDS role found"

// credentialsMissing recognises the SDK's error for a credential chain without a result; the SDK exports no type for it.
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
