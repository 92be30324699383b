package sessions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/sessions/transport"
)

// SSMAPI is the part of *ssm.Client that this package calls.
type SSMAPI interface {
	StartSession(context.Context, *ssm.StartSessionInput, ...func(*ssm.Options)) (*ssm.StartSessionOutput, error)
	ResumeSession(context.Context, *ssm.ResumeSessionInput, ...func(*ssm.Options)) (*ssm.ResumeSessionOutput, error)
	TerminateSession(context.Context, *ssm.TerminateSessionInput, ...func(*ssm.Options)) (*ssm.TerminateSessionOutput, error)
}

// ECSAPI is the part of *ecs.Client that this package calls.
type ECSAPI interface {
	ExecuteCommand(context.Context, *ecs.ExecuteCommandInput, ...func(*ecs.Options)) (*ecs.ExecuteCommandOutput, error)
}

// KMSAPI is the part of *kms.Client that this package calls.
type KMSAPI interface {
	GenerateDataKey(context.Context, *kms.GenerateDataKeyInput, ...func(*kms.Options)) (*kms.GenerateDataKeyOutput, error)
}

// Documents that open a raw stream to a port of the target.
const (
	DocumentSSH  = "AWS-StartSSHSession"
	DocumentPort = "AWS-StartPortForwardingSession"
)

// Config has a Client's settings. Clients need SSM, need ECS for Exec, and need KMS for encrypted sessions. Zero values mean the
// default.
type Config struct {
	SSM SSMAPI
	ECS ECSAPI
	KMS KMSAPI
	// HTTPClient dials the websockets.
	HTTPClient *http.Client
	Logger     *slog.Logger

	// OpenTimeout bounds the opening of one session, from the call to the end of the handshake. Default 30 s.
	OpenTimeout time.Duration
	// ResumeTimeout is how long a websocket may be lost before the stream ends. Default 5 min.
	ResumeTimeout time.Duration
	// CloseTimeout bounds how long Close waits until the agent has acknowledged all written bytes. Default 2 s.
	CloseTimeout time.Duration
	// PingInterval and PingTimeout apply to websocket pings. Default 20 s and 10 s.
	PingInterval, PingTimeout time.Duration
	// SendWindow bounds the bytes in flight. Default 4 MiB.
	SendWindow int
	// WriteBuffer bounds the bytes written but not sent yet. Default 256 KiB.
	WriteBuffer int
	// ReadBuffer bounds the unread bytes, softly: above it the stream leaves messages on the websocket, and above sixteen times as
	// much it refuses them. Default 1 MiB.
	ReadBuffer int
	// ReorderBuffer bounds the bytes of messages that wait for missing ones. Default 16 MiB.
	ReorderBuffer int
}

const (
	defaultOpenTimeout   = 30 * time.Second
	defaultResumeTimeout = 5 * time.Minute
	defaultCloseTimeout  = 2 * time.Second
	defaultPingInterval  = 20 * time.Second
	defaultPingTimeout   = 10 * time.Second
	defaultSendWindow    = 4 << 20
	defaultWriteBuffer   = 256 << 10
	defaultReadBuffer    = 1 << 20
	defaultReorderBuffer = 16 << 20

	openTries        = 3                      // sessions that OpenPort starts in turn while the far end stays silent
	maxPayload       = 16 << 10               // bytes of a message; streams begin with 1024
	firstSilence     = 3 * time.Second        // the default ServerFirstTimeout of the first try
	absentPatience   = time.Second            // how long the agent of an open session may be absent before it counts as gone
	startGrace       = 5 * time.Second        // extra time for a call that starts a session, after its caller has given up
	terminateTimeout = 5 * time.Second        // for TerminateSession
	reorderSpan      = 1 << 16                // messages
	readHardFactor   = 16                     // ReadBuffers
	absentCheck      = 100 * time.Millisecond // how often an opening checks for an absent agent
)

// Client opens sessions. Several goroutines may use it.
type Client struct {
	cfg Config
	log *slog.Logger
	// payloadLimit is the longest payload that gets through to the service, once a stream has found out.
	payloadLimit atomic.Int64
	once         aws.Retryer // for the calls that start a session
	dial         func(context.Context, grant) (transport.Socket, error)
}

// New returns a Client.
func New(cfg Config) *Client {
	cfg.OpenTimeout = cmp.Or(cfg.OpenTimeout, defaultOpenTimeout)
	cfg.ResumeTimeout = cmp.Or(cfg.ResumeTimeout, defaultResumeTimeout)
	cfg.CloseTimeout = cmp.Or(cfg.CloseTimeout, defaultCloseTimeout)
	cfg.PingInterval = cmp.Or(cfg.PingInterval, defaultPingInterval)
	cfg.PingTimeout = cmp.Or(cfg.PingTimeout, defaultPingTimeout)
	cfg.SendWindow = cmp.Or(cfg.SendWindow, defaultSendWindow)
	cfg.WriteBuffer = cmp.Or(cfg.WriteBuffer, defaultWriteBuffer)
	cfg.ReadBuffer = cmp.Or(cfg.ReadBuffer, defaultReadBuffer)
	cfg.ReorderBuffer = cmp.Or(cfg.ReorderBuffer, defaultReorderBuffer)
	c := &Client{cfg: cfg, log: cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler)), once: newOnce()}
	c.payloadLimit.Store(maxPayload)
	c.dial = func(ctx context.Context, g grant) (transport.Socket, error) {
		return dialWebsocket(ctx, cfg.HTTPClient, g)
	}
	return c
}

// newOnce returns the retryer of calls that start a session. Their callers decide when to try again, because the SDK's backoff is
// invisible inside a call and grows to 20 s. The SDK still retries at once after faults that a second call mends: a stale
// kept-alive connection, and a wrong clock of this machine.
func newOnce() aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts, o.MaxBackoff = 2, 100*time.Millisecond
		o.Retryables = []retry.IsErrorRetryable{
			retry.NoRetryCanceledError{}, retry.RetryableError{}, retry.RetryableConnectionError{},
		}
	})
}

// Port is a port of a target. The target's agent connects to it on its own loopback.
type Port struct {
	Target   string
	Port     int
	Document string // default DocumentSSH
	Reason   string // for the audit log
	// ServerFirst says that the far end speaks first, as SSH servers do. OpenPort then returns when its first bytes have come. Only
	// then is it safe to write: an agent that has just opened a session may acknowledge data and discard it.
	ServerFirst bool
	// OpenTimeout bounds the opening, from the answer of StartSession to the end of the handshake. Default Config.OpenTimeout.
	OpenTimeout time.Duration
	// ServerFirstTimeout is how long the first try waits for these bytes; each further try waits half as long again. Default 3 s.
	ServerFirstTimeout time.Duration
}

// OpenPort opens a session to a port. With ServerFirst it gives up a silent session and tries another, up to openTries; then
// the error wraps ErrSilent. ctx bounds the opening, not the stream. After an error no session remains.
func (c *Client) OpenPort(ctx context.Context, p Port) (*Stream, error) {
	op := fmt.Sprintf("open port %d of %s", p.Port, p.Target)
	silence := p.ServerFirstTimeout
	if silence <= 0 {
		silence = firstSilence
	}
	for try := 1; ; try++ {
		s, err := c.openPort(ctx, op, p, silence)
		if !errors.Is(err, ErrSilent) {
			return s, err
		}
		if try == openTries || ctx.Err() != nil {
			err = fmt.Errorf("%w in %d sessions: nothing listens on port %d there, or the agent lost its first bytes",
				ErrSilent, try, p.Port)
			return nil, fail.New(fail.Start, op, err,
				"check that the server there is running, and listens on 127.0.0.1 and ::1")
		}
		c.log.Info("silent session given up", "target", p.Target, "port", p.Port, "try", try, "after", silence)
		silence += silence / 2
	}
}

func (c *Client) openPort(ctx context.Context, op string, p Port, silence time.Duration) (*Stream, error) {
	document := cmp.Or(p.Document, DocumentSSH)
	in := &ssm.StartSessionInput{
		Target:       &p.Target,
		DocumentName: &document,
		Parameters:   map[string][]string{"portNumber": {strconv.Itoa(p.Port)}},
	}
	if p.Reason != "" {
		in.Reason = &p.Reason
	}
	s, err := c.start(ctx, p.Target, false, func(ctx context.Context) (string, grant, error) {
		out, err := c.cfg.SSM.StartSession(ctx, in, func(o *ssm.Options) { o.Retryer = c.once })
		if err != nil {
			return "", grant{}, fail.AWS(fail.Start, op, "ssm:StartSession", err)
		}
		return aws.ToString(out.SessionId), grant{aws.ToString(out.StreamUrl), aws.ToString(out.TokenValue)}, nil
	}, nil)
	if err != nil {
		return nil, err
	}
	timeout := p.OpenTimeout
	if timeout <= 0 {
		timeout = c.cfg.OpenTimeout
	}
	if err := c.await(ctx, s, timeout, p.ServerFirst, silence); err != nil {
		s.abandon()
		return nil, openError(op, err)
	}
	return s, nil
}

// openError adds the operation to an opening's error, and the kind if it has none.
func openError(op string, err error) error {
	switch kind := fail.KindOf(err); {
	case errors.Is(err, context.DeadlineExceeded):
		return fail.New(fail.Timeout, op, err, "try again, or allow more time")
	case kind != fail.Other || errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", op, err)
	}
	return fail.New(fail.Start, op, err, "")
}

// await returns when the stream's caller may use s.
func (c *Client) await(ctx context.Context, s *Stream, timeout time.Duration, serverFirst bool, silence time.Duration) error {
	open := time.NewTimer(timeout)
	defer open.Stop()
	select {
	case <-s.ready:
	case <-s.done:
		return s.Err()
	case <-ctx.Done():
		return ctx.Err()
	case <-open.C:
		return fmt.Errorf("%w within %v", ErrUnanswered, timeout)
	}
	if !serverFirst {
		return nil
	}
	silent := time.NewTimer(silence)
	defer silent.Stop()
	check := time.NewTicker(absentCheck)
	defer check.Stop()
	for {
		select {
		case <-s.spoken:
			return nil
		case <-s.done:
			return s.Err()
		case <-ctx.Done():
			return ctx.Err()
		case <-silent.C:
			return ErrSilent
		case <-check.C:
			// An agent that finds no listener at the port leaves the session at once, and the service may report that.
			if s.absentFor() >= absentPatience {
				return ErrSilent
			}
		}
	}
}

// start calls the API that starts a session, and starts the stream. ctx does not cancel the call, because that could leave a
// session behind that nobody knows. When ctx ends first, the call gets startGrace more, and start terminates the new session.
func (c *Client) start(
	ctx context.Context, target string, exec bool, call func(context.Context) (string, grant, error), adapt func(*streamConfig),
) (*Stream, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	callCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.OpenTimeout)
	defer cancel()
	unhook := context.AfterFunc(ctx, func() { time.AfterFunc(startGrace, cancel) })
	defer unhook()
	id, g, err := call(callCtx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		c.terminate(id)
		return nil, err
	}
	if id == "" || g.url == "" || g.token == "" {
		if id != "" {
			c.terminate(id)
		}
		return nil, fail.New(fail.Start, "start a session to "+target, errors.New("the service's answer is incomplete"), "")
	}
	if err := transport.CheckURL(g.url); err != nil {
		c.terminate(id)
		return nil, fail.New(fail.Start, "start a session to "+target, err, "check the AWS endpoint settings")
	}
	c.log.Debug("session started", "session", id, "target", target)
	cfg := c.streamConfig(id, g, exec)
	if adapt != nil {
		adapt(&cfg)
	}
	return newStream(id, target, cfg, c.log), nil
}

func (c *Client) streamConfig(id string, first grant, exec bool) streamConfig {
	return streamConfig{
		machineConfig: machineConfig{
			exec:          exec,
			resumeTimeout: c.cfg.ResumeTimeout,
			closeTimeout:  c.cfg.CloseTimeout,
			pingInterval:  c.cfg.PingInterval,
			pingTimeout:   c.cfg.PingTimeout,
			sendWindow:    c.cfg.SendWindow,
			maxPayload:    int(c.payloadLimit.Load()),
			writeBuffer:   c.cfg.WriteBuffer,
			readSoft:      c.cfg.ReadBuffer,
			readHard:      readHardFactor * c.cfg.ReadBuffer,
			heldBytes:     c.cfg.ReorderBuffer,
			heldSpan:      reorderSpan,
		},
		first:     first,
		resume:    func(ctx context.Context) (grant, error) { return c.resume(ctx, id) },
		dial:      c.dial,
		dataKey:   c.dataKey,
		terminate: func() { c.terminate(id) },
		tooLong: func(limit int) {
			c.log.Warn("long messages do not get through", "limit", limit)
			c.payloadLimit.Store(int64(limit))
		},
	}
}

// resume gets another websocket grant for session id. Errors that rule out any further one wrap errNoResume.
func (c *Client) resume(ctx context.Context, id string) (grant, error) {
	out, err := c.cfg.SSM.ResumeSession(ctx, &ssm.ResumeSessionInput{SessionId: &id})
	if err != nil {
		final := resumeRefused(err)
		err = fail.AWS(fail.Lost, "resume session "+id, "ssm:ResumeSession", err)
		if final {
			err = fmt.Errorf("%w: %w", errNoResume, err)
		}
		return grant{}, err
	}
	g := grant{aws.ToString(out.StreamUrl), aws.ToString(out.TokenValue)}
	if g.token == "" {
		return grant{}, fmt.Errorf("%w: the service has terminated it", errNoResume)
	}
	if err := transport.CheckURL(g.url); err != nil {
		return grant{}, fmt.Errorf("%w: %w", errNoResume, err)
	}
	return g, nil
}

// resumeRefused reports whether ResumeSession cannot succeed later either. Either the session is gone, or it belongs to temporary
// credentials that have been replaced, for which the service answers 403. Expired credentials may yet be renewed.
func resumeRefused(err error) bool {
	switch awsanswer.ClassOf(err) {
	case awsanswer.Denied, awsanswer.NotFound, awsanswer.Final, awsanswer.Config, awsanswer.Unsupported:
		return true
	}
	return false
}

// execPrefix begins the ids of ECS Exec's sessions.
const execPrefix = "ecs-execute-command-"

// terminate ends session id with the service, even if the caller's context has ended.
func (c *Client) terminate(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), terminateTimeout)
	defer cancel()
	_, err := c.cfg.SSM.TerminateSession(ctx, &ssm.TerminateSessionInput{SessionId: &id})
	class := awsanswer.ClassOf(err)
	switch {
	case err == nil, class == awsanswer.NotFound:
	case strings.HasPrefix(id, execPrefix) && class == awsanswer.Denied:
		// ECS began the session, and AWS does not document whether IAM counts it as the caller's. It ends with its command.
		c.log.Debug("exec session not terminated: IAM does not count it as yours", "session", id, "err", err)
	default:
		c.log.Warn("session not terminated; the service ends it when it is idle", "session", id, "err", err)
	}
}
