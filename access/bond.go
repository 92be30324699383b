package access

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/sessions"
	"github.com/bastion-ssm/bastion/sessions/bond"
)

const (
	// pathCheck is how often a bond is asked whether it has a path. Shorter interruptions are no news.
	pathCheck = time.Second

	// reasonEvery is how often another reason for having no path is news: some texts differ each time.
	reasonEvery = 10 * time.Second

	// goneCheck is how often a session that could not be opened is a reason to ask ECS whether the task still runs.
	goneCheck = 10 * time.Second

	// joinTimeout is how long a bond's further session may take from the service's answer to the end of its handshake. Later
	// ones are taken not to come at all.
	joinTimeout = 15 * time.Second

	// credentialsCheck is how often the credentials are looked at; they are also when they expire.
	credentialsCheck = time.Minute
)

// bonded is what an Access needs of a *bond.Conn.
type bonded interface {
	endingConn
	Err() error
	Stats() bond.Stats
	Rotate()
	Probe()
	Lend() (back func(kept bool))
	FarEnd(bond.FarEnd)
}

// bonds are the bonds that an Access has, for those who tell all of them something.
type bonds struct {
	mu  sync.Mutex
	all map[bonded]*bondState
}

// bondState is what an Access knows of a bond besides what the bond itself does.
type bondState struct {
	accessKey string // the id of that which its sessions were opened with
	target    string // of SSM
	measured  time.Time
	flows     map[uint32]flowRate // by the subflow's id
	far       *report.FarEnd      // nil: not known
}

// flowRate is how much a subflow carried of late.
type flowRate struct {
	sent, received uint64  // so far
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

// target returns the SSM target of a bond.
func (b *bonds) target(conn bonded) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s, ok := b.all[conn]; ok {
		return s.target
	}
	return ""
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

// lend makes the bond with the most sessions to a target give one of them up, for a session that would be one too many. It
// returns how to give the place back, or nil if there is no such bond.
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

// probe makes the bonds find out which of their sessions live.
func (b *bonds) probe() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for conn := range b.all {
		conn.Probe()
	}
}

// judge says what an error of an opener means for the next attempt.
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
	case class == awsanswer.None, class.Passes(), class == awsanswer.Foreign: // a proxy's page is as good as no network
		return bond.FailedOther
	}
	return bond.FailedRefused
}

// atLimit reports whether a session was not started because the container, or the account, has as many as it may have. AWS
// says so, or the SSM agent, when it ends the session.
func atLimit(err error) bool {
	if closed, ok := errors.AsType[*sessions.ClosedError](err); ok {
		return awsanswer.Judge(awsanswer.Answer{Message: closed.Output}).Class == awsanswer.LimitReached
	}
	return awsanswer.ClassOf(err) == awsanswer.LimitReached
}

// bond opens a connection to bastiond's bond port that lives as long as one of its sessions can be replaced.
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

// learn notes why a bond ended, for the next connection.
func (x *admission) learn(err error) {
	var refused *bond.RefusedError
	if !errors.As(err, &refused) {
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
	patient bool // of the first session only: later a task that is not connected may be gone for good
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

// due reports whether err is a reason to look at the task now.
func (o *opener) due(err error) bool {
	if f := judge(err); f == bond.FailedThrottled || f == bond.FailedLimit || fail.KindOf(err) == fail.Credentials {
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

// tend measures a bond and tells of its paths until it ends.
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
			return // the bond is closed by its user
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

// watchCredentials makes bonds replace their sessions when the credentials have been replaced: SSM does not resume a session
// of temporary credentials that have been. It asks for them when they expire, and when wakes says that a look is due, because
// AWS clients ask only when they have something to do.
func (a *Access) watchCredentials(wakes <-chan struct{}) {
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

func (a *Access) retrieve() (aws.Credentials, error) {
	ctx, cancel := context.WithTimeout(a.ctx, credentialsCheck)
	defer cancel()
	return a.credentials.Retrieve(ctx)
}
