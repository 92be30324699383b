package daemon

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/tunnel"
)

// save writes the detached forwards down. The caller holds d.mu.
func (d *Daemon) save() {
	if d.closing { // they are to come back
		return
	}
	var records []record
	for _, f := range d.forwards {
		if f.detached {
			r := f.record
			r.Request.Name, r.Request.Listen = f.name, f.ln.Addr().String()
			records = append(records, r)
		}
	}
	for _, u := range d.unopened {
		records = append(records, u.record)
	}
	d.unsaved = d.store.save(records)
	if err := d.unsaved; err != nil {
		d.log.Warn("the detached forwards could not be written down and will not come back when the agent starts again", "err", err)
	}
}

// unsavedNote returns the warning for a command that opens a detached forward; "" if the forwards are written down.
func (d *Daemon) unsavedNote() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.unsaved == nil {
		return ""
	}
	return "the detached forwards cannot be written down, and will not come back when the agent starts again: " + d.unsaved.Error()
}

// unopened is a detached forward that could not be opened again, as its port was taken. It stays written down until it can, or
// somebody stops it.
type unopened struct {
	record record
	since  time.Time
	err    error
}

func (u unopened) show() api.Forward {
	out := u.record.show()
	out.State, out.Detached, out.Since, out.Opened = api.ForwardFailed, true, u.since, u.since
	out.Error, out.Next = inWords(u.err)
	return out
}

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
		d.unopened[r.ident()] = unopened{record: r, since: time.Now()}
	}
	d.mu.Unlock()
	d.reopen()
}

// reopen opens the forwards that could not be opened before, in the order of their names.
func (d *Daemon) reopen() {
	d.mu.Lock()
	tries := slices.SortedFunc(maps.Keys(d.unopened), func(x, y ident) int {
		return cmp.Or(cmp.Compare(x.name, y.name), cmp.Compare(x.scope.profile, y.scope.profile), cmp.Compare(x.scope.region, y.scope.region))
	})
	d.mu.Unlock()
	for _, id := range tries {
		err := d.reopenOne(id)
		if err == nil {
			continue
		}
		d.mu.Lock()
		if now, ok := d.unopened[id]; ok && (now.err == nil || now.err.Error() != err.Error()) {
			now.err = err
			d.unopened[id] = now
			d.touch()
			d.log.Warn("a forward could not be opened again", "forward", id.name, "err", err)
		}
		d.mu.Unlock()
	}
}

func (d *Daemon) reopenOne(id ident) error {
	d.mu.Lock()
	r := d.unopened[id].record
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
	_, wanted := d.unopened[id]
	if d.closing || !wanted || d.forwards[id] != nil {
		_ = ln.Close()
		return errors.New("there is another of this name")
	}
	r.Link = engineKey(settings, r.Scope.Env, r.Owner) // it may have been written down by another version
	r.Request.Listen = ln.Addr().String()
	f := &forward{
		d: d, record: r, id: id, name: id.name, detached: true, ln: ln, opened: time.Now(), done: make(chan struct{}),
	}
	delete(d.unopened, id)
	d.forwards[id] = f
	f.serve()
	d.touch()
	return nil
}
