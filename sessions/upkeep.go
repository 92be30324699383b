package sessions

import (
	"math/rand/v2"
	"time"

	"github.com/bastion-ssm/bastion/internal/backoff"
)

const (
	// The longest pauses before the first attempt to resume, and before any attempt.
	firstBackoff, maxBackoff = 100 * time.Millisecond, 10 * time.Second
	// steadyLink is how long a good websocket lasts. After a good one, the backoff starts again from its shortest pause.
	steadyLink = 10 * time.Second
	// pingDoublings is how many missing pongs in succession upkeep blames on a slow path while messages come. Each time it doubles
	// the next ping's timeout, because pongs queue behind messages.
	pingDoublings = 3
)

// linkState is the websocket's state.
type linkState uint8

const (
	linkDown   linkState = iota // until connectAt
	linkMaking                  // the owner is making one
	linkUp
)

// upkeep decides when to make a websocket, when to ping on it, and when to give up. It is pure, as machine is.
type upkeep struct {
	resumeTimeout time.Duration // how long the websocket may be lost
	pingInterval  time.Duration
	pingTimeout   time.Duration
	rng           *rand.Rand

	state     linkState
	connectAt time.Time
	attempts  int       // to resume, since the last good websocket
	since     time.Time // when the present or latest websocket was made
	downSince time.Time // zero once messages have come on the present websocket
	ups       uint64    // websockets made so far
	lastErr   error     // why the websocket was lost or not made

	pingAt   time.Time // zero during a ping, unless probe has asked for another
	pinging  bool
	missed   uint   // missing pongs in succession
	reads    uint64 // messages received, as a sign of life
	pingSeen uint64 // reads at the start of the present ping
}

// connected takes in that the owner has made a websocket.
func (u *upkeep) connected(now time.Time) {
	u.state, u.since = linkUp, now
	u.ups++
	u.pinging, u.missed = false, 0
	u.pingAt = earliest(u.pingAt, now.Add(u.pingInterval))
}

// notConnected takes in that an attempt has failed.
func (u *upkeep) notConnected(err error, now time.Time) {
	u.lastErr = err
	u.reconnect(now)
}

// disconnected takes in that the websocket is gone.
func (u *upkeep) disconnected(err error, now time.Time) {
	u.lastErr = err
	u.pingAt = time.Time{}
	if now.Sub(u.since) >= steadyLink {
		u.downSince, u.attempts = now, 0
	}
	if u.downSince.IsZero() {
		u.downSince = now
	}
	u.reconnect(now)
}

func (u *upkeep) reconnect(now time.Time) {
	random := func(d time.Duration) time.Duration { return time.Duration(u.rng.Int64N(int64(d))) }
	u.state, u.connectAt = linkDown, now.Add(connectPause(u.attempts, random))
	u.attempts++
}

// connectPause returns the wait before attempt n, counted from 0 after a loss. It doubles with each attempt. A random part keeps
// clients from returning all at once after a gateway's restart.
func connectPause(n int, random func(time.Duration) time.Duration) time.Duration {
	longest := backoff.After(n, firstBackoff, maxBackoff)
	return backoff.Between(longest/4, longest, random)
}

// heard notes that a message came.
func (u *upkeep) heard() {
	u.reads++
	if u.state == linkUp {
		u.downSince = time.Time{}
	}
}

// expired reports whether the websocket has been lost for too long.
func (u *upkeep) expired(now time.Time) bool {
	return u.state != linkUp && now.Sub(u.downSince) >= u.resumeTimeout
}

// resumes returns how often a websocket was replaced.
func (u *upkeep) resumes() uint64 { return max(u.ups, 1) - 1 }

// probe requests a ping at once, or as soon as a websocket exists and the present ping has ended.
func (u *upkeep) probe(now time.Time) { u.pingAt = now }

// pinged takes in the outcome of a ping. silent says that its pong did not come in time, and throttled that the reader leaves
// messages unread on purpose. pinged reports whether the websocket still works.
func (u *upkeep) pinged(err error, silent, throttled bool, now time.Time) bool {
	u.pinging = false
	next := u.pingInterval
	switch {
	case err == nil:
		u.missed = 0
	case silent && throttled:
		// The pong is among the unread messages.
	case silent && u.reads != u.pingSeen && u.missed < pingDoublings:
		u.missed++
		next = 0
	default:
		return false
	}
	u.pingAt = earliest(u.pingAt, now.Add(next))
	return true
}

// deadline returns when the owner must call onTimer, or when expired may become true.
func (u *upkeep) deadline() time.Time {
	switch {
	case u.state == linkUp && u.pinging:
		return time.Time{}
	case u.state == linkUp:
		return u.pingAt
	case u.state == linkDown:
		return earliest(u.connectAt, u.downSince.Add(u.resumeTimeout))
	}
	return u.downSince.Add(u.resumeTimeout)
}

// onTimer does everything that is due. It says whether to make a websocket, or to ping and how long the pong may take.
func (u *upkeep) onTimer(now time.Time) (connect bool, ping time.Duration) {
	switch {
	case u.state == linkDown && due(u.connectAt, now):
		u.state = linkMaking
		return true, 0
	case u.state == linkUp && !u.pinging && due(u.pingAt, now):
		u.pinging, u.pingAt, u.pingSeen = true, time.Time{}, u.reads
		return false, u.pingTimeout << u.missed
	}
	return false, 0
}
