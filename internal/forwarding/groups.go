package forwarding

import (
	"cmp"
	"context"
	"errors"
	"sync"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/linkview"
)

// errStopped is why the groups of a command end whose forwards somebody has stopped.
var errStopped = errors.New("the forwards are stopped")

// openGroups opens the forwards of several groups, all or none, and does work while all are open.
func (a *Forwarder) openGroups(ctx context.Context, w Wanted, p *console.Progress, do Work) error {
	common, end := context.WithCancelCause(ctx)
	defer end(nil)
	all := make([]api.Forward, len(request.Items(w.Groups)))
	watches := make([]*linkview.Watch, len(w.Groups))
	ready := make(chan struct{}, len(w.Groups))
	done := make(chan struct{}) // work has ended
	var groups sync.WaitGroup
	for n, g := range w.Groups {
		groups.Go(func() {
			err := a.openGroup(common, w, g, p, func(ctx context.Context, forwards []api.Forward, watch []*linkview.Watch) error {
				for i, f := range forwards {
					all[g.At[i]] = f
				}
				watches[n] = watch[0]
				ready <- struct{}{}
				select {
				case <-done:
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			})
			select {
			case <-done:
			default:
				end(cmp.Or(err, errStopped))
			}
		})
	}
	err := awaitGroups(common, ready, len(w.Groups))
	if err == nil {
		err = do(common, all, watches)
	}
	close(done)
	groups.Wait()
	switch cause := context.Cause(common); {
	case context.Cause(ctx) != nil:
		return cmp.Or(err, context.Cause(ctx))
	case errors.Is(cause, errStopped) && (errors.Is(err, errStopped) || err == nil):
		return nil
	}
	return err
}

// awaitGroups waits until n groups are ready.
func awaitGroups(ctx context.Context, ready <-chan struct{}, n int) error {
	for range n {
		select {
		case <-ready:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
