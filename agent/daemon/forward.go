package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
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

// forward is a local listener whose connections go through an engine.
type forward struct {
	d        *Daemon
	record   record
	name     string
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

	engine  *engine  // guarded by d.mu, as the following
	release func()   // of engine
	failed  failures // to find the engine
	state   api.ForwardState
	err     string
	why     error // why it has ended, once done is closed
}

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
	forwards, err := d.openAll(ctx, req, events)
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
func (d *Daemon) openAll(ctx context.Context, req api.OpenRequest, events *events) ([]*forward, error) {
	forwards, err := d.parse(req, events)
	if err != nil {
		return nil, err
	}
	if err := d.open(ctx, req, forwards, events); err != nil {
		if d.ctx.Err() != nil && ctx.Err() != nil {
			err = errClosing
		}
		return nil, err
	}
	return forwards, nil
}

func (d *Daemon) open(ctx context.Context, req api.OpenRequest, forwards []*forward, events *events) error {
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
	w := &watcher{emit: events.try}
	e, release, err := d.engine(ctx, req.Scope, w)
	if err != nil {
		return err
	}
	defer release()
	for _, f := range forwards {
		f.chooseTwin(e)
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
	for _, f := range forwards {
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
			d: d, detached: req.Detached, pid: req.PID, opened: time.Now(), done: make(chan struct{}), state: api.ForwardReady, events: events,
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
	for name, f := range d.forwards {
		if f.ln.Addr().String() == addr {
			return name
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
	for _, f := range forwards {
		// The settings are the request's own: those of a proxy, such as its password, are not the engine's.
		f.record.Scope.Env, f.record.Owner, f.record.Link = e.scope.Env, e.owner, e.id
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
		if f.twin != nil && d.forwards[f.twin.name] != f.twin {
			return fail.New(fail.Other, "", fmt.Errorf("the forward %s, which was there, has just ended", f.twin.name), "try again")
		}
	}
	names := make(map[*forward]string)
	taken := make(map[string]bool)
	for _, f := range forwards {
		if f.twin == nil {
			name := d.freeName(f.record.Request, taken)
			names[f], taken[name] = name, true
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
			f.twin.engine, f.twin.release = e, release
			f.twin.state, f.twin.err = api.ForwardReady, ""
			continue
		}
		f.name, f.engine, f.release = names[f], e, release
		d.forwards[f.name] = f
		if f.detached {
			delete(d.unopened, f.name) // this one is in its place
		}
		f.serve()
	}
	d.save()
	d.touch()
	return nil
}

// freeName returns the name that was asked for, or one like it. The caller holds d.mu.
func (d *Daemon) freeName(r api.ForwardRequest, taken map[string]bool) string {
	free := func(name string) bool { return d.forwards[name] == nil && !taken[name] }
	name := cmp.Or(r.Name, string(r.Kind))
	for n := 2; !free(name); n++ {
		name = cmp.Or(r.Name, string(r.Kind)) + "-" + strconv.Itoa(n)
	}
	return name
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
	if d.forwards[f.name] == f {
		delete(d.forwards, f.name)
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
	state, text := api.ForwardReady, ""
	if err != nil {
		state, text = api.ForwardFailed, err.Error()
	}
	if f.state != state || f.err != text {
		f.state, f.err = state, text
		f.d.touch()
	}
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
			f.state, f.err = api.ForwardFailed, err.Error()
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
			f.state, f.err = api.ForwardReady, ""
		}
	}
}

// show returns what others see of the forward. The caller holds d.mu.
func (f *forward) show() api.Forward {
	out := api.Forward{
		Name: f.name, Kind: f.record.Request.Kind, Spec: f.record.Request.Target, Target: f.record.Target, Listen: f.ln.Addr().String(),
		Engine: f.record.Engine, TLS: f.record.TLS, Database: f.record.Database, IAM: f.record.IAM, Note: f.record.Note, State: f.state, Error: f.err, Detached: f.detached,
		Command: f.record.Command, PID: f.pid, Link: f.record.Link, Opened: f.opened, Stats: f.stats.Snapshot(),
		Clients: []api.ForwardClient{},
	}
	for _, c := range f.stats.Conns() {
		out.Clients = append(out.Clients, api.ForwardClient{Addr: c.Client, Target: c.Dest, Since: c.Since, Up: c.Up, Down: c.Down})
	}
	return out
}

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
