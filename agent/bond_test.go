package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
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

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/private"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/sessions"
	"github.com/bastion-ssm/bastion/sessions/bond"
	"github.com/bastion-ssm/bastion/tunnel"
)

func TestWakeDetector(t *testing.T) {
	const tick = wakeCheck
	for _, tt := range []struct {
		name       string
		mono, wall time.Duration // since the last observation
		network    uint64
		want       string
	}{
		{"all well", tick, tick, 7, ""},
		{"a loaded machine", tick + 8*time.Second, tick + 8*time.Second, 7, ""},
		{"slept", tick, 10 * time.Minute, 7, "the machine has slept"},
		{"slept for moments", tick, tick + 9*time.Second, 7, ""},
		{"stopped", 30 * time.Second, 30 * time.Second, 7, "the process was stopped"},
		{"the wall clock was set back", tick, -time.Hour, 7, ""},
		{"another network", tick, tick, 8, "the network has changed"},
		{"the network is not known", tick, tick, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var d wakeDetector
			wall := time.Unix(1e9, 0)
			if got := d.observe(time.Minute, wall, 7); got != "" {
				t.Errorf("the first observation: %q", got)
			}
			if got := d.observe(time.Minute+tt.mono, wall.Add(tt.wall), tt.network); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	var d wakeDetector
	d.observe(0, time.Unix(0, 0), 7)
	d.observe(tick, time.Unix(5, 0), 0)
	if got := d.observe(2*tick, time.Unix(10, 0), 8); got != "the network has changed" {
		t.Errorf("after a time without knowledge: %q", got)
	}
	first, second := networkHash(), networkHash()
	if first != second || first == 0 {
		t.Errorf("the addresses have no stable hash: %x, %x", first, second)
	}
}

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
		a := testAgent(t, Settings{Linger: 30 * time.Minute})
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

// Why there is no path is told when it becomes known and when it changes, not with each attempt, and not too often.
func TestTendTellsWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := testAgent(t, Settings{Linger: 30 * time.Minute})
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

// Whoever waits for a path of a bond that has ended gives the link time to notice, in place of asking again at once and without end.
func TestAwaitPathOfEndedBond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := testAgent(t, Settings{ConnectTimeout: 30 * time.Second})
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
				a := testAgent(t, Settings{ConnectTimeout: 30 * time.Second})
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
	rates := all.rates(b)
	if f := rates[0]; f.up != 100 || f.down != 0 {
		t.Errorf("%+v", f)
	}
	if f := rates[1]; f.up != 25 || f.down != 250 {
		t.Errorf("%+v", f)
	}
	all.remove(b)
	if all.rates(b) != nil {
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
		a := testAgent(t, Settings{})
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

// Credentials that say nothing of their end are looked at now and then, and when the machine wakes.
func TestCredentialsAreLookedAtOnWaking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := testAgent(t, Settings{})
		var key atomic.Value
		key.Store("AKIA0")
		a.credentials = provider(func() (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: key.Load().(string)}, nil
		})
		b := &fakeBond{}
		a.bonds.add(b, "AKIA0", "")
		wakes := make(chan struct{}, 1)
		a.tasks.Go(func() { a.watchCredentials(wakes) })
		<-time.After(90 * time.Second)
		key.Store("AKIA1")
		synctest.Wait()
		if b.rotated != 0 {
			t.Error("looked at all the time")
		}
		wakes <- struct{}{}
		synctest.Wait()
		if b.rotated != 1 {
			t.Error("not looked at on waking")
		}
		key.Store("AKIA2")
		<-time.After(credentialsCheck)
		synctest.Wait()
		if b.rotated != 2 {
			t.Error("not looked at now and then")
		}
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
		{&goneError{errors.New("stopped"), cutOff}, bond.FailedFatal},
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

// What the bond met is in the link's state, for programs and in words.
func TestLiveBond(t *testing.T) {
	for want, st := range map[string]bond.Stats{
		"":                {},
		"bond: version 1": {Version: 1},
		"bond: version 2, 1 session ended because its":  {Version: 2, Damaged: 1},
		"bond: version 2, 3 sessions ended because the": {Version: 2, Damaged: 3},
	} {
		var l report.Live
		addBond(&l, st, nil)
		if got := l.Bond(); !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("%q, want %q", got, want)
		}
		text, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(text), `"damaged_sessions":`); got != (st.Damaged > 0) {
			t.Errorf("%s", text)
		}
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
		x := &access{agent: testAgent(t, Settings{}), plain: new(atomic.Bool)}
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
	links  []report.Live
	probed int
}

func (f *fakeLive) live() []report.Live { return f.links }
func (f *fakeLive) probe()              { f.probed++ }

// shortDir returns a directory whose path leaves room for a socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "b")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestProcesses(t *testing.T) {
	dir := shortDir(t)
	s := Settings{RuntimeDir: dir}
	if got, err := Processes(t.Context(), s); err != nil || len(got) != 0 {
		t.Errorf("without any: %v, %v", got, err)
	}
	a := &Agent{settings: s, region: "eu-central-1", log: testAgent(t, s).log, options: Options{Command: "forward", Version: "1"}}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	b := &fakeBond{stats: bond.Stats{
		Sent: 10, Received: 20, Reinjected: 3, Pathless: time.Now(),
		Subflows: []bond.SubflowStats{{ID: 1, Name: "lab-1", State: bond.Stalled, Age: time.Minute, RTT: 42 * time.Millisecond, InFlight: 5}},
	}}
	l := &report.Live{Bastion: "bastion 1", State: string(tunnel.Up), Kind: "single", Channels: 2, Sessions: []report.LiveSession{}}
	addBond(l, b.Stats(), map[uint32]flowRate{1: {up: 7, down: 8}})
	a.credentials = provider(func() (aws.Credentials, error) { return aws.Credentials{}, nil })
	shown := &fakeLive{links: []report.Live{*l}}
	hide := a.showLive(shown)
	hideOther := a.showLive(&fakeLive{links: []report.Live{{Bastion: "bastion 0", Sessions: []report.LiveSession{}}}})

	got, err := Processes(t.Context(), s)
	if err != nil || len(got) != 1 || len(got[0].Links) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	if got[0].PID != os.Getpid() || got[0].Command != "forward" || got[0].Region != "eu-central-1" || got[0].V != liveVersion {
		t.Errorf("%+v", got[0])
	}
	link := got[0].Links[1]
	if link.Bastion != "bastion 1" || link.State != "waiting" || link.Kind != "bond" || link.Pathless == nil ||
		link.Reinjected != 3 || len(link.Sessions) != 1 || len(link.Lacks) != 0 {
		t.Errorf("%+v", link)
	}
	if f := link.Sessions[0]; f.ID != "lab-1" || f.State != "stalled" || f.Age != 60 || f.RTT != 42 || f.InFlight != 5 ||
		f.SendRate != 7 || f.ReceiveRate != 8 {
		t.Errorf("%+v", f)
	}
	hideOther()
	if got, _ := Processes(t.Context(), s); len(got) != 1 || len(got[0].Links) != 1 {
		t.Errorf("after one has gone: %+v", got)
	}

	// It is for reading, and for this user.
	socket := filepath.Join(dir, liveDir, fmt.Sprint(os.Getpid())+private.Suffix)
	if runtime.GOOS != "windows" {
		for path, want := range map[string]os.FileMode{socket: 0o600, filepath.Dir(socket): 0o700} {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
				t.Errorf("%s: %v, %v", path, info.Mode(), err)
			}
		}
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return private.DialSocket(socket) },
	}}
	for _, tt := range []struct {
		method, path string
		want         int
	}{
		{http.MethodGet, "/v1/links", http.StatusOK},
		{http.MethodPost, "/v1/links", http.StatusMethodNotAllowed},
		{http.MethodGet, "/v1/", http.StatusNotFound},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://bastion"+tt.path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != tt.want {
			t.Errorf("%s %s: %s", tt.method, tt.path, resp.Status)
		}
		_ = resp.Body.Close()
	}

	// A socket whose process was killed is removed; one that answers something else is left alone and not shown.
	stale := filepath.Join(dir, liveDir, "1.sock")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	_ = ln.Close()
	odd, err := net.Listen("unix", filepath.Join(dir, liveDir, "2.sock"))
	if err != nil {
		t.Fatal(err)
	}
	newer := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(report.Process{V: liveVersion + 1})
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = newer.Serve(odd) })
	if got, err := Processes(t.Context(), s); err != nil || len(got) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := os.Stat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the stale socket: %v", err)
	}
	if _, err := os.Stat(odd.Addr().String()); err != nil {
		t.Errorf("the other process's socket: %v", err)
	}
	_ = newer.Close()
	serving.Wait()

	a.probe()
	hide()
	a.probe()
	if shown.probed != 1 {
		t.Errorf("probed %d times, want once", shown.probed)
	}
	a.Close()
	if left, err := filepath.Glob(filepath.Join(dir, liveDir, "*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
