package daemon

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/forwards"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/private"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/tunnel"
)

// Config is the configuration of a Daemon.
type Config struct {
	Version  string        // of the program
	Socket   string        // its place
	StateDir string        // where the detached forwards are written down
	LogFile  string        // where Logger writes, for those who ask; may be empty
	Idle     time.Duration // after which an unused link is closed, and a Daemon without anything left to do ends
	Stay     bool          // do not end by itself: a service manager would start it again
	Logger   *slog.Logger  // nil: no log

	MetricsListen string // loopback address of the metrics besides the socket; may be empty
	MetricsToken  string // file with the token that they take there

	Ready func() // is called once the socket is served; nil: nobody waits

	// Private makes the Daemon the agent of one command. Then only Version and Logger count. nil: it is the user's agent, for Run.
	Private *Private
}

// maxAudit is how many of the latest connections are remembered.
const maxAudit = 500

// Daemon is the agent. Make one with New. The user's agent, a process of its own, is one that runs: Run adds the socket, the lock, the
// file of the detached forwards and the timer. A private one needs none of these.
type Daemon struct {
	cfg     Config
	log     *slog.Logger
	started time.Time
	store   store
	writer  writer

	ctx    context.Context // ends when the Daemon is to end
	cancel context.CancelFunc
	tasks  sync.WaitGroup
	page   page
	dials  dials

	mu          sync.Mutex
	revision    uint64
	changed     chan struct{} // closed and replaced at each revision
	engines     map[string]*engine
	registry    forwards.Registry                 // the only home of the forwards' states
	controllers map[*forwards.Forward]*controller // of those that serve
	audit       []api.AuditEvent
	requests    int                // under way
	used        time.Time          // when there was last something to do
	owners      map[[32]byte]owned // by the sum of the credentials
	closing     bool
}

// New returns a Daemon.
func New(cfg Config) *Daemon {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	d := &Daemon{
		cfg: cfg, log: cfg.Logger, started: time.Now(), used: time.Now(), changed: make(chan struct{}),
		store:   storeIn(cfg.StateDir),
		engines: make(map[string]*engine), controllers: make(map[*forwards.Forward]*controller), owners: make(map[[32]byte]owned),
	}
	d.writer = writer{write: d.store.save, kept: d.kept, log: d.log}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// Run serves until ctx is done, Shutdown was called, or the Daemon has had nothing to do for a while; then it closes everything and
// waits for it. It fails with ErrRunning where another agent runs.
func (d *Daemon) Run(ctx context.Context) error {
	defer d.cancel()
	release, err := lock(d.cfg.Socket + ".lock")
	if err != nil {
		return err
	}
	defer release()
	ln, err := private.Listen(d.cfg.Socket)
	if err != nil {
		return fail.New(fail.Other, "open the agent's socket", err, "set another runtime_dir (BASTION_RUNTIME_DIR)")
	}
	stopMetrics, err := d.serveMetrics(ctx)
	if err != nil {
		_ = ln.Close()
		return err
	}
	defer stopMetrics()
	stop := context.AfterFunc(ctx, d.cancel)
	defer stop()
	d.log.Info("the agent serves", "socket", d.cfg.Socket, "pid", os.Getpid(), "version", d.cfg.Version)
	d.restore()
	d.tasks.Go(d.retire)
	if d.cfg.Ready != nil {
		d.cfg.Ready()
	}
	err = d.serve(ln)
	d.log.Info("the agent ends")
	return err
}

// Shutdown makes Run return.
func (d *Daemon) Shutdown() { d.cancel() }

// close ends what there is. Detached forwards stay written down.
func (d *Daemon) close() {
	d.page.close()
	d.mu.Lock()
	d.closing = true
	engines, controllers := d.engines, slices.Collect(maps.Values(d.controllers))
	d.engines = nil
	d.mu.Unlock()
	d.writer.close()
	for _, c := range controllers {
		c.cancel(errShutdown)
	}
	for _, c := range controllers {
		<-c.done
	}
	var all sync.WaitGroup
	for _, e := range engines {
		all.Go(e.close)
	}
	all.Wait()
	d.tasks.Wait()
}

var errShutdown = errors.New("the agent ends")

// kept returns the records of the forwards that are to come back.
func (d *Daemon) kept() (records []forwards.Record, revision uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.registry.Kept()
}

// touch begins a new revision. The caller holds d.mu.
func (d *Daemon) touch() {
	d.revision++
	close(d.changed)
	d.changed = make(chan struct{})
}

// bump begins a new revision.
func (d *Daemon) bump() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.touch()
}

// begin counts a request, during which the Daemon is not idle and for whose end it waits, until the function that it returns is
// called. It fails once the Daemon is to end.
func (d *Daemon) begin() (end func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closing || d.ctx.Err() != nil {
		return nil, errClosing
	}
	d.requests++
	d.tasks.Add(1)
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.requests--
		d.used = time.Now()
		d.tasks.Done()
	}, nil
}

// retire closes links that nobody uses, and ends the Daemon when there is nothing left.
func (d *Daemon) retire() {
	tick := time.NewTicker(max(min(d.cfg.Idle/4, 30*time.Second), 100*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-d.ctx.Done():
			return
		}
		d.mu.Lock()
		engines := slices.Collect(maps.Values(d.engines))
		d.mu.Unlock()
		for _, e := range engines {
			e.closeIdle(d.cfg.Idle)
		}
		d.reopen()
		if d.dropEngines() {
			d.log.Info("nothing is left to do")
			return
		}
	}
}

// dropEngines closes engines without link and forwards. If the Daemon has had nothing to do for long enough, it is to end then:
// from the same moment on it takes no request.
func (d *Daemon) dropEngines() (ended bool) {
	d.mu.Lock()
	uses := make(map[*engine]bool)
	for _, c := range d.controllers {
		uses[c.engine] = true
	}
	var drop []*engine
	for key, e := range d.engines {
		if !uses[e] && e.retire() {
			delete(d.engines, key)
			drop = append(drop, e)
			d.used = time.Now()
		}
	}
	if len(drop) > 0 {
		d.touch()
	}
	if d.requests > 0 || len(d.engines) > 0 || len(d.registry.All()) > 0 {
		d.used = time.Now()
	}
	if ended = !d.cfg.Stay && time.Since(d.used) >= d.cfg.Idle; ended {
		d.cancel()
	}
	d.mu.Unlock()
	for _, e := range drop {
		e.close()
	}
	return ended
}

// Info returns what the Daemon says of itself.
func (d *Daemon) Info() api.Info {
	return api.Info{
		V: api.Version, PID: os.Getpid(), Version: d.cfg.Version, Started: d.started, Socket: d.cfg.Socket, Log: d.cfg.LogFile,
		Idle: d.cfg.Idle.Seconds(), Ending: d.ctx.Err() != nil,
	}
}

// State returns all that there is.
func (d *Daemon) State() api.State {
	d.mu.Lock()
	st := api.State{
		Info: d.Info(), At: time.Now(), Revision: d.revision, Links: []api.Link{}, Forwards: []api.Forward{},
		Audit: slices.Clone(d.audit),
	}
	engines := slices.Collect(maps.Values(d.engines))
	for _, f := range d.registry.All() {
		st.Forwards = append(st.Forwards, d.show(f))
	}
	d.mu.Unlock()
	for _, e := range engines {
		st.Links = append(st.Links, e.show())
	}
	slices.SortFunc(st.Links, func(x, y api.Link) int { return cmp.Compare(x.ID, y.ID) })
	forwards.Sort(st.Forwards)
	forwards.Refer(st.Forwards)
	if st.Audit == nil {
		st.Audit = []api.AuditEvent{}
	}
	return st
}

// show returns what others see of a forward. The caller holds d.mu.
func (d *Daemon) show(f *forwards.Forward) api.Forward {
	if c := d.controllers[f]; c != nil {
		return c.show()
	}
	return f.Show()
}

// Wait returns the state once its revision is another than after, or ctx is done.
func (d *Daemon) Wait(ctx context.Context, after uint64) api.State {
	for {
		d.mu.Lock()
		revision, changed := d.revision, d.changed
		d.mu.Unlock()
		if revision != after {
			return d.State()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return d.State()
		case <-d.ctx.Done():
			return d.State()
		}
	}
}

// Bastions asks AWS for the bastions of the links. A Daemon that is to end has none.
func (d *Daemon) Bastions(ctx context.Context) []api.Account {
	end, err := d.begin()
	if err != nil {
		return []api.Account{}
	}
	defer end()
	d.mu.Lock()
	engines := slices.Collect(maps.Values(d.engines))
	d.mu.Unlock()
	out := make([]api.Account, len(engines))
	var all sync.WaitGroup
	for i, e := range engines {
		all.Go(func() {
			out[i].Link = e.id
			st, err := e.agent.Status(ctx)
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

// Stop ends the forward that ref means, NAME or NAME@LINK, or all if it is "all", forgets them, and returns them.
func (d *Daemon) Stop(ref string) ([]api.Forward, error) {
	d.mu.Lock()
	if d.closing {
		d.mu.Unlock()
		return nil, errClosing
	}
	called, err := d.registry.Called(ref)
	var stop []*controller
	out := make([]api.Forward, 0, len(called))
	for _, f := range called {
		if c := d.controllers[f]; c != nil {
			stop = append(stop, c)
			continue
		}
		out = append(out, f.Show())
		d.registry.End(f, errStopped)
		d.touch()
	}
	d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	_ = d.writer.save() // it logs a failure
	for _, c := range stop {
		c.cancel(errStopped)
	}
	for _, c := range stop {
		<-c.done
		d.mu.Lock()
		out = append(out, c.show())
		d.mu.Unlock()
	}
	forwards.Sort(out)
	return out, nil
}

var errStopped = errors.New("stopped by bastion stop")

// recorded notes a connection that has ended or could not be opened.
func (d *Daemon) recorded(forward string, c tunnel.ConnSnapshot, err error) {
	e := api.AuditEvent{
		At: time.Now(), Forward: forward, Client: c.Client, Target: c.Dest, Duration: time.Since(c.Since).Seconds(), Up: c.Up, Down: c.Down,
	}
	if err != nil {
		e.Error = err.Error()
	}
	d.log.Info("connection", "forward", forward, "client", c.Client, "target", c.Dest, "seconds", e.Duration, "up", c.Up,
		"down", c.Down, "err", err)
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.audit) >= maxAudit {
		d.audit = slices.Delete(d.audit, 0, len(d.audit)-maxAudit+1)
	}
	d.audit = append(d.audit, e)
	d.touch()
}
