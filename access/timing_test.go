package access

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/report"
)

// The steps between RunTask and the exec agent are ECS's own, put onto this machine's clock; those that ECS does not tell are left out.
func TestTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		tr := &trace{began: began}
		at := func(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }
		for _, state := range []string{"finding", "finding", "starting", "PROVISIONING", "PENDING", "exec agent", "ready"} {
			tr.event(bastions.Event{State: state})
			<-time.After(time.Second) // synctest's clock
		}
		const ahead = 100 * time.Second
		b := bastions.Bastion{
			TaskID: "x", CreatedAt: at(3).Add(ahead), BilledFrom: at(4).Add(ahead), PulledAt: at(5).Add(ahead), StartedAt: at(6).Add(ahead),
		}
		tr.task(b, true, ahead)
		step := func(name string, from, to float64, source string) report.Step {
			return report.Step{Name: name, Begin: from, End: to, Source: source}
		}
		want := []report.Step{
			step(stepFind, 0, 2, sourceHere), step(stepRun, 2, 3, sourceHere),
			step(stepProvision, 3, 4, sourceECS), step(stepPull, 4, 5, sourceECS), step(stepContainer, 5, 6, sourceECS),
			step(stepExec, 6, 7, sourceHere),
		}
		if d := cmp.Diff(want, tr.steps); d != "" {
			t.Error(d)
		}

		untold := &trace{began: began}
		untold.task(bastions.Bastion{CreatedAt: at(3), StartedAt: at(6)}, true, 0)
		if d := cmp.Diff([]report.Step{step(stepExec, 6, 7, sourceHere)}, untold.steps); d != "" {
			t.Error(d)
		}
		found := &trace{began: began}
		found.task(b, false, 0)
		if len(found.steps) != 0 || found.started() {
			t.Errorf("a bastion that ran has the steps %v", found.steps)
		}
		var none *trace // of every other command
		none.begin("x")()
		none.grant()(nil)
		none.event(bastions.Event{})
		none.task(b, true, 0)
	})
}

// A start that is measured waits for the grant's answer no longer than its caller.
func TestAnsweredEndsWithItsCaller(t *testing.T) {
	a := new(Access)
	var grants sync.WaitGroup
	grants.Add(1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.answered(ctx, &grants); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	grants.Done()
	if err := a.answered(t.Context(), &grants); err != nil {
		t.Error(err)
	}
	a.tasks.Wait()
}
