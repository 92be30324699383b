package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/targets"
	"github.com/bastion-ssm/bastion/tunnel"
)

// forward is a local listener whose connections go through an engine.
type forward struct {
	d        *Daemon
	record   record
	id       ident // once it is the Daemon's
	name     string
	named    bool // its name was asked for
	detached bool
	pid      int
	local    targets.Local
	target   targets.Spec
	ln       net.Listener
	opened   time.Time
	stats    tunnel.Stats
	cancel   context.CancelCauseFunc
	done     chan struct{} // closed once it has ended and is not the Daemon's any more
	events   *events       // of the request; nil for one that was restored
	twins    []*forward    // detached forwards that were there before and are as this one is to be, whoever they are of
	twin     *forward      // the one among them that is of the same engine, in place of this one; or nil

	engine  *engine   // guarded by d.mu, as the following
	release func()    // of engine
	failed  failures  // to find the engine
	fault   error     // why it does not work, until a link is up; nil if it does
	since   time.Time // of fault
	why     error     // why it has ended, once done is closed
}

// serve begins to serve. The caller holds d.mu.
func (f *forward) serve() {
	ctx, cancel := context.WithCancelCause(context.Background())
	f.cancel = cancel
	f.stats.OnEnd = f.onEnd
	log := f.d.log.With("forward", f.name)
	f.d.tasks.Go(func() {
		var err error
		if f.record.Request.Kind == api.KindProxy {
			err = f.serveProxy(ctx, log)
		} else {
			err = f.serveTCP(ctx, log)
		}
		if err != nil {
			cancel(fail.New(fail.Other, "forward "+f.name, err, "try again"))
		}
		f.remove(ctx)
	})
}

// remove takes leave of a forward that has ended.
func (f *forward) remove(ctx context.Context) {
	d := f.d
	why := context.Cause(ctx)
	d.mu.Lock()
	f.why = why
	if d.forwards[f.id] == f {
		delete(d.forwards, f.id)
		d.used = time.Now()
		d.save()
	}
	release := f.release
	d.touch()
	d.mu.Unlock()
	if release != nil {
		release()
	}
	f.cancel(nil)
	close(f.done)
}

func (f *forward) serveTCP(ctx context.Context, log *slog.Logger) error {
	settings, err := config.FromTexts(f.record.Scope.Settings)
	if err != nil {
		return err
	}
	cfg := tunnel.ForwardConfig{Logger: log, Stats: &f.stats}
	return agent.ServeForward(ctx, f.ln, f, f.record.Target, f.record.Cluster, settings, cfg)
}

func (f *forward) serveProxy(ctx context.Context, log *slog.Logger) error {
	settings, err := config.FromTexts(f.record.Scope.Settings)
	if err != nil {
		return err
	}
	cfg, err := agent.ProxyConfig(settings)
	if err != nil {
		return err
	}
	cfg.Logger, cfg.Stats = log, &f.stats
	return tunnel.ServeProxy(ctx, f.ln, f, cfg)
}

// Dial opens a connection through the engine, which a forward that was restored finds only now.
func (f *forward) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	e, err := f.found(ctx)
	if err != nil {
		f.note(err)
		return nil, err
	}
	conn, err := e.Dial(ctx, network, addr)
	if err == nil || errors.As(err, new(*tunnel.RefusedError)) {
		f.note(nil) // the link works
	}
	return conn, err
}

// note notes why the forward does not work, or that it does.
func (f *forward) note(err error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if reasonOf(f.fault) != reasonOf(err) {
		f.setFault(err)
		f.d.touch()
	}
}

// setFault is note without news. The caller holds d.mu.
func (f *forward) setFault(err error) {
	switch {
	case err == nil:
		f.since = time.Time{}
	case f.fault == nil:
		f.since = time.Now()
	}
	f.fault = err
}

// reasonOf returns the text of an error; "" for nil.
func reasonOf(err error) string {
	text, _ := inWords(err)
	return text
}

// condition returns what the forward's next client meets. The caller holds d.mu.
func (f *forward) condition() (state api.ForwardState, c condition) {
	if f.engine != nil {
		c = f.engine.condition()
	}
	switch {
	case f.fault != nil:
		if c.state != api.LinkFailed {
			c = condition{since: f.since, retry: f.failed.retry}
		}
		c.err = f.fault
		return api.ForwardFailed, c
	case c.state == api.LinkWaiting:
		return api.ForwardWaiting, c
	}
	return api.ForwardReady, condition{}
}

// found returns the forward's engine.
func (f *forward) found(ctx context.Context) (*engine, error) {
	d := f.d
	d.mu.Lock()
	e := f.engine
	known := d.engines[f.record.Link]
	failed := f.failed.wait()
	d.mu.Unlock()
	if e != nil {
		return e, nil
	}
	var release func()
	var err error
	if known != nil {
		if release, err = known.hold(nil); err == nil {
			e = known
		}
	}
	switch {
	case e != nil:
	case f.record.Owner != "":
		return nil, fail.New(fail.Credentials, "", fmt.Errorf("the AWS credentials of %s are needed again", f.record.Owner),
			"they came by variables, which the agent does not keep: open the forward again with them (bastion forward --detach)")
	case failed != nil:
		return nil, failed
	default:
		if e, release, err = d.engine(ctx, f.record.Scope, nil); err != nil {
			if ctx.Err() == nil {
				d.mu.Lock()
				f.failed.add(err)
				d.mu.Unlock()
			}
			return nil, err
		}
	}
	if !f.use(e, release) {
		release() // another connection was faster
	}
	return e, nil
}

// use makes e, which is held, the engine of a forward that has none, and reports whether it had none.
func (f *forward) use(e *engine, release func()) bool {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.engine != nil {
		return false
	}
	f.engine, f.release = e, release
	return true
}

// onEnd is told of each connection that has ended. What its client did to it is no news to who has the forward.
func (f *forward) onEnd(c tunnel.ConnSnapshot, err error) {
	refused := err != nil && c.Client == ""
	if f.events != nil && (refused || tunnel.IsLost(err)) {
		text := "connection to " + c.Dest + ": " + err.Error()
		if next := fail.NextOf(err); next != "" {
			text += " (" + next + ")"
		}
		f.events.try(api.Event{Event: api.EventRefused, Text: text})
	}
	f.d.recorded(f.name, c, err)
}

// linkEnded ends the attached forwards of an engine whose link has given up, and marks the others.
func (d *Daemon) linkEnded(e *engine, err error) {
	if kind := fail.KindOf(err); kind != fail.Lost {
		err = fail.New(fail.Lost, "the link was lost and cannot be restored", err, fail.NextOf(err))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.forwards {
		switch {
		case f.engine != e:
		case f.detached:
			f.setFault(err)
		default:
			f.cancel(err)
		}
	}
	d.touch()
}

// linkUp marks the forwards of an engine that failed with its last link.
func (d *Daemon) linkUp(e *engine) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.forwards {
		if f.engine == e {
			f.setFault(nil)
		}
	}
}

// show returns what others see of the forward. The caller holds d.mu.
func (f *forward) show() api.Forward {
	out := f.record.show()
	out.Name, out.Listen, out.Detached, out.PID, out.Opened = f.name, f.ln.Addr().String(), f.detached, f.pid, f.opened
	out.Stats = f.stats.Snapshot()
	state, c := f.condition()
	out.State, out.Since, out.Retry = state, c.since, c.retry
	out.Error, out.Next = inWords(c.err)
	for _, c := range f.stats.Conns() {
		out.Clients = append(out.Clients, api.ForwardClient{Addr: c.Client, Target: c.Dest, Since: c.Since, Up: c.Up, Down: c.Down})
	}
	return out
}
