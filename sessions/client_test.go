package sessions

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/sessions/transport"
)

var somePort = Port{Target: "i-0123456789abcdef0", Port: 2222}

// banner is a far end that speaks first, after a time.
func banner(after time.Duration) func(int) (net.Conn, error) {
	return func(int) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			wait(after)
			_, _ = far.Write([]byte("SSH-2.0-test\r\n"))
			_, _ = io.Copy(io.Discard, far)
		}()
		return near, nil
	}
}

func TestServerFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeService(t, fakeOptions{}, banner(2*time.Second))
		p := somePort
		p.ServerFirst = true
		start := time.Now()
		s, err := f.client(Config{}).OpenPort(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d < 2*time.Second {
			t.Errorf("open after %v, before the far end spoke", d)
		}
		got := make([]byte, 14)
		if _, err := io.ReadFull(s, got); err != nil || string(got) != "SSH-2.0-test\r\n" {
			t.Errorf("%q: %v", got, err)
		}
		s.Close()
		f.close()
		f.checkTerminated()
	})
}

// Nothing listens at the far port: a few sessions, each of which is terminated, and an error that says so.
func TestServerFirstSilent(t *testing.T) {
	closedPort := func(int) (net.Conn, error) { return nil, errors.New("connection refused") }
	for name, tc := range map[string]struct {
		opts  fakeOptions
		limit time.Duration
	}{
		"the service says that the agent has left": {fakeOptions{}, 5 * time.Second},
		"the service says nothing":                 {fakeOptions{noPause: true}, 16 * time.Second}, // 3 + 4.5 + 6.75, and the handshakes
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeService(t, tc.opts, closedPort)
				p := somePort
				p.ServerFirst = true
				start := time.Now()
				_, err := f.client(Config{}).OpenPort(t.Context(), p)
				if !errors.Is(err, ErrSilent) || fail.KindOf(err) != fail.Start || !strings.Contains(err.Error(), "port 2222") {
					t.Errorf("OpenPort: %v", err)
				}
				if d := time.Since(start); d > tc.limit {
					t.Errorf("after %v", d)
				}
				if f.count(&f.started) != 3 {
					t.Errorf("%d sessions", f.count(&f.started))
				}
				f.close()
				f.checkTerminated()
			})
		})
	}
}

// A session that came to nothing is replaced by another one.
func TestServerFirstSecondTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		speak := banner(0)
		f := newFakeService(t, fakeOptions{}, func(n int) (net.Conn, error) {
			if n == 0 {
				return nil, errors.New("connection refused")
			}
			return speak(n)
		})
		p := somePort
		p.ServerFirst = true
		s, err := f.client(Config{}).OpenPort(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if f.count(&f.started) != 2 {
			t.Errorf("%d sessions", f.count(&f.started))
		}
		s.Close()
		f.close()
		f.checkTerminated()
	})
}

// The agent announces the session before its connection stands: what it does not acknowledge then comes again.
func TestWriteBeforeTheFarEndStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		f := newFakeService(t, fakeOptions{}, func(int) (net.Conn, error) {
			wait(700 * time.Millisecond)
			return near, nil
		})
		s, err := f.client(Config{}).OpenPort(t.Context(), somePort)
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, s, far, noise(1, 20<<10), []byte("down"))
		if s.Stats().Resends == 0 {
			t.Error("nothing was sent again")
		}
		shut(s, far, f)
	})
}

// The agent may also acknowledge the first bytes and discard them; a caller whose far end speaks first cannot be hit.
func TestSwallowedFirstBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, far, f := func() (*Stream, net.Conn, *fakeService) {
			near, far := net.Pipe()
			f := newFakeService(t, fakeOptions{}, func(int) (net.Conn, error) { return near, nil })
			f.swallow = func(int) bool { return true }
			s, err := f.client(Config{}).OpenPort(t.Context(), somePort)
			if err != nil {
				t.Fatal(err)
			}
			return s, far, f
		}()
		if _, err := s.Write([]byte("lost")); err != nil {
			t.Error(err)
		}
		wait(time.Second)
		exchange(t, s, far, []byte("kept"), nil) // the fake does as told; no later retry repairs it
		shut(s, far, f)
	})
}

// Whenever the caller gives up, no session is left behind.
func TestCancelLeavesNothing(t *testing.T) {
	for _, after := range []time.Duration{0, 500 * time.Millisecond, time.Second, 1500 * time.Millisecond, 3 * time.Second} {
		t.Run(after.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeService(t, fakeOptions{}, func(int) (net.Conn, error) { return nil, errors.New("refused") })
				f.onStart = func(ctx context.Context) error { // the call takes a second
					select {
					case <-time.After(time.Second):
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				}
				ctx, cancel := context.WithTimeout(t.Context(), after)
				defer cancel()
				p := somePort
				p.ServerFirst = true
				start := time.Now()
				_, err := f.client(Config{}).OpenPort(ctx, p)
				if !errors.Is(err, context.DeadlineExceeded) || fail.KindOf(err) != fail.Timeout {
					t.Errorf("OpenPort: %v", err)
				}
				if d := time.Since(start); d > after+time.Second {
					t.Errorf("returned after %v", d)
				}
				if want := min(1, int(after)); (f.count(&f.started) > 0) != (want > 0) {
					t.Errorf("%d sessions", f.count(&f.started))
				}
				f.checkTerminated()
				f.close()
			})
		})
	}
}

// The caller gives up at the moment at which the session has been started.
func TestCancelAfterTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeService(t, fakeOptions{}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		f.onStart = func(context.Context) error { cancel(); return nil }
		if _, err := f.client(Config{}).OpenPort(ctx, somePort); !errors.Is(err, context.Canceled) {
			t.Errorf("OpenPort: %v", err)
		}
		if f.count(&f.started) != 1 || f.count(&f.dials) != 0 {
			t.Errorf("%d sessions, %d websockets", f.count(&f.started), f.count(&f.dials))
		}
		f.checkTerminated()
		f.close()
	})
}

// A StartSession that hangs does not hold the caller for ever.
func TestCancelWhileTheCallHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeService(t, fakeOptions{}, nil)
		f.onStart = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		start := time.Now()
		_, err := f.client(Config{}).OpenPort(ctx, somePort)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("OpenPort: %v", err)
		}
		if d := time.Since(start); d != time.Second+startGrace {
			t.Errorf("returned after %v", d)
		}
	})
}

func TestOpenErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeService(t, fakeOptions{}, nil)
		f.onStart = func(context.Context) error { return accessDenied() }
		_, err := f.client(Config{}).OpenPort(t.Context(), somePort)
		if fail.KindOf(err) != fail.Denied || !strings.Contains(fail.NextOf(err), "ssm:StartSession") {
			t.Errorf("denied: %v; next: %s", err, fail.NextOf(err))
		}
		f.onStart = func(context.Context) error { return &types.TargetNotConnected{} }
		_, err = f.client(Config{}).OpenPort(t.Context(), somePort)
		var not *types.TargetNotConnected
		if !errors.As(err, &not) || fail.KindOf(err) != fail.Start {
			t.Errorf("not connected: %v", err)
		}
	})
}

// The service ends the session while it is being opened, with a reason.
func TestClosedWhileOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f *fakeService
		f = newFakeService(t, fakeOptions{}, func(n int) (net.Conn, error) {
			f.session(n).end("Forwarding to IP address 169.254.169.254 is forbidden.")
			return nil, errors.New("forbidden")
		})
		p := somePort
		p.ServerFirst = true
		_, err := f.client(Config{}).OpenPort(t.Context(), p)
		var closed *ClosedError
		if !errors.As(err, &closed) || !strings.Contains(err.Error(), "is forbidden") || f.count(&f.started) != 1 {
			t.Errorf("OpenPort: %v after %d sessions", err, f.count(&f.started))
		}
		f.close()
		f.checkTerminated()
	})
}

// No agent ever answers.
func TestOpenTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeService(t, fakeOptions{exec: func(s *fakeSession) { <-s.done }}, nil)
		start := time.Now()
		_, err := f.client(Config{OpenTimeout: 10 * time.Second}).OpenPort(t.Context(), somePort)
		if err == nil || !strings.Contains(err.Error(), "did not answer within 10s") || time.Since(start) != 10*time.Second {
			t.Errorf("OpenPort: %v after %v", err, time.Since(start))
		}
		f.close()
		f.checkTerminated()
	})
}

// grantAPI answers StartSession with the given output.
type grantAPI struct {
	*fakeService
	out ssm.StartSessionOutput
	in  *ssm.StartSessionInput
}

func (g *grantAPI) StartSession(
	_ context.Context, in *ssm.StartSessionInput, _ ...func(*ssm.Options),
) (*ssm.StartSessionOutput, error) {
	g.in = in
	return &g.out, nil
}

func TestStreamURLs(t *testing.T) {
	for url, ok := range map[string]bool{
		"wss://ssmmessages.eu-central-1.amazonaws.com/v1/data-channel/s-1?role=publish_subscribe": true,
		"ws://127.0.0.1:8080/x":      true,
		"ws://127.9.9.9/x":           true,
		"ws://[::1]:8080/x":          true,
		"ws://localhost:8080/x":      true,
		"ws://192.0.2.1/x":           false,
		"ws://localhost.example/x":   false,
		"ws://127.0.0.1.example/x":   false,
		"ws://ssmmessages.example/x": false,
		"wss://":                     false,
		"http://127.0.0.1/x":         false,
		"https://example.com":        false,
		"//127.0.0.1/x":              false,
		"ws://[::1":                  false,
		"":                           false,
	} {
		if err := transport.CheckURL(url); ok != (err == nil) {
			t.Errorf("%s: %v", url, err)
		}
	}
	// A session whose URL is refused is terminated, and so is one without.
	for _, url := range []string{"ws://192.0.2.1/x", ""} {
		id, token := "s-1", "token"
		api := &grantAPI{fakeService: newFakeService(t, fakeOptions{}, nil)}
		api.out = ssm.StartSessionOutput{SessionId: &id, TokenValue: &token, StreamUrl: &url}
		if _, err := New(Config{SSM: api}).OpenPort(t.Context(), somePort); fail.KindOf(err) != fail.Start {
			t.Errorf("URL %q: %v", url, err)
		}
		if api.terminated[id] != 1 {
			t.Errorf("URL %q: terminated %d times", url, api.terminated[id])
		}
	}
}

func TestStartSessionInput(t *testing.T) {
	api := &grantAPI{fakeService: newFakeService(t, fakeOptions{}, nil)}
	c := New(Config{SSM: api})
	for _, p := range []Port{somePort, {Target: "mi-1", Port: 80, Document: DocumentPort, Reason: "because"}} {
		if _, err := c.OpenPort(t.Context(), p); err == nil {
			t.Fatal("no error from an answer without a session")
		}
		document := p.Document
		if document == "" {
			document = "AWS-StartSSHSession"
		}
		in := api.in
		if *in.Target != p.Target || *in.DocumentName != document || len(in.Parameters) != 1 ||
			fmt.Sprint(in.Parameters["portNumber"]) != fmt.Sprintf("[%d]", p.Port) || (in.Reason != nil) != (p.Reason != "") {
			t.Errorf("%+v", in)
		}
	}
}

// Many streams of one Client, at the same time.
func TestManyStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeService(t, fakeOptions{faults: faults{drop: .01}, interval: time.Millisecond}, func(int) (net.Conn, error) {
			near, far := net.Pipe()
			go func() { _, _ = io.Copy(far, far); far.Close() }()
			return near, nil
		})
		c := f.client(Config{})
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				s, err := c.OpenPort(t.Context(), somePort)
				if err != nil {
					t.Error(err)
					return
				}
				defer s.Close()
				exchange(t, s, s, noise(uint64(i), 20<<10), nil)
			})
		}
		wg.Wait()
		f.close()
		f.checkTerminated()
	})
}
