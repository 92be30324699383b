package agent

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/forwards"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/private"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/tunnel"
)

// Config is the configuration of an Agent.
type Config struct {
	Version  string        // program version
	Socket   string        // path of the control API's socket
	StateDir string        // directory of the file of detached forwards
	LogFile  string        // Logger's file, shown in Info; may be empty
	Idle     time.Duration // closes a link after this time without use; ends an Agent that has been idle this long
	Stay     bool          // never end when idle: a service manager would restart the agent
	Logger   *slog.Logger  // nil: discard the log

	MetricsListen netip.AddrPort // loopback address of the metrics, besides the socket; zero: none
	MetricsToken  string         // file with the bearer token for MetricsListen

	Ready func() // called once the Agent serves the socket; may be nil

	// Notify shows a desktop notification; nil: none is shown.
	Notify func(ctx context.Context, title, text string) error

	// Private makes the Agent the private agent of one command; then only Version and Logger apply. nil: the user's agent, for
	// Run.
	Private *Private
}

// maxAudit is the number of recent connections in State.Audit.
const maxAudit = 500

// Agent owns links and forwards. Make one with New. The user's agent runs in its own process: Run adds the socket, the lock,
// the file of detached forwards and the idle timer. A private Agent needs none of these.
type Agent struct {
	cfg     Config
	log     *slog.Logger
	started time.Time
	store   store
	writer  writer

	ctx    context.Context // ends when the Agent begins to end
	cancel context.CancelFunc
	tasks  sync.WaitGroup
	page   page
	dials  dials

	mu          sync.Mutex
	revision    uint64
	changed     chan struct{} // closed and replaced at each revision
	links       map[string]*link
	registry    forwards.Registry                 // the only home of the forwards' states
	controllers map[*forwards.Forward]*controller // of the forwards that serve
	audit       []api.AuditEvent                  // the latest, the newest last
	requests    int                               // requests under way
	used        time.Time                         // end of the last activity
	owners      map[[32]byte]owned                // by the hash of the credentials
	asked       map[string]time.Time              // notifications, by their remedy
	mfas        map[string]*awssdk.MFA            // sources of MFA codes, by profile, variables and command
	closing     bool
}

// New returns an Agent.
func New(cfg Config) *Agent {
	a := &Agent{
		cfg: cfg, log: cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler)), started: time.Now(), used: time.Now(), changed: make(chan struct{}),
		store: storeIn(cfg.StateDir),
		links: make(map[string]*link), controllers: make(map[*forwards.Forward]*controller), owners: make(map[[32]byte]owned),
	}
	a.writer = writer{write: a.store.save, kept: a.kept, log: a.log}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	return a
}

// Run serves until ctx is done, Shutdown is called, or the Agent has been idle for Config.Idle. Then it closes everything and
// waits for the end. It fails with ErrRunning if another agent runs.
func (a *Agent) Run(ctx context.Context) error {
	defer a.cancel()
	release, err := lock(a.cfg.Socket + ".lock")
	if err != nil {
		return err
	}
	defer release()
	ln, err := private.Listen(a.cfg.Socket)
	if err != nil {
		return fail.New(fail.Other, "open the agent's socket", err, "set another runtime_dir (BASTION_RUNTIME_DIR)")
	}
	stopMetrics, err := a.serveMetrics(ctx)
	if err != nil {
		_ = ln.Close()
		return err
	}
	defer stopMetrics()
	stop := context.AfterFunc(ctx, a.cancel)
	defer stop()
	a.log.Info("the agent serves", "socket", a.cfg.Socket, "pid", os.Getpid(), "version", a.cfg.Version)
	a.restore()
	a.tasks.Go(a.retire)
	if a.cfg.Ready != nil {
		a.cfg.Ready()
	}
	err = a.serve(ln)
	a.log.Info("the agent ends")
	return err
}

// Shutdown makes Run return.
func (a *Agent) Shutdown() { a.cancel() }

// close ends all links and forwards. Detached forwards stay in the file.
func (a *Agent) close() {
	a.page.close()
	a.mu.Lock()
	a.closing = true
	links, controllers := a.links, slices.Collect(maps.Values(a.controllers))
	a.links = nil
	a.mu.Unlock()
	a.writer.close()
	for _, c := range controllers {
		c.cancel(errShutdown)
	}
	for _, c := range controllers {
		<-c.done
	}
	var all sync.WaitGroup
	for _, l := range links {
		all.Go(l.close)
	}
	all.Wait()
	a.tasks.Wait()
}

var errShutdown = errors.New("the agent ends")

// kept returns the records of the detached forwards, which come back at the next start.
func (a *Agent) kept() (records []forwards.Record, revision uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.registry.Kept()
}

// touch begins a new revision. The caller holds a.mu.
func (a *Agent) touch() {
	a.revision++
	close(a.changed)
	a.changed = make(chan struct{})
}

// bump begins a new revision.
func (a *Agent) bump() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.touch()
}

// begin counts a request: until the caller calls end, the Agent is not idle, and close waits for it. It fails once the Agent is
// ending.
func (a *Agent) begin() (end func(), err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closing || a.ctx.Err() != nil {
		return nil, errClosing
	}
	a.requests++
	a.tasks.Add(1)
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.requests--
		a.used = time.Now()
		a.tasks.Done()
	}, nil
}

// retire closes idle links, and ends the Agent when it has been idle long enough.
func (a *Agent) retire() {
	tick := time.NewTicker(max(min(a.cfg.Idle/4, 30*time.Second), 100*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-a.ctx.Done():
			return
		}
		a.mu.Lock()
		links := slices.Collect(maps.Values(a.links))
		a.mu.Unlock()
		for _, l := range links {
			l.closeIdle(a.cfg.Idle)
		}
		a.reopen()
		if a.dropLinks() {
			a.log.Info("nothing is left to do")
			return
		}
	}
}

// dropLinks removes links without connections and forwards. If the Agent has been idle for Config.Idle, dropLinks ends it under
// the same lock, so that no request can begin in between.
func (a *Agent) dropLinks() (ended bool) {
	a.mu.Lock()
	uses := make(map[*link]bool)
	for _, c := range a.controllers {
		uses[c.link] = true
	}
	var drop []*link
	for key, l := range a.links {
		if !uses[l] && l.retire() {
			delete(a.links, key)
			drop = append(drop, l)
			a.used = time.Now()
		}
	}
	if len(drop) > 0 {
		a.touch()
	}
	if a.requests > 0 || len(a.links) > 0 || len(a.registry.All()) > 0 {
		a.used = time.Now()
	}
	if ended = !a.cfg.Stay && time.Since(a.used) >= a.cfg.Idle; ended {
		a.cancel()
	}
	a.mu.Unlock()
	for _, l := range drop {
		l.close()
	}
	return ended
}

// Info returns the Agent's description of itself.
func (a *Agent) Info() api.Info {
	return api.Info{
		V: api.Version, PID: os.Getpid(), Version: a.cfg.Version, Started: a.started, Socket: a.cfg.Socket, Log: a.cfg.LogFile,
		Idle: a.cfg.Idle.Seconds(), Ending: a.ctx.Err() != nil,
	}
}

// State returns the Agent's links, forwards and recent connections.
func (a *Agent) State() api.State {
	a.mu.Lock()
	st := api.State{
		Info: a.Info(), At: time.Now(), Revision: a.revision, Links: []api.Link{}, Forwards: []api.Forward{},
		Audit: slices.Clone(a.audit),
	}
	links := slices.Collect(maps.Values(a.links))
	for _, f := range a.registry.All() {
		st.Forwards = append(st.Forwards, a.show(f))
	}
	a.mu.Unlock()
	for _, l := range links {
		st.Links = append(st.Links, l.show())
	}
	slices.SortFunc(st.Links, func(x, y api.Link) int { return cmp.Compare(x.ID, y.ID) })
	forwards.Sort(st.Forwards)
	forwards.Refer(st.Forwards)
	if st.Audit == nil {
		st.Audit = []api.AuditEvent{}
	}
	return st
}

// show returns the API's view of a forward. The caller holds a.mu.
func (a *Agent) show(f *forwards.Forward) api.Forward {
	if c := a.controllers[f]; c != nil {
		return c.show()
	}
	return f.Show()
}

// Wait returns the state once its revision differs from after, or once ctx is done or the Agent ends.
func (a *Agent) Wait(ctx context.Context, after uint64) api.State {
	for {
		a.mu.Lock()
		revision, changed := a.revision, a.changed
		a.mu.Unlock()
		if revision != after {
			return a.State()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return a.State()
		case <-a.ctx.Done():
			return a.State()
		}
	}
}

// Bastions asks AWS for the bastions of all links. It returns none if the Agent is ending.
func (a *Agent) Bastions(ctx context.Context) []api.Account {
	end, err := a.begin()
	if err != nil {
		return []api.Account{}
	}
	defer end()
	a.mu.Lock()
	links := slices.Collect(maps.Values(a.links))
	a.mu.Unlock()
	out := make([]api.Account, len(links))
	var all sync.WaitGroup
	for i, l := range links {
		all.Go(func() {
			out[i].Link = l.id
			st, err := l.access.Status(ctx)
			if st.Bastions == nil {
				st.Bastions = []report.Bastion{}
			}
			out[i].Status = st
			if err != nil {
				out[i].Error = api.NewError(err)
			}
		})
	}
	all.Wait()
	slices.SortFunc(out, func(x, y api.Account) int { return cmp.Compare(x.Link, y.Link) })
	return out
}

// Stop ends, forgets and returns the forwards that ref names: NAME, NAME@LINK or "all".
func (a *Agent) Stop(ref string) ([]api.Forward, error) {
	end, err := a.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	a.mu.Lock()
	called, err := a.registry.Called(ref)
	var stop []*controller
	out := make([]api.Forward, 0, len(called))
	for _, f := range called {
		if c := a.controllers[f]; c != nil {
			stop = append(stop, c)
		} else {
			out = append(out, f.Show())
		}
		a.registry.End(f, errStopped) // before the listener closes: it must not come back, even if the Agent ends now
		a.touch()
	}
	a.mu.Unlock()
	if err != nil {
		return nil, err
	}
	for _, c := range stop {
		c.cancel(errStopped)
	}
	_ = a.writer.save() // save logs a failure
	for _, c := range stop {
		<-c.done
		a.mu.Lock()
		out = append(out, c.show())
		a.mu.Unlock()
	}
	forwards.Sort(out)
	return out, nil
}

var errStopped = errors.New("stopped by bastion stop")

// recorded adds a connection that has ended, or could not be opened, to the audit and the log.
func (a *Agent) recorded(forward string, c tunnel.ConnSnapshot, err error) {
	e := api.AuditEvent{
		At: time.Now(), Forward: forward, Client: c.Client, Target: c.Dest, Duration: time.Since(c.Since).Seconds(), Up: c.Up, Down: c.Down,
	}
	if err != nil {
		e.Error = err.Error()
	}
	a.log.Info("connection", "forward", forward, "client", c.Client, "target", c.Dest, "seconds", e.Duration, "up", c.Up,
		"down", c.Down, "err", err)
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.audit) >= maxAudit {
		a.audit = slices.Delete(a.audit, 0, len(a.audit)-maxAudit+1)
	}
	a.audit = append(a.audit, e)
	a.touch()
}
