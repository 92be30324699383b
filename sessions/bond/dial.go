package bond

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Defaults of DialConfig.
const (
	DefaultMax    = 8
	DefaultMaxAge = 50 * time.Minute
)

const (
	// shakeTimeout bounds each part of the handshake after DialConfig.Open.
	shakeTimeout = 15 * time.Second
	// probeWithin bounds how long a subflow may take to answer after Probe.
	probeWithin = 3 * time.Second
	// mostHellos is how many first streams may fail before HELLO until Dial gives up.
	mostHellos = 3
	// lingerGrace is added to the Conn's own linger, so that the path manager gives up first: its error says more.
	lingerGrace = 10 * time.Second
)

// DialConfig says how a client opens its subflows. Zero fields get the default of the same name.
type DialConfig struct {
	Config

	// Open opens a stream to the far end's bond port, and returns when its first bytes have come. It must return soon after ctx is
	// done, because Close waits for it. Besides cancelled calls, at most two run at a time, and at most eight while the connection
	// has no path. The connection closes the streams.
	Open func(ctx context.Context) (net.Conn, error)
	// Name returns a stream's name for Stats. If nil, the name is the stream's local address, which is the session's id.
	Name func(net.Conn) string

	Max    int           // subflows, 1 to 16
	MaxAge time.Duration // age at which the client replaces a subflow

	// Judge says what an error of Open means for the next attempt; if nil, every error is a FailedOther.
	Judge func(error) Failure
}

func (c DialConfig) withDefaults() DialConfig {
	c.Config = c.Config.withDefaults()
	c.Max = min(max(cmp.Or(c.Max, DefaultMax), 1), maxSubflows)
	c.MaxAge = cmp.Or(c.MaxAge, DefaultMaxAge)
	if c.Name == nil {
		c.Name = func(stream net.Conn) string { return stream.LocalAddr().String() }
	}
	if c.Judge == nil {
		c.Judge = func(error) Failure { return FailedOther }
	}
	return c
}

// Dial begins a connection over one subflow; the path manager adds others as needed. ctx bounds Dial, not the connection. Dial
// returns before the far end has accepted: after a refusal, reads and writes return a *RefusedError.
func Dial(ctx context.Context, cfg DialConfig) (*Conn, error) {
	cfg = cfg.withDefaults()
	id, err := newConnID()
	if err != nil {
		return nil, err
	}
	policy := newPolicy(time.Now(), cfg.Max, cfg.MaxAge, cfg.Linger)
	stream, shake, err := begin(ctx, &cfg, policy, id)
	if err != nil {
		return nil, err
	}

	own := cfg.Config
	own.Linger += lingerGrace
	c := newConn(shake.identity, own, true)
	if shake.version < versionSealed {
		c.log.Info("the far end speaks an old version of the bond: damage to one session ends the connection", "version", shake.version)
	}
	m := &manager{
		c: c, cfg: cfg, policy: policy, next: 1,
		accepted: make(chan struct{}), wake: make(chan struct{}, 1),
		opens: make(map[uint32]attempt), results: make(chan result),
		first: newFirst(),
	}
	c.manager = m
	c.lostHook = m.lost
	accept := func(r io.Reader) error {
		defer close(m.accepted)
		_ = stream.SetReadDeadline(time.Now().Add(shakeTimeout))
		err := shake.awaitAccept(r)
		m.first.answered(openNew, err)
		if err != nil {
			return err
		}
		return stream.SetReadDeadline(time.Time{})
	}
	c.work.Go(m.run) // before attach: attach may end the connection, which then waits only for goroutines already begun
	if err := c.attach(0, stream, newFrameReader(stream), shake.seals(), cfg.Name(stream), accept); err != nil {
		_ = stream.Close()
		_ = c.Close()
		return nil, err // not possible: the connection is new
	}
	return c, nil
}

// begin opens a stream and sends NEW on it. If the stream ends or begins without HELLO, it may be damaged, and begin tries another.
// If the stream stays silent, begin gives up.
func begin(ctx context.Context, cfg *DialConfig, p *policy, id connID) (net.Conn, *clientHandshake, error) {
	for try := 1; ; try++ {
		p.pacing.takeTokens(time.Now())
		stream, err := cfg.Open(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("open the connection's first session: %w", err)
		}
		var shake *clientHandshake
		err = handshake(ctx, stream, func() (err error) {
			shake, err = clientNew(stream, id, cfg.highest, nil)
			return err
		})
		if err == nil {
			return stream, shake, nil
		}
		_ = stream.Close()
		if try == mostHellos || errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return nil, nil, fmt.Errorf("begin a connection: %w", err)
		}
		cfg.Logger.Debug("first session not usable, another is tried", "err", err)
	}
}

// handshake runs part of a stream's handshake, within ctx and shakeTimeout.
func handshake(ctx context.Context, stream net.Conn, part func() error) error {
	ctx, cancel := context.WithTimeout(ctx, shakeTimeout)
	defer cancel()
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = stream.SetDeadline(time.Unix(1, 0))
	})
	err := part()
	if !stop() {
		<-interrupted // else the deadline could hit later reads and writes
		return fmt.Errorf("bond handshake: %w", ctx.Err())
	}
	return err
}

// Rotate replaces all subflows, each when its successor is up. Call it after new credentials: sessions that old ones began cannot
// be resumed.
func (c *Conn) Rotate() {
	if c.manager != nil {
		c.manager.ask(func(r *requests) { r.rotate = true })
	}
}

// Probe asks all subflows for a sign of life, and opens one without backoff if none answers. Call it after the machine has slept or
// its network has changed.
func (c *Conn) Probe() {
	c.probe(probeWithin)
	if c.manager != nil {
		c.manager.ask(func(r *requests) { r.probe = true })
	}
}

// Lend gives one of the connection's places to another session for which the far end's container has no place. The connection then
// runs with one subflow less, or without any. The caller must soon call back; kept says that the other session keeps the place.
func (c *Conn) Lend() (back func(kept bool)) {
	if c.manager == nil {
		return func(bool) {}
	}
	c.manager.ask(func(r *requests) { r.lend++ })
	var once sync.Once
	return func(kept bool) {
		once.Do(func() { c.manager.ask(func(r *requests) { r.back = append(r.back, kept) }) })
	}
}

// FarEnd tells a client's connection how busy the far end's machine is. Where the processor limits the rate, more subflows do not
// help.
func (c *Conn) FarEnd(far FarEnd) {
	if c.manager != nil {
		c.manager.ask(func(r *requests) { r.far = &far })
	}
}
