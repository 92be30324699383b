package daemon

import (
	"errors"
	"maps"
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
	if err := d.store.save(records); err != nil {
		d.log.Warn("the detached forwards could not be written down and will not come back when the agent starts again", "err", err)
	}
}

// unopened is a detached forward that could not be opened again, as its port was taken. It stays written down until it can, or
// somebody stops it.
type unopened struct {
	record record
	since  time.Time
	err    error
}

func (u unopened) show() api.Forward {
	r := u.record
	return api.Forward{
		Name: r.Request.Name, Kind: r.Request.Kind, Spec: r.Request.Target, Target: r.Target, Listen: r.Request.Listen, Engine: r.Engine,
		TLS: r.TLS, Database: r.Database, IAM: r.IAM, Note: r.Note, State: api.ForwardFailed, Error: u.err.Error(), Detached: true,
		Command: r.Command, Link: r.Link, Opened: u.since, Clients: []api.ForwardClient{},
	}
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
		d.unopened[r.Request.Name] = unopened{record: r, since: time.Now()}
	}
	d.mu.Unlock()
	d.reopen()
}

// reopen opens the forwards that could not be opened before.
func (d *Daemon) reopen() {
	d.mu.Lock()
	tries := maps.Clone(d.unopened)
	d.mu.Unlock()
	for name, u := range tries {
		err := d.reopenOne(u.record)
		if err == nil {
			continue
		}
		d.mu.Lock()
		if now, ok := d.unopened[name]; ok && (now.err == nil || now.err.Error() != err.Error()) {
			now.err = err
			d.unopened[name] = now
			d.touch()
			d.log.Warn("a forward could not be opened again", "forward", name, "err", err)
		}
		d.mu.Unlock()
	}
}

func (d *Daemon) reopenOne(r record) error {
	name := r.Request.Name
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
	_, wanted := d.unopened[name]
	if d.closing || !wanted || d.forwards[name] != nil {
		_ = ln.Close()
		return errors.New("there is another of this name")
	}
	r.Link = engineKey(settings, r.Scope.Env, r.Owner) // it may have been written down by another version
	f := &forward{
		d: d, record: r, name: name, detached: true, ln: ln, opened: time.Now(), done: make(chan struct{}),
		state: api.ForwardReady,
	}
	delete(d.unopened, name)
	d.forwards[name] = f
	f.serve()
	d.touch()
	return nil
}
