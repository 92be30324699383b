package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/google/uuid"

	"github.com/bastion-ssm/bastion/sessions/transport"
)

const (
	signingName   = "ssmmessages"
	messageSchema = "1.0"
	// callTimeout bounds a call, and then the opening of a websocket.
	callTimeout = 15 * time.Second
	// mostAnswer bounds the bytes of a call's answer.
	mostAnswer = 64 << 10
)

// service is the message gateway's API: a call for a token, and a websocket that it opens.
type service struct {
	endpoint *url.URL // https
	region   string
	creds    aws.CredentialsProvider
	client   *http.Client
	signer   *v4.Signer
}

// channel is a kind of channel, as the service's URLs name it.
type channel struct {
	kind  string
	query url.Values
}

var (
	controlChannel = channel{"control-channel", url.Values{"role": {"subscribe"}, "stream": {"input"}}}
	dataChannel    = channel{"data-channel", url.Values{"role": {"publish_subscribe"}}}
)

func (s *service) url(c channel, id string) *url.URL {
	u := *s.endpoint
	u.Path = path.Join("/", u.Path, "v1", c.kind, id)
	return &u
}

// websocketURL returns the URL of a websocket at an https URL.
func websocketURL(u *url.URL) string {
	ws := *u
	ws.Scheme = strings.Replace(u.Scheme, "http", "ws", 1)
	return ws.String()
}

// stayingClient returns a client that follows no redirect, which would take what is signed to another server.
func stayingClient(from *http.Client) *http.Client {
	var c http.Client
	if from != nil {
		c = *from
	}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c
}

// sign signs a request.
func (s *service) sign(ctx context.Context, req *http.Request, body []byte) error {
	creds, err := s.creds.Retrieve(ctx)
	if err != nil {
		return fmt.Errorf("credentials: %w", err)
	}
	sum := sha256.Sum256(body)
	return s.signer.SignHTTP(ctx, creds, req, hex.EncodeToString(sum[:]), signingName, s.region, time.Now())
}

// create makes a channel, and returns the token for one websocket of it. request is the call's input.
func (s *service) create(ctx context.Context, c channel, id string, request any) (token string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	body := mustJSON(request)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url(c, id).String(), bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	if err := s.sign(ctx, req, body); err != nil {
		return "", err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end, or given up
	answer, err := io.ReadAll(io.LimitReader(resp.Body, mostAnswer))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusCreated {
		return "", answerError(resp.Status, answer)
	}
	return parseToken(answer)
}

// answerError returns the error of a call that was refused.
func answerError(status string, answer []byte) error {
	err := fmt.Errorf("%s: %.300q", status, answer)
	if bytes.Contains(answer, []byte("Session is already terminated")) {
		return fmt.Errorf("%w: %w", errTerminated, err)
	}
	return err
}

// parseToken returns the token in a call's answer.
func parseToken(answer []byte) (string, error) {
	var out struct{ TokenValue string }
	if err := xml.Unmarshal(answer, &out); err != nil {
		return "", fmt.Errorf("the service's answer: %w", err)
	}
	if out.TokenValue == "" {
		return "", errors.New("the service's answer has no token")
	}
	return out.TokenValue, nil
}

// open opens a websocket of a channel.
func (s *service) open(ctx context.Context, c channel, id string, hello any) (*transport.Websocket, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	u := s.url(c, id)
	u.RawQuery = c.query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	if err := s.sign(ctx, req, nil); err != nil {
		return nil, err
	}
	return transport.Dial(ctx, s.client, websocketURL(u), req.Header, hello)
}

// The inputs of calls and the hellos of websockets, with the keys in the agent's order. The agent leaves ClientId empty.
type (
	createControl struct {
		MessageSchemaVersion, RequestId string
	}
	openControl struct {
		MessageSchemaVersion, RequestId, TokenValue, AgentVersion, PlatformType string
	}
	createData struct {
		MessageSchemaVersion, RequestId, ClientId string
	}
	openData struct {
		MessageSchemaVersion, RequestId, TokenValue, ClientInstanceId, ClientId string
	}
)

// openControl makes the control channel of a node, and its websocket.
func (s *service) openControl(ctx context.Context, node string) (*transport.Websocket, error) {
	token, err := s.create(ctx, controlChannel, node, createControl{messageSchema, uuid.NewString()})
	if err != nil {
		return nil, fmt.Errorf("CreateControlChannel: %w", err)
	}
	return s.open(ctx, controlChannel, node, openControl{messageSchema, uuid.NewString(), token, agentVersion, "linux"})
}

// openData makes a websocket of a session's data channel.
func (s *service) openData(ctx context.Context, node, session string) (transport.Socket, error) {
	token, err := s.create(ctx, dataChannel, session, createData{messageSchema, uuid.NewString(), ""})
	if err != nil {
		return nil, fmt.Errorf("CreateDataChannel: %w", err)
	}
	sock, err := s.open(ctx, dataChannel, session, openData{messageSchema, uuid.NewString(), token, node, ""})
	if err != nil {
		return nil, err
	}
	return sock, nil
}
