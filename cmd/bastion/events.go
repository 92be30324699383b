package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/tunnel"
)

// event is a line of the JSON output about what became of a link.
type event struct {
	Event  string    `json:"event"` // link_lost, link_restored, link_idle, bastion_draining, path_lost or path_restored
	At     time.Time `json:"at"`
	After  float64   `json:"after_seconds,omitempty"`  // how long it was lost
	Linger float64   `json:"linger_seconds,omitempty"` // how long connections wait for a path
}

// linkWatch tells of a link that is lost and restored, and of its paths: on standard error for people, and where events is
// set there for programs. Links and their paths report from different goroutines.
type linkWatch struct {
	progress *progress

	mu     sync.Mutex
	events io.Writer // nil: none are wanted, or not yet
	everUp bool
	lost   time.Time
}

// tell begins to write events to out if the output is JSON: what the command prints first comes first.
func (w *linkWatch) tell(out io.Writer, s config.Settings) {
	if s.Output != "json" {
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
	_ = json.NewEncoder(w.events).Encode(e) // who reads may have had enough; the forward goes on
}

// state is told of the link.
func (w *linkWatch) state(st tunnel.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch st.Phase {
	case tunnel.Up:
		w.progress.Idle()
		if !w.lost.IsZero() {
			after := time.Since(w.lost)
			w.progress.Note("the link is restored after " + after.Round(100*time.Millisecond).String())
			w.emit(event{Event: "link_restored", After: after.Seconds()})
		}
		w.everUp, w.lost = true, time.Time{}
	case tunnel.Connecting:
		if st.Err != nil {
			w.progress.Step("connecting again: " + st.Err.Error())
		}
	case tunnel.Reconnecting:
		if w.lost.IsZero() {
			w.lost = st.Since
			w.progress.Note("the link is lost; new connections wait while it is restored")
			w.emit(event{Event: "link_lost"})
		}
		step := "restoring the link"
		if st.Err != nil && st.Attempt > 0 {
			step = fmt.Sprintf("restoring the link, attempt %d: %s", st.Attempt+1, st.Err)
		}
		w.progress.Step(step)
	case tunnel.Draining:
		w.progress.Step("the bastion is going away; moving to another one")
		w.emit(event{Event: "bastion_draining"})
	case tunnel.Idle:
		w.progress.Idle()
		w.progress.Note("the bastion has gone; the next connection starts another one")
		w.emit(event{Event: "link_idle"})
	case tunnel.Down:
		w.progress.Idle()
	}
}

// path is told of the paths under the link.
func (w *linkWatch) path(p agent.Path) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p.Lost {
		w.progress.Note(fmt.Sprintf("no path to the bastion; the connection waits (for up to %s)", short(p.Linger)))
		w.progress.Step("looking for a path to the bastion")
		w.emit(event{Event: "path_lost", Linger: p.Linger.Seconds()})
		return
	}
	after := time.Since(p.Since)
	w.progress.Idle()
	w.progress.Note("path restored after " + after.Round(time.Second).String())
	w.emit(event{Event: "path_restored", After: after.Seconds()})
}

// short prints a duration without its zero parts: 30m, not 30m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
