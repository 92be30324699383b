package access

import (
	"context"
	"encoding/json"
	"net"
	"time"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/tunnel"
)

// Examined are the owner's bastions, for a diagnosis.
type Examined struct {
	All  []bastions.Bastion
	Last *bastions.Bastion // the newest that has stopped; nil: ECS knows none
	// Findings are probable reasons why the exec agent of the newest running bastion does not run.
	Findings []bastions.Finding
}

// Examine looks at the owner's bastions. It starts none.
func (a *Access) Examine(ctx context.Context) (out Examined, err error) {
	spec, err := a.spec(ctx)
	if err != nil {
		return out, err
	}
	if out.All, err = a.manager.List(ctx, spec); err != nil {
		return out, err
	}
	if spec.Service == "" {
		out.Last = a.manager.LastEnded(ctx, spec)
	}
	for _, b := range out.All {
		if !b.Stopping() {
			if b.LastStatus == "RUNNING" && !b.ExecRunning {
				out.Findings = a.manager.Diagnose(ctx, spec, b)
			}
			break
		}
	}
	return out, nil
}

// Measured is what a link to a running bastion shows.
type Measured struct {
	Version string        `json:"bastiond_version"`
	Steps   []report.Step `json:"steps"`
	Seconds float64       `json:"seconds_to_first_byte"`
	RTT     float64       `json:"rtt_ms"` // the shortest round trip of some
	Upward  float64       `json:"upward_bytes_per_second"`
	// UpwardSessions are the sessions that carried it.
	UpwardSessions int     `json:"upward_sessions"`
	CPULimit       float64 `json:"cpu_limit,omitempty"`        // vCPU
	Throttled      float64 `json:"cpu_throttled_share"`        // of the scheduler's periods since the task began
	MemoryLimit    int64   `json:"memory_limit,omitempty"`     // bytes
	MemoryUsed     int64   `json:"memory_used,omitempty"`      // bytes
	Sessions       int     `json:"sessions"`                   // open in the task
	MaxSessions    int     `json:"max_sessions,omitempty"`     // that its memory has room for
	Document       string  `json:"session_document,omitempty"` // of the sessions

	Dialed bool  `json:"-"`
	Dial   error `json:"-"` // of the connection to the destination
}

// PerSession is the rate upwards of one session.
func (m *Measured) PerSession() float64 { return m.Upward / float64(max(m.UpwardSessions, 1)) }

const (
	pings = 5
	// The payloads of the requests that fill a link, in bytes. SSH's packets have an end at 256 KiB.
	loadLeast, loadMost = 16 << 10, 192 << 10
	loadTime            = 700 * time.Millisecond
	loadLimit           = 3 * time.Second // for a slow link
)

// unknownRequest is a global request that no bastiond knows: it answers at once, and the request's payload measures the way there.
const unknownRequest = "measure@bastion"

// Measure connects to the owner's running bastion, as a forward does, and measures. It starts none: without one the error is of kind
// fail.NoTarget. destination is HOST:PORT to connect to through the bastion, or "". Call it once, before any other method that connects.
func (a *Access) Measure(ctx context.Context, destination string) (*Measured, error) {
	t := &trace{began: time.Now()}
	a.trace = t
	var permit []string
	if destination != "" {
		permit = []string{destination}
	}
	answers := new(awssdk.LastFailure)
	link := a.newLink(&taskConnector{access: a, permit: permit, running: true}, answers, func(tunnel.State) {})
	link.Start(ctx)
	defer func() { _ = link.Close() }()
	if err := link.Ready(ctx); err != nil {
		if last := answers.Get(); ctx.Err() != nil && last != nil {
			return nil, last
		}
		return nil, err
	}
	t.sshAfterSession()
	answered := t.begin(stepAnswer)
	ok, reply, err := link.Request(ctx, infoRequest, nil)
	if err != nil {
		return nil, err
	}
	answered()
	m := &Measured{Seconds: time.Since(t.began).Seconds()}
	var info struct{ Version string }
	if ok && json.Unmarshal(reply, &info) == nil {
		m.Version = info.Version
	}
	rtt := roundTrip(ctx, link)
	m.RTT = milliseconds(rtt)
	a.measureLoad(ctx, link, rtt, m)
	if destination != "" {
		var conn net.Conn
		m.Dialed = true
		if conn, m.Dial = link.Dial(ctx, "tcp", destination); m.Dial == nil {
			_ = conn.Close()
		}
	}
	_ = a.answered(ctx, &t.grants) // as in UpTimed; without the answer all but its step is measured
	m.Steps = t.inOrder()
	return m, nil
}

// roundTrip returns the shortest of some round trips to bastiond; 0 if none succeeds.
func roundTrip(ctx context.Context, link asker) time.Duration {
	var least time.Duration
	for range pings {
		from := time.Now()
		if _, _, err := link.Request(ctx, infoRequest, nil); err != nil {
			return least
		}
		if took := time.Since(from); least == 0 || took < least {
			least = took
		}
	}
	return least
}

// measureLoad asks for the task's load, and fills the link for a moment to see how fast it is upwards.
func (a *Access) measureLoad(ctx context.Context, link asker, rtt time.Duration, m *Measured) {
	if h, known, err := a.askHealth(link); err == nil && known {
		m.CPULimit, m.MemoryLimit, m.MemoryUsed = h.CPULimit, h.MemoryLimit, h.MemoryUsed
		m.Sessions, m.MaxSessions = h.Sessions, h.MaxSessions
		if h.Periods > 0 {
			m.Throttled = min(float64(h.Throttled)/float64(h.Periods), 1)
		}
	}
	sent, took := fill(ctx, link, rtt)
	if took > 0 {
		m.Upward = float64(sent) / took.Seconds()
	}
	var l report.Link
	a.addConn(&l, link.Stats().Conn)
	m.UpwardSessions, m.Document = max(len(l.Sessions), 1), l.Document
}

// fill sends requests until loadTime is over, each larger than the one before, and returns the bytes that were answered and how long they
// were on their way. rtt is what a request takes without a payload.
func fill(ctx context.Context, link asker, rtt time.Duration) (sent int, took time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, loadLimit)
	defer cancel()
	for begin, size := time.Now(), loadLeast; time.Since(begin) < loadTime; size = min(2*size, loadMost) {
		from := time.Now()
		if _, _, err := link.Request(ctx, unknownRequest, make([]byte, size)); err != nil {
			return sent, took
		}
		sent, took = sent+size, took+max(time.Since(from)-rtt, 0)
	}
	return sent, took
}
