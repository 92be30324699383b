package fail_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// answer is an error that a service gave, as the SDK shows it.
type answer struct{ code, message string }

func (a *answer) Error() string        { return "api error " + a.code }
func (a *answer) ErrorCode() string    { return a.code }
func (a *answer) ErrorMessage() string { return a.message }

func TestAWS(t *testing.T) {
	const op, action = "start the task", "ecs:RunTask"
	code := func(code string) error {
		return fmt.Errorf("operation error ECS: RunTask: %w", &answer{code, "the service's words"})
	}
	tests := []struct {
		name      string
		err       error
		kind      fail.Kind
		text      string // in the message
		next      string // in the next step
		unwrapped bool   // the service's error is still in the chain
	}{
		{"access denied", code("AccessDeniedException"), fail.Denied, "the service's words", action, true},
		{"EC2's denial", code("UnauthorizedOperation"), fail.Denied, "the service's words", action, true},
		{"expired", code("ExpiredTokenException"), fail.Credentials, "the service's words", "expired", true},
		{"expired, query protocol", code("ExpiredToken"), fail.Credentials, "the service's words", "expired", true},
		{"unknown key", code("UnrecognizedClientException"), fail.Credentials, "the service's words", "secret key", true},
		{"wrong secret", code("SignatureDoesNotMatch"), fail.Credentials, "the service's words", "secret key", true},
		{"throttled", code("ThrottlingException"), fail.Start, "the service's words", "throttling", true},
		{"unusable settings", code("ClusterNotFoundException"), fail.Usage, "ClusterNotFoundException", "set the cluster", true},
		{"something else", code("OddException"), fail.Start, "OddException", "", true},
		{
			"no credentials", errors.New("failed to refresh cached credentials, no EC2 IMDS role found, operation error ec2imds"),
			fail.Credentials, "no AWS credentials found", "sign in", false,
		},
		{
			"credentials of an ended sign-in", errors.New("failed to refresh cached credentials, the SSO session has expired"),
			fail.Credentials, "the SSO session has expired", "sign in", false,
		},
		{"deadline", fmt.Errorf("wait: %w", context.DeadlineExceeded), fail.Timeout, "deadline", "try again", false},
		{"network", errors.New("connection refused"), fail.Start, "connection refused", "check the network", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := fail.AWS(fail.Start, op, action, tt.err)
			if got := fail.KindOf(err); got != tt.kind {
				t.Errorf("kind %d, want %d", got, tt.kind)
			}
			if !strings.HasPrefix(err.Error(), op+": ") || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("message %q does not name the operation and %q", err, tt.text)
			}
			if next := fail.NextOf(err); !strings.Contains(next, tt.next) || (tt.next == "" && next != "") {
				t.Errorf("next step %q, want one with %q", next, tt.next)
			}
			var a *answer
			if errors.As(err, &a) != tt.unwrapped {
				t.Errorf("the service's error in the chain: %v, want %v", !tt.unwrapped, tt.unwrapped)
			}
		})
	}
	if err := fail.AWS(fail.Start, op, action, nil); err != nil {
		t.Errorf("no error became %v", err)
	}
	canceled := fail.AWS(fail.Start, op, action, fmt.Errorf("call: %w", context.Canceled))
	if !errors.Is(canceled, context.Canceled) || fail.KindOf(canceled) != fail.Other {
		t.Errorf("a cancelled call became %v, kind %d", canceled, fail.KindOf(canceled))
	}
}

// The outermost kind and the outermost next step win, each for itself.
func TestKindAndNext(t *testing.T) {
	inner := fail.New(fail.Denied, "dial", errors.New("refused"), "ask for access")
	outer := fail.New(fail.Other, "forward", inner, "")
	if fail.KindOf(outer) != fail.Denied || fail.NextOf(outer) != "ask for access" {
		t.Errorf("kind %d, next %q", fail.KindOf(outer), fail.NextOf(outer))
	}
	relabelled := fail.New(fail.Lost, "forward", fmt.Errorf("link: %w", inner), "try again")
	if fail.KindOf(relabelled) != fail.Lost || fail.NextOf(relabelled) != "try again" {
		t.Errorf("kind %d, next %q", fail.KindOf(relabelled), fail.NextOf(relabelled))
	}
	if got := relabelled.Error(); got != "forward: link: dial: refused" {
		t.Errorf("message %q", got)
	}
	if fail.KindOf(nil) != fail.Other || fail.NextOf(errors.New("x")) != "" {
		t.Error("an error of no kind has one")
	}
	if fail.KindOf(fmt.Errorf("x: %w", context.DeadlineExceeded)) != fail.Timeout {
		t.Error("a passed deadline is no Timeout")
	}
}
