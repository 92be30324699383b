package bond

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// taskModel computes the rate of n sessions of a task. Each session has its pace and takes some processor time, and each message
// costs processor time.
type taskModel struct {
	cpu     float64 // processors
	message float64 // seconds of a processor for each message of 1 KiB
	session float64 // share of a processor that each session takes besides
}

func (m taskModel) rate(n int) float64 {
	const pace = 0.7 * mb
	return max(min(pace*float64(n), (m.cpu-m.session*float64(n))/m.message*1024), pace/10)
}

func (m taskModel) best(most int) (rate float64) {
	for n := 1; n <= most; n++ {
		rate = max(rate, m.rate(n))
	}
	return rate
}

// For every task size and limit of sessions, a transfer reaches at least 0.95 of the best number's rate. It has some seconds to
// find that number, and its attempts to find a better one count. It is never slower than with one session.
func TestPolicyFindsTheBestNumber(t *testing.T) {
	for _, model := range []taskModel{
		{cpu: 0.25, message: 210e-6, session: 0.002},
		{cpu: 0.25, message: 300e-6, session: 0.01},
		{cpu: 0.5, message: 210e-6, session: 0.002},
		{cpu: 0.5, message: 300e-6, session: 0.01},
		{cpu: 1, message: 210e-6, session: 0.002},
		{cpu: 1, message: 210e-6, session: 0.02},
		{cpu: 4, message: 210e-6, session: 0.002},
	} {
		for _, most := range []int{1, 2, 3, 5, 8, 12, 16} {
			for _, known := range []bool{false, true} { // what the far end says of its processor
				t.Run(fmt.Sprintf("%+v, %d, %v", model, most, known), func(t *testing.T) {
					w := newWorld(t, most)
					rng := rand.New(rand.NewPCG(3, uint64(most)))
					w.rate = func(n int) float64 { return model.rate(n) * (0.9 + 0.2*rng.Float64()) }
					w.begin(true)
					seconds := func(n int) {
						for range n {
							w.run(time.Second)
							if known {
								used := model.rate(w.usable())/1024*model.message + model.session*float64(w.usable())
								w.v.far = FarEnd{Busy: min(used/model.cpu, 1), Limit: model.cpu, At: w.now}
							}
						}
					}
					seconds(20)
					before, opens := w.counter, len(w.began)
					seconds(100)
					got, best := (w.counter-before)/100, model.best(max(most, 1))
					if got < 0.95*best || got < 0.95*model.rate(1) {
						t.Errorf("%.2f MB/s with %d subflows in the end, %d at most; the best number has %.2f, one has %.2f",
							got/mb, w.usable(), w.most, best/mb, model.rate(1)/mb)
					}
					if n := len(w.began) - opens; n > 24 {
						t.Errorf("%d subflows opened in 100 s", n)
					}
				})
			}
		}
	}
}

// A step that helps one direction as much as it costs the other does not count as help.
func TestSpeedOver(t *testing.T) {
	for _, c := range []struct {
		before, after speed
		want          float64
	}{
		{speed{0, 1e6}, speed{0, 2e6}, 2},
		{speed{2e3, 1e6}, speed{9e3, 2e6}, 2}, // acknowledgements are no transfer
		{speed{4e6, 0}, speed{2e6, 0}, 0.5},
		{speed{4e6, 1e6}, speed{2e6, 2e6}, 1},
		{speed{4e6, 1e6}, speed{3e6, 2e6}, 1.5},
		{speed{}, speed{1e6, 1e6}, 1},
	} {
		if got := c.after.over(c.before); got < c.want*0.999 || got > c.want*1.001 {
			t.Errorf("%v over %v: %v, want %v", c.after, c.before, got, c.want)
		}
	}
}

// While the far end's processor is in full use, the policy opens no further session. Afterwards it does.
func TestPolicyHeedsTheFarEnd(t *testing.T) {
	w := newWorld(t, 8)
	w.v.far = FarEnd{Busy: 0.97, Limit: 0.25, At: w.now}
	w.begin(true)
	for range 60 {
		w.run(time.Second)
		w.v.far.At = w.now
	}
	w.want("opens, of which one is the spare", len(w.began), 1, 1)
	w.v.far.Busy = 0.4
	for range 6 {
		w.run(time.Second)
		w.v.far.At = w.now
	}
	w.want("subflows", w.usable(), 8, 8)
}

// Transfers both ways share the far end's processor. The policy makes no step before the far end has reported its processor, and
// takes back a step that lowers the sum, however much one direction gains.
func TestGrowthBothWays(t *testing.T) {
	for name, c := range map[string]struct {
		busy float64 // what the far end says of itself; 0: nothing
		told time.Duration
		want int // subflows in the end
	}{
		"it says nothing":  {0, 0, 8},
		"it has time left": {0.5, time.Second, 8},
		"it is busy":       {0.97, time.Second, 1},
	} {
		w := newWorld(t, 8)
		w.rate = func(n int) float64 { return 0.5 * mb * float64(n) } // downwards
		w.upward = func(int) float64 { return 10 * mb }
		w.begin(true)
		w.run(900 * time.Millisecond)
		if len(w.began) > 0 {
			t.Errorf("%s: a step before the far end had time to tell", name)
		}
		for range 30 {
			if c.busy > 0 {
				w.v.far = FarEnd{Busy: c.busy, Limit: 0.25, At: w.now}
				w.changed = true
			}
			w.run(time.Second)
		}
		if got := w.p.growth.target; got != c.want {
			t.Errorf("%s: %d subflows are wanted, want %d", name, got, c.want)
		}
	}
}

// A step that began before the far end was busy is judged by the sum of both ways.
func TestJudgeBothWays(t *testing.T) {
	for _, busy := range []bool{false, true} {
		g, now := newGrowth(), epoch
		g.demandSince, g.wants = now, wantsDown
		g.step = step{phase: stepJudging, since: now, from: 1, with: 2, base: speed{up: 8 * mb, down: 1 * mb}}
		for k := range 40 { // twice the rate downwards for a quarter less upwards
			now = epoch.Add(time.Duration(k) * 100 * time.Millisecond)
			g.sent.add(now, uint64(6*mb*now.Sub(epoch).Seconds()))
			g.received.add(now, uint64(2*mb*now.Sub(epoch).Seconds()))
		}
		if busy {
			g.far = FarEnd{Busy: 0.95, Limit: 0.5, At: now.Add(-time.Second)}
		}
		rate, ok := g.speed(epoch, now, measureFor)
		if !ok {
			t.Fatal("no rate")
		}
		if !g.judge(now, rate, 0) {
			t.Errorf("far end busy %v: not judged", busy)
		}
		if taken := g.surplus; taken != busy {
			t.Errorf("far end busy %v: taken back %v", busy, taken)
		}
	}
}
