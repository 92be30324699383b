package bond

import (
	"time"

	"github.com/bastion-ssm/bastion/internal/ring"
)

const (
	tombstoneTime = 10 * time.Minute
	maxTombstones = 1024
)

// tombstones remember ended connections, so that the server can tell a client that comes back.
type tombstones struct {
	byID  map[connID]tombstone
	order ring.Ring[connID] // by the time of the end
}

type tombstone struct {
	identity

	ended   time.Time
	refusal *RefusedError
}

func (t *tombstones) add(who identity, refusal *RefusedError, now time.Time) {
	if t.byID == nil {
		t.byID = make(map[connID]tombstone)
	}
	t.expire(now)
	if t.order.Len() == maxTombstones {
		delete(t.byID, t.order.Pop())
	}
	t.byID[who.id] = tombstone{identity: who, ended: now, refusal: refusal}
	t.order.Push(who.id)
}

func (t *tombstones) find(id connID, now time.Time) (stone tombstone, ok bool) {
	t.expire(now)
	stone, ok = t.byID[id]
	return stone, ok
}

func (t *tombstones) expire(now time.Time) {
	for t.order.Len() > 0 && now.Sub(t.byID[*t.order.At(0)].ended) >= tombstoneTime {
		delete(t.byID, t.order.Pop())
	}
}
