package awssdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/smithy-go/middleware"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
)

// attemptsInTime is how many attempts that get no answer fit into the time of a call.
const attemptsInTime = 3

// callLimits bound the calls to AWS, those for credentials too, because an endpoint or a proxy that accepts and never answers
// would hold them for as long as its connection lives. They do so from above the HTTP client: the answer's body counts, and so do
// clients that the SDK makes for itself.
type callLimits struct {
	call    time.Duration // with all attempts, and the pauses between them
	attempt time.Duration
}

func newCallLimits(call time.Duration) callLimits {
	return callLimits{call: call, attempt: call / attemptsInTime}
}

// add puts the limits into the stack of an operation.
func (l callLimits) add(stack *middleware.Stack) error {
	// After what the service's client adds: the client of the instance metadata has a shorter limit, which it leaves out where it
	// finds a deadline.
	call := middleware.InitializeMiddlewareFunc("CallLimit", l.boundCall)
	if err := stack.Initialize.Add(call, middleware.After); err != nil {
		return err
	}
	attempt := middleware.FinalizeMiddlewareFunc("AttemptLimit", l.boundAttempt)
	if _, ok := stack.Finalize.Get("Retry"); !ok {
		return stack.Finalize.Add(attempt, middleware.Before)
	}
	return stack.Finalize.Insert(attempt, "Retry", middleware.After)
}

func (l callLimits) boundCall(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (
	middleware.InitializeOutput, middleware.Metadata, error,
) {
	last := new(lastAttempt)
	bounded, cancel := context.WithTimeout(context.WithValue(ctx, lastAttemptKey{}, last), l.call)
	defer cancel()
	out, metadata, err := next.HandleInitialize(bounded, in)
	switch {
	case err == nil || bounded.Err() == nil:
	case ctx.Err() == nil:
		before, _ := errors.AsType[*unanswered](last.err)
		err = last.instead(&unanswered{call: callName(ctx), after: l.call, connected: before != nil && before.connected})
	case errors.Is(ctx.Err(), context.DeadlineExceeded) && last.answered():
		err = &overtaken{err, last.err}
	}
	return out, metadata, err
}

func (l callLimits) boundAttempt(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (
	middleware.FinalizeOutput, middleware.Metadata, error,
) {
	var connected atomic.Bool
	bounded, cancel := context.WithTimeout(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	}), l.attempt)
	defer cancel()
	out, metadata, err := next.HandleFinalize(bounded, in)
	if err != nil && ctx.Err() == nil && bounded.Err() != nil {
		name := callName(ctx)
		err = &unanswered{call: name, after: l.attempt, again: !startsSession(name), connected: connected.Load()}
	}
	if last, ok := ctx.Value(lastAttemptKey{}).(*lastAttempt); ok && ctx.Err() == nil {
		last.err = err
	}
	return out, metadata, err
}

// lastAttempt is what the latest attempt of one call came to. The attempts of a call follow one another.
type lastAttempt struct{ err error }

type lastAttemptKey struct{}

// instead returns the error of a call whose time is over: AWS's own answer says more than the time.
func (a *lastAttempt) instead(over *unanswered) error {
	if a.answered() {
		return a.err
	}
	return over
}

// answered reports whether the attempt had an answer.
func (a *lastAttempt) answered() bool { return awsanswer.ClassOf(a.err) != awsanswer.None }

// overtaken is the error of a call whose caller's time was over before AWS could be asked again: the end of the time, with what AWS had
// answered.
type overtaken struct{ over, answer error }

func (e *overtaken) Error() string {
	return fmt.Sprintf("no time for another attempt after AWS answered %s", awsanswer.Of(e.answer))
}

func (e *overtaken) Unwrap() []error { return []error{e.answer, e.over} }

// callName returns the IAM action of the call that ctx belongs to.
func callName(ctx context.Context) string {
	service := strings.ToLower(awsmiddleware.GetServiceID(ctx))
	if service == "" {
		return "the credentials' endpoint"
	}
	return service + ":" + awsmiddleware.GetOperationName(ctx)
}

// startsSession reports whether a second attempt might leave a session of the first behind. The callers try again by a plan of
// their own.
func startsSession(call string) bool {
	return call == "ssm:StartSession" || call == "ecs:ExecuteCommand"
}

// unanswered is the error of a call, or of one attempt, that AWS did not answer in time. It is context.DeadlineExceeded, and a
// net.Error.
type unanswered struct {
	call  string
	after time.Duration
	again bool

	connected bool // somebody took the last connection
}

func (e *unanswered) Error() string {
	return fmt.Sprintf("no whole answer to %s within %s", e.call, e.after)
}

func (*unanswered) Unwrap() error { return context.DeadlineExceeded }

func (*unanswered) Timeout() bool { return true }

// Temporary is part of net.Error.
func (*unanswered) Temporary() bool { return true }

// RetryableError tells the SDK whether to try again.
func (e *unanswered) RetryableError() bool { return e.again }

// Unreached reports whether a call failed on its way to AWS or back.
func Unreached(err error) bool {
	_, ok := errors.AsType[net.Error](err)
	return ok || errors.Is(err, io.ErrUnexpectedEOF)
}
