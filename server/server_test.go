package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/audit"
	"github.com/bastion-ssm/bastion/internal/printable"
)

// The life of one forwarded connection, with what the audit log says of it.
func TestForward(t *testing.T) {
	far := farEnd(t, echo)
	b := start(t, Config{Allow: allowOnly(t, far), Version: "v1"})
	p := b.grant(t)
	c := b.dial(t, p)
	conn := connect(t, c, far)
	roundTrip(t, conn, "hello")
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	closed := b.log.wait(t, audit.Close, 1)
	if closed.DurationMS == nil {
		t.Error("the close event has no duration")
	}
	_ = c.Close()
	disconnect := b.log.wait(t, audit.Disconnect, 1)

	if r := disconnect.Reason; r != "ended by the client" && !strings.HasPrefix(r, "lost: ") {
		t.Errorf("disconnect: %q", r) // which of the two depends on whether the client left something unread
	}

	records := b.log.records(t)
	id := records[1].Grant
	key := ssh.FingerprintSHA256(p.PublicKey())
	six := int64(6)
	identity := audit.Record{Result: audit.OK, Who: arn, Grant: id, Key: key, Conn: 1}
	with := func(r audit.Record, change func(*audit.Record)) audit.Record {
		change(&r)
		return r
	}
	want := []audit.Record{
		{
			Event: audit.Start, LifeS: 43200, Version: "v1", Listen: listenAddresses(b), Allow: []string{far},
			HostKey: ssh.FingerprintSHA256(b.HostKey()), NotAfter: records[0].NotAfter,
		},
		{Event: audit.Grant, Result: audit.OK, Who: arn, Grant: id, Key: key, NotAfter: records[1].NotAfter},
		with(identity, func(r *audit.Record) { r.Event, r.User, r.Client = audit.Auth, "ada", c.LocalAddr().String() }),
		with(identity, func(r *audit.Record) { r.Event, r.Channel, r.Destination, r.Address = audit.Connect, 1, far, far }),
		with(identity, func(r *audit.Record) {
			r.Event, r.Channel, r.Destination, r.Address = audit.Close, 1, far, far
			r.BytesUp, r.BytesDown, r.DurationMS = &six, &six, closed.DurationMS
		}),
		with(identity, func(r *audit.Record) {
			r.Event, r.Result, r.Reason, r.DurationMS = audit.Disconnect, "", disconnect.Reason, disconnect.DurationMS
		}),
	}
	if d := cmp.Diff(want, records, cmpopts.IgnoreFields(audit.Record{}, "Time")); d != "" {
		t.Error(d)
	}
	for _, r := range records {
		if _, err := time.Parse(time.RFC3339, r.Time); err != nil {
			t.Error(err)
		}
	}
}

func listenAddresses(b *bastion) []string {
	var s []string
	for _, l := range b.listeners {
		s = append(s, l.Addr().String())
	}
	return s
}

// Each direction ends by itself, and bytes sent before an end arrive.
func TestHalfClose(t *testing.T) {
	t.Run("client first", func(t *testing.T) {
		far := farEnd(t, func(conn *net.TCPConn) {
			all, err := io.ReadAll(conn) // to the client's end
			if err == nil {
				_, _ = conn.Write(bytes.ToUpper(all))
			}
		})
		b := start(t, Config{Allow: allowOnly(t, far)})
		conn := connect(t, b.dial(t, b.grant(t)), far)
		if _, err := io.WriteString(conn, "question"); err != nil {
			t.Fatal(err)
		}
		if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); err != nil || string(got) != "QUESTION" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("destination first", func(t *testing.T) {
		got := make(chan string, 1)
		far := farEnd(t, func(conn *net.TCPConn) {
			_, _ = io.WriteString(conn, "greeting")
			_ = conn.CloseWrite()
			all, _ := io.ReadAll(conn)
			got <- string(all)
		})
		b := start(t, Config{Allow: allowOnly(t, far)})
		conn := connect(t, b.dial(t, b.grant(t)), far)
		if all, err := io.ReadAll(conn); err != nil || string(all) != "greeting" {
			t.Fatalf("%q, %v", all, err)
		}
		if _, err := io.WriteString(conn, "late answer"); err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		if s := <-got; s != "late answer" {
			t.Errorf("the destination got %q", s)
		}
	})
}

// A client that closes a channel need not wait for what it sent to be delivered.
func TestCloseDeliversWhatWasSent(t *testing.T) {
	const size = 1 << 20 // fits into the channel's window and not into the sockets' buffers alone
	begin := make(chan struct{})
	got := make(chan int64, 1)
	far := farEnd(t, func(conn *net.TCPConn) {
		<-begin
		n, err := io.Copy(io.Discard, conn)
		if err != nil {
			t.Errorf("the destination saw %v", err)
		}
		got <- n
	})
	b := start(t, Config{Allow: allowOnly(t, far)})
	conn := connect(t, b.dial(t, b.grant(t)), far)
	if _, err := conn.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	close(begin)
	if n := <-got; n != size {
		t.Errorf("%d of %d bytes were delivered", n, size)
	}
	if r := b.log.wait(t, audit.Close, 1); *r.BytesUp != size {
		t.Errorf("the audit log counts %d bytes", *r.BytesUp)
	}
}

// A connection that is lost must not look to the destination like one that ended.
func TestLostConnectionResetsDestination(t *testing.T) {
	result := make(chan error, 1)
	ready := make(chan struct{})
	far := farEnd(t, func(conn *net.TCPConn) {
		var b [1]byte
		_, _ = io.ReadFull(conn, b[:])
		close(ready)
		_, err := conn.Read(b[:])
		result <- err
	})
	b := start(t, Config{Allow: allowOnly(t, far)})
	p := b.grant(t)
	raw, err := net.Dial("tcp", b.listeners[0].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	sc, chans, requests, err := ssh.NewClientConn(raw, "bastion", b.clientConfig(p))
	if err != nil {
		t.Fatal(err)
	}
	c := ssh.NewClient(sc, chans, requests)
	conn := connect(t, c, far)
	if _, err := conn.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	<-ready
	_ = raw.Close()
	if err := <-result; err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the destination read %v, want a reset", err)
	}
	if r := b.log.wait(t, audit.Close, 1); r.Result != audit.Failed || r.Reason != errConnectionLost.Error() {
		t.Errorf("%+v", r)
	}
	_ = c.Wait()
}

// A destination that stops taking data can still say why.
func TestDestinationStopsReading(t *testing.T) {
	far := farEnd(t, func(conn *net.TCPConn) {
		var b [1]byte
		_, _ = io.ReadFull(conn, b[:])
		_, _ = io.WriteString(conn, "too much\n")
		_ = conn.CloseRead()
	})
	b := start(t, Config{Allow: allowOnly(t, far)})
	conn := connect(t, b.dial(t, b.grant(t)), far)
	var sender sync.WaitGroup
	sender.Go(func() { _, _ = conn.Write(make([]byte, 16<<20)) })
	got, _ := io.ReadAll(conn)
	if string(got) != "too much\n" {
		t.Errorf("got %q", got)
	}
	_ = conn.Close()
	sender.Wait()
	b.log.wait(t, audit.Close, 1)
}

// A destination that does not read must not delay the end: the server does not wait for its remaining bytes.
func TestCloseWhileDestinationTakesNothing(t *testing.T) {
	release := make(chan struct{})
	far := farEnd(t, func(*net.TCPConn) { <-release })
	defer close(release)
	b := start(t, Config{Allow: allowOnly(t, far)})
	conn := connect(t, b.dial(t, b.grant(t)), far)
	full := make(chan struct{})
	var once sync.Once
	var sender sync.WaitGroup
	sender.Go(func() {
		// More than the sockets' buffers and the channel's window take.
		for chunk := make([]byte, 1<<20); ; {
			stuck := time.AfterFunc(time.Second, func() { once.Do(func() { close(full) }) })
			_, err := conn.Write(chunk)
			if stuck.Stop(); err != nil {
				return
			}
		}
	})
	<-full
	began := time.Now()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > closeLinger/2 {
		t.Errorf("Close took %v", took)
	}
	sender.Wait()
}

// A silent destination must not keep a channel that its client has closed.
func TestClientClosesWhileDestinationIsSilent(t *testing.T) {
	ended := make(chan error, 1)
	release := make(chan struct{})
	defer close(release)
	far := farEnd(t, func(conn *net.TCPConn) {
		_, err := conn.Read(make([]byte, 1))
		ended <- err
		<-release
	})
	b := start(t, Config{Allow: allowOnly(t, far)})
	conn := connect(t, b.dial(t, b.grant(t)), far)
	_ = conn.Close()
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("the destination read %v, want the end", err)
	}
	if r := b.log.wait(t, audit.Close, 1); r.Result != audit.OK {
		t.Errorf("%+v", r)
	}
	if h := b.health(); h.Connections != 1 {
		t.Errorf("%+v", h)
	}
}

func TestManyChannelsIntact(t *testing.T) {
	far, err := rig.StartFarEnd("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	b := start(t, Config{Allow: allowOnly(t, far.Addr())})
	c := b.dial(t, b.grant(t))
	var work sync.WaitGroup
	for range 200 {
		work.Go(func() {
			conn, err := c.Dial("tcp", far.Addr())
			if err == nil {
				err = rig.Both(t.Context(), conn, 100_000)
				_ = conn.Close()
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	b.log.wait(t, audit.Close, 200)
	if h := b.health(); h.Channels != 0 {
		t.Errorf("%d channels are still counted", h.Channels)
	}
}

func TestLargeTransferIntact(t *testing.T) {
	far, err := rig.StartFarEnd("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	b := start(t, Config{Allow: allowOnly(t, far.Addr())})
	conn := connect(t, b.dial(t, b.grant(t)), far.Addr())
	if err := rig.Both(t.Context(), conn, 32<<20); err != nil {
		t.Error(err)
	}
}

func TestListensOnBothLoopbacks(t *testing.T) {
	b := start(t, Config{})
	p := b.grant(t)
	if len(b.listeners) != 2 && hasLoopback6() {
		t.Fatalf("%d listeners", len(b.listeners))
	}
	for _, l := range b.listeners {
		if portOf(l) != b.Port() {
			t.Errorf("port %d, want %d", portOf(l), b.Port())
		}
		c, err := ssh.Dial("tcp", l.Addr().String(), b.clientConfig(p))
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
}

func TestListen(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", "localhost:0"} {
		s, err := New(Config{Listen: address})
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		_ = s.Close()
		if err := s.Run(t.Context()); err == nil {
			t.Error("a closed server runs")
		}
	}
	for _, address := range []string{
		":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:0", "[2001:db8::1]:0", "example.com:0", "LOCALHOST:0",
		"[::ffff:127.0.0.1]:0", "*:0",
		"127.0.0.1", "127.0.0.1:http", "127.0.0.1:65536", "127.0.0.1:-1", "[fe80::1%lo]:0",
	} {
		s, err := New(Config{Listen: address})
		if _, ok := errors.AsType[*ConfigError](err); !ok {
			t.Errorf("%q: error %v, want a *ConfigError", address, err)
		}
		if err == nil {
			_ = s.Close()
		}
	}
	s, err := New(Config{Listen: "localhost:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = New(Config{Listen: net.JoinHostPort("localhost", strings.Split(s.listeners[0].Addr().String(), ":")[1])})
	var config *ConfigError
	if err == nil || errors.As(err, &config) {
		t.Errorf("a port in use: %v", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, config := range map[string]Config{
		"life within drain":  {MaxLife: time.Second},
		"negative limit":     {DialTimeout: -1},
		"negative maximum":   {MaxConns: -1},
		"resolver by name":   {Resolver: "dns:53"},
		"resolver sans port": {Resolver: "10.0.0.2"},
	} {
		config.Listen = "localhost:0"
		s, err := New(config)
		if _, ok := errors.AsType[*ConfigError](err); !ok {
			t.Errorf("%s: error %v, want a *ConfigError", name, err)
		}
		if err == nil {
			_ = s.Close()
		}
	}
}

func TestInfo(t *testing.T) {
	b := start(t, Config{Version: "v7", IdleStop: time.Minute})
	c := b.dial(t, b.grant(t))
	ok, payload, err := c.SendRequest(RequestInfo, true, nil)
	if err != nil || !ok {
		t.Fatalf("%v, %v", ok, err)
	}
	var info Info
	if err := json.Unmarshal(payload, &info); err != nil {
		t.Fatal(err)
	}
	grant := b.log.wait(t, audit.Grant, 1)
	want := Info{
		Version: "v7", Ports: InfoPorts{SSH: b.Port()}, IdleStop: 60, ExpiresAt: b.expiresAt.UTC(), Grant: grant.Grant,
		NotAfter: info.NotAfter,
	}
	if d := cmp.Diff(want, info, cmpopts.EquateApproxTime(time.Millisecond)); d != "" ||
		stamp(info.NotAfter) != grant.NotAfter {
		t.Error(d)
	}
	if ok, _, err := c.SendRequest(requestKeepalive, true, nil); err != nil || !ok {
		t.Errorf("keepalive: %v, %v", ok, err)
	}
	if ok, _, err := c.SendRequest("unheard-of@example.org", true, nil); err != nil || ok {
		t.Errorf("unknown request: %v, %v", ok, err)
	}
}

func TestBounds(t *testing.T) {
	far := farEnd(t, echo)
	t.Run("channels of a connection", func(t *testing.T) {
		b := start(t, Config{Allow: allowOnly(t, far), MaxChannelsPerConn: 2})
		c := b.dial(t, b.grant(t))
		first := connect(t, c, far)
		connect(t, c, far)
		wantRefused(t, c, far, ssh.ResourceShortage, "this connection has 2 channels open")
		if r := b.log.wait(t, audit.Denied, 1); r.Destination != far || !strings.Contains(r.Reason, "2 channels") {
			t.Errorf("%+v", r)
		}
		_ = first.Close()
		b.log.wait(t, audit.Close, 1)
		until(t, func() error { // a channel that has ended leaves its place a moment later
			conn, err := c.Dial("tcp", far)
			if err == nil {
				t.Cleanup(func() { _ = conn.Close() })
			}
			return err
		})
		connect(t, b.dial(t, b.grant(t)), far)
	})
	t.Run("channels of all", func(t *testing.T) {
		b := start(t, Config{Allow: allowOnly(t, far), MaxChannels: 2})
		p := b.grant(t)
		connect(t, b.dial(t, p), far)
		c := b.dial(t, p)
		connect(t, c, far)
		wantRefused(t, c, far, ssh.ResourceShortage, "the bastion has 2 channels open")
	})
	t.Run("connections", func(t *testing.T) {
		b := start(t, Config{MaxConns: 2})
		p := b.grant(t)
		c := b.dial(t, p)
		idle, err := net.Dial("tcp", b.listeners[0].Addr().String()) // counts before it has authenticated
		if err != nil {
			t.Fatal(err)
		}
		defer idle.Close()
		if _, err := idle.Read(make([]byte, 1)); err != nil { // the banner: it is counted now
			t.Fatal(err)
		}
		if _, err := ssh.Dial("tcp", b.listeners[0].Addr().String(), b.clientConfig(p)); err == nil {
			t.Error("a third connection was accepted")
		}
		if r := b.log.wait(t, audit.AuthRefused, 1); !strings.Contains(r.Reason, "2 connections") {
			t.Errorf("%+v", r)
		}
		_ = c.Close()
		b.log.wait(t, audit.Disconnect, 1)
		until(t, func() error { // as channels do
			c, err := ssh.Dial("tcp", b.listeners[0].Addr().String(), b.clientConfig(p))
			if err == nil {
				_ = c.Close()
			}
			return err
		})
	})
	t.Run("authentication tries", func(t *testing.T) {
		b := start(t, Config{})
		var signers []ssh.Signer
		for range maxAuthTries + 1 {
			signers = append(signers, pair(t).Signer())
		}
		config := b.clientConfig(b.grant(t))
		config.Auth = []ssh.AuthMethod{ssh.PublicKeys(append(signers, b.grant(t).Signer())...)}
		if _, err := ssh.Dial("tcp", b.listeners[0].Addr().String(), config); err == nil {
			t.Error("the client had as many tries as it wished")
		}
		b.log.wait(t, audit.AuthRefused, maxAuthTries-1)
		if n := b.log.count(t, audit.Auth); n != 0 {
			t.Errorf("%d connections were accepted", n)
		}
	})
}

// until tries again until it succeeds.
func until(t *testing.T, try func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// wantRefused wants a channel to be refused with a reason and a message.
func wantRefused(t testing.TB, c *ssh.Client, address string, reason ssh.RejectionReason, message string) {
	t.Helper()
	conn, err := c.Dial("tcp", address)
	if err == nil {
		_ = conn.Close()
	}
	var refused *ssh.OpenChannelError
	if !errors.As(err, &refused) || refused.Reason != reason || !strings.Contains(refused.Message, message) {
		t.Errorf("%s: %v, want a refusal (%v) that says %q", address, err, reason, message)
	}
}

type failingWriter struct{ after int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.after--; w.after < 0 {
		return 0, errors.New("disk full")
	}
	return len(p), nil
}

// What cannot be audited does not go on.
func TestAuditFailureStops(t *testing.T) {
	far := farEnd(t, echo)
	s, err := New(Config{Listen: "localhost:0", Allow: allowOnly(t, far), Audit: &failingWriter{after: 3}})
	if err != nil {
		t.Fatal(err)
	}
	b := &bastion{Server: s, log: newAuditLog()}
	done := make(chan error, 1)
	go func() { done <- s.Run(context.Background()) }()
	c := b.dial(t, b.grant(t)) // start, grant, auth
	if conn, err := c.Dial("tcp", far); err == nil {
		_, err = conn.Read(make([]byte, 1))
		if err == nil {
			t.Error("an unaudited connection goes on")
		}
	}
	if err := <-done; err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("Run: %v", err)
	}
}

// No field of a record, whoever says it, can draw on a terminal that shows the log; fields that are lists stay exact.
func TestAuditIsPrintable(t *testing.T) {
	const hostile = "x\x1b[2J\u009b\u202e\u200b\u2028\n\xff"
	var out strings.Builder
	a := &auditor{w: &out, failed: func(err error) { t.Error(err) }}
	a.write(audit.Record{Event: hostile, Who: hostile, Reason: hostile, Destination: hostile, Permit: []string{hostile}, Allow: []string{hostile}})
	if line := strings.TrimSuffix(out.String(), "\n"); printable.Line(line) != line || !utf8.ValidString(line) {
		t.Errorf("%q", line)
	}
	var got audit.Record
	if err := json.Unmarshal([]byte(out.String()), &got); err != nil || got.Permit[0] != strings.ToValidUTF8(hostile, "\ufffd") {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAuditText(t *testing.T) {
	for in, want := range map[string]string{
		"plain":              "plain",
		"caf\u00e9":          "caf\u00e9",
		"a\x1b[2J\r\nb":      "a\ufffd[2J\ufffd\ufffdb",
		"\x9b31m\xff":        "\ufffd31m\ufffd",
		"\u009b\u202e\u200b": "\ufffd\ufffd\ufffd",
	} {
		if got := auditText(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	for _, in := range []string{strings.Repeat("a", 5000), strings.Repeat("\u20ac", 2000), strings.Repeat("\xe2", 5000)} {
		if got := auditText(in); len(got) > 4*maxAuditText || !strings.HasSuffix(got, "...") {
			t.Errorf("%d bytes become %d", len(in), len(got))
		}
	}
}
