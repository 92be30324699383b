// Package deadline helps to implement net.Conn's SetDeadline methods.
package deadline

import (
	"sync"
	"time"
)

// Deadline is a point in time that wakes its waiters. The zero value is no deadline. Its owner's lock guards it.
type Deadline struct {
	at    time.Time
	timer *time.Timer
}

// Set moves the deadline; the zero time means none. When it passes, Set's timer calls wake, without the lock. It may also call
// wake for an earlier deadline, so a woken waiter must check Passed.
func (d *Deadline) Set(t time.Time, wake func()) {
	if d.timer != nil {
		d.timer.Stop() // a wake-up that is already on its way is harmless
		d.timer = nil
	}
	d.at = t
	if !t.IsZero() {
		left := time.Until(t)
		d.at = time.Now().Add(left) // by the monotonic clock, as the timer
		if left > 0 {
			d.timer = time.AfterFunc(left, wake)
		}
	}
}

// SetFor is Set for waiters on c. The caller holds c's lock.
func (d *Deadline) SetFor(c *sync.Cond, t time.Time) {
	d.Set(t, func() {
		c.L.Lock()
		defer c.L.Unlock()
		c.Broadcast()
	})
	c.Broadcast()
}

// Passed reports whether the deadline has passed.
func (d *Deadline) Passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }
