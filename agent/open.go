package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/forwards"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/targets"
	"github.com/bastion-ssm/bastion/tunnel"
)

// maxCommand bounds the name of what asks, in bytes.
const maxCommand = 64

// wish is a forward that a request asks for, until a controller has it or the request fails.
type wish struct {
	record       forwards.Record // its name is the one that was asked for, or its target's
	local        targets.Local
	target       targets.Spec
	destinations []string          // of its clients, once the endpoint is known; not of a proxy
	f            *forwards.Forward // Opening, once its scope is known; nil with a twin
	ln           net.Listener      // once it is open; the request's, until a controller has it
	twins        []*controller     // of detached forwards that were there before and are as this one is to be, whoever they are of
	twin         *controller       // the one among them that is of the same link, in place of this one; or nil
}

// Open opens the forwards of req, or none of them, and tells emit of the events, one at a time. With detached ones it returns then;
// others it closes when ctx is done. What it returns was told as EventError.
func (a *Agent) Open(ctx context.Context, req api.OpenRequest, emit func(api.Event)) error {
	end, err := a.begin()
	if err != nil {
		emit(api.Event{Event: api.EventError, Error: api.NewError(err)})
		return err
	}
	defer end()
	events := newEvents(emit)
	defer events.close()
	w := &watcher{emit: events.try}
	defer w.leave() // an attached request hears of its link as long as it lasts
	controllers, err := a.openAll(ctx, req, events, w)
	if err == nil && !req.Detached {
		err = a.attend(ctx, controllers)
		if errors.Is(err, errStopped) || errors.Is(err, errShutdown) {
			events.last(api.Event{Event: api.EventStopped, Text: err.Error()})
			return nil
		}
	}
	if err != nil {
		events.last(api.Event{Event: api.EventError, Error: api.NewError(err)})
	}
	return err
}

// openAll opens the forwards of a request, whose controllers then have them. Detached ones that were there before are among these.
func (a *Agent) openAll(ctx context.Context, req api.OpenRequest, events *events, w *watcher) ([]*controller, error) {
	wishes, err := parse(req)
	if err != nil {
		return nil, err
	}
	controllers, link, err := a.open(ctx, req, wishes, events, w)
	if err != nil {
		a.abandon(wishes, err)
		if a.ctx.Err() != nil && ctx.Err() != nil {
			err = errClosing
		}
		return nil, err
	}
	var unsaved error
	if req.Detached {
		unsaved = a.writer.save()
	}
	a.announce(req, wishes, controllers, link, unsaved, events)
	return controllers, nil
}

// open opens the forwards. If it fails, what it has opened is left to abandon.
func (a *Agent) open(
	ctx context.Context, req api.OpenRequest, wishes []*wish, events *events, w *watcher,
) ([]*controller, *access.Pool, error) {
	if err := a.checkPrivate(req); err != nil {
		return nil, nil, err
	}
	settings, err := config.FromTexts(req.Scope.Settings)
	if err != nil {
		return nil, nil, err
	}
	for _, f := range wishes {
		if f.record.Request.Kind == api.KindProxy {
			if _, err := ProxyConfig(settings); err != nil {
				return nil, nil, err
			}
		}
	}
	if req.Detached {
		a.findTwins(wishes, settings, awssdk.NewEnv(req.Scope.Env).Public())
	}
	// What can be wrong on this machine is found before AWS is asked.
	if err := a.listenKnown(ctx, wishes, settings.Forward.AllowRemote); err != nil {
		return nil, nil, err
	}
	l, release, err := a.linkFor(ctx, req.Scope, w)
	if err != nil {
		return nil, nil, err
	}
	w.release = release
	if err := a.place(l, req, wishes); err != nil {
		return nil, nil, err
	}
	if err := a.listenKnown(ctx, wishes, settings.Forward.AllowRemote); err != nil {
		return nil, nil, err
	}
	if err := a.endpoints(ctx, l, wishes, settings, events); err != nil {
		return nil, nil, err
	}
	if a.isPrivate() {
		l.narrow(permitOf(wishes, settings))
	}
	link, err := l.ready(ctx)
	if err != nil {
		return nil, nil, err
	}
	controllers, err := a.handOver(l, wishes, events)
	return controllers, link, err
}

// abandon ends what a request that has failed was opening.
func (a *Agent) abandon(wishes []*wish, why error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, f := range wishes {
		if f.ln != nil {
			_ = f.ln.Close()
		}
		if f.f != nil {
			a.registry.End(f.f, why)
		}
	}
}

// announce tells a request what it has got. unsaved says why it is not written down.
func (a *Agent) announce(
	req api.OpenRequest, wishes []*wish, controllers []*controller, link *access.Pool, unsaved error, events *events,
) {
	note := func(text string) { events.try(api.Event{Event: api.EventNote, Text: text}) }
	if unsaved != nil {
		note("the detached forwards cannot be written down, and will not come back when the agent starts again: " + unsaved.Error())
	}
	for i, f := range wishes {
		name := controllers[i].name()
		if wanted := cmp.Or(f.record.Request.Name, name); req.Detached && f.twin == nil && wanted != name {
			note("another forward has the name " + wanted + "; this one is " + name)
		}
		if f.record.Note != "" {
			note(name + ": " + f.record.Note)
		}
	}
	events.try(api.Event{Event: api.EventLink, Link: linkState(link.State())})
	out := make([]api.Forward, len(controllers))
	a.mu.Lock()
	for i, c := range controllers {
		out[i] = c.show()
	}
	a.mu.Unlock()
	events.last(api.Event{Event: api.EventForwards, Forwards: out})
}

// attend waits until a request or one of its forwards ends, ends the others, and returns why.
func (a *Agent) attend(ctx context.Context, controllers []*controller) error {
	ended := make(chan struct{}, len(controllers))
	var watchers sync.WaitGroup
	for _, c := range controllers {
		watchers.Go(func() {
			<-c.done
			ended <- struct{}{}
		})
	}
	select {
	case <-ctx.Done():
	case <-ended:
	}
	var why error
	for _, c := range controllers {
		select {
		case <-c.done:
			if why == nil {
				why = c.f.Why()
			}
		default:
		}
	}
	for _, c := range controllers {
		c.cancel(context.Canceled)
	}
	watchers.Wait()
	switch {
	case a.ctx.Err() != nil:
		return errShutdown
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return why
}

// parse reads the requests.
func parse(req api.OpenRequest) ([]*wish, error) {
	if len(req.Forwards) == 0 || len(req.Forwards) > forwards.Max {
		return nil, fail.New(fail.Usage, "", fmt.Errorf("%d forwards in one request", len(req.Forwards)),
			fmt.Sprintf("ask for 1 to %d", forwards.Max))
	}
	if len(req.Command) > maxCommand {
		return nil, fail.New(fail.Usage, "", fmt.Errorf("a command of %d bytes", len(req.Command)), "give its name alone")
	}
	var out []*wish
	for _, r := range req.Forwards {
		f := &wish{record: forwards.Record{Request: r, Command: req.Command, Scope: api.Scope{Settings: req.Scope.Settings}}}
		var err error
		if r.Listen != "" {
			if f.local, err = targets.ParseLocal(r.Listen); err != nil {
				return nil, err
			}
		}
		switch {
		case r.Name != "" && !forwards.ValidName(r.Name):
			return nil, fail.New(fail.Usage, "", fmt.Errorf("%q is no name for a forward", r.Name),
				"use letters, digits, dots, dashes and underscores; all is taken")
		case r.Kind == api.KindProxy && r.Target != "":
			return nil, fail.New(fail.Usage, "", errors.New("a proxy has no target"), "leave the target out")
		case r.Kind == api.KindProxy && r.Listen == "":
			return nil, fail.New(fail.Usage, "", errors.New("the proxy's port is missing"), "say where it listens, or : for a free port")
		case r.Kind == api.KindProxy:
		case r.Kind == api.KindTCP || r.Kind == "":
			f.record.Request.Kind = api.KindTCP
			if f.target, err = targets.Parse(r.Target); err != nil {
				return nil, err
			}
			if f.target.Kind == targets.Name && f.target.Port == 0 {
				return nil, fail.New(fail.NoTarget, "", fmt.Errorf("%q is a name of a configuration file, which the agent does not read", r.Target),
					"give rds:ID, cache:ID or HOST:PORT")
			}
		default:
			return nil, fail.New(fail.Usage, "", fmt.Errorf("there is no kind %q of forward", r.Kind), "the kinds are tcp and proxy")
		}
		out = append(out, f)
	}
	return out, nil
}

// findTwins finds the detached forwards that are as the ones that are asked for: to ask twice is to ask once.
func (a *Agent) findTwins(wishes []*wish, settings config.Settings, env map[string]string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, f := range wishes {
		for _, other := range a.controllers {
			r := other.record
			if other.f.Detached() && r.Request.Kind == f.record.Request.Kind && r.Request.Target == f.record.Request.Target &&
				(f.record.Request.Name == "" || f.record.Request.Name == other.name()) &&
				linkKey(settings, env, r.Owner) == r.Link && f.listensLike(other) && f.servesLike(other) {
				f.twins = append(f.twins, other)
			}
		}
	}
}

// place says which scope the forwards are of, and finds their twins there. The others it enters as Opening, unless a name is taken.
func (a *Agent) place(l *link, req api.OpenRequest, wishes []*wish) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var asked []forwards.Asked
	var of []*wish
	for _, f := range wishes {
		// The settings are the request's own: those of a proxy, such as its password, are not the link's.
		f.record.Scope.Env, f.record.Owner, f.record.Link, f.record.Region = l.scope.Env, l.owner, l.id, l.access.Region()
		if f.chooseTwin(l); f.twin == nil {
			asked = append(asked, forwards.Asked{Record: f.record, Detached: req.Detached, PID: req.PID})
			of = append(of, f)
		}
	}
	opening, err := a.registry.Open(asked, time.Now())
	for i, f := range opening {
		of[i].f = f
	}
	return err
}

// chooseTwin chooses the twin that is of l; the others are of other identities.
func (f *wish) chooseTwin(l *link) {
	for _, twin := range f.twins {
		if twin.record.Link == l.id {
			f.twin = twin
			return
		}
	}
	f.twins = nil
}

// servesLike reports whether f is to serve as other does, with the same password.
func (f *wish) servesLike(other *controller) bool {
	use := config.ForForward
	if f.record.Request.Kind == api.KindProxy {
		use = config.ForProxy
	}
	return !slices.ContainsFunc(config.All(), func(s *config.Setting) bool {
		return s.Use == use && f.record.Scope.Settings[s.Key] != other.record.Scope.Settings[s.Key]
	})
}

// listensLike reports whether the address that f is to have is that of other.
func (f *wish) listensLike(other *controller) bool {
	if f.local.Free {
		return true
	}
	port := f.target.Port
	if _, text, err := net.SplitHostPort(other.record.Target); err == nil && port == 0 {
		port, _ = strconv.Atoi(text) // of the same target
	}
	return f.local.Address("127.0.0.1", port) == other.ln.Addr().String()
}

// listenPort returns the target's port for the listener, and whether it is known without asking AWS, or not needed.
func (f *wish) listenPort() (port int, known bool) {
	return f.target.Port, f.local.Free || f.local.Port != 0 || f.target.Port != 0
}

// listenKnown opens the listeners whose address is known without asking AWS, and that are not open yet.
func (a *Agent) listenKnown(ctx context.Context, wishes []*wish, allowRemote bool) error {
	for _, f := range wishes {
		if port, known := f.listenPort(); known && len(f.twins) == 0 && f.ln == nil {
			if err := a.listen(ctx, f, port, allowRemote); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *Agent) listen(ctx context.Context, f *wish, targetPort int, allowRemote bool) error {
	addr := f.local.Address("127.0.0.1", targetPort)
	ln, err := tunnel.Listen(ctx, addr, allowRemote)
	if err == nil {
		f.ln = ln
		return nil
	}
	if fail.KindOf(err) == fail.PortInUse {
		a.mu.Lock()
		defer a.mu.Unlock()
		if other := a.registry.At(addr); other != nil {
			return fail.New(fail.PortInUse, "", err, "the forward "+other.Name()+" listens there: bastion stop "+other.Name()+" ends it")
		}
	}
	return err
}

// endpoints finds the targets' endpoints and opens the listeners that depend on them.
func (a *Agent) endpoints(ctx context.Context, l *link, wishes []*wish, s config.Settings, events *events) error {
	var specs []targets.Spec
	var of []*wish
	var names []string
	for _, f := range wishes {
		if f.record.Request.Kind == api.KindTCP && f.twin == nil {
			specs, of, names = append(specs, f.target), append(of, f), append(names, f.target.String())
		}
	}
	if len(specs) > 0 {
		events.try(api.Event{Event: api.EventStep, Text: "looking up " + strings.Join(names, ", ")})
	}
	found, err := l.resolve(ctx, specs)
	if err != nil {
		return err
	}
	for i, f := range of {
		if note := found[i].StatusNote; note != "" {
			events.try(api.Event{Event: api.EventNote, Text: found[i].Name + ": " + note})
		}
		f.record.Target = access.Destination(found[i].Host, found[i].Port)
		f.record.Engine, f.record.TLS, f.record.Note = found[i].Engine, found[i].TLS, found[i].Note
		f.record.Database, f.record.IAM = found[i].Database, found[i].IAM
		if f.record.Cluster, err = clusterModeOf(s, found[i]); err != nil {
			return err
		}
		f.destinations = []string{f.record.Target}
		if f.record.Cluster != forwards.ClusterOff {
			f.destinations = append(f.destinations, found[i].ClusterPermits()...)
			f.record.Note = f.record.Cluster.Note()
		}
		if f.record.Request.Name == "" {
			f.record.Request.Name = forwardName(found[i].Name, f.target)
		}
		if f.ln == nil {
			if err := a.listen(ctx, f, found[i].Port, s.Forward.AllowRemote); err != nil {
				return err
			}
		}
	}
	return nil
}

// forwardName makes a name for a forward of its target's.
func forwardName(name string, spec targets.Spec) string {
	switch spec.Kind {
	case targets.RDS, targets.Cache:
		_, name, _ = strings.Cut(name, ":")
	case targets.Host:
		name = spec.Host
	}
	name = strings.Map(func(r rune) rune {
		if forwards.ValidName("a" + string(r)) {
			return r
		}
		return '-'
	}, name)
	name = strings.Trim(name, "-._")
	if name = name[:min(len(name), 50)]; !forwards.ValidName(name) {
		return "forward"
	}
	return name
}

// handOver gives the forwards to controllers, all of them or none. A twin that was reopened gets the link that it may lack.
func (a *Agent) handOver(l *link, wishes []*wish, events *events) ([]*controller, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closing {
		return nil, errClosing
	}
	releases := make([]func(), len(wishes))
	for i, f := range wishes {
		var err error
		if f.twin != nil && !f.twin.f.Serves() {
			err = fail.New(fail.Other, "", fmt.Errorf("the forward %s, which was there, has just ended", f.twin.name()), "try again")
		} else {
			releases[i], err = l.hold(nil)
		}
		if err != nil {
			for _, release := range releases[:i] {
				release()
			}
			return nil, err
		}
	}
	out := make([]*controller, len(wishes))
	for i, f := range wishes {
		account := l.access.Account()
		if out[i] = f.twin; f.twin != nil {
			a.registry.SetAccount(f.twin.f, account)
			if !f.twin.adopt(l, releases[i]) {
				releases[i]()
			} else {
				a.registry.Recover(f.twin.f)
			}
			continue
		}
		r := f.record
		r.Request.Listen, r.Account = f.ln.Addr().String(), account
		if _, err := a.registry.Ready(f.f, r, time.Now()); err != nil {
			panic(err) // only this request moves a forward that is Opening
		}
		out[i] = a.control(f.f, f.ln, events, l, releases[i])
	}
	a.touch()
	return out, nil
}
