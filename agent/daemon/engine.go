package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/forwards"
	"github.com/bastion-ssm/bastion/internal/backoff"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/targets"
	"github.com/bastion-ssm/bastion/tunnel"
)

const (
	// resolvedFor is how long a target's endpoint is taken for the same.
	resolvedFor = 5 * time.Minute

	// When a link has ended by itself, or cannot be had at all, clients of forwards, who may connect again at once and for
	// ever, make no other for firstRetry, which doubles up to lastRetry. Commands do: someone may have mended what was
	// wrong.
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// engine is the way into one AWS account and network with certain settings. It is a tunnel.Dialer.
type engine struct {
	d        *Daemon
	id       string
	settings config.Settings
	scope    api.Scope // without secrets
	owner    string    // whose credentials the variables had; empty if they had none
	env      *agent.Env
	agent    *agent.Agent

	mu            sync.Mutex
	credentialsOf time.Time // when the credentials in env were first seen
	permit        []string  // destinations of the grant of the next link; empty: all that the bastion allows
	link          *agent.Link
	links         sync.WaitGroup // goroutines that wait for a link to end
	closed        bool
	busy          int       // requests that hold the engine
	waiting       int       // those that wait for the link, or for a connection through it
	used          time.Time // when somebody last used the link
	failed        failures  // links that have ended by themselves
	watchers      map[*watcher]struct{}
	resolved      map[string]resolution
}

// failures are those in a row, after which clients of forwards are kept from trying again at once.
type failures struct {
	n     int
	last  error
	since time.Time // of the first
	retry time.Time // not before
}

// add notes a failure.
func (f *failures) add(err error) {
	now := time.Now()
	if f.n == 0 {
		f.since = now
	}
	f.last, f.retry = err, now.Add(backoff.After(f.n, firstRetry, lastRetry))
	f.n++
}

// wait returns the last failure if it is too early to try again.
func (f *failures) wait() error {
	if time.Now().Before(f.retry) {
		return f.last
	}
	return nil
}

// watcher is a request that wants to know what becomes of the link. Its function must not block.
type watcher struct {
	emit    func(api.Event)
	release func() // of the engine, once it is known
}

// leave ends the watching.
func (w *watcher) leave() {
	if w.release != nil {
		w.release()
	}
}

// resolution is a target's endpoint, remembered.
type resolution struct {
	endpoint targets.Endpoint
	at       time.Time
}

// matters reports whether a setting makes a difference to an engine.
func matters(key string) bool {
	setting := config.Lookup(key)
	switch {
	case setting == nil, strings.HasPrefix(key, "price_"):
		return false
	case key == "allow_remote", key == "hosts", key == "tls_ca", key == "redis_cluster": // of each forward
		return false
	}
	switch setting.Group {
	case config.GroupAWS, config.GroupBastion, config.GroupGrant, config.GroupLink, config.GroupSSHD:
		return true
	}
	return false
}

// engine returns the engine for a scope, which it makes if there is none. w, which may be nil, is told what becomes of it until the
// request has ended, when release must be called.
func (d *Daemon) engine(ctx context.Context, scope api.Scope, w *watcher) (e *engine, release func(), err error) {
	settings, err := config.FromTexts(scope.Settings)
	if err != nil {
		return nil, nil, err
	}
	env := agent.NewEnv(scope.Env)
	scope.Env = env.Public()
	who, err := d.ownerOf(ctx, settings, env)
	if err != nil {
		return nil, nil, err
	}
	owner := who.arn
	key := engineKey(settings, scope.Env, owner)
	for {
		d.mu.Lock()
		e = d.engines[key]
		d.mu.Unlock()
		if e == nil {
			e = &engine{
				d: d, id: key, settings: settings, permit: settings.Permit, scope: scope, owner: owner, env: env, used: time.Now(),
				watchers: make(map[*watcher]struct{}), resolved: make(map[string]resolution),
			}
			if e.agent, err = d.access(ctx, settings, agent.Options{
				Logger: d.log.With("link", key), Env: env, Progress: e.onStep, Path: e.onPath,
			}); err != nil {
				return nil, nil, err
			}
			if e, err = d.add(e); err != nil {
				return nil, nil, err
			}
		}
		if release, err = e.hold(w); err == nil {
			break
		}
		if d.ctx.Err() != nil {
			return nil, nil, err
		}
		// It was dropped just now, because nobody used it: make another.
	}
	if owner != "" {
		e.renew(env, who.seen)
	} else {
		e.env.Renew(env)
	}
	return e, release, nil
}

// renew gives the engine credentials that were first seen at the given time, unless it has had later ones: a command in a terminal
// that was opened yesterday brings yesterday's.
func (e *engine) renew(env *agent.Env, seen time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !seen.Before(e.credentialsOf) {
		e.credentialsOf = seen
		e.env.Renew(env)
	}
}

var errClosing = fail.New(fail.Other, "", errShutdown, "try again: the next command starts another agent")

// add adds e, or closes it and returns the one that was added meanwhile.
func (d *Daemon) add(e *engine) (*engine, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	other := d.engines[e.id]
	if other != nil || d.closing {
		e.close() // it has no link: nothing is waited for
	}
	switch {
	case d.closing:
		return nil, errClosing
	case other != nil:
		return other, nil
	}
	d.engines[e.id] = e
	d.touch()
	e.agent.Prepare()
	return e, nil
}

// engineKey is the id of the engine for settings, variables and the owner of the credentials among these.
func engineKey(s config.Settings, env map[string]string, owner string) string {
	matter := s.Texts()
	maps.DeleteFunc(matter, func(key, _ string) bool { return !matters(key) })
	if s.Target == "" { // a bastion task takes no key of the user's
		env = maps.Clone(env)
		delete(env, "SSH_AUTH_SOCK")
	}
	data, err := json.Marshal([]any{matter, env, owner}) // maps are written in the order of their keys
	if err != nil {
		panic(err) // there are only strings
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:6])
}

// maxOwners bounds the credentials whose owner is remembered, and maxResolved the targets of an engine.
const (
	maxOwners   = 1000
	maxResolved = 1000
)

// owned says whose credentials are, and when they were first seen.
type owned struct {
	arn  string
	seen time.Time
}

// ownerOf returns the identity that the credentials among the variables are of, so that renewed ones are known as such; nothing
// if the credentials come from elsewhere, where they are renewed, or are this process's own.
func (d *Daemon) ownerOf(ctx context.Context, s config.Settings, env *agent.Env) (owned, error) {
	c := env.Credentials()
	if d.isPrivate() || !c.HasKeys() || s.Profile != "" {
		return owned{}, nil
	}
	sum := sha256.Sum256([]byte(c.AccessKeyID + "\x00" + c.SecretAccessKey + "\x00" + c.SessionToken))
	d.mu.Lock()
	known, ok := d.owners[sum]
	d.mu.Unlock()
	if ok {
		return known, nil
	}
	a, err := d.access(ctx, s, agent.Options{Logger: d.log, Env: env})
	if err != nil {
		return owned{}, err
	}
	defer a.Close()
	arn, err := a.Owner(ctx)
	if err != nil {
		return owned{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.owners) >= maxOwners {
		clear(d.owners)
	}
	d.owners[sum] = owned{arn: arn, seen: time.Now()}
	return d.owners[sum], nil
}

// hold keeps the engine until release is called.
func (e *engine) hold(w *watcher) (release func(), err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, errClosing
	}
	e.busy++
	if w != nil {
		e.watchers[w] = struct{}{}
	}
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.busy--
		e.used = time.Now()
		if w != nil {
			delete(e.watchers, w)
		}
	}, nil
}

// emit tells the watchers.
func (e *engine) emit(ev api.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for w := range e.watchers {
		w.emit(ev)
	}
}

func (e *engine) onStep(step string) { e.emit(api.Event{Event: api.EventStep, Text: step}) }

func (e *engine) onPath(p report.Path) {
	e.emit(api.Event{Event: api.EventPath, Path: &p})
	e.d.bump()
}

func (e *engine) onState(st tunnel.State) {
	if st.Phase == tunnel.Up {
		e.mu.Lock()
		e.failed = failures{}
		e.mu.Unlock()
		e.d.linkUp(e)
	}
	switch {
	case st.Phase == tunnel.Idle:
		e.d.log.Info("the link is idle until somebody needs it", "link", e.id, "bastion", st.Describe, "err", st.Err)
	case st.Err != nil && st.Retry > 0:
		e.d.log.Warn("the link waits", "link", e.id, "phase", st.Phase, "attempt", st.Attempt, "err", st.Err, "retry", st.RetryAt)
	}
	e.emit(api.Event{Event: api.EventLink, Link: linkState(st)})
	e.d.bump()
}

func linkState(st tunnel.State) *api.LinkState {
	out := &api.LinkState{Phase: st.Phase, Since: st.Since, Attempt: st.Attempt, Retry: st.RetryAt, Bastion: st.Describe}
	out.Error, out.Next = inWords(st.Err)
	return out
}

// inWords returns the text of an error and the next step after it; neither for nil.
func inWords(err error) (text, next string) {
	if err == nil {
		return "", ""
	}
	return err.Error(), fail.NextOf(err)
}

// connected returns the link, which it begins to make if there is none. For a command it does so even if it has just failed. For a client
// of a private Daemon's forward it does not once the link has failed.
func (e *engine) connected(command bool) (*agent.Link, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.used = time.Now()
	if e.closed {
		return nil, errClosing
	}
	if e.link != nil {
		return e.link, nil
	}
	err := e.failed.wait()
	if e.d.isPrivate() {
		err = e.failed.last
	}
	if err != nil && !command {
		return nil, fail.New(fail.Lost, "connect to the bastion", err, fail.NextOf(err))
	}
	link, err := e.agent.Link(e.permit, e.onState)
	if err != nil {
		return nil, err
	}
	e.link = link
	e.links.Go(func() { e.await(link) })
	link.Start(e.d.ctx)
	return link, nil
}

// narrow makes permit the destinations of the links that are made from now on.
func (e *engine) narrow(permit []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.permit = permit
}

// await takes leave of a link that ends by itself.
func (e *engine) await(link *agent.Link) {
	<-link.Done()
	err := link.Err()
	_ = link.Close()
	e.mu.Lock()
	if e.link == link {
		e.link = nil
	}
	if err != nil {
		e.failed.add(err)
	}
	e.mu.Unlock()
	if err != nil {
		e.d.log.Warn("the link has ended", "link", e.id, "err", err)
		e.d.linkEnded(e, err)
	}
	e.d.bump()
}

// ready returns the link once it is up. One that is being made when ctx ends, and that nothing else is for, is given up.
func (e *engine) ready(ctx context.Context) (*agent.Link, error) {
	defer e.wait()()
	link, err := e.connected(true)
	if err != nil {
		return nil, err
	}
	limit := e.settings.StartTimeout + e.settings.ConnectTimeout
	wait, cancel := context.WithTimeoutCause(ctx, limit, fail.New(fail.Timeout, "connect to the bastion",
		fmt.Errorf("no connection to the bastion within %s", limit), "try again, or allow more time with --start-timeout"))
	defer cancel()
	if err := link.Reach(wait); err != nil {
		e.giveUp(link)
		return nil, err
	}
	return link, nil
}

// giveUp closes a link that has not come up, unless somebody else waits for it.
func (e *engine) giveUp(link *agent.Link) {
	e.mu.Lock()
	alone := e.link == link && e.waiting <= 1 && link.State().Phase == tunnel.Connecting
	if alone {
		e.link = nil // the next caller makes another
	}
	e.mu.Unlock()
	if alone {
		_ = link.Close()
	}
}

// Dial opens a connection through the bastion, for a client of a forward.
func (e *engine) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	defer e.wait()()
	link, err := e.connected(false)
	if err != nil {
		return nil, err
	}
	return link.Dial(ctx, network, addr)
}

// dialReady opens a connection for a client that does not wait longer than a command would.
func (e *engine) dialReady(ctx context.Context, addr string) (net.Conn, error) {
	link, err := e.ready(ctx)
	if err != nil {
		return nil, err
	}
	defer e.wait()()
	return link.Dial(ctx, "tcp", addr)
}

// wait counts one that waits for the link, until the function that it returns is called.
func (e *engine) wait() (done func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiting++
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.waiting--
		e.used = time.Now()
	}
}

// resolve finds the endpoints of specs, in order.
func (e *engine) resolve(ctx context.Context, specs []targets.Spec) ([]targets.Endpoint, error) {
	out := make([]targets.Endpoint, len(specs))
	var unknown []targets.Spec
	var at []int
	e.mu.Lock()
	for i, spec := range specs {
		if known, ok := e.resolved[spec.String()]; ok && time.Since(known.at) < resolvedFor {
			out[i] = known.endpoint
			continue
		}
		unknown, at = append(unknown, spec), append(at, i)
	}
	e.mu.Unlock()
	if len(unknown) == 0 {
		return out, nil
	}
	found, err := e.agent.Resolve(ctx, unknown)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.resolved) > maxResolved {
		clear(e.resolved)
	}
	for i, endpoint := range found {
		out[at[i]] = endpoint
		e.resolved[unknown[i].String()] = resolution{endpoint, time.Now()}
	}
	return out, nil
}

// closeIdle closes the link if nobody has used it for the given time. The next connection makes another.
func (e *engine) closeIdle(after time.Duration) {
	e.mu.Lock()
	link := e.link
	e.mu.Unlock()
	if link == nil {
		return
	}
	channels := 0
	for _, m := range link.Stats() {
		channels += m.Channels
	}
	e.mu.Lock()
	if channels > 0 || e.waiting > 0 {
		e.used = time.Now()
	}
	idle := e.link == link && time.Since(e.used) >= after
	if idle {
		e.link = nil
	}
	e.mu.Unlock()
	if idle {
		e.d.log.Info("closing a link that nobody uses", "link", e.id)
		_ = link.Close()
	}
}

// retire makes the engine take no more requests if it has neither these nor a link, and reports whether that is so. Its close must
// be called then.
func (e *engine) retire() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.link == nil && e.busy == 0 && e.waiting == 0 {
		e.closed = true
	}
	return e.closed
}

// close ends the engine and waits until that is done.
func (e *engine) close() {
	e.mu.Lock()
	e.closed = true
	link := e.link
	e.mu.Unlock()
	if link != nil {
		_ = link.Close()
	}
	e.links.Wait()
	e.agent.Close()
}

// condition is what the next client of an engine meets.
type condition struct {
	state        api.LinkPhase
	err          error // the latest failure, of a link that waits or has failed
	since, retry time.Time
}

// condition returns the engine's condition. It may be called with d.mu held.
func (e *engine) condition() condition {
	e.mu.Lock()
	link, failed := e.link, e.failed
	e.mu.Unlock()
	return conditionOf(link, failed)
}

// conditionOf is the condition of an engine with this link, which may be nil, and these failures since one was up.
func conditionOf(link *agent.Link, failed failures) condition {
	switch {
	case link == nil && failed.last != nil:
		return condition{state: api.LinkFailed, err: failed.last, since: failed.since, retry: failed.retry}
	case link == nil:
		return condition{state: api.LinkIdle}
	}
	c := link.Condition()
	switch {
	case c.Waiting:
		err := c.Err
		if err == nil {
			err = failed.last // of the link before this one
		}
		return condition{state: api.LinkWaiting, err: err, since: c.Since, retry: c.Retry}
	case link.State().Phase == tunnel.Up:
		return condition{state: api.LinkUp}
	}
	return condition{state: api.LinkIdle}
}

// show returns the state of the engine.
func (e *engine) show() api.Link {
	e.mu.Lock()
	used := e.used
	e.mu.Unlock()
	c := e.condition()
	out := api.Link{
		ID: e.id, Owner: e.owner, Profile: forwards.ProfileOf(e.scope, e.owner), Region: e.agent.Region(), Account: e.agent.Account(),
		LastUsed: used, State: c.state, Since: c.since, Retry: c.retry, Live: e.agent.Live(),
	}
	out.Error, out.Next = inWords(c.err)
	if e.settings.Target == "" {
		out.Cluster = e.settings.Cluster
	}
	return out
}
