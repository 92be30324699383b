package bond

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// world is the policy's environment in virtual time: subflows with a rate each, opens that take time and may fail, and an
// application that wants data now and then.
type world struct {
	t   *testing.T
	now time.Time
	p   *policy

	rate      func(usable int) float64            // goodput, bytes per second
	upward    func(usable int) float64            // of the other direction; nil: nothing goes there
	openTakes time.Duration                       //
	refuse    func(n int) (how Failure, bad bool) // whether the nth open fails; nil: none does
	demand    bool                                // the application is limited by the subflows
	trickle   bool                                // it sends a little every second

	subs    []*simSubflow
	opens   []simOpen
	nextID  uint32
	v       view
	counter float64
	up      float64 // as counter, of the other direction
	changed bool
	next    time.Time // when the policy wants to look again
	linger  time.Duration
	check   policyCheck
	refused time.Time // when an open was last FailedRefused

	began  []time.Time // opens
	left   []time.Time
	drops  int
	looks  int
	over   bool // the policy has ended the connection
	most   int  // subflows at any time
	least  int  // usable subflows at any time, since reset
	atonce int  // opens at the same time
}

type simSubflow struct {
	subflowView
	gone time.Time // of a leaving one
}

type simOpen struct {
	id           uint32
	attempt      attemptID
	begun, ready time.Time
}

const (
	mb      = 1e6
	instant = 10 * time.Millisecond
)

var epoch = time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)

func newWorld(t *testing.T, maximum int) *world {
	w := &world{
		t: t, now: epoch, linger: 30 * time.Minute,
		rate:      func(n int) float64 { return 0.8 * mb * float64(n) },
		openTakes: 200 * time.Millisecond,
	}
	w.p = newPolicy(w.now, maximum, 50*time.Minute, w.linger)
	w.p.setRandom(random(rand.New(rand.NewPCG(1, 2)))) // the same each time
	w.add(0)
	w.nextID, w.least = 1, 1
	return w
}

func random(r *rand.Rand) func(time.Duration) time.Duration {
	return func(d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) }
}

func (w *world) add(id uint32) {
	s := &simSubflow{subflowView: subflowView{id: id, since: w.now, rtt: 40 * time.Millisecond}}
	w.subs = append(w.subs, s)
	w.changed = true
}

func (w *world) usable() int {
	n := 0
	for _, s := range w.subs {
		if !s.stalled && !s.leaving {
			n++
		}
	}
	return n
}

func (w *world) lose(i int) {
	w.subs = slices.Delete(w.subs, i, i+1)
	w.changed = true
}

func (w *world) stall(stalled bool, which ...int) {
	for _, i := range which {
		w.subs[i].stalled = stalled
	}
	w.changed = true
}

func (w *world) begin(demand bool) {
	w.demand = demand
	w.changed = true
}

// run lets time pass, from event to event.
func (w *world) run(d time.Duration) {
	w.t.Helper()
	for end := w.now.Add(d); w.now.Before(end) && !w.over; {
		at := end
		for _, event := range w.events() {
			if event.Before(at) {
				at = event
			}
		}
		if w.changed {
			at = w.now
		}
		w.pass(max(at.Sub(w.now), 0))
		w.happen()
		if w.changed || !w.next.IsZero() && !w.now.Before(w.next) {
			w.changed = false
			w.look()
		}
	}
}

// events returns when something is due.
func (w *world) events() (at []time.Time) {
	for _, o := range w.opens {
		at = append(at, o.ready)
	}
	for _, s := range w.subs {
		if s.leaving {
			at = append(at, s.gone)
		}
	}
	if w.trickle && w.usable() > 0 {
		at = append(at, w.v.lastData.Add(time.Second))
	}
	if !w.next.IsZero() {
		at = append(at, w.next)
	}
	return at
}

// pass lets data flow for so long.
func (w *world) pass(d time.Duration) {
	w.now = w.now.Add(d)
	usable := w.usable()
	switch {
	case usable > 0 && w.demand:
		w.counter += w.rate(usable) * d.Seconds()
		if w.upward != nil {
			w.up += w.upward(usable) * d.Seconds()
			w.v.sent = uint64(w.up)
		}
		w.v.peerWanted, w.v.lastData = w.now, w.now
	case usable > 0 && w.trickle && w.now.Sub(w.v.lastData) >= time.Second:
		w.counter += 100
		w.v.lastData = w.now
	}
	w.v.received = uint64(w.counter)
}

// happen lets opens end and subflows go.
func (w *world) happen() {
	for i := 0; i < len(w.opens); i++ {
		o := w.opens[i]
		if w.now.Before(o.ready) {
			continue
		}
		w.opens = slices.Delete(w.opens, i, i+1)
		i--
		w.changed = true
		if w.refuse != nil {
			if how, bad := w.refuse(len(w.began)); bad {
				if how == FailedRefused {
					w.refused = w.now
				}
				w.p.openFailed(w.now, o.attempt, how, w.usable())
				continue
			}
		}
		w.add(o.id)
		w.p.opened(o.attempt)
	}
	w.subs = slices.DeleteFunc(w.subs, func(s *simSubflow) bool {
		gone := s.leaving && !w.now.Before(s.gone)
		w.changed = w.changed || gone
		return gone
	})
	usable := w.usable()
	w.most, w.least = max(w.most, len(w.subs)), min(w.least, usable)
	switch {
	case usable > 0:
		w.v.pathless = time.Time{}
	case w.v.pathless.IsZero():
		w.v.pathless, w.changed = w.now, true
	}
}

func (w *world) look() {
	w.t.Helper()
	w.v.subflows = nil
	for _, s := range w.subs {
		w.v.subflows = append(w.v.subflows, s.subflowView)
	}
	plan := w.p.look(w.now, w.v)
	w.looks++
	w.check.looked(w.now, w.p, w.v, plan, w.refused)
	if !plan.next.IsZero() && !plan.next.After(w.now) {
		w.t.Fatalf("at %v the policy wants to look again %v ago", w.now.Sub(epoch), w.now.Sub(plan.next))
	}
	w.next = plan.next
	w.over = plan.end
	for _, attempt := range plan.open {
		w.began = append(w.began, w.now)
		w.opens = append(w.opens, simOpen{id: w.nextID, attempt: attempt, begun: w.now, ready: w.now.Add(w.openTakes)})
		w.nextID++
	}
	w.opens = slices.DeleteFunc(w.opens, func(o simOpen) bool { return slices.Contains(plan.abandon, o.attempt) })
	if len(w.opens) != len(w.p.pacing.opening) {
		w.t.Fatalf("%d opens are under way, and the policy knows of %d", len(w.opens), len(w.p.pacing.opening))
	}
	w.atonce = max(w.atonce, len(w.opens))
	for _, id := range plan.leave {
		s := w.byID(id)
		if s.leaving {
			w.t.Fatalf("subflow %d is to leave twice", id)
		}
		s.leaving, s.gone = true, w.now.Add(200*time.Millisecond)
		w.left = append(w.left, w.now)
	}
	for _, id := range plan.drop {
		w.subs = slices.DeleteFunc(w.subs, func(s *simSubflow) bool { return s.id == id })
		w.drops++
		w.changed = true
	}
}

func (w *world) byID(id uint32) *simSubflow {
	w.t.Helper()
	for _, s := range w.subs {
		if s.id == id {
			return s
		}
	}
	w.t.Fatalf("the plan names subflow %d, which is not there", id)
	return nil
}

// within returns how many of these times lie in the last d.
func (w *world) within(d time.Duration, times []time.Time) int {
	n := 0
	for _, t := range times {
		if w.now.Sub(t) < d {
			n++
		}
	}
	return n
}

func (w *world) want(what string, got, low, high int) {
	w.t.Helper()
	if got < low || got > high {
		w.t.Errorf("at %v: %s: %d, want %d to %d", w.now.Sub(epoch), what, got, low, high)
	}
}

func TestPolicyGrows(t *testing.T) {
	for _, tt := range []struct {
		max    int
		within time.Duration
	}{{1, time.Second}, {2, time.Second}, {3, 2 * time.Second}, {8, 2100 * time.Millisecond}, {16, 5 * time.Second}} {
		t.Run(fmt.Sprint(tt.max), func(t *testing.T) {
			w := newWorld(t, tt.max)
			w.begin(true)
			w.run(tt.within)
			w.want("subflows", w.usable(), tt.max, tt.max)
			w.run(time.Minute)
			w.want("subflows at any time", w.most, tt.max, tt.max)
			w.want("opens", len(w.began), tt.max-1, tt.max-1)
			w.want("opens at once", w.atonce, min(tt.max-1, 1), maxOpening)
		})
	}
}

// Behind a shared bottleneck, more subflows gain nothing.
func TestPolicyStopsWhereGrowthDoesNotHelp(t *testing.T) {
	for _, tt := range []struct{ bottleneck, low, high int }{
		{800, 2, 2}, {1000, 2, 2}, {1600, 2, 2}, {3200, 4, 4}, {100_000, 16, 16},
	} {
		t.Run(fmt.Sprint(tt.bottleneck), func(t *testing.T) {
			w := newWorld(t, 16)
			w.rate = func(n int) float64 { return min(0.8*mb*float64(n), float64(tt.bottleneck)*1e3) }
			w.begin(true)
			w.run(25 * time.Second)
			w.want("subflows", w.usable(), tt.low, tt.high)
			w.want("growths in 25 s after the first seconds", w.within(18*time.Second, w.began), 0, 0)
			w.run(time.Hour)
			w.want("opens in an hour, rotation included", len(w.began), tt.low-1, 32)
			w.want("looks in an hour", w.looks, 1, 5000)
		})
	}
}

// The pauses between steps that do not help grow.
func TestPolicyTriesAgain(t *testing.T) {
	w := newWorld(t, 16)
	w.rate = func(int) float64 { return 0.8 * mb }
	w.begin(true)
	w.run(29 * time.Second)
	w.want("opens", len(w.began), 1, 1)
	w.run(8 * time.Second)
	w.want("opens", len(w.began), 3, 3)
	w.want("subflows", w.usable(), 2, 4)
	w.run(50 * time.Second)
	w.want("opens", len(w.began), 3, 3)
	w.want("subflows", w.usable(), 2, 2)
	w.rate = func(n int) float64 { return 0.8 * mb * float64(n) } // the bottleneck has gone
	w.run(20 * time.Second)
	w.want("subflows", w.usable(), 16, 16)
}

func TestPolicyIgnoresShortDemand(t *testing.T) {
	w := newWorld(t, 8)
	for range 20 {
		w.begin(true)
		w.run(50 * time.Millisecond)
		w.begin(false)
		w.run(20 * time.Second)
	}
	w.want("opens, of which one is the spare", len(w.began), 1, 1)
}

func TestPolicyKeepsASpare(t *testing.T) {
	w := newWorld(t, 8)
	w.run(time.Hour / 2)
	w.want("opens without data", len(w.began), 0, 0)
	w.trickle = true
	w.run(lookIdle + 2500*time.Millisecond)
	w.want("subflows with data", w.usable(), 2, 2)
	if d := w.began[0].Sub(epoch.Add(time.Hour / 2)); d < spareAfter {
		t.Errorf("the spare was opened after %v", d)
	}
	w.lose(0)
	w.run(time.Second)
	w.want("subflows after a loss", w.usable(), 2, 2)

	w.trickle = false
	w.run(quietAfter - 2*time.Second)
	w.want("subflows while it is young", w.usable(), 2, 2)
	w.run(5 * time.Second)
	w.want("subflows without data", w.usable(), 1, 1)

	one := newWorld(t, 1)
	one.trickle = true
	one.run(time.Minute)
	one.want("opens where one is all", len(one.began), 0, 0)
}

func TestPolicyShrinks(t *testing.T) {
	w := newWorld(t, 8)
	w.begin(true)
	w.run(5 * time.Second)
	w.want("subflows", w.usable(), 8, 8)
	w.subs[5].rtt = time.Second
	slow := w.subs[5].id
	w.begin(false)
	w.trickle = true
	w.run(shrinkAfter - time.Second)
	w.want("subflows before a minute", w.usable(), 8, 8)
	w.run(2 * time.Second)
	w.want("subflows after a minute", w.usable(), 7, 7)
	if slices.ContainsFunc(w.subs, func(s *simSubflow) bool { return s.id == slow && !s.leaving }) {
		t.Error("the slow one was not the first to leave")
	}
	w.run(5 * shrinkEvery)
	w.want("subflows", w.usable(), 2, 2)
	w.run(10 * time.Minute)
	w.want("subflows while a little data flows", w.usable(), 2, 2)
	w.trickle = false
	w.run(2 * time.Minute)
	w.want("subflows when quiet", w.usable(), 1, 1)
	w.want("opens", len(w.began), 7, 7)
	for i := 1; i < len(w.left); i++ {
		if d := w.left[i].Sub(w.left[i-1]); d < shrinkEvery {
			t.Errorf("two left within %v", d)
		}
	}
	looks := w.looks
	w.run(20 * time.Minute)
	w.want("looks in 20 idle minutes", w.looks-looks, 0, 20*6+2)

	w.begin(true)
	w.run(2500 * time.Millisecond)
	w.want("subflows when there is demand again", w.usable(), 8, 8)
}

func TestPolicyReplacesTheOld(t *testing.T) {
	for _, maximum := range []int{1, 2, 4, 16} {
		t.Run(fmt.Sprint(maximum), func(t *testing.T) {
			w := newWorld(t, maximum)
			w.begin(true)
			w.run(10 * time.Second)
			w.want("subflows", w.usable(), maximum, maximum)
			w.least = maximum
			for range 5 * 60 {
				w.run(time.Minute)
				for _, s := range w.subs {
					if age := w.now.Sub(s.since); age > w.p.health.maxAge+30*time.Second {
						t.Fatalf("subflow %d is %v old", s.id, age)
					}
				}
			}
			w.want("usable subflows at any time", w.least, min(maximum, maxSubflows-1), maximum)
			w.want("subflows at any time", w.most, min(maximum+1, maxSubflows), min(maximum+2, maxSubflows))
			w.want("subflows replaced in five hours", len(w.left), 5*maximum, 7*maximum)
			// They have not gone all at once.
			w.want("replaced within a minute", w.within(time.Minute, w.left), 0, max(maximum/2, 1))
		})
	}
}

func TestPolicyRotates(t *testing.T) {
	for _, maximum := range []int{1, 2, 8, 16} {
		t.Run(fmt.Sprint(maximum), func(t *testing.T) {
			w := newWorld(t, maximum)
			w.begin(true)
			w.run(10 * time.Second)
			w.want("subflows", w.usable(), maximum, maximum)
			w.most, w.least = 0, maximum
			old := w.nextID
			w.p.rotate(old)
			w.changed = true
			w.run(30 * time.Second)
			w.want("subflows", w.usable(), maximum, maximum)
			for _, s := range w.subs {
				if s.id < old {
					t.Errorf("subflow %d is still there", s.id)
				}
			}
			w.want("usable subflows at any time", w.least, min(maximum, maxSubflows-1), maximum)
			w.want("subflows at any time", w.most, 1, min(maximum+rotateTogether, maxSubflows))
			w.want("opens", len(w.began), 2*maximum-1, 2*maximum-1)
		})
	}
}

// A subflow leaves for another only when that one works.
func TestPolicyRotatesOntoWhatWorks(t *testing.T) {
	w := newWorld(t, 1)
	w.run(time.Second)
	w.refuse = func(int) (Failure, bool) { return FailedOther, true }
	w.p.rotate(w.nextID)
	w.changed = true
	w.run(10 * time.Minute)
	w.want("left", len(w.left), 0, 0)
	w.want("attempts", len(w.began), 10, 25)
	w.refuse = nil
	w.run(2 * time.Minute)
	w.want("left", len(w.left), 1, 1)
	w.want("subflows", w.usable(), 1, 1)
	w.want("usable at any time", w.least, 1, 1)
}

func TestPolicySubstitutesTheStalled(t *testing.T) {
	w := newWorld(t, 4)
	w.begin(true)
	w.run(10 * time.Second)
	opens := len(w.began)
	w.stall(true, 1, 2)
	w.run(substituteAfter - 100*time.Millisecond)
	w.want("opens in the first seconds", len(w.began)-opens, 0, 0)
	w.run(time.Second)
	w.want("substitutes", w.usable(), 4, 4)
	w.stall(false, 1) // its session has been resumed
	w.run(time.Second)
	w.want("subflows, one having recovered", w.usable(), 4, 4)
	w.run(dropAfter)
	w.want("dropped", w.drops, 1, 1)
	w.want("subflows", len(w.subs), 4, 4)
	w.want("substitutes opened", len(w.began)-opens, 2, 2)
}

func TestPolicyReplacesTheLost(t *testing.T) {
	w := newWorld(t, 8)
	w.begin(true)
	w.run(20 * time.Second)
	for range 3 {
		w.lose(0)
	}
	w.run(2 * time.Second)
	w.want("subflows", w.usable(), 8, 8)

	w.begin(false)
	w.run(keepFor + time.Second)
	opens := len(w.began)
	for range 5 {
		w.lose(0)
	}
	w.run(10 * time.Second)
	w.want("opens without demand", len(w.began)-opens, 0, 0)
}

func TestPolicyWithoutAnyPath(t *testing.T) {
	w := newWorld(t, 8)
	w.run(time.Minute)
	w.refuse = func(int) (Failure, bool) { return FailedOther, true }
	w.openTakes = 20 * time.Millisecond
	w.lose(0)
	w.run(instant)
	w.want("opens at once", len(w.began), 1, 1)
	w.run(2 * time.Second)
	w.want("opens in two seconds", len(w.began), 4, 7)
	w.run(time.Minute)
	w.want("opens in a minute", w.within(time.Minute, w.began), 30, 60)
	w.run(10 * time.Minute)
	w.want("opens in a minute, later", w.within(time.Minute, w.began), 30, 60)
	w.wantNoGap(0, attemptEvery)

	w.p.retry()
	w.changed = true
	opens := len(w.began)
	w.run(instant)
	w.want("opens at once after a probe", len(w.began)-opens, 1, 1)

	w.run(time.Hour)
	if !w.over {
		t.Fatal("it does not end")
	}
	if d := w.now.Sub(w.v.pathless); d != w.linger {
		t.Errorf("it ended after %v, want %v", d, w.linger)
	}
}

// After cuts of all subflows, the policy opens one at once, and the others on demand.
func TestPolicyAfterALossOfAll(t *testing.T) {
	w := newWorld(t, 8)
	w.begin(true)
	w.run(30 * time.Second)
	w.subs = nil
	w.changed = true
	w.run(w.openTakes + instant)
	w.want("subflows", w.usable(), 1, 1)
	w.run(3 * time.Second)
	w.want("subflows", w.usable(), 8, 8)
}

// Opens that hang do not keep the connection from other attempts. The first ones have all their time; of the others the oldest
// makes room. The first have all their time; of the others the oldest makes room.
func TestPolicyHedges(t *testing.T) {
	w := newWorld(t, 8)
	w.run(time.Minute)
	w.openTakes = time.Hour
	w.lose(0)
	w.run(instant)
	first := w.began[0]
	w.want("opens", len(w.began), 1, 1)
	w.run(attemptEvery)
	w.want("opens", len(w.began), 2, 2)
	w.run(10 * time.Minute)
	w.want("opens in a minute", w.within(time.Minute, w.began), 30, 40)
	w.want("opens at once", w.atonce, maxAttempts, maxAttempts)
	w.wantNoGap(0, attemptEvery)
	for k := range patientAttempts {
		if !w.opens[k].begun.Equal(w.began[k]) {
			t.Errorf("attempt %d was given up", k)
		}
	}
	w.opens[0].ready = w.now
	w.run(instant)
	if w.usable() != 1 || !w.opens[0].begun.After(first) {
		t.Fatalf("%d subflows", w.usable())
	}
	w.run(instant)
	w.want("opens that are under way with a path", len(w.opens), 0, maxOpening)
}

// Of two opens that began at the same time, the policy can give up one; the other goes on and counts.
func TestPolicyGivesUpOneOfTwo(t *testing.T) {
	w := newWorld(t, 8)
	w.begin(true)
	for w.usable() < 2 {
		w.run(instant)
	}
	w.openTakes = time.Hour
	for len(w.opens) < 2 {
		w.run(instant)
	}
	if !w.opens[0].begun.Equal(w.opens[1].begun) {
		t.Fatalf("two opens that are to begin at once: %v", w.opens)
	}
	w.subs = nil
	w.changed = true
	for len(w.opens) < 4 {
		w.run(instant)
	}
	w.opens[3].ready = w.now
	w.run(2 * instant)
	w.want("opens beside the path that is back", len(w.opens), maxOpening, maxOpening)
}

// wantNoGap checks that no time between opens, of those from the first one on, and up to now, is longer than this.
func (w *world) wantNoGap(first int, most time.Duration) {
	w.t.Helper()
	times := append(slices.Clone(w.began[first:]), w.now)
	for i := 1; i < len(times); i++ {
		if gap := times[i].Sub(times[i-1]); gap > most {
			w.t.Fatalf("nothing was tried for %v from %v on", gap, times[i-1].Sub(epoch))
		}
	}
}

func TestPolicyRespectsThrottling(t *testing.T) {
	w := newWorld(t, 16)
	w.refuse = func(int) (Failure, bool) { return FailedThrottled, true }
	w.begin(true)
	w.run(time.Minute)
	w.want("opens in the first minute", len(w.began), 4, 9)
	w.run(10 * time.Minute)
	w.want("opens in a later minute", w.within(time.Minute, w.began), 1, 5)
	w.want("opens at once", w.atonce, 1, 1)

	// Without any path the first is tried nevertheless, and no storm follows.
	opens := len(w.began)
	w.lose(0)
	w.run(instant)
	w.want("opens at once without a path", len(w.began)-opens, 1, 1)
	w.run(time.Minute)
	w.want("opens in a minute without a path", len(w.began)-opens, 29, 42)
	w.wantNoGap(opens, attemptEvery)

	w.refuse = nil
	w.run(40 * time.Second)
	w.want("subflows in the end", w.usable(), 16, 16)
}

// Whatever kept the connection from a path, and however late attempts fail, the first attempt after it begins within attemptEvery.
// There is at most one attempt a second.
func TestPolicyComesBackSoon(t *testing.T) {
	for _, how := range []Failure{FailedOther, FailedThrottled, FailedLimit, FailedUnanswered, failedFull} {
		for _, takes := range []time.Duration{instant, 1900 * time.Millisecond, 2500 * time.Millisecond, 20 * time.Second, time.Hour} {
			t.Run(fmt.Sprint(how, " after ", takes), func(t *testing.T) {
				w := newWorld(t, 8)
				w.begin(true)
				w.run(20 * time.Second)
				for round := range 10 {
					w.openTakes, w.refuse = takes, func(int) (Failure, bool) { return how, true }
					opens := len(w.began)
					w.subs = nil
					w.changed = true
					away := time.Duration(round)*3700*time.Millisecond + 700*time.Millisecond
					w.run(away)
					w.want("opens", len(w.began)-opens, 1, 6+int(away.Seconds()))
					tried := len(w.began)
					// In the worst case the running attempts still hang.
					w.openTakes, w.refuse = 200*time.Millisecond, nil
					for k := range w.opens {
						w.opens[k].ready = w.now.Add(time.Hour)
					}
					w.run(attemptEvery)
					w.want("opens since it could work", len(w.began)-tried, 1, 12)
					if first := w.began[tried].Sub(w.began[tried-1]); first > attemptEvery {
						t.Fatalf("the last gap is of %v", first)
					}
					w.run(200*time.Millisecond + instant)
					w.want("subflows", w.usable(), 1, 8)
					w.run(30 * time.Second)
				}
			})
		}
	}
}

// Opens that need a person's permission first are tried less often.
func TestPolicyWhereOpensAreRefused(t *testing.T) {
	w := newWorld(t, 8)
	w.run(time.Minute)
	w.refuse = func(int) (Failure, bool) { return FailedRefused, true }
	w.lose(0)
	w.run(time.Minute)
	w.run(10 * time.Minute)
	w.want("opens in a minute", w.within(time.Minute, w.began), 5, 14)
	w.wantNoGap(0, refusedMost+w.openTakes+instant)
}

// A service limits the sessions: the connection stays with those it has, and rarely tries another.
func TestPolicyAtTheServicesLimit(t *testing.T) {
	for _, how := range []Failure{FailedLimit, FailedUnanswered} {
		for _, limit := range []int{1, 2, 3, 10, 15} {
			t.Run(fmt.Sprint(how, " at ", limit), func(t *testing.T) {
				w := newWorld(t, 16)
				w.refuse = func(int) (Failure, bool) { return how, len(w.subs)+len(w.opens) >= limit }
				w.begin(true)
				w.run(2 * time.Minute)
				w.want("subflows", w.usable(), limit, limit)
				w.want("opens", len(w.began), limit, limit+5)
				if known := w.p.places.known(); known.Subflows != limit || !known.Retry.After(w.now) {
					t.Errorf("known: %+v", known)
				}
				opens := len(w.began)
				w.run(2 * time.Hour)
				w.want("subflows", w.usable(), limit, limit)
				// Those that are replaced for their age, and attempts beyond the limit.
				w.want("opens in two hours", len(w.began)-opens, 0, 4*limit+8)

				w.refuse = nil
				w.run(limitMost + time.Minute)
				w.want("subflows without the limit", w.usable(), 16, 16)
				if known := w.p.places.known(); known.Subflows != 0 {
					t.Errorf("known: %+v", known)
				}
			})
		}
	}
}

// A slow open without other sessions says nothing about a limit.
func TestPolicyUnansweredWithoutAPath(t *testing.T) {
	w := newWorld(t, 8)
	w.begin(true)
	w.run(10 * time.Second)
	w.subs = nil
	w.changed = true
	w.refuse = func(int) (Failure, bool) { return FailedUnanswered, true }
	w.run(time.Minute)
	if known := w.p.places.known(); known.Subflows != 0 {
		t.Errorf("taken for a limit: %+v", known)
	}
	w.refuse = nil
	w.run(20 * time.Second)
	w.want("subflows", w.usable(), 8, 8)
}

// The policy leaves a place to another session that needs it, and takes it again afterwards.
func TestPolicyLends(t *testing.T) {
	for _, limit := range []int{1, 2, 8} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			w := newWorld(t, 8)
			other := 0
			w.refuse = func(int) (Failure, bool) { return FailedLimit, len(w.subs)+other >= limit }
			w.begin(true)
			w.run(2 * time.Minute)
			w.want("subflows", w.usable(), limit, limit)
			opens := len(w.began)
			w.p.lend(w.now)
			w.changed = true
			w.run(time.Second)
			w.want("subflows, one place lent", len(w.subs), limit-1, limit-1)
			other = 1
			w.run(20 * time.Second)
			w.want("opens while it is lent", len(w.began)-opens, 0, 0)
			if !w.p.places.known().Lent {
				t.Error("not known")
			}
			// It is back before the service has noticed.
			w.p.giveBack(w.now, false)
			if !w.p.places.known().Lent {
				t.Error("it is told as lost the moment before it is used again")
			}
			w.changed = true
			w.run(3 * time.Second)
			other = 0
			w.run(attemptEvery + 2*w.openTakes)
			w.want("subflows in the end", w.usable(), limit, limit)
			if known := w.p.places.known(); known.Lent || known.Subflows != limit {
				t.Errorf("known in the end: %+v", known)
			}
			w.want("opens in the end", len(w.began)-opens, 1, 8)

			// One that is kept is not taken again.
			w.p.lend(w.now)
			w.changed = true
			w.run(time.Second)
			if limit > 1 {
				other = 1
				w.p.giveBack(w.now, true)
				w.changed = true
				opens = len(w.began)
				w.run(5 * time.Minute)
				w.want("subflows", w.usable(), limit-1, limit-1)
				w.want("opens", len(w.began)-opens, 0, 0)
			}
		})
	}
}

// While a place is lent, replacing and dismissing subflows together still leave one.
func TestPolicyLendsAndKeepsOne(t *testing.T) {
	start := time.Now()
	p := newPolicy(start, 8, time.Hour, time.Hour)
	v := view{subflows: []subflowView{{id: 1, since: start}, {id: 2, since: start}}, lastData: start.Add(-2 * time.Second)}
	if plan := p.look(start, v); len(plan.leave) > 0 {
		t.Fatalf("%v leave without need", plan.leave)
	}
	p.lend(start)
	p.rotate(3)
	v.subflows[0].stalled = true
	if plan := p.look(start.Add(shrinkEvery), v); !slices.Equal(plan.leave, []uint32{1}) {
		t.Errorf("%v leave, want the one that has stalled", plan.leave)
	}
}

// A leaving subflow has no place, so its successor does not prove that there is another place.
func TestPolicyLimitWithOneThatLeaves(t *testing.T) {
	start := time.Now()
	p := newPolicy(start, 8, time.Hour, time.Hour)
	old := subflowView{id: 1, since: start}
	p.look(start, view{subflows: []subflowView{old}})
	p.openFailed(start, 0, FailedLimit, 1)
	old.leaving = true
	for _, v := range [][]subflowView{{old}, {old, {id: 2, since: start}}} {
		p.opened(0)
		p.look(start, view{subflows: v})
		if known := p.places.known(); known.Subflows != 1 || p.places.limit() != 1 {
			t.Errorf("%v: %+v, limit %d", v, known, p.places.limit())
		}
	}
	p.look(start, view{subflows: []subflowView{{id: 2, since: start}, {id: 3, since: start}}})
	if known := p.places.known(); known.Subflows != 0 || p.places.limit() != 8 {
		t.Errorf("two are there, and the limit is still %+v, %d", known, p.places.limit())
	}
}

// A session without an agent shows a limit by the most sessions beside it, even if few remain when the policy gives it up.
func TestPolicyLimitWhenOthersHaveGone(t *testing.T) {
	for how, want := range map[Failure]int{FailedUnanswered: 10, FailedLimit: 8} {
		now := time.Now()
		p := newPolicy(now, 16, time.Hour, time.Hour)
		var v view
		for id := range uint32(8) {
			v.subflows = append(v.subflows, subflowView{id: id, since: now})
		}
		p.observe(now, v)
		var out plan
		p.pacing.begin(now, &out)
		more := v
		more.subflows = append(slices.Clone(v.subflows), subflowView{id: 8, since: now}, subflowView{id: 9, since: now})
		p.observe(now.Add(time.Second), more)
		p.observe(now.Add(2*time.Second), v)
		p.openFailed(now.Add(3*time.Second), out.open[0], how, len(v.subflows))
		if known := p.places.known(); known.Subflows != want {
			t.Errorf("%v: the limit is %d, want %d", how, known.Subflows, want)
		}
	}
}

// The policy spreads starts, however many subflows it wants, and however soon they are lost again.
func TestPolicyRationsStarts(t *testing.T) {
	w := newWorld(t, 16)
	w.openTakes = instant
	w.begin(true)
	for range 600 {
		w.run(100 * time.Millisecond)
		if len(w.subs) > 0 && w.usable() > 0 {
			w.lose(0)
		}
		if n := w.within(time.Second, w.began); n > 8 {
			t.Fatalf("%d opens in a second", n)
		}
	}
	w.want("opens in a minute", len(w.began), 10, 90)

	w = newWorld(t, 8)
	w.openTakes = instant
	w.begin(true)
	w.run(time.Minute)
	w.p.rotate(w.nextID)
	w.changed = true
	w.run(time.Second)
	w.want("opens in the first second", w.within(time.Second, w.began), 4, 7)
	w.run(time.Second)
	w.want("opens in the next one", w.within(time.Second, w.began), 1, 3)
}

// In a network that swallows everything, the policy tries now and then, and does not pile up subflows.
func TestPolicyWhereEverythingStalls(t *testing.T) {
	w := newWorld(t, 16)
	w.begin(true)
	w.run(10 * time.Second)
	w.want("subflows", w.usable(), 16, 16)
	opens := len(w.began)
	for range 600 {
		for i := range w.subs {
			w.subs[i].stalled = true
		}
		w.changed = true
		w.run(100 * time.Millisecond)
	}
	w.want("opens in a minute", len(w.began)-opens, 10, 40)
	w.want("subflows at any time", w.most, 16, 16)
}

func TestPolicyWhereTheFarEndIsFull(t *testing.T) {
	w := newWorld(t, 8)
	w.refuse = func(int) (Failure, bool) { return failedFull, len(w.subs) >= 4 }
	w.begin(true)
	w.run(time.Minute)
	w.want("subflows", w.usable(), 4, 4)
	w.want("opens", len(w.began), 4, 5)
	w.p.rotate(w.nextID)
	w.changed = true
	w.run(30 * time.Second)
	w.want("opens with rotation", len(w.began), 8, 9)
	w.want("subflows", w.usable(), 4, 4)
	w.run(time.Hour / 3)
	w.want("opens", len(w.began), 9, 14)

	// Of two at a time one is refused, before the other is up.
	w = newWorld(t, 8)
	w.refuse = func(int) (Failure, bool) { return failedFull, len(w.subs)+len(w.opens) >= 3 }
	w.begin(true)
	w.run(time.Minute)
	w.want("subflows", w.usable(), 3, 3)
	w.want("opens", len(w.began), 3, 3)

	// Without a path too: each attempt is a session.
	w.refuse = func(int) (Failure, bool) { return failedFull, true }
	for len(w.subs) > 0 {
		w.lose(0)
	}
	w.run(time.Minute)
	w.want("opens", len(w.began)-3, 29, 60)
}

func TestPolicyWhereFurtherOpensCannotSucceed(t *testing.T) {
	w := newWorld(t, 8)
	w.refuse = func(int) (Failure, bool) { return FailedFatal, true }
	w.begin(true)
	w.run(10 * time.Minute)
	w.want("opens", len(w.began), 1, 1)
	if w.over {
		t.Fatal("the connection was ended while it had a path")
	}
	w.lose(0)
	w.run(time.Second)
	if !w.over {
		t.Fatal("the connection was not ended without a path")
	}
	w.want("opens", len(w.began), 1, 1)
}

// Whatever happens, the policy keeps to its limits and does not spin.
func TestPolicyUnderRandomEvents(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 9))
		maximum := 1 + r.IntN(16)
		w := newWorld(t, maximum)
		w.p.setRandom(random(r))
		bad := 0.0
		w.refuse = func(int) (Failure, bool) {
			how := Failure(r.IntN(int(failedFull) + 1))
			return how, how != FailedFatal && r.Float64() < bad
		}
		w.rate = func(n int) float64 { return 0.8 * mb * float64(n) * (0.5 + r.Float64()) }
		for range 40 {
			switch r.IntN(10) {
			case 9:
				if w.p.places.lent < r.IntN(3) {
					w.p.lend(w.now)
				} else if w.p.places.lent > 0 {
					w.p.giveBack(w.now, r.IntN(2) == 0)
				}
				w.changed = true
			case 0:
				w.begin(!w.demand)
			case 1:
				w.trickle = !w.trickle
			case 2:
				bad = r.Float64()
			case 3, 4:
				if len(w.subs) > 0 {
					w.lose(r.IntN(len(w.subs)))
				}
			case 5, 6:
				for _, s := range w.subs {
					s.stalled = r.IntN(2) == 0
				}
				w.changed = true
			case 7:
				w.p.rotate(w.nextID)
				w.changed = true
			case 8:
				w.openTakes = random(r)(3 * time.Second)
			}
			looks, opens := w.looks, len(w.began)
			d := random(r)(20 * time.Second)
			w.run(d)
			w.want("opens at once", w.atonce, 0, maxAttempts)
			w.want("subflows", w.most, 0, maxSubflows)
			w.want("usable", w.usable(), 0, maximum+2*rotateTogether)
			w.want("opens", len(w.began)-opens, 0, maxSubflows+2+int(d.Seconds()))
			w.want("looks", w.looks-looks, 0, 200+40*int(d.Seconds()+1))
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
		// Without faults, it reaches the wanted number.
		bad, w.openTakes = 0, 100*time.Millisecond
		for _, s := range w.subs {
			s.stalled = false
		}
		w.begin(true)
		w.rate = func(n int) float64 { return 0.8 * mb * float64(n) }
		for w.p.places.lent > 0 {
			w.p.giveBack(w.now, false)
		}
		w.run(limitMost + 25*time.Minute)
		w.want("subflows in the end", w.usable(), maximum, maximum+1)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
