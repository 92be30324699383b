package access

import (
	"context"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/words"
)

// ensure finds or starts the task and waits until its exec agent runs.
func (a *Access) ensure(ctx context.Context) (spec bastions.Spec, b *bastions.Bastion, started bool, err error) {
	a.progress("looking for your bastion")
	known := a.trace.begin(stepIdentity)
	if spec, err = a.spec(ctx); err != nil {
		return spec, nil, false, err
	}
	known()
	b, started, err = a.manager.Ensure(ctx, spec, func(e bastions.Event) {
		a.trace.event(e)
		a.reportEvent(e)
	})
	if err == nil {
		skew, _ := a.clock.Skew()
		a.trace.task(*b, started, skew)
	}
	return spec, b, started, err
}

func (a *Access) reportEvent(e bastions.Event) { a.progress(describeEvent(e)) }

// StepStarting begins the progress step that asks AWS for a new task. A caller that gives up after this step leaves a task
// behind.
const StepStarting = "starting a bastion"

// describeEvent returns the progress text for an event of Ensure.
func describeEvent(e bastions.Event) string {
	var text string
	switch e.State {
	case "finding":
		text = "looking for your bastion"
	case "starting":
		text = StepStarting
	case "exec agent":
		text = "waiting for the bastion's exec agent"
	case "ready":
		return "the bastion runs"
	default:
		text = "waiting for the bastion's task: " + e.State
	}
	return text + words.Parenthesis(e.Detail)
}

func describe(b *bastions.Bastion) string { return "bastion " + b.TaskID }
