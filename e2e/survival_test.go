//go:build linux

package e2e

import (
	"context"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/gateway"
	"github.com/bastion-ssm/bastion/lab/vpc"
)

// The line of the survival tests: every session has a rate of its own, so that more of them carry more.
var survivalLine = gateway.Faults{RateBps: 400_000, PumpChunk: 8 << 10}

const (
	survivalSize  = 8 << 20          // of one transfer, each way
	survivalLimit = 90 * time.Second // for the running work to end after the disturbance
)

// A psql and a transfer in both directions share one SSH connection over several sessions, and must not notice the sessions'
// failures. Every byte arrives over that SSH connection, and psql keeps its connection and its transaction. All resources are
// released in the end.
func TestSurvival(t *testing.T) {
	psql := rig.Need(t, "psql")
	db := startDatabase(t)
	for _, test := range []struct {
		name     string
		lifetime time.Duration // of the user's credentials
		disturb  func(*survivor)
	}{
		{"random cuts for a minute", time.Hour, (*survivor).randomCuts},
		{"thirty seconds asleep", time.Hour, (*survivor).asleep},
		{"credentials renewed", 15 * time.Second, (*survivor).credentials},
		{"every session cut at once", time.Hour, (*survivor).allCut},
		{"no resume", time.Hour, (*survivor).noResume},
		{"bad gateway", time.Hour, (*survivor).badGateway},
		{"sessions ended", time.Hour, (*survivor).sessionsEnded},
		{"ports reset", time.Hour, (*survivor).portsReset},
		{"throttled", time.Hour, (*survivor).throttled},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newSurvivor(t, psql, db, test.lifetime)
			test.disturb(s)
			s.end()
		})
	}
}

// Every session's websocket is lost at the same moment, in all the ways that there are, five times.
func (s *survivor) allCut() {
	s.grow(4)
	for i := range 5 {
		s.progress(4 << 20)
		if n := s.Gateway().Cut("", []string{"close", "reset"}[i%2]); n < 3 {
			s.t.Errorf("%d websockets were there to cut", n)
		}
	}
	s.progress(4 << 20)
}

// Some sessions lose their websockets every second.
func (s *survivor) randomCuts() {
	s.grow(2)
	rng := rand.New(rand.NewPCG(7, 7))
	cuts := 0
	for range 60 {
		s.pass(time.Second)
		cuts += s.cutSome(rng)
	}
	s.t.Logf("%d cuts", cuts)
	if cuts < 60 {
		s.t.Errorf("%d cuts in 60 seconds", cuts)
	}
	s.progress(4 << 20)
}

// A websocket that is lost is a session lost: the service refuses to resume any.
func (s *survivor) noResume() {
	s.grow(4)
	s.apiFaults(lab.APIFaults{ResumeDenied: -1})
	resumes := s.Gateway().Counters().Resumes // of growth: none
	rng := rand.New(rand.NewPCG(8, 8))
	for range 8 {
		s.pass(time.Second)
		s.cutSome(rng)
	}
	for range 3 {
		s.progress(2 << 20)
		s.Gateway().Cut("", "reset")
	}
	s.progress(4 << 20)
	if n := s.Gateway().Counters().Resumes; n != resumes {
		s.t.Errorf("%d sessions were resumed", n-resumes)
	}
}

// The gateway loses, doubles and swaps messages, and again and again lets nothing through for some seconds.
func (s *survivor) badGateway() {
	s.grow(2)
	bad := survivalLine
	bad.Drop, bad.Duplicate, bad.Reorder, bad.Seed = 0.01, 0.02, 0.05, 9
	for _, pause := range []time.Duration{time.Second, 3 * time.Second, 6 * time.Second} {
		s.faults(bad)
		s.progress(2 << 20)
		bad.Pause = true
		s.faults(bad)
		s.pass(pause)
		bad.Pause = false
		bad.Seed++
	}
	s.faults(bad)
	s.progress(2 << 20)
	s.faults(survivalLine)
}

// A tool renews the user's credentials in time. Then they expire, with all websockets lost, before the user has signed in again.
func (s *survivor) credentials() {
	s.grow(2)
	old := s.ports()
	const lifetime = 35 * time.Second
	s.login(lifetime)
	renewed := time.Now()
	// The sessions of the old credentials cannot be resumed any more: they are replaced before they are lost.
	s.within(lifetime, "the sessions are replaced after the renewal", func() bool {
		now := s.ports()
		return len(now) > 0 && !slices.ContainsFunc(now, func(i gateway.Info) bool { return isIn(old, i) })
	})
	s.t.Logf("replaced after %v", time.Since(renewed).Round(time.Millisecond))
	s.progress(2 << 20)

	s.pass(time.Until(renewed.Add(lifetime + time.Second)))
	s.Gateway().Cut("", "reset")
	s.pass(4 * time.Second)
	s.login(time.Hour)
	again := time.Now()
	s.progress(1)
	s.t.Logf("back %v after signing in again", time.Since(again).Round(time.Millisecond))
	s.progress(4 << 20)
}

// login renews the user's credentials, which the bastion command gets from a credential_process.
func (w *world) login(lifetime time.Duration) (env []string) {
	w.t.Helper()
	env, err := w.AddIdentity(survivorName, lab.IdentityConfig{Expires: time.Now().Add(lifetime), Process: true})
	if err != nil {
		w.t.Fatal(err)
	}
	return env
}

// The program is stopped as a whole, as it is while a laptop sleeps, and goes on.
func (s *survivor) asleep() {
	s.grow(2)
	if err := s.forwarder.Signal(syscall.SIGSTOP); err != nil {
		s.t.Fatal(err)
	}
	s.pass(30 * time.Second)
	if err := s.forwarder.Signal(syscall.SIGCONT); err != nil {
		s.t.Fatal(err)
	}
	s.progress(4 << 20)
}

// The service ends one session after the other, the oldest first, and then all at once.
func (s *survivor) sessionsEnded() {
	s.grow(4)
	s.endEach(func(id string) {
		if err := s.Gateway().Terminate(id); err != nil {
			s.t.Error(err)
		}
	})
}

// The agent in the task loses the sessions' connections to bastiond.
func (s *survivor) portsReset() {
	s.grow(4)
	s.endEach(func(id string) { s.Gateway().ResetPort(id) })
}

func (s *survivor) endEach(end func(id string)) {
	for range 15 {
		s.pass(500 * time.Millisecond)
		if ports := s.ports(); len(ports) > 0 {
			end(ports[0].ID)
		}
	}
	for range 2 {
		s.progress(2 << 20)
		for _, i := range s.ports() {
			end(i.ID)
		}
	}
	s.progress(4 << 20)
}

// The account's rate of StartSession is used up while the link wants more sessions, and while it has lost all. Its attempts
// are few, and it recovers.
func (s *survivor) throttled() {
	s.apiFaults(lab.APIFaults{Throttle: map[string]int{"ssm:StartSession": -1}})
	before := s.Calls()["ssm:StartSession"]
	const wait = 15
	s.pass(wait * time.Second)
	calls := s.Calls()["ssm:StartSession"] - before
	s.t.Logf("%d calls of StartSession in %d s, all throttled", calls, wait)
	if calls < 1 || calls > wait {
		s.t.Errorf("%d calls of StartSession in %d s", calls, wait)
	}
	s.apiFaults(lab.APIFaults{})
	s.grow(4)

	s.apiFaults(lab.APIFaults{Rate: map[string]float64{"ssm:StartSession": 1}})
	before = s.Calls()["ssm:StartSession"]
	start := time.Now()
	for _, i := range s.ports() {
		_ = s.Gateway().Terminate(i.ID) // it may just have ended
	}
	s.progress(4 << 20)
	calls, took := s.Calls()["ssm:StartSession"]-before, time.Since(start)
	s.t.Logf("%d calls of StartSession in %v, one a second served", calls, took.Round(time.Millisecond))
	if limit := 10 + 3*int(took.Seconds()); calls > limit {
		s.t.Errorf("%d calls of StartSession in %v", calls, took)
	}
	s.apiFaults(lab.APIFaults{})
}

// survivorName is the user of the survival tests: a role's session, whose credentials end.
const survivorName = "sso"

// survivor is a forward with a psql and transfers in it.
type survivor struct {
	*world
	ctx       context.Context // bounds the whole test
	task      lab.Task
	forwarder *rig.Proc
	transfers *rig.Transfers
	witness   *rig.Witness // nil: none
}

// startDatabase starts a PostgreSQL for all the tests.
func startDatabase(t *testing.T) string {
	t.Helper()
	db, err := vpc.StartPostgres(t.Context(), vpc.PostgresConfig{
		Mode: vpc.Real, User: "app", Password: "lab", Database: "orders",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db.Addr().String()
}

// newSurvivor begins with credentials that end after lifetime.
func newSurvivor(t *testing.T, psql, db string, lifetime time.Duration) *survivor {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	w := newWorld(t, func(c *lab.Config) { c.Allow = append(c.Allow, db) })
	w.env = append(w.env, w.login(time.Hour)...)
	w.faults(survivalLine)
	s := &survivor{world: w, ctx: ctx, task: w.up()}
	s.login(lifetime)
	var addrs []string
	s.forwarder, addrs = w.forward(w.far.Addr(), ":", db, ":")
	q, err := rig.StartPSQL(psql, addrs[1], "app", "lab", "orders")
	if err != nil {
		t.Fatal(err)
	}
	if s.witness, err = rig.StartWitness(ctx, q); err != nil {
		t.Fatalf("%v\n%s", err, s.forwarder.Output())
	}
	t.Cleanup(func() { _, _, _ = s.witness.Stop(0) }) // if the test has not come that far
	s.transfers = rig.StartTransfers(ctx, addrs[0], survivalSize)
	t.Cleanup(func() { _, _ = s.transfers.Stop(0) })
	return s
}

// end lets everything come to its end and looks whether any of it has noticed something.
func (s *survivor) end() {
	s.t.Helper()
	transfers, err := s.transfers.Stop(survivalLimit)
	if err != nil {
		s.t.Errorf("transfer %d: %v", transfers+1, err)
	}
	statements, slowest, err := s.witness.Stop(survivalLimit)
	if err != nil {
		s.t.Errorf("psql, at statement %d: %v", statements, err)
	}
	c := s.Gateway().Counters()
	s.t.Logf("%d transfers, %d statements (the slowest took %v), %d sessions, %d resumes",
		transfers, statements, slowest.Round(time.Millisecond), c.Started, c.Resumes)
	if n := len(s.audit(s.task, "auth")); n != 1 {
		s.t.Errorf("%d SSH connections were made, want 1", n)
	}
	s.interrupt(s.forwarder)
	if s.forwarder.Alive() {
		s.t.Error("a process is left behind")
	}
	if s.t.Failed() {
		s.t.Logf("bastion says:\n%s", s.forwarder.Output())
	}
}

// ports are the link's sessions, oldest first.
func (s *survivor) ports() []gateway.Info {
	return slices.DeleteFunc(s.Gateway().Sessions(), func(i gateway.Info) bool { return i.Port == 0 })
}

func isIn(list []gateway.Info, one gateway.Info) bool {
	return slices.ContainsFunc(list, func(i gateway.Info) bool { return i.ID == one.ID })
}

// grow waits until the link has n sessions with a websocket.
func (s *survivor) grow(n int) {
	s.t.Helper()
	s.within(40*time.Second, "the link grows", func() bool {
		connected := slices.DeleteFunc(s.ports(), func(i gateway.Info) bool { return !i.Connected })
		return len(connected) >= n
	})
}

// progress waits until the transfers have come n bytes further.
func (s *survivor) progress(n int64) {
	s.t.Helper()
	from := s.transfers.Moved()
	s.within(survivalLimit, "the transfer goes on", func() bool { return s.transfers.Moved() >= from+n })
}

// cutSome cuts one or several websockets.
func (s *survivor) cutSome(rng *rand.Rand) (cut int) {
	ports := s.ports()
	rng.Shuffle(len(ports), func(i, j int) { ports[i], ports[j] = ports[j], ports[i] })
	for _, i := range ports[:min(len(ports), 1+rng.IntN(3))] {
		cut += s.Gateway().Cut(i.ID, []string{"close", "reset"}[rng.IntN(2)])
	}
	return cut
}

func (s *survivor) apiFaults(f lab.APIFaults) {
	s.t.Helper()
	if err := s.SetAPIFaults(f); err != nil {
		s.t.Fatal(err)
	}
}

// pass lets time pass.
func (s *survivor) pass(d time.Duration) {
	s.t.Helper()
	begin := time.Now()
	s.within(d+time.Minute, "time passes", func() bool { return time.Since(begin) >= d })
}

// within waits until ok holds. A transfer or a psql that fails ends the wait and the test.
func (s *survivor) within(limit time.Duration, what string, ok func() bool) {
	s.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(limit)
	var noticed <-chan struct{}
	if s.witness != nil {
		noticed = s.witness.Done()
	}
	for !ok() {
		select {
		case <-tick.C:
		case <-s.transfers.Done():
			_, err := s.transfers.Stop(0)
			s.t.Fatalf("the transfer has failed before %s: %v\n%s", what, err, s.forwarder.Output())
		case <-noticed:
			_, _, err := s.witness.Stop(0)
			s.t.Fatalf("psql has failed before %s: %v\n%s", what, err, s.forwarder.Output())
		case <-s.ctx.Done():
			s.t.Fatalf("out of time before %s", what)
		case <-late:
			s.t.Fatalf("not within %v: %s\nsessions: %+v\n%s", limit, what, s.Gateway().Sessions(), s.forwarder.Output())
		}
	}
}
