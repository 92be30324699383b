package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// memEcho is a destination for bubbles: an echo in memory.
func memEcho(wg *sync.WaitGroup) func(context.Context, string) (net.Conn, error) {
	return func(context.Context, string) (net.Conn, error) {
		near, far := memPipe()
		wg.Go(func() {
			_, _ = io.Copy(far, far)
			_ = far.Close()
		})
		return near, nil
	}
}

// bubble runs f in a synctest bubble with a bastion whose every destination is an echo, and stops the bastion at the end.
func bubble(t *testing.T, f func(t *testing.T, b *bastion)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBastion(t)
		b.dial = memEcho(&b.wg)
		f(t, b)
	})
}

// soon returns a context for what should not take long: 30 s, fake ones in a bubble, lest a failure be a hang.
func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// advance lets the bubble's time pass.
func advance(d time.Duration) { <-time.After(d) }

// phases records the states of a Link.
type phases struct {
	mu  sync.Mutex
	all []State
}

func (p *phases) add(s State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, s)
}

// list returns the phases without repetitions.
func (p *phases) list() []Phase {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Phase
	for _, s := range p.all {
		out = append(out, s.Phase)
	}
	return slices.Compact(out)
}

func TestLinkReconnectsAndHoldsDials(t *testing.T) {
	bubble(t, func(t *testing.T, b *bastion) {
		var seen phases
		l := readyLink(t, b, LinkConfig{OnState: seen.add})
		first, err := l.Dial(t.Context(), "tcp", "db:5432")
		if err != nil {
			t.Fatal(err)
		}
		mustEcho(t, first, "before")

		back := make(chan struct{})
		b.connect = func(context.Context) error { <-back; return nil }
		b.session(0).near.cut()
		if _, err := first.Read(make([]byte, 1)); !errors.Is(err, errLost) {
			t.Errorf("read of a connection whose link was cut: %v, want %v", err, errLost)
		}
		_ = first.Close()

		held := make(chan error, 1)
		go func() {
			c, err := l.Dial(t.Context(), "tcp", "db:5432")
			if err == nil {
				mustEcho(t, c, "after")
				err = c.Close()
			}
			held <- err
		}()
		synctest.Wait()
		select {
		case err := <-held:
			t.Fatal("the dial did not wait for the link:", err)
		default:
		}
		if got := l.State().Phase; got != Reconnecting {
			t.Errorf("phase %s, want %s", got, Reconnecting)
		}
		close(back)
		if err := <-held; err != nil {
			t.Error("held dial:", err)
		}
		_ = l.Close()
		want := []Phase{Connecting, Up, Reconnecting, Up, Down}
		if got := seen.list(); !slices.Equal(got, want) {
			t.Errorf("phases %v, want %v", got, want)
		}
		if err := l.Err(); err != nil {
			t.Error("Err after Close:", err)
		}
	})
}

func TestLinkBacksOff(t *testing.T) {
	bubble(t, func(t *testing.T, b *bastion) {
		var attempts []time.Time
		b.connect = func(context.Context) error {
			attempts = append(attempts, time.Now())
			if len(attempts) < 12 {
				return errors.New("no network")
			}
			return nil
		}
		var seen phases
		l := startLink(t, b, LinkConfig{BackoffMin: time.Second, BackoffMax: 30 * time.Second, OnState: seen.add})
		if err := l.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
		full := time.Second
		for i := 1; i < len(attempts); i++ {
			got := attempts[i].Sub(attempts[i-1])
			low, high := full/2, full
			if i == 1 {
				low, high = 0, time.Second/2
			} else {
				full = min(2*full, 30*time.Second)
			}
			if got < low || got > high+1 {
				t.Errorf("wait %d was %v, want between %v and %v", i, got, low, high)
			}
		}
		failing := 0
		for _, s := range seen.all {
			if s.Phase != Connecting {
				continue
			}
			if s.Retry > 0 {
				failing++
				if s.Attempt != failing || s.Err == nil {
					t.Errorf("state %+v, want attempt %d with an error", s, failing)
				}
			}
		}
		if failing != 11 {
			t.Errorf("%d failures shown, want 11", failing)
		}
	})
}

// A connection that is lost soon after it was made does not end the back-off; one that has lasted does.
func TestLinkBacksOffWhileFlapping(t *testing.T) {
	bubble(t, func(t *testing.T, b *bastion) {
		ups := make(chan time.Time, 1)
		startLink(t, b, LinkConfig{BackoffMin: time.Second, BackoffMax: 8 * time.Second, OnState: func(s State) {
			if s.Phase == Up {
				ups <- time.Now()
			}
		}})
		<-ups
		lose := func() time.Duration {
			lost := time.Now()
			b.session(b.count() - 1).near.cut()
			return (<-ups).Sub(lost)
		}
		for _, full := range []time.Duration{time.Second / 2, 1 * time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second} {
			low := full / 2
			if full < time.Second {
				low = 0
			}
			if d := lose(); d < low || d > full+1 {
				t.Errorf("reconnected after %v, want between %v and %v", d, low, full)
			}
		}
		advance(8 * time.Second)
		if d := lose(); d > time.Second/2 {
			t.Errorf("reconnected after %v, want soon: the connection had lasted", d)
		}
	})
}

func TestLinkNoticesDeadPeer(t *testing.T) {
	bubble(t, func(t *testing.T, b *bastion) {
		l := readyLink(t, b, LinkConfig{Keepalive: Keepalive{Interval: 10 * time.Second, MaxMissed: 2}})
		c, err := l.Dial(t.Context(), "tcp", "db:5432")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()

		advance(10 * time.Minute) // a healthy idle link stays
		if n := b.count(); n != 1 {
			t.Fatalf("%d SSH connections, want 1", n)
		}
		b.mu.Lock()
		if n := len(b.requests); n < 20 || n > 61 {
			t.Errorf("%d keepalive requests in 10 minutes at one per 10 s of silence", n)
		}
		b.mu.Unlock()

		b.session(0).near.blackhole()
		began := time.Now()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, errLost) {
			t.Errorf("read: %v, want %v", err, errLost)
		}
		if d := time.Since(began); d < 20*time.Second || d > 40*time.Second {
			t.Errorf("death noticed after %v, want 3 intervals of 10 s or a little more", d)
		}
		advance(time.Second)
		if n := b.count(); n != 2 {
			t.Errorf("%d SSH connections, want a second one", n)
		}
	})
}

// A transport that notices a dead peer by itself can turn the Link's keepalive off.
func TestLinkKeepaliveOfTheTransport(t *testing.T) {
	bubble(t, func(t *testing.T, b *bastion) {
		c := ConnectorFunc(func(ctx context.Context) (*Transport, error) {
			tr, err := b.Connect(ctx)
			if tr != nil {
				tr.Keepalive = Keepalive{Interval: -1}
			}
			return tr, err
		})
		l := readyLink(t, c, LinkConfig{})
		b.session(0).near.blackhole()
		advance(time.Hour)
		if phase, n := l.State().Phase, b.count(); phase != Up || n != 1 {
			t.Errorf("phase %s after %d connections, want %s after 1", phase, n, Up)
		}
	})
}

func TestLinkHandshakeTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var transports []*memConn
		attempts := 0
		connect := ConnectorFunc(func(context.Context) (*Transport, error) {
			if attempts++; attempts > 2 {
				return nil, Permanent(errors.New("enough"))
			}
			near, far := memPipe() // nobody answers
			transports = append(transports, far)
			return &Transport{Conn: near, Describe: "silent", HostKey: ssh.InsecureIgnoreHostKey()}, nil
		})
		var seen phases
		l := startLink(t, connect, LinkConfig{ConnectTimeout: 7 * time.Second, OnState: seen.add})
		began := time.Now()
		err := l.Ready(soon(t))
		if err == nil || !strings.Contains(err.Error(), "enough") {
			t.Fatal(err)
		}
		if d := time.Since(began); d < 14*time.Second || d > 16*time.Second {
			t.Errorf("two attempts took %v, want 7 s each and a short wait", d)
		}
		_ = l.Close()
		for i, far := range transports {
			if _, err := io.Copy(io.Discard, far); err != nil { // the version line, then the end
				t.Errorf("transport %d was not closed: %v", i, err)
			}
		}
		timeouts := slices.ContainsFunc(seen.all, func(s State) bool { return fail.KindOf(s.Err) == fail.Timeout })
		if !timeouts {
			t.Error("no state tells of a timeout")
		}
	})
}

func TestLinkRefusesWrongHostKey(t *testing.T) {
	b := newBastion(t)
	b.pinned = newSigner(t).PublicKey()
	l := startLink(t, b, LinkConfig{})
	err := l.Ready(soon(t))
	if err == nil || fail.KindOf(err) != fail.Denied || !strings.Contains(err.Error(), "host key mismatch") {
		t.Errorf("Ready: %v, want a denial that names the host key", err)
	}
	<-l.Done()
	if err := l.Err(); err == nil {
		t.Error("Err is nil")
	}
	if _, err := l.Dial(t.Context(), "tcp", "db:5432"); fail.KindOf(err) != fail.Lost {
		t.Errorf("Dial: %v, want kind Lost", err)
	}
	if n := b.count(); n != 1 {
		t.Errorf("%d attempts, want 1", n)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.auths != 0 {
		t.Error("the client tried to log in to a server with the wrong host key")
	}
}

func TestLinkGivesUpRejectedKey(t *testing.T) {
	t.Run("at once", func(t *testing.T) {
		bubble(t, func(t *testing.T, b *bastion) {
			l := startLink(t, ConnectorFunc(func(ctx context.Context) (*Transport, error) {
				tr, err := b.Connect(ctx)
				tr.Auth = []ssh.AuthMethod{ssh.PublicKeys(newSigner(t))}
				return tr, err
			}), LinkConfig{})
			if err := l.Ready(soon(t)); fail.KindOf(err) != fail.Denied {
				t.Errorf("Ready: %v, want kind Denied", err)
			}
			if n := b.count(); n != 1 {
				t.Errorf("%d attempts, want 1", n)
			}
		})
	})
	t.Run("but not the first time after it was accepted", func(t *testing.T) {
		bubble(t, func(t *testing.T, b *bastion) {
			good := ssh.PublicKeys(b.user)
			bad := ssh.PublicKeys(newSigner(t))
			keys := []ssh.AuthMethod{good, bad, good, bad, bad}
			l := readyLink(t, ConnectorFunc(func(ctx context.Context) (*Transport, error) {
				tr, err := b.Connect(ctx)
				tr.Auth = keys[:1]
				keys = keys[1:]
				return tr, err
			}), LinkConfig{})
			b.session(0).near.cut()
			advance(time.Minute)
			if got := l.State().Phase; got != Up || b.count() != 3 {
				t.Fatalf("phase %s after %d attempts, want %s after 3", got, b.count(), Up)
			}
			b.session(2).near.cut()
			<-l.Done()
			if err := l.Err(); fail.KindOf(err) != fail.Denied || b.count() != 5 {
				t.Errorf("Err: %v after %d attempts, want kind Denied after 5", err, b.count())
			}
		})
	})
}

func TestLinkPermanentErrors(t *testing.T) {
	plain := errors.New("no route")
	for _, tc := range []struct {
		name     string
		err      error
		attempts int // 0: goes on
	}{
		{"marked", Permanent(plain), 1},
		{"usage", fail.New(fail.Usage, "op", plain, ""), 1},
		{"no target", fail.New(fail.NoTarget, "op", plain, ""), 1},
		{"denied", fail.New(fail.Denied, "op", plain, ""), 1},
		{"no credentials at the start", fail.New(fail.Credentials, "op", plain, ""), 1},
		{"start", fail.New(fail.Start, "op", plain, ""), 0},
		{"plain", plain, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				attempts := 0
				l := startLink(t, ConnectorFunc(func(context.Context) (*Transport, error) {
					attempts++
					return nil, tc.err
				}), LinkConfig{})
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				err := l.Ready(ctx)
				_ = l.Close()
				if !errors.Is(err, plain) {
					t.Errorf("Ready: %v, want %v in the chain", err, plain)
				}
				if tc.attempts == 0 {
					if attempts < 100 || !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("gave up after %d attempts: %v", attempts, err)
					}
				} else if attempts != tc.attempts {
					t.Errorf("%d attempts, want %d", attempts, tc.attempts)
				}
			})
		})
	}
}

func TestLinkBoundsHeldDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startLink(t, ConnectorFunc(func(ctx context.Context) (*Transport, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}), LinkConfig{HoldMax: 2, HoldTimeout: 40 * time.Second})
		type result struct {
			err  error
			took time.Duration
		}
		results := make(chan result, 3)
		began := time.Now()
		dial := func(ctx context.Context) {
			_, err := l.Dial(ctx, "tcp", "db:5432")
			results <- result{err, time.Since(began)}
		}
		short, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		go dial(short)
		go dial(t.Context())
		synctest.Wait()
		dial(t.Context()) // one too many
		for i, want := range []struct {
			kind fail.Kind
			took time.Duration
		}{{fail.Lost, 0}, {fail.Timeout, 5 * time.Second}, {fail.Lost, 40 * time.Second}} {
			r := <-results
			if fail.KindOf(r.err) != want.kind || r.took != want.took {
				t.Errorf("dial %d ended after %v: %v; want kind %d after %v", i, r.took, r.err, want.kind, want.took)
			}
		}
		// The places are free again.
		go dial(t.Context())
		synctest.Wait()
		_ = l.Close()
		if r := <-results; !errors.Is(r.err, errLinkClosed) {
			t.Errorf("dial of a link that is closed: %v", r.err)
		}
	})
}

func TestLinkDialTimeoutAndCancel(t *testing.T) {
	bubble(t, func(t *testing.T, b *bastion) {
		l := readyLink(t, b, LinkConfig{DialTimeout: 9 * time.Second})
		answer := make(chan struct{})
		echo := b.dial
		b.dial = func(ctx context.Context, addr string) (net.Conn, error) {
			<-answer
			return echo(ctx, addr)
		}
		began := time.Now()
		if _, err := l.Dial(t.Context(), "tcp", "db:5432"); fail.KindOf(err) != fail.Timeout || time.Since(began) != 9*time.Second {
			t.Errorf("dial ended after %v: %v; want a timeout after 9 s", time.Since(began), err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := l.Dial(ctx, "tcp", "db:5432"); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled dial: %v", err)
		}
		// The late answers open channels that nobody wants: they are closed, so that the bastion's side ends.
		close(answer)
		synctest.Wait()
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.current.inUse() {
			t.Error("an abandoned channel was not closed")
		}
	})
}

func TestLinkMapsRefusals(t *testing.T) {
	for _, tc := range []struct {
		err  *ssh.OpenChannelError
		kind fail.Kind
		text string
	}{
		{
			&ssh.OpenChannelError{Reason: ssh.Prohibited, Message: "db:5432 is not on the allow-list"}, fail.Denied,
			"open a connection to db:5432: the bastion refused it: db:5432 is not on the allow-list",
		},
		{
			&ssh.OpenChannelError{Reason: ssh.ConnectionFailed, Message: "connection refused"}, fail.Other,
			"open a connection to db:5432: the bastion could not connect: connection refused",
		},
		{
			&ssh.OpenChannelError{Reason: ssh.ResourceShortage}, fail.Other,
			"open a connection to db:5432: the bastion refused it (resource shortage)",
		},
		{
			&ssh.OpenChannelError{Reason: ssh.UnknownChannelType, Message: "\x1b[2Jno\n" + strings.Repeat("x", 1000)}, fail.Other,
			"open a connection to db:5432: the bastion refused it: ?[2Jno?" + strings.Repeat("x", 293) + "...",
		},
	} {
		t.Run(tc.err.Reason.String(), func(t *testing.T) {
			b := newBastion(t)
			b.dial = func(context.Context, string) (net.Conn, error) { return nil, tc.err }
			l := readyLink(t, b, LinkConfig{})
			_, err := l.Dial(t.Context(), "tcp", "db:5432")
			if fail.KindOf(err) != tc.kind || err.Error() != tc.text || fail.NextOf(err) == "" {
				t.Errorf("kind %d, %q, next %q; want kind %d, %q", fail.KindOf(err), err, fail.NextOf(err), tc.kind, tc.text)
			}
			var r *RefusedError
			if !errors.As(err, &r) || r.Reason != tc.err.Reason {
				t.Errorf("no RefusedError with reason %v in %v", tc.err.Reason, err)
			}
		})
	}
}

func TestLinkRejectsBadDestinations(t *testing.T) {
	l := NewLink(nil, LinkConfig{})
	defer l.Close()
	for _, addr := range []string{"", "db", "db:", ":5432", "db:0", "db:65536", "db:pg", "::1:5432"} {
		if _, err := l.Dial(t.Context(), "tcp", addr); fail.KindOf(err) != fail.Usage {
			t.Errorf("Dial(%q): %v, want kind Usage", addr, err)
		}
	}
	if _, err := l.Dial(t.Context(), "udp", "db:53"); fail.KindOf(err) != fail.Usage {
		t.Errorf("Dial over udp: %v, want kind Usage", err)
	}
}

func TestLinkDrainsMakeBeforeBreak(t *testing.T) {
	bubble(t, func(t *testing.T, b *bastion) {
		var replaced []string
		b.connect = func(ctx context.Context) error {
			describe, _ := Replacing(ctx)
			replaced = append(replaced, describe)
			return nil
		}
		var seen phases
		l := readyLink(t, b, LinkConfig{OnState: seen.add})
		old, err := l.Dial(t.Context(), "tcp", "old:1")
		if err != nil {
			t.Fatal(err)
		}
		mustEcho(t, old, "one")

		b.drain(t, 0, "25")
		advance(time.Second)
		fresh, err := l.Dial(t.Context(), "tcp", "new:2")
		if err != nil {
			t.Fatal(err)
		}
		defer fresh.Close()
		mustEcho(t, old, "two") // still there
		mustEcho(t, fresh, "three")
		if a, c := b.dialed(0), b.dialed(1); !slices.Equal(a, []string{"old:1"}) || !slices.Equal(c, []string{"new:2"}) {
			t.Errorf("dialed %v on the old connection and %v on the new one", a, c)
		}
		if isClosed(b.session(0).ended) {
			t.Error("the old SSH connection ended while it was in use")
		}
		_ = old.Close()
		synctest.Wait()
		if !isClosed(b.session(0).ended) {
			t.Error("the old SSH connection goes on though nobody uses it")
		}
		mustEcho(t, fresh, "four")
		_ = l.Close()
		if want := []string{"", "bastion-1"}; !slices.Equal(replaced, want) {
			t.Errorf("Replacing said %q, want %q", replaced, want)
		}
		if got, want := seen.list(), []Phase{Connecting, Up, Draining, Up, Down}; !slices.Equal(got, want) {
			t.Errorf("phases %v, want %v", got, want)
		}
	})
}

func TestLinkDrainDeadline(t *testing.T) {
	for payload, left := range map[string]time.Duration{"25": 25 * time.Second, "": 0, "soon": 0, "-1": 0, "99999999999": 0} {
		bubble(t, func(t *testing.T, b *bastion) {
			l := readyLink(t, b, LinkConfig{Keepalive: Keepalive{Interval: -1}})
			old, err := l.Dial(t.Context(), "tcp", "old:1")
			if err != nil {
				t.Fatal(err)
			}
			defer old.Close()
			began := time.Now()
			b.drain(t, 0, payload)
			if _, err := old.Read(make([]byte, 1)); !errors.Is(err, errLost) {
				t.Error("read:", err)
			}
			if d := time.Since(began); d != left+drainGrace {
				t.Errorf("%q: the old connection ended after %v, want %v", payload, d, left+drainGrace)
			}
		})
	}
}

// A bastion that stops because nobody uses it must stay stopped until somebody does, however quickly it goes.
func TestLinkDrainUnusedWaitsForDemand(t *testing.T) {
	for name, leave := range map[string]func(*bastion){
		"stays": func(*bastion) {},
		"goes":  func(b *bastion) { _ = b.session(0).conn(t).Close() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bastion) {
				l := readyLink(t, b, LinkConfig{})
				c, err := l.Dial(t.Context(), "tcp", "db:5432")
				if err != nil {
					t.Fatal(err)
				}
				_ = c.Close()
				synctest.Wait()
				b.drain(t, 0, "25")
				leave(b)
				advance(time.Hour)
				if n, phase := b.count(), l.State().Phase; n != 1 || phase != Idle {
					t.Fatalf("%d connections and phase %s, want 1 and %s", n, phase, Idle)
				}
				c, err = l.Dial(t.Context(), "tcp", "db:5432")
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				mustEcho(t, c, "back")
				if n := b.count(); n != 2 {
					t.Errorf("%d connections, want 2", n)
				}
			})
		})
	}
}

// A draining bastion takes no new connections; its announcement and the refusal may cross the client's dial.
func TestLinkRetriesDialRefusedByDrain(t *testing.T) {
	bubble(t, func(t *testing.T, b *bastion) {
		l := readyLink(t, b, LinkConfig{})
		echo := b.dial
		b.dial = func(ctx context.Context, addr string) (net.Conn, error) {
			if b.count() == 1 {
				b.drain(t, 0, "25")
				return nil, &ssh.OpenChannelError{Reason: ssh.Prohibited, Message: "draining"}
			}
			return echo(ctx, addr)
		}
		c, err := l.Dial(t.Context(), "tcp", "db:5432")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		mustEcho(t, c, "hello")
	})
}

// A dial that is under way when the link is lost goes on with the next connection.
func TestLinkRetriesDialLostWithLink(t *testing.T) {
	bubble(t, func(t *testing.T, b *bastion) {
		l := readyLink(t, b, LinkConfig{})
		echo := b.dial
		b.dial = func(ctx context.Context, addr string) (net.Conn, error) {
			if b.count() == 1 {
				b.session(0).near.cut()
				return nil, errors.New("too late")
			}
			return echo(ctx, addr)
		}
		c, err := l.Dial(t.Context(), "tcp", "db:5432")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		mustEcho(t, c, "hello")
	})
}

// However a dial and the loss of the connection meet, the dial goes on with the next one, and nothing stays behind.
func TestLinkDialsWhileLinkIsLost(t *testing.T) {
	b := newBastion(t)
	b.dial = memEcho(&b.wg)
	l := readyLink(t, b, LinkConfig{BackoffMin: time.Microsecond, BackoffMax: time.Microsecond})
	var wg sync.WaitGroup
	stop := make(chan struct{})
	dialed := make(chan error)
	for range 8 {
		wg.Go(func() {
			for {
				c, err := l.Dial(t.Context(), "tcp", "db:5432")
				if err == nil {
					_ = c.Close()
				}
				select {
				case dialed <- err:
				case <-stop:
					return
				}
			}
		})
	}
	for range 30 {
		for range 10 {
			if err := <-dialed; err != nil {
				t.Error(err)
			}
		}
		b.session(b.count() - 1).near.cut()
	}
	close(stop)
	wg.Wait()
	closed := make(chan struct{})
	go func() {
		_ = l.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(20 * time.Second):
		t.Error("the link does not close")
	}
}

// x/crypto/ssh notes a failed write and reads on. A transport that only its writes tell is dead must end the connection.
func TestLinkEndsAtFailedWrite(t *testing.T) {
	bubble(t, func(t *testing.T, b *bastion) {
		l := readyLink(t, b, LinkConfig{Keepalive: Keepalive{Interval: -1}})
		c, err := l.Dial(t.Context(), "tcp", "db:5432")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		out := b.session(0).near.out
		out.update(func() { out.writeErr = syscall.EPIPE })
		_, _ = c.Write([]byte("x"))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, errLost) {
			t.Error("read:", err)
		}
		advance(time.Second)
		if n := b.count(); n != 2 {
			t.Errorf("%d connections, want 2", n)
		}
	})
}

func TestLinkRequest(t *testing.T) {
	b := newBastion(t)
	l := startLink(t, b, LinkConfig{})
	if err := l.Ready(soon(t)); err != nil {
		t.Fatal(err)
	}
	ok, reply, err := l.Request(t.Context(), "info@bastion", nil)
	if err != nil || !ok || string(reply) != "{}" {
		t.Errorf("info: %v %q %v", ok, reply, err)
	}
	ok, _, err = l.Request(t.Context(), "other@bastion", nil)
	if err != nil || ok {
		t.Errorf("other: %v %v", ok, err)
	}
	_ = l.Close()
	if _, _, err := l.Request(t.Context(), "info@bastion", nil); fail.KindOf(err) != fail.Lost {
		t.Errorf("request of a closed link: %v", err)
	}
}

func TestLinkCloseWithoutStart(t *testing.T) {
	l := NewLink(nil, LinkConfig{})
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	<-l.Done()
	if err := l.Ready(soon(t)); !errors.Is(err, errLinkClosed) {
		t.Errorf("Ready: %v", err)
	}
}

// The announcement of a drain that came before a refusal counts, even if nobody has looked at it yet.
func TestClientDrainedSeesQueuedRequests(t *testing.T) {
	for range 30 {
		near, _ := memPipe()
		reqs := make(chan *ssh.Request, 16)
		w := newWire(near)
		c := newClient(login{reqs: reqs}, w, "b", Keepalive{}, testLog(t))
		served := make(chan struct{})
		go func() {
			c.serveRequests()
			close(served)
		}()
		reqs <- &ssh.Request{Type: "other"}
		reqs <- &ssh.Request{Type: drainRequest, Payload: []byte("1")}
		if !c.drained() {
			t.Fatal("the announcement was overlooked")
		}
		close(reqs)
		<-served
		_ = w.Close()
		<-w.shut
	}
}

// stuckConn is an SSH connection whose calls do not end. x/crypto/ssh has such calls after a peer's breach of the protocol, and for
// a channel opened at the very moment of the end.
type stuckConn struct {
	ssh.Conn
	release chan struct{}
}

func (c *stuckConn) Wait() error { <-c.release; return nil }

func (c *stuckConn) OpenChannel(string, []byte) (ssh.Channel, <-chan *ssh.Request, error) {
	<-c.release
	return nil, nil, io.EOF
}

func TestClientEndsThoughSSHDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, _ := memPipe()
		reqs := make(chan *ssh.Request)
		chans := make(chan ssh.NewChannel)
		stuck := &stuckConn{release: make(chan struct{})}
		defer close(stuck.release)
		c := newClient(login{conn: stuck, chans: chans, reqs: reqs}, newWire(near), "stuck", Keepalive{Interval: time.Second}, testLog(t))
		dialed := make(chan error, 1)
		go func() {
			c.hold()
			_, err := c.dial(t.Context(), "db", 5432)
			dialed <- err
		}()
		synctest.Wait()
		close(chans)
		close(reqs)
		began := time.Now()
		c.run()
		if d := time.Since(began); d != 2*endGrace || c.err == nil {
			t.Errorf("ended after %v: %v; want %v for each and an error", d, c.err, endGrace)
		}
		if err := <-dialed; !errors.Is(err, errLost) {
			t.Errorf("dial: %v, want %v", err, errLost)
		}
	})
}

// latchingConn notes when its first request is sent.
type latchingConn struct {
	ssh.Conn
	wire    *wire
	refused error // the transport's answer to a write at that time
}

func (c *latchingConn) SendRequest(string, bool, []byte) (bool, []byte, error) {
	_, c.refused = c.wire.Write([]byte("x"))
	return false, nil, nil
}

func TestClientLatchesTheEndBeforeReadReturns(t *testing.T) {
	near, _ := memPipe()
	conn := &latchingConn{wire: newWire(near)}
	c := newClient(login{conn: conn}, conn.wire, "b", Keepalive{}, testLog(t))
	near.in.fail(errors.New("transport cut")) // only reads fail
	if _, err := conn.wire.Read(make([]byte, 1)); err == nil {
		t.Fatal("no error")
	}
	if !errors.Is(conn.refused, net.ErrClosed) {
		t.Errorf("a write before the failing Read has returned: %v, want %v", conn.refused, net.ErrClosed)
	}
	<-conn.wire.shut
	c.wg.Wait()
}

// A bastion that ends the connection for want of use is not connected to again before somebody wants something.
func TestLinkEndedForWantOfUse(t *testing.T) {
	bubble(t, func(t *testing.T, b *bastion) {
		l := readyLink(t, b, LinkConfig{})
		s := b.session(0)
		if _, _, err := s.conn(t).SendRequest(idleRequest, false, nil); err != nil {
			t.Fatal(err)
		}
		_ = s.conn(t).Close()
		advance(time.Hour)
		if got, n := l.State().Phase, b.count(); got != Idle || n != 1 {
			t.Errorf("phase %s after %d connections", got, n)
		}
		c, err := l.Dial(t.Context(), "tcp", "db:5432")
		if err != nil {
			t.Fatal(err)
		}
		mustEcho(t, c, "again")
		_ = c.Close()
	})
}
