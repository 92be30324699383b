package agent

import (
	"time"

	"github.com/bastion-ssm/bastion/agent/forwards"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/tunnel"
)

// restore opens the forwards again that were written down. Their links are made when somebody connects.
func (a *Agent) restore() {
	records, err := a.store.load()
	if err != nil {
		kept, keepErr := a.store.setAside()
		a.log.Warn("the detached forwards of the last run are not known", "err", err, "kept", kept, "keep_err", keepErr)
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

// reopen opens the forwards that could not be opened before, in the order of their names, and writes down what could not be written.
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
			a.log.Warn("a forward could not be opened again", "forward", f.Name(), "err", err)
		}
		a.mu.Unlock()
	}
	_ = a.writer.save() // it logs a failure
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
		// The link's id may have been written down by another version.
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
