package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/forwards"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/backoff"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/targets"
	"github.com/bastion-ssm/bastion/tunnel"
)

const (
	// resolvedFor is how long a link reuses a target's endpoint without asking AWS.
	resolvedFor = 5 * time.Minute

	// After a link has given up, or cannot be made, forwards' clients do not reconnect it for firstRetry. The delay doubles up
	// to lastRetry, because clients may retry at once and for ever. Commands always try: the user may have mended the cause.
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// link is the way into one AWS account and network with certain settings. Its first user connects it, and the next user
// reconnects it after a loss or an idle close. It is a tunnel.Dialer.
type link struct {
	agent    *Agent
	id       string
	settings config.Settings
	scope    api.Scope // without secrets
	owner    string    // ARN of the variables' credentials; empty without such credentials
	env      *awssdk.Env
	access   *access.Access

	mu            sync.Mutex
	credentialsOf time.Time      // when the Agent first saw the credentials in env
	permit        []string       // destinations of the next pool's grant; empty: all that the bastion allows
	pool          *access.Pool   // nil while the link is not connected
	ending        sync.WaitGroup // goroutines that wait for a pool's end
	closed        bool
	busy          int            // number of holds
	waiting       int            // callers that wait for the link or for a connection through it
	used          time.Time      // end of the last use
	failed        failures       // pools that ended by themselves
	asked         *report.SignIn // why the user has to sign in; nil: nothing is known
	watchers      map[*watcher]struct{}
	resolved      map[string]resolution
	placed        map[string]placed
}

// failures counts consecutive failures. They delay the clients of forwards.
type failures struct {
	n     int
	last  error
	since time.Time // start of the first
	retry time.Time // end of the delay
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

// wait returns the last failure until the delay has passed.
func (f *failures) wait() error {
	if time.Now().Before(f.retry) {
		return f.last
	}
	return nil
}

// watcher is a request that receives the link's events. emit must not block.
type watcher struct {
	emit    func(api.Event)
	release func() // gives back the link; nil while the request has none
}

// leave ends the watching and gives back the link.
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

// linkFor returns the link for a scope and makes it if needed. w, which may be nil, receives the link's events until release.
// The caller must call release at the end of its request.
func (a *Agent) linkFor(ctx context.Context, scope api.Scope, w *watcher) (l *link, release func(), err error) {
	settings, err := config.FromTexts(scope.Settings)
	if err != nil {
		return nil, nil, err
	}
	env := awssdk.NewEnv(scope.Env)
	scope.Env = env.Public()
	who, err := a.ownerOf(ctx, settings, env)
	if err != nil {
		return nil, nil, err
	}
	owner := who.arn
	key := linkKey(settings, scope.Env, owner)
	for {
		a.mu.Lock()
		l = a.links[key]
		a.mu.Unlock()
		if l == nil {
			l = &link{
				agent: a, id: key, settings: settings, permit: settings.Grant.Permit, scope: scope, owner: owner, env: env, used: time.Now(),
				watchers: make(map[*watcher]struct{}), resolved: make(map[string]resolution), placed: make(map[string]placed),
			}
			if l.access, err = a.access(ctx, settings, access.Options{
				Logger: a.log.With("link", key), Env: env, Progress: l.onStep, Path: l.onPath, SignIn: l.onSignIn,
			}); err != nil {
				a.onRefused(err, settings, env)
				return nil, nil, err
			}
			if l, err = a.add(l); err != nil {
				return nil, nil, err
			}
		}
		if release, err = l.hold(w); err == nil {
			break
		}
		if a.ctx.Err() != nil {
			return nil, nil, err
		}
		// The Agent has just dropped the idle link: make another.
	}
	if owner != "" {
		l.renew(env, who.seen)
	} else {
		l.env.Renew(env)
	}
	return l, release, nil
}

// renew gives the link credentials that the Agent first saw at the given time, unless the link has had later ones. A terminal
// that was opened yesterday still has yesterday's credentials.
func (l *link) renew(env *awssdk.Env, seen time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !seen.Before(l.credentialsOf) {
		l.credentialsOf = seen
		l.env.Renew(env)
	}
}

var errClosing = fail.New(fail.Other, "", errShutdown, "try again: the next command starts another agent")

// add adds l to the Agent. If another link with l's id was added meanwhile, it closes l and returns the other one.
func (a *Agent) add(l *link) (*link, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	other := a.links[l.id]
	if other != nil || a.closing {
		l.close() // l is not connected, so close returns at once
	}
	switch {
	case a.closing:
		return nil, errClosing
	case other != nil:
		return other, nil
	}
	a.links[l.id] = l
	a.touch()
	l.access.Prepare()
	return l, nil
}

// linkKey returns the link's id: a hash of the settings that matter to a link, the variables, and the credentials' owner.
func linkKey(s config.Settings, env map[string]string, owner string) string {
	matter := s.Texts()
	maps.DeleteFunc(matter, func(key, _ string) bool { return config.Lookup(key).Use != config.ForLink })
	if s.SSHD.Target == "" { // a bastion task does not use the user's keys
		env = maps.Clone(env)
		delete(env, "SSH_AUTH_SOCK")
	}
	data, err := json.Marshal([]any{matter, env, owner}) // json writes maps in the order of their keys
	if err != nil {
		panic(err) // there are only strings
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:6])
}

// maxOwners bounds Agent.owners, and maxResolved bounds link.resolved.
const (
	maxOwners   = 1000
	maxResolved = 1000
)

// owned is the owner of credentials, and when the Agent first saw them.
type owned struct {
	arn  string
	seen time.Time
}

// ownerOf returns the owner of the credentials in the variables, so that renewed credentials find the same link. It returns
// zero for a profile, for credentials from elsewhere (renewed there), and in a private Agent.
func (a *Agent) ownerOf(ctx context.Context, s config.Settings, env *awssdk.Env) (owned, error) {
	c := env.Credentials()
	if a.isPrivate() || !c.HasKeys() || s.AWS.Profile != "" {
		return owned{}, nil
	}
	sum := sha256.Sum256([]byte(c.AccessKeyID + "\x00" + c.SecretAccessKey + "\x00" + c.SessionToken))
	a.mu.Lock()
	known, ok := a.owners[sum]
	a.mu.Unlock()
	if ok {
		return known, nil
	}
	way, err := a.access(ctx, s, access.Options{Logger: a.log, Env: env})
	if err != nil {
		return owned{}, err
	}
	defer way.Close()
	arn, err := way.Owner(ctx)
	if err != nil {
		return owned{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.owners) >= maxOwners {
		clear(a.owners)
	}
	a.owners[sum] = owned{arn: arn, seen: time.Now()}
	return a.owners[sum], nil
}

// hold keeps the link until the caller calls release.
func (l *link) hold(w *watcher) (release func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errClosing
	}
	l.busy++
	if w != nil {
		l.watchers[w] = struct{}{}
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.busy--
		l.used = time.Now()
		if w != nil {
			delete(l.watchers, w)
		}
	}, nil
}

// emit sends an event to the watchers.
func (l *link) emit(ev api.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for w := range l.watchers {
		w.emit(ev)
	}
}

func (l *link) onStep(step string) { l.emit(api.Event{Event: api.EventStep, Text: step}) }

func (l *link) onPath(p report.Path) {
	l.emit(api.Event{Event: api.EventPath, Path: &p})
	if p.Lost {
		l.onRefused(l.condition().err)
	}
	l.agent.bump()
}

func (l *link) onState(st tunnel.State) {
	if st.Phase == tunnel.Up {
		l.mu.Lock()
		l.failed = failures{}
		l.mu.Unlock()
		l.agent.linkUp(l)
	}
	switch {
	case st.Phase == tunnel.Idle:
		l.agent.log.Info("the link is idle until its next use", "link", l.id, "bastion", st.Describe, "err", st.Err)
	case st.Err != nil && st.Retry > 0:
		l.onRefused(st.Err)
		l.agent.log.Warn("the link waits", "link", l.id, "phase", st.Phase, "attempt", st.Attempt, "err", st.Err, "retry", st.RetryAt)
	}
	l.emit(api.Event{Event: api.EventLink, Link: linkState(st)})
	l.agent.bump()
}

func linkState(st tunnel.State) *api.LinkState {
	out := &api.LinkState{Phase: st.Phase, Since: st.Since, Attempt: st.Attempt, Retry: st.RetryAt, Bastion: st.Describe}
	out.Error, out.Next = inWords(st.Err)
	return out
}

// inWords returns an error's text and its hint; both are empty for nil.
func inWords(err error) (text, next string) {
	if err == nil {
		return "", ""
	}
	return err.Error(), fail.NextOf(err)
}

// connected returns the link's pool and starts one if needed. A command starts one even after a recent failure. A forward's
// client must wait for the delay, and in a private Agent never restarts a failed link.
func (l *link) connected(command bool) (*access.Pool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.used = time.Now()
	if l.closed {
		return nil, errClosing
	}
	if l.pool != nil {
		return l.pool, nil
	}
	err := l.failed.wait()
	if l.agent.isPrivate() {
		err = l.failed.last
	}
	if err != nil && !command {
		return nil, fail.New(fail.Lost, "connect to the bastion", err, fail.NextOf(err))
	}
	pool, err := l.access.Pool(l.permit, l.onState)
	if err != nil {
		return nil, err
	}
	l.pool = pool
	l.ending.Go(func() { l.await(pool) })
	pool.Start(l.agent.ctx)
	return pool, nil
}

// narrow sets the destinations of the next pool's grant.
func (l *link) narrow(permit []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.permit = permit
}

// await waits for a pool's end. If the pool gave up, await notes the failure and ends the attached forwards.
func (l *link) await(pool *access.Pool) {
	<-pool.Done()
	err := pool.Err()
	_ = pool.Close()
	l.mu.Lock()
	if l.pool == pool {
		l.pool = nil
	}
	if err != nil {
		l.failed.add(err)
	}
	l.mu.Unlock()
	if err != nil {
		l.agent.log.Warn("the link has ended", "link", l.id, "err", err)
		l.agent.linkEnded(l, err)
	}
	l.agent.bump()
}

// ready returns the link's pool once it is up. If ctx ends first, it gives up the pool, unless another caller waits for it.
func (l *link) ready(ctx context.Context) (*access.Pool, error) {
	defer l.wait()()
	pool, err := l.connected(true)
	if err != nil {
		return nil, err
	}
	limit := l.settings.Bastion.StartTimeout + l.settings.Link.ConnectTimeout
	wait, cancel := context.WithTimeoutCause(ctx, limit, fail.New(fail.Timeout, "connect to the bastion",
		fmt.Errorf("no connection to the bastion within %s", limit), "try again, or allow more time with --start-timeout"))
	defer cancel()
	if err := pool.Reach(wait); err != nil {
		l.giveUp(pool)
		return nil, err
	}
	return pool, nil
}

// giveUp closes a pool that is not up yet, unless another caller waits for it.
func (l *link) giveUp(pool *access.Pool) {
	l.mu.Lock()
	alone := l.pool == pool && l.waiting <= 1 && pool.State().Phase == tunnel.Connecting
	if alone {
		l.pool = nil // the next caller makes another
	}
	l.mu.Unlock()
	if alone {
		_ = pool.Close()
	}
}

// Dial opens a connection through the bastion, for a forward's client.
func (l *link) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	defer l.wait()()
	pool, err := l.connected(false)
	if err != nil {
		return nil, err
	}
	return pool.Dial(ctx, network, addr)
}

// dialReady opens a connection for a client that waits as long as a command.
func (l *link) dialReady(ctx context.Context, addr string) (net.Conn, error) {
	pool, err := l.ready(ctx)
	if err != nil {
		return nil, err
	}
	defer l.wait()()
	conn, err := pool.Dial(ctx, "tcp", addr)
	if err != nil {
		return nil, l.explain(ctx, targets.Spec{}, addr, err)
	}
	return conn, nil
}

// wait counts a waiting caller until it calls done.
func (l *link) wait() (done func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.waiting--
		l.used = time.Now()
	}
}

// resolve finds the endpoints of specs, in their order.
func (l *link) resolve(ctx context.Context, specs []targets.Spec) ([]targets.Endpoint, error) {
	out := make([]targets.Endpoint, len(specs))
	var unknown []targets.Spec
	var at []int
	l.mu.Lock()
	for i, spec := range specs {
		if known, ok := l.resolved[spec.String()]; ok && time.Since(known.at) < resolvedFor {
			out[i] = known.endpoint
			continue
		}
		unknown, at = append(unknown, spec), append(at, i)
	}
	l.mu.Unlock()
	if len(unknown) == 0 {
		return out, nil
	}
	found, err := l.access.Resolve(ctx, unknown)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.resolved) > maxResolved {
		clear(l.resolved)
	}
	for i, endpoint := range found {
		out[at[i]] = endpoint
		l.resolved[unknown[i].String()] = resolution{endpoint, time.Now()}
	}
	return out, nil
}

// closeIdle disconnects the link after the given time without use. The next client reconnects it.
func (l *link) closeIdle(after time.Duration) {
	l.mu.Lock()
	pool := l.pool
	l.mu.Unlock()
	if pool == nil {
		return
	}
	channels := 0
	for _, m := range pool.Stats() {
		channels += m.Channels
	}
	l.mu.Lock()
	if channels > 0 || l.waiting > 0 {
		l.used = time.Now()
	}
	idle := l.pool == pool && time.Since(l.used) >= after
	if idle {
		l.pool = nil
	}
	l.mu.Unlock()
	if idle {
		l.agent.log.Info("closing an idle link", "link", l.id)
		_ = pool.Close()
	}
}

// retire closes the link to new holds if it has none and is not connected. It reports whether the link is closed; then the
// caller must call close.
func (l *link) retire() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pool == nil && l.busy == 0 && l.waiting == 0 {
		l.closed = true
	}
	return l.closed
}

// close ends the link and waits for its end.
func (l *link) close() {
	l.mu.Lock()
	l.closed = true
	pool := l.pool
	l.mu.Unlock()
	if pool != nil {
		_ = pool.Close()
	}
	l.ending.Wait()
	l.access.Close()
}

// condition is the link's condition for its next client.
type condition struct {
	state        api.LinkPhase
	err          error // latest failure of a link that waits or has failed
	since, retry time.Time
}

// condition returns the link's condition. It may be called with a.mu held.
func (l *link) condition() condition {
	l.mu.Lock()
	pool, failed := l.pool, l.failed
	l.mu.Unlock()
	return conditionOf(pool, failed)
}

// conditionOf returns the condition of a link with this pool, which may be nil, and the failures since a pool was up.
func conditionOf(pool *access.Pool, failed failures) condition {
	switch {
	case pool == nil && failed.last != nil:
		return condition{state: api.LinkFailed, err: failed.last, since: failed.since, retry: failed.retry}
	case pool == nil:
		return condition{state: api.LinkIdle}
	}
	c := pool.Condition()
	switch {
	case c.Waiting:
		err := c.Err
		if err == nil {
			err = failed.last // the previous pool's
		}
		return condition{state: api.LinkWaiting, err: err, since: c.Since, retry: c.Retry}
	case pool.State().Phase == tunnel.Up:
		return condition{state: api.LinkUp}
	}
	return condition{state: api.LinkIdle}
}

// show returns the API's view of the link.
func (l *link) show() api.Link {
	l.mu.Lock()
	used := l.used
	l.mu.Unlock()
	c := l.condition()
	out := api.Link{
		ID: l.id, Environment: l.settings.Environment, Owner: l.owner, Profile: forwards.ProfileOf(l.scope, l.owner), Region: l.access.Region(), Account: l.access.Account(),
		LastUsed: used, State: c.state, Since: c.since, Retry: c.retry, Live: l.access.Links(),
	}
	out.Error, out.Next = inWords(c.err)
	out.SignIn = l.access.SignIn()
	if l.settings.SSHD.Target == "" {
		out.Cluster = l.settings.Bastion.Cluster
	}
	return out
}
