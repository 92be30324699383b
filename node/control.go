package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/google/uuid"

	"github.com/bastion-ssm/bastion/internal/backoff"
	"github.com/bastion-ssm/bastion/internal/sleep"
	"github.com/bastion-ssm/bastion/sessions/frame"
	"github.com/bastion-ssm/bastion/sessions/transport"
)

const (
	// The pauses between attempts to open the control channel.
	firstPause, mostPause = time.Second, time.Minute
	// steadyControl is how long a good control channel lasts. After one, the pauses start again from the shortest.
	steadyControl = 30 * time.Second
	// mostSessions bounds the sessions of a node.
	mostSessions = 1000
	// reportTries is how often a session's outcome is sent, a reportPause apart, until the service acknowledges it. While the
	// control channel is lost, the outcome waits for reportLimit at most.
	reportTries = 3
	reportPause = time.Second
	reportLimit = 5 * time.Minute
	// mostOutput bounds the words of an outcome, in which are those of the client.
	mostOutput = 8000
	// topicComplete is the topic of an outcome.
	topicComplete = string(frame.TaskComplete)
)

// Settings are a node's.
type Settings struct {
	// ID is the node's: "ecs:CLUSTER_TASK_RUNTIME" or "mi-...".
	ID     string
	Region string
	// Endpoint is the message gateway's, "https://ssmmessages.REGION...".
	Endpoint string
	// Credentials sign each call and each websocket. They may change.
	Credentials aws.CredentialsProvider
	HTTPClient  *http.Client // nil: the default
	// Ports are the ports that sessions can reach, and who serves them.
	Ports map[int]Handler
	// Session has the settings of sessions; the node sets Dial, Handler and Logger. PingInterval and PingTimeout apply to the control
	// channel too.
	Session Config
	// Connected is called when the control channel has been made, with nil, and when it is lost or cannot be made, with the reason.
	// Nil means that nobody listens.
	Connected func(error)
	Logger    *slog.Logger // nil: none
}

// Node serves the sessions of one managed node.
type Node struct {
	cfg     Settings
	log     *slog.Logger
	service *service

	ctx  context.Context // of Run
	work sync.WaitGroup  // sessions

	mu       sync.Mutex
	sock     *transport.Websocket          // nil without a control channel
	writing  sync.Mutex                    // one writes at a time; not held with mu
	up       chan struct{}                 // closed while there is one
	sessions map[string]context.CancelFunc // that run, or whose outcome is being sent
	acks     map[uuid.UUID]chan struct{}   // of outcomes
}

// New returns a node.
func New(cfg Settings) (*Node, error) {
	endpoint, err := url.Parse(cfg.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("the message gateway's endpoint: %w", err)
	}
	if err := transport.CheckURL(websocketURL(endpoint)); err != nil {
		return nil, fmt.Errorf("the message gateway's endpoint %q: %w", cfg.Endpoint, err)
	}
	cfg.Session.PingInterval = cmp.Or(cfg.Session.PingInterval, defaultPingInterval)
	cfg.Session.PingTimeout = cmp.Or(cfg.Session.PingTimeout, defaultPingTimeout)
	n := &Node{
		cfg: cfg, log: cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler)),
		service: &service{
			endpoint: endpoint, region: cfg.Region, creds: cfg.Credentials,
			client: stayingClient(cfg.HTTPClient), signer: v4.NewSigner(),
		},
		up: make(chan struct{}), sessions: map[string]context.CancelFunc{}, acks: map[uuid.UUID]chan struct{}{},
	}
	return n, nil
}

// Run keeps the control channel and serves sessions until ctx is done. It returns when all sessions have ended.
func (n *Node) Run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	n.ctx = ctx
	defer n.work.Wait()
	defer cancel()
	for failures := 0; ctx.Err() == nil; failures++ {
		opened := time.Now()
		err := n.control(ctx)
		if ctx.Err() != nil {
			return
		}
		n.log.Info("no control channel", "err", err)
		n.tell(err)
		if time.Since(opened) >= steadyControl {
			failures = 0
		}
		pause := backoff.After(failures, firstPause, mostPause)
		if sleep.For(ctx, backoff.Between(pause/2, pause, rand.N[time.Duration])) != nil {
			return
		}
	}
}

func (n *Node) tell(err error) {
	if n.cfg.Connected != nil {
		n.cfg.Connected(err)
	}
}

// control is the control channel, from its making to its loss.
func (n *Node) control(ctx context.Context) error {
	sock, err := n.service.openControl(ctx, n.cfg.ID)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = sock.Close() })
	defer stop()
	n.attach(sock)
	n.tell(nil)
	n.log.Info("control channel open", "node", n.cfg.ID)
	var pings sync.WaitGroup
	live, end := context.WithCancel(ctx)
	pings.Go(func() { n.ping(live, sock) })
	defer pings.Wait()
	defer end()
	defer func() { _ = sock.Close() }() // the other end may have closed it
	defer n.detach()
	var buf []byte
	for {
		if buf, err = sock.Read(buf); err != nil {
			return err
		}
		msg, err := frame.Decode(buf)
		if err == nil {
			err = n.receive(&msg)
		}
		if err != nil {
			n.log.Warn("message of the control channel ignored", "err", err)
		}
	}
}

func (n *Node) attach(sock *transport.Websocket) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sock = sock
	close(n.up)
}

func (n *Node) detach() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sock = nil
	n.up = make(chan struct{})
}

// ping pings now and then, and closes a websocket that does not answer.
func (n *Node) ping(ctx context.Context, sock *transport.Websocket) {
	for sleep.For(ctx, n.cfg.Session.PingInterval) == nil {
		within, cancel := context.WithTimeout(ctx, n.cfg.Session.PingTimeout)
		err := sock.Ping(within)
		cancel()
		if err != nil {
			_ = sock.Close() // the reader finds out
			return
		}
	}
}

// --- messages ---

// receive takes a message of the control channel. The error says why it is ignored.
func (n *Node) receive(msg *frame.Message) error {
	switch msg.Type {
	case frame.InteractiveShell:
		return n.begin(msg.Payload)
	case frame.ChannelClosed:
		id, err := parseClosed(msg.Payload)
		if err != nil {
			return err
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if cancel := n.sessions[id]; cancel != nil {
			cancel()
		}
		return nil
	case frame.TaskAcknowledge:
		id, err := parseTaskAck(msg.Payload)
		if err != nil {
			return err
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if ack := n.acks[id]; ack != nil {
			close(ack)
			delete(n.acks, id)
		}
		return nil
	}
	// AWS's agent in a container drops agent_job (Run Command) without an answer too.
	return fmt.Errorf("message of type %q", msg.Type)
}

// parseClosed returns the session that a channel_closed message ends.
func parseClosed(payload []byte) (session string, err error) {
	var closed struct {
		SessionID string `json:"SessionId"`
	}
	if err := json.Unmarshal(payload, &closed); err != nil {
		return "", fmt.Errorf("channel_closed: %w", err)
	}
	return closed.SessionID, nil
}

// parseTaskAck returns the outcome's message that an agent_task_acknowledge message is about.
func parseTaskAck(payload []byte) (uuid.UUID, error) {
	var ack struct {
		MessageID uuid.UUID `json:"MessageId"`
	}
	if err := json.Unmarshal(payload, &ack); err != nil {
		return uuid.UUID{}, fmt.Errorf("agent_task_acknowledge: %w", err)
	}
	return ack.MessageID, nil
}

// begin starts the session that a task message asks for. One that runs already is not started again.
func (n *Node) begin(payload []byte) error {
	task, err := ParseTask(payload)
	if task.SessionID == "" {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sessions[task.SessionID] != nil {
		return errors.New("the session " + task.SessionID + " runs already")
	}
	if len(n.sessions) >= mostSessions {
		return fmt.Errorf("%d sessions run already", mostSessions)
	}
	ctx, cancel := context.WithCancel(n.ctx)
	n.sessions[task.SessionID] = cancel
	n.work.Go(func() {
		defer cancel()
		n.log.Info("session begins", "session", task.SessionID, "owner", task.Owner, "document", task.Document, "port", task.Port)
		result := Result{Status: statusFailed}
		if err != nil {
			result.Output = err.Error()
		} else {
			result = n.serve(ctx, task)
		}
		n.report(task.SessionID, result)
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.sessions, task.SessionID)
	})
	return nil
}

// serve serves a session until its end.
func (n *Node) serve(ctx context.Context, task Task) Result {
	cfg := n.cfg.Session
	cfg.Logger = n.log
	cfg.Handler = n.cfg.Ports[task.Port]
	cfg.Dial = func(ctx context.Context) (transport.Socket, error) {
		return n.service.openData(ctx, n.cfg.ID, task.SessionID)
	}
	result := Serve(ctx, task, cfg)
	if ctx.Err() != nil && n.ctx.Err() == nil {
		return Result{Status: statusSuccess} // ended by channel_closed on the control channel
	}
	return result
}

// taskComplete is the payload of an outcome, with the keys in the agent's order.
type taskComplete struct {
	SchemaVersion    int
	TaskID           string `json:"TaskId"`
	Topic            string
	FinalTaskStatus  string
	IsRoutingFailure bool
	AwsAccountID     string `json:"AwsAccountId"`
	InstanceID       string `json:"InstanceId"`
	Output           string
	S3Bucket         string
	S3UrlSuffix      string
	CwlGroup         string
	CwlStream        string
	RetryNumber      int
}

// report tells the service how a session ended.
func (n *Node) report(session string, r Result) {
	ctx, cancel := context.WithTimeout(n.ctx, reportLimit)
	defer cancel()
	id, ack := uuid.New(), make(chan struct{})
	output := strings.ToValidUTF8(r.Output[:min(len(r.Output), mostOutput)], "")
	n.mu.Lock()
	n.acks[id] = ack
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.acks, id)
	}()
	for try := 1; try <= reportTries; try++ {
		msg := frame.Message{Type: frame.TaskComplete, Created: time.Now(), ID: id, Payload: mustJSON(taskComplete{
			SchemaVersion: 1, TaskID: session, Topic: topicComplete, FinalTaskStatus: r.Status, InstanceID: n.cfg.ID, Output: output,
			RetryNumber: try,
		})}
		if n.send(ctx, msg.Append(nil)) != nil {
			return
		}
		again := time.NewTimer(reportPause)
		select {
		case <-ack:
			again.Stop()
			return
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return
		}
	}
	n.log.Info("the service has not acknowledged a session's outcome", "session", session)
}

// send sends a message on the control channel, once there is one.
func (n *Node) send(ctx context.Context, msg []byte) error {
	for {
		n.mu.Lock()
		sock, up := n.sock, n.up
		n.mu.Unlock()
		select {
		case <-up:
		case <-ctx.Done():
			return ctx.Err()
		}
		if sock == nil {
			continue
		}
		n.writing.Lock()
		err := sock.Write(msg, false)
		n.writing.Unlock()
		if err == nil {
			return nil
		}
		if err := sleep.For(ctx, reportPause); err != nil { // its reader finds out
			return err
		}
	}
}
