package gateway

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/xtaci/smux"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

const (
	sessionTypePort = "Port"
	// A client of this version or newer gets smux inside the stream. From the second version on, smux has no keepalives.
	smuxSince          = "1.1.70"
	smuxKeepAliveUntil = "1.2.331.0"
)

// result is the agent's end of a session.
type result struct {
	output  string // for channel_closed
	crashed bool   // the agent vanished; the service notices later
	orderly bool   // the agent told the service before it closed its connection
}

// runPort is the agent's port plugin.
func (a *agent) runPort() result {
	version, err := a.handshake(sessionTypePort, a.portProperties())
	if err != nil {
		return handshakeFailure(err)
	}
	// From now on the client believes that it may send, but nothing is dialed yet. The real agent acknowledges and discards data
	// from before it has recorded its own HandshakeComplete. (Here it does so only if a fault says so, and then until it dials.) It
	// does not acknowledge data from before the dial.
	f := a.faults.Load()
	unsafe := time.Duration(f.DialDelayMS) * time.Millisecond
	if a.discards && unsafe == 0 {
		unsafe = discardWindow
	}
	if !sleep(a.done, unsafe) {
		return result{}
	}
	a.accept(nil)
	if f.NoDial {
		<-a.done
		return result{}
	}
	addrs, err := a.forwardAddrs()
	if err != nil {
		return result{output: err.Error()}
	}
	dial := func(ctx context.Context) (net.Conn, error) { return a.dial(ctx, addrs) }
	forward := a.spec.Document != DocSSH
	if forward && compareVersions(version, smuxSince) >= 0 {
		return a.runMux(dial, compareVersions(version, smuxKeepAliveUntil) > 0)
	}
	return a.runBasic(dial, forward)
}

// chunkSize is the most that the agent's pump reads at once, in bytes.
const chunkSize = 1024

// discardWindow is the default time until an agent that discards the first data dials.
const discardWindow = 20 * time.Millisecond

// errorHeading precedes the agent's own errors in channel_closed.
const errorHeading = "\n----------ERROR-------\n"

// agentError is an error in the real agent's words, which reach the user in channel_closed.
type agentError string

func (e agentError) Error() string { return string(e) }

func handshakeFailure(err error) result {
	return result{output: errorHeading + "Encountered error while initiating handshake. " + err.Error()}
}

// portProperties returns the session's properties for the handshake.
func (a *agent) portProperties() map[string]string {
	p := map[string]string{}
	maps.Copy(p, a.spec.Parameters)
	p["portNumber"] = strconv.Itoa(a.spec.Port)
	if a.spec.Document == DocSSH {
		return p
	}
	p["type"] = "LocalPortForwarding"
	p["localPortNumber"] = cmp.Or(p["localPortNumber"], "0")
	if a.spec.Host != "" {
		p["host"] = a.spec.Host
	}
	return p
}

// forwardAddrs returns the addresses to dial, in order. It checks those of a remote host against the denied ones.
func (a *agent) forwardAddrs() ([]string, error) {
	port := strconv.Itoa(a.spec.Port)
	host := a.spec.Host
	if host == "" {
		return []string{net.JoinHostPort("localhost", port)}, nil
	}
	hosts := []string{host}
	if net.ParseIP(host) == nil && a.cfg.LookupHost != nil {
		ctx, cancel := context.WithTimeout(a.ctx, 10*time.Second)
		defer cancel()
		found, err := a.cfg.LookupHost(ctx, host)
		if err != nil {
			a.log.Debug("agent: lookup failed", "host", host, "err", err)
		}
		hosts = found
	}
	addrs := make([]string, 0, len(hosts))
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil && a.cfg.Denied(ip) {
			return nil, agentError("Forwarding to IP address " + host + " is forbidden.")
		}
		addrs = append(addrs, net.JoinHostPort(h, port))
	}
	return addrs, nil
}

// deniedIPs are the addresses to which the agent never forwards for DocPortRemote: metadata, resolver, time and licence services.
var deniedIPs = map[string]bool{
	"169.254.169.254": true, "fd00:ec2::254": true, "169.254.169.253": true, "fd00:ec2::253": true,
	"169.254.169.123": true, "fd00:ec2::123": true, "169.254.169.250": true, "169.254.169.251": true, "fd00:ec2::240": true,
}

func denied(ip net.IP) bool { return deniedIPs[ip.String()] }

// dial connects to the first address that answers; the error is the first address's.
func (a *agent) dial(ctx context.Context, addrs []string) (net.Conn, error) {
	first := errors.New("missing address")
	for i, addr := range addrs {
		conn, err := a.spec.Dial(ctx, "tcp", addr)
		if err == nil {
			return conn, nil
		}
		if i == 0 {
			first = err
		}
	}
	return nil, first
}

// pump reads from r, sends, and sleeps. This pace caps every session's downloads. A message costs that much processor time. pump returns
// the error of r or send, or errDone when ctx ends. Closing r ends a read.
func (a *agent) pump(ctx context.Context, r io.Reader, cost time.Duration, send func([]byte) error) error {
	var buf []byte
	garble := draws{salt: a.down.draws.salt}
	pause := time.NewTimer(0) // one for all pauses: there are a thousand a second
	defer pause.Stop()
	for {
		if !a.waitActive(ctx.Done()) {
			return errDone
		}
		chunk, interval := a.pace()
		if len(buf) != chunk {
			buf = make([]byte, chunk)
		}
		n, err := r.Read(buf)
		if n > 0 {
			data := buf[:n]
			if a.isPort() {
				data = garble.garbled(a.faults.Load(), data)
			}
			if err := send(data); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
		if a.faults.Load().PumpIntervalUS == 0 {
			interval += a.output.beside(cost)
		}
		if interval <= 0 {
			continue
		}
		pause.Reset(interval)
		select {
		case <-pause.C:
		case <-ctx.Done():
			return errDone
		}
	}
}

// pace returns how much the pump reads at once and how long it then sleeps.
func (a *agent) pace() (chunk int, interval time.Duration) {
	f := a.faults.Load()
	return cmp.Or(f.PumpChunk, chunkSize), cmp.Or(time.Duration(f.PumpIntervalUS)*time.Microsecond, a.cfg.Interval)
}

func (a *agent) sendOutput(p []byte) error { return a.send(frame.PayloadOutput, p) }

type dialFunc func(context.Context) (net.Conn, error)

// flagOf returns the value of a message with payload type Flag.
func flagOf(m *frame.Message) frame.StreamFlag {
	if len(m.Payload) < 4 {
		return 0
	}
	return frame.StreamFlag(binary.BigEndian.Uint32(m.Payload))
}

// basicPort is a raw stream to one connection at a time.
type basicPort struct {
	a       *agent
	ctx     context.Context // of the plugin; cancel ends it
	cancel  context.CancelFunc
	dial    dialFunc
	forward bool // the far end's EOF does not end the session: the next data dials again

	mu       sync.Mutex
	conn     net.Conn
	hungUp   bool       // the far end has gone, and the pump waits for redialed
	redialed chan error // capacity 1
}

func (a *agent) runBasic(dial dialFunc, forward bool) result {
	conn, err := dial(a.ctx)
	if err != nil {
		// Instead of reporting this, the real agent's worker crashes, because it closes a connection that it does not have.
		a.log.Debug("agent: worker crashes on a failed dial", "err", err)
		return result{crashed: true}
	}
	p := &basicPort{a: a, dial: dial, forward: forward, conn: conn, redialed: make(chan error, 1)}
	p.ctx, p.cancel = context.WithCancel(a.ctx)
	a.port.Store(p)
	a.accept(p.handle) // whoever sees output may send input
	pumped := make(chan struct{})
	go func() {
		defer close(pumped)
		defer p.cancel()
		p.pump()
	}()
	<-p.ctx.Done() // the far end has gone, the client has asked for the end, or the session is over
	a.accept(nil)
	p.hangUp()
	<-pumped
	a.flush()
	return result{}
}

// hangUp closes the connection, which ends its reads and writes.
func (p *basicPort) hangUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.conn.Close()
}

// reset resets the connection, as when the host between loses it. That ends the pump.
func (p *basicPort) reset() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := tcpOf(p.conn)
	if !ok || c.SetLinger(0) != nil { // closed already
		return false
	}
	return c.Close() == nil
}

// pump sends the far end's data until the session should end.
func (p *basicPort) pump() {
	for {
		p.mu.Lock()
		conn := p.conn
		p.mu.Unlock()
		err := p.a.pump(p.ctx, conn, costOutput, p.a.sendOutput)
		if errors.Is(err, errDone) || !p.forward {
			return
		}
		p.mu.Lock()
		_ = p.conn.Close()
		p.hungUp = true
		p.mu.Unlock()
		select {
		case err := <-p.redialed:
			if err != nil {
				return
			}
		case <-p.ctx.Done():
			return
		}
	}
}

// handle takes in a message for the port. The agent's receive loop calls it. A write that the far end does not take stops the loop,
// as in the real agent.
func (p *basicPort) handle(m *frame.Message) error {
	switch m.PayloadType {
	case frame.PayloadOutput:
		conn, err := p.connection()
		if err != nil {
			return err
		}
		return p.a.writePort(conn, m.Payload)
	case frame.PayloadFlag:
		switch flagOf(m) {
		case frame.DisconnectToPort:
			p.hangUp()
		case frame.TerminateSession:
			p.cancel()
		}
	}
	return nil
}

// connection returns the connection for data, a new one after the far end has hung up.
func (p *basicPort) connection() (net.Conn, error) {
	p.mu.Lock()
	conn, hungUp := p.conn, p.hungUp
	p.mu.Unlock()
	if !hungUp {
		return conn, nil
	}
	conn, err := p.dial(p.ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil && p.ctx.Err() != nil {
		_ = conn.Close()
		err = errDone
	}
	p.redialed <- err // the pump takes one per hang-up, and only this goroutine sends
	if err != nil {
		return nil, err
	}
	p.conn, p.hungUp = conn, false
	return conn, nil
}

// muxPort is a stream of smux; each stream in it is a connection to the port.
type muxPort struct {
	a      *agent
	ctx    context.Context
	cancel context.CancelFunc
	dial   dialFunc
	smux   *smux.Session
	inner  *pipeEnd // the data channel's end of the pipe to smux
	wg     sync.WaitGroup
}

func (a *agent) runMux(dial dialFunc, noKeepAlive bool) result {
	inner, outer := duplex()
	cfg := smux.DefaultConfig()
	cfg.KeepAliveDisabled = noKeepAlive
	session, err := smux.Server(outer, cfg)
	if err != nil {
		return result{output: err.Error()}
	}
	p := &muxPort{a: a, dial: dial, smux: session, inner: inner}
	p.ctx, p.cancel = context.WithCancel(a.ctx)
	a.accept(p.handle)
	p.wg.Go(func() {
		defer p.cancel()
		_ = a.pump(p.ctx, inner, costOutput+costMux, a.sendOutput)
	})
	p.wg.Go(func() {
		defer p.cancel()
		p.accept()
	})
	<-p.ctx.Done()
	a.accept(nil)
	_ = inner.Close()
	_ = session.Close() // closes outer
	p.wg.Wait()
	a.flush()
	return result{}
}

// handle takes in a message for the port. The agent's receive loop calls it.
func (p *muxPort) handle(m *frame.Message) error {
	switch m.PayloadType {
	case frame.PayloadOutput:
		return p.a.writePort(p.inner, m.Payload)
	case frame.PayloadFlag:
		if flagOf(m) == frame.TerminateSession {
			p.cancel()
		}
	}
	return nil
}

// accept serves the client's connections. It dials each before it accepts the next, as the real agent does.
func (p *muxPort) accept() {
	for {
		stream, err := p.smux.AcceptStream()
		if err != nil {
			return
		}
		conn, err := p.dial(p.ctx)
		if err != nil {
			p.a.log.Debug("agent: dial failed", "err", err)
			_ = p.a.send(frame.PayloadFlag, binary.BigEndian.AppendUint32(nil, uint32(frame.ConnectToPortError)))
			_ = stream.Close()
			continue
		}
		p.wg.Go(func() { p.splice(stream, conn) })
	}
}

// splice closes the other side at each EOF, as the real agent does: smux v1 has no half-close.
func (p *muxPort) splice(stream *smux.Stream, conn net.Conn) {
	stop := context.AfterFunc(p.ctx, func() { _ = conn.Close() })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(stream, conn)
		_ = stream.Close()
	})
	_, _ = io.Copy(conn, stream)
	_ = conn.Close()
	wg.Wait()
}

// compareVersions compares dotted numbers. Missing parts and parts that are not numbers count as 0.
func compareVersions(a, b string) int {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(x), len(y)) {
		var m, n int
		if i < len(x) {
			m, _ = strconv.Atoi(x[i])
		}
		if i < len(y) {
			n, _ = strconv.Atoi(y[i])
		}
		if m != n {
			return m - n
		}
	}
	return 0
}
