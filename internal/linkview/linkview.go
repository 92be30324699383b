// Package linkview reports what happens to a command's link to its bastion: losses, restorations, waits and the bastion's end.
// People read messages on standard error, and programs read events on standard output, one line of JSON each (docs/status.md).
// Every command with a link uses the same words.
package linkview

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/duration"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/process"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/tunnel"
)

// event is a line of the JSON output about a link.
type event struct {
	Event  string    `json:"event"` // of docs/status.md
	In     string    `json:"environment,omitempty"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`         // why the link is lost or idle, if known
	After  float64   `json:"after_seconds,omitempty"`  // how long it was lost
	Linger float64   `json:"linger_seconds,omitempty"` // how long connections wait for a path
	Next   string    `json:"next,omitempty"`           // what the user can do about reason
	Retry  time.Time `json:"retry_at,omitzero"`        // when the next attempt begins
}

// Watch reports the state of a link and its paths: to people on standard error, and to programs as events, if these are on. Links
// and their paths report from different goroutines.
type Watch struct {
	Progress    *console.Progress
	Environment string // of the link; "": none

	mu     sync.Mutex
	events io.Writer // nil: no events, or not yet
	idle   bool      // the link is unused, and nothing restores it
	lost   time.Time // since when a user waits for the link; zero: none does
	noPath bool      // the link has no path
	leaves bool      // its bastion is draining
	starts bool      // a task is starting
	why    string    // the latest reported reason
}

// WriteEvents starts to write events to out. The command calls it after its first lines, which come first.
func (w *Watch) WriteEvents(out io.Writer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = out
}

// emit writes an event. Callers hold w.mu.
func (w *Watch) emit(e event) {
	if w.events == nil {
		return
	}
	e.At, e.In = time.Now().UTC(), w.Environment
	_ = console.WriteJSON(w.events, e, "") // the reader may have closed the output; the forward goes on
}

// Event takes in an event of a request to the agent.
func (w *Watch) Event(e api.Event) {
	switch e.Event {
	case api.EventStep:
		w.step(e.Text)
	case api.EventNote, api.EventRefused, api.EventStopped:
		w.Progress.Note(e.Text)
	case api.EventLink:
		if l := e.Link; l != nil {
			st := tunnel.State{Phase: l.Phase, Since: l.Since, Attempt: l.Attempt, RetryAt: l.Retry, Describe: l.Bastion}
			if l.Error != "" {
				st.Err = fail.New(fail.Other, "", errors.New(l.Error), l.Next)
			}
			w.State(st)
		}
	case api.EventPath:
		if e.Path != nil {
			w.Path(*e.Path)
		}
	}
}

// step shows a request's wait.
func (w *Watch) step(text string) {
	w.mu.Lock()
	w.starts = w.starts || strings.HasPrefix(text, access.StepStarting)
	w.mu.Unlock()
	w.Progress.Step(text)
}

// GivenUp says what remains of a command that a signal ended before it was ready.
func (w *Watch) GivenUp(ctx context.Context) {
	if !errors.As(context.Cause(ctx), new(process.Interrupted)) {
		return
	}
	w.mu.Lock()
	starts := w.starts
	w.mu.Unlock()
	if starts {
		w.Progress.Note("the bastion task that is being started stays, until nobody has used it for a while; bastion down stops it")
	}
}

// State takes in a state of the link.
func (w *Watch) State(st tunnel.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if st.Phase != tunnel.Draining { // the lost path has gone with its connection
		w.noPath = false
	}
	why, next := reason(st.Err), fail.NextOf(st.Err)
	switch st.Phase {
	case tunnel.Up:
		w.Progress.Idle()
		if !w.lost.IsZero() {
			after := time.Since(w.lost)
			w.Progress.Note("the link is restored after " + after.Round(100*time.Millisecond).String())
			w.emit(event{Event: "link_restored", After: after.Seconds()})
		}
		w.idle, w.leaves, w.lost, w.why = false, false, time.Time{}, ""
	case tunnel.Connecting:
		if w.idle {
			w.idle, w.lost = false, time.Now()
			w.Progress.Step("a connection needs the bastion; connecting again")
			w.emit(event{Event: "link_wanted"})
		}
		if st.Err != nil {
			w.Progress.Step("connecting again: " + withNext(why, next))
			w.waits(why, next, st.RetryAt)
		}
	case tunnel.Reconnecting:
		if w.lost.IsZero() {
			w.lost = st.Since
			w.Progress.Note("the link is lost; new connections wait while it is restored")
			w.emit(event{Event: "link_lost", Reason: why})
		}
		step := "restoring the link"
		if st.Err != nil && st.Attempt > 0 {
			step = fmt.Sprintf("restoring the link, attempt %d: %s", st.Attempt+1, withNext(why, next))
			w.waits(why, next, st.RetryAt)
		}
		w.Progress.Step(step)
	case tunnel.Draining:
		if st.Err == nil {
			w.Progress.Step("the bastion is going away; new connections go to another one")
			if !w.leaves {
				w.leaves = true
				w.emit(event{Event: "bastion_draining"})
			}
			break
		}
		w.Progress.Step("the bastion is going away; another one cannot be reached: " + withNext(why, next))
		w.waits(why, next, st.RetryAt)
	case tunnel.Idle:
		w.Progress.Idle()
		w.idle, w.leaves, w.lost, w.why = true, false, time.Time{}, ""
		if st.Err == nil {
			w.Progress.Note("nobody uses the link, and the bastion has closed it; the next connection opens it again")
		} else {
			w.Progress.Note(st.Err.Error() + "; nothing is started now: the next connection starts another one")
		}
		w.emit(event{Event: "link_idle", Reason: why})
	case tunnel.Down:
		w.Progress.Idle()
	}
}

// waits tells programs why the link waits, unless they know. Callers hold w.mu.
func (w *Watch) waits(reason, next string, retry time.Time) {
	if reason == w.why {
		return
	}
	w.why = reason
	w.emit(event{Event: "waiting", Reason: reason, Next: next, Retry: retry.UTC()})
}

// withNext appends the next step, which may be empty, to a reason.
func withNext(reason, next string) string {
	if next == "" {
		return reason
	}
	return reason + " (" + next + ")"
}

// reason returns the text of an error; "" for nil.
func reason(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Path takes in the state of the paths under the link.
func (w *Watch) Path(p report.Path) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p.Lost {
		if !w.noPath {
			w.noPath = true
			w.Progress.Note(fmt.Sprintf("no path to the bastion; the connection waits (for up to %s)", duration.String(p.Linger)))
			w.Progress.Step("looking for a path to the bastion")
			w.emit(event{Event: "path_lost", Linger: p.Linger.Seconds()})
		}
		if p.Reason != "" {
			w.Progress.Step("looking for a path to the bastion: " + withNext(p.Reason, p.Next))
			w.waits(p.Reason, p.Next, p.Retry)
		}
		return
	}
	w.noPath, w.why = false, ""
	after := time.Since(p.Since)
	w.Progress.Idle()
	w.Progress.Note("path restored after " + after.Round(time.Second).String())
	w.emit(event{Event: "path_restored", After: after.Seconds()})
}
