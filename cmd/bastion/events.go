package main

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/duration"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/tunnel"
)

// event is a line of the JSON output about what became of a link.
type event struct {
	Event  string    `json:"event"` // of docs/status.md
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`         // why the link is lost or idle, where that is known
	After  float64   `json:"after_seconds,omitempty"`  // how long it was lost
	Linger float64   `json:"linger_seconds,omitempty"` // how long connections wait for a path
	Next   string    `json:"next,omitempty"`           // what the user can do about reason
	Retry  time.Time `json:"retry_at,omitzero"`        // when the next attempt begins
}

// linkWatch tells of a link that is lost and restored, and of its paths: on standard error for people, and where events is
// set there for programs. Links and their paths report from different goroutines.
type linkWatch struct {
	progress *progress

	mu     sync.Mutex
	events io.Writer // nil: none are wanted, or not yet
	idle   bool      // nobody needs the link, and nothing is done about it
	lost   time.Time // since when somebody waits for the link; zero while nobody does
	noPath bool      // the link has no path
	leaves bool      // its bastion is going away
	why    string    // the latest reason that was told
}

// tell begins to write events to out if the output is JSON: what the command prints first comes first.
func (w *linkWatch) tell(out io.Writer, s config.Settings) {
	if s.Output.Format != "json" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = out
}

// emit writes an event. The caller holds w.mu.
func (w *linkWatch) emit(e event) {
	if w.events == nil {
		return
	}
	e.At = time.Now().UTC()
	_ = encodeJSON(w.events, e, "") // who reads may have had enough; the forward goes on
}

// state is told of the link.
func (w *linkWatch) state(st tunnel.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if st.Phase != tunnel.Draining { // the path that was lost has gone with its connection
		w.noPath = false
	}
	why, next := reason(st.Err), fail.NextOf(st.Err)
	switch st.Phase {
	case tunnel.Up:
		w.progress.Idle()
		if !w.lost.IsZero() {
			after := time.Since(w.lost)
			w.progress.Note("the link is restored after " + after.Round(100*time.Millisecond).String())
			w.emit(event{Event: "link_restored", After: after.Seconds()})
		}
		w.idle, w.leaves, w.lost, w.why = false, false, time.Time{}, ""
	case tunnel.Connecting:
		if w.idle {
			w.idle, w.lost = false, time.Now()
			w.progress.Step("a connection needs the bastion; connecting again")
			w.emit(event{Event: "link_wanted"})
		}
		if st.Err != nil {
			w.progress.Step("connecting again: " + withNext(why, next))
			w.waits(why, next, st.RetryAt)
		}
	case tunnel.Reconnecting:
		if w.lost.IsZero() {
			w.lost = st.Since
			w.progress.Note("the link is lost; new connections wait while it is restored")
			w.emit(event{Event: "link_lost", Reason: why})
		}
		step := "restoring the link"
		if st.Err != nil && st.Attempt > 0 {
			step = fmt.Sprintf("restoring the link, attempt %d: %s", st.Attempt+1, withNext(why, next))
			w.waits(why, next, st.RetryAt)
		}
		w.progress.Step(step)
	case tunnel.Draining:
		if st.Err == nil {
			w.progress.Step("the bastion is going away; new connections go to another one")
			if !w.leaves {
				w.leaves = true
				w.emit(event{Event: "bastion_draining"})
			}
			break
		}
		w.progress.Step("the bastion is going away; another one cannot be reached: " + withNext(why, next))
		w.waits(why, next, st.RetryAt)
	case tunnel.Idle:
		w.progress.Idle()
		w.idle, w.leaves, w.lost, w.why = true, false, time.Time{}, ""
		if st.Err == nil {
			w.progress.Note("nobody uses the link, and the bastion has closed it; the next connection opens it again")
		} else {
			w.progress.Note(st.Err.Error() + "; nothing is started now: the next connection starts another one")
		}
		w.emit(event{Event: "link_idle", Reason: why})
	case tunnel.Down:
		w.progress.Idle()
	}
}

// waits tells programs why the link waits, unless they know. The caller holds w.mu.
func (w *linkWatch) waits(reason, next string, retry time.Time) {
	if reason == w.why {
		return
	}
	w.why = reason
	w.emit(event{Event: "waiting", Reason: reason, Next: next, Retry: retry.UTC()})
}

// withNext adds the next step, which may be empty, to a reason.
func withNext(reason, next string) string {
	if next == "" {
		return reason
	}
	return reason + " (" + next + ")"
}

// reason is the text of an error; none of nil.
func reason(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// path is told of the paths under the link.
func (w *linkWatch) path(p report.Path) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p.Lost {
		if !w.noPath {
			w.noPath = true
			w.progress.Note(fmt.Sprintf("no path to the bastion; the connection waits (for up to %s)", duration.String(p.Linger)))
			w.progress.Step("looking for a path to the bastion")
			w.emit(event{Event: "path_lost", Linger: p.Linger.Seconds()})
		}
		if p.Reason != "" {
			w.progress.Step("looking for a path to the bastion: " + withNext(p.Reason, p.Next))
			w.waits(p.Reason, p.Next, p.Retry)
		}
		return
	}
	w.noPath, w.why = false, ""
	after := time.Since(p.Since)
	w.progress.Idle()
	w.progress.Note("path restored after " + after.Round(time.Second).String())
	w.emit(event{Event: "path_restored", After: after.Seconds()})
}
