package forwards

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/fail"
)

var (
	monday  = time.Date(2026, 1, 5, 9, 0, 0, 0, time.UTC)
	tuesday = monday.AddDate(0, 0, 1)
	errGone = fail.New(fail.Lost, "", errors.New("gone"), "wait")
	errPort = errors.New("the port is taken")
)

// record is that of a forward of a profile, in the region r.
func record(profile, name, target string) Record {
	return Record{
		Request: api.ForwardRequest{Name: name, Kind: api.KindTCP, Target: target}, Region: "r",
		Scope: api.Scope{Env: map[string]string{"AWS_PROFILE": profile}},
	}
}

// opened returns a forward of a request as Opening.
func opened(t *testing.T, r *Registry, rec Record, detached bool) *Forward {
	t.Helper()
	fs, err := r.Open([]Asked{{Record: rec, Detached: detached, PID: 7}}, monday)
	if err != nil {
		t.Fatal(err)
	}
	return fs[0]
}

// ready returns a forward as Ready.
func ready(t *testing.T, r *Registry, rec Record, detached bool) *Forward {
	t.Helper()
	f := opened(t, r, rec, detached)
	if _, err := r.Ready(f, rec, monday); err != nil {
		t.Fatal(err)
	}
	return f
}

// in returns a registry with one detached forward in a state.
func in(t *testing.T, state State) (*Registry, *Forward) {
	t.Helper()
	r := new(Registry)
	var f *Forward
	switch rec := record("lab", "db", "rds:db"); state {
	case Unopened:
		f = r.Restore(rec, monday)
	case Opening:
		f = opened(t, r, rec, true)
	default:
		f = ready(t, r, rec, true)
	}
	switch state {
	case Failed:
		r.Fail(f, errGone, tuesday, monday)
	case Ended:
		r.End(f, errGone)
	}
	if f.State() != state {
		t.Fatalf("the forward is %s, not %s", f.State(), state)
	}
	return r, f
}

// Each step leads from the states that it is for to the next one, and from others nowhere. The steps are all that the table allows.
func TestTransitions(t *testing.T) {
	steps := map[string]struct {
		do func(r *Registry, f *Forward) (done bool)
		to map[State]State // from the states that it is for
	}{
		"ready": {
			func(r *Registry, f *Forward) bool {
				_, err := r.Ready(f, f.Record(), tuesday)
				return err == nil
			},
			map[State]State{Opening: Ready},
		},
		"reopen": {
			func(r *Registry, f *Forward) bool { return r.Reopen(f, "127.0.0.1:1", "link", tuesday) == nil },
			map[State]State{Unopened: Ready},
		},
		"fail": {
			func(r *Registry, f *Forward) bool { return r.Fail(f, errPort, tuesday, tuesday) },
			map[State]State{Ready: Failed, Failed: Failed, Unopened: Unopened},
		},
		"recover": {
			func(r *Registry, f *Forward) bool { return r.Recover(f) },
			map[State]State{Failed: Ready},
		},
		"end": {
			func(r *Registry, f *Forward) bool { return r.End(f, errGone) },
			map[State]State{Opening: Ended, Ready: Ended, Failed: Ended, Unopened: Ended},
		},
	}
	seen := map[State][]State{0: {Opening, Unopened}, Ended: nil}
	for name, step := range steps {
		for _, from := range []State{Opening, Ready, Failed, Unopened, Ended} {
			r, f := in(t, from)
			shown := f.Show()
			want, allowed := step.to[from]
			if done := step.do(r, f); done != allowed {
				t.Errorf("%s of a forward that is %s: done %t, want %t", name, from, done, allowed)
			}
			if !allowed {
				if want = from; cmp.Diff(shown, f.Show()) != "" {
					t.Errorf("%s is refused to a forward that is %s, and changes it:\n%s", name, from, cmp.Diff(shown, f.Show()))
				}
			} else if want != from && !slices.Contains(seen[from], want) {
				seen[from] = append(seen[from], want)
			}
			if f.State() != want {
				t.Errorf("%s of a forward that is %s: it is %s, want %s", name, from, f.State(), want)
			}
			if known := slices.Contains(r.forwards, f); known == (want == Ended) {
				t.Errorf("%s of a forward that is %s: in the registry %t", name, from, known)
			}
		}
	}
	for from, to := range transitions {
		slices.Sort(seen[from])
		if want := slices.Sorted(slices.Values(to)); !slices.Equal(seen[from], want) {
			t.Errorf("from %s the steps lead to %v, the table says %v", from, seen[from], want)
		}
	}
	if len(seen) != len(transitions) {
		t.Errorf("states with steps: %v", seen)
	}
}

// What others see follows the state: the first failure's time stays, and the end changes nothing.
func TestShow(t *testing.T) {
	r, f := in(t, Ready)
	check := func(when string, state api.ForwardState, text string, since, retry time.Time) {
		t.Helper()
		got := f.Show()
		if got.State != state || got.Error != text || !got.Since.Equal(since) || !got.Retry.Equal(retry) {
			t.Errorf("%s: %s %q since %s, retry %s", when, got.State, got.Error, got.Since, got.Retry)
		}
	}
	never := time.Time{}
	check("at first", api.ForwardReady, "", never, never)
	if r.Fail(f, errGone, tuesday, monday); f.Wait(monday) == nil || f.Wait(tuesday) != nil {
		t.Error("the next attempt does not wait until its time, or longer")
	}
	check("failed", api.ForwardFailed, "gone", monday, tuesday)
	if r.Fail(f, fail.New(fail.Lost, "", errors.New("gone"), ""), never, tuesday) {
		t.Error("the same failure again is news")
	}
	if !r.Fail(f, errPort, never, tuesday) {
		t.Error("another failure is no news")
	}
	check("failed otherwise", api.ForwardFailed, errPort.Error(), monday, never)
	r.End(f, errGone)
	check("ended", api.ForwardFailed, errPort.Error(), monday, never)
	if !errors.Is(f.Why(), errGone) || f.Fault() == nil {
		t.Errorf("it ended by %v, its fault was %v", f.Why(), f.Fault())
	}

	r, f = in(t, Unopened)
	check("unopened", api.ForwardFailed, "", monday, never)
	r.Fail(f, errPort, tuesday, tuesday)
	check("its port is taken", api.ForwardFailed, errPort.Error(), monday, never)
	if f.Wait(monday) != nil {
		t.Error("an unopened forward has a time for its next client")
	}
	if err := r.Reopen(f, "127.0.0.1:9", "link", tuesday); err != nil {
		t.Error(err)
	}
	check("reopened", api.ForwardReady, "", never, never)
	if got := f.Show(); got.Listen != "127.0.0.1:9" || got.Link != "link" || !got.Opened.Equal(tuesday) || !got.Detached {
		t.Errorf("reopened: %+v", got)
	}
	if r.At("127.0.0.1:9") != f || r.At("127.0.0.1:8") != nil {
		t.Error("the address does not lead to its forward")
	}
}

// The registry writes down the detached forwards that serve or wait for their port. The revision tells each change.
func TestKept(t *testing.T) {
	r := new(Registry)
	var last uint64
	check := func(step string, changed bool, want ...string) {
		t.Helper()
		records, revision := r.Kept()
		var names []string
		for _, rec := range records {
			names = append(names, rec.Request.Name)
		}
		if !slices.Equal(names, want) || (revision != last) != changed {
			t.Errorf("%s: %q, want %q; changed %t, want %t", step, names, want, revision != last, changed)
		}
		last = revision
	}
	check("nothing", false)
	old := r.Restore(record("lab", "old", "rds:old"), monday)
	check("restored", true, "old")
	twice := r.Restore(record("lab", "old", "rds:new"), monday)
	if check("restored twice", true, "old"); old.State() != Ended || r.All()[0] != twice {
		t.Error("the earlier one stays")
	}
	a := opened(t, r, record("lab", "a", "rds:a"), true)
	check("opening", false, "old")
	if _, err := r.Ready(a, a.Record(), monday); err != nil {
		t.Error(err)
	}
	check("ready", true, "old", "a")
	b := ready(t, r, record("lab", "b", "rds:b"), false)
	check("attached", false, "old", "a")
	r.Fail(a, errGone, tuesday, monday)
	r.SetAccount(a, "")
	check("failed", false, "old", "a")
	r.SetAccount(a, "123456789012")
	check("its account is known", true, "old", "a")
	r.End(b, errGone)
	check("the attached one has ended", false, "old", "a")
	r.End(opened(t, r, record("lab", "c", "rds:c"), true), errGone)
	check("one was not opened", false, "old", "a")
	if err := r.Reopen(twice, "127.0.0.1:1", "link", monday); err != nil {
		t.Error(err)
	}
	check("reopened", true, "old", "a")
	r.End(a, errGone)
	check("ended", true, "old")
}

// The forwards of a request come all or not at all, and not without end.
func TestOpenAll(t *testing.T) {
	r := new(Registry)
	ready(t, r, record("lab", "db", "rds:db"), true)
	r.Restore(record("lab", "waits", "rds:waits"), monday)
	if _, err := r.Open([]Asked{{Record: record("lab", "new", "rds:a")}, {Record: record("lab", "db", "rds:b")}}, monday); err == nil {
		t.Error("a taken name was opened")
	}
	if len(r.forwards) != 2 {
		t.Errorf("%d forwards are left", len(r.forwards))
	}
	many := make([]Asked, Max-1)
	for i := range many {
		many[i].Record = record("lab", "n"+strconv.Itoa(i), "rds:n")
	}
	if _, err := r.Open(many, monday); err != nil {
		t.Error(err)
	}
	if _, err := r.Open(many[:1], monday); fail.KindOf(err) != fail.Usage || fail.NextOf(err) == "" {
		t.Errorf("one too many: %v", err)
	}
}

// Whatever happens, a name in a scope means one forward that serves or opens, and each forward of the registry has a state. The
// file has exactly the detached forwards that must come back.
func TestInvariants(t *testing.T) {
	for seed := range uint64(100) {
		rnd := rand.New(rand.NewPCG(seed, 1)) // a walk that can be repeated
		r := new(Registry)
		var walked []*Forward
		for range 200 {
			rec := record([]string{"lab", "prod"}[rnd.IntN(2)], []string{"", "db", "cache"}[rnd.IntN(3)], []string{"rds:db", "rds:x"}[rnd.IntN(2)])
			if rnd.IntN(3) == 0 {
				rec.Region = "" // as older versions wrote it down
			}
			now := monday.Add(time.Duration(rnd.IntN(1000)) * time.Second)
			if len(walked) == 0 || rnd.IntN(4) == 0 {
				if rec.Request.Name != "" && rnd.IntN(3) == 0 {
					walked = append(walked, r.Restore(rec, now))
				} else if fs, err := r.Open([]Asked{{Record: rec, Detached: rnd.IntN(2) == 0}}, now); err == nil {
					walked = append(walked, fs...)
				}
			}
			if len(walked) > 0 {
				walk(r, walked[rnd.IntN(len(walked))], rnd.IntN(6), now)
			}
			if problem := broken(r); problem != "" {
				t.Fatalf("seed %d: %s", seed, problem)
			}
		}
	}
}

// walk tries one step of a forward.
func walk(r *Registry, f *Forward, step int, now time.Time) {
	switch step {
	case 0, 1:
		_, _ = r.Ready(f, f.Record(), now)
	case 2:
		_ = r.Reopen(f, "127.0.0.1:1", "link", now)
	case 3:
		r.Fail(f, errGone, now, now)
	case 4:
		r.Recover(f)
	case 5:
		r.End(f, errGone)
	}
}

// broken returns which invariant a registry breaks.
func broken(r *Registry) string {
	holders := make(map[ident]*Forward)
	kept := 0
	for _, f := range r.forwards {
		if f.state == 0 || f.state == Ended {
			return "the registry has a forward that is " + f.state.String()
		}
		if (f.fault != nil) != (f.state == Failed) && f.state != Unopened {
			return fmt.Sprintf("a forward that is %s has the fault %v", f.state, f.fault)
		}
		if f.detached && f.state != Opening {
			kept++
		}
		if f.state == Unopened || f.state == Opening && f.Name() == "" {
			continue
		}
		if f.Name() == "" {
			return "a forward that is " + f.state.String() + " has no name"
		}
		if other := holders[f.record.ident()]; other != nil {
			return fmt.Sprintf("one that is %s and one that is %s have the name %v", f.state, other.state, f.record.ident())
		}
		holders[f.record.ident()] = f
	}
	if records, _ := r.Kept(); len(records) != kept {
		return fmt.Sprintf("%d forwards are kept, want %d", len(records), kept)
	}
	return ""
}
