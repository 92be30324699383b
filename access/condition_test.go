package access

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/smithy-go"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// A caller that waits for a path of an ended bond gives the link time to notice, instead of asking again and again.
func TestAwaitPathOfEndedBond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := testAccess(t, Settings{Link: config.Link{ConnectTimeout: 30 * time.Second}})
		b := &fakeBond{done: make(chan struct{})}
		b.pathless(time.Now())
		close(b.done)
		began := time.Now()
		again, err := a.awaitPath(t.Context(), b)
		if took := time.Since(began); !again || err != nil || took < pathPoll {
			t.Errorf("again %t, %v after %s", again, err, took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if again, err := a.awaitPath(ctx, b); again || !errors.Is(err, context.Canceled) {
			t.Errorf("after the end of ctx: again %t, %v", again, err)
		}
	})
}

// A command waits for a path that may come back, and not where AWS refuses.
func TestAwaitPath(t *testing.T) {
	denied := fail.AWS(fail.Start, "start a session", "ssm:StartSession",
		&smithy.GenericAPIError{Code: "AccessDeniedException", Message: "not authorized to perform: ssm:StartSession"})
	expired := fail.AWS(fail.Start, "start a session", "ssm:StartSession",
		&smithy.GenericAPIError{Code: "ExpiredTokenException", Message: "The security token included in the request is expired"})
	throttled := fail.AWS(fail.Start, "start a session", "ssm:StartSession",
		&smithy.GenericAPIError{Code: "ThrottlingException", Message: "Rate exceeded"})
	for _, tt := range []struct {
		name  string
		err   error
		stale bool // the error came before somebody waited
		back  time.Duration
		kind  fail.Kind // Other: there is a path again
		after time.Duration
	}{
		{"denied", denied, false, 0, fail.Denied, time.Second},
		{"expired", expired, false, 0, fail.Credentials, time.Second},
		{"expired before", expired, true, 0, fail.Timeout, 30 * time.Second},
		{"renewed", expired, true, time.Second, fail.Other, time.Second},
		{"throttled", throttled, false, 0, fail.Timeout, 30 * time.Second},
		{"throttled for a while", throttled, false, 10 * time.Second, fail.Other, 10 * time.Second},
		{"silence", nil, false, 0, fail.Timeout, 30 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := testAccess(t, Settings{Link: config.Link{ConnectTimeout: 30 * time.Second}})
				b := &fakeBond{done: make(chan struct{})}
				b.pathless(time.Now())
				if tt.stale {
					b.trouble(tt.err)
				}
				var wg sync.WaitGroup
				wg.Go(func() {
					<-time.After(time.Second)
					if !tt.stale {
						b.trouble(tt.err)
					}
					if tt.back > 0 {
						<-time.After(tt.back - time.Second)
						b.pathless(time.Time{})
					}
				})
				began := time.Now()
				again, err := a.awaitPath(t.Context(), b)
				wg.Wait()
				took := time.Since(began)
				if again || fail.KindOf(err) != tt.kind || (err == nil) != (tt.kind == fail.Other) || took < tt.after || took > tt.after+2*pathPoll {
					t.Errorf("after %s: %v (%v)", took, err, fail.KindOf(err))
				}
				if err != nil && (fail.NextOf(err) == "" || tt.err != nil && !strings.Contains(err.Error(), tt.err.Error())) {
					t.Errorf("no reason or no next step: %v, %q", err, fail.NextOf(err))
				}
				if b.probed != 1 {
					t.Errorf("the bond was made to try %d times", b.probed)
				}
			})
		})
	}
}
