package access

import (
	"context"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/internal/sleep"
)

// keepGranted calls renew before each grant ends. It stops when ended is closed, at the Access's Close, or when the bastion
// grants no longer because its own life ends. It retries a failure until the grant ends: the user may have to sign in to AWS
// again.
func (x *admission) keepGranted(ended <-chan struct{}, renew func() (*push, error)) {
	a := x.access
	lifetime := a.settings.Grant.Lifetime
	// An early renewal bridges a machine that sleeps at the due time, and an AWS API that does not answer.
	margin := max(lifetime/4, min(a.settings.Link.Linger, lifetime/2))
	ctx, cancel := context.WithCancel(a.ctx)
	defer cancel()
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer cancel()
	watcher.Go(func() {
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	})
	if x.latest().wait(ctx) != nil {
		return
	}
	for until := x.until(); sleepUntil(ctx, until.Add(-margin)) == nil; {
		p, err := renew()
		if err == nil {
			err = p.wait(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && !p.until.After(until):
			return // the bastion's own life ends before a longer grant would
		case err == nil:
			until = p.until
			x.mu.Lock()
			x.push = p
			x.mu.Unlock()
		case !time.Now().Before(until):
			return
		default:
			a.log.Warn("the grant could not be renewed; the connection ends with it", "err", err, "at", until)
			if sleep.For(ctx, lifetime/40) != nil {
				return
			}
		}
	}
}

// renew hands over a new grant after another look at the task: its tags may have changed, and a task of another owner must not
// get a grant.
func (x *admission) renew() (*push, error) {
	if _, err := x.access.manager.Get(x.access.ctx, x.spec, x.bastion.TaskARN); err != nil {
		return nil, err
	}
	return x.grant(false)
}

// clockCheck is how often sleepUntil compares the wall clock: timers stand still while the machine sleeps.
const clockCheck = 30 * time.Second

// sleepUntil waits until the wall clock reaches t, or until ctx ends.
func sleepUntil(ctx context.Context, t time.Time) error {
	for {
		left := t.Round(0).Sub(time.Now().Round(0))
		if err := sleep.For(ctx, min(left, clockCheck)); err != nil || left <= clockCheck {
			return err
		}
	}
}
