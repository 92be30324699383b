package sessions

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

// This file has the stream's goroutines. They do the I/O that its machine requests, and tell the machine the outcome.

const (
	// callTimeout bounds one ResumeSession, dial or GenerateDataKey.
	callTimeout = 15 * time.Second
	// readerGrace is how long the reader may continue after a failed write.
	readerGrace = time.Second
	// maxPooled is the largest buffer that the pool keeps.
	maxPooled = 64 << 10
)

// socket is one websocket of a session, with binary messages. One goroutine reads, one writes, one pings.
type socket interface {
	// Read appends the next message to buf[:0] and returns it.
	Read(buf []byte) ([]byte, error)
	// Write sends p and does not keep it. With more set, another Write follows at once, and p may wait for it.
	Write(p []byte, more bool) error
	// Ping returns when the answer has come; some goroutine must be reading.
	Ping(ctx context.Context) error
	// Close ends the socket at once and unblocks its other methods.
	Close() error
}

// inbound is a received message.
type inbound struct{ b []byte }

var inboundPool = sync.Pool{New: func() any { return &inbound{b: make([]byte, 0, 2048)} }}

func (in *inbound) free() {
	if cap(in.b) <= maxPooled {
		inboundPool.Put(in)
	}
}

// link is one websocket of a stream. Its reader, its writer and a ping end when stop is called and the socket is closed.
type link struct {
	sock socket
	ctx  context.Context // done once the link is dropped
	stop context.CancelFunc
	room sync.Cond // the reader may go on; guarded by the stream's lock
	work sync.Cond // the writer has messages to send; guarded by the stream's lock
}

// connect makes a websocket: with the session's first grant, or by resuming the session.
func (s *Stream) connect(first *grant) {
	sock, err := s.cfg.connect(s.ctx, first)
	s.mu.Lock()
	if !s.ended {
		s.attach(sock, err, time.Now())
		sock = nil
	}
	s.mu.Unlock()
	if sock != nil {
		_ = sock.Close() // never used
	}
}

// attach starts a link with sock, unless the attempt failed with err. Callers hold the lock.
func (s *Stream) attach(sock socket, err error, now time.Time) {
	if err != nil {
		s.log.Debug("no connection", "err", err)
		s.m.notConnected(err, errors.Is(err, errNoResume), now)
	} else {
		l := &link{sock: sock}
		l.ctx, l.stop = context.WithCancel(s.ctx)
		l.room.L, l.work.L = &s.mu, &s.mu
		s.link = l
		s.m.connected(now)
		s.work.Go(func() { s.lose(l, s.read(l)) })
		s.work.Go(func() { s.lose(l, s.write(l)) })
	}
	s.settle(now)
}

// connect makes a websocket with grant g, or, if g is nil, with a new one.
func (cfg *streamConfig) connect(ctx context.Context, g *grant) (socket, error) {
	if g == nil {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		resumed, err := cfg.resume(call)
		if err != nil {
			return nil, err
		}
		g = &resumed
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return cfg.dial(call, *g)
}

// read passes messages to the machine while the machine takes them. It returns nil when the link has been dropped.
func (s *Stream) read(l *link) error {
	in := inboundPool.Get().(*inbound)
	defer func() { in.free() }()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for s.link == l && s.m.throttled(time.Now()) {
			l.room.Wait()
		}
		if s.link != l {
			return nil
		}
		s.mu.Unlock()
		var err error
		in.b, err = l.sock.Read(in.b[:0])
		msg, malformed := frame.Decode(in.b)
		now := time.Now()
		s.mu.Lock()
		switch {
		case err != nil:
			return err
		case malformed != nil:
			s.m.malformed()
			s.log.Warn("message ignored", "err", malformed)
			continue
		}
		kept, ignored := s.m.receive(&msg, in, now)
		if ignored != nil {
			s.log.Warn("message ignored", "err", ignored)
		}
		if kept {
			in = inboundPool.Get().(*inbound)
		}
		s.settle(now)
	}
}

// write sends the machine's messages. It returns nil when the link has been dropped.
func (s *Stream) write(l *link) error {
	var b batch
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for s.link == l && !s.m.pending() {
			l.work.Wait()
		}
		if s.link != l {
			return nil
		}
		b.reset()
		now := time.Now()
		s.m.fill(&b, now)
		s.settle(now)
		s.mu.Unlock()
		err := l.send(&b)
		s.mu.Lock()
		if err != nil {
			return err
		}
	}
}

// send writes a batch to the websocket.
func (l *link) send(b *batch) error {
	start := 0
	for i, end := range b.ends {
		if err := l.sock.Write(b.buf[start:end], i+1 < len(b.ends)); err != nil {
			l.awaitReader()
			return err
		}
		start = end
	}
	return nil
}

// awaitReader lets the reader take the messages that came before the other end went away. They may say how the session ended.
func (l *link) awaitReader() {
	ctx, cancel := context.WithTimeout(l.ctx, readerGrace)
	defer cancel()
	<-ctx.Done()
}

// ping pings once and tells the machine the outcome.
func (s *Stream) ping(l *link, within time.Duration) {
	ctx, cancel := context.WithTimeout(l.ctx, within)
	err := l.sock.Ping(ctx)
	silent := ctx.Err() != nil
	cancel()
	s.mu.Lock()
	works := s.link != l
	if !works {
		now := time.Now()
		works = s.m.pinged(err, silent, now)
		s.settle(now)
	}
	s.mu.Unlock()
	if !works {
		s.lose(l, fmt.Errorf("ping: %w", err))
	}
}

// lose drops a link, unless it has been dropped before.
func (s *Stream) lose(l *link, cause error) {
	s.mu.Lock()
	present := s.link == l
	if present {
		s.drop()
		now := time.Now()
		s.m.disconnected(cause, now)
		s.log.Info("connection lost, resuming", "err", cause)
		s.settle(now)
	}
	s.mu.Unlock()
	if present {
		_ = l.sock.Close() // it may be closed already
	}
}

// drop forgets the link. Callers hold the lock, and close its socket without the lock.
func (s *Stream) drop() {
	l := s.link
	s.link = nil
	l.stop()
	l.room.Broadcast()
	l.work.Broadcast()
}

// requestKey makes a data key and passes it to the machine.
func (s *Stream) requestKey(req *keyRequest) {
	ctx, cancel := context.WithTimeout(s.ctx, callTimeout)
	defer cancel()
	plain, encrypted, err := s.cfg.dataKey(ctx, req)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		now := time.Now()
		s.m.keyMade(req, plain, encrypted, err, now)
		s.settle(now)
	}
	clear(plain)
}
