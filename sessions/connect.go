package sessions

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/bastion-ssm/bastion/internal/backoff"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/sleep"
)

// This file is how channel gets its link, and another one when that is lost.

const (
	callTimeout = 15 * time.Second // of one ResumeSession or dial
	// The longest pauses before the first attempt to resume, and before any.
	firstBackoff, maxBackoff = 100 * time.Millisecond, 10 * time.Second
	// steadyLink is how long a link must last to be a good one: the next is then made at once, and not later each time.
	steadyLink = 10 * time.Second
)

type connectResult struct {
	sock socket
	err  error
}

// connect starts to make a link: with g at once, or by resuming the session, after a pause that grows.
func (c *channel) connect(g *grant) {
	ctx, cancel := context.WithCancel(context.Background())
	c.connecting = cancel
	pause := connectPause(c.attempts, rand.N[time.Duration])
	if g == nil {
		c.attempts++
	}
	go func() {
		sock, err := c.cfg.connect(ctx, g, pause)
		c.connected <- connectResult{sock, err}
	}()
}

// connectPause returns how long to wait before attempt n, 0 being the first after a loss: little, then twice as much each
// time, and a random part of it, lest all clients of a gateway that went away come back at once.
func connectPause(n int, random func(time.Duration) time.Duration) time.Duration {
	longest := backoff.After(n, firstBackoff, maxBackoff)
	return backoff.Between(longest/4, longest, random)
}

// connect runs beside the loop, one at a time.
func (cfg *streamConfig) connect(ctx context.Context, g *grant, pause time.Duration) (socket, error) {
	if g == nil {
		if sleep.For(ctx, pause) != nil {
			return nil, ctx.Err()
		}
		call, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		resumed, err := cfg.resume(call)
		if err != nil {
			return nil, err
		}
		g = &resumed
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return cfg.dial(call, *g)
}

// onConnected takes mu.
func (c *channel) onConnected(r connectResult) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.connecting()
	c.connecting = nil
	if r.err != nil {
		c.lastErr = r.err
		c.log.Debug("no connection", "attempt", c.attempts, "err", r.err)
		if errors.Is(r.err, errNoResume) {
			return c.lostForGood("it cannot be resumed", "open a new session: one cannot be resumed after it has ended, "+
				"after the AWS credentials that began it were replaced, or without the IAM permission ssm:ResumeSession")
		}
		c.connect(nil)
		return nil
	}
	c.link = startLink(c, r.sock)
	c.dropBatch()
	c.linkSince = time.Now()
	c.hs.present(c.linkSince)
	if c.resumed {
		c.s.counters.resumes.Add(1)
	}
	c.resumed = true
	return nil
}

// onLost drops the link and goes for a new one. It takes mu.
func (c *channel) onLost(cause error) error {
	l := c.link
	l.close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link = nil
	c.dropBatch()
	if l.end != nil {
		return l.end // the session's regular end may be what the link was lost for
	}
	c.lastErr = cause
	c.send.onPathLost()
	now := time.Now()
	if now.Sub(c.linkSince) >= steadyLink {
		c.downSince, c.attempts = now, 0
	}
	if c.downSince.IsZero() {
		c.downSince = now
	}
	c.log.Info("connection lost, resuming", "err", cause)
	c.connect(nil)
	return nil
}

// lostForGood returns the error of a session whose connection is lost for good.
func (c *channel) lostForGood(why, next string) error {
	err := c.lastErr
	if err == nil {
		err = context.DeadlineExceeded
	}
	return fail.New(fail.Lost, fmt.Sprintf("session %s lost its connection and %s", c.s.sessionID, why), err, next)
}
