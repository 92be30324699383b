package access

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/smithy-go"
	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/sessions"
	"github.com/bastion-ssm/bastion/sessions/bond"
	"github.com/bastion-ssm/bastion/tunnel"
)

// answer is an error of AWS's, as a call of the program returns it.
func answer(operation, code, message string) error {
	return fail.AWS(fail.Start, "do it", "x:"+operation, &smithy.OperationError{
		ServiceID: "X", OperationName: operation, Err: &smithy.GenericAPIError{Code: code, Message: message},
	})
}

// A wait that its time has ended tells the limit and the latest failure, with the failure's next step before the limit's. A wait that was
// cancelled tells that alone.
func TestEndedBy(t *testing.T) {
	limit := fail.New(fail.Timeout, "open it", errors.New("nothing within 1s"), "allow more time")
	with, without := fail.New(fail.Denied, "", errors.New("not allowed"), "ask for it"), errors.New("reset by peer")
	for name, tt := range map[string]struct {
		cause error // nil: cancelled
		last  error
		text  string
		kind  fail.Kind
		next  string
	}{
		"no failure":           {limit, nil, "op: open it: nothing within 1s", fail.Timeout, "allow more time"},
		"the limit's own":      {limit, fmt.Errorf("call: %w", limit), "op: open it: nothing within 1s", fail.Timeout, "allow more time"},
		"a failure":            {limit, without, "open it: nothing within 1s; the latest failure: reset by peer", fail.Timeout, "allow more time"},
		"a failure and a hint": {limit, with, "open it: nothing within 1s; the latest failure: not allowed", fail.Timeout, "ask for it"},
		"cancelled":            {nil, with, "op: context canceled", fail.Other, ""},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(tt.cause)
		err := endedBy(ctx, "op", tt.last)
		if err.Error() != tt.text || fail.KindOf(err) != tt.kind || fail.NextOf(err) != tt.next || !errors.Is(err, context.Cause(ctx)) {
			t.Errorf("%s: %v %q, hint %q", name, fail.KindOf(err), err, fail.NextOf(err))
		}
	}
}

// ECS Exec's error has the whole command line as its operation, and so the grant. It gets another, and keeps the rest.
func TestRelabel(t *testing.T) {
	cause := errors.New("denied")
	err := relabel("hand over", fmt.Errorf("wrapped: %w", fail.New(fail.Denied, `run "bastiond grant v2.secret"`, cause, "ask for it")))
	if err.Error() != "hand over: denied" || !errors.Is(err, cause) || fail.KindOf(err) != fail.Denied || fail.NextOf(err) != "ask for it" {
		t.Errorf("%v %q, hint %q", fail.KindOf(err), err, fail.NextOf(err))
	}
	if err := relabel("hand over", cause); !errors.Is(err, cause) || err.Error() != "denied" {
		t.Errorf("an error without an operation: %v", err)
	}
}

// A wait for another's text keeps the cause for those who ask for it.
func TestErrorsKeepTheirCause(t *testing.T) {
	cause := answer("StartSession", "AccessDeniedException", "no")
	for name, err := range map[string]error{
		"explained":  &explained{"in other words", cause},
		"unanswered": &unansweredError{cause},
		"transient":  &transientError{cause},
		"gone":       newGone(bastions.Bastion{TaskID: "1"}, cutOff, cause),
	} {
		if !errors.Is(err, cause) {
			t.Errorf("%s: %v has lost its cause", name, err)
		}
	}
	wrapped := fmt.Errorf("a: %w", &unansweredError{cause})
	if !isUnanswered(wrapped) || isUnanswered(cause) || isTransient(wrapped) || isGone(wrapped) {
		t.Error("an error is taken for another kind")
	}
	if !isTransient(fmt.Errorf("a: %w", &transientError{cause})) || !isGone(fmt.Errorf("a: %w", newGone(bastions.Bastion{}, byOwner, cause))) {
		t.Error("a kind is not recognised")
	}
}

// Why the preferred document does not work is told in AWS's words, not with this program's operations around them.
func TestReasonOf(t *testing.T) {
	for want, err := range map[string]error{
		"AccessDenied": answer("StartSession", "AccessDeniedException", "User: x is not authorized"),
		"session s-1 was closed: Plugin with name Port is not supported": fmt.Errorf("open: %w", &sessions.ClosedError{
			SessionID: "s-1", Output: "Plugin with name Port is not supported",
		}),
		"the SSM agent does not answer in a session that AWS has started": fmt.Errorf("open: %w within 8s", sessions.ErrUnanswered),
		"open: reset": errors.New("open: reset"),
	} {
		if got := reasonOf(err); !strings.HasPrefix(got, want) || strings.Contains(got, "do it") {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// The other document is remembered with why the preferred one is not used, and the preferred one without a reason.
func TestDocumentInUse(t *testing.T) {
	const target = "ecs:tools_1_1-1"
	a := testAccess(t, Settings{AWS: config.AWS{Profile: "dev"}})
	check := func(target, document, reason string) {
		t.Helper()
		if d, r := a.documentInUse(target); d != document || !strings.HasPrefix(r, reason) || reason == "" && r != "" {
			t.Errorf("%s: %s because of %q, want %s because of %q", target, d, r, document, reason)
		}
	}
	check(target, sessions.DocumentSSH, "")
	check(nodeID, sessions.DocumentSSH, "")
	place := a.documentPlace(target)
	a.chose(place, sessions.DocumentPort, map[string]error{sessions.DocumentSSH: errors.New("refused")})
	check(target, sessions.DocumentPort, sessions.DocumentSSH+": refused")
	check("ecs:tools_2_2-2", sessions.DocumentPort, sessions.DocumentSSH+": refused") // of the same cluster
	check("ecs:others_1_1-1", sessions.DocumentSSH, "")
	check(nodeID, sessions.DocumentSSH, "")
	a.chose(place, sessions.DocumentPort, nil)
	check(target, sessions.DocumentPort, sessions.DocumentSSH+" did not open in time")
	a.chose(place, sessions.DocumentSSH, map[string]error{sessions.DocumentPort: errors.New("refused")})
	check(target, sessions.DocumentSSH, "")
	a.documents.forced = sessions.DocumentPort
	check(target, sessions.DocumentPort, "the setting session_document")
	if other(sessions.DocumentSSH) != sessions.DocumentPort || other(sessions.DocumentPort) != sessions.DocumentSSH {
		t.Error("a document is its own other")
	}
}

// Each event of the search for a bastion has its words, and what begins a task begins with StepStarting.
func TestDescribeEvent(t *testing.T) {
	for want, e := range map[string]bastions.Event{
		"looking for your bastion":                      {State: "finding"},
		StepStarting + " (task definition x)":           {State: "starting", Detail: "task definition x"},
		"waiting for the bastion's exec agent (1)":      {State: "exec agent", Detail: "1"},
		"the bastion runs":                              {State: "ready", Detail: "1"},
		"waiting for the bastion's task: PROVISIONING":  {State: "PROVISIONING"},
		"waiting for the bastion's task: PENDING (why)": {State: "PENDING", Detail: "why"},
	} {
		if got := describeEvent(e); got != want {
			t.Errorf("%+v: %q, want %q", e, got, want)
		}
	}
}

// A link's latest failure is shown with its next step, and goes with the next state.
func TestExplain(t *testing.T) {
	retry := time.Now().Add(time.Minute)
	var l report.Link
	explain(&l, fail.New(fail.Denied, "op", errors.New("denied"), "ask for it"), retry)
	if l.Error != "op: denied" || l.Next != "ask for it" || !l.Retry.Equal(retry) {
		t.Errorf("%+v", l)
	}
	explain(&l, nil, time.Time{})
	if l.Error != "" || l.Next != "" || !l.Retry.IsZero() {
		t.Errorf("of nothing: %+v", l)
	}
}

// How many sessions AWS starts is shown with its own words, and with the next attempt while it lies ahead.
func TestSessionLimit(t *testing.T) {
	now := time.Now()
	if got := sessionLimit(bond.Limit{Retry: now.Add(time.Hour)}, now); got != nil {
		t.Errorf("without a limit: %+v", got)
	}
	got := sessionLimit(bond.Limit{Subflows: 2, Lent: true, Retry: now}, now)
	if got.Sessions != 2 || got.Reason != "a place was needed for another session" || got.Retry != nil {
		t.Errorf("lent: %+v", got)
	}
	got = sessionLimit(bond.Limit{Subflows: 3, Err: answer("StartSession", "LimitExceededException", "enough"), Retry: now.Add(time.Hour)},
		now)
	if got.Sessions != 3 || !strings.Contains(got.Reason, "LimitExceeded") || got.Retry == nil || !got.Retry.Equal(now.Add(time.Hour)) {
		t.Errorf("AWS's: %+v", got)
	}
}

// A link without a path waits, except for the moment for which it has lent its only place. A time that has passed is no next attempt.
func TestWithoutPath(t *testing.T) {
	now := time.Now()
	why := errors.New("denied")
	if c := withoutPath(bond.Stats{Trouble: bond.Trouble{Err: why}}); c != (Condition{}) {
		t.Errorf("with a path: %+v", c)
	}
	if c := withoutPath(bond.Stats{Pathless: now, Limit: bond.Limit{Lent: true}}); c != (Condition{}) {
		t.Errorf("lent: %+v", c)
	}
	next := now.Add(time.Hour)
	c := withoutPath(bond.Stats{Pathless: now, Trouble: bond.Trouble{Err: why, Next: next}})
	if !c.Waiting || !c.Since.Equal(now) || !errors.Is(c.Err, why) || !c.Retry.Equal(next) {
		t.Errorf("%+v", c)
	}
	if c := withoutPath(bond.Stats{Pathless: now, Trouble: bond.Trouble{Next: now.Add(-time.Second)}}); !c.Retry.IsZero() {
		t.Errorf("after the attempt: %+v", c)
	}
}

// A key that has let a connection in is used again while nothing says that its bastion leaves.
func TestProven(t *testing.T) {
	for name, tt := range map[string]struct {
		phases []tunnel.Phase
		want   bool
	}{
		"new":           {nil, false},
		"never up":      {[]tunnel.Phase{tunnel.Connecting}, false},
		"up":            {[]tunnel.Phase{tunnel.Up}, true},
		"lost":          {[]tunnel.Phase{tunnel.Up, tunnel.Reconnecting}, true},
		"leaving":       {[]tunnel.Phase{tunnel.Up, tunnel.Draining}, false},
		"nobody's":      {[]tunnel.Phase{tunnel.Up, tunnel.Idle}, false},
		"another is up": {[]tunnel.Phase{tunnel.Up, tunnel.Draining, tunnel.Up}, true},
	} {
		var c taskConnector
		for _, phase := range tt.phases {
			c.onState(tunnel.State{Phase: phase})
		}
		if got := c.proven.Load(); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

// Why an answer has ended a connection is the next attempt's error, before anything is asked of AWS, and no other attempt's.
func TestDenialIsToldOnce(t *testing.T) {
	var denied error = fail.New(fail.Denied, "op", errors.New("another server"), "do not go on")
	a := testAccess(t, Settings{})
	asked := 0
	a.whoami = func(context.Context) (bastions.Owner, error) {
		asked++
		return bastions.Owner{}, io.ErrUnexpectedEOF
	}
	c := &taskConnector{access: a}
	c.denial.Store(&denied)
	if _, err := c.Connect(t.Context()); !errors.Is(err, denied) || asked != 0 {
		t.Errorf("%v after %d calls", err, asked)
	}
	if _, err := c.Connect(t.Context()); !errors.Is(err, io.ErrUnexpectedEOF) || asked != 1 {
		t.Errorf("%v after %d calls", err, asked)
	}
}

// A handshake that fails before the bastion has the grant says so, lets another grant command take the session's place, and makes the next
// attempt wait for the answer. Once there is an answer, it decides.
func TestBeforeGrant(t *testing.T) {
	x := &admission{access: testAccess(t, Settings{}), bastion: bastions.Bastion{TaskID: "1"}}
	p := &push{again: make(chan struct{}, 1), done: make(chan struct{})}
	for range 2 { // a signal that nobody has taken is enough
		if err := x.beforeGrant(p); !isTransient(err) || !strings.Contains(err.Error(), "hand a key to bastion 1") {
			t.Errorf("%v", err)
		}
	}
	if len(p.again) != 1 || !x.hasty.Load() {
		t.Errorf("%d signals, hasty %v", len(p.again), x.hasty.Load())
	}
	x.hasty.Store(false)
	close(p.done)
	if err := x.beforeGrant(p); err != nil || x.hasty.Load() {
		t.Errorf("after the answer: %v, hasty %v", err, x.hasty.Load())
	}
}

// A push's end is known only once its answer has come and is no refusal.
func TestPush(t *testing.T) {
	until := time.Now().Add(time.Hour)
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(enough)
	open := &push{done: make(chan struct{}), until: until}
	if open.answered() || !open.notAfter().IsZero() || !errors.Is(open.wait(ctx), enough) {
		t.Error("an answer that has not come")
	}
	refused := answered(until, io.EOF)
	if refused.answered() || !refused.notAfter().IsZero() || !errors.Is(refused.wait(t.Context()), io.EOF) {
		t.Error("a refusal")
	}
	if p := answered(until, nil); !p.answered() || !p.notAfter().Equal(until) || p.wait(t.Context()) != nil {
		t.Error("an answer")
	}
}

// While no grant is known to be granted, the client's key is not offered: bastiond waits for a grant only briefly. Whatever ends
// the wait, the signers come.
func TestSignersWaitForTheCommand(t *testing.T) {
	for name, end := range map[string]func(*push, *fakeBond){
		"the command runs":     func(p *push, _ *fakeBond) { close(p.started) },
		"the answer has come":  func(p *push, _ *fakeBond) { close(p.done) },
		"the session has gone": func(_ *push, conn *fakeBond) { close(conn.done) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &push{err: errors.New("the test is over"), started: make(chan struct{}), done: make(chan struct{})}
				x := &admission{access: testAccess(t, Settings{}), push: p, contradicted: func(error) {}}
				conn := &fakeBond{Conn: &nopConn{}, done: make(chan struct{})}
				o := &opened{conn: conn, signers: func() ([]ssh.Signer, error) { return nil, nil }}
				x.provisional(o, p)
				came := make(chan struct{})
				go func() {
					defer close(came)
					_, _ = o.signers()
				}()
				synctest.Wait()
				select {
				case <-came:
					t.Error("the key is offered too early")
				default:
				}
				end(p, conn)
				<-came
				x.access.cancel()
				select {
				case <-p.done:
				default:
					close(p.done)
				}
			})
		})
	}
}
