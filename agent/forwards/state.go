package forwards

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// State says where a forward is in its life. A forward that the registry does not have yet has none.
type State uint8

// The states of a forward. docs/adr/0011-forward-states.md has the table.
const (
	Opening  State = iota + 1 // a request waits for it; it holds the name that was asked for, and has no clients
	Ready                     // it listens, and the last attempt to reach the bastion did not fail
	Failed                    // it listens, but the last attempt to reach the bastion failed
	Unopened                  // it is written down, but its port could not be opened
	Ended                     // it is over; nothing follows
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

// transitions has the states that may follow each state. The zero State is that of a forward before its registry has it. A forward that
// fails again stays in its state.
var transitions = map[State][]State{
	0:        {Opening, Unopened},
	Opening:  {Ready, Ended},
	Ready:    {Failed, Ended},
	Failed:   {Ready, Ended},
	Unopened: {Ready, Ended},
	Ended:    nil,
}

// Forward is a forward of a Registry, which alone changes it.
type Forward struct {
	record   Record
	detached bool
	pid      int

	state  State
	last   State // before Ended
	opened time.Time
	fault  error     // of Failed and Unopened
	since  time.Time // of Failed and Unopened: when it began
	retry  time.Time // of Failed: not before
	why    error     // of Ended
}

// move takes the forward from one state to another. It refuses a step that the table does not have, and one of a forward that is in
// another state than from.
func (f *Forward) move(from, to State) error {
	if f.state != from || !slices.Contains(transitions[from], to) {
		return fmt.Errorf("the forward %s is %s and cannot become %s", f.Name(), f.state, to)
	}
	f.state = to
	return nil
}

// mustMove is move from the state that the forward has, which the caller knows to allow it.
func (f *Forward) mustMove(to State) {
	if err := f.move(f.state, to); err != nil {
		panic(err)
	}
}

// State returns the forward's state.
func (f *Forward) State() State { return f.state }

// Serves reports whether clients can connect to the forward.
func (f *Forward) Serves() bool { return f.state == Ready || f.state == Failed }

// Record returns what the forward can be made of again. Its name and its address are final once the forward is Ready.
func (f *Forward) Record() Record { return f.record }

// Name returns the forward's name; "" while it is Opening and none was asked for.
func (f *Forward) Name() string { return f.record.Request.Name }

// Detached reports whether the forward outlives its request.
func (f *Forward) Detached() bool { return f.detached }

// Fault returns why the forward is Failed or Unopened; nil in other states.
func (f *Forward) Fault() error { return f.fault }

// Wait returns the forward's fault while it is too early to try again.
func (f *Forward) Wait(now time.Time) error {
	if f.state == Failed && now.Before(f.retry) {
		return f.fault
	}
	return nil
}

// Why returns why the forward has Ended.
func (f *Forward) Why() error { return f.why }

// Show returns what others see of the forward, without its clients and its link. One that has Ended looks as it did before.
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
