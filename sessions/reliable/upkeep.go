package reliable

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

// UpkeepConfig has an Upkeep's settings.
type UpkeepConfig struct {
	ResumeTimeout time.Duration // how long the websocket may be lost
	PingInterval  time.Duration
	PingTimeout   time.Duration
	Rand          *rand.Rand
}

// Upkeep decides when to make a websocket, when to ping on it, and when to give up.
type Upkeep struct {
	cfg UpkeepConfig

	state     linkState
	connectAt time.Time
	attempts  int       // to resume, since the last good websocket
	since     time.Time // when the present or latest websocket was made
	downSince time.Time // zero once messages have come on the present websocket
	ups       uint64    // websockets made so far
	lastErr   error     // why the websocket was lost or not made

	pingAt   time.Time // zero during a ping, unless Probe has asked for another
	pinging  bool
	missed   uint   // missing pongs in succession
	reads    uint64 // messages received, as a sign of life
	pingSeen uint64 // reads at the start of the present ping
}

// NewUpkeep returns an Upkeep that asks for its first websocket at once.
func NewUpkeep(cfg UpkeepConfig, now time.Time) *Upkeep {
	return &Upkeep{cfg: cfg, connectAt: now, downSince: now}
}

// Up reports whether there is a websocket.
func (u *Upkeep) Up() bool { return u.state == linkUp }

// Err returns why the latest websocket was lost or not made.
func (u *Upkeep) Err() error { return u.lastErr }

// Made returns how many websockets were made so far.
func (u *Upkeep) Made() uint64 { return u.ups }

// Connected takes in that the owner has made a websocket.
func (u *Upkeep) Connected(now time.Time) {
	u.state, u.since = linkUp, now
	u.ups++
	u.pinging, u.missed = false, 0
	u.pingAt = Earliest(u.pingAt, now.Add(u.cfg.PingInterval))
}

// NotConnected takes in that an attempt has failed.
func (u *Upkeep) NotConnected(err error, now time.Time) {
	u.lastErr = err
	u.reconnect(now)
}

// Disconnected takes in that the websocket is gone.
func (u *Upkeep) Disconnected(err error, now time.Time) {
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

func (u *Upkeep) reconnect(now time.Time) {
	random := func(d time.Duration) time.Duration { return time.Duration(u.cfg.Rand.Int64N(int64(d))) }
	u.state, u.connectAt = linkDown, now.Add(connectPause(u.attempts, random))
	u.attempts++
}

// connectPause returns the wait before attempt n, counted from 0 after a loss. It doubles with each attempt. A random part keeps
// clients from returning all at once after a gateway's restart.
func connectPause(n int, random func(time.Duration) time.Duration) time.Duration {
	longest := backoff.After(n, firstBackoff, maxBackoff)
	return backoff.Between(longest/4, longest, random)
}

// Heard notes that a message came.
func (u *Upkeep) Heard() {
	u.reads++
	if u.state == linkUp {
		u.downSince = time.Time{}
	}
}

// Expired reports whether the websocket has been lost for too long.
func (u *Upkeep) Expired(now time.Time) bool {
	return u.state != linkUp && now.Sub(u.downSince) >= u.cfg.ResumeTimeout
}

// Resumes returns how often a websocket was replaced.
func (u *Upkeep) Resumes() uint64 { return max(u.ups, 1) - 1 }

// Probe requests a ping at once, or as soon as a websocket exists and the present ping has ended.
func (u *Upkeep) Probe(now time.Time) { u.pingAt = now }

// Pinged takes in the outcome of a ping. silent says that its pong did not come in time, and throttled that the reader leaves
// messages unread on purpose. Pinged reports whether the websocket still works.
func (u *Upkeep) Pinged(err error, silent, throttled bool, now time.Time) bool {
	u.pinging = false
	next := u.cfg.PingInterval
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
	u.pingAt = Earliest(u.pingAt, now.Add(next))
	return true
}

// Deadline returns when the owner must call onTimer, or when Expired may become true.
func (u *Upkeep) Deadline() time.Time {
	switch {
	case u.state == linkUp && u.pinging:
		return time.Time{}
	case u.state == linkUp:
		return u.pingAt
	case u.state == linkDown:
		return Earliest(u.connectAt, u.downSince.Add(u.cfg.ResumeTimeout))
	}
	return u.downSince.Add(u.cfg.ResumeTimeout)
}

// OnTimer does everything that is due. It says whether to make a websocket, or to ping and how long the pong may take.
func (u *Upkeep) OnTimer(now time.Time) (connect bool, ping time.Duration) {
	switch {
	case u.state == linkDown && Due(u.connectAt, now):
		u.state = linkMaking
		return true, 0
	case u.state == linkUp && !u.pinging && Due(u.pingAt, now):
		u.pinging, u.pingAt, u.pingSeen = true, time.Time{}, u.reads
		return false, u.cfg.PingTimeout << u.missed
	}
	return false, 0
}
