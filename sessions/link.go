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

// inbound is a received message.
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
// starts and stops it; each goroutine ends when its socket is closed or stop is.
type link struct {
	sock  socket
	lost  chan error // has room for each goroutine's report
	probe chan struct{}
	stop  chan struct{}
	// acks fires when acknowledgements have waited long enough. The writer waits for it; who holds the channel's mutex sets it.
	acks *time.Timer
	// readDone is closed when the reader has ended.
	readDone chan struct{}
	// end is why the stream ends, if the reader has found that out. It is set before readDone is closed.
	end error
	// waiting says that messages are left unread on purpose: a missing pong means nothing then.
	waiting atomic.Bool
	// reads counts messages, as a sign of life.
	reads atomic.Uint64
	wg    sync.WaitGroup
}

// startLink starts the link of c, whose mutex is held.
func startLink(c *channel, sock socket) *link {
	l := &link{
		sock:  sock,
		lost:  make(chan error, 3),
		probe: make(chan struct{}, 1),
		stop:  make(chan struct{}),
		acks:  time.NewTimer(time.Hour),

		readDone: make(chan struct{}),
	}
	l.wg.Go(func() {
		defer close(l.readDone)
		l.lost <- l.read(c)
	})
	l.wg.Go(func() { l.lost <- l.write(c) })
	l.wg.Go(func() { l.lost <- l.ping(c.cfg.pingInterval, c.cfg.pingTimeout, c.s.probes) })
	return l
}

// close ends the link and waits for its goroutines, which take the channel's mutex: the caller does not hold it.
func (l *link) close() {
	close(l.stop)
	_ = l.sock.Close() // it may be closed already
	l.wg.Wait()
	l.acks.Stop()
}

// read gives c what comes, as long as c wants more.
func (l *link) read(c *channel) error {
	in := inboundPool.Get().(*inbound)
	defer func() { in.free() }()
	for {
		if !c.awaitRoom(l) {
			return errLinkClosed
		}
		var err error
		if in.b, err = l.sock.Read(in.b[:0]); err != nil {
			return err
		}
		l.reads.Add(1)
		kept, err := c.receive(l, in)
		if err != nil {
			l.end = err
			return err
		}
		if kept {
			in = inboundPool.Get().(*inbound)
		}
	}
}

// write sends what c has to send.
func (l *link) write(c *channel) error {
	b := &batch{}
	for {
		if b = c.takeBatch(l, b); b.empty() {
			select {
			case <-c.s.pending:
			case <-l.acks.C:
			case <-l.stop:
				return errLinkClosed
			}
			continue
		}
		start := 0
		for i, end := range b.ends {
			if err := l.sock.Write(b.buf[start:end], i+1 < len(b.ends)); err != nil {
				l.awaitReader()
				return err
			}
			start = end
		}
		b.reset()
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

// soon is now, for a timer. One that is due when it is set runs in the goroutine that looks at it, and under the race detector
// two of these in one bubble of testing/synctest crash the program (go.dev/issue/78156).
const soon = time.Nanosecond

// pingDoublings is how often a missing pong is put down to a slow way, while messages come on it: each time the next ping gets
// twice the time, since pongs queue behind messages.
const pingDoublings = 3

// ping finds out that the other end is gone: every interval, when acks are missed, or when the stream's user asks, by asked.
func (l *link) ping(interval, timeout time.Duration, asked <-chan struct{}) error {
	timer := time.NewTimer(interval)
	defer timer.Stop()
	missed := 0
	for {
		select {
		case <-timer.C:
		case <-l.probe:
		case <-asked:
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
			next = soon
		default:
			return fmt.Errorf("ping: %w", err)
		}
		timer.Reset(next)
	}
}
