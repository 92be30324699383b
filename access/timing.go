package access

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/tunnel"
)

// The steps of a start. Some overlap: the session begins while the grant is on its way.
const (
	stepIdentity  = "identity"   // GetCallerIdentity
	stepFind      = "find"       // the search for a bastion that runs
	stepRun       = "run task"   // the network's lookup and RunTask
	stepProvision = "provision"  // until the pull begins, by ECS's clock
	stepPull      = "pull image" // by ECS's clock
	stepContainer = "container"  // until RUNNING, by ECS's clock
	stepExec      = "exec agent" // until ECS says that it runs, and this program sees that
	stepGrant     = "grant"      // ExecuteCommand, and bastiond's answer
	stepSession   = "session"    // StartSession, until its data channel is open
	stepSSH       = "ssh"        // the handshake
	stepAnswer    = "first byte" // bastiond's first answer by SSH
)

// Sources of a step's times.
const (
	sourceHere = "here"
	sourceECS  = "ECS"
)

// trace records the steps of one start. A nil trace records nothing.
type trace struct {
	began time.Time

	mu    sync.Mutex
	steps []report.Step
	state string // of the manager's last event
	since time.Time
	found bastions.Bastion
	isNew bool
	key   ssh.PublicKey // bastiond's host key, of the grant's answer

	grants sync.WaitGroup // that are on their way
}

// begin begins a step; end ends it. A step without an end is not recorded.
func (t *trace) begin(name string) (end func()) {
	if t == nil {
		return func() {}
	}
	from := time.Now()
	return func() { t.add(name, sourceHere, from, time.Now()) }
}

// grant begins to record a grant; answered ends it.
func (t *trace) grant() (answered func(*push)) {
	if t == nil {
		return func(*push) {}
	}
	t.grants.Add(1)
	end := t.begin(stepGrant)
	return func(p *push) {
		defer t.grants.Done()
		if p.err == nil {
			end()
			t.mu.Lock()
			defer t.mu.Unlock()
			t.key = p.hostKey
		}
	}
}

// add records a step.
func (t *trace) add(name, source string, from, to time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.steps = append(t.steps, report.Step{
		Name: name, Begin: from.Sub(t.began).Seconds(), End: max(to.Sub(t.began), from.Sub(t.began)).Seconds(), Source: source,
	})
}

// event records the steps that the manager's changes of state end.
func (t *trace) event(e bastions.Event) {
	if t == nil {
		return
	}
	now := time.Now()
	t.mu.Lock()
	before, since := t.state, t.since
	if before != e.State {
		t.state, t.since = e.State, now
	}
	t.mu.Unlock()
	if before == e.State {
		return
	}
	switch before {
	case "finding":
		t.add(stepFind, sourceHere, since, now)
	case "starting":
		t.add(stepRun, sourceHere, since, now)
	}
}

// task records the steps between RunTask and a bastion that is ready, of which ECS has the times. skew is what its clock is ahead.
func (t *trace) task(b bastions.Bastion, started bool, skew time.Duration) {
	if t == nil {
		return
	}
	ready := time.Now()
	t.mu.Lock()
	t.found, t.isNew = b, started
	t.mu.Unlock()
	if !started {
		return
	}
	ends := []struct {
		name string
		at   time.Time
	}{{stepProvision, b.BilledFrom}, {stepPull, b.PulledAt}, {stepContainer, b.StartedAt}}
	from := b.CreatedAt
	for _, e := range ends {
		if from.IsZero() || e.at.IsZero() {
			from = e.at
			continue
		}
		t.add(e.name, sourceECS, from.Add(-skew), e.at.Add(-skew))
		from = e.at
	}
	if !from.IsZero() {
		t.add(stepExec, sourceHere, from.Add(-skew), ready)
	}
}

// Timed is a start with its steps.
type Timed struct {
	UpResult
	Steps   []report.Step `json:"steps"`
	Seconds float64       `json:"seconds"` // until bastiond's first answer by SSH
}

// UpTimed is Up that goes on to bastiond's first answer over SSH, as a forward does, and says how long each step took. Call it once, before
// any other method.
func (a *Access) UpTimed(ctx context.Context) (Timed, error) {
	const op = "start the bastion"
	if err := a.needsTask(op); err != nil {
		return Timed{}, err
	}
	t := &trace{began: time.Now()}
	a.trace = t
	link := a.newLink(&taskConnector{access: a}, new(awssdk.LastFailure), func(tunnel.State) {})
	link.Start(ctx)
	defer func() { _ = link.Close() }()
	if err := link.Ready(ctx); err != nil {
		return Timed{UpResult: UpResult{New: t.started()}}, err
	}
	t.sshAfterSession()
	answered := t.begin(stepAnswer)
	ok, reply, err := link.Request(ctx, infoRequest, nil)
	if err != nil {
		return Timed{}, err
	}
	answered()
	var info struct{ Version string }
	if err := json.Unmarshal(reply, &info); !ok || err != nil {
		return Timed{}, fail.New(fail.Start, op, fmt.Errorf("bastiond answers %q", reply), "use an image of this version")
	}
	seconds := time.Since(t.began).Seconds()
	if err := a.answered(ctx, &t.grants); err != nil { // a first contact is over before the grant's answer is back
		return Timed{}, err
	}
	steps := t.inOrder()
	t.mu.Lock()
	defer t.mu.Unlock()
	out := Timed{UpResult: UpResult{Bastion: a.priced(t.found), New: t.isNew, Version: info.Version}, Steps: steps, Seconds: seconds}
	if t.key != nil {
		out.HostKey = ssh.FingerprintSHA256(t.key)
	}
	return out, nil
}

// answered waits for grants that are on their way. They end with the Access at the latest.
func (a *Access) answered(ctx context.Context, grants *sync.WaitGroup) error {
	done := make(chan struct{})
	a.tasks.Go(func() {
		grants.Wait()
		close(done)
	})
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// inOrder returns the steps in the order of their begins.
func (t *trace) inOrder() []report.Step {
	t.mu.Lock()
	defer t.mu.Unlock()
	steps := slices.Clone(t.steps)
	slices.SortStableFunc(steps, func(x, y report.Step) int { return cmp.Compare(x.Begin, y.Begin) })
	return steps
}

// started reports whether the start has made a task.
func (t *trace) started() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.isNew
}

// infoRequest is the global request for what bastiond says of itself.
const infoRequest = "info@bastion"

// sshAfterSession records the SSH handshake, which ends now: it began with the last session.
func (t *trace) sshAfterSession() {
	now := time.Now()
	t.mu.Lock()
	from := t.began
	for _, s := range t.steps {
		if s.Name == stepSession {
			from = t.began.Add(time.Duration(s.End * float64(time.Second)))
		}
	}
	t.mu.Unlock()
	t.add(stepSSH, sourceHere, from, now)
}
