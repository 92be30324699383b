package daemon

import (
	"time"

	"github.com/bastion-ssm/bastion/agent/forwards"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/tunnel"
)

// restore opens the forwards again that were written down. Their links are made when somebody connects.
func (d *Daemon) restore() {
	records, err := d.store.load()
	if err != nil {
		kept, keepErr := d.store.setAside()
		d.log.Warn("the detached forwards of the last run are not known", "err", err, "kept", kept, "keep_err", keepErr)
		return
	}
	d.mu.Lock()
	for _, r := range records {
		d.registry.Restore(r, time.Now())
	}
	_, revision := d.registry.Kept()
	d.mu.Unlock()
	d.writer.loaded(revision)
	d.reopen()
}

// reopen opens the forwards that could not be opened before, in the order of their names, and writes down what could not be written.
func (d *Daemon) reopen() {
	d.mu.Lock()
	tries := d.registry.Unopened()
	d.mu.Unlock()
	for _, f := range tries {
		err := d.reopenOne(f)
		if err == nil {
			continue
		}
		d.mu.Lock()
		if d.registry.Fail(f, err, time.Time{}, time.Now()) {
			d.touch()
			d.log.Warn("a forward could not be opened again", "forward", f.Name(), "err", err)
		}
		d.mu.Unlock()
	}
	_ = d.writer.save() // it logs a failure
}

func (d *Daemon) reopenOne(f *forwards.Forward) error {
	d.mu.Lock()
	r := f.Record()
	d.mu.Unlock()
	settings, err := config.FromTexts(r.Scope.Settings)
	if err != nil {
		return err
	}
	ln, err := tunnel.Listen(d.ctx, r.Request.Listen, settings.AllowRemote)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err = errClosing; !d.closing {
		// The link's id may have been written down by another version.
		err = d.registry.Reopen(f, ln.Addr().String(), engineKey(settings, r.Scope.Env, r.Owner), time.Now())
	}
	if err != nil {
		_ = ln.Close()
		return err
	}
	d.control(f, ln, nil, nil, nil)
	d.touch()
	return nil
}
