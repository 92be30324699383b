package transport

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/sessions/frame"
	"github.com/bastion-ssm/bastion/sessions/reliable"
)

// readerGrace is how long the reader may continue after a failed write.
const readerGrace = time.Second

// Socket is one websocket of a channel, with binary messages. One goroutine reads, one writes, one pings. See Websocket for the
// methods.
type Socket interface {
	Read(buf []byte) ([]byte, error)
	Write(p []byte, more bool) error
	Ping(ctx context.Context) error
	Close() error
}

// Requests are the calls that a machine requests of its driver.
type Requests struct {
	Connect bool          // make a websocket, then call Connected or NotConnected
	Ping    time.Duration // if not zero: ping, wait that long for the pong, then call Pinged
}

// Machine is one end of a channel, without I/O, goroutines, locks or clock. A Driver calls its methods with its lock held.
type Machine interface {
	// Connected, NotConnected and Disconnected take in what became of a websocket.
	Connected(now time.Time)
	NotConnected(err error, now time.Time)
	Disconnected(cause error, now time.Time)
	// Pinged takes in the outcome of a requested ping. It reports whether the websocket still works.
	Pinged(err error, silent bool, now time.Time) bool
	// Throttled reports whether messages must stay on the websocket, and Throttling returns its last answer.
	Throttled(now time.Time) bool
	Throttling() bool
	// Receive takes in a message, which lies in the buffer in. kept says that the machine keeps the buffer. The error says why the
	// machine ignored the message.
	Receive(msg *frame.Message, in *reliable.Inbound, now time.Time) (kept bool, err error)
	// Malformed counts a message that could not be decoded.
	Malformed()
	// Pending reports whether Fill has something to send now.
	Pending() bool
	Fill(b *reliable.Batch, now time.Time)
	// Deadline returns when the machine needs OnTimer next; zero means never.
	Deadline() time.Time
	OnTimer(now time.Time)
	// Requested returns the machine's requests, once.
	Requested() Requests
	// Ended reports whether the channel has ended.
	Ended() bool
}

// Config has a driver's machine and what its owner does. Changed and Ended are called with the lock held.
type Config struct {
	Machine Machine
	// Dial makes a websocket.
	Dial func(context.Context) (Socket, error)
	// Changed is called after each change of the machine: the owner wakes its waiters and makes the calls that only it knows.
	Changed func()
	// Ended is called once, when the machine has ended.
	Ended func()
	// Finished is called once after Ended, without the lock, when all goroutines of the driver have ended.
	Finished func()
	Log      *slog.Logger
}

// Driver runs a machine. Its lock, which its owner uses too, guards the machine. It has a reader and a writer for each websocket, a
// timer, and a goroutine for each call that the machine requests.
type Driver struct {
	sync.Mutex
	cfg    Config
	link   *link       // nil without a websocket
	timer  *time.Timer // calls tick; it runs at armed or before
	armed  time.Time
	over   bool
	ctx    context.Context // for all calls on the channel's behalf; done at its end
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// link is one websocket of a channel. Its reader, its writer and a ping end when stop is called and the socket is closed.
type link struct {
	sock Socket
	ctx  context.Context // done once the link is dropped
	stop context.CancelFunc
	room sync.Cond // the reader may go on; guarded by the driver's lock
	work sync.Cond // the writer has messages to send; guarded by the driver's lock
}

// NewDriver returns a driver. It does nothing until Start.
func NewDriver(cfg Config) *Driver {
	d := &Driver{cfg: cfg}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// Start begins to run the machine, until it has ended. The lock must not be held.
func (d *Driver) Start(now time.Time) {
	d.Lock()
	defer d.Unlock()
	d.armed = now.Add(time.Hour)
	d.timer = time.AfterFunc(time.Hour, d.tick)
	d.cfg.Machine.OnTimer(now)
	d.Settle(now)
}

// Go runs call in a goroutine whose end Finished waits for. Callers hold the lock, and the machine has not ended.
func (d *Driver) Go(call func(ctx context.Context)) { d.work.Go(func() { call(d.ctx) }) }

// Over reports whether the channel has ended, which Ended was told. Callers hold the lock.
func (d *Driver) Over() bool { return d.over }

// --- the machine's wishes; callers hold the lock ---

// Settle acts on the machine's state. Whoever calls one of its methods calls Settle next.
func (d *Driver) Settle(now time.Time) {
	if d.over {
		return
	}
	d.cfg.Changed()
	if d.cfg.Machine.Ended() {
		d.end()
		return
	}
	r := d.cfg.Machine.Requested()
	if r.Connect {
		d.work.Go(d.connect)
	}
	if l := d.link; r.Ping > 0 && l != nil {
		d.work.Go(func() { d.ping(l, r.Ping) })
	}
	d.admit(now)
	d.send()
	d.arm(now)
}

// Moved is Settle for a read or a write of the channel's bytes, which change less.
func (d *Driver) Moved() {
	if d.cfg.Machine.Throttling() {
		d.admit(time.Now())
	}
	d.send()
}

// admit lets the link's reader go on if the machine allows it.
func (d *Driver) admit(now time.Time) {
	if m := d.cfg.Machine; d.link != nil && m.Throttling() && !m.Throttled(now) {
		d.link.room.Signal()
	}
}

// send wakes the link's writer if the machine has messages to send.
func (d *Driver) send() {
	if d.link != nil && d.cfg.Machine.Pending() {
		d.link.work.Signal()
	}
}

// arm sets the timer for the machine's deadline. It leaves a timer that fires too early: a spurious wake-up costs less than a reset
// for each message.
func (d *Driver) arm(now time.Time) {
	at := d.cfg.Machine.Deadline()
	if at.IsZero() || d.armed.After(now) && !at.Before(d.armed) {
		return
	}
	d.armed = at
	d.timer.Reset(max(soon, at.Sub(now)))
}

// soon stands for a timer that is due now. A timer due when it is set runs in the goroutine that looks at it. Under the race
// detector two of these in one testing/synctest bubble crash the program (go.dev/issue/78156).
const soon = time.Nanosecond

// tick is the timer's callback. It takes the lock.
func (d *Driver) tick() {
	d.Lock()
	defer d.Unlock()
	now := time.Now()
	d.cfg.Machine.OnTimer(now)
	d.Settle(now)
}

// end records the machine's end and starts finish.
func (d *Driver) end() {
	d.over = true
	d.timer.Stop()
	d.cfg.Ended()
	l := d.link
	if l != nil {
		d.drop()
	}
	go d.finish(l)
}

// finish ends the driver's goroutines and its link, which may be nil. It runs without the lock.
func (d *Driver) finish(l *link) {
	d.cancel()
	if l != nil {
		_ = l.sock.Close() // it may be closed already
	}
	d.work.Wait()
	d.cfg.Finished()
}

// --- the driver's goroutines ---

// connect makes a websocket.
func (d *Driver) connect() {
	sock, err := d.cfg.Dial(d.ctx)
	d.Lock()
	if !d.over {
		d.attach(sock, err, time.Now())
		sock = nil
	}
	d.Unlock()
	if sock != nil {
		_ = sock.Close() // never used
	}
}

// attach starts a link with sock, unless the attempt failed with err. Callers hold the lock.
func (d *Driver) attach(sock Socket, err error, now time.Time) {
	if err != nil {
		d.cfg.Log.Debug("no connection", "err", err)
		d.cfg.Machine.NotConnected(err, now)
	} else {
		l := &link{sock: sock}
		l.ctx, l.stop = context.WithCancel(d.ctx)
		l.room.L, l.work.L = d, d
		d.link = l
		d.cfg.Machine.Connected(now)
		d.work.Go(func() { d.lose(l, d.read(l)) })
		d.work.Go(func() { d.lose(l, d.write(l)) })
	}
	d.Settle(now)
}

// read passes messages to the machine while the machine takes them. It returns nil when the link has been dropped.
func (d *Driver) read(l *link) error {
	in := Get()
	defer func() { Free(in) }()
	d.Lock()
	defer d.Unlock()
	m := d.cfg.Machine
	for {
		for d.link == l && m.Throttled(time.Now()) {
			l.room.Wait()
		}
		if d.link != l {
			return nil
		}
		d.Unlock()
		var err error
		in.B, err = l.sock.Read(in.B[:0])
		msg, malformed := frame.Decode(in.B)
		now := time.Now()
		d.Lock()
		switch {
		case err != nil:
			return err
		case malformed != nil:
			m.Malformed()
			d.cfg.Log.Warn("message ignored", "err", malformed)
			continue
		}
		kept, ignored := m.Receive(&msg, in, now)
		if ignored != nil {
			d.cfg.Log.Warn("message ignored", "err", ignored)
		}
		if kept {
			in = Get()
		}
		d.Settle(now)
	}
}

// write sends the machine's messages. It returns nil when the link has been dropped.
func (d *Driver) write(l *link) error {
	var b reliable.Batch
	d.Lock()
	defer d.Unlock()
	for {
		for d.link == l && !d.cfg.Machine.Pending() {
			l.work.Wait()
		}
		if d.link != l {
			return nil
		}
		b.Reset()
		now := time.Now()
		d.cfg.Machine.Fill(&b, now)
		d.Settle(now)
		d.Unlock()
		err := l.send(&b)
		d.Lock()
		if err != nil {
			return err
		}
	}
}

// send writes a batch to the websocket.
func (l *link) send(b *reliable.Batch) error {
	start := 0
	for i, end := range b.Ends {
		if err := l.sock.Write(b.Buf[start:end], i+1 < len(b.Ends)); err != nil {
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
func (d *Driver) ping(l *link, within time.Duration) {
	ctx, cancel := context.WithTimeout(l.ctx, within)
	err := l.sock.Ping(ctx)
	silent := ctx.Err() != nil
	cancel()
	d.Lock()
	works := d.link != l
	if !works {
		now := time.Now()
		works = d.cfg.Machine.Pinged(err, silent, now)
		d.Settle(now)
	}
	d.Unlock()
	if !works {
		d.lose(l, fmt.Errorf("ping: %w", err))
	}
}

// lose drops a link, unless it has been dropped before.
func (d *Driver) lose(l *link, cause error) {
	d.Lock()
	present := d.link == l
	if present {
		d.drop()
		now := time.Now()
		d.cfg.Machine.Disconnected(cause, now)
		d.cfg.Log.Info("connection lost, resuming", "err", cause)
		d.Settle(now)
	}
	d.Unlock()
	if present {
		_ = l.sock.Close() // it may be closed already
	}
}

// drop forgets the link. Callers hold the lock, and close its socket without the lock.
func (d *Driver) drop() {
	l := d.link
	d.link = nil
	l.stop()
	l.room.Broadcast()
	l.work.Broadcast()
}
