// Package deadline has what the SetDeadline methods of a net.Conn of one's own need.
package deadline

import (
	"sync"
	"time"
)

// Deadline is a point in time that wakes those who wait for it. The zero value is no deadline. It is guarded by the lock of
// whatever has it.
type Deadline struct {
	at    time.Time
	timer *time.Timer
}

// Set moves the deadline; the zero time means none. When it passes, wake is called, without the lock. It may also be called
// for a deadline that has been moved meanwhile: a woken waiter looks at Passed.
func (d *Deadline) Set(t time.Time, wake func()) {
	if d.timer != nil {
		d.timer.Stop() // a wake-up that is already on its way does no harm
		d.timer = nil
	}
	d.at = t
	if !t.IsZero() {
		left := time.Until(t)
		d.at = time.Now().Add(left) // by the clock that the timer goes by, which nobody sets back
		if left > 0 {
			d.timer = time.AfterFunc(left, wake)
		}
	}
}

// SetFor is Set for those who wait on c. The caller has the lock of c.
func (d *Deadline) SetFor(c *sync.Cond, t time.Time) {
	d.Set(t, func() {
		c.L.Lock()
		defer c.L.Unlock()
		c.Broadcast()
	})
	c.Broadcast()
}

// Passed says whether the time has come.
func (d *Deadline) Passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }
