package access

import (
	"cmp"
	"slices"
	"sync"

	"github.com/bastion-ssm/bastion/internal/report"
)

// links are an Access's links.
type links struct {
	begin sync.Once // starts the watchers, and shows the links
	mu    sync.Mutex
	hide  func() // undoes Show
	shown map[shownLink]struct{}
}

// shownLink is a link, or a stream that another program's SSH client uses.
type shownLink interface {
	live() []report.Link // the link's state
	probe()              // makes its sessions check whether they live
}

// addLink makes l one of the Access's links until the caller calls hide. The first link starts the watchers and Options.Show.
// Close ends them.
func (a *Access) addLink(l shownLink) (hide func()) {
	a.links.begin.Do(func() {
		wakes := make(chan struct{}, 1)
		a.tasks.Go(func() { a.watchCredentials(wakes) })
		a.tasks.Go(func() { a.watchWake(wakes) })
		if a.options.Show != nil {
			hide := a.options.Show(a)
			a.links.mu.Lock()
			defer a.links.mu.Unlock()
			a.links.hide = hide
		}
	})
	a.links.mu.Lock()
	defer a.links.mu.Unlock()
	if a.links.shown == nil {
		a.links.shown = make(map[shownLink]struct{})
	}
	a.links.shown[l] = struct{}{}
	return func() {
		a.links.mu.Lock()
		defer a.links.mu.Unlock()
		delete(a.links.shown, l)
	}
}

// probe makes all sessions check whether they live.
func (a *Access) probe() {
	a.bonds.probe()
	a.links.mu.Lock()
	defer a.links.mu.Unlock()
	for l := range a.links.shown {
		l.probe()
	}
}

// Links returns the state of the Access's links.
func (a *Access) Links() []report.Link {
	a.links.mu.Lock()
	defer a.links.mu.Unlock()
	out := []report.Link{}
	for l := range a.links.shown {
		out = append(out, l.live()...)
	}
	for i := range out {
		out[i].SignIn = a.signIn.Load()
	}
	slices.SortFunc(out, func(x, y report.Link) int { return cmp.Or(cmp.Compare(x.Bastion, y.Bastion), x.Since.Compare(y.Since)) })
	return out
}
