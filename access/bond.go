package access

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/sessions"
	"github.com/bastion-ssm/bastion/sessions/bond"
)

const (
	// pathCheck is the interval between checks of a bond's paths. The Access does not report shorter interruptions.
	pathCheck = time.Second

	// reasonEvery is the least time between reports of a changed reason: some texts differ each time.
	reasonEvery = 10 * time.Second

	// goneCheck is the least time between two questions to ECS whether a task still runs.
	goneCheck = 10 * time.Second

	// joinTimeout is the time from StartSession's answer to the end of the handshake for a bond's further sessions. A later
	// session is given up.
	joinTimeout = 15 * time.Second
)

// bonded is the part of *bond.Conn that an Access uses.
type bonded interface {
	endingConn
	Err() error
	Stats() bond.Stats
	Rotate()
	Probe()
	Lend() (back func(kept bool))
	FarEnd(bond.FarEnd)
}

// bonds are an Access's bonds.
type bonds struct {
	mu  sync.Mutex
	all map[bonded]*bondState
}

// bondState is the Access's own state of a bond.
type bondState struct {
	accessKey string // access key id that its sessions were opened with
	target    string // SSM target
	measured  time.Time
	flows     map[uint32]flowRate // throughput over the last pathCheck, by the subflow's id; replaced, never changed; nil: unknown
	far       *report.FarEnd      // load of the task at the far end; replaced, never changed; nil: unknown
}

// flowRate is a subflow's recent throughput.
type flowRate struct {
	sent, received uint64  // bytes so far
	up, down       float64 // bytes per second
}

func (b *bonds) add(conn bonded, accessKey, target string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all == nil {
		b.all = make(map[bonded]*bondState)
	}
	b.all[conn] = &bondState{accessKey: accessKey, target: target, measured: time.Now()}
}

// measure computes the throughput of a bond's subflows since the last call.
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

// of returns the state of a bond; zero if it is unknown.
func (b *bonds) of(conn bonded) bondState {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s, ok := b.all[conn]; ok {
		return *s
	}
	return bondState{}
}

func (b *bonds) remove(conn bonded) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.all, conn)
}

// rotate makes each bond replace the sessions that it opened with another access key. It returns the number of such bonds.
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

// lend makes the target's bond with the most sessions give one up for another session. It returns the function that gives the
// place back, or nil if the target has no bond.
func (b *bonds) lend(target string) (back func(kept bool)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var lender bonded
	most := 0
	for conn, s := range b.all {
		if s.target != target {
			continue
		}
		if n := len(conn.Stats().Subflows); n > most {
			lender, most = conn, n
		}
	}
	if lender == nil {
		return nil
	}
	return lender.Lend()
}

// probe makes the bonds check which of their sessions live.
func (b *bonds) probe() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for conn := range b.all {
		conn.Probe()
	}
}

// judge classifies an opener's error for the bond's next attempt.
func judge(err error) bond.Failure {
	switch {
	case isGone(err):
		return bond.FailedFatal
	case errors.Is(err, sessions.ErrUnanswered):
		return bond.FailedUnanswered
	case atLimit(err):
		return bond.FailedLimit
	case fail.KindOf(err) == fail.Credentials:
		return bond.FailedRefused
	}
	switch class := awsanswer.ClassOf(err); {
	case class == awsanswer.Throttled:
		return bond.FailedThrottled
	case class == awsanswer.None, class.Passes(), class == awsanswer.Foreign: // a proxy's page counts as a network failure
		return bond.FailedOther
	}
	return bond.FailedRefused
}

// atLimit reports whether AWS refused a session because the container or the account has its maximum. StartSession says so, or
// the SSM agent as it ends the session.
func atLimit(err error) bool {
	if closed, ok := errors.AsType[*sessions.ClosedError](err); ok {
		return awsanswer.Judge(awsanswer.Answer{Message: closed.Output}).Class == awsanswer.LimitReached
	}
	return awsanswer.ClassOf(err) == awsanswer.LimitReached
}

// bond opens a connection to bastiond's bond port. The connection lives as long as one of its sessions can be replaced.
func (x *admission) bond(ctx context.Context, port int, patient bool) (endingConn, error) {
	a := x.access
	accessKey := ""
	if c, err := a.credentials.Retrieve(ctx); err == nil {
		accessKey = c.AccessKeyID
	}
	opener := &opener{admission: x, port: port, patient: patient}
	conn, err := bond.Dial(ctx, bond.DialConfig{
		Config: bond.Config{Linger: a.settings.Link.Linger, Logger: a.log},
		Open:   opener.open, Max: a.settings.Link.Sessions, MaxAge: a.settings.Link.SessionMaxAge,
		Judge: judge,
	})
	if err != nil {
		x.learn(err)
		return nil, err
	}
	a.bonds.add(conn, accessKey, x.bastion.Target())
	a.tasks.Go(func() {
		defer a.bonds.remove(conn)
		a.tend(conn)
		x.learn(conn.Err())
	})
	return conn, nil
}

// learn notes in plain that bastiond refused a bond, for the next connection.
func (x *admission) learn(err error) {
	refused, ok := errors.AsType[*bond.RefusedError](err)
	if !ok {
		return
	}
	switch refused.Code {
	case bond.RefuseConns, bond.RefuseMemory, bond.RefuseVersion, bond.RefuseMalformed:
		x.access.log.Warn("the bastion takes no bond: one session has to do", "err", err)
		x.plain.Store(true)
	}
}

// opener opens the sessions of one bond.
type opener struct {
	admission *admission
	port      int

	mu      sync.Mutex
	patient bool // applies to the first session only: later a task that is not connected may be gone for good
	asked   time.Time
}

func (o *opener) open(ctx context.Context) (net.Conn, error) {
	x := o.admission
	o.mu.Lock()
	patient := o.patient
	o.patient = false
	o.mu.Unlock()
	p := sessions.Port{Target: x.bastion.Target(), Port: o.port, ServerFirst: true}
	var wait *patience
	if patient {
		wait = &patience{stands: x.checkGone}
	} else {
		p.OpenTimeout = joinTimeout
	}
	stream, err := x.access.openPort(ctx, p, wait)
	if err == nil {
		return stream, nil
	}
	if ctx.Err() == nil && o.due(err) {
		if gone := x.checkGone(ctx); gone != nil {
			return nil, gone
		}
	}
	return nil, err
}

// due reports whether err is a reason to ask ECS about the task now.
func (o *opener) due(err error) bool {
	if f := judge(err); f == bond.FailedThrottled || f == bond.FailedLimit || fail.KindOf(err) == fail.Credentials {
		return false // it says nothing about the task, and the call to ECS would fail too
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.asked.IsZero() && time.Since(o.asked) < goneCheck {
		return false
	}
	o.asked = time.Now()
	return true
}

// tend measures a bond and reports its lost and regained paths until it ends.
func (a *Access) tend(conn bonded) {
	tick := time.NewTicker(pathCheck)
	defer tick.Stop()
	var lost, explained time.Time
	var why string
	for {
		select {
		case <-conn.Done():
			return
		case <-a.ctx.Done():
			return // the bond's owner closes it
		case <-tick.C:
		}
		st := conn.Stats()
		a.bonds.measure(conn, st, time.Now())
		c := withoutPath(st)
		told := report.Path{Lost: c.Waiting, Since: c.Since, Linger: a.settings.Link.Linger, Retry: c.Retry}
		if c.Err != nil {
			told.Reason, told.Next = c.Err.Error(), fail.NextOf(c.Err)
		}
		switch {
		case c.Waiting && lost.IsZero(), c.Waiting && told.Reason != why && time.Since(explained) >= reasonEvery:
			lost, why = c.Since, told.Reason
			if why != "" {
				explained = time.Now()
			}
			a.log.Warn("no path to the bastion", "since", lost, "err", c.Err, "retry", c.Retry)
			a.path(told)
		case !c.Waiting && !lost.IsZero():
			a.log.Info("a path to the bastion again", "after", time.Since(lost))
			a.path(report.Path{Since: lost, Linger: a.settings.Link.Linger})
			lost, why = time.Time{}, ""
		}
	}
}

func (a *Access) path(p report.Path) {
	if a.options.Path != nil {
		a.options.Path(p)
	}
}
