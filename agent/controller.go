package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/forwards"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/targets"
	"github.com/bastion-ssm/bastion/tunnel"
)

// controller owns one serving forward: its listener, its clients' counters and its hold on the link. The Agent's registry has
// the forward's state. control starts a controller. Its goroutine ends the forward when ctx is done or the listener fails, unless
// Agent.Stop has ended the forward before, and closes done last.
type controller struct {
	agent  *Agent
	f      *forwards.Forward // guarded by a.mu
	record forwards.Record   // the forward's record when the controller started
	ln     net.Listener
	stats  tunnel.Stats
	events *events // the request's events; nil for a reopened forward
	cancel context.CancelCauseFunc
	done   chan struct{} // closed once the forward has ended and the file is saved

	link    *link  // guarded by a.mu, as are the following fields; nil for a reopened forward before its first client
	release func() // gives back the hold on link
	lookups failures
}

// control starts to serve a Ready forward. The controller takes over ln and the hold on l, which release gives back. l and
// release may be nil. The caller holds a.mu.
func (a *Agent) control(f *forwards.Forward, ln net.Listener, events *events, l *link, release func()) *controller {
	ctx, cancel := context.WithCancelCause(context.Background())
	c := &controller{
		agent: a, f: f, record: f.Record(), ln: ln, events: events, cancel: cancel, done: make(chan struct{}), link: l, release: release,
	}
	c.stats.OnEnd = c.onEnd
	a.controllers[f] = c
	a.tasks.Go(func() { c.run(ctx) })
	return c
}

// name returns the forward's name.
func (c *controller) name() string { return c.record.Request.Name }

// run serves the forward from its start to its end.
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
	log := c.agent.log.With("forward", c.name())
	if c.record.Request.Kind == api.KindProxy {
		return c.serveProxy(ctx, settings, log)
	}
	cfg := tunnel.ForwardConfig{Logger: log, Stats: &c.stats}
	return serveForward(ctx, c.ln, c, c.record.Target, c.record.Cluster, settings, cfg)
}

func (c *controller) serveProxy(ctx context.Context, settings config.Settings, log *slog.Logger) error {
	cfg, err := ProxyConfig(settings)
	if err != nil {
		return err
	}
	cfg.Logger, cfg.Stats = log, &c.stats
	if routes := c.record.Request.Routes; len(routes) > 0 {
		return tunnel.ServeProxy(ctx, c.ln, routed{c, routes}, WithRoutes(cfg, routes))
	}
	return tunnel.ServeProxy(ctx, c.ln, c, cfg)
}

// end ends the forward and gives back the link. The listener is already closed.
func (c *controller) end(why error) {
	a := c.agent
	a.mu.Lock()
	a.registry.End(c.f, why)
	delete(a.controllers, c.f)
	a.used = time.Now()
	release := c.release
	a.touch()
	a.mu.Unlock()
	if c.f.Detached() {
		_ = a.writer.save() // save logs a failure
	}
	if release != nil {
		release()
	}
}

// Dial opens a connection through the link. A reopened forward finds its link here.
func (c *controller) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	l, err := c.found(ctx)
	if err != nil {
		if ctx.Err() == nil { // a client that leaves is not a failure
			c.failed(err)
		}
		return nil, err
	}
	conn, err := l.Dial(ctx, network, addr)
	if err == nil || errors.As(err, new(*tunnel.RefusedError)) {
		c.works()
	}
	if err != nil {
		return nil, l.explain(ctx, c.spec(), addr, err)
	}
	return conn, nil
}

// spec returns the forward's target as requested; zero for a proxy.
func (c *controller) spec() targets.Spec {
	if c.record.Request.Kind == api.KindProxy {
		return targets.Spec{}
	}
	spec, err := targets.Parse(c.record.Request.Target)
	if err != nil {
		return targets.Spec{}
	}
	return spec
}

// failed notes why a client's connection failed.
func (c *controller) failed(err error) {
	c.agent.mu.Lock()
	defer c.agent.mu.Unlock()
	if c.agent.registry.Fail(c.f, err, c.lookups.retry, time.Now()) {
		c.agent.touch()
	}
}

// works notes that the link works.
func (c *controller) works() {
	c.agent.mu.Lock()
	defer c.agent.mu.Unlock()
	if c.agent.registry.Recover(c.f) {
		c.agent.touch()
	}
}

// found returns the forward's link. A reopened forward joins a running link with its id, or makes one.
func (c *controller) found(ctx context.Context) (*link, error) {
	a := c.agent
	a.mu.Lock()
	l := c.link
	known := a.links[c.record.Link]
	early := c.f.Wait(time.Now())
	a.mu.Unlock()
	if l != nil {
		return l, nil
	}
	var release func()
	var err error
	if known != nil {
		if release, err = known.hold(nil); err == nil {
			l = known
		}
	}
	switch {
	case l != nil:
	case c.record.Owner != "":
		return nil, fail.New(fail.Credentials, "", fmt.Errorf("the AWS credentials of %s are needed again", c.record.Owner),
			"they came by variables, which the agent does not keep: open the forward again with them (bastion forward --detach)")
	case early != nil:
		return nil, early
	default:
		if l, release, err = a.linkFor(ctx, c.record.Scope, nil); err != nil {
			if ctx.Err() == nil {
				a.mu.Lock()
				c.lookups.add(err)
				a.mu.Unlock()
			}
			return nil, err
		}
	}
	a.mu.Lock()
	adopted := c.adopt(l, release)
	a.mu.Unlock()
	if !adopted {
		release() // another connection was faster, or the forward has ended
	}
	return l, nil
}

// adopt gives a forward without a link the held link l. It reports false if the forward has a link or has ended. The caller
// holds a.mu.
func (c *controller) adopt(l *link, release func()) bool {
	if c.link != nil || c.f.State() == forwards.Ended {
		return false
	}
	c.link, c.release = l, release
	return true
}

// onEnd records a connection that has ended. It tells the forward's owner of refused and lost connections, but not of errors
// that the client caused.
func (c *controller) onEnd(conn tunnel.ConnSnapshot, err error) {
	refused := err != nil && conn.Client == ""
	if c.events != nil && (refused || tunnel.IsLost(err)) {
		text := "connection to " + conn.Dest + ": " + err.Error()
		if next := fail.NextOf(err); next != "" {
			text += "\nhint: " + next
		}
		c.events.try(api.Event{Event: api.EventRefused, Text: text, Places: placesOf(err)})
	}
	c.agent.recorded(c.name(), conn, err)
}

// linkEnded ends the attached forwards of a link that has given up, and marks the detached ones Failed. In a private Agent the
// command ends its forwards itself.
func (a *Agent) linkEnded(l *link, err error) {
	if kind := fail.KindOf(err); kind != fail.Lost {
		err = fail.New(fail.Lost, "the link was lost and cannot be restored", err, fail.NextOf(err))
	}
	if a.isPrivate() {
		a.cfg.Private.Lost(err)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for f, c := range a.controllers {
		switch {
		case c.link != l:
		case f.Detached():
			a.registry.Fail(f, err, time.Time{}, time.Now())
		default:
			c.cancel(err)
		}
	}
	a.touch()
}

// linkUp marks the Failed forwards of a link that is up again as Ready.
func (a *Agent) linkUp(l *link) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for f, c := range a.controllers {
		if c.link == l {
			a.registry.Recover(f)
		}
	}
}

// show returns the API's view of the forward: its own state, or the link's if clients wait for the link. The caller holds a.mu.
func (c *controller) show() api.Forward {
	out := c.f.Show()
	if c.link != nil {
		switch link := c.link.condition(); {
		case out.State == api.ForwardFailed && link.state == api.LinkFailed:
			out.Since, out.Retry = link.since, link.retry
		case out.State == api.ForwardReady && link.state == api.LinkWaiting:
			out.State, out.Since, out.Retry = api.ForwardWaiting, link.since, link.retry
			out.Error, out.Next = inWords(link.err)
		}
	}
	out.Stats = c.stats.Snapshot()
	for _, conn := range c.stats.Conns() {
		out.Clients = append(out.Clients, api.ForwardClient{
			Addr: conn.Client, Target: conn.Dest, Since: conn.Since, Up: conn.Up,
			Down: conn.Down,
		})
	}
	return out
}
