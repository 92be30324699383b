package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/targets"
	"github.com/bastion-ssm/bastion/tunnel"
)

// maxForwards bounds the forwards of one request, and of all.
const maxForwards = 256

// maxCommand bounds the name of what asks, in bytes.
const maxCommand = 64

var goodName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// Open opens the forwards of req, or none of them, and tells emit of the events, one at a time. With detached ones it returns then;
// others it closes when ctx is done. What it returns was told as EventError.
func (d *Daemon) Open(ctx context.Context, req api.OpenRequest, emit func(api.Event)) error {
	end, err := d.begin()
	if err != nil {
		emit(api.Event{Event: api.EventError, Error: api.NewError(err)})
		return err
	}
	defer end()
	events := newEvents(emit)
	defer events.close()
	w := &watcher{emit: events.try}
	defer w.leave() // an attached request hears of its link as long as it lasts
	forwards, err := d.openAll(ctx, req, events, w)
	if err == nil && !req.Detached {
		err = d.attend(ctx, forwards)
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

// openAll opens the forwards of a request, which the Daemon has then.
func (d *Daemon) openAll(ctx context.Context, req api.OpenRequest, events *events, w *watcher) ([]*forward, error) {
	forwards, err := d.parse(req, events)
	if err != nil {
		return nil, err
	}
	if err := d.open(ctx, req, forwards, events, w); err != nil {
		if d.ctx.Err() != nil && ctx.Err() != nil {
			err = errClosing
		}
		return nil, err
	}
	return forwards, nil
}

func (d *Daemon) open(
	ctx context.Context, req api.OpenRequest, forwards []*forward, events *events, w *watcher,
) error {
	settings, err := config.FromTexts(req.Scope.Settings)
	if err != nil {
		return err
	}
	for _, f := range forwards {
		if f.record.Request.Kind == api.KindProxy {
			if _, err := agent.ProxyConfig(settings); err != nil {
				return err
			}
		}
	}
	if req.Detached {
		d.findTwins(forwards, settings, agent.NewEnv(req.Scope.Env).Public())
	}
	kept := false
	defer func() {
		for _, f := range forwards {
			if !kept && f.ln != nil {
				_ = f.ln.Close()
			}
		}
	}()
	// What can be wrong on this machine is found before AWS is asked.
	if err := listenKnown(ctx, forwards, settings.AllowRemote); err != nil {
		return err
	}
	e, release, err := d.engine(ctx, req.Scope, w)
	if err != nil {
		return err
	}
	w.release = release
	if err := d.place(e, forwards); err != nil {
		return err
	}
	if err := listenKnown(ctx, forwards, settings.AllowRemote); err != nil {
		return err
	}
	if err := e.endpoints(ctx, forwards, settings, events); err != nil {
		return err
	}
	link, err := e.ready(ctx)
	if err != nil {
		return err
	}
	if err := d.addForwards(e, forwards); err != nil {
		return err
	}
	kept = true
	if note := d.unsavedNote(); req.Detached && note != "" {
		events.try(api.Event{Event: api.EventNote, Text: note})
	}
	for _, f := range forwards {
		if wanted := cmp.Or(f.record.Request.Name, f.name); req.Detached && f.twin == nil && wanted != f.name {
			events.try(api.Event{Event: api.EventNote, Text: "another forward has the name " + wanted + "; this one is " + f.name})
		}
		if f.record.Note != "" {
			events.try(api.Event{Event: api.EventNote, Text: f.name + ": " + f.record.Note})
		}
	}
	events.try(api.Event{Event: api.EventLink, Link: linkState(link.State())})
	out := make([]api.Forward, len(forwards))
	d.mu.Lock()
	for i, f := range forwards {
		out[i] = cmp.Or(f.twin, f).show()
	}
	d.mu.Unlock()
	events.last(api.Event{Event: api.EventForwards, Forwards: out})
	return nil
}

// attend waits until a request or one of its forwards ends, ends the others, and returns why.
func (d *Daemon) attend(ctx context.Context, forwards []*forward) error {
	ended := make(chan struct{}, len(forwards))
	var watchers sync.WaitGroup
	for _, f := range forwards {
		watchers.Go(func() {
			<-f.done
			ended <- struct{}{}
		})
	}
	select {
	case <-ctx.Done():
	case <-ended:
	}
	var why error
	for _, f := range forwards {
		select {
		case <-f.done:
			if why == nil {
				why = f.why
			}
		default:
		}
	}
	for _, f := range forwards {
		f.cancel(context.Canceled)
	}
	watchers.Wait()
	switch {
	case d.ctx.Err() != nil:
		return errShutdown
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return why
}

// parse reads the requests.
func (d *Daemon) parse(req api.OpenRequest, events *events) ([]*forward, error) {
	if len(req.Forwards) == 0 || len(req.Forwards) > maxForwards {
		return nil, fail.New(fail.Usage, "", fmt.Errorf("%d forwards in one request", len(req.Forwards)),
			fmt.Sprintf("ask for 1 to %d", maxForwards))
	}
	if len(req.Command) > maxCommand {
		return nil, fail.New(fail.Usage, "", fmt.Errorf("a command of %d bytes", len(req.Command)), "give its name alone")
	}
	var out []*forward
	for _, r := range req.Forwards {
		f := &forward{
			d: d, named: r.Name != "", detached: req.Detached, pid: req.PID, opened: time.Now(), done: make(chan struct{}), events: events,
			record: record{Request: r, Command: req.Command, Scope: api.Scope{Settings: req.Scope.Settings}},
		}
		var err error
		if r.Listen != "" {
			if f.local, err = targets.ParseLocal(r.Listen); err != nil {
				return nil, err
			}
		}
		switch {
		case r.Name != "" && (!goodName.MatchString(r.Name) || r.Name == all):
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
func (d *Daemon) findTwins(forwards []*forward, settings config.Settings, env map[string]string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range forwards {
		for _, other := range d.forwards {
			r := other.record
			if other.detached && r.Request.Kind == f.record.Request.Kind && r.Request.Target == f.record.Request.Target &&
				(f.record.Request.Name == "" || f.record.Request.Name == other.name) &&
				engineKey(settings, env, r.Owner) == r.Link && f.listensLike(other) && f.servesLike(other) {
				f.twins = append(f.twins, other)
			}
		}
	}
}

// place says which scope the forwards are of, finds their twins there, and refuses names that are taken.
func (d *Daemon) place(e *engine, forwards []*forward) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range forwards {
		// The settings are the request's own: those of a proxy, such as its password, are not the engine's.
		f.record.Scope.Env, f.record.Owner, f.record.Link, f.record.Region = e.scope.Env, e.owner, e.id, e.agent.Region()
		f.chooseTwin(e)
	}
	return d.checkNames(forwards)
}

// chooseTwin chooses the twin that is of e; the others are of other identities.
func (f *forward) chooseTwin(e *engine) {
	for _, twin := range f.twins {
		if twin.record.Link == e.id {
			f.twin = twin
			return
		}
	}
	f.twins = nil
}

// servesLike reports whether f is to serve as other does, with the same password.
func (f *forward) servesLike(other *forward) bool {
	keys := []string{"redis_cluster", "tls_ca", "hosts"}
	if f.record.Request.Kind == api.KindProxy {
		keys = []string{"proxy_domains", "proxy_cidrs", "proxy_auth_file"}
	}
	for _, key := range keys {
		if f.record.Scope.Settings[key] != other.record.Scope.Settings[key] {
			return false
		}
	}
	return true
}

// listensLike reports whether the address that f is to have is that of other.
func (f *forward) listensLike(other *forward) bool {
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
func (f *forward) listenPort() (port int, known bool) {
	return f.target.Port, f.local.Free || f.local.Port != 0 || f.target.Port != 0
}

// listenKnown opens the listeners whose address is known without asking AWS, and that are not open yet.
func listenKnown(ctx context.Context, forwards []*forward, allowRemote bool) error {
	for _, f := range forwards {
		if port, known := f.listenPort(); known && len(f.twins) == 0 && f.ln == nil {
			if err := f.listen(ctx, port, allowRemote); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *forward) listen(ctx context.Context, targetPort int, allowRemote bool) error {
	addr := f.local.Address("127.0.0.1", targetPort)
	ln, err := tunnel.Listen(ctx, addr, allowRemote)
	if err == nil {
		f.ln = ln
		return nil
	}
	if fail.KindOf(err) == fail.PortInUse {
		if other := f.d.listener(addr); other != "" {
			return fail.New(fail.PortInUse, "", err, "the forward "+other+" listens there: bastion stop "+other+" ends it")
		}
	}
	return err
}

// listener returns the name of the forward that listens at addr.
func (d *Daemon) listener(addr string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, f := range d.forwards {
		if f.ln.Addr().String() == addr {
			return id.name
		}
	}
	return ""
}

// endpoints finds the targets' endpoints and opens the listeners that depend on them.
func (e *engine) endpoints(ctx context.Context, forwards []*forward, s config.Settings, events *events) error {
	var specs []targets.Spec
	var of []*forward
	var names []string
	for _, f := range forwards {
		if f.record.Request.Kind == api.KindTCP && f.twin == nil {
			specs, of, names = append(specs, f.target), append(of, f), append(names, f.target.String())
		}
	}
	if len(specs) > 0 {
		events.try(api.Event{Event: api.EventStep, Text: "looking up " + strings.Join(names, ", ")})
	}
	found, err := e.resolve(ctx, specs)
	if err != nil {
		return err
	}
	for i, f := range of {
		if note := found[i].StatusNote; note != "" {
			events.try(api.Event{Event: api.EventNote, Text: found[i].Name + ": " + note})
		}
		f.record.Target = agent.Destination(found[i].Host, found[i].Port)
		f.record.Engine, f.record.TLS, f.record.Note = found[i].Engine, found[i].TLS, found[i].Note
		f.record.Database, f.record.IAM = found[i].Database, found[i].IAM
		if f.record.Cluster, err = agent.ClusterModeOf(s, found[i]); err != nil {
			return err
		}
		if f.record.Cluster != agent.ClusterOff {
			f.record.Note = f.record.Cluster.Note()
		}
		if f.record.Request.Name == "" {
			f.record.Request.Name = ForwardName(found[i].Name, f.target)
		}
		if f.ln == nil {
			if err := f.listen(ctx, found[i].Port, s.AllowRemote); err != nil {
				return err
			}
		}
	}
	return nil
}

// ForwardName makes a name for a forward of its target's.
func ForwardName(name string, spec targets.Spec) string {
	switch spec.Kind {
	case targets.RDS, targets.Cache:
		_, name, _ = strings.Cut(name, ":")
	case targets.Host:
		name = spec.Host
	}
	name = strings.Map(func(r rune) rune {
		if goodName.MatchString("a" + string(r)) {
			return r
		}
		return '-'
	}, name)
	name = strings.Trim(name, "-._")
	if name == "" || name == all {
		name = "forward"
	}
	return name[:min(len(name), 50)]
}

// addForwards makes forwards the Daemon's and begins to serve them.
func (d *Daemon) addForwards(e *engine, forwards []*forward) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closing {
		return errClosing
	}
	if len(d.forwards)+len(forwards) > maxForwards {
		return fail.New(fail.Usage, "", fmt.Errorf("there would be more than %d forwards", maxForwards), "stop some: bastion stop NAME")
	}
	for _, f := range forwards {
		if f.twin != nil && d.forwards[f.twin.id] != f.twin {
			return fail.New(fail.Other, "", fmt.Errorf("the forward %s, which was there, has just ended", f.twin.name), "try again")
		}
	}
	if err := d.checkNames(forwards); err != nil {
		return err
	}
	ids := make(map[*forward]ident)
	taken := make(map[ident]bool)
	for _, f := range forwards {
		if f.twin == nil {
			id := d.freeName(f, taken)
			ids[f], taken[id] = id, true
		}
	}
	for _, f := range forwards {
		if f.twin != nil && f.twin.engine != nil {
			continue
		}
		release, err := e.hold(nil)
		if err != nil {
			return err
		}
		if f.twin != nil { // it was restored: now there are the credentials that it may lack
			f.twin.record.Account = e.agent.Account()
			f.twin.engine, f.twin.release = e, release
			f.twin.setFault(nil)
			continue
		}
		f.id, f.name, f.engine, f.release = ids[f], ids[f].name, e, release
		f.record.Request.Listen, f.record.Account = f.ln.Addr().String(), e.agent.Account()
		d.forwards[f.id] = f
		if f.detached {
			for _, s := range f.record.scopes() {
				delete(d.unopened, ident{s, f.name}) // this one is in its place
			}
		}
		f.serve()
	}
	d.save()
	d.touch()
	return nil
}
