package agent

import (
	"time"

	"github.com/bastion-ssm/bastion/agent/forwards"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/tunnel"
)

// restore reopens the forwards in the file. A forward's first client makes its link.
func (a *Agent) restore() {
	records, err := a.store.load()
	if err != nil {
		kept, keepErr := a.store.setAside()
		a.log.Warn("cannot load the detached forwards of the last run", "err", err, "kept", kept, "keep_err", keepErr)
		return
	}
	a.mu.Lock()
	for _, r := range records {
		a.registry.Restore(r, time.Now())
	}
	_, revision := a.registry.Kept()
	a.mu.Unlock()
	a.writer.loaded(revision)
	a.reopen()
}

// reopen retries Unopened forwards, in the order of their names, and an earlier failed save of the file.
func (a *Agent) reopen() {
	a.mu.Lock()
	tries := a.registry.Unopened()
	a.mu.Unlock()
	for _, f := range tries {
		err := a.reopenOne(f)
		if err == nil {
			continue
		}
		a.mu.Lock()
		if a.registry.Fail(f, err, time.Time{}, time.Now()) {
			a.touch()
			a.log.Warn("cannot reopen a forward", "forward", f.Name(), "err", err)
		}
		a.mu.Unlock()
	}
	_ = a.writer.save() // save logs a failure
}

func (a *Agent) reopenOne(f *forwards.Forward) error {
	a.mu.Lock()
	r := f.Record()
	a.mu.Unlock()
	settings, err := config.FromTexts(r.Scope.Settings)
	if err != nil {
		return err
	}
	ln, err := tunnel.Listen(a.ctx, r.Request.Listen, settings.Forward.AllowRemote)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err = errClosing; !a.closing {
		// another version may have saved another link id
		err = a.registry.Reopen(f, ln.Addr().String(), linkKey(settings, r.Scope.Env, r.Owner), time.Now())
	}
	if err != nil {
		_ = ln.Close()
		return err
	}
	a.control(f, ln, nil, nil, nil)
	a.touch()
	return nil
}
