package forwards

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// State is a forward's state. The zero State is that of a forward that is not yet in a registry.
type State uint8

// The states of a forward. docs/adr/0011-forward-states.md has the table.
const (
	Opening  State = iota + 1 // a request waits for it; it holds the requested name and has no clients
	Ready                     // it listens, and the last attempt to reach the bastion did not fail
	Failed                    // it listens, but the last attempt to reach the bastion failed
	Unopened                  // it is saved, but its port could not be opened
	Ended                     // final
)

var stateNames = map[State]string{
	Opening: "opening", Ready: "ready", Failed: "failed", Unopened: "unopened", Ended: "ended",
}

func (s State) String() string {
	if name, ok := stateNames[s]; ok {
		return name
	}
	return "state " + strconv.Itoa(int(s))
}

// transitions lists the states that may follow each state. A forward that fails again stays Failed.
var transitions = map[State][]State{
	0:        {Opening, Unopened},
	Opening:  {Ready, Ended},
	Ready:    {Failed, Ended},
	Failed:   {Ready, Ended},
	Unopened: {Ready, Ended},
	Ended:    nil,
}

// Forward is a Registry's forward. Only the Registry changes it.
type Forward struct {
	record   Record
	detached bool
	pid      int

	state  State
	last   State // before Ended
	opened time.Time
	fault  error     // of Failed and Unopened
	since  time.Time // start of Failed or Unopened
	retry  time.Time // of Failed: earliest time of the next attempt
	why    error     // of Ended
}

// move moves the forward between states. It refuses a transition that the table lacks, and a forward that is not in from.
func (f *Forward) move(from, to State) error {
	if f.state != from || !slices.Contains(transitions[from], to) {
		return fmt.Errorf("the forward %s is %s and cannot become %s", f.Name(), f.state, to)
	}
	f.state = to
	return nil
}

// mustMove moves the forward from its current state. The caller must know that the table has the transition.
func (f *Forward) mustMove(to State) {
	if err := f.move(f.state, to); err != nil {
		panic(err)
	}
}

// State returns the forward's state.
func (f *Forward) State() State { return f.state }

// Serves reports whether clients can connect to the forward.
func (f *Forward) Serves() bool { return f.state == Ready || f.state == Failed }

// Record returns the forward's record. Its name and address are final once the forward is Ready.
func (f *Forward) Record() Record { return f.record }

// Name returns the forward's name; "" while it is Opening without a requested name.
func (f *Forward) Name() string { return f.record.Request.Name }

// Detached reports whether the forward outlives its request.
func (f *Forward) Detached() bool { return f.detached }

// Fault returns why the forward is Failed or Unopened; nil in other states.
func (f *Forward) Fault() error { return f.fault }

// Wait returns the forward's fault until another attempt makes sense.
func (f *Forward) Wait(now time.Time) error {
	if f.state == Failed && now.Before(f.retry) {
		return f.fault
	}
	return nil
}

// Why returns the reason why the forward has Ended.
func (f *Forward) Why() error { return f.why }

// Show returns the API's view of the forward, without its clients and link. An Ended forward looks as it did before.
func (f *Forward) Show() api.Forward {
	out := f.record.show()
	out.Detached, out.PID, out.Opened = f.detached, f.pid, f.opened
	out.State = api.ForwardReady
	if state := f.state; state == Failed || state == Unopened || state == Ended && (f.last == Failed || f.last == Unopened) {
		out.State, out.Since, out.Retry = api.ForwardFailed, f.since, f.retry
	}
	if f.fault != nil {
		out.Error, out.Next = f.fault.Error(), fail.NextOf(f.fault)
	}
	return out
}
