package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/smithy-go"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/sessions"
	"github.com/bastion-ssm/bastion/sessions/bond"
)

// fakeBond is a bond whose figures the test sets.
type fakeBond struct {
	net.Conn
	done chan struct{}

	mu      sync.Mutex
	stats   bond.Stats
	rotated int
	probed  int
	lent    int
	back    []bool
	far     []bond.FarEnd
}

func (f *fakeBond) Done() <-chan struct{} { return f.done }
func (f *fakeBond) Err() error            { return nil }

func (f *fakeBond) Stats() bond.Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats
}

func (f *fakeBond) Rotate() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rotated++
}

func (f *fakeBond) Probe() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.probed++
}

func (f *fakeBond) FarEnd(far bond.FarEnd) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.far = append(f.far, far)
}

func (f *fakeBond) Lend() func(bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lent++
	return func(kept bool) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.back = append(f.back, kept)
	}
}

func (f *fakeBond) pathless(t time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stats.Pathless = t
}

func (f *fakeBond) trouble(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stats.Trouble = bond.Trouble{Err: err, At: time.Now()}
}

func TestTendTellsOfPaths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := testAccess(t, Settings{Link: config.Link{Linger: 30 * time.Minute}})
		var told []report.Path
		a.options.Path = func(p report.Path) { told = append(told, p) }
		b := &fakeBond{done: make(chan struct{})}
		var wg sync.WaitGroup
		wg.Go(func() { a.tend(b) })
		<-time.After(1500 * time.Millisecond)
		// Gone and back between two looks: no news.
		b.pathless(time.Now())
		<-time.After(100 * time.Millisecond)
		b.pathless(time.Time{})
		<-time.After(3 * time.Second)
		lost := time.Now()
		b.pathless(lost)
		<-time.After(12 * time.Second)
		b.pathless(time.Time{})
		<-time.After(2 * time.Second)
		b.pathless(time.Now())
		<-time.After(2 * time.Second)
		close(b.done)
		wg.Wait()
		if len(told) != 3 || told[0] != (report.Path{Lost: true, Since: lost, Linger: 30 * time.Minute}) ||
			told[1] != (report.Path{Since: lost, Linger: 30 * time.Minute}) ||
			!told[2].Lost {
			t.Errorf("told %+v", told)
		}
	})
}

// The reason for a missing path is reported when it becomes known and when it changes, not with each attempt, and not too often.
func TestTendTellsWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := testAccess(t, Settings{Link: config.Link{Linger: 30 * time.Minute}})
		var log strings.Builder
		a.log = slog.New(slog.NewTextHandler(&log, nil))
		var told []string
		a.options.Path = func(p report.Path) { told = append(told, fmt.Sprintf("%t %s|%s", p.Lost, p.Reason, p.Next)) }
		b := &fakeBond{done: make(chan struct{})}
		var wg sync.WaitGroup
		wg.Go(func() { a.tend(b) })
		lost := time.Now()
		b.pathless(lost)
		<-time.After(1500 * time.Millisecond)
		for range 20 {
			b.trouble(fail.New(fail.Denied, "", errors.New("not authorized"), "ask for it"))
			<-time.After(time.Second)
		}
		for i := range 20 {
			b.trouble(fmt.Errorf("reset by peer %d", i))
			<-time.After(time.Second)
		}
		b.pathless(time.Time{})
		b.trouble(nil)
		<-time.After(2 * time.Second)
		close(b.done)
		wg.Wait()
		want := []string{"true |", "true not authorized|ask for it", "true reset by peer 0|", "true reset by peer 10|", "false |"}
		if !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
		if n := strings.Count(log.String(), "not authorized"); n != 1 {
			t.Errorf("the log has the reason %d times:\n%s", n, log.String())
		}
	})
}

func TestBondsProbe(t *testing.T) {
	var all bonds
	one, two := &fakeBond{}, &fakeBond{}
	all.add(one, "", "")
	all.add(two, "", "")
	all.probe()
	all.remove(two)
	all.probe()
	if one.probed != 2 || two.probed != 1 {
		t.Errorf("probed %d and %d times", one.probed, two.probed)
	}
}

// The rates that are shown are what a subflow carries, not what it could.
func TestBondsMeasure(t *testing.T) {
	var all bonds
	b := &fakeBond{}
	now := time.Now()
	all.measure(b, bond.Stats{}, now) // not one of them
	all.add(b, "", "")
	flow := func(id uint32, sent, received uint64) bond.SubflowStats {
		return bond.SubflowStats{ID: id, Sent: sent, Received: received, SendRate: 1e9}
	}
	all.all[b].measured = now
	all.measure(b, bond.Stats{Subflows: []bond.SubflowStats{flow(0, 100, 10)}}, now.Add(time.Second))
	all.measure(b, bond.Stats{Subflows: []bond.SubflowStats{flow(0, 300, 10), flow(1, 50, 500)}}, now.Add(3*time.Second))
	rates := all.of(b).flows
	if f := rates[0]; f.up != 100 || f.down != 0 {
		t.Errorf("%+v", f)
	}
	if f := rates[1]; f.up != 25 || f.down != 250 {
		t.Errorf("%+v", f)
	}
	all.remove(b)
	if all.of(b).flows != nil {
		t.Error("rates of a bond that has ended")
	}
}

// provider gives credentials as an AWS provider does.
type provider func() (aws.Credentials, error)

func (p provider) Retrieve(context.Context) (aws.Credentials, error) { return p() }

// Credentials that are replaced make the bonds replace their sessions, each once, and soon after the old ones expire.
func TestBondsFollowTheCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		a := testAccess(t, Settings{})
		lifetime := 90 * time.Second
		a.credentials = provider(func() (aws.Credentials, error) {
			n := int(time.Since(began) / lifetime)
			if n == 3 {
				return aws.Credentials{}, errors.New("signed out")
			}
			return aws.Credentials{
				AccessKeyID: fmt.Sprint("ASIA", n), CanExpire: true, Expires: began.Add(time.Duration(n+1) * lifetime),
			}, nil
		})
		wakes := make(chan struct{}, 1)
		old, fresh := &fakeBond{}, &fakeBond{}
		a.bonds.add(old, "ASIA0", "")
		a.bonds.add(fresh, "ASIA1", "")
		a.tasks.Go(func() { a.watchCredentials(wakes) })
		check := func(wantOld, wantFresh int) {
			t.Helper()
			synctest.Wait()
			old.mu.Lock()
			defer old.mu.Unlock()
			fresh.mu.Lock()
			defer fresh.mu.Unlock()
			if old.rotated != wantOld || fresh.rotated != wantFresh {
				t.Errorf("after %v: rotated %d and %d times, want %d and %d",
					time.Since(began), old.rotated, fresh.rotated, wantOld, wantFresh)
			}
		}
		check(0, 1) // it has another key than the present one
		<-time.After(89 * time.Second)
		check(0, 1)
		<-time.After(3 * time.Second)
		check(1, 2)
		<-time.After(90 * time.Second)
		check(2, 3)
		a.bonds.remove(old)
		// Signed out from 270 s to 360 s: that is waited for.
		<-time.After(90 * time.Second)
		check(2, 3)
		<-time.After(140 * time.Second)
		check(2, 4)
	})
}

// What an opener meets, and what the bond makes of it.
func TestJudge(t *testing.T) {
	api := func(code, message string) error {
		return fail.AWS(fail.Start, "open port 1 of x", "ssm:StartSession",
			fmt.Errorf("call: %w", &smithy.GenericAPIError{Code: code, Message: message}))
	}
	for _, tt := range []struct {
		err  error
		want bond.Failure
	}{
		{api("ThrottlingException", ""), bond.FailedThrottled},
		{api("TooManyRequestsException", ""), bond.FailedThrottled},
		{api("TooManyRequests", ""), bond.FailedThrottled},
		{api("RateExceeded", ""), bond.FailedThrottled},
		{api("RequestLimitExceeded", ""), bond.FailedThrottled},
		{api("ClientException", "Rate exceeded"), bond.FailedThrottled},
		{api("ClientException", "the maximum session limit of 2 has been reached."), bond.FailedLimit},
		{api("ServiceQuotaExceededException", "Too many sessions are active."), bond.FailedLimit},
		{fmt.Errorf("open: %w", &sessions.ClosedError{Output: "CommandBufferFull"}), bond.FailedLimit},
		{fmt.Errorf("open: %w", &sessions.ClosedError{Output: "Session timed out"}), bond.FailedOther},
		{fmt.Errorf("open: %w within 15s", sessions.ErrUnanswered), bond.FailedUnanswered},
		{fmt.Errorf("open: %w in 3 sessions", sessions.ErrSilent), bond.FailedOther},
		{api("InternalServerError", ""), bond.FailedOther},
		{api("UnknownError", ""), bond.FailedOther}, // a captive portal's page
		{api("ExpiredTokenException", ""), bond.FailedRefused},
		{api("AccessDeniedException", ""), bond.FailedRefused},
		{api("ValidationException", ""), bond.FailedRefused},
		{&ssmtypes.TargetNotConnected{}, bond.FailedOther},
		{errors.New("no network"), bond.FailedOther},
		{&goneError{errors.New("stopped"), cutOff, false}, bond.FailedFatal},
	} {
		if got := judge(tt.err); got != tt.want {
			t.Errorf("%v: %v, want %v", tt.err, got, tt.want)
		}
	}
}

// A place is taken from the bond that has the most sessions to the same target.
func TestBondsLend(t *testing.T) {
	var all bonds
	if all.lend("ecs:a") != nil {
		t.Error("lent by nobody")
	}
	other, small, large := &fakeBond{}, &fakeBond{}, &fakeBond{}
	other.stats.Subflows = make([]bond.SubflowStats, 9)
	small.stats.Subflows = make([]bond.SubflowStats, 1)
	large.stats.Subflows = make([]bond.SubflowStats, 2)
	all.add(other, "", "ecs:b")
	all.add(small, "", "ecs:a")
	all.add(large, "", "ecs:a")
	all.lend("ecs:a")(true)
	if other.lent != 0 || small.lent != 0 || !slices.Equal(large.back, []bool{true}) {
		t.Errorf("lent %d, %d and %d, back %v", other.lent, small.lent, large.lent, large.back)
	}
}

// Only an error that says something about the task is a reason to ask ECS, and not all the time.
func TestOpenerAsksNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &opener{}
		plain := errors.New("not connected")
		throttled := &smithy.GenericAPIError{Code: "ThrottlingException"}
		expired := fail.AWS(fail.Start, "", "", &smithy.GenericAPIError{Code: "ExpiredTokenException"})
		if o.due(throttled) || o.due(expired) {
			t.Error("asked because of an error that says nothing")
		}
		if !o.due(plain) || o.due(plain) {
			t.Error("want one question")
		}
		<-time.After(goneCheck)
		if !o.due(plain) {
			t.Error("not asked again")
		}
	})
}

func TestRefusedBondIsNotTriedAgain(t *testing.T) {
	for code, want := range map[bond.RefuseCode]bool{
		bond.RefuseConns: true, bond.RefuseMemory: true, bond.RefuseVersion: true, bond.RefuseMalformed: true,
		bond.RefuseUnknown: false, bond.RefuseDraining: false, bond.RefuseClosed: false,
	} {
		x := &admission{access: testAccess(t, Settings{}), plain: new(atomic.Bool)}
		x.learn(fmt.Errorf("bond: %w", &bond.RefusedError{Code: code}))
		if got := x.plain.Load(); got != want {
			t.Errorf("code %d: plain %v, want %v", code, got, want)
		}
		x.learn(nil)
		x.learn(net.ErrClosed)
		if got := x.plain.Load(); got != want {
			t.Errorf("code %d: plain %v afterwards", code, got)
		}
	}
}

// fakeLive shows what it holds, and counts the probes.
type fakeLive struct {
	links  []report.Link
	probed int
}

func (f *fakeLive) live() []report.Link { return f.links }
func (f *fakeLive) probe()              { f.probed++ }

// nopConn is a connection that closes.
type nopConn struct{ net.Conn }

func (*nopConn) Close() error { return nil }
