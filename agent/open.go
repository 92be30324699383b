package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
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

// maxCommand bounds OpenRequest.Command, in bytes.
const maxCommand = 64

// wish is a requested forward, until a controller takes it over or the request fails.
type wish struct {
	record       forwards.Record // its name is the requested one, or the target's
	local        targets.Local
	target       targets.Spec
	destinations []string          // destinations of its clients, once the endpoint is known; empty for a proxy
	f            *forwards.Forward // Opening, once the scope is known; nil with a twin
	ln           net.Listener      // once open; a controller takes it over
	twins        []*controller     // existing detached forwards with the same request, of any owner
	twin         *controller       // the one of the same link, which serves this wish; nil: none
}

// Open opens all forwards of req, or none, and passes the events to emit, one at a time. For detached forwards it returns then.
// For others it waits and closes them when ctx is done. emit has received the returned error as EventError.
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
	defer w.leave() // an attached request receives its link's events until it ends
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

// openAll opens a request's forwards and hands them to controllers. The result includes detached forwards that existed before.
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

// open opens the forwards. On an error the caller must call abandon.
func (a *Agent) open(
	ctx context.Context, req api.OpenRequest, wishes []*wish, events *events, w *watcher,
) ([]*controller, *access.Pool, error) {
	if a.isPrivate() && req.Detached {
		return nil, nil, fail.New(fail.Usage, "", errors.New("a detached forward needs the user's agent"), "leave out --detach or --no-agent")
	}
	settings, err := config.FromTexts(req.Scope.Settings)
	if err != nil {
		return nil, nil, err
	}
	for _, f := range wishes {
		if a.isPrivate() && len(f.record.Request.Routes) > 0 {
			return nil, nil, fail.New(fail.Usage, "", errors.New("a proxy of several environments needs the user's agent"),
				"leave out --no-agent, or serve one environment: -e ENV")
		}
		if f.record.Request.Kind == api.KindProxy {
			if _, err := ProxyConfig(settings); err != nil {
				return nil, nil, err
			}
		}
	}
	if req.Detached {
		a.findTwins(wishes, settings, awssdk.NewEnv(req.Scope.Env).Public())
	}
	// Check what can fail on this machine before calling AWS.
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

// abandon closes and ends the wishes of a failed request.
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

// announce tells the request about its forwards. unsaved says why the file could not be saved; nil: it was.
func (a *Agent) announce(
	req api.OpenRequest, wishes []*wish, controllers []*controller, link *access.Pool, unsaved error, events *events,
) {
	note := func(text string) { events.try(api.Event{Event: api.EventNote, Text: text}) }
	if unsaved != nil {
		note("the detached forwards cannot be saved and will not come back when the agent starts again: " + unsaved.Error())
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

// attend waits until the request or one of its forwards ends. Then it ends the other forwards and returns the reason.
func (a *Agent) attend(ctx context.Context, controllers []*controller) error {
	ended := make(chan error, len(controllers)) // why
	var watchers sync.WaitGroup
	for _, c := range controllers {
		watchers.Go(func() {
			<-c.done
			ended <- c.f.Why()
		})
	}
	var why error
	select {
	case <-ctx.Done():
	case why = <-ended:
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

// parse checks a request and returns its wishes.
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
		if err := checkRoutes(r); err != nil {
			return nil, err
		}
		switch {
		case r.Name != "" && !forwards.ValidName(r.Name):
			return nil, fail.New(fail.Usage, "", fmt.Errorf("%q is no name for a forward", r.Name),
				"use letters, digits, dots, dashes and underscores; all is taken")
		case r.Kind == api.KindProxy && r.Target != "":
			return nil, fail.New(fail.Usage, "", errors.New("a proxy has no target"), "leave the target out")
		case r.Kind == api.KindProxy && r.Listen == "":
			return nil, fail.New(fail.Usage, "", errors.New("the proxy's port is missing"), "give its address, or : for a free port")
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
			return nil, fail.New(fail.Usage, "", fmt.Errorf("unknown kind %q of forward", r.Kind), "the kinds are tcp and proxy")
		}
		out = append(out, f)
	}
	return out, nil
}

// findTwins finds existing detached forwards that equal the requested ones: a repeated request returns the same forwards.
func (a *Agent) findTwins(wishes []*wish, settings config.Settings, env map[string]string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, f := range wishes {
		for _, other := range a.controllers {
			r := other.record
			if other.f.Detached() && r.Request.Kind == f.record.Request.Kind && r.Request.Target == f.record.Request.Target &&
				reflect.DeepEqual(r.Request.Routes, f.record.Request.Routes) &&
				(f.record.Request.Name == "" || f.record.Request.Name == other.name()) &&
				linkKey(settings, env, r.Owner) == r.Link && f.listensLike(other) && f.servesLike(other) {
				f.twins = append(f.twins, other)
			}
		}
	}
}

// place sets the wishes' scope and chooses their twins. It enters the others in the registry as Opening. It fails if a name is
// taken.
func (a *Agent) place(l *link, req api.OpenRequest, wishes []*wish) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var asked []forwards.Asked
	var of []*wish
	for _, f := range wishes {
		// The settings stay the request's own: a proxy's settings, such as its password, do not belong to the link.
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

// chooseTwin chooses l's twin; the other twins belong to other identities.
func (f *wish) chooseTwin(l *link) {
	for _, twin := range f.twins {
		if twin.record.Link == l.id {
			f.twin = twin
			return
		}
	}
	f.twins = nil
}

// servesLike reports whether f requests the same service as other, with the same password.
func (f *wish) servesLike(other *controller) bool {
	use := config.ForForward
	if f.record.Request.Kind == api.KindProxy {
		use = config.ForProxy
	}
	own, theirs := normal(f.record.Scope.Settings), normal(other.record.Scope.Settings)
	return !slices.ContainsFunc(config.All(), func(s *config.Setting) bool {
		return s.Use == use && own[s.Key] != theirs[s.Key]
	})
}

// normal returns the texts in this version's form. Older commands, and the files of older agents, have the same values in other
// spellings, for example 10.1.2.3 for 10.1.2.3/32.
func normal(texts map[string]string) map[string]string {
	settings, err := config.FromTexts(texts)
	if err != nil {
		return texts
	}
	return settings.Texts()
}

// listensLike reports whether f requests other's address.
func (f *wish) listensLike(other *controller) bool {
	if f.local.Free {
		return true
	}
	port := f.target.Port
	if _, text, err := net.SplitHostPort(other.record.Target); err == nil && port == 0 {
		port, _ = strconv.Atoi(text) // other has the same target
	}
	return f.local.Address("127.0.0.1", port) == other.ln.Addr().String()
}

// listenKnown opens the listeners whose address is known without AWS and that are not open yet.
func (a *Agent) listenKnown(ctx context.Context, wishes []*wish, allowRemote bool) error {
	for _, f := range wishes {
		isKnown := f.local.Free || f.local.Port != 0 || f.target.Port != 0
		if isKnown && len(f.twins) == 0 && f.ln == nil {
			if err := a.listen(ctx, f, f.target.Port, allowRemote); err != nil {
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

// forwardName makes a valid forward name of a target's name.
func forwardName(name string, spec targets.Spec) string {
	switch spec.Kind {
	case targets.Name:
	case targets.Host:
		name = spec.Host
	default:
		_, name, _ = strings.Cut(name, ":")
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

// handOver hands all wishes to controllers, or none. A reopened twin without a link adopts l.
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
			err = fail.New(fail.Other, "", fmt.Errorf("the existing forward %s has just ended", f.twin.name()), "try again")
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
			panic(err) // only this request moves its Opening forwards
		}
		out[i] = a.control(f.f, f.ln, events, l, releases[i])
	}
	a.touch()
	return out, nil
}
