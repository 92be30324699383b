package sessions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"

	"github.com/coder/websocket"
	"github.com/google/uuid"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

// grant is what StartSession, ResumeSession and ExecuteCommand give: where to dial, and the token that opens one websocket.
type grant struct{ url, token string }

// checkStreamURL refuses what a session's bytes must not travel over: wss to anywhere, plain ws only within this machine.
func checkStreamURL(raw string) error {
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

// dialWebsocket opens the data channel: the websocket, and the text message with the token that has to come first.
func dialWebsocket(ctx context.Context, client *http.Client, g grant) (socket, error) {
	if err := checkStreamURL(g.url); err != nil {
		return nil, err
	}
	opts := &websocket.DialOptions{HTTPClient: stayingClient(client)}
	conn, _, err := websocket.Dial(ctx, g.url, opts) //nolint:bodyclose // Dial's doc: never needed
	if err != nil {
		return nil, err
	}
	conn.SetReadLimit(frame.MaxPayload + frame.Overhead)
	hello, err := json.Marshal(struct{ MessageSchemaVersion, RequestId, TokenValue, ClientId, ClientVersion string }{
		"1.0", uuid.NewString(), g.token, uuid.NewString(), clientVersion,
	})
	if err == nil {
		err = conn.Write(ctx, websocket.MessageText, hello)
	}
	if err != nil {
		_ = conn.CloseNow() // err says more
		return nil, fmt.Errorf("open the data channel: %w", err)
	}
	return wsSocket{conn}, nil
}

// stayingClient returns client, or one of the defaults, made to follow no redirect: that would lead to where checkStreamURL has not
// looked, and take the token along.
func stayingClient(client *http.Client) *http.Client {
	var staying http.Client
	if client != nil {
		staying = *client
	}
	staying.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &staying
}

// wsSocket is a socket on a real websocket. Its reads and writes have no context: Close ends them.
type wsSocket struct{ conn *websocket.Conn }

func (s wsSocket) Read(buf []byte) ([]byte, error) {
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

func (s wsSocket) Write(p []byte) error {
	return s.conn.Write(context.Background(), websocket.MessageBinary, p)
}

func (s wsSocket) Ping(ctx context.Context) error { return s.conn.Ping(ctx) }

func (s wsSocket) Close() error { return s.conn.CloseNow() }
