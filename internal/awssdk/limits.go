package awssdk

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/smithy-go/middleware"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
)

// attemptsInTime is how many unanswered attempts fit into a call's time.
const attemptsInTime = 3

// callLimits bounds calls to AWS, including those for credentials. An endpoint or proxy that accepts a connection and never
// answers would otherwise hold them as long as the connection lives. The limits act above the HTTP client, so they include the
// answer's body and the clients that the SDK creates for itself.
type callLimits struct {
	call    time.Duration // for all attempts and the pauses between them
	attempt time.Duration
}

func newCallLimits(call time.Duration) callLimits {
	return callLimits{call: call, attempt: call / attemptsInTime}
}

// add adds the limits to an operation's stack.
func (l callLimits) add(stack *middleware.Stack) error {
	// After the service client's own middleware: the instance metadata client has a shorter limit, and omits it if it finds a
	// deadline.
	call := middleware.InitializeMiddlewareFunc("CallLimit", l.boundCall)
	if err := stack.Initialize.Add(call, middleware.After); err != nil {
		return err
	}
	// The last before the request goes out, so that it does not see what is sent for the credentials.
	trace := middleware.FinalizeMiddlewareFunc("AttemptTrace", traceAttempt)
	if err := stack.Finalize.Add(trace, middleware.After); err != nil {
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
	way := new(attempt)
	bounded, cancel := context.WithTimeout(httptrace.WithClientTrace(context.WithValue(ctx, attemptKey{}, way), &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { way.connected.Store(true) },
	}), l.attempt)
	defer cancel()
	out, metadata, err := next.HandleFinalize(bounded, in)
	switch name := callName(ctx); {
	case err == nil || ctx.Err() != nil:
	case bounded.Err() != nil:
		err = &unanswered{call: name, after: l.attempt, again: !startsSession(name), connected: way.connected.Load()}
	case startsSession(name) && way.sent.Load() && awsanswer.ClassOf(err) == awsanswer.None:
		err = &cutAnswer{err}
	}
	if last, ok := ctx.Value(lastAttemptKey{}).(*lastAttempt); ok && ctx.Err() == nil {
		last.err = err
	}
	return out, metadata, err
}

// attempt is how far an attempt has come.
type attempt struct {
	connected atomic.Bool // a server accepted a connection: that of a token which the call needs counts
	sent      atomic.Bool // the header of the call's own request is under way
}

type attemptKey struct{}

// traceAttempt notes when the request of its context's attempt is sent.
func traceAttempt(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (
	middleware.FinalizeOutput, middleware.Metadata, error,
) {
	if way, ok := ctx.Value(attemptKey{}).(*attempt); ok {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			WroteHeaders: func() { way.sent.Store(true) },
		})
	}
	return next.HandleFinalize(ctx, in)
}

// lastAttempt is the result of a call's latest attempt. A call's attempts follow one another.
type lastAttempt struct{ err error }

type lastAttemptKey struct{}

// instead returns the error of a call whose time is over: AWS's last answer if there is one, because it says more.
func (a *lastAttempt) instead(over *unanswered) error {
	if a.answered() {
		return a.err
	}
	return over
}

// answered reports whether the attempt got an answer.
func (a *lastAttempt) answered() bool { return awsanswer.ClassOf(a.err) != awsanswer.None }

// overtaken is the error of a call whose caller's deadline passed before another attempt. It wraps AWS's last answer and the
// deadline.
type overtaken struct{ over, answer error }

func (e *overtaken) Error() string {
	return fmt.Sprintf("no time for another attempt after AWS answered %s", awsanswer.Of(e.answer))
}

func (e *overtaken) Unwrap() []error { return []error{e.answer, e.over} }

// callName returns the IAM action of ctx's call.
func callName(ctx context.Context) string {
	service := strings.ToLower(awsmiddleware.GetServiceID(ctx))
	if service == "" {
		return "the credentials' endpoint"
	}
	return service + ":" + awsmiddleware.GetOperationName(ctx)
}

// startsSession reports whether a second attempt might leave the first one's session behind. The callers of such calls decide: most try
// again, and a link that is being restored looks for its bastion anew.
func startsSession(call string) bool {
	return call == "ssm:StartSession" || call == "ecs:ExecuteCommand"
}

// unanswered is the error of a call or attempt that AWS did not answer in time. It wraps context.DeadlineExceeded and is a
// net.Error.
type unanswered struct {
	call  string
	after time.Duration
	again bool

	connected bool // a server accepted the last connection
}

func (e *unanswered) Error() string {
	return fmt.Sprintf("no whole answer to %s within %s", e.call, e.after)
}

func (*unanswered) Unwrap() error { return context.DeadlineExceeded }

func (*unanswered) Timeout() bool { return true }

// Temporary completes net.Error.
func (*unanswered) Temporary() bool { return true }

// RetryableError tells the SDK whether to retry.
func (e *unanswered) RetryableError() bool { return e.again }

// cutAnswer is the error of an attempt that was sent and whose answer was lost: it may have started a session.
type cutAnswer struct{ error }

func (e *cutAnswer) Unwrap() error { return e.error }

// RetryableError tells the SDK not to retry.
func (*cutAnswer) RetryableError() bool { return false }
