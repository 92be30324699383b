package tunnel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/fail"
)

const (
	clientVersion = "SSH-2.0-bastion"

	// drainRequest is the global request by which a bastion announces its end. Its payload is the time left, in seconds, as decimal
	// digits.
	drainRequest = "drain@bastion"

	// idleRequest is the global request by which a bastion announces that it ends the connection because it was unused.
	idleRequest = "idle@bastion"

	// endedRequest is the request on a channel by which a bastion says why it ends the channel.
	endedRequest = "ended@bastion"

	// endGrace bounds the wait for x/crypto/ssh to end a connection after its channels. It hangs if the peer violated the protocol
	// and kept sending.
	endGrace = 5 * time.Second

	// latchGrace bounds the wait for a write that must fail; see latch.
	latchGrace = 100 * time.Millisecond

	// drainGrace is how long after its own deadline a draining bastion may still be closing.
	drainGrace = 5 * time.Second
)

var (
	errDeadPeer = errors.New("the bastion does not answer any more")
	errWentAway = errors.New("the bastion went away")
)

// client is one SSH connection of a Link.
type client struct {
	conn      ssh.Conn
	wire      *wire
	describe  string
	keepalive Keepalive
	log       *slog.Logger

	chans   <-chan ssh.NewChannel
	reqs    <-chan *ssh.Request
	flushes chan chan struct{} // see drained

	draining chan struct{} // closed when the bastion has announced its end
	left     time.Duration // time until that end; valid once draining is closed
	idle     bool          // the bastion ends the connection because it was unused; valid once done is closed
	over     chan struct{} // closed once x/crypto/ssh has ended all channels
	done     chan struct{} // closed once only clean-up remains
	err      error         // why the connection ended; valid once done is closed

	mu       sync.Mutex
	cause    error         // why this end closed the connection, if it did
	finished bool          // no more goroutines may start
	dials    int           // goroutines that dial or serve a dialed connection
	served   chan struct{} // not nil once run waits for dials to become 0; closed then
	open     int           // connections and attempts to open one
	cut      bool          // a connection was released after the SSH connection was lost
	unused   chan struct{} // not nil once a goroutine waits for open to become 0; closed then
	wg       sync.WaitGroup
}

// handshake makes an SSH connection over t, bounded by ctx and timeout. If that fails, it closes t.Conn.
func handshake(ctx context.Context, t *Transport, timeout time.Duration, ka Keepalive, log *slog.Logger) (*client, error) {
	op := "open the SSH connection to " + t.Describe
	if t.HostKey == nil {
		_ = t.Conn.Close()
		return nil, Permanent(fail.New(fail.Other, op, errors.New("no host key to compare with"), ""))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout,
		fail.New(fail.Timeout, "", fmt.Errorf("no answer within %v", timeout), "try again, or allow more time"))
	defer cancel()

	w := newWire(t.Conn)
	// NewClientConn takes no context. It ends with its connection.
	stop := context.AfterFunc(ctx, func() { _ = w.Close() })
	// It does not learn of a write that fails later (see outbox), and would wait for the answer.
	var writes sync.WaitGroup
	over := make(chan struct{})
	writes.Go(func() {
		select {
		case <-w.broken:
			_ = w.Close()
		case <-over:
		}
	})
	in := logIn(w, t)
	var unconfirmed error
	if in.err == nil && t.Confirm != nil {
		unconfirmed = t.Confirm(ctx, in.conn)
	}
	close(over)
	writes.Wait()
	stop() // if ctx has just ended, the connection is lost already; run will find out
	if in.err == nil && unconfirmed == nil {
		return newClient(in, w, t.Describe, ka, log), nil
	}
	_ = w.Close()
	<-w.shut
	if unconfirmed != nil {
		discard(in.chans, in.reqs)
	}
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s: %w", op, context.Cause(ctx))
	case unconfirmed != nil:
		return nil, unconfirmed
	}
	return nil, in.failure(op, t, w)
}

// login is the result of x/crypto/ssh's handshake on a server's stream.
type login struct {
	conn  ssh.Conn
	chans <-chan ssh.NewChannel
	reqs  <-chan *ssh.Request

	keyErr error // why the client did not accept the server's key
	began  bool  // the client accepted the server's key, and offered its own
	err    error
}

func logIn(w *wire, t *Transport) (in login) {
	// The callbacks return before NewClientConn does, because the handshake waits for them.
	in.conn, in.chans, in.reqs, in.err = ssh.NewClientConn(w, t.Describe, &ssh.ClientConfig{
		User:              t.User,
		Auth:              t.Auth,
		HostKeyAlgorithms: t.HostKeyAlgorithms,
		ClientVersion:     clientVersion,
		HostKeyCallback: func(host string, remote net.Addr, key ssh.PublicKey) error {
			in.keyErr = t.HostKey(host, remote, key)
			return in.keyErr
		},
		AuthCallback: func(*ssh.ClientAuthContext) (ssh.AuthMethod, error) {
			in.began = true
			return nil, nil // the next of Auth
		},
		BannerCallback: func(text string) error {
			if t.Banner != nil {
				t.Banner(text)
			}
			return nil
		},
	})
	return in
}

// failure returns why a login failed.
func (in *login) failure(op string, t *Transport, w *wire) error {
	ended := t.ended()
	switch {
	case in.keyErr != nil:
		return Permanent(fail.New(fail.Denied, op, in.keyErr,
			"this is not the server that was expected: do not go on before you know why"))
	case ended != nil:
		return ended
	case in.began && w.watch.Err() == nil && !isClosed(w.broken):
		return &authError{fail.New(fail.Denied, op, errors.New("the bastion does not accept the key"),
			"the grant may have expired or the bastion been replaced: try again")}
	}
	return fail.New(fail.Lost, op, in.err, "")
}

// discard drains a closed connection that was never used. It returns once x/crypto/ssh has noticed the end.
func discard(chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request) {
	var queues sync.WaitGroup
	queues.Go(func() {
		for range chans {
		}
	})
	ssh.DiscardRequests(reqs)
	queues.Wait()
}

func newClient(in login, w *wire, describe string, ka Keepalive, log *slog.Logger) *client {
	c := &client{
		conn: in.conn, wire: w, describe: describe, keepalive: ka, log: log,
		chans: in.chans, reqs: in.reqs,
		flushes:  make(chan chan struct{}),
		draining: make(chan struct{}),
		over:     make(chan struct{}),
		done:     make(chan struct{}),
	}
	latch := c.latch
	w.lost.Store(&latch)
	return c
}

// authError says that the server refused the client's key.
type authError struct{ error }

func (e *authError) Unwrap() error { return e.error }

// run serves the connection. It returns once the connection and all its goroutines have ended.
func (c *client) run() {
	c.wg.Go(c.serveChannels)
	c.wg.Go(c.watch)
	c.serveRequests()
	close(c.over)

	// x/crypto/ssh has ended the channels and is about to end the connection.
	_ = c.wire.Close()
	ended := make(chan error, 1)
	go func() { ended <- c.conn.Wait() }()
	var err error
	grace := time.NewTimer(endGrace)
	select {
	case err = <-ended:
	case <-grace.C:
		err = errors.New("the bastion broke the SSH protocol")
	}
	grace.Stop()

	c.mu.Lock()
	c.err = c.cause
	if c.err == nil {
		c.err = fmt.Errorf("%w: %w", errLost, err)
	}
	c.finished = true
	c.mu.Unlock()
	close(c.done)
	<-c.wire.shut
	c.wg.Wait()
	c.awaitDials()
}

// latch makes x/crypto/ssh notice, by a write that fails, that it can no longer send, before its read tells it that the connection
// has ended. Otherwise an OpenChannel in between waits for ever: its write seems to succeed, but its channel is not among those
// that x/crypto/ssh ends. That can still happen if the connection ends inside SSH (by a disconnect message, say) or during a key
// exchange. There the gap is a few instructions wide; see awaitDials.
func (c *client) latch() {
	latched := make(chan struct{})
	if !c.spawn(func() {
		_, _, _ = c.conn.SendRequest("ended@bastion", false, nil)
		close(latched)
	}) {
		return
	}
	t := time.NewTimer(latchGrace) // writes may wait for a key exchange, which may wait for the caller
	defer t.Stop()
	select {
	case <-latched:
	case <-t.C:
	}
}

// awaitDials waits for the goroutines of dial. All end with the connection, unless one fell into the gap that latch describes:
// awaitDials gives that one up.
func (c *client) awaitDials() {
	c.mu.Lock()
	if c.dials == 0 {
		c.mu.Unlock()
		return
	}
	served := make(chan struct{})
	c.served = served
	c.mu.Unlock()
	t := time.NewTimer(endGrace)
	defer t.Stop()
	select {
	case <-served:
	case <-t.C:
		c.log.Warn("x/crypto/ssh does not give up opening a channel of an ended connection", "bastion", c.describe)
	}
}

// dialEnds counts a finished goroutine of dial.
func (c *client) dialEnds() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dials--; c.dials == 0 && c.served != nil {
		close(c.served)
		c.served = nil
	}
}

// close ends the connection with the given cause. It does not wait; run does the rest.
func (c *client) close(cause error) {
	c.mu.Lock()
	c.cause = cmp.Or(c.cause, cause)
	c.mu.Unlock()
	_ = c.wire.Close() // not conn.Close, which waits for x/crypto/ssh's goroutines; they end by themselves
}

// spawn runs f in a goroutine that run waits for, or returns false if run is about to return.
func (c *client) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.finished {
		return false
	}
	c.wg.Go(f)
	return true
}

// serveRequests handles the bastion's global requests until x/crypto/ssh has ended all channels.
func (c *client) serveRequests() {
	for {
		select {
		case r, ok := <-c.reqs:
			if !ok {
				return
			}
			c.handle(r)
		case flushed := <-c.flushes:
			for n := len(c.reqs); n > 0; n-- {
				if r, ok := <-c.reqs; ok {
					c.handle(r)
				}
			}
			close(flushed)
		}
	}
}

func (c *client) handle(r *ssh.Request) {
	if r.Type == drainRequest && !isClosed(c.draining) {
		c.left = drainTime(r.Payload)
		close(c.draining)
	}
	if r.Type == idleRequest {
		c.idle = true
	}
	_ = r.Reply(false, nil) // as OpenSSH answers keepalives; if this fails, the connection is ending
}

// drained reports whether the bastion announced its end before its latest answer. The mux of x/crypto/ssh queues the announcement
// before it passes on that answer, so drained only needs to handle the queue.
func (c *client) drained() bool {
	flushed := make(chan struct{})
	select {
	case c.flushes <- flushed:
		<-flushed
	case <-c.over:
	}
	return isClosed(c.draining)
}

// drainTime parses the payload of a drain request. An unreadable one means no time.
func drainTime(payload []byte) time.Duration {
	n, err := strconv.ParseUint(string(payload), 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}

// serveChannels refuses all channels that the bastion tries to open: the client never asks for one.
func (c *client) serveChannels() {
	for ch := range c.chans {
		_ = ch.Reject(ssh.Prohibited, "this client takes no channels")
	}
}

// watch ends the connection when its peer is dead. After an interval of silence it sends a keepalive request, and after MaxMissed
// more intervals it declares the peer dead. Any byte is a sign of life, because the answer itself may wait behind bulk data.
func (c *client) watch() {
	var tick <-chan time.Time
	if c.keepalive.Interval > 0 {
		t := time.NewTicker(c.keepalive.Interval)
		defer t.Stop()
		tick = t.C
	}
	answered := make(chan struct{}, 1)
	asking := false
	missed := 0
	seen := c.wire.received.Load()
	for {
		select {
		case <-c.over:
			return
		case <-c.wire.broken:
			c.close(fmt.Errorf("%w: it takes no more data", errLost))
			return
		case <-answered:
			asking = false
		case <-tick:
			if n := c.wire.received.Load(); n != seen {
				seen, missed = n, 0
				continue
			}
			if missed++; missed > c.keepalive.MaxMissed {
				c.close(fmt.Errorf("%w: %w for %v", errLost, errDeadPeer, time.Duration(missed)*c.keepalive.Interval))
				return
			}
			if !asking {
				asking = c.spawn(func() { // it may wait for the peer as long as the connection lives
					_, _, _ = c.conn.SendRequest("keepalive@openssh.com", true, nil)
					answered <- struct{}{}
				})
			}
		}
	}
}

// request sends a global request and waits for the answer.
func (c *client) request(ctx context.Context, name string, payload []byte) (bool, []byte, error) {
	type answer struct {
		ok      bool
		payload []byte
		err     error
	}
	answers := make(chan answer, 1)
	if !c.spawn(func() {
		ok, reply, err := c.conn.SendRequest(name, true, payload)
		answers <- answer{ok, reply, err}
	}) {
		return false, nil, errLost
	}
	select {
	case a := <-answers:
		if a.err != nil {
			return false, nil, errLost
		}
		return a.ok, a.payload, nil
	case <-ctx.Done():
		return false, nil, ctx.Err()
	}
}

// hold counts one more connection, or attempt to open one; release ends it.
func (c *client) hold() {
	c.mu.Lock()
	c.open++
	c.mu.Unlock()
}

func (c *client) release() {
	cut := c.wire.watch.Ended() || isClosed(c.wire.broken)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = c.cut || cut
	if c.open--; c.open == 0 && c.unused != nil {
		close(c.unused)
		c.unused = nil
	}
}

// lost returns the error of a stream that ended with the connection: errLost and, if known, the reason.
func (c *client) lost() error {
	c.mu.Lock()
	why := c.cause
	c.mu.Unlock()
	if why == nil {
		why = c.wire.watch.Err()
	}
	switch {
	case errors.Is(why, errLost):
		return why
	case isClosed(c.draining):
		return fmt.Errorf("%w: %w", errLost, errWentAway)
	case why == nil || errors.Is(why, io.EOF) || errors.Is(why, net.ErrClosed):
		return errLost
	}
	return fmt.Errorf("%w: %w", errLost, why)
}

func (c *client) inUse() bool { return c.channels() > 0 }

// wasInUse reports whether there are connections, or were when the SSH connection was lost: their users may have closed them since.
func (c *client) wasInUse() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open > 0 || c.cut
}

// channels returns the number of connections and of attempts to open one.
func (c *client) channels() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open
}

// dial opens a channel to host:port. The caller has called hold; the new connection, or the error, releases it.
func (c *client) dial(ctx context.Context, host string, port uint32) (*Conn, error) {
	payload := ssh.Marshal(&struct { // RFC 4254, section 7.2
		Host       string
		Port       uint32
		Originator string
		OriginPort uint32
	}{host, port, "127.0.0.1", 0})

	c.mu.Lock()
	if c.finished {
		c.mu.Unlock()
		c.release()
		return nil, errLost
	}
	c.dials++
	c.mu.Unlock()
	result := make(chan dialed)
	go func() {
		defer c.dialEnds()
		// OpenChannel takes no context: it may wait for the peer as long as the connection lives.
		ch, reqs, err := c.conn.OpenChannel("direct-tcpip", payload)
		var conn *Conn
		if err == nil {
			conn = newConn(ch, c, net.JoinHostPort(host, strconv.Itoa(int(port))))
		}
		select {
		case result <- dialed{conn, err}:
			if err != nil {
				c.release()
			}
		case <-ctx.Done(): // at the latest when the caller has returned
			if err != nil {
				c.release()
			} else {
				_ = conn.Close()
			}
		}
		if conn != nil {
			conn.serve(reqs)
		}
	}()
	select {
	case r := <-result:
		return r.conn, r.err
	case <-c.done:
		return nil, errLost
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// dialed is the result of a dial.
type dialed struct {
	conn *Conn
	err  error
}

// retire lets a draining bastion's connections finish, then ends the SSH connection. It does so when all of them have ended, when
// the bastion's time is up, or when ctx is done.
func (c *client) retire(ctx context.Context) {
	unused := make(chan struct{})
	c.mu.Lock()
	if c.open == 0 {
		close(unused)
	} else {
		c.unused = unused
	}
	c.mu.Unlock()
	timeUp := time.NewTimer(c.left + drainGrace)
	defer timeUp.Stop()
	select {
	case <-unused:
	case <-timeUp.C:
	case <-c.done:
	case <-ctx.Done():
	}
	c.close(errWentAway)
}
