package sessions

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/coder/websocket"
	"github.com/google/uuid"
	"github.com/mmmorris1975/ssm-session-client/datachannel"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

// wsAgent is the far side of sessions on a real websocket: a lean one that loses nothing, for benchmarks and for the way
// bytes go over the network. The port it serves discards what comes, or sends without end.
type wsAgent struct {
	srv   *httptest.Server
	delay time.Duration // each way
	send  bool
	chunk int

	mu    sync.Mutex
	hello []map[string]string
	wg    sync.WaitGroup
}

func newWSAgent(tb testing.TB, a *wsAgent) *Client {
	tb.Helper()
	a.srv = httptest.NewServer(http.HandlerFunc(a.serve))
	tb.Cleanup(func() { a.srv.Close(); a.wg.Wait() })
	return New(Config{SSM: a})
}

func (a *wsAgent) StartSession(
	context.Context, *ssm.StartSessionInput, ...func(*ssm.Options),
) (*ssm.StartSessionOutput, error) {
	id, token := "ws-session", "ws-token"
	url := "ws" + strings.TrimPrefix(a.srv.URL, "http")
	return &ssm.StartSessionOutput{SessionId: &id, StreamUrl: &url, TokenValue: &token}, nil
}

func (a *wsAgent) ResumeSession(
	context.Context, *ssm.ResumeSessionInput, ...func(*ssm.Options),
) (*ssm.ResumeSessionOutput, error) {
	return nil, accessDenied()
}

func (a *wsAgent) TerminateSession(
	context.Context, *ssm.TerminateSessionInput, ...func(*ssm.Options),
) (*ssm.TerminateSessionOutput, error) {
	return &ssm.TerminateSessionOutput{}, nil
}

func (a *wsAgent) serve(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	conn.SetReadLimit(frame.MaxPayload + frame.Overhead)
	ctx := context.Background()
	_, b, err := conn.Read(ctx)
	if err != nil {
		return
	}
	var hello map[string]string
	if err := json.Unmarshal(b, &hello); err != nil {
		return
	}
	a.mu.Lock()
	a.hello = append(a.hello, hello)
	a.mu.Unlock()

	// Replies go out late when there is a delay; the queue then holds what is under way, in both directions at once.
	out := make(chan timedMessage, 1<<16)
	stop := make(chan struct{})
	defer close(stop)
	a.wg.Go(func() {
		for {
			select {
			case t := <-out:
				if left := time.Until(t.at); left > 0 {
					timer := time.NewTimer(left)
					select {
					case <-timer.C:
					case <-stop:
						timer.Stop()
						return
					}
				}
				if conn.Write(ctx, websocket.MessageBinary, t.msg) != nil {
					return
				}
			case <-stop:
				return
			}
		}
	})
	reply := func(m *frame.Message) {
		m.Created, m.ID = time.Now(), uuid.New()
		out <- timedMessage{time.Now().Add(2 * a.delay), m.Append(nil)}
	}
	reply(&frame.Message{
		Type: datachannel.OutputStreamData, Flags: frame.FlagSYN, PayloadType: datachannel.HandshakeRequest,
		Payload: []byte(`{"AgentVersion":"3.3.0.0","RequestedClientActions":[{"ActionType":"SessionType",` +
			`"ActionParameters":{"SessionType":"Port","Properties":{"portNumber":"1"}}}]}`),
	})
	sock := wsSocket{conn}
	var buf []byte
	for {
		if buf, err = sock.Read(buf); err != nil {
			return
		}
		m, err := frame.Decode(buf)
		if err != nil {
			return
		}
		if m.Type != datachannel.InputStreamData {
			continue
		}
		reply(&frame.Message{Type: datachannel.Acknowledge, Flags: frame.FlagAck, Payload: frame.AppendAck(nil, &m)})
		if m.PayloadType == datachannel.HandshakeResponse {
			reply(&frame.Message{
				Type: datachannel.OutputStreamData, Seq: 1, PayloadType: datachannel.HandshakeComplete,
				Payload: []byte(`{"HandshakeTimeToComplete":1,"CustomerMessage":""}`),
			})
			if a.send {
				a.wg.Go(func() { a.pump(out, stop) })
			}
		}
	}
}

// pump sends without end, as fast as the websocket takes it: no agent is so fast.
func (a *wsAgent) pump(out chan<- timedMessage, stop <-chan struct{}) {
	m := frame.Message{
		Type: datachannel.OutputStreamData, Created: time.Now(), ID: uuid.New(), PayloadType: datachannel.Output,
		Payload: make([]byte, a.chunk),
	}
	for m.Seq = 2; ; m.Seq++ {
		select {
		case out <- timedMessage{msg: m.Append(nil)}:
		case <-stop:
			return
		}
	}
}
