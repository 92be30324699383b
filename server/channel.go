package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/audit"
)

const (
	directTCPIP = "direct-tcpip"

	// copyBuffer is the size of the pieces in which the server sends a destination's data: one SSH packet. SSH sends one packet at
	// a time, and an answer on another channel waits for one or two of these. At the few MB/s of the sessions, a larger packet
	// would only lengthen that wait.
	copyBuffer = 8 << 10
	// closeLinger bounds how long data that a client sent before it closed a channel may take to reach the destination.
	closeLinger = 30 * time.Second
	// resetLinger bounds the wait for the last words of a destination that has refused more data.
	resetLinger = 5 * time.Second
)

// openDirect is the payload of a direct-tcpip channel's opening (RFC 4254, 7.2).
type openDirect struct {
	Host       string
	Port       uint32
	OriginHost string
	OriginPort uint32
}

// handleChannel answers a client's request for a channel, and serves the channel in a goroutine of work. It blocks only to write a
// refusal, because the connection's reader waits for it.
func (c *client) handleChannel(ctx context.Context, work *sync.WaitGroup, request ssh.NewChannel) {
	if request.ChannelType() != directTCPIP {
		const reason = "bastiond has no shell, commands, subsystems or other forwards: it opens direct-tcpip channels only"
		c.auditDenied(audit.Record{Request: request.ChannelType(), Reason: "channel type is never permitted"})
		_ = request.Reject(ssh.Prohibited, reason) // fails with the connection
		return
	}
	var open openDirect
	if err := ssh.Unmarshal(request.ExtraData(), &open); err != nil {
		c.auditDenied(audit.Record{Request: directTCPIP, Reason: "malformed request"})
		_ = request.Reject(ssh.Prohibited, "malformed direct-tcpip request")
		return
	}
	number, err := c.server.takeChannel(c)
	if err != nil {
		c.auditDenied(audit.Record{
			Request: directTCPIP, Destination: destination(open.Host, strconv.FormatUint(uint64(open.Port), 10)),
			Reason: err.Error(),
		})
		_ = request.Reject(ssh.ResourceShortage, err.Error())
		return
	}
	work.Go(func() {
		defer c.server.releaseChannel(c)
		c.serveDirect(ctx, number, request, open)
	})
}

var errDraining = errors.New("the bastion is stopping")

// takeChannel counts a new channel, if the limits allow one more.
func (s *Server) takeChannel(c *client) (number uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining:
		return 0, errDraining
	case c.open >= s.config.MaxChannelsPerConn:
		return 0, fmt.Errorf("this connection has %d channels open, as many as it may", c.open)
	case s.open >= s.config.MaxChannels:
		return 0, fmt.Errorf("the bastion has %d channels open, as many as it may", s.open)
	}
	c.open++
	s.open++
	s.channels++
	return s.channels, nil
}

func (s *Server) releaseChannel(c *client) {
	s.mu.Lock()
	c.open--
	s.open--
	c.unused = time.Now()
	s.mu.Unlock()
	s.notify()
}

// serveDirect serves one direct-tcpip channel until its end.
func (c *client) serveDirect(ctx context.Context, number uint64, request ssh.NewChannel, open openDirect) {
	began := time.Now()
	r := audit.Record{Channel: number, Destination: destination(open.Host, strconv.FormatUint(uint64(open.Port), 10))}
	dst, addr, err := c.connect(ctx, open)
	if addr.IsValid() {
		r.Address = addr.String()
	}
	if err != nil {
		message := "destination " + r.Destination + ": " + err.Error()
		r.Reason, r.DurationMS = err.Error(), since(began)
		if _, ok := errors.AsType[*deniedError](err); ok {
			r.Request = directTCPIP
			c.auditDenied(r)
			_ = request.Reject(ssh.Prohibited, auditText(message))
			return
		}
		r.Event, r.Result = audit.Connect, audit.Failed
		c.server.auditClient(c, r)
		_ = request.Reject(ssh.ConnectionFailed, auditText(message))
		return
	}
	defer func() { _ = dst.Close() }()

	r.Event, r.Result = audit.Connect, audit.OK
	c.server.auditClient(c, r)
	r.Event = audit.Close
	var up, down int64
	channel, requests, err := request.Accept()
	if err == nil {
		up, down, err = c.splice(channel, requests, dst)
	}
	if err != nil {
		r.Reason = err.Error()
		_, idle := errors.AsType[*idleError](err)
		if !idle && !errors.Is(err, errClientClosed) { // clients close at any time
			r.Result = audit.Failed
		}
	}
	r.BytesUp, r.BytesDown, r.DurationMS = &up, &down, since(began)
	c.server.auditClient(c, r)
}

// destination returns the client's destination, cut to a bounded length.
func destination(host, port string) string {
	if len(host) > maxEntryText {
		host = host[:maxEntryText] + "..."
	}
	return net.JoinHostPort(host, port)
}

// deniedError is a refusal by policy.
type deniedError struct{ reason string }

func (e *deniedError) Error() string { return e.reason }

// connect resolves the destination, checks each of its addresses, and dials the permitted ones in turn. It dials the checked
// address, never the name again. It returns the address that it dialed or refused last.
func (c *client) connect(ctx context.Context, open openDirect) (net.Conn, netip.AddrPort, error) {
	s := c.server
	if open.Port < 1 || open.Port > 65535 {
		return nil, netip.AddrPort{}, &deniedError{fmt.Sprintf("port %d is out of range", open.Port)}
	}
	port := uint16(open.Port)
	permit, err := s.permitOf(c)
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	name, addrs, err := s.addressesOf(ctx, open.Host, port, permit)
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	permitted := addrs[:0:0]
	var refusal error
	var refused netip.Addr
	for _, addr := range addrs {
		if err := s.checkAddress(name, addr, port, permit); err != nil {
			if refusal == nil {
				refusal, refused = err, addr
			}
			continue
		}
		permitted = append(permitted, addr)
	}
	if len(permitted) == 0 {
		return nil, netip.AddrPortFrom(refused, port), &deniedError{refusal.Error()}
	}

	ctx, cancel := context.WithTimeout(ctx, s.config.DialTimeout)
	defer cancel()
	var last netip.AddrPort
	for i, addr := range permitted {
		last = netip.AddrPortFrom(addr, port)
		var conn net.Conn
		if conn, err = s.dialShare(ctx, last, len(permitted)-i); err == nil {
			return conn, last, nil
		}
	}
	return nil, last, err
}

// permitOf returns the narrower list of c's grant, if the grant has one and has not ended.
func (s *Server) permitOf(c *client) (*Allow, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !c.slot.live(time.Now()) {
		return nil, &deniedError{errGrantExpired.Error()}
	}
	return c.slot.permit, nil
}

// addressesOf returns a host's unmapped addresses, and its canonical name, which is empty if host is an address.
func (s *Server) addressesOf(
	ctx context.Context, host string, port uint16, permit *Allow,
) (name string, addrs []netip.Addr, err error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return "", []netip.Addr{addr.Unmap()}, nil
	}
	if name, err = parseName(host); err != nil {
		return "", nil, &deniedError{err.Error()}
	}
	if !s.config.Allow.mayPermit(name, port) {
		return "", nil, &deniedError{errUnlisted.Error()}
	}
	if limit := s.config.Limit; limit != nil && !limit.mayPermit(name, port) {
		return "", nil, &deniedError{byImage(errUnlisted).Error()}
	}
	if permit != nil && !permit.mayPermit(name, port) {
		return "", nil, &deniedError{"the grant does not permit it"}
	}
	if addrs, err = s.resolve(ctx, name); err != nil {
		return "", nil, fmt.Errorf("cannot resolve the name: %w", err)
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return name, addrs, nil
}

// byImage says that a refusal is the image's own list's, which only another image widens. Otherwise it is BASTIOND_ALLOW's.
func byImage(refusal error) error { return fmt.Errorf("the image's own list: %w", refusal) }

// checkAddress applies the server's list, its limit and the grant's list: all of them must permit the address. Only the first two
// judge special addresses.
func (s *Server) checkAddress(name string, addr netip.Addr, port uint16, permit *Allow) error {
	if err := s.config.Allow.check(name, addr, port, s.resolvers); err != nil {
		return err
	}
	if s.config.Limit != nil {
		if err := s.config.Limit.check(name, addr, port, s.resolvers); err != nil {
			return byImage(err)
		}
	}
	if permit != nil && !permit.permits(name, addr, port) {
		return errors.New("the grant does not permit it")
	}
	return nil
}

// dialShare dials addr within its share of ctx's remaining time, as one of left addresses still to try.
func (s *Server) dialShare(ctx context.Context, addr netip.AddrPort, left int) (net.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok && left > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(left))
		defer cancel()
	}
	conn, err := s.config.Dial(ctx, "tcp", addr.String())
	if err != nil {
		return nil, fmt.Errorf("cannot connect: %w", cause(err))
	}
	return conn, nil
}

// Reasons for the early end of a channel.
var (
	errConnectionLost = errors.New("the client's connection ended")
	errClientClosed   = errors.New("closed by the client")
)

// splice copies both ways until both sides have ended, and closes the channel; the caller closes dst. It passes the end of one
// side's data on to the other, and the other direction goes on. When the client's connection ends, splice resets dst, so that the
// destination cannot take the data so far for the whole.
//
// Three goroutines take part. This one copies up, and ends when the client has ended or closed its side. Another copies down, and
// ends with dst's side. The third takes the channel's requests, and so notices when the channel is closed.
func (c *client) splice(channel ssh.Channel, requests <-chan *ssh.Request, dst net.Conn) (up, down int64, err error) {
	var closed, below, watching sync.WaitGroup
	var unhook func() bool
	carried := newActivity()
	if limit := c.server.config.IdleConn; limit > 0 {
		over := make(chan struct{})
		watching.Go(func() {
			if carried.idle(limit, over) {
				_ = dst.Close() // the copy down tells the client
			}
		})
		defer func() {
			close(over)
			watching.Wait()
			if carried.ended.Load() {
				err = &idleError{limit}
			}
		}()
	}
	closed.Go(func() {
		ssh.DiscardRequests(requests)
		// The client has closed the channel both ways, or has gone. Earlier data may still be on its way up; downwards the receiver
		// has gone.
		_ = dst.SetReadDeadline(time.Unix(1, 0))
		_ = dst.SetWriteDeadline(time.Now().Add(closeLinger))
		unhook = context.AfterFunc(c.server.halted, func() { _ = dst.SetWriteDeadline(time.Unix(1, 0)) })
	})
	var upErr, downErr error
	below.Go(func() { down, downErr = c.copyDown(channel, dst, carried) })

	var readErr, writeErr error
	up, readErr, writeErr = pump(dst, channel, carried)
	switch {
	case writeErr != nil:
		// The destination takes no more data. Its last words may be on their way down. After them the channel closes, and the
		// client's writes fail.
		upErr = fmt.Errorf("to the destination: %w", cause(writeErr))
		_ = dst.SetReadDeadline(time.Now().Add(resetLinger))
	case readErr != nil || !c.wire.watch.Alive():
		upErr = errConnectionLost
		reset(dst)
	default:
		halfClose(dst)
	}
	below.Wait()
	_ = channel.Close()
	closed.Wait()
	unhook()
	if upErr != nil {
		return up, down, upErr
	}
	return up, down, downErr
}

// copyDown copies dst's data to the client, and closes the channel, unless dst has only ended its own direction.
func (c *client) copyDown(channel ssh.Channel, dst net.Conn, carried *activity) (n int64, err error) {
	n, readErr, writeErr := pump(channel, dst, carried)
	switch {
	case carried.ended.Load():
		reason := (&idleError{c.server.config.IdleConn}).Error()
		_, _ = channel.SendRequest(RequestEnded, false, []byte(reason)) // fails with the connection, as the next does
		_ = channel.CloseWrite()
	case writeErr != nil:
		err = errClientClosed
	case readErr == nil:
		if channel.CloseWrite() == nil {
			return n, nil
		}
	case !isTimeout(readErr):
		err = fmt.Errorf("from the destination: %w", cause(readErr))
	}
	_ = channel.Close()
	return n, err
}

var buffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// pump copies until src ends, which is not an error, or until one of them fails.
func pump(dst io.Writer, src io.Reader, carried *activity) (n int64, readErr, writeErr error) {
	buffer := buffers.Get().(*[copyBuffer]byte) //nolint:forcetypeassert // the pool's New makes no other
	defer buffers.Put(buffer)
	for {
		got, err := src.Read(buffer[:])
		if got > 0 {
			carried.note()
			put, err := dst.Write(buffer[:got])
			carried.note() // the destination, or the client, may have taken its time
			n += int64(put)
			if err != nil {
				return n, nil, err
			}
		}
		if errors.Is(err, io.EOF) {
			return n, nil, nil
		}
		if err != nil {
			return n, err, nil
		}
	}
}

// halfClose ends the direction to conn.
func halfClose(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // fails if the peer has gone, as the copy down notices
	}
}

// reset closes conn so that the peer sees an error rather than an end.
func reset(conn net.Conn) {
	if tcp, ok := conn.(interface{ SetLinger(sec int) error }); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// cause strips the addresses from a network error, because the record has them.
func cause(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Err != nil {
		return op.Err
	}
	return err
}
