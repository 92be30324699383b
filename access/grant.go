package access

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/pattern"
	"github.com/bastion-ssm/bastion/internal/sleep"
	"github.com/bastion-ssm/bastion/keys"
	"github.com/bastion-ssm/bastion/sessions"
)

const (
	// grantMargin is the least remaining time of a grant that a new connection attempt reuses.
	grantMargin = 2 * time.Minute

	// maxExecOutput bounds the output that is read from a grant command, in bytes.
	maxExecOutput = 64 << 10

	// answerTimeout bounds one run of the grant command, from ExecuteCommand's answer to bastiond's.
	answerTimeout = 30 * time.Second

	firstRetry = 250 * time.Millisecond
	lastRetry  = 3 * time.Second
)

// push is a grant on its way to a bastion, and its answer. The fields below done are valid once it is closed.
type push struct {
	secret  keys.Secret   // by which the bastion proves its host key; zero: the key is known
	made    time.Time     // when the secret was made
	started chan struct{} // closed once AWS has begun to run the grant command
	again   chan struct{} // signals that a session's place has become free; it ends a silent attempt

	done    chan struct{}
	reply   keys.GrantReply
	hostKey ssh.PublicKey
	until   time.Time
	err     error
}

// wait waits for the answer. It returns the push's error, or ctx's cause.
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

// notAfter returns when the grant ends; the zero time before the bastion has accepted it.
func (p *push) notAfter() time.Time {
	if p.answered() {
		return p.until
	}
	return time.Time{}
}

// grantLifetime returns the grant's lifetime by this machine's clock, corrected so that it is grant_lifetime by AWS's clock.
func (a *Access) grantLifetime() time.Duration {
	skew, _ := a.clock.Skew()
	return max(a.settings.Grant.Lifetime+skew, time.Second)
}

// grant begins to hand over a new grant for the key. first adds a secret for the first contact. The push belongs to the Access,
// because it may outlive the connection attempt. It ends within start_timeout.
func (x *admission) grant(first bool) (*push, error) {
	a := x.access
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
		if word, err := grant.Encode(); err == nil { // otherwise the secret makes the word too long
			p.secret, words = grant.Secret, []string{word, words[0]}
		}
	}
	answered := a.trace.grant()
	a.tasks.Go(func() {
		defer close(p.done)
		p.err = a.pushGrant(a.ctx, x.spec, x.bastion, grant.ID, words, p)
		answered(p)
	})
	return p, nil
}

// pushGrant runs the grant command for the grant id until the bastion answers, and notes the answer in p. words are the grant's
// forms, the preferred first. If bastiond does not know one form, pushGrant tries the next.
func (a *Access) pushGrant(
	ctx context.Context, spec bastions.Spec, b bastions.Bastion, id string, words []string, p *push,
) error {
	op := "hand a key to " + describe(&b)
	ctx, cancel := context.WithTimeoutCause(ctx, a.settings.Bastion.StartTimeout, fail.New(fail.Timeout, op,
		fmt.Errorf("no answer within %s", a.settings.Bastion.StartTimeout),
		"allow more time with --start-timeout, or start another: bastion down"))
	defer cancel()
	started := sync.OnceFunc(func() { close(p.started) })
	wait := patience{stands: func(ctx context.Context) error { return a.checkGone(ctx, spec, b) }}
	var back func(kept bool) // returns the place that a bond lent to the command's session
	var ended <-chan struct{}
	defer func() {
		if back == nil {
			return
		}
		a.tasks.Go(func() {
			if ended != nil {
				<-ended // until then the session has the place
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
			return a.neverConnected(ctx, op, spec, b, cmp.Or(lastErr, err))
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

// errAgain is the error of a silent attempt that ends for another, see push.again.
var errAgain = errors.New("a session's place has become free")

// unansweredError is the error of a grant command without any output: its session may be one too many.
type unansweredError struct{ error }

func (e *unansweredError) Unwrap() error { return e.error }

func isUnanswered(err error) bool { return errors.As(err, new(*unansweredError)) }

// accept checks the answer to the grant with the given id and notes it in p.
func (a *Access) accept(op string, b bastions.Bastion, id string, reply keys.GrantReply, p *push) error {
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
	skew, _ := a.clock.Skew()
	p.reply, p.hostKey, p.until = reply, key, reply.NotAfter.Add(-skew) // by this machine's clock
	if err := a.hostKeys.put(b, key, reply.Ports); err != nil {
		a.log.Debug("the host key is not remembered", "err", err)
	}
	return nil
}

// neverConnected returns the error for a bastion that did not answer in time.
func (a *Access) neverConnected(ctx context.Context, op string, spec bastions.Spec, b bastions.Bastion, last error) error {
	if errors.Is(context.Cause(ctx), context.Canceled) || awsanswer.ClassOf(last) != awsanswer.NotConnected {
		return endedBy(ctx, op, last)
	}
	// Look for the cause although the time is over.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
	defer cancel()
	text := fmt.Sprintf("its exec agent has not connected within %s", a.settings.Bastion.StartTimeout)
	next := "start another bastion: bastion down, then bastion up"
	if findings := a.manager.Diagnose(ctx, spec, b); len(findings) > 0 {
		text += ". Probable reason: " + findings[0].Problem
		next = findings[0].Fix
	}
	return fail.New(fail.Timeout, op, &explained{text, last}, next)
}

// explained is an error with another text.
type explained struct {
	text  string
	cause error
}

func (e *explained) Error() string { return e.text }

func (e *explained) Unwrap() error { return e.cause }

// relabel gives err the operation op. ECS Exec's own operation has the whole command line in it, with the grant.
func relabel(op string, err error) error {
	if f, ok := errors.AsType[*fail.Error](err); ok {
		return fail.New(f.Kind, op, f.Err, f.Next)
	}
	return err
}

// runGrant runs the grant command once and returns the bastion's answer, together with an error if it is a refusal. It calls
// started once AWS has begun to run the command. ended is closed when the command's session is over; nil: there was none. A
// value from again ends the attempt while the container's agent is silent.
func (a *Access) runGrant(
	ctx context.Context, b bastions.Bastion, word string, started func(), again <-chan struct{},
) (r keys.GrantReply, ended <-chan struct{}, err error) {
	op := "hand a key to " + describe(&b)
	a.progress("handing a new key to the bastion by ECS Exec")
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, fail.New(fail.Start, op,
		fmt.Errorf("the grant command did not answer within %s", answerTimeout), "check the setting grant_command and the task's log"))
	defer cancel()
	select {
	case <-again: // drop a signal from before: this attempt already has that place
	default:
	}
	opening, given := cancelledBy(ctx, again)
	stream, err := a.sessions.Exec(opening, sessions.Exec{
		Cluster: b.Cluster, Task: b.TaskARN, Container: b.Container, Target: b.Target(),
		Command: a.settings.Grant.Command + " " + word, Started: started,
	})
	if given() && err != nil && ctx.Err() == nil {
		return r, nil, errAgain
	}
	closed, ok := errors.AsType[*sessions.ClosedError](err)
	if ok && !errors.Is(err, sessions.ErrDataKey) { // the command could not be started
		return r, nil, noAnswer(op, a.settings.Grant.Command, word, nil, closed)
	}
	if err != nil {
		return r, nil, relabel(op, err)
	}
	r, err = a.readGrantReply(ctx, op, word, stream)
	// The answer is complete before the session ends, so the caller does not wait for its end.
	answered, over := ctx.Err() == nil, make(chan struct{})
	a.tasks.Go(func() {
		defer close(over)
		if answered {
			a.outlive(stream)
		}
		_ = stream.Close()
	})
	return r, over, err
}

// commandEnd is the default of Access.commandEnd.
const commandEnd = 2 * time.Second

// outlive waits until the session of a command that has answered ends with it. The agent in the task does not notice a command's end
// while its client is away, and IAM may not let the client end a session that ECS began: one that is left then takes a place in the task
// until it is idle for too long.
func (a *Access) outlive(stream *sessions.Stream) {
	if stream.SetReadDeadline(time.Now().Add(a.commandEnd)) == nil {
		_, _ = io.Copy(io.Discard, stream)
	}
}

// cancelledBy returns a context that a value from c cancels. The function ends the wait and reports whether c did so.
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

func (a *Access) readGrantReply(ctx context.Context, op, word string, stream *sessions.Stream) (keys.GrantReply, error) {
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
			return reply, noAnswer(op, a.settings.Grant.Command, word, out, err)
		case len(out) > maxExecOutput:
			return reply, fail.New(fail.Start, op, errors.New("the grant command prints too much"), "check the setting grant_command")
		}
	}
}

// noAnswer returns the error of a grant command that ended without an answer. What the command printed of word, the grant, is left out:
// it may have the secret of the first contact.
func noAnswer(op, command, word string, out []byte, err error) error {
	if text := lastLine([]byte(hideGrant(string(out), word))); text != "" {
		err = fmt.Errorf("%q answered: %s", command, text)
	} else {
		text := fmt.Sprintf("%q gave no answer: %s", command, hideGrant(err.Error(), word))
		err = &explained{text, err}
	}
	return fail.New(fail.Start, op, err, "check the setting grant_command: it must run `bastiond grant` in the container")
}

// hiddenPart is how much of a grant, in bytes, is enough to be hidden.
const hiddenPart = 12

// hideGrant returns text with each run of characters that has a part of word in it replaced.
func hideGrant(text, word string) string {
	return anyWord().ReplaceAllStringFunc(text, func(run string) string {
		for i := 0; i+hiddenPart <= len(word); i++ {
			if strings.Contains(run, word[i:i+hiddenPart]) {
				return "(the grant)"
			}
		}
		return run
	})
}

var anyWord = pattern.Lazy(`\S+`)

// lastLine returns a command output's last non-empty line, cut to 200 bytes.
func lastLine(out []byte) string {
	lines := strings.FieldsFunc(string(out), func(r rune) bool { return r == '\n' || r == '\r' })
	for _, line := range slices.Backward(lines) {
		if line = strings.TrimSpace(line); line != "" {
			if len(line) > 200 {
				line = strings.ToValidUTF8(line[:200], "") + "..."
			}
			return line
		}
	}
	return ""
}

// refusal returns the error of a refused grant; nil if the bastion accepted it.
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
		if strings.HasSuffix(r.Error, "connect: permission denied") { // from a bastiond into whose directory root needs a capability
			return fail.New(fail.Start, op, err, "the task definition drops root's capabilities, and the image is older: push the image of "+
				"this version (bastion upgrade), or leave linuxParameters.capabilities out of the definition")
		}
		return &transientError{fail.New(fail.Start, op, err, "read the task's log")}
	}
	return fail.New(fail.Denied, op, err, "")
}

func sameKey(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }
