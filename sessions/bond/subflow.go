package bond

import (
	"errors"
	"io"
	"net"
	"time"
)

const (
	// batchBytes is about how many bytes a writer sends at once.
	batchBytes = 64 << 10
	// directBytes bounds a caller's own write, including the bytes in flight at that time: a stream takes that much without
	// waiting.
	directBytes = 4 << 10
)

// subflow is the stream under a path, with its goroutines.
type subflow struct {
	path *path
	conn net.Conn
	wake chan struct{} // capacity 1: makes the writer look at its path
	stop chan struct{} // closed to end the goroutines; guarded by the connection's lock
	gone bool          // stop is closed
	shut chan struct{} // closed once conn is closed

	writing bool   // a goroutine writes buf, without the lock
	buf     []byte // owned by that goroutine
}

// nudge wakes the goroutine that receives from ch, now or at its next receive. ch has capacity 1.
func nudge(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default: // it will look anyway
	}
}

// attach takes over a stream after its handshake, as the subflow with the given id, and reads from it through r. The reader
// goroutine calls accept, which may be nil, before the first frame; its error ends the subflow, and a proven refusal ends the
// connection. If the connection has ended, attach returns an error and the caller keeps the stream.
func (c *Conn) attach(
	id uint32, conn net.Conn, r *frameReader, keys seals, name string, accept func(io.Reader) error,
) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending {
		return c.err
	}
	now := time.Now()
	s := &subflow{
		path: c.m.join(id, name, now), conn: conn,
		wake: make(chan struct{}, 1), stop: make(chan struct{}), shut: make(chan struct{}),
	}
	s.path.seal, r.seal = keys.out, keys.in
	c.subflows[s.path] = s
	c.log.Debug("subflow up", "subflow", id, "name", name)
	c.work.Go(func() { c.read(s, r, accept) })
	c.work.Go(func() { c.write(s) })
	c.work.Go(func() {
		<-s.stop
		_ = conn.Close() // ends the reader and the writer
		close(s.shut)
	})
	c.settle(now)
	return nil
}

// read is the reader's goroutine.
func (c *Conn) read(s *subflow, r *frameReader, accept func(io.Reader) error) {
	if accept != nil {
		if err := accept(r); err != nil {
			if refused, ok := errors.AsType[*RefusedError](err); ok && refused.sure {
				c.fail(refused)
			}
			c.lose(s, err)
			return
		}
	}
	var f frame
	for {
		if err := r.next(&f); err != nil {
			if violation, ok := errors.AsType[*protocolError](err); ok {
				c.fail(violation) // the subflow ends after it has carried RESET
			} else {
				c.lose(s, err)
			}
			return
		}
		c.mu.Lock()
		now := time.Now()
		if err := c.m.onFrame(s.path, &f, now); err != nil {
			c.m.fail(err)
		}
		c.settle(now)
		c.mu.Unlock()
	}
}

// write is the writer's goroutine.
func (c *Conn) write(s *subflow) {
	for {
		c.mu.Lock()
		wrote, err := c.writeOnce(s)
		if !wrote && c.ending {
			c.settle(time.Now()) // finish may wait for this
		}
		c.mu.Unlock()
		switch {
		case err != nil:
			c.lose(s, err)
			return
		case wrote:
			continue
		}
		select {
		case <-s.wake:
		case <-s.stop:
			return
		}
	}
}

// writeOnce writes a subflow's pending frames, up to about batchBytes. It holds the lock except during the write. While another
// goroutine writes it does nothing: that goroutine writes the rest.
func (c *Conn) writeOnce(s *subflow) (wrote bool, err error) {
	if s.writing || !c.m.pending(s.path) {
		return false, nil
	}
	now := time.Now()
	s.buf = c.m.fill(s.path, s.buf[:0], batchBytes, now)
	if len(s.buf) == 0 {
		return false, nil
	}
	s.writing = true
	c.settle(now)
	c.mu.Unlock()
	_, err = s.conn.Write(s.buf)
	c.mu.Lock()
	s.writing = false
	return true, err
}

// writeDirectly writes a small write's frames on a subflow at rest. Callers hold the lock. Without a switch of goroutines the round
// trip is shorter.
func (c *Conn) writeDirectly() {
	p := c.m.newestPath()
	s := c.subflows[p]
	if s == nil || p.flow.inFlight() > directBytes {
		return
	}
	wrote, err := c.writeOnce(s)
	switch {
	case err != nil:
		c.mu.Unlock()
		c.lose(s, err)
		c.mu.Lock()
	case wrote && (c.m.pending(p) || c.ending):
		nudge(s.wake)
	}
}

// lose removes a subflow and reports why.
func (c *Conn) lose(s *subflow, err error) {
	isDamaged := errors.Is(err, errDamaged)
	if watched, ok := s.conn.(*watchedStream); ok && isDamaged {
		watched.note(err) // no Read or Write has returned this error
	}
	c.mu.Lock()
	first := c.remove(s)
	if first && isDamaged {
		c.damaged++
	}
	c.settle(time.Now())
	over := c.ending
	c.mu.Unlock()
	if !first || over {
		return
	}
	c.log.Debug("subflow lost", "subflow", s.path.id, "name", s.path.name, "err", err)
	if c.lostHook != nil {
		c.lostHook(s.path.id, err)
	}
}

// remove ends a subflow. Callers hold the lock. It returns false if the subflow had already ended.
func (c *Conn) remove(s *subflow) bool {
	if s.gone {
		return false
	}
	s.gone = true
	delete(c.subflows, s.path)
	c.m.lose(s.path, time.Now())
	close(s.stop)
	return true
}

func (c *Conn) withSubflow(id uint32, do func(*subflow, time.Time)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for p, s := range c.subflows {
		if p.id == id {
			do(s, now)
			break
		}
	}
	c.settle(now)
}

// leave begins to end a subflow in good order.
func (c *Conn) leave(id uint32) {
	c.withSubflow(id, func(s *subflow, now time.Time) { c.m.leave(s.path, now) })
}

// drop ends a subflow at once.
func (c *Conn) drop(id uint32) {
	c.withSubflow(id, func(s *subflow, _ time.Time) { c.remove(s) })
}

// dropStalled ends the subflow that has been stalled for longest, and returns when its stream is closed. It returns false if no
// subflow is stalled.
func (c *Conn) dropStalled() bool {
	c.mu.Lock()
	var longest *subflow
	for p, s := range c.subflows {
		if p.stalled && (longest == nil || p.stalledAt.Before(longest.path.stalledAt)) {
			longest = s
		}
	}
	if longest != nil {
		c.remove(longest)
		c.settle(time.Now())
	}
	c.mu.Unlock()
	if longest == nil {
		return false
	}
	<-longest.shut
	return true
}

// probe asks on every subflow for a sign of life. Subflows that do not answer in time count as stalled.
func (c *Conn) probe(within time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.m.probe(within, now)
	c.settle(now)
}
