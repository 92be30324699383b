package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/private"
	"github.com/bastion-ssm/bastion/internal/sleep"
)

const (
	// callTimeout bounds requests that the agent answers without AWS or a wait.
	callTimeout = 10 * time.Second
	// waitMargin is added to a waiting request's own time.
	waitMargin = 5 * time.Second
	// endingPause is Wait's pause when the agent is ending.
	endingPause = 50 * time.Millisecond
	// maxAnswer bounds an answer that is read as a whole, in bytes.
	maxAnswer = 16 << 20
	// maxEvent bounds one line of a stream of events, in bytes.
	maxEvent = 1 << 20

	// Protocol is the Upgrade protocol of a dialed connection.
	Protocol = "bastion-stream"
)

// ErrNotRunning says that the agent does not run.
var ErrNotRunning = errors.New("no agent is running")

// ErrEnding says that an ending agent refused a request. It is an ErrNotRunning: the request has done nothing.
var ErrEnding = fmt.Errorf("the agent ends: %w", ErrNotRunning)

// SocketPath returns the path of the agent's socket.
func SocketPath(s config.Settings) (string, error) {
	dir, err := dirs.Runtime(s.Local.RuntimeDir)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "control.sock")
	return path, private.CheckPath(path)
}

// Opener opens forwards. A Client opens them in the user's agent; an Agent opens them in its own process.
type Opener interface {
	// Open opens forwards and passes each event to on, until the last one. Attached forwards end with ctx. The error is that of
	// EventError, or a failure to reach the agent.
	Open(ctx context.Context, req OpenRequest, on func(Event)) error
}

// Client is a client of the agent. It holds no connection, so it needs no Close.
type Client struct {
	socket  string
	http    *http.Client
	process string // value of HeaderProcess; empty: the agent does not compare processes
}

// NewClient returns a client for the agent's socket at path. It connects anew for each request.
func NewClient(path string) *Client {
	return &Client{socket: path, http: &http.Client{Transport: &http.Transport{
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return private.Dial(path) },
		DisableKeepAlives: true,
	}}}
}

// Socket returns the path of the agent's socket.
func (c *Client) Socket() string { return c.socket }

// Info returns the agent's description of itself. It fails with ErrNotRunning if the agent does not run.
func (c *Client) Info(ctx context.Context) (Info, error) {
	return call[Info](ctx, c, callTimeout, http.MethodGet, PathInfo, nil)
}

// Shutdown ends the agent. Its detached forwards come back when it starts again.
func (c *Client) Shutdown(ctx context.Context) error {
	_, err := call[struct{}](ctx, c, callTimeout, http.MethodPost, PathStop, nil)
	return err
}

// State returns the agent's state.
func (c *Client) State(ctx context.Context) (State, error) {
	return call[State](ctx, c, callTimeout, http.MethodGet, PathState, nil)
}

// Wait returns the state once its revision differs from after, or after timeout.
func (c *Client) Wait(ctx context.Context, after uint64, timeout time.Duration) (State, error) {
	q := url.Values{"after": {strconv.FormatUint(after, 10)}, "timeout": {strconv.FormatFloat(timeout.Seconds(), 'f', 3, 64)}}
	st, err := call[State](ctx, c, timeout+waitMargin, http.MethodGet, PathState+"?"+q.Encode(), nil)
	if err == nil && st.Ending && st.Revision == after { // an ending agent does not wait
		err = sleep.For(ctx, min(endingPause, timeout))
	}
	return st, err
}

// Bastions asks AWS, through the agent, for the bastions of its links.
func (c *Client) Bastions(ctx context.Context) ([]Account, error) {
	return call[[]Account](ctx, c, time.Minute, http.MethodGet, PathBastions, nil)
}

// Stop ends and returns the forwards that ref names: NAME, NAME@LINK or "all".
func (c *Client) Stop(ctx context.Context, ref string) ([]Forward, error) {
	return call[[]Forward](ctx, c, callTimeout, http.MethodDelete, PathForwards+"/"+url.PathEscape(ref), nil)
}

// Open implements Opener.
func (c *Client) Open(ctx context.Context, req OpenRequest, on func(Event)) error {
	resp, err := c.send(ctx, http.MethodPost, PathForwards, req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxEvent)
	opened := false
	for lines.Scan() {
		var e Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return lost(err)
		}
		on(e)
		switch e.Event {
		case EventError:
			if e.Error == nil {
				return lost(errors.New("an error without text"))
			}
			return e.Error.Err()
		case EventStopped:
			if !opened {
				return fail.New(fail.Other, "open the forwards", errors.New(e.Text), "try again")
			}
			return nil
		case EventForwards:
			opened = true
			if req.Detached {
				return nil
			}
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err = lines.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	if opened {
		return lost(err)
	}
	return fail.New(fail.Other, "open the forwards", err, "the agent may have ended: try again; bastion agent logs shows why")
}

// lost returns the error of forwards that lost their agent.
func lost(err error) error {
	return fail.New(fail.Lost, "the connection to the agent was lost", err, "try again; bastion agent logs shows why it ended")
}

// Dial opens a connection through a bastion. Each direction can be closed alone.
func (c *Client) Dial(ctx context.Context, req DialRequest) (net.Conn, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	conn, err := private.Dial(c.socket)
	if err != nil {
		return nil, c.unreachable(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err = c.upgrade(ctx, conn, body)
	if !stop() {
		_ = conn.Close()
		return nil, context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// DialEnd returns why a connection from Dial has ended; nil if the client or the target ended it. Call it once the connection
// has ended.
func (c *Client) DialEnd(ctx context.Context, id string) error {
	end, err := call[DialEnd](ctx, c, callTimeout, http.MethodGet, PathDial+"/"+url.PathEscape(id)+"/end", nil)
	switch {
	case errors.Is(err, ErrNotRunning), fail.KindOf(err) == fail.NoTarget: // or a new agent runs
		return fail.New(fail.Lost, "", errors.New("the agent has ended"), "")
	case err != nil:
		return err
	case end.Error != nil:
		return end.Error.Err()
	}
	return nil
}

// upgrade makes conn a connection to the target. It reads none of the target's bytes: conn may be passed to another process.
func (c *Client) upgrade(ctx context.Context, conn net.Conn, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent"+PathDial, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", Protocol)
	req.Header.Set(HeaderProcess, c.process)
	if err := req.Write(conn); err != nil {
		return c.unreachable(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(byByte{conn}), req)
	if err != nil {
		return c.unreachable(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer func() { _ = resp.Body.Close() }()
		return readError(resp)
	}
	return nil
}

// byByte reads one byte at a time, so that a buffered reader never reads ahead.
type byByte struct{ r io.Reader }

func (b byByte) Read(p []byte) (int, error) { return b.r.Read(p[:min(len(p), 1)]) }

// call sends a request and decodes the JSON answer.
func call[T any](ctx context.Context, c *Client, timeout time.Duration, method, path string, in any) (out T, _ error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fail.New(fail.Timeout, "ask the agent",
		fmt.Errorf("no answer within %s", timeout), "bastion agent logs shows what it does; bastion agent stop ends it"))
	defer cancel()
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return out, err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	switch {
	case err == nil:
		return out, nil
	case ctx.Err() != nil:
		return out, context.Cause(ctx)
	}
	return out, fail.New(fail.Other, "read the agent's answer", err, "bastion agent stop, then try again")
}

// send sends a request and returns a successful response.
func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader = http.NoBody
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(HeaderProcess, c.process)
	resp, err := c.http.Do(req)
	if err != nil {
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case method == http.MethodGet && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)):
			// It closed the connection without an answer: it has ended meanwhile.
			return nil, fail.New(fail.Other, "", ErrNotRunning, "bastion agent start starts it")
		}
		return nil, c.unreachable(err)
	}
	if resp.StatusCode != http.StatusOK {
		defer func() { _ = resp.Body.Close() }()
		return nil, readError(resp)
	}
	return resp, nil
}

// unreachable returns the error for an agent that does not accept requests.
func (c *Client) unreachable(err error) error {
	if private.NoListener(err) {
		return fail.New(fail.Other, "", ErrNotRunning, "bastion agent start starts it")
	}
	return fail.New(fail.Other, "ask the agent at "+c.socket, err, "bastion agent status says more")
}

// readError returns the error in a response.
func readError(resp *http.Response) error {
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	var e Error
	if err == nil {
		err = json.Unmarshal(data, &e)
	}
	if resp.StatusCode == http.StatusServiceUnavailable {
		return fail.New(fail.Other, "", ErrEnding, "try again")
	}
	if err != nil || e.Message == "" {
		return fail.New(fail.Other, "ask the agent", fmt.Errorf("it answered %s", resp.Status),
			"it may be of another version: bastion agent stop, then try again")
	}
	return e.Err()
}

// Err returns the error that NewError was given, as far as the API carries it.
func (e *Error) Err() error {
	if e.Taken != nil {
		return fail.New(e.Kind, "", e.Taken, e.Next)
	}
	if len(e.Process) > 0 {
		return fail.New(e.Kind, "", &OtherProcessError{e.Process}, e.Next)
	}
	return fail.New(e.Kind, "", errors.New(e.Message), e.Next)
}

// NewError returns err in the API's form.
func NewError(err error) *Error {
	out := &Error{Kind: fail.KindOf(err), Message: err.Error(), Next: fail.NextOf(err)}
	out.Taken, _ = errors.AsType[*NameTaken](err)
	if other, ok := errors.AsType[*OtherProcessError](err); ok {
		out.Process = other.Variables
	}
	return out
}
