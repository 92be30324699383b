package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/sleep"
	"github.com/bastion-ssm/bastion/internal/words"
	"github.com/bastion-ssm/bastion/keys"
	"github.com/bastion-ssm/bastion/sessions"
	"github.com/bastion-ssm/bastion/tunnel"
)

const (
	// grantMargin is how much longer than a connection attempt a grant must last to be used again.
	grantMargin = 2 * time.Minute

	// maxExecOutput bounds what is read of a grant command's output, in bytes.
	maxExecOutput = 64 << 10

	// answerTimeout bounds one run of the grant command, from ExecuteCommand's answer to bastiond's.
	answerTimeout = 30 * time.Second

	firstRetry = 250 * time.Millisecond
	lastRetry  = 3 * time.Second
)

// taskConnector connects to bastiond in a task of the user's. The Link calls Connect from one goroutine.
type taskConnector struct {
	agent  *Agent
	permit []string

	access *access     // the latest
	plain  atomic.Bool // the bastion refused a bond: one session then has to do

	mu     sync.Mutex
	proven bool  // the latest access has let a connection in, and the bastion was not seen to go away since
	denial error // why the answer to the latest grant ended the connection that it was for; nil: it did not
}

// opened is a session, or a bond of several, to an SSH server and what it takes to log in.
type opened struct {
	conn     endingConn
	lasting  bool // conn outlives its sessions, and ends by itself when the server has gone
	describe string
	user     string
	signers  func() ([]ssh.Signer, error)
	algos    []string            // host key algorithms; nil: all
	check    ssh.HostKeyCallback // accepts hostKeys
	hostKeys []ssh.PublicKey     // none: check, banner and confirm find out
	banner   func(text string)   // see tunnel.Transport
	confirm  func(context.Context, ssh.ConnMetadata) error
	ended    func() error
	granted  func(context.Context) error // waits until the server accepts the signers; nil: it does
}

// endingConn is a connection that tells of its end, whoever reads from it.
type endingConn interface {
	net.Conn
	Done() <-chan struct{}
}

func (o *opened) transport() *tunnel.Transport {
	t := &tunnel.Transport{
		Conn: o.conn, User: o.user, Auth: []ssh.AuthMethod{ssh.PublicKeysCallback(o.signers)},
		HostKey: o.check, HostKeyAlgorithms: o.algos, Describe: o.describe,
		Banner: o.banner, Confirm: o.confirm, Ended: o.ended,
	}
	if o.lasting {
		t.Keepalive.Interval = -1 // a lost path is no dead peer
	}
	return t
}

// Connect implements tunnel.Connector.
func (c *taskConnector) Connect(ctx context.Context) (*tunnel.Transport, error) {
	o, err := c.connect(ctx, true)
	if err != nil {
		return nil, unlessReplaced(ctx, err)
	}
	return o.transport(), nil
}

// open implements connector. Other programs' SSH clients compare the host key by themselves, and so have to know it.
func (c *taskConnector) open(ctx context.Context) (*opened, error) { return c.connect(ctx, false) }

func (c *taskConnector) onState(st tunnel.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch st.Phase {
	case tunnel.Up:
		c.proven = true
	case tunnel.Draining, tunnel.Idle:
		c.proven = false
	}
}

// takeProven returns whether the latest access can be used again, and makes the next attempt start from scratch unless this
// one succeeds.
func (c *taskConnector) takeProven() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	proven := c.proven
	c.proven = false
	return proven
}

// deny notes why the answer to a grant has ended the connection that it was for.
func (c *taskConnector) deny(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.denial = err
}

func (c *taskConnector) takeDenial() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.denial
	c.denial = nil
	return err
}

// connect brings a session to bastiond. unknown says that the bastion's host key may yet have to be found out.
func (c *taskConnector) connect(ctx context.Context, unknown bool) (*opened, error) {
	a := c.agent
	if err := c.takeDenial(); err != nil {
		return nil, err
	}
	if c.takeProven() && !c.access.gone.Load() && time.Until(c.access.until()) > grantMargin {
		p := c.access.latest()
		// No patience here: a task that is not connected any more may be gone for good.
		o, err := c.access.session(ctx, p.hostKey, p.reply.Ports, false)
		if err == nil || ctx.Err() != nil {
			return o, err
		}
		a.log.InfoContext(ctx, "cannot reconnect to the same bastion; looking again", "err", err)
	}
	if x := c.access; x != nil && x.hasty.Swap(false) {
		p := x.latest()
		o, err := x.afterAnswer(ctx, p)
		if !p.answered() {
			_ = c.takeDenial() // it says the same
		}
		return o, err
	}
	spec, b, err := c.find(ctx)
	if err != nil {
		return nil, err
	}
	if replaced, ok := tunnel.Replacing(ctx); ok && replaced == describe(b) {
		return nil, &transientError{fail.New(fail.Start, "replace "+replaced, errors.New("it has not gone yet"), "")}
	}
	key, ports, known := a.hostKeys.get(*b)
	if c.access, err = a.newAccess(spec, *b, c.permit, unknown && !known); err != nil {
		return nil, err
	}
	c.access.plain, c.access.contradicted = &c.plain, c.deny
	p := c.access.latest()
	switch {
	case known:
		return c.access.overlapped(ctx, p, key, ports)
	case unknown:
		return c.access.firstContact(ctx, p)
	}
	return c.access.afterAnswer(ctx, p)
}

// access is a key that a bastion accepts, and the grants by which it does: the bastion ends the connections of a key whose
// grant has ended.
type access struct {
	agent   *Agent
	spec    bastions.Spec
	bastion bastions.Bastion
	pair    *keys.Pair
	permit  []string
	plain   *atomic.Bool // no bond is to be tried
	hasty   atomic.Bool  // a session was there before the grant's answer, and failed
	gone    atomic.Bool  // the bastion was seen to have stopped

	contradicted func(error) // is told why the bastion's answer ended a first contact

	mu   sync.Mutex
	push *push // the latest that was not refused
}

// newAccess makes a key and begins to hand over its grant. first says that the bastion's host key is not known, and is to be
// proved by the grant's secret.
func (a *Agent) newAccess(spec bastions.Spec, b bastions.Bastion, permit []string, first bool) (*access, error) {
	pair, err := keys.NewPair("bastion")
	if err != nil {
		return nil, err
	}
	x := &access{agent: a, spec: spec, bastion: b, pair: pair, permit: permit, plain: new(atomic.Bool)}
	x.push, err = x.grant(first)
	return x, err
}

func (x *access) latest() *push {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.push
}

// until returns when the bastion stops accepting the key; the zero time if it has not accepted it yet.
func (x *access) until() time.Time { return x.latest().notAfter() }

// afterAnswer opens the session once the bastion has answered the grant.
func (x *access) afterAnswer(ctx context.Context, p *push) (*opened, error) {
	if err := p.wait(ctx); err != nil {
		return nil, err
	}
	return x.session(ctx, p.hostKey, p.reply.Ports, true)
}

// overlapped opens the session to a bastion whose host key is remembered, while the grant is on its way. The answer is still
// awaited: one that refuses, or shows that the key was remembered wrongly, ends the connection, and the next attempt, which
// then has the answer, says why.
func (x *access) overlapped(ctx context.Context, p *push, key ssh.PublicKey, ports keys.Ports) (*opened, error) {
	a := x.agent
	o, err := x.session(ctx, key, ports, true)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		// The remembered ports may be wrong; the answer has the right one, or says better what is wrong.
		a.hostKeys.forget(x.bastion)
		if waitErr := p.wait(ctx); waitErr != nil {
			return nil, waitErr
		}
		if err := a.hostKeys.put(x.bastion, p.hostKey, p.reply.Ports); err != nil { // the answer may have come before
			a.log.Debug("the host key is not remembered", "err", err)
		}
		return x.session(ctx, p.hostKey, p.reply.Ports, true)
	}
	o.user, o.ended = keys.UserPending, func() error { return x.beforeGrant(p) }
	x.untrustOnFailure(o, p)
	conn := o.conn
	a.tasks.Go(func() {
		switch err := p.wait(context.Background()); { // it ends by itself
		case err != nil && a.ctx.Err() != nil:
			return // nobody needs it any more
		case err != nil:
			a.log.Warn("the bastion refused the grant", "err", err)
			a.hostKeys.forget(x.bastion)
			_ = conn.Close()
		case !sameKey(p.hostKey, key):
			a.log.Warn("the remembered host key is not the bastion's; connecting anew")
			_ = conn.Close()
		}
	})
	return o, nil
}

// beforeGrant is why a handshake has failed while the grant was still on its way, or nil if it was not. Where AWS starts no further
// session to the container, the connection's session may have taken the place of the grant command's. So the next attempt waits for
// the answer, and the grant command is run anew if there is no sign of it.
func (x *access) beforeGrant(p *push) error {
	select {
	case <-p.done:
		return nil
	default:
	}
	x.hasty.Store(true)
	select {
	case p.again <- struct{}{}:
	default:
	}
	return &transientError{fail.New(fail.Start, "hand a key to "+describe(&x.bastion),
		errors.New("the bastion did not get it before the connection's time was over"), "")}
}

// untrustOnFailure makes a client that refuses the server forget the remembered host key: such a client ends, and with it the
// wait for the answer, which has the right one. Else the same would happen to every further client.
func (x *access) untrustOnFailure(o *opened, p *push) {
	check, forget := o.check, func() { x.agent.hostKeys.forget(x.bastion) }
	o.check = func(host string, remote net.Addr, key ssh.PublicKey) error {
		err := check(host, remote, key)
		if err != nil {
			forget()
		}
		return err
	}
	// OpenSSH checks the key itself. One that accepts it does not end before it is granted its own.
	o.granted = func(ctx context.Context) error {
		err := p.wait(ctx)
		if err != nil {
			forget()
		}
		return err
	}
}

// session opens a way to bastiond with the given host key (nil: the caller finds out), a bond of sessions if it takes bonds, and sees to it that the grant
// lasts as long. patient says whether a task that is not connected to SSM is waited for.
func (x *access) session(ctx context.Context, key ssh.PublicKey, ports keys.Ports, patient bool) (*opened, error) {
	a := x.agent
	a.progress("opening a session to " + describe(&x.bastion))
	o := &opened{
		describe: describe(&x.bastion), user: "bastion",
		signers: func() ([]ssh.Signer, error) { return []ssh.Signer{x.pair.Signer()}, nil },
	}
	if key != nil {
		o.check, o.hostKeys = keys.PinnedHostKey(key), []ssh.PublicKey{key}
	}
	if ports.Bond != 0 && !x.plain.Load() {
		conn, err := x.bond(ctx, ports.Bond, patient)
		if err != nil {
			return nil, err
		}
		o.conn, o.lasting = conn, true
	} else {
		stream, err := a.openPort(ctx, sessions.Port{Target: x.bastion.Target(), Port: ports.SSH, ServerFirst: true}, patientIf(patient, x.checkGone))
		if err != nil {
			return nil, err
		}
		o.conn = stream
	}
	a.tasks.Go(func() { x.keepGranted(o.conn.Done(), x.renew) })
	return o, nil
}

// keepGranted renews the grant, by the function renew, until ended is closed, the Agent too, or the bastion grants no longer
// because its own life ends. Failures are tried again as long as the grant lasts: the user may have to sign in to AWS again.
func (x *access) keepGranted(ended <-chan struct{}, renew func() (*push, error)) {
	a := x.agent
	lifetime := a.settings.GrantLifetime
	// A grant that is renewed early outlasts a machine that sleeps when it should be, and AWS when it cannot be asked.
	margin := max(lifetime/4, min(a.settings.Linger, lifetime/2))
	ctx, cancel := context.WithCancel(a.ctx)
	defer cancel()
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer cancel()
	watcher.Go(func() {
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	})
	if x.latest().wait(ctx) != nil {
		return
	}
	for until := x.until(); sleepUntil(ctx, until.Add(-margin)) == nil; {
		p, err := renew()
		if err == nil {
			err = p.wait(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && !p.until.After(until):
			return // the bastion has given all it will
		case err == nil:
			until = p.until
			x.mu.Lock()
			x.push = p
			x.mu.Unlock()
		case !time.Now().Before(until):
			return
		default:
			a.log.Warn("the grant could not be renewed; the connection ends with it", "err", err, "at", until)
			if sleep.For(ctx, lifetime/40) != nil {
				return
			}
		}
	}
}

// patience is a readiness to wait for what passes by itself.
type patience struct {
	// stands returns why the target will not come back; nil: it may. It is asked now and then while the target is not
	// connected: one that has stopped is answered for like one that is starting.
	stands func(context.Context) error
	// waits is told why the wait begins, and when the reason becomes one of another class; nil: nobody asks.
	waits func(why error)

	told     awsanswer.Class
	asked    time.Time
	failures int // of the network, in succession
}

// patientIf returns patience, or none.
func patientIf(patient bool, stands func(context.Context) error) *patience {
	if !patient {
		return nil
	}
	return &patience{stands: stands}
}

// A target that is not connected is looked at first after firstStands, in case it has just stopped, and then every goneCheck.
const firstStands = 3 * time.Second

// networkTries is how often in succession a call that did not reach AWS is made, while somebody waits for its first success.
const networkTries = 5

// passes reports whether err is worth another attempt. An error of its own says that the target has gone for good.
func (p *patience) passes(ctx context.Context, err error) (again bool, gone error) {
	class := awsanswer.ClassOf(err)
	if class != awsanswer.None {
		p.failures = 0
	}
	switch {
	case class == awsanswer.NotConnected:
		now := time.Now()
		if p.asked.IsZero() {
			p.asked = now.Add(firstStands - goneCheck)
		}
		if p.stands != nil && now.Sub(p.asked) >= goneCheck {
			p.asked = now
			if gone := p.stands(ctx); gone != nil {
				return false, gone
			}
		}
		return true, nil
	case class.Passes(), atLimit(err), errors.Is(err, sessions.ErrUnanswered):
		return true, nil
	case class == awsanswer.None && unreached(err):
		p.failures++
		return p.failures < networkTries, nil
	}
	return false, nil
}

func (p *patience) tell(why error) {
	class := awsanswer.ClassOf(why)
	if p.waits == nil || class == p.told {
		return
	}
	p.told = class
	p.waits(why)
}

const nextGone = "start another: bastion up"

// unreached reports whether a call failed on its way to AWS or back.
func unreached(err error) bool {
	_, ok := errors.AsType[net.Error](err)
	return ok || errors.Is(err, io.ErrUnexpectedEOF)
}

// The first attempts to open a session may be silent because the session before them still has the container's only place.
// Each further one gets longer, in case it is the network that is slow.
const firstOpenTimeout = 8 * time.Second

// openPort opens a port session within connect_timeout. With patience it waits for what passes by itself: a target that has
// just started takes seconds to connect to SSM. Without it there is one attempt.
func (a *Agent) openPort(ctx context.Context, p sessions.Port, wait *patience) (*sessions.Stream, error) {
	op := "open a session to " + p.Target
	ctx, cancel := context.WithTimeoutCause(ctx, a.settings.ConnectTimeout, fail.New(fail.Timeout, op,
		fmt.Errorf("no connection within %s", a.settings.ConnectTimeout), "try again, or allow more time with --connect-timeout"))
	defer cancel()
	p.Reason = "bastion"
	if wait != nil {
		p.OpenTimeout = firstOpenTimeout
	}
	back, kept := func(bool) {}, false
	var lent bool
	defer func() { back(kept) }()
	var lastErr error
	for delay, began := firstRetry, time.Now(); ; delay = min(delay*3/2, lastRetry) {
		stream, err := a.startPort(ctx, p, time.Since(began))
		if err == nil {
			kept = true
			return stream, nil
		}
		if ctx.Err() != nil {
			return nil, endedBy(ctx, op, firstOf(lastErr, err))
		}
		if wait == nil {
			return nil, err
		}
		again, gone := wait.passes(ctx, err)
		if gone != nil {
			return nil, fail.New(fail.Start, op, gone, nextGone)
		}
		if !again {
			return nil, err
		}
		lastErr = err
		wait.tell(err)
		switch unanswered := errors.Is(err, sessions.ErrUnanswered); {
		case unanswered || atLimit(err):
			if f := a.bonds.lend(p.Target); f != nil && !lent {
				back, lent = f, true
			}
			if !unanswered {
				a.progress("waiting for AWS to start a session to " + p.Target + ": it has as many as it may have")
				break
			}
			p.OpenTimeout += p.OpenTimeout / 2
			if !lent { // a link with sessions by the document shows that it works: the place was what was missing
				a.documents.doubt(a.documentPlace(p.Target))
			}
			a.progress("waiting for an answer in a session to " + p.Target)
		case awsanswer.ClassOf(err) == awsanswer.NotConnected:
			a.progress("waiting for " + p.Target + " to connect to SSM")
		default:
			a.progress("waiting for AWS: " + err.Error())
		}
		if sleep.For(ctx, delay) != nil {
			return nil, endedBy(ctx, op, lastErr)
		}
	}
}

// ensure finds or starts the task and waits until its exec agent runs.
func (a *Agent) ensure(ctx context.Context) (spec bastions.Spec, b *bastions.Bastion, started bool, err error) {
	a.progress("looking for your bastion")
	if spec, err = a.spec(ctx); err != nil {
		return spec, nil, false, err
	}
	b, started, err = a.manager.Ensure(ctx, spec, a.reportEvent)
	return spec, b, started, err
}

func (a *Agent) reportEvent(e bastions.Event) { a.progress(describeEvent(e)) }

// StepStarting begins the step in which AWS is asked for a new task. Whoever gives up after that leaves one behind.
const StepStarting = "starting a bastion"

// describeEvent says in words what Ensure waits for.
func describeEvent(e bastions.Event) string {
	var text string
	switch e.State {
	case "finding":
		text = "looking for your bastion"
	case "starting":
		text = StepStarting
	case "exec agent":
		text = "waiting for the bastion's exec agent"
	case "ready":
		return "the bastion runs"
	default:
		text = "waiting for the bastion's task: " + e.State
	}
	return text + words.Parenthesis(e.Detail)
}

func describe(b *bastions.Bastion) string { return "bastion " + b.TaskID }

// push is a grant on its way to a bastion, and the answer. The fields behind done are valid once it is closed.
type push struct {
	secret  keys.Secret   // proves the bastion's host key; zero: that is known
	made    time.Time     // when the secret was made
	started chan struct{} // closed once AWS has begun to run the grant command
	again   chan struct{} // takes the news that a place of a session has become free; a silent attempt ends then

	done    chan struct{}
	reply   keys.GrantReply
	hostKey ssh.PublicKey
	until   time.Time
	err     error
}

// wait waits for the answer.
func (p *push) wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// answered reports whether the bastion has accepted the grant.
func (p *push) answered() bool {
	select {
	case <-p.done:
		return p.err == nil
	default:
		return false
	}
}

// notAfter returns when the grant ends; the zero time if that is not known or never was granted.
func (p *push) notAfter() time.Time {
	if p.answered() {
		return p.until
	}
	return time.Time{}
}

// grantLifetime is how far the end of a grant is from now by this machine's clock, so that it is grant_lifetime by the bastion's.
func (a *Agent) grantLifetime() time.Duration {
	skew, _ := a.clock.skew()
	return max(a.settings.GrantLifetime+skew, time.Second)
}

// grant begins to hand a new grant for the key over, with a secret if it is for the first contact. The push belongs to the
// Agent, because it may outlive the attempt to connect, and ends within start_timeout.
func (x *access) grant(first bool) (*push, error) {
	a := x.agent
	grant, err := keys.NewGrant(x.pair.PublicKey(), x.spec.Owner.ARN, x.permit, a.grantLifetime())
	if err != nil {
		return nil, fail.New(fail.Usage, "make a grant", err, "check the setting permit")
	}
	word, err := grant.Encode()
	if err != nil {
		return nil, fail.New(fail.Usage, "make a grant", err, "permit fewer destinations")
	}
	p := &push{made: time.Now(), started: make(chan struct{}), again: make(chan struct{}, 1), done: make(chan struct{})}
	words := []string{word}
	if first {
		grant.Secret = keys.NewSecret()
		if word, err := grant.Encode(); err == nil { // else the secret is what makes it too long
			p.secret, words = grant.Secret, []string{word, words[0]}
		}
	}
	a.tasks.Go(func() {
		defer close(p.done)
		p.err = a.pushGrant(a.ctx, x.spec, x.bastion, grant.ID, words, p)
	})
	return p, nil
}

// renew hands a new grant over after another look at the task: its tags may have been changed, and nobody else's task is to get
// a grant.
func (x *access) renew() (*push, error) {
	if _, err := x.agent.manager.Get(x.agent.ctx, x.spec, x.bastion.TaskARN); err != nil {
		return nil, err
	}
	return x.grant(false)
}

// pushGrant runs the grant command for the grant with the given id until the bastion answers, and notes the answer in p.
// words are the grant in its forms, the preferred first: a bastiond that does not know one gets the next.
func (a *Agent) pushGrant(
	ctx context.Context, spec bastions.Spec, b bastions.Bastion, id string, words []string, p *push,
) error {
	op := "hand a key to " + describe(&b)
	ctx, cancel := context.WithTimeoutCause(ctx, a.settings.StartTimeout, fail.New(fail.Timeout, op,
		fmt.Errorf("no answer within %s", a.settings.StartTimeout), "allow more time with --start-timeout, or start another: bastion down"))
	defer cancel()
	started := sync.OnceFunc(func() { close(p.started) })
	wait := patience{stands: func(ctx context.Context) error { return a.checkGone(ctx, spec, b) }}
	var back func(kept bool) // a place of a bond's, which the command's session needs
	var ended <-chan struct{}
	defer func() {
		if back == nil {
			return
		}
		a.tasks.Go(func() {
			if ended != nil {
				<-ended // until then it has the place
			}
			back(false)
		})
	}()
	var lastErr error
	for delay := firstRetry; ; delay = min(delay*3/2, lastRetry) {
		var reply keys.GrantReply
		var err error
		reply, ended, err = a.runGrant(ctx, b, words[0], started, p.again)
		if err == nil {
			return a.accept(op, b, id, reply, p)
		}
		if ctx.Err() != nil {
			return a.neverConnected(ctx, op, spec, b, firstOf(lastErr, err))
		}
		if reply.Code == keys.CodeInvalid && len(words) > 1 {
			words = words[1:]
			continue
		}
		again, gone := wait.passes(ctx, err)
		switch {
		case gone != nil:
			return fail.New(fail.Start, op, gone, nextGone)
		case errors.Is(err, errAgain):
			continue
		case atLimit(err), isUnanswered(err):
			if back == nil {
				back = a.bonds.lend(b.Target())
			}
			if back == nil && !again {
				return err
			}
			a.progress("waiting for a session that AWS starts: the bastion has as many as it may have")
		case again && awsanswer.ClassOf(err) == awsanswer.NotConnected:
			a.progress("waiting for the bastion's exec agent to connect")
		case again:
			a.progress("waiting for AWS: " + err.Error())
		case isTransient(err):
			a.progress("waiting for bastiond")
		default:
			return err
		}
		lastErr = err
		a.log.DebugContext(ctx, "the bastion does not answer yet", "err", err)
		if sleep.For(ctx, delay) != nil {
			return a.neverConnected(ctx, op, spec, b, lastErr)
		}
	}
}

// errAgain is the error of a silent attempt that made way for another, see push.again.
var errAgain = errors.New("a session's place has become free")

// unansweredError is that of a grant command from which nothing came at all: its session may be one too many.
type unansweredError struct{ error }

func (e *unansweredError) Unwrap() error { return e.error }

func isUnanswered(err error) bool {
	_, ok := errors.AsType[*unansweredError](err)
	return ok
}

// accept checks the answer to the grant with the given id and notes it in p.
func (a *Agent) accept(op string, b bastions.Bastion, id string, reply keys.GrantReply, p *push) error {
	if reply.Grant != id {
		return fail.New(fail.Start, op, fmt.Errorf("bastiond answered for the grant %q instead of %q", reply.Grant, id),
			"check the setting grant_command: it must pass its last argument on to `bastiond grant`, and print only its answer")
	}
	key, err := reply.Key()
	if err != nil {
		return fail.New(fail.Start, op, err, "use a bastiond and a bastion of the same version")
	}
	if reply.Ports.SSH < 1 || reply.Ports.SSH > 65535 {
		return fail.New(fail.Start, op, fmt.Errorf("bastiond names the port %d", reply.Ports.SSH),
			"use a bastiond and a bastion of the same version")
	}
	skew, _ := a.clock.skew()
	p.reply, p.hostKey, p.until = reply, key, reply.NotAfter.Add(-skew) // by this machine's clock
	if err := a.hostKeys.put(b, key, reply.Ports); err != nil {
		a.log.Debug("the host key is not remembered", "err", err)
	}
	return nil
}

// neverConnected is the error for a bastion that did not answer in time.
func (a *Agent) neverConnected(ctx context.Context, op string, spec bastions.Spec, b bastions.Bastion, last error) error {
	if errors.Is(context.Cause(ctx), context.Canceled) || awsanswer.ClassOf(last) != awsanswer.NotConnected {
		return endedBy(ctx, op, last)
	}
	// The cause is looked for although the time is over.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
	defer cancel()
	text := fmt.Sprintf("its exec agent has not connected within %s", a.settings.StartTimeout)
	next := "start another bastion: bastion down, then bastion up"
	if findings := a.manager.Diagnose(ctx, spec, b); len(findings) > 0 {
		text += ". Probable reason: " + findings[0].Problem
		next = findings[0].Fix
	}
	return fail.New(fail.Timeout, op, &explained{text, last}, next)
}

// explained is an error in other words.
type explained struct {
	text  string
	cause error
}

func (e *explained) Error() string { return e.text }
func (e *explained) Unwrap() error { return e.cause }

// relabel gives err another operation. That of an ECS Exec has the whole command line in it, with the grant.
func relabel(op string, err error) error {
	var f *fail.Error
	if !errors.As(err, &f) {
		return err
	}
	return fail.New(f.Kind, op, f.Err, f.Next)
}

// runGrant runs the grant command once and returns the bastion's answer, also one that is a refusal. It calls started when AWS
// has begun to run the command. ended is closed when the command's session is over; it is nil if there was none. What comes from
// again ends it while there is no sign of the container's agent.
func (a *Agent) runGrant(
	ctx context.Context, b bastions.Bastion, word string, started func(), again <-chan struct{},
) (r keys.GrantReply, ended <-chan struct{}, err error) {
	op := "hand a key to " + describe(&b)
	a.progress("handing a new key to the bastion by ECS Exec")
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, fail.New(fail.Start, op,
		fmt.Errorf("the grant command did not answer within %s", answerTimeout), "check the setting grant_command and the task's log"))
	defer cancel()
	select {
	case <-again: // what was free before is what this attempt has
	default:
	}
	opening, given := cancelledBy(ctx, again)
	stream, err := a.sessions.Exec(opening, sessions.Exec{
		Cluster: b.Cluster, Task: b.TaskARN, Container: b.Container, Target: b.Target(),
		Command: a.settings.GrantCommand + " " + word, Started: started,
	})
	if given() && err != nil && ctx.Err() == nil {
		return r, nil, errAgain
	}
	var closed *sessions.ClosedError
	if errors.As(err, &closed) && !errors.Is(err, sessions.ErrDataKey) { // the command could not be started
		return r, nil, noAnswer(op, a.settings.GrantCommand, nil, closed)
	}
	if err != nil {
		return r, nil, relabel(op, err)
	}
	// The answer is complete before the session is: its end need not be waited for.
	over := make(chan struct{})
	defer a.tasks.Go(func() {
		defer close(over)
		_ = stream.Close()
	})
	r, err = a.readGrantReply(ctx, op, stream)
	return r, over, err
}

// cancelledBy returns a context that is cancelled by what comes from c, until the function is called, which reports whether it was.
func cancelledBy(ctx context.Context, c <-chan struct{}) (context.Context, func() bool) {
	ctx, cancel := context.WithCancel(ctx)
	came := false
	over := make(chan struct{})
	go func() {
		defer close(over)
		select {
		case <-c:
			came = true
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() bool {
		cancel()
		<-over
		return came
	}
}

func (a *Agent) readGrantReply(ctx context.Context, op string, stream *sessions.Stream) (keys.GrantReply, error) {
	stop := context.AfterFunc(ctx, func() { _ = stream.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var out []byte
	buf := make([]byte, 4096)
	for {
		n, err := stream.Read(buf)
		out = append(out, buf[:n]...)
		reply, found, parseErr := keys.FindGrantReply(out)
		switch {
		case parseErr != nil:
			return reply, fail.New(fail.Start, op, parseErr, "use a bastiond and a bastion of the same version")
		case found:
			return reply, refusal(op, reply)
		case ctx.Err() != nil && len(out) == 0:
			return reply, &unansweredError{context.Cause(ctx)}
		case ctx.Err() != nil:
			return reply, context.Cause(ctx)
		case err != nil:
			return reply, noAnswer(op, a.settings.GrantCommand, out, err)
		case len(out) > maxExecOutput:
			return reply, fail.New(fail.Start, op, errors.New("the grant command prints too much"), "check the setting grant_command")
		}
	}
}

// noAnswer is the error of a grant command that ended without an answer.
func noAnswer(op, command string, out []byte, err error) error {
	if text := lastLine(out); text != "" {
		err = fmt.Errorf("%q answered: %s", command, text)
	} else {
		err = fmt.Errorf("%q gave no answer: %w", command, err)
	}
	return fail.New(fail.Start, op, err, "check the setting grant_command: it must run `bastiond grant` in the container")
}

// lastLine returns the last line of a command's output that is not empty, shortened.
func lastLine(out []byte) string {
	lines := strings.FieldsFunc(string(out), func(r rune) bool { return r == '\n' || r == '\r' })
	for i := len(lines) - 1; i >= 0; i-- {
		if line := strings.TrimSpace(lines[i]); line != "" {
			if len(line) > 200 {
				line = strings.ToValidUTF8(line[:200], "") + "..."
			}
			return line
		}
	}
	return ""
}

// refusal turns a refused grant into an error.
func refusal(op string, r keys.GrantReply) error {
	if r.Error == "" && r.Code == "" {
		return nil
	}
	err := errors.New(r.Error)
	switch r.Code {
	case keys.CodeInvalid:
		return fail.New(fail.Denied, op, err, "name destinations that the bastion can permit; for socks see the setting permit")
	case keys.CodeExpired:
		return fail.New(fail.Denied, op, err, "check this machine's clock")
	case keys.CodeFull:
		return fail.New(fail.Start, op, err, "end links that are not used, or start another bastion: bastion down, then bastion up")
	case keys.CodeDraining:
		return fail.New(fail.Start, op, err, "wait until it has stopped, then try again")
	case keys.CodeNoServer:
		return &transientError{fail.New(fail.Start, op, err, "see the task's log")}
	}
	return fail.New(fail.Denied, op, err, "")
}

// endedBy is the error of a wait that ctx ended; last is the latest failure, which is the likely reason.
func endedBy(ctx context.Context, op string, last error) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, context.Canceled) || last == nil || errors.Is(last, cause) || errors.Is(last, ctx.Err()) {
		return fmt.Errorf("%s: %w", op, cause)
	}
	kind, next := fail.KindOf(cause), fail.NextOf(last)
	if next == "" {
		next = fail.NextOf(cause)
	}
	return fail.New(kind, "", fmt.Errorf("%w; the latest failure: %w", cause, last), next)
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func sameKey(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }

// clockCheck is how often a wait for a point in time looks at the clock: timers stand still while the machine sleeps.
const clockCheck = 30 * time.Second

// sleepUntil waits until the wall clock says t, or for the end of ctx.
func sleepUntil(ctx context.Context, t time.Time) error {
	for {
		left := t.Round(0).Sub(time.Now().Round(0))
		if err := sleep.For(ctx, min(left, clockCheck)); err != nil || left <= clockCheck {
			return err
		}
	}
}
