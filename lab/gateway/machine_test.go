package gateway

import (
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Sessions whose clients do nothing but acknowledge are as fast in tasks of these sizes as AWS's agent was seen to make them, those of
// AWS's plugin too.
func TestMachineIsLikeTheRealOne(t *testing.T) {
	for _, c := range []struct {
		processors float64
		sessions   int
		cost       time.Duration // of a message
		want       float64       // MB/s
		within     float64
	}{
		{0.25, 8, costOutput, 1.20, 0.1},
		{0.5, 8, costOutput, 2.45, 0.1},
		{1, 8, costOutput, 4.66, 0.1},
		{0.5, 1, costOutput, 0.70, 0.15},
		{1, 1, costOutput, 0.70, 0.15},
		{0.25, 1, costOutput + costMux, 0.46, 0.1}, // the plugin's
		{0.5, 1, costOutput + costMux, 0.58, 0.1},
		{1, 1, costOutput + costMux, 0.59, 0.1},
	} {
		synctest.Test(t, func(t *testing.T) {
			m := NewMachine(c.processors)
			const span = 5 * time.Second
			var mu sync.Mutex
			messages := 0
			var all sync.WaitGroup
			end := time.Now().Add(span)
			for range c.sessions {
				all.Go(func() {
					output, input := process{machine: m}, process{machine: m}
					for time.Now().Before(end) {
						wait := output.beside(c.cost)
						time.Sleep(1100*time.Microsecond + wait) //nolint:forbidigo // the bubble's clock
						input.run(costAcked)
						mu.Lock()
						messages++
						mu.Unlock()
					}
				})
			}
			all.Wait()
			got := float64(messages) * 1024 / span.Seconds() / 1e6
			if math.Abs(got-c.want) > c.within*c.want {
				t.Errorf("%v processors, %d sessions: %.2f MB/s, AWS's agent has %.2f", c.processors, c.sessions, got, c.want)
			}
			used := m.Usage()
			if share := used.CPU.Seconds() / span.Seconds(); share > c.processors*1.03 {
				t.Errorf("%v processors: %.2f were used", c.processors, share)
			}
			if full := c.sessions == 8 || c.processors == 0.25; full != (used.Throttled > used.Periods/2) {
				t.Errorf("%v processors, %d sessions: throttled in %d of %d periods", c.processors, c.sessions, used.Throttled, used.Periods)
			}
		})
	}
}

// A machine without limits and sessions without a machine wait for nothing.
func TestNoMachine(t *testing.T) {
	var p process
	if wait := p.run(time.Hour); wait != 0 {
		t.Errorf("%v", wait)
	}
	m := NewMachine(0)
	m.enter()
	if got := m.Usage().Memory; got != agentMemory+sharedMemory+sessionMemory {
		t.Errorf("a session takes %d bytes", got)
	}
	m.leave()
	if got := m.Usage().Memory; got != agentMemory {
		t.Errorf("the agent takes %d bytes", got)
	}
}
