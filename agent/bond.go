package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/sessions"
	"github.com/bastion-ssm/bastion/sessions/bond"
)

const (
	// pathCheck is how often a bond is asked whether it has a path. Shorter interruptions are no news.
	pathCheck = time.Second

	// goneCheck is how often a session that could not be opened is a reason to ask ECS whether the task still runs.
	goneCheck = 10 * time.Second

	// credentialsCheck is how often the credentials are looked at; they are also when they expire.
	credentialsCheck = time.Minute
)

// bonded is what an Agent needs of a *bond.Conn.
type bonded interface {
	endingConn
	Err() error
	Stats() bond.Stats
	Rotate()
	Probe()
}

// bonds are the bonds that an Agent has, for those who tell all of them something.
type bonds struct {
	mu  sync.Mutex
	all map[bonded]*bondState
}

// bondState is what an Agent knows of a bond besides what the bond itself does.
type bondState struct {
	accessKey string // the id of that which its sessions were opened with
	measured  time.Time
	flows     map[uint32]flowRate // by the subflow's id
}

// flowRate is how much a subflow carried of late.
type flowRate struct {
	sent, received uint64  // so far
	up, down       float64 // bytes per second
}

func (b *bonds) add(conn bonded, accessKey string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all == nil {
		b.all = make(map[bonded]*bondState)
	}
	b.all[conn] = &bondState{accessKey: accessKey, measured: time.Now()}
}

// measure notes how much the subflows of a bond carry.
func (b *bonds) measure(conn bonded, st bond.Stats, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.all[conn]
	if !ok {
		return
	}
	seconds := now.Sub(s.measured).Seconds()
	if seconds <= 0 {
		return
	}
	flows := make(map[uint32]flowRate, len(st.Subflows))
	for _, f := range st.Subflows {
		before := s.flows[f.ID]
		flows[f.ID] = flowRate{
			f.Sent, f.Received, float64(f.Sent-before.sent) / seconds, float64(f.Received-before.received) / seconds,
		}
	}
	s.measured, s.flows = now, flows
}

// rates returns what the subflows of a bond carried in the last second or so.
func (b *bonds) rates(conn bonded) map[uint32]flowRate {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s, ok := b.all[conn]; ok {
		return s.flows // measure replaces it, and does not change it
	}
	return nil
}

func (b *bonds) remove(conn bonded) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.all, conn)
}

// rotate makes the bonds replace the sessions that were opened with another access key.
func (b *bonds) rotate(accessKey string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for conn, s := range b.all {
		if s.accessKey != "" && s.accessKey != accessKey {
			conn.Rotate()
			n++
		}
		s.accessKey = accessKey
	}
	return n
}

// probe makes the bonds find out which of their sessions live.
func (b *bonds) probe() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for conn := range b.all {
		conn.Probe()
	}
}

// goneError says that a bastion has stopped for good.
type goneError struct{ error }

func (e *goneError) Unwrap() error { return e.error }

func isGone(err error) bool {
	var gone *goneError
	return errors.As(err, &gone)
}

// throttles are the errors by which AWS asks for less.
var throttles = retry.IsErrorThrottles(append(retry.DefaultThrottles[:len(retry.DefaultThrottles):len(retry.DefaultThrottles)],
	retry.ThrottleErrorCode{Codes: map[string]struct{}{"TooManyRequests": {}, "RateExceeded": {}}}))

func isThrottled(err error) bool { return throttles.IsErrorThrottle(err).Bool() }

// bond opens a connection to bastiond's bond port that lives as long as one of its sessions can be replaced.
func (x *access) bond(ctx context.Context, port int, patient bool) (endingConn, error) {
	a := x.agent
	accessKey := ""
	if c, err := a.credentials.Retrieve(ctx); err == nil {
		accessKey = c.AccessKeyID
	}
	opener := &opener{access: x, port: port, patient: patient}
	conn, err := bond.Dial(ctx, bond.DialConfig{
		Config: bond.Config{Linger: a.settings.Linger, Logger: a.log},
		Open:   opener.open, Max: a.settings.Sessions, MaxAge: a.settings.SessionMaxAge,
		Throttled: isThrottled, Fatal: isGone,
	})
	if err != nil {
		x.learn(err)
		return nil, err
	}
	a.bonds.add(conn, accessKey)
	a.tasks.Go(func() {
		defer a.bonds.remove(conn)
		a.tend(conn, &opener.pathless)
		x.learn(conn.Err())
	})
	return conn, nil
}

// learn notes why a bond ended, for the next connection.
func (x *access) learn(err error) {
	var refused *bond.RefusedError
	if !errors.As(err, &refused) {
		return
	}
	switch refused.Code {
	case bond.RefuseConns, bond.RefuseMemory, bond.RefuseVersion, bond.RefuseMalformed:
		x.agent.log.Warn("the bastion takes no bond: one session has to do", "err", err)
		x.plain.Store(true)
	}
}

// opener opens the sessions of one bond.
type opener struct {
	access   *access
	port     int
	pathless atomic.Bool // the bond has no path: everything waits for the next session

	mu      sync.Mutex
	patient bool // of the first session only: later a task that is not connected may be gone for good
	asked   time.Time
}

func (o *opener) open(ctx context.Context) (net.Conn, error) {
	x := o.access
	o.mu.Lock()
	patient := o.patient
	o.patient = false
	o.mu.Unlock()
	stream, err := x.agent.openPort(ctx, sessions.Port{Target: x.bastion.Target(), Port: o.port, ServerFirst: true}, patient)
	if err == nil {
		return stream, nil
	}
	if ctx.Err() == nil && o.due(err) {
		if gone := x.checkGone(ctx); gone != nil {
			return nil, gone
		}
	}
	if ctx.Err() == nil && o.pathless.Load() {
		x.agent.progress("looking for a path to the bastion: " + err.Error())
	}
	return nil, err
}

// due reports whether err is a reason to look at the task now.
func (o *opener) due(err error) bool {
	if isThrottled(err) || fail.KindOf(err) == fail.Credentials {
		return false // it says nothing about the task, and the question would end alike
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.asked.IsZero() && time.Since(o.asked) < goneCheck {
		return false
	}
	o.asked = time.Now()
	return true
}

// checkGone asks ECS whether the bastion still runs, and returns a *goneError if it does not.
func (x *access) checkGone(ctx context.Context) error {
	b, err := x.agent.manager.Get(ctx, x.spec, x.bastion.TaskARN)
	switch {
	case err != nil && fail.KindOf(err) == fail.NoTarget:
	case err != nil:
		x.agent.log.DebugContext(ctx, "whether the bastion still runs is not known", "err", err)
		return nil
	case b.Stopping():
		err = fmt.Errorf("the task has stopped: %s", b.LastStatus)
		if b.StoppedReason != "" {
			err = fmt.Errorf("the task has stopped: %s", b.StoppedReason)
		}
	case b.RuntimeID != "" && b.RuntimeID != x.bastion.RuntimeID:
		err = errors.New("its container was restarted")
	default:
		return nil
	}
	x.gone.Store(true)
	return &goneError{fail.New(fail.Lost, describe(&x.bastion), err, "")}
}

// tend measures a bond and tells of its paths until it ends. It sets pathless while there is none.
func (a *Agent) tend(conn bonded, pathless *atomic.Bool) {
	tick := time.NewTicker(pathCheck)
	defer tick.Stop()
	var lost time.Time
	for {
		select {
		case <-conn.Done():
			return
		case <-a.ctx.Done():
			return // the bond is closed by its user
		case <-tick.C:
		}
		st := conn.Stats()
		a.bonds.measure(conn, st, time.Now())
		pathless.Store(!st.Pathless.IsZero())
		switch now := st.Pathless; {
		case lost.IsZero() && !now.IsZero():
			lost = now
			a.log.Warn("no path to the bastion")
			a.path(Path{Lost: true, Since: lost, Linger: a.settings.Linger})
		case !lost.IsZero() && now.IsZero():
			a.log.Info("a path to the bastion again", "after", time.Since(lost))
			a.path(Path{Since: lost, Linger: a.settings.Linger})
			lost = time.Time{}
		}
	}
}

func (a *Agent) path(p Path) {
	if a.options.Path != nil {
		a.options.Path(p)
	}
}

// watchCredentials makes bonds replace their sessions when the credentials have been replaced: SSM does not resume a session
// of temporary credentials that have been. It asks for them when they expire, and when wakes says that a look is due, because
// AWS clients ask only when they have something to do.
func (a *Agent) watchCredentials(wakes <-chan struct{}) {
	for {
		wait := credentialsCheck
		if c, err := a.retrieve(); err == nil {
			if n := a.bonds.rotate(c.AccessKeyID); n > 0 {
				a.log.Info("the AWS credentials were replaced: so are the sessions", "bonds", n)
			}
			if c.CanExpire {
				wait = max(time.Second, min(wait, time.Until(c.Expires)))
			}
		} else {
			a.log.Debug("no AWS credentials now", "err", err)
		}
		select {
		case <-a.ctx.Done():
			return
		case <-wakes:
		case <-time.After(wait):
		}
	}
}

func (a *Agent) retrieve() (aws.Credentials, error) {
	ctx, cancel := context.WithTimeout(a.ctx, credentialsCheck)
	defer cancel()
	return a.credentials.Retrieve(ctx)
}
