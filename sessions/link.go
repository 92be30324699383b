package sessions

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// socket is one websocket of a session, carrying binary messages. One goroutine reads, one writes, one pings.
type socket interface {
	// Read appends the next message to buf[:0] and returns it.
	Read(buf []byte) ([]byte, error)
	// Write sends p, which it does not keep. With more, another Write follows at once, and p may wait for it.
	Write(p []byte, more bool) error
	// Ping returns when the answer has come; something must be reading.
	Ping(ctx context.Context) error
	// Close ends the socket at once; what blocks in it returns.
	Close() error
}

// readerGrace is how long the reader may go on after a write has failed.
const readerGrace = time.Second

var errLinkClosed = errors.New("link closed")

// inbound is a received message, on its way from the reader to the loop.
type inbound struct{ b []byte }

var inboundPool = sync.Pool{New: func() any { return &inbound{b: make([]byte, 0, 2048)} }}

// maxPooled is the largest buffer that the pool keeps.
const maxPooled = 64 << 10

func (in *inbound) free() {
	if cap(in.b) <= maxPooled {
		inboundPool.Put(in)
	}
}

// batch is what the writer sends in one go: messages, one after the other in one slice.
type batch struct {
	buf  []byte
	ends []int
}

func (b *batch) empty() bool { return len(b.ends) == 0 }

// end closes the message that was appended to buf.
func (b *batch) end() { b.ends = append(b.ends, len(b.buf)) }

func (b *batch) add(msg []byte) {
	b.buf = append(b.buf, msg...)
	b.end()
}

func (b *batch) reset() { b.buf, b.ends = b.buf[:0], b.ends[:0] }

// link is one websocket with its goroutines: a reader, a writer, and one that pings. It belongs to the loop, which alone
// starts and stops it; each goroutine ends when its socket is closed or stop is, and so a send to the loop never outlives it.
type link struct {
	sock socket
	in   chan *inbound
	out  chan *batch // to the writer; it takes one and gives it back by written
	// written has room for every batch there is, so that giving one back never blocks.
	written chan *batch
	lost    chan error // has room for each goroutine's report
	probe   chan struct{}
	stop    chan struct{}
	// readDone is closed when the reader has ended.
	readDone chan struct{}
	// waiting says that the loop has left messages unread on purpose: a missing pong means nothing then.
	waiting atomic.Bool
	// reads counts messages, as a sign of life.
	reads atomic.Uint64
	wg    sync.WaitGroup
}

func startLink(sock socket, interval, timeout time.Duration) *link {
	l := &link{
		sock:    sock,
		in:      make(chan *inbound, 64),
		out:     make(chan *batch),
		written: make(chan *batch, 2),
		lost:    make(chan error, 3),
		probe:   make(chan struct{}, 1),
		stop:    make(chan struct{}),

		readDone: make(chan struct{}),
	}
	l.wg.Go(func() {
		defer close(l.readDone)
		l.lost <- l.read()
	})
	l.wg.Go(func() { l.lost <- l.write() })
	l.wg.Go(func() { l.lost <- l.ping(interval, timeout) })
	return l
}

// close ends the link and waits for its goroutines.
func (l *link) close() {
	close(l.stop)
	_ = l.sock.Close() // it may be closed already
	l.wg.Wait()
}

func (l *link) read() error {
	for {
		m := inboundPool.Get().(*inbound)
		var err error
		if m.b, err = l.sock.Read(m.b[:0]); err != nil {
			return err
		}
		l.reads.Add(1)
		select {
		case l.in <- m:
		case <-l.stop:
			return errLinkClosed
		}
	}
}

func (l *link) write() error {
	for {
		select {
		case b := <-l.out:
			start := 0
			for i, end := range b.ends {
				if err := l.sock.Write(b.buf[start:end], i+1 < len(b.ends)); err != nil {
					l.awaitReader()
					return err
				}
				start = end
			}
			l.written <- b
		case <-l.stop:
			return errLinkClosed
		}
	}
}

// awaitReader lets the reader take what has come before the other end went away: it may be how the session ended.
func (l *link) awaitReader() {
	timer := time.NewTimer(readerGrace)
	defer timer.Stop()
	select {
	case <-l.readDone:
	case <-l.stop:
	case <-timer.C:
	}
}

// pingDoublings is how often a missing pong is put down to a slow way, while messages come on it: each time the next ping gets
// twice the time, since pongs queue behind messages.
const pingDoublings = 3

// ping finds out that the other end is gone: every interval, or when the loop misses acks.
func (l *link) ping(interval, timeout time.Duration) error {
	timer := time.NewTimer(interval)
	defer timer.Stop()
	missed := 0
	for {
		select {
		case <-timer.C:
		case <-l.probe:
		case <-l.stop:
			return errLinkClosed
		}
		seen := l.reads.Load()
		ctx, cancel := context.WithTimeout(context.Background(), timeout<<missed)
		err := l.sock.Ping(ctx)
		silent := ctx.Err() != nil
		cancel()
		next := interval
		switch {
		case err == nil:
			missed = 0
		case silent && l.waiting.Load():
			// The pong is among what is not being read.
		case silent && l.reads.Load() != seen && missed < pingDoublings:
			missed++
			next = 0
		default:
			return fmt.Errorf("ping: %w", err)
		}
		timer.Reset(next)
	}
}
