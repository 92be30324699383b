package access

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/smithy-go"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/sessions"
)

// What passes by itself is waited for, and a target that is not connected is looked at now and then: it may have stopped.
func TestPatience(t *testing.T) {
	api := func(op, code, message string) error {
		return fail.AWS(fail.Start, "do it", "x:Y", &smithy.OperationError{
			ServiceID: "X", OperationName: op, Err: &smithy.GenericAPIError{Code: code, Message: message},
		})
	}
	notRunning := api("ExecuteCommand", "InvalidParameterException", "... or the execute command agent isn’t running. Wait and try again")
	refused := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{notRunning, true},
		{api("ExecuteCommand", "InvalidParameterException", "Command cannot be empty."), false},
		{api("StartSession", "TargetNotConnected", "x is not connected."), true},
		{api("StartSession", "ThrottlingException", "Rate exceeded"), true},
		{api("StartSession", "InternalServerError", ""), true},
		{api("ExecuteCommand", "ClientException", "the maximum session limit of 2 has been reached."), true},
		{fmt.Errorf("open: %w", &sessions.ClosedError{Output: "CommandBufferFull"}), true},
		{fmt.Errorf("open: %w", &sessions.ClosedError{Output: "no such command"}), false},
		{fmt.Errorf("open: %w within 8s", sessions.ErrUnanswered), true},
		{fmt.Errorf("open: %w in 3 sessions", sessions.ErrSilent), false},
		{api("StartSession", "AccessDeniedException", ""), false},
		{api("StartSession", "ExpiredTokenException", ""), false},
		{errors.New("odd"), false},
		{refused, true},
	} {
		var p patience
		if again, gone := p.passes(t.Context(), tt.err); again != tt.want || gone != nil {
			t.Errorf("%v: again %v, gone %v", tt.err, again, gone)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var asked []time.Duration
		stopped := &goneError{errors.New("the task has stopped"), cutOff, false}
		p := patience{stands: func(context.Context) error {
			if asked = append(asked, time.Since(began)); len(asked) == 3 {
				return stopped
			}
			return nil
		}}
		for {
			again, gone := p.passes(t.Context(), notRunning)
			if gone != nil {
				break
			}
			if !again || time.Since(began) > time.Minute {
				t.Fatalf("again %v after %v", again, time.Since(began))
			}
			<-time.After(time.Second)
		}
		if want := []time.Duration{firstStands, firstStands + goneCheck, firstStands + 2*goneCheck}; !slices.Equal(asked, want) {
			t.Errorf("asked after %v, want %v", asked, want)
		}
	})
	var p patience
	tries := 1
	for again := true; again; tries++ {
		again, _ = p.passes(t.Context(), refused)
	}
	if tries != networkTries+1 {
		t.Errorf("given up after %d tries", tries-1)
	}
}
