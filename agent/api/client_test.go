package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/private"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shortDir returns a directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "a")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// agentOn serves a made-up agent on ln until the test ends.
func agentOn(t *testing.T, ln net.Listener, h http.HandlerFunc) {
	t.Helper()
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(ln) })
	t.Cleanup(func() {
		_ = server.Close()
		served.Wait()
	})
}

// clientOf returns a client of a made-up agent on a real socket.
func clientOf(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	path := filepath.Join(shortDir(t), "s.sock")
	ln, err := private.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	agentOn(t, ln, h)
	return NewClient(path)
}

// saying is an agent that gives one answer, whatever it is asked.
func saying(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

const opened = `{"event":"forwards","forwards":[{"name":"db"}]}` + "\n"

// However the stream of a request's events ends, the command tells the truth about its forwards. It never takes a cut stream for an
// end in good order. The agent's own error comes with its kind, which makes the exit code, and its hint.
func TestOpenEnds(t *testing.T) {
	long := `{"event":"note","text":"` + strings.Repeat("x", maxEvent) + `"}` + "\n"
	for name, tt := range map[string]struct {
		lines    string
		detached bool
		events   string // those that the caller is told of
		kind     fail.Kind
		says     string // "": it succeeds
	}{
		"cut before the forwards": {lines: `{"event":"step"}` + "\n", events: "step", kind: fail.Other, says: "unexpected EOF"},
		"nothing at all":          {kind: fail.Other, says: "unexpected EOF"},
		"cut after the forwards":  {lines: opened, events: "forwards", kind: fail.Lost, says: "connection to the agent was lost"},
		"cut within a line":       {lines: opened + `{"event":"sto`, events: "forwards", kind: fail.Lost, says: "unexpected end of JSON"},
		"garbage":                 {lines: "<html>\n", kind: fail.Lost, says: "invalid character"},
		"a line too long":         {lines: opened + long, events: "forwards", kind: fail.Lost, says: "too long"},
		"too long a first line":   {lines: long, kind: fail.Other, says: "too long"},
		"error": {
			lines:  `{"event":"error","error":{"kind":"denied","message":"no right","next":"ask for it"}}` + "\n" + opened,
			events: "error", kind: fail.Denied, says: "no right",
		},
		"error after the forwards": {
			lines:  opened + `{"event":"error","error":{"kind":"lost","message":"gone for good","next":"again"}}` + "\n",
			events: "forwards error", kind: fail.Lost, says: "gone for good",
		},
		"error without text":          {lines: `{"event":"error"}` + "\n", events: "error", kind: fail.Lost, says: "an error without text"},
		"stopped":                     {lines: opened + `{"event":"stopped","text":"by stop"}` + "\n", events: "forwards stopped"},
		"stopped before the forwards": {lines: `{"event":"stopped","text":"by stop"}` + "\n", events: "stopped", kind: fail.Other, says: "by stop"},
		"detached, cut later":         {lines: opened, detached: true, events: "forwards"},
		"detached, cut before":        {lines: `{"event":"step"}` + "\n", detached: true, events: "step", kind: fail.Other, says: "unexpected EOF"},
		"of a newer agent": {
			lines: `{"event":"weather","sun":true}` + "\n" + opened + `{"event":"stopped"}` + "\n", events: "weather forwards stopped",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := clientOf(t, saying(http.StatusOK, tt.lines))
			var events []string
			err := c.Open(t.Context(), OpenRequest{Detached: tt.detached}, func(e Event) { events = append(events, string(e.Event)) })
			if got := strings.Join(events, " "); got != tt.events {
				t.Errorf("events %q, want %q", got, tt.events)
			}
			switch {
			case tt.says == "":
				if err != nil {
					t.Error(err)
				}
			case err == nil || fail.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.says) || fail.NextOf(err) == "":
				t.Errorf("%v error %v, hint %q; want %v with %q", fail.KindOf(err), err, fail.NextOf(err), tt.kind, tt.says)
			}
		})
	}
}

// A command that is interrupted ends its request, and the caller learns why: not that the agent was lost.
func TestOpenCancelled(t *testing.T) {
	gone := make(chan struct{})
	c := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, opened)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(gone)
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	if err := c.Open(ctx, OpenRequest{}, func(Event) { cancel(interrupted) }); err != interrupted { //nolint:errorlint // nothing is around it
		t.Errorf("%v", err)
	}
	<-gone
}

// A detached request is over once the forwards are open, even where the agent keeps the connection.
func TestOpenDetachedReturns(t *testing.T) {
	c := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, opened)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	if err := c.Open(t.Context(), OpenRequest{Detached: true}, func(Event) {}); err != nil {
		t.Error(err)
	}
}

// An answer that is not one of this API's is an error with a next step, whatever its status says. That the agent ends is told apart:
// the command starts another one then.
func TestAnswers(t *testing.T) {
	for name, tt := range map[string]struct {
		serve http.HandlerFunc
		kind  fail.Kind
		is    error
		says  string
	}{
		"garbage":      {serve: saying(http.StatusOK, "<html>"), says: "read the agent's answer"},
		"nothing":      {serve: saying(http.StatusOK, ""), says: "read the agent's answer"},
		"another type": {serve: saying(http.StatusOK, `{"pid":"many"}`), says: "read the agent's answer"},
		"cut": {serve: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, `{"pid":`)
		}, says: "unexpected EOF"},
		"huge": {
			serve: saying(http.StatusOK, `{"version":"`+strings.Repeat("x", maxAnswer)+`"}`), says: "read the agent's answer",
		},
		"a path of another version": {serve: saying(http.StatusNotFound, "404 page not found\n"), says: "it answered 404"},
		"an error without text":     {serve: saying(http.StatusTeapot, `{"kind":"denied"}`), says: "it answered 418"},
		"an error": {
			serve: saying(http.StatusForbidden, `{"kind":"denied","message":"not yours","next":"ask"}`), kind: fail.Denied, says: "not yours",
		},
		"an error of a newer kind": {
			serve: saying(http.StatusForbidden, `{"kind":"brand new","message":"not yours","next":"ask"}`), says: "not yours",
		},
		"it ends":                 {serve: saying(http.StatusServiceUnavailable, `{"message":"the agent ends"}`), is: ErrEnding, says: "the agent ends"},
		"it ends without a word":  {serve: saying(http.StatusServiceUnavailable, ``), is: ErrNotRunning, says: "the agent ends"},
		"it ends before it talks": {serve: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, is: ErrNotRunning, says: "no agent"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := clientOf(t, tt.serve).Info(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.says) || fail.NextOf(err) == "" || tt.kind != 0 && fail.KindOf(err) != tt.kind {
				t.Fatalf("%v error %v, hint %q; want %q", fail.KindOf(err), err, fail.NextOf(err), tt.says)
			}
			if errors.Is(err, ErrNotRunning) != (tt.is != nil) || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%v, want %v", err, tt.is)
			}
		})
	}
}

// A request that changes something may have been carried out although its answer is lost. The command does not report a missing
// agent then, so that it does not do it again.
func TestLostAnswer(t *testing.T) {
	c := clientOf(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	for name, ask := range map[string]func() error{
		"stop": func() error { _, err := c.Stop(t.Context(), "db"); return err },
		"open": func() error { return c.Open(t.Context(), OpenRequest{}, func(Event) {}) },
		"end":  func() error { return c.Shutdown(t.Context()) },
	} {
		if err := ask(); err == nil || errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), c.Socket()) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Without an agent every call says so by ErrNotRunning, whether its socket is missing or was left behind.
func TestNotRunning(t *testing.T) {
	dir := shortDir(t)
	stale := filepath.Join(dir, "stale.sock")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	_ = ln.Close()
	for _, path := range []string{filepath.Join(dir, "missing.sock"), stale} {
		c := NewClient(path)
		_, infoErr := c.Info(t.Context())
		_, dialErr := c.Dial(t.Context(), DialRequest{})
		_, stopErr := c.Stop(t.Context(), "all")
		for name, err := range map[string]error{
			"info": infoErr, "dial": dialErr, "stop": stopErr, "open": c.Open(t.Context(), OpenRequest{}, func(Event) {}),
		} {
			if !errors.Is(err, ErrNotRunning) || fail.NextOf(err) == "" {
				t.Errorf("%s at %s: %v", name, filepath.Base(path), err)
			}
		}
	}
}

// pipes is a listener of connections within a test's bubble.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	conn, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (p pipes) Close() error { return nil }

func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// inBubble runs a test with a client of a made-up agent where no real time passes.
func inBubble(t *testing.T, h http.HandlerFunc, test func(*testing.T, *Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ln := make(pipes)
		server := &http.Server{Handler: h}
		var served sync.WaitGroup
		served.Go(func() { _ = server.Serve(ln) })
		c := NewClient("nowhere")
		c.http.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			ln <- theirs
			return ours, nil
		}
		test(t, c)
		close(ln)
		_ = server.Close()
		served.Wait()
	})
}

// An agent that hangs does not hang the commands. Each call has its own time limit, which its error names, and a call that waits
// has its waiting time besides.
func TestAgentHangs(t *testing.T) {
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	began := func(w http.ResponseWriter, r *http.Request) { // it stops in the middle of its answer
		_, _ = io.WriteString(w, `{"pid":`)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	for name, serve := range map[string]http.HandlerFunc{"silent": hang, "in the middle": began} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, serve, func(t *testing.T, c *Client) {
				for call, tt := range map[string]struct {
					ask   func(context.Context) error
					after time.Duration
				}{
					"info":  {func(ctx context.Context) error { _, err := c.Info(ctx); return err }, callTimeout},
					"stop":  {func(ctx context.Context) error { _, err := c.Stop(ctx, "db"); return err }, callTimeout},
					"state": {func(ctx context.Context) error { _, err := c.State(ctx); return err }, callTimeout},
					"wait":  {func(ctx context.Context) error { _, err := c.Wait(ctx, 1, time.Hour); return err }, time.Hour + waitMargin},
				} {
					start := time.Now()
					err := tt.ask(t.Context())
					if fail.KindOf(err) != fail.Timeout || !strings.HasPrefix(err.Error(), "ask the agent: no answer") || time.Since(start) != tt.after {
						t.Errorf("%s: %v after %s, want the end after %s", call, err, time.Since(start), tt.after)
					}
					ctx, cancel := context.WithCancelCause(t.Context())
					interrupted := errors.New("interrupted")
					time.AfterFunc(time.Second, func() { cancel(interrupted) })
					if err := tt.ask(ctx); err != interrupted { //nolint:errorlint // nothing is around it
						t.Errorf("%s, interrupted: %v", call, err)
					}
				}
			})
		})
	}
}

// A caller that watches the state of an agent that is about to end does not ask it without a pause.
func TestWaitAtTheEnd(t *testing.T) {
	for state, pause := range map[string]time.Duration{
		`{"revision":7,"ending":true}`: endingPause, // nothing new will come
		`{"revision":8,"ending":true}`: 0,
		`{"revision":7}`:               0,
	} {
		inBubble(t, saying(http.StatusOK, state), func(t *testing.T, c *Client) {
			start := time.Now()
			if _, err := c.Wait(t.Context(), 7, time.Minute); err != nil || time.Since(start) != pause {
				t.Errorf("%s: %v after %s, want %s", state, err, time.Since(start), pause)
			}
		})
	}
}

// What the user typed reaches the agent as it is: a name with a slash in it asks for no other path.
func TestWhatIsAsked(t *testing.T) {
	asked := make(chan string, 1)
	c := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.URL.EscapedPath() + "?" + r.URL.RawQuery
		_, _ = io.WriteString(w, "null")
	})
	for want, ask := range map[string]func() error{
		"DELETE /v1/forwards/a%2F..%2Fb%3Fc@d?": func() error { _, err := c.Stop(t.Context(), "a/../b?c@d"); return err },
		"GET /v1/state?after=9&timeout=1.500":   func() error { _, err := c.Wait(t.Context(), 9, 1500*time.Millisecond); return err },
		"GET /v1/dial/x%2Fend/end?":             func() error { return c.DialEnd(t.Context(), "x/end") },
		"GET /v1/bastions?":                     func() error { _, err := c.Bastions(t.Context()); return err },
		"POST /v1/dashboard?":                   func() error { _, err := c.Dashboard(t.Context(), DashboardRequest{}); return err },
		"POST /v1/agent/stop?":                  func() error { return c.Shutdown(t.Context()) },
		"GET /v1/agent?":                        func() error { _, err := c.Info(t.Context()); return err },
		"GET /v1/state?":                        func() error { _, err := c.State(t.Context()); return err },
	} {
		err := ask()
		if got := <-asked; got != want || err != nil {
			t.Errorf("%s, %v; want %s", got, err, want)
		}
	}
}

// rawAgent answers a dialed connection by what serve writes.
func rawAgent(t *testing.T, serve func(net.Conn, *http.Request)) *Client {
	t.Helper()
	path := filepath.Join(shortDir(t), "s.sock")
	ln, err := private.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				defer func() { _ = conn.Close() }()
				r, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
				serve(conn, r)
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		served.Wait()
	})
	return NewClient(path)
}

const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + Protocol + "\r\n\r\n"

// The connection neither loses nor adds a byte of the target's, although its first ones come with the agent's answer. Each
// direction ends by itself: ssh waits for the end of one while it still reads the other.
func TestDialBytes(t *testing.T) {
	c := rawAgent(t, func(conn net.Conn, r *http.Request) {
		if r.Header.Get("Upgrade") != Protocol || r.Header.Get(HeaderProcess) != "AWS_CA_BUNDLE=1" {
			t.Errorf("asked with %v", r.Header)
		}
		_, _ = io.WriteString(conn, switching+"SSH-2.0-first\r\n")
		data, _ := io.ReadAll(conn)
		_, _ = fmt.Fprintf(conn, "got %s", data)
	}).ActAs(map[string]string{"AWS_CA_BUNDLE": "1"})
	conn, err := c.Dial(t.Context(), DialRequest{Target: "db:1"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "question"); err != nil {
		t.Fatal(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "SSH-2.0-first\r\ngot question" {
		t.Errorf("%q, %v", got, err)
	}
}

// A connection that the agent refuses, or answers with something else, is an error with the reason, and nothing stays open.
func TestDialRefused(t *testing.T) {
	const answer = "HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s"
	errorOf := func(status, body string) string { return fmt.Sprintf(answer, status, len(body), body) }
	for name, tt := range map[string]struct {
		answer string
		kind   fail.Kind
		is     error
		says   string
	}{
		"refused": {
			answer: errorOf("403 Forbidden", `{"kind":"denied","message":"not allowed","next":"ask"}`), kind: fail.Denied, says: "not allowed",
		},
		"it ends":         {answer: errorOf("503 Service Unavailable", `{}`), kind: fail.Other, is: ErrEnding, says: "the agent ends"},
		"no upgrade":      {answer: errorOf("200 OK", `{}`), kind: fail.Other, says: "it answered 200"},
		"garbage":         {answer: "SSH-2.0-x\r\n\r\n", kind: fail.Other, says: "malformed HTTP"},
		"nothing":         {answer: "", kind: fail.Other, says: "unexpected EOF"},
		"cut in the head": {answer: "HTTP/1.1 101 Swi", kind: fail.Other, says: "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			ended := make(chan error, 1)
			c := rawAgent(t, func(conn net.Conn, _ *http.Request) {
				_, _ = io.WriteString(conn, tt.answer)
				if tt.answer == "" || strings.HasSuffix(tt.answer, "Swi") {
					ended <- nil
					return
				}
				_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
				_, err := conn.Read(make([]byte, 1)) // which ends, or is reset, when the client closes
				ended <- err
			})
			_, err := c.Dial(t.Context(), DialRequest{})
			if err == nil || fail.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.says) || fail.NextOf(err) == "" ||
				tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%v error %v, hint %q; want %q", fail.KindOf(err), err, fail.NextOf(err), tt.says)
			}
			if err := <-ended; errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection stays open")
			}
		})
	}
}

// A command that is interrupted while the agent connects takes its connection with it.
func TestDialCancelled(t *testing.T) {
	asked, ended := make(chan struct{}), make(chan error, 1)
	c := rawAgent(t, func(conn net.Conn, _ *http.Request) {
		close(asked)
		_, err := conn.Read(make([]byte, 1))
		ended <- err
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	go func() {
		<-asked
		cancel(interrupted)
	}()
	if conn, err := c.Dial(ctx, DialRequest{}); conn != nil || !errors.Is(err, interrupted) {
		t.Errorf("%v, %v", conn, err)
	}
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("the connection: %v", err)
	}
}

// A connection that ended with its agent, or because another agent runs by now, was lost: ssh must not take that for the end of the
// target's stream.
func TestDialEnd(t *testing.T) {
	for name, tt := range map[string]struct {
		serve http.HandlerFunc
		kind  fail.Kind
		says  string // "": one of the ends did it
	}{
		"an end in order": {serve: saying(http.StatusOK, `{}`)},
		"lost":            {serve: saying(http.StatusOK, `{"error":{"kind":"lost","message":"the link is gone"}}`), kind: fail.Lost, says: "the link is gone"},
		"another agent": {
			serve: saying(http.StatusNotFound, `{"kind":"no_target","message":"there is no such connection"}`), kind: fail.Lost, says: "the agent has ended",
		},
		"it ends now": {serve: saying(http.StatusServiceUnavailable, `{}`), kind: fail.Lost, says: "the agent has ended"},
		"it is odd":   {serve: saying(http.StatusOK, `x`), kind: fail.Other, says: "read the agent's answer"},
	} {
		err := clientOf(t, tt.serve).DialEnd(t.Context(), "id")
		if (err == nil) != (tt.says == "") || err != nil && (fail.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%s: %v error %v, want %q", name, fail.KindOf(err), err, tt.says)
		}
	}
	err := NewClient(filepath.Join(shortDir(t), "missing")).DialEnd(t.Context(), "id")
	if fail.KindOf(err) != fail.Lost {
		t.Errorf("without an agent: %v", err)
	}
}

// An error that passed through the agent is to the command the same as in its own process: exit code, hint, and types.
func TestErrorRoundTrip(t *testing.T) {
	taken := &NameTaken{Name: "db", By: "db.test:1 on 127.0.0.1:5432"}
	other := &OtherProcessError{Variables: []string{"AWS_CA_BUNDLE"}}
	for _, want := range []error{
		fail.New(fail.Denied, "start a session", errors.New("not allowed"), "ask for ssm:StartSession"),
		fail.New(fail.Usage, "", taken, "choose another"),
		fail.New(fail.Usage, "", other, "bastion agent stop"),
		errors.New("plain"),
	} {
		text, err := json.Marshal(NewError(want))
		if err != nil {
			t.Fatal(err)
		}
		var e Error
		if err := json.Unmarshal(text, &e); err != nil {
			t.Fatal(err)
		}
		got := e.Err()
		if got.Error() != want.Error() || fail.KindOf(got) != fail.KindOf(want) || fail.NextOf(got) != fail.NextOf(want) {
			t.Errorf("%#v, want %#v", got, want)
		}
		gotTaken, _ := errors.AsType[*NameTaken](got)
		wantTaken, _ := errors.AsType[*NameTaken](want)
		gotOther, _ := errors.AsType[*OtherProcessError](got)
		wantOther, _ := errors.AsType[*OtherProcessError](want)
		if diff := cmp.Diff(wantTaken, gotTaken) + cmp.Diff(wantOther, gotOther); diff != "" {
			t.Errorf("%v:\n%s", want, diff)
		}
	}
}

// An agent with another CA bundle or the like does not act for a process; a program that says nothing of itself is served.
func TestCheckProcess(t *testing.T) {
	differ := func(theirs map[string]string) (names []string) {
		if theirs["AWS_CA_BUNDLE"] != "ours" {
			names = []string{"AWS_CA_BUNDLE"}
		}
		return names
	}
	sent := func(sums map[string]string) http.Header {
		return http.Header{HeaderProcess: {NewClient("").ActAs(sums).process}}
	}
	for name, tt := range map[string]struct {
		header http.Header
		says   string
	}{
		"no header":  {header: http.Header{}},
		"the same":   {header: sent(map[string]string{"AWS_CA_BUNDLE": "ours"})},
		"another":    {header: sent(map[string]string{"AWS_CA_BUNDLE": "t=h&e%irs"}), says: "another AWS_CA_BUNDLE"},
		"none of it": {header: sent(map[string]string{"AWS_REGION": "x"}), says: "another AWS_CA_BUNDLE"},
		"garbage":    {header: http.Header{HeaderProcess: {"%zz"}}, says: "read the header"},
	} {
		err := CheckProcess(tt.header, differ)
		if (err == nil) != (tt.says == "") || err != nil && (!strings.Contains(err.Error(), tt.says) || fail.KindOf(err) != fail.Usage) {
			t.Errorf("%s: %v, want %q", name, err, tt.says)
		}
	}
}

// A directory whose socket's path is too long for the system is refused with the setting to change, before anything is started.
func TestSocketPath(t *testing.T) {
	dir := shortDir(t)
	path, err := SocketPath(config.Settings{Local: config.Local{RuntimeDir: dir}})
	if err != nil || filepath.Dir(path) != dir {
		t.Errorf("%s, %v", path, err)
	}
	long := filepath.Join(dir, strings.Repeat("x", 120))
	if _, err := SocketPath(config.Settings{Local: config.Local{RuntimeDir: long}}); fail.KindOf(err) != fail.Usage {
		t.Errorf("a path that is too long: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := SocketPath(config.Settings{Local: config.Local{RuntimeDir: file}}); err == nil {
		t.Error("a file is taken for a directory")
	}
}

// A forward in good order shows no trouble, and any other shows its reason.
func TestTrouble(t *testing.T) {
	now := time.Now()
	for state, want := range map[ForwardState]bool{ForwardReady: false, ForwardKept: false, ForwardWaiting: true, ForwardFailed: true} {
		f := Forward{State: state, Error: "broken", Since: now}
		if got := f.Trouble(now); strings.Contains(got, "broken") != want || (got == "") == want {
			t.Errorf("a forward that is %s: %q", state, got)
		}
	}
	for state, want := range map[LinkPhase]bool{LinkIdle: false, LinkUp: false, LinkWaiting: true, LinkFailed: true} {
		l := Link{State: state, Error: "broken", Since: now}
		if got := l.Trouble(now); strings.Contains(got, "broken") != want || (got == "") == want {
			t.Errorf("a link that is %s: %q", state, got)
		}
		if l.HasGivenUp() != (state == LinkFailed) {
			t.Errorf("a link that is %s has given up: %v", state, l.HasGivenUp())
		}
	}
}
