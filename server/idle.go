package server

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/bastion-ssm/bastion/internal/duration"
	"github.com/bastion-ssm/bastion/internal/sleep"
)

// Requests that say why the bastion ends something. They want no reply.
const (
	// RequestEnded, on a channel, has the reason in words as its payload.
	RequestEnded = "ended@bastion"
	// RequestIdle, a global request, says that the connection ends because it had no channel for Config.IdleConn. The client must
	// come back only when it needs a connection.
	RequestIdle = "idle@bastion"
)

// idleError says that the bastion ended a connection that carried nothing.
type idleError struct{ limit time.Duration }

func (e *idleError) Error() string { return "idle for " + duration.String(e.limit) }

// activity records when a forwarded connection last carried bytes, in either direction.
type activity struct {
	began time.Time
	last  atomic.Int64 // since began
	ended atomic.Bool  // idle has found it idle
}

func newActivity() *activity { return &activity{began: time.Now()} }

func (a *activity) note() { a.last.Store(int64(time.Since(a.began))) }

// idle waits until the connection has carried nothing for limit, and then returns true, or until over is closed.
func (a *activity) idle(limit time.Duration, over <-chan struct{}) bool {
	for {
		left := time.Duration(a.last.Load()) + limit - time.Since(a.began)
		if left <= 0 {
			a.ended.Store(true)
			return true
		}
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
		case <-over:
			timer.Stop()
			return false
		}
	}
}

// endUnused ends a client that has had no channel for Config.IdleConn. While a client is connected, the pings on the way here keep
// an account's own rule about idle sessions from taking effect.
func (c *client) endUnused(ctx context.Context) {
	limit := c.server.config.IdleConn
	if limit <= 0 {
		return
	}
	for {
		left := limit
		c.server.mu.Lock()
		if c.open == 0 {
			left = time.Until(c.unused.Add(limit))
		}
		c.server.mu.Unlock()
		if left <= 0 {
			_, _, _ = c.conn.SendRequest(RequestIdle, false, nil) // fails with the connection
			c.end("idle for " + duration.String(limit))
			return
		}
		if sleep.For(ctx, left) != nil {
			return
		}
	}
}
