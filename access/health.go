package access

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/sessions/bond"
	"github.com/bastion-ssm/bastion/tunnel"
)

const (
	// healthRequest is the global request for the task's load (CPU, memory, sessions), which bastiond answers.
	healthRequest = "health@bastion"
	healthVersion = 1
	maxHealth     = 16 << 10 // bytes of the answer

	// healthCheck is the interval between requests during a transfer. A quieter link is not asked: requests would keep an idle
	// one awake.
	healthCheck   = time.Second
	healthTraffic = 64 << 10 // bytes in healthCheck
	healthTimeout = 5 * time.Second
	leastSpan     = healthCheck / 2 // between two answers that are compared

	// From these shares on, the task's size limits the speed: CPU time in use, throttled periods, and memory in use.
	fullCPU       = 0.9
	fullThrottled = 0.25
	fullMemory    = 0.9
)

// health is bastiond's answer, as far as the Access uses it.
type health struct {
	V           int     `json:"v"`
	At          float64 `json:"at_seconds"`
	CPULimit    float64 `json:"cpu_limit"`
	CPUUsed     float64 `json:"cpu_used_seconds"`
	Periods     int64   `json:"cpu_periods"`
	Throttled   int64   `json:"cpu_throttled_periods"`
	MemoryLimit int64   `json:"memory_limit"`
	MemoryUsed  int64   `json:"memory_used"`
	Sessions    int     `json:"sessions"`
	MaxSessions int     `json:"max_sessions"`
}

// parseHealth reads bastiond's answer. ok is false for another version and for impossible numbers.
func parseHealth(text []byte) (h health, ok bool) {
	if len(text) > maxHealth || json.Unmarshal(text, &h) != nil || h.V != healthVersion {
		return h, false
	}
	for _, v := range []float64{h.At, h.CPULimit, h.CPUUsed} {
		if math.IsNaN(v) || v < 0 || v > 1e12 {
			return h, false
		}
	}
	return h, min(h.Periods, h.Throttled, h.MemoryLimit, h.MemoryUsed, int64(h.Sessions), int64(h.MaxSessions)) >= 0
}

// since returns the task's load between an earlier answer and this one; nil if the two cannot be compared.
func (h health) since(before health, now time.Time) *report.FarEnd {
	span := h.At - before.At
	if span < leastSpan.Seconds() || h.CPUUsed < before.CPUUsed || h.Throttled < before.Throttled || h.Periods < before.Periods {
		return nil
	}
	f := &report.FarEnd{
		Measured: now, CPULimit: h.CPULimit, MemoryLimit: h.MemoryLimit, MemoryUsed: h.MemoryUsed,
		Sessions: h.Sessions, MaxSessions: h.MaxSessions,
	}
	if h.CPULimit > 0 {
		f.CPUShare = min((h.CPUUsed-before.CPUUsed)/span/h.CPULimit, 1)
	}
	if periods := h.Periods - before.Periods; periods > 0 {
		f.Throttled = min(float64(h.Throttled-before.Throttled)/float64(periods), 1)
	}
	f.Limit = limitOf(f)
	return f
}

// busy returns the share of the task's CPU in use, from 0 to 1, for the decision on a link's growth.
func busy(f *report.FarEnd) float64 {
	if f.Throttled >= fullThrottled {
		return 1
	}
	return f.CPUShare
}

// limitOf says how the task's size limits the link's speed; "" if it does not.
func limitOf(f *report.FarEnd) string {
	larger := "; a larger task: bastion down, then bastion up --task-cpu " + fmt.Sprint(larger(f))
	size := "the task's CPU is the limit"
	if f.CPULimit > 0 {
		size += fmt.Sprintf(": %g vCPU", f.CPULimit)
	}
	switch {
	case f.Throttled >= fullThrottled:
		return fmt.Sprintf("%s, throttled %.0f %% of the time%s", size, 100*f.Throttled, larger)
	case f.CPULimit > 0 && f.CPUShare >= fullCPU:
		return fmt.Sprintf("%s, %.0f %% in use%s", size, 100*f.CPUShare, larger)
	case f.MemoryLimit > 0 && float64(f.MemoryUsed) >= fullMemory*float64(f.MemoryLimit),
		f.MaxSessions > 0 && f.Sessions >= f.MaxSessions:
		return fmt.Sprintf("the task's memory is the limit: %d of %d MiB in use, %d sessions%s",
			f.MemoryUsed>>20, f.MemoryLimit>>20, f.Sessions, larger)
	}
	return ""
}

// larger returns the next larger task_cpu.
func larger(f *report.FarEnd) int {
	cpu := 512
	for cpu <= int(f.CPULimit*1024) && cpu < 16384 {
		cpu *= 2
	}
	return cpu
}

// asker is the part of *tunnel.Link that sends the health request.
type asker interface {
	Stats() tunnel.LinkStats
	Request(ctx context.Context, name string, payload []byte) (ok bool, reply []byte, err error)
	Done() <-chan struct{}
}

// watchHealth requests the task's load while a link carries a transfer and passes it to the link's bond, until the link ends.
func (a *Access) watchHealth(l asker) {
	tick := time.NewTicker(healthCheck)
	defer tick.Stop()
	var conn bonded // the bond of the last answer
	var last *health
	var moved uint64
	unknown := false // bastiond is too old for the request
	for {
		select {
		case <-l.Done():
			return
		case <-a.ctx.Done():
			return
		case <-tick.C:
		}
		st := l.Stats()
		now, ok := st.Conn.(bonded)
		if !ok {
			continue
		}
		if now != conn {
			conn, last, unknown, moved = now, nil, false, 0
		}
		before := moved
		moved = st.Sent + st.Received
		if unknown || st.State.Phase != tunnel.Up || moved-before < healthTraffic {
			continue
		}
		h, known, err := a.askHealth(l)
		switch {
		case err != nil:
			continue // the link reports the failure
		case !known:
			unknown = true
			continue
		}
		if last != nil {
			if far := h.since(*last, time.Now()); far != nil {
				a.bonds.noteFar(conn, far)
				if far.CPULimit > 0 {
					conn.FarEnd(bond.FarEnd{Busy: busy(far), Limit: far.CPULimit, At: far.Measured})
				}
			}
		}
		last = &h
	}
}

func (a *Access) askHealth(l asker) (h health, known bool, err error) {
	ctx, cancel := context.WithTimeout(a.ctx, healthTimeout)
	defer cancel()
	ok, reply, err := l.Request(ctx, healthRequest, nil)
	if err != nil || !ok {
		return h, false, err
	}
	h, known = parseHealth(reply)
	return h, known, nil
}

// noteFar notes the load of the task at a bond's far end.
func (b *bonds) noteFar(conn bonded, far *report.FarEnd) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s, ok := b.all[conn]; ok {
		s.far = far
	}
}
