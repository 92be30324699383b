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
	"github.com/bastion-ssm/bastion/agent/forwards"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/tunnel"
)

// controller owns one forward that serves: its listener, its clients' counters and its hold on the engine. The forward's state is in the
// Daemon's registry. A controller begins with control; its goroutine ends the forward when ctx is done or the listener fails, and
// closes done last.
type controller struct {
	d      *Daemon
	f      *forwards.Forward // guarded by d.mu
	record forwards.Record   // as of the beginning
	ln     net.Listener
	stats  tunnel.Stats
	events *events // of the request; nil for a forward that was reopened
	cancel context.CancelCauseFunc
	done   chan struct{} // closed once the forward has ended and the file says so

	engine  *engine // guarded by d.mu, as the following; nil for a forward that was reopened, until a client comes
	release func()  // of engine
	lookups failures
}

// control begins to serve a forward that is Ready. The controller owns ln and the hold on e, which release ends; both of these may be
// nil. The caller holds d.mu.
func (d *Daemon) control(f *forwards.Forward, ln net.Listener, events *events, e *engine, release func()) *controller {
	ctx, cancel := context.WithCancelCause(context.Background())
	c := &controller{
		d: d, f: f, record: f.Record(), ln: ln, events: events, cancel: cancel, done: make(chan struct{}), engine: e, release: release,
	}
	c.stats.OnEnd = c.onEnd
	d.controllers[f] = c
	d.tasks.Go(func() { c.run(ctx) })
	return c
}

// name returns the forward's name.
func (c *controller) name() string { return c.record.Request.Name }

// run is the forward's life.
func (c *controller) run(ctx context.Context) {
	if err := c.serve(ctx); err != nil {
		c.cancel(fail.New(fail.Other, "forward "+c.name(), err, "try again"))
	}
	_ = c.ln.Close()
	c.end(context.Cause(ctx))
	c.cancel(nil)
	close(c.done)
}

// serve serves clients until ctx is done or the listener fails.
func (c *controller) serve(ctx context.Context) error {
	settings, err := config.FromTexts(c.record.Scope.Settings)
	if err != nil {
		return err
	}
	log := c.d.log.With("forward", c.name())
	if c.record.Request.Kind == api.KindProxy {
		return c.serveProxy(ctx, settings, log)
	}
	cfg := tunnel.ForwardConfig{Logger: log, Stats: &c.stats}
	return agent.ServeForward(ctx, c.ln, c, c.record.Target, c.record.Cluster, settings, cfg)
}

func (c *controller) serveProxy(ctx context.Context, settings config.Settings, log *slog.Logger) error {
	cfg, err := agent.ProxyConfig(settings)
	if err != nil {
		return err
	}
	cfg.Logger, cfg.Stats = log, &c.stats
	return tunnel.ServeProxy(ctx, c.ln, c, cfg)
}

// end ends the forward, which serves nobody any more, and gives back the engine.
func (c *controller) end(why error) {
	d := c.d
	d.mu.Lock()
	d.registry.End(c.f, why)
	delete(d.controllers, c.f)
	d.used = time.Now()
	release := c.release
	d.touch()
	d.mu.Unlock()
	if c.f.Detached() {
		_ = d.writer.save() // it logs a failure
	}
	if release != nil {
		release()
	}
}

// Dial opens a connection through the engine. A forward that was reopened looks for its engine now.
func (c *controller) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	e, err := c.found(ctx)
	if err != nil {
		c.failed(err)
		return nil, err
	}
	conn, err := e.Dial(ctx, network, addr)
	if err == nil || errors.As(err, new(*tunnel.RefusedError)) {
		c.works()
	}
	return conn, err
}

// failed notes why a client's attempt failed.
func (c *controller) failed(err error) {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	if c.d.registry.Fail(c.f, err, c.lookups.retry, time.Now()) {
		c.d.touch()
	}
}

// works notes that the link works.
func (c *controller) works() {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	if c.d.registry.Recover(c.f) {
		c.d.touch()
	}
}

// found returns the forward's engine.
func (c *controller) found(ctx context.Context) (*engine, error) {
	d := c.d
	d.mu.Lock()
	e := c.engine
	known := d.engines[c.record.Link]
	early := c.f.Wait(time.Now())
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
	case c.record.Owner != "":
		return nil, fail.New(fail.Credentials, "", fmt.Errorf("the AWS credentials of %s are needed again", c.record.Owner),
			"they came by variables, which the agent does not keep: open the forward again with them (bastion forward --detach)")
	case early != nil:
		return nil, early
	default:
		if e, release, err = d.engine(ctx, c.record.Scope, nil); err != nil {
			if ctx.Err() == nil {
				d.mu.Lock()
				c.lookups.add(err)
				d.mu.Unlock()
			}
			return nil, err
		}
	}
	d.mu.Lock()
	adopted := c.adopt(e, release)
	d.mu.Unlock()
	if !adopted {
		release() // another connection was faster, or the forward has ended
	}
	return e, nil
}

// adopt makes e, which is held, the engine of a forward that has none, and reports whether it did. The caller holds d.mu.
func (c *controller) adopt(e *engine, release func()) bool {
	if c.engine != nil || c.f.State() == forwards.Ended {
		return false
	}
	c.engine, c.release = e, release
	return true
}

// onEnd is told of each connection that has ended. What its client did to it is no news to the forward's owner.
func (c *controller) onEnd(conn tunnel.ConnSnapshot, err error) {
	refused := err != nil && conn.Client == ""
	if c.events != nil && (refused || tunnel.IsLost(err)) {
		text := "connection to " + conn.Dest + ": " + err.Error()
		if next := fail.NextOf(err); next != "" {
			text += "\nhint: " + next
		}
		c.events.try(api.Event{Event: api.EventRefused, Text: text})
	}
	c.d.recorded(c.name(), conn, err)
}

// linkEnded ends the attached forwards of an engine whose link has given up. The detached ones have failed. In a private Daemon the command
// ends them, when its work has ended.
func (d *Daemon) linkEnded(e *engine, err error) {
	if kind := fail.KindOf(err); kind != fail.Lost {
		err = fail.New(fail.Lost, "the link was lost and cannot be restored", err, fail.NextOf(err))
	}
	if d.isPrivate() {
		d.cfg.Private.Lost(err)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for f, c := range d.controllers {
		switch {
		case c.engine != e:
		case f.Detached():
			d.registry.Fail(f, err, time.Time{}, time.Now())
		default:
			c.cancel(err)
		}
	}
	d.touch()
}

// linkUp marks the forwards of an engine that failed with its last link.
func (d *Daemon) linkUp(e *engine) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for f, c := range d.controllers {
		if c.engine == e {
			d.registry.Recover(f)
		}
	}
}

// show returns what others see of the forward: its state, or its link's if that keeps the next client waiting. The caller holds d.mu.
func (c *controller) show() api.Forward {
	out := c.f.Show()
	if c.engine != nil {
		switch link := c.engine.condition(); {
		case out.State == api.ForwardFailed && link.state == api.LinkFailed:
			out.Since, out.Retry = link.since, link.retry
		case out.State == api.ForwardReady && link.state == api.LinkWaiting:
			out.State, out.Since, out.Retry = api.ForwardWaiting, link.since, link.retry
			out.Error, out.Next = inWords(link.err)
		}
	}
	out.Stats = c.stats.Snapshot()
	for _, conn := range c.stats.Conns() {
		out.Clients = append(out.Clients, api.ForwardClient{Addr: conn.Client, Target: conn.Dest, Since: conn.Since, Up: conn.Up, Down: conn.Down})
	}
	return out
}
