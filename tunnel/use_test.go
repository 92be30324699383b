package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fleet is a Connector to a bastion that can stop, and is then replaced for the uses that are worth it.
type fleet struct {
	*bastion
	worth Use // from which on a stopped bastion is replaced

	mu      sync.Mutex
	stopped bool
	full    bool // the started server does not come up
	started int
	uses    []Use
}

func (f *fleet) set(stopped, full bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped, f.full = stopped, full
}

// seen returns how many bastions were started, and what for Connect was called after the first time.
func (f *fleet) seen() (started int, uses []Use) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.started, slices.Clone(f.uses[1:])
}

func (f *fleet) Connect(ctx context.Context) (*Transport, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	use := UseOf(ctx)
	f.uses = append(f.uses, use)
	_, draining := Replacing(ctx)
	switch {
	case f.started > 0 && !f.stopped && !draining:
	case f.started == 0, use >= f.worth:
		f.started, f.stopped = f.started+1, f.full
		if f.full {
			return nil, errors.New("no capacity")
		}
		f.name = fmt.Sprint("bastion-", f.started)
	default:
		return nil, Gone(errors.New("stopped on purpose"))
	}
	return f.bastion.Connect(WithUse(ctx, Wanted))
}

// After a loss the Link has its bastion back. It has another one only if the Connector finds the purpose worth it. The rows give
// the purpose, the started servers, and the Link's state then.
func TestLinkUse(t *testing.T) {
	type test struct {
		name            string
		held, dial      bool // a connection is in use when the link is lost; a dial comes an hour later
		closes          bool // the user of the connection closes it at once
		stopped, drains bool // the bastion has stopped; it says so before
		worth           Use
		uses            []Use // after the first
		started         int
		phase           Phase
	}
	for _, tt := range []test{
		{name: "nobody, the bastion stands", worth: Wanted, uses: []Use{Unused}, started: 1, phase: Up},
		{name: "nobody", stopped: true, worth: Interrupted, uses: []Use{Unused}, started: 1, phase: Idle},
		{name: "nobody, drain", stopped: true, drains: true, worth: Interrupted, uses: []Use{Unused}, started: 1, phase: Idle},
		{name: "held", held: true, stopped: true, worth: Interrupted, uses: []Use{Interrupted}, started: 2, phase: Up},
		{
			name: "held and closed", held: true, closes: true, stopped: true, worth: Interrupted, uses: []Use{Interrupted},
			started: 2, phase: Up,
		},
		{
			name: "held, drain", held: true, stopped: true, drains: true, worth: Interrupted, uses: []Use{Interrupted},
			started: 2, phase: Up,
		},
		{name: "held, on purpose", held: true, stopped: true, worth: Wanted, uses: []Use{Interrupted}, started: 1, phase: Idle},
		{
			name: "held, on purpose, drain", held: true, stopped: true, drains: true, worth: Wanted, uses: []Use{Interrupted},
			started: 1, phase: Idle,
		},
		{
			name: "a dial later", stopped: true, dial: true, worth: Wanted, uses: []Use{Unused, Wanted}, started: 2, phase: Up,
		},
		{
			name: "held and a dial later", held: true, stopped: true, dial: true, drains: true, worth: Wanted,
			uses: []Use{Interrupted, Wanted}, started: 2, phase: Up,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bastion) {
				f := &fleet{bastion: b, worth: tt.worth}
				l := readyLink(t, f, LinkConfig{})
				var held net.Conn
				if tt.held {
					held = mustDial(t, l)
					defer held.Close()
				}
				var user sync.WaitGroup
				defer user.Wait()
				if tt.closes {
					user.Go(func() {
						_, _ = held.Read(make([]byte, 1))
						_ = held.Close()
					})
				}
				f.set(tt.stopped, false)
				if tt.drains {
					b.drain(t, 0, "25")
				} else {
					b.session(0).near.cut()
				}
				advance(time.Hour)
				if tt.dial {
					if got := l.State(); got.Phase != Idle || !strings.Contains(got.Err.Error(), "stopped on purpose") {
						t.Errorf("before the dial: %s, %v", got.Phase, got.Err)
					}
					c := mustDial(t, l)
					defer c.Close()
					mustEcho(t, c, "again")
				}
				synctest.Wait()
				started, uses := f.seen()
				if got := l.State().Phase; got != tt.phase || started != tt.started || !slices.Equal(uses, tt.uses) {
					t.Errorf("%s, %d started, uses %v; want %s, %d, %v", got, started, uses, tt.phase, tt.started, tt.uses)
				}
				if tt.held && tt.worth == Wanted {
					_, err := held.Read(make([]byte, 1))
					if !IsLost(err) || tt.drains && !strings.Contains(err.Error(), "stopped on purpose") {
						t.Errorf("the connection was cut with %v", err)
					}
				}
			})
		})
	}
}

func mustDial(t *testing.T, l *Link) net.Conn {
	t.Helper()
	c, err := l.Dial(t.Context(), "tcp", "db:5432")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Ready makes an Idle Link connect, and its end makes the Link wait again.
func TestLinkReadyWakes(t *testing.T) {
	bubble(t, func(t *testing.T, b *bastion) {
		f := &fleet{bastion: b, worth: Wanted}
		var seen phases
		l := readyLink(t, f, LinkConfig{OnState: seen.add})
		f.set(true, false)
		b.session(0).near.cut()
		advance(time.Hour)
		err := l.Ready(soon(t))
		if n, _ := f.seen(); err != nil || n != 2 {
			t.Errorf("%v, %d started", err, n)
		}
		_ = l.Close()
		want := []Phase{Connecting, Up, Reconnecting, Idle, Connecting, Up, Down}
		if got := seen.list(); !slices.Equal(got, want) {
			t.Errorf("phases %v, want %v", got, want)
		}
	})
}

// Once the dials that an Idle Link tries to connect for have given up, it starts nothing more.
func TestLinkDialGivenUpWhileIdle(t *testing.T) {
	bubble(t, func(t *testing.T, b *bastion) {
		f := &fleet{bastion: b, worth: Wanted}
		l := readyLink(t, f, LinkConfig{})
		f.set(true, true)
		b.session(0).near.cut()
		advance(time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := l.Dial(ctx, "tcp", "db:5432"); err == nil {
			t.Fatal("dialed")
		}
		before, _ := f.seen()
		advance(time.Hour)
		if after, _ := f.seen(); before < 2 || after != before || l.State().Phase != Idle {
			t.Errorf("%d started, then %d, and %s", before, after, l.State().Phase)
		}
	})
}
