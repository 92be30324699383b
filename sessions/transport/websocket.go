// Package transport is the websocket below an SSM channel: binary messages, written in batches, on a connection that a context, Close
// or the other end can end at any time. Both ends of a data channel use it, and the node's control channel.
package transport

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"sync"

	"github.com/coder/websocket"

	"github.com/bastion-ssm/bastion/sessions/frame"
	"github.com/bastion-ssm/bastion/sessions/reliable"
)

// maxPooled is the largest buffer that the pool keeps.
const maxPooled = 64 << 10

var pool = sync.Pool{New: func() any { return &reliable.Inbound{B: make([]byte, 0, 2048)} }}

// Get returns a buffer for Read.
func Get() *reliable.Inbound { return pool.Get().(*reliable.Inbound) }

// Free takes back a buffer of Get.
func Free(in *reliable.Inbound) {
	if cap(in.B) <= maxPooled {
		pool.Put(in)
	}
}

// CheckURL refuses URLs that must not carry a session's bytes. It allows wss to anywhere, but plain ws only within this
// machine.
func CheckURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		return fmt.Errorf("stream URL: %w", err)
	}
	switch u.Scheme {
	case "wss":
		if u.Host != "" {
			return nil
		}
		return errors.New("stream URL without a host")
	case "ws":
		host := u.Hostname()
		if addr, err := netip.ParseAddr(host); host == "localhost" || err == nil && addr.IsLoopback() {
			return nil
		}
		return fmt.Errorf("stream URL ws://%s is not encrypted and not on this machine", u.Host)
	}
	return fmt.Errorf("stream URL of scheme %q, not wss", u.Scheme)
}

// Dial opens a websocket and sends hello, as a text message in JSON, which must come first. It follows no redirect: a redirect would
// take the token in hello to a URL that CheckURL has not seen. A nil client means the default.
func Dial(ctx context.Context, client *http.Client, address string, header http.Header, hello any) (*Websocket, error) {
	if err := CheckURL(address); err != nil {
		return nil, err
	}
	first, err := json.Marshal(hello)
	if err != nil {
		return nil, err
	}
	staying := stayingClient(client)
	upgrade := &upgrader{base: staying.Transport}
	staying.Transport = upgrade
	opts := &websocket.DialOptions{HTTPClient: staying, HTTPHeader: header}
	conn, _, err := websocket.Dial(ctx, address, opts) //nolint:bodyclose // Dial's doc: never needed
	if err != nil {
		return nil, err
	}
	conn.SetReadLimit(frame.MaxPayload + frame.Overhead)
	if err := conn.Write(ctx, websocket.MessageText, first); err != nil {
		_ = conn.CloseNow() // err says more
		return nil, fmt.Errorf("open the channel: %w", err)
	}
	return &Websocket{conn, upgrade.out}, nil
}

// stayingClient returns a copy of client that follows no redirect.
func stayingClient(client *http.Client) *http.Client {
	var staying http.Client
	if client != nil {
		staying = *client
	}
	staying.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &staying
}

// upgrader is a transport that keeps the connection below the websocket.
type upgrader struct {
	base http.RoundTripper // nil: http.DefaultTransport
	out  *batchWriter
}

// RoundTrip implements http.RoundTripper.
func (u *upgrader) RoundTrip(req *http.Request) (*http.Response, error) {
	base := cmp.Or(u.base, http.DefaultTransport)
	resp, err := base.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		return resp, err
	}
	if conn, ok := resp.Body.(io.ReadWriteCloser); ok {
		u.out = newBatchWriter(conn)
		resp.Body = u.out
	}
	return resp, nil
}

// batchBytesHeld is how many bytes a batchWriter holds back before it writes.
const batchBytesHeld = 64 << 10

// batchWriter merges many writes into one while hold is in force. Writes by other goroutines during a write, which are pings and
// pongs, return without waiting and go out after it.
type batchWriter struct {
	io.ReadWriteCloser
	mu      sync.Mutex
	idle    sync.Cond // writing has become false
	holding bool
	writing bool // by one goroutine, which has released mu meanwhile
	buf     []byte
	spare   []byte
	err     error // of the first failed write
}

func newBatchWriter(conn io.ReadWriteCloser) *batchWriter {
	w := &batchWriter{ReadWriteCloser: conn}
	w.idle.L = &w.mu
	return w
}

// Write implements io.Writer.
func (w *batchWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = append(w.buf, p...)
	if (w.holding || w.writing) && len(w.buf) < batchBytesHeld {
		return len(p), w.err
	}
	return len(p), w.flush()
}

// hold holds writes back until release.
func (w *batchWriter) hold() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.holding = true
}

// release writes the bytes held back.
func (w *batchWriter) release() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.holding = false
	return w.flush()
}

// flush writes all buffered bytes, after the present write has ended. Callers hold mu.
func (w *batchWriter) flush() error {
	for w.writing {
		w.idle.Wait()
	}
	for len(w.buf) > 0 && w.err == nil {
		out := w.buf
		w.buf, w.spare, w.writing = w.spare[:0], nil, true
		w.mu.Unlock()
		_, err := w.ReadWriteCloser.Write(out)
		w.mu.Lock()
		w.writing, w.err = false, err
		if cap(out) <= 2*batchBytesHeld {
			w.spare = out
		}
		w.idle.Broadcast()
		if w.holding {
			break // the rest belongs to the next batch
		}
	}
	return w.err
}

// Websocket is a websocket. One goroutine reads, one writes, one pings. Reads and writes take no context: Close ends them.
type Websocket struct {
	conn *websocket.Conn
	out  *batchWriter // below conn
}

// Read puts the next binary message into buf, or a larger slice, and returns it. It ignores text messages.
func (s *Websocket) Read(buf []byte) ([]byte, error) {
	for {
		typ, r, err := s.conn.Reader(context.Background())
		if err != nil {
			return buf, err
		}
		buf = buf[:0]
		for {
			if len(buf) == cap(buf) {
				buf = append(buf, 0)[:len(buf)]
			}
			n, err := r.Read(buf[len(buf):cap(buf)])
			buf = buf[:len(buf)+n]
			if err == io.EOF {
				break
			}
			if err != nil {
				return buf, err
			}
		}
		if typ == websocket.MessageBinary {
			return buf, nil
		}
	}
}

// Write sends p and does not keep it. With more set, another Write follows at once, and p may wait for it.
func (s *Websocket) Write(p []byte, more bool) error {
	s.out.hold()
	err := s.conn.Write(context.Background(), websocket.MessageBinary, p)
	if more && err == nil {
		return nil
	}
	if e := s.out.release(); err == nil {
		err = e
	}
	return err
}

// Ping returns when the answer has come; some goroutine must be reading.
func (s *Websocket) Ping(ctx context.Context) error { return s.conn.Ping(ctx) }

// Close ends the websocket at once and unblocks its other methods.
func (s *Websocket) Close() error { return s.conn.CloseNow() }
