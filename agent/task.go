package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/fail"
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
	proven bool // the latest access has let a connection in, and the bastion was not seen to go away since
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
	hostKeys []ssh.PublicKey
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
	}
	if o.lasting {
		t.Keepalive.Interval = -1 // a lost path is no dead peer
	}
	return t
}

// Connect implements tunnel.Connector.
func (c *taskConnector) Connect(ctx context.Context) (*tunnel.Transport, error) {
	o, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	return o.transport(), nil
}

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

// open brings a session to bastiond.
func (c *taskConnector) open(ctx context.Context) (*opened, error) {
	a := c.agent
	if c.takeProven() && !c.access.gone.Load() && time.Until(c.access.until()) > grantMargin {
		p := c.access.latest()
		// No patience here: a task that is not connected any more may be gone for good.
		o, err := c.access.session(ctx, p.hostKey, p.reply.Ports, false)
		if err == nil || ctx.Err() != nil {
			return o, err
		}
		a.log.InfoContext(ctx, "cannot reconnect to the same bastion; looking again", "err", err)
	}
	spec, b, _, err := a.ensure(ctx)
	if err != nil {
		return nil, err
	}
	if replaced, ok := tunnel.Replacing(ctx); ok && replaced == describe(b) {
		return nil, &transientError{fail.New(fail.Start, "replace "+replaced, errors.New("it has not gone yet"), "")}
	}
	if c.access, err = a.newAccess(spec, *b, c.permit); err != nil {
		return nil, err
	}
	c.access.plain = &c.plain
	p := c.access.latest()
	if key, ports, ok := a.hostKeys.get(*b); ok {
		return c.access.overlapped(ctx, p, key, ports)
	}
	if err := p.wait(ctx); err != nil {
		return nil, err
	}
	return c.access.session(ctx, p.hostKey, p.reply.Ports, true)
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
	gone    atomic.Bool  // the bastion was seen to have stopped

	mu   sync.Mutex
	push *push // the latest that was not refused
}

// newAccess makes a key and begins to hand over its grant.
func (a *Agent) newAccess(spec bastions.Spec, b bastions.Bastion, permit []string) (*access, error) {
	pair, err := keys.NewPair("bastion")
	if err != nil {
		return nil, err
	}
	x := &access{agent: a, spec: spec, bastion: b, pair: pair, permit: permit, plain: new(atomic.Bool)}
	x.push, err = x.grant()
	return x, err
}

func (x *access) latest() *push {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.push
}

// until returns when the bastion stops accepting the key; the zero time if it has not accepted it yet.
func (x *access) until() time.Time { return x.latest().notAfter() }

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
	o.user = keys.UserPending
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

// session opens a way to bastiond with the given host key, a bond of sessions if it takes bonds, and sees to it that the grant
// lasts as long. patient says whether a task that is not connected to SSM is waited for.
func (x *access) session(ctx context.Context, key ssh.PublicKey, ports keys.Ports, patient bool) (*opened, error) {
	a := x.agent
	a.progress("opening a session to " + describe(&x.bastion))
	o := &opened{
		describe: describe(&x.bastion), user: "bastion",
		signers: func() ([]ssh.Signer, error) { return []ssh.Signer{x.pair.Signer()}, nil },
		check:   keys.PinnedHostKey(key), hostKeys: []ssh.PublicKey{key},
	}
	if ports.Bond != 0 && !x.plain.Load() {
		conn, err := x.bond(ctx, ports.Bond, patient)
		if err != nil {
			return nil, err
		}
		o.conn, o.lasting = conn, true
	} else {
		stream, err := a.openPort(ctx, sessions.Port{Target: x.bastion.Target(), Port: ports.SSH, ServerFirst: true}, patient)
		if err != nil {
			return nil, err
		}
		o.conn = stream
	}
	a.tasks.Go(func() { x.keepGranted(o.conn.Done(), x.grant) })
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
			if sleep(ctx, lifetime/40) != nil {
				return
			}
		}
	}
}

// openPort opens a port session within connect_timeout. If it is patient it waits for a target that is not connected to
// SSM: for one that has just started that is a matter of seconds.
func (a *Agent) openPort(ctx context.Context, p sessions.Port, patient bool) (*sessions.Stream, error) {
	op := "open a session to " + p.Target
	ctx, cancel := context.WithTimeoutCause(ctx, a.settings.ConnectTimeout, fail.New(fail.Timeout, op,
		fmt.Errorf("no connection within %s", a.settings.ConnectTimeout), "try again, or allow more time with --connect-timeout"))
	defer cancel()
	p.Reason = "bastion"
	var lastErr error
	for delay := firstRetry; ; delay = min(delay*3/2, lastRetry) {
		stream, err := a.sessions.OpenPort(ctx, p)
		if err == nil {
			return stream, nil
		}
		if ctx.Err() != nil {
			return nil, endedBy(ctx, op, firstOf(lastErr, err))
		}
		var notConnected *ssmtypes.TargetNotConnected
		if !errors.As(err, &notConnected) || !patient {
			return nil, err
		}
		lastErr = err
		a.progress("waiting for " + p.Target + " to connect to SSM")
		if sleep(ctx, delay) != nil {
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
	b, started, err = a.manager.Ensure(ctx, spec, func(e bastions.Event) { a.progress(describeEvent(e)) })
	return spec, b, started, err
}

// describeEvent says in words what Ensure waits for.
func describeEvent(e bastions.Event) string {
	var text string
	switch e.State {
	case "finding":
		text = "looking for your bastion"
	case "starting":
		text = "starting a bastion"
	case "exec agent":
		text = "waiting for the bastion's exec agent"
	case "ready":
		return "the bastion runs"
	default:
		text = "waiting for the bastion's task: " + e.State
	}
	if e.Detail != "" {
		text += " (" + e.Detail + ")"
	}
	return text
}

func describe(b *bastions.Bastion) string { return "bastion " + b.TaskID }

// push is a grant on its way to a bastion, and the answer. The fields behind done are valid once it is closed.
type push struct {
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

// notAfter returns when the grant ends; the zero time if that is not known or never was granted.
func (p *push) notAfter() time.Time {
	select {
	case <-p.done:
		if p.err == nil {
			return p.until
		}
	default:
	}
	return time.Time{}
}

// grant begins to hand a new grant for the key over. The push belongs to the Agent, because it may outlive the attempt to
// connect, and ends within start_timeout.
func (x *access) grant() (*push, error) {
	a := x.agent
	grant, err := keys.NewGrant(x.pair.PublicKey(), x.spec.Owner.ARN, x.permit, a.settings.GrantLifetime)
	if err != nil {
		return nil, fail.New(fail.Usage, "make a grant", err, "check the setting permit")
	}
	word, err := grant.Encode()
	if err != nil {
		return nil, fail.New(fail.Usage, "make a grant", err, "permit fewer destinations")
	}
	p := &push{done: make(chan struct{})}
	a.tasks.Go(func() {
		defer close(p.done)
		p.err = a.pushGrant(a.ctx, x.spec, x.bastion, grant.ID, word, p)
	})
	return p, nil
}

// pushGrant runs the grant command for the grant with the given id, which word encodes, until the bastion answers, and notes
// the answer in p.
func (a *Agent) pushGrant(ctx context.Context, spec bastions.Spec, b bastions.Bastion, id, word string, p *push) error {
	op := "hand a key to " + describe(&b)
	ctx, cancel := context.WithTimeoutCause(ctx, a.settings.StartTimeout, fail.New(fail.Timeout, op,
		fmt.Errorf("no answer within %s", a.settings.StartTimeout), "allow more time with --start-timeout, or start another: bastion down"))
	defer cancel()
	var lastErr error
	for delay := firstRetry; ; delay = min(delay*3/2, lastRetry) {
		reply, err := a.runGrant(ctx, b, word)
		if err == nil {
			return a.accept(op, b, id, reply, p)
		}
		if ctx.Err() != nil {
			return a.neverConnected(ctx, op, spec, b, firstOf(lastErr, err))
		}
		var notConnected *ecstypes.TargetNotConnectedException
		switch {
		case errors.As(err, &notConnected):
			a.progress("waiting for the bastion's exec agent to connect")
		case isTransient(err):
			a.progress("waiting for bastiond")
		default:
			return err
		}
		lastErr = err
		a.log.DebugContext(ctx, "the bastion does not answer yet", "err", err)
		if sleep(ctx, delay) != nil {
			return a.neverConnected(ctx, op, spec, b, lastErr)
		}
	}
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
	p.reply, p.hostKey, p.until = reply, key, reply.NotAfter
	if err := a.hostKeys.put(b, key, reply.Ports); err != nil {
		a.log.Debug("the host key is not remembered", "err", err)
	}
	return nil
}

// neverConnected is the error for a bastion that did not answer in time.
func (a *Agent) neverConnected(ctx context.Context, op string, spec bastions.Spec, b bastions.Bastion, last error) error {
	var notConnected *ecstypes.TargetNotConnectedException
	if errors.Is(context.Cause(ctx), context.Canceled) || !errors.As(last, &notConnected) {
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

// runGrant runs the grant command once and returns the bastion's answer.
func (a *Agent) runGrant(ctx context.Context, b bastions.Bastion, word string) (keys.GrantReply, error) {
	op := "hand a key to " + describe(&b)
	a.progress("handing a new key to the bastion by ECS Exec")
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, fail.New(fail.Start, op,
		fmt.Errorf("the grant command did not answer within %s", answerTimeout), "check the setting grant_command and the task's log"))
	defer cancel()
	stream, err := a.sessions.Exec(ctx, sessions.Exec{
		Cluster: b.Cluster, Task: b.TaskARN, Container: b.Container, Target: b.Target(),
		Command: a.settings.GrantCommand + " " + word,
	})
	var closed *sessions.ClosedError
	if errors.As(err, &closed) { // the command could not be started
		return keys.GrantReply{}, noAnswer(op, a.settings.GrantCommand, nil, closed)
	}
	if err != nil {
		return keys.GrantReply{}, relabel(op, err)
	}
	// The answer is complete before the session is: its end need not be waited for.
	defer a.tasks.Go(func() { _ = stream.Close() })
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

// sleep waits for d, or for the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// clockCheck is how often a wait for a point in time looks at the clock: timers stand still while the machine sleeps.
const clockCheck = 30 * time.Second

// sleepUntil waits until the wall clock says t, or for the end of ctx.
func sleepUntil(ctx context.Context, t time.Time) error {
	for {
		left := t.Round(0).Sub(time.Now().Round(0))
		if err := sleep(ctx, min(left, clockCheck)); err != nil || left <= clockCheck {
			return err
		}
	}
}
