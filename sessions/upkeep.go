package sessions

import (
	"math/rand/v2"
	"time"

	"github.com/bastion-ssm/bastion/internal/backoff"
)

const (
	// The longest pauses before the first attempt to resume, and before any.
	firstBackoff, maxBackoff = 100 * time.Millisecond, 10 * time.Second
	// steadyLink is how long a websocket must last to be a good one: the next is then made at once, and not later each time.
	steadyLink = 10 * time.Second
	// pingDoublings is how often a missing pong is put down to a slow way, while messages come on it: each time the next ping
	// gets twice the time, since pongs queue behind messages.
	pingDoublings = 3
)

// linkState is the websocket's state.
type linkState uint8

const (
	linkDown   linkState = iota // until connectAt
	linkMaking                  // the owner makes it
	linkUp
)

// upkeep decides when to make a websocket, when to give up, and when to ping on it. It is pure, as machine is.
type upkeep struct {
	resumeTimeout time.Duration // how long the websocket may be missing
	pingInterval  time.Duration
	pingTimeout   time.Duration
	rng           *rand.Rand

	state     linkState
	connectAt time.Time
	attempts  int       // to resume, since the last good websocket
	since     time.Time // when the present, or latest, websocket was made
	downSince time.Time // zero when messages have come on the present websocket
	ups       uint64    // websockets that were made
	lastErr   error     // why the websocket was lost, or not made

	pingAt   time.Time // zero while a ping is under way, unless another has been asked for
	pinging  bool
	missed   uint   // pongs in a row
	reads    uint64 // messages that came, as a sign of life
	pingSeen uint64 // reads at the ping that is under way
}

// connected says that there is a websocket.
func (u *upkeep) connected(now time.Time) {
	u.state, u.since = linkUp, now
	u.ups++
	u.pinging, u.missed = false, 0
	u.pingAt = earliest(u.pingAt, now.Add(u.pingInterval))
}

// notConnected says that an attempt has failed.
func (u *upkeep) notConnected(err error, now time.Time) {
	u.lastErr = err
	u.reconnect(now)
}

// disconnected says that the websocket is gone.
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

// connectPause returns how long to wait before attempt n, 0 being the first after a loss: little, then twice as much each
// time, and a random part of it, lest all clients of a gateway that went away come back at once.
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

// expired reports whether the websocket has been missing for too long.
func (u *upkeep) expired(now time.Time) bool {
	return u.state != linkUp && now.Sub(u.downSince) >= u.resumeTimeout
}

// resumes returns how often a websocket was replaced.
func (u *upkeep) resumes() uint64 { return max(u.ups, 1) - 1 }

// probe asks for a ping at once, or as soon as there is a websocket and the ping under way has ended.
func (u *upkeep) probe(now time.Time) { u.pingAt = now }

// pinged takes the outcome of a ping: silent says that its pong did not come in time, throttled that the reader leaves messages
// unread on purpose. It reports whether the websocket still works.
func (u *upkeep) pinged(err error, silent, throttled bool, now time.Time) bool {
	u.pinging = false
	next := u.pingInterval
	switch {
	case err == nil:
		u.missed = 0
	case silent && throttled:
		// The pong is among the messages that are not read.
	case silent && u.reads != u.pingSeen && u.missed < pingDoublings:
		u.missed++
		next = 0
	default:
		return false
	}
	u.pingAt = earliest(u.pingAt, now.Add(next))
	return true
}

// deadline returns when onTimer is to be called, or expired may become true.
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

// onTimer acts on the deadline. It says whether to make a websocket, or to ping, and how long the pong may take.
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
