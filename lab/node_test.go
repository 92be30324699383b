package lab_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/coder/websocket"
	"github.com/google/uuid"

	"github.com/bastion-ssm/bastion/lab"
)

// labNode is an SSM agent for port sessions, in the place of a program in a task. It is written after the source of AWS's agent alone,
// so that the lab is tested by somebody else's understanding of the protocol.
type labNode struct {
	t      testing.TB
	api    string // URL
	target string
	creds  aws.Credentials
	tasks  chan nodeTask // those that have come; nodes without a port do nothing else with them
	closed chan string   // the channels by which channel_closed has come
	port   string        // that its sessions reach, whatever they ask for; empty: none
	chunk  atomic.Int64  // the longest payload of its messages
	ctx    context.Context
	wg     sync.WaitGroup

	mu       sync.Mutex
	control  *websocket.Conn
	sessions map[string]*nodeSession
	acked    map[uuid.UUID]chan struct{} // reports of ended sessions
}

// nodeTask is what the gateway says about a session.
type nodeTask struct {
	SessionID       string `json:"SessionId"`
	DocumentName    string
	SessionOwner    string
	RunAsUser       string
	Parameters      map[string]string
	DocumentContent struct {
		SchemaVersion, SessionType string
		Properties                 map[string]any
	}
}

// newNode is a node in the task, with what the task's program has been told.
func newNode(t testing.TB, l *lab.Lab, taskARN string) *labNode {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	n := &labNode{
		t: t, ctx: ctx, tasks: make(chan nodeTask, 100), closed: make(chan string, 100),
		sessions: make(map[string]*nodeSession), acked: make(map[uuid.UUID]chan struct{}),
	}
	n.chunk.Store(1024)
	var task struct{ Cluster, TaskARN string }
	var container struct{ DockerId string }
	metadata := said(t, l, taskARN, "metadata")
	getJSON(t, metadata+"/task", &task)
	getJSON(t, metadata, &container)
	last := func(arn string) string { return arn[strings.LastIndexByte(arn, '/')+1:] }
	n.target = "ecs:" + last(task.Cluster) + "_" + last(task.TaskARN) + "_" + container.DockerId
	n.api, _, _ = strings.Cut(said(t, l, taskARN, "api"), " ")
	n.credentials(l, taskARN)
	t.Cleanup(func() {
		cancel()
		n.hangUp()
		n.wg.Wait()
	})
	return n
}

// credentials gets the task role's credentials.
func (n *labNode) credentials(l *lab.Lab, taskARN string) {
	n.t.Helper()
	var c struct {
		RoleArn, AccessKeyId, SecretAccessKey, Token string
		Expiration                                   time.Time
	}
	getJSON(n.t, said(n.t, l, taskARN, "credentials"), &c)
	n.creds = aws.Credentials{AccessKeyID: c.AccessKeyId, SecretAccessKey: c.SecretAccessKey, SessionToken: c.Token, Expires: c.Expiration}
}

// sign signs a request as a call of the message gateway.
func (n *labNode) sign(r *http.Request, body []byte) {
	sum := sha256.Sum256(body)
	err := v4.NewSigner().SignHTTP(n.ctx, n.creds, r, hex.EncodeToString(sum[:]), "ssmmessages", "eu-central-1", time.Now())
	if err != nil {
		n.t.Error(err)
	}
}

// create gets a token for a channel: "control-channel/<target>" or "data-channel/<session>".
func (n *labNode) create(channel string) (token string, err error) {
	body := []byte(`{"MessageSchemaVersion":"1.0","RequestId":"` + uuid.NewString() + `"}`)
	if strings.HasPrefix(channel, "data-channel/") { // AWS's agent has no client id
		body = []byte(`{"MessageSchemaVersion":"1.0","RequestId":"` + uuid.NewString() + `","ClientId":""}`)
	}
	r, err := http.NewRequestWithContext(n.ctx, http.MethodPost, n.api+"/v1/"+channel, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/json")
	n.sign(r, body)
	client := &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusCreated {
		return "", fmt.Errorf("unexpected response from the service %s", text)
	}
	var out struct{ TokenValue string }
	err = xml.Unmarshal(text, &out)
	return out.TokenValue, err
}

// dial opens a channel's websocket.
func (n *labNode) dial(path string) (*websocket.Conn, error) {
	r, err := http.NewRequestWithContext(n.ctx, http.MethodGet, n.api+"/v1/"+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	n.sign(r, nil)
	ctx, cancel := context.WithTimeout(n.ctx, 15*time.Second)
	defer cancel()
	ws, resp, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(r.URL.String(), "http"), &websocket.DialOptions{HTTPHeader: r.Header})
	if err != nil && resp != nil {
		text, _ := io.ReadAll(resp.Body)
		return nil, fmt.Errorf("%w: %s", err, text)
	}
	if err == nil {
		ws.SetReadLimit(1 << 21)
	}
	return ws, err
}

func (n *labNode) dialControl() (*websocket.Conn, error) {
	return n.dial("control-channel/" + n.target + "?role=subscribe&stream=input")
}

// open is the first message of a channel.
func (n *labNode) open(ws *websocket.Conn, token string, more map[string]string) error {
	hello := map[string]string{"MessageSchemaVersion": "1.0", "RequestId": uuid.NewString(), "TokenValue": token}
	for k, v := range more {
		hello[k] = v
	}
	b, err := json.Marshal(hello)
	if err != nil {
		return err
	}
	return ws.Write(n.ctx, websocket.MessageText, b)
}

// connect opens a control channel, and serves it until it ends; then lost is closed.
func (n *labNode) connect() (lost <-chan struct{}, err error) {
	token, err := n.create("control-channel/" + n.target)
	if err != nil {
		return nil, err
	}
	ws, err := n.dialControl()
	if err != nil {
		return nil, err
	}
	if err := n.open(ws, token, map[string]string{"AgentVersion": "3.3.0.0", "PlatformType": "linux"}); err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.control = ws
	n.mu.Unlock()
	ended := make(chan struct{})
	n.wg.Go(func() {
		defer close(ended)
		n.listen(ws)
	})
	return ended, nil
}

// online connects the node, and waits until AWS knows it.
func (n *labNode) online(l *lab.Lab) (lost <-chan struct{}) {
	n.t.Helper()
	lost, err := n.connect()
	if err != nil {
		n.t.Fatal(err)
	}
	eventually(n.t, "the node is connected", func() bool { return l.Gateway().HasNode(n.target) })
	return lost
}

// stay connects again whenever the control channel is lost.
func (n *labNode) stay() {
	n.wg.Go(func() {
		for n.ctx.Err() == nil {
			if lost, err := n.connect(); err == nil {
				<-lost
			}
			timer := time.NewTimer(10 * time.Millisecond)
			select {
			case <-timer.C:
			case <-n.ctx.Done():
			}
		}
	})
}

func (n *labNode) hangUp() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.control != nil {
		_ = n.control.CloseNow()
	}
}

// listen takes the messages of a control channel.
func (n *labNode) listen(ws *websocket.Conn) {
	defer func() { _ = ws.CloseNow() }()
	for {
		_, b, err := ws.Read(n.ctx)
		if err != nil {
			return
		}
		f, err := parseNodeFrame(b)
		if err != nil {
			n.t.Error(err)
			return
		}
		var about struct{ SessionId, MessageId string }
		switch f.typ {
		case "interactive_shell":
			n.start(f.payload)
		case "channel_closed":
			err = json.Unmarshal(f.payload, &about)
			n.closed <- "control " + about.SessionId
			n.mu.Lock()
			if s := n.sessions[about.SessionId]; s != nil {
				s.cancel()
			}
			n.mu.Unlock()
		case "agent_task_acknowledge":
			err = json.Unmarshal(f.payload, &about)
			id, _ := uuid.Parse(about.MessageId)
			n.mu.Lock()
			if c := n.acked[id]; c != nil {
				close(c)
				delete(n.acked, id)
			}
			n.mu.Unlock()
		default:
			err = fmt.Errorf("message type %q", f.typ)
		}
		if err != nil {
			n.t.Error("on the control channel:", err)
		}
	}
}

// start takes the task of a session.
func (n *labNode) start(payload []byte) {
	var outer struct {
		SchemaVersion   int
		TaskId, Content string
	}
	var task nodeTask
	err := json.Unmarshal(payload, &outer)
	if err == nil {
		err = json.Unmarshal([]byte(outer.Content), &task)
	}
	if err != nil || outer.SchemaVersion != 1 || task.SessionID == "" {
		n.t.Errorf("task %s: %v", payload, err)
		return
	}
	n.tasks <- task
	if n.port == "" {
		return
	}
	s := newNodeSession(n, task)
	n.mu.Lock()
	n.sessions[task.SessionID] = s
	n.mu.Unlock()
	n.wg.Go(s.run)
}

// report tells the gateway that a session has ended, up to three times.
func (n *labNode) report(session, output string) {
	acked, id := make(chan struct{}), uuid.New()
	payload, err := json.Marshal(map[string]any{
		"SchemaVersion": 1, "TaskId": session, "Topic": "agent_task_complete", "FinalTaskStatus": "Success", "IsRoutingFailure": false,
		"AwsAccountId": "", "InstanceId": n.target, "Output": output, "S3Bucket": "", "S3UrlSuffix": "", "CwlGroup": "", "CwlStream": "",
		"RetryNumber": 1,
	})
	if err != nil {
		n.t.Error(err)
		return
	}
	n.mu.Lock()
	n.acked[id] = acked
	delete(n.sessions, session)
	n.mu.Unlock()
	for range 3 {
		n.mu.Lock()
		ws := n.control
		n.mu.Unlock()
		_ = ws.Write(n.ctx, websocket.MessageBinary, nodeFrame{typ: "agent_task_complete", id: id, payload: payload}.append(nil))
		timer := time.NewTimer(time.Second)
		select {
		case <-acked:
			return
		case <-n.ctx.Done():
			return
		case <-timer.C:
		}
	}
	n.t.Errorf("session %s: the report of its end was not acknowledged", session)
}

// nodeFrame is a binary message.
type nodeFrame struct {
	typ         string
	seq         int64
	flags       uint64
	id          uuid.UUID
	payloadType uint32
	payload     []byte
}

const nodeHeader = 116

func (f nodeFrame) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, nodeHeader)
	b = append(b, fmt.Sprintf("%-32s", f.typ)...)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint64(b, uint64(time.Now().UnixMilli()))
	b = binary.BigEndian.AppendUint64(b, uint64(f.seq))
	b = binary.BigEndian.AppendUint64(b, f.flags)
	b = append(append(b, f.id[8:]...), f.id[:8]...)
	sum := sha256.Sum256(f.payload)
	b = append(b, sum[:]...)
	b = binary.BigEndian.AppendUint32(b, f.payloadType)
	b = binary.BigEndian.AppendUint32(b, uint32(len(f.payload)))
	return append(b, f.payload...)
}

// parseNodeFrame reads a message as AWS's agent does: the header may be shorter, without the type of the payload.
func parseNodeFrame(b []byte) (f nodeFrame, err error) {
	if len(b) < nodeHeader+4 || binary.BigEndian.Uint64(b[40:]) == 0 {
		return f, fmt.Errorf("frame %x", b)
	}
	header := binary.BigEndian.Uint32(b)
	if header != nodeHeader && header != nodeHeader-4 {
		return f, fmt.Errorf("header of %d bytes: %x", header, b)
	}
	f.typ = strings.TrimSpace(strings.Trim(string(b[4:36]), "\x00"))
	f.seq, f.flags = int64(binary.BigEndian.Uint64(b[48:])), binary.BigEndian.Uint64(b[56:])
	copy(f.id[8:], b[64:72])
	copy(f.id[:8], b[72:80])
	if header == nodeHeader {
		f.payloadType = binary.BigEndian.Uint32(b[112:])
	}
	f.payload = b[header+4:]
	if sum := sha256.Sum256(f.payload); !bytes.Equal(sum[:], b[80:112]) || binary.BigEndian.Uint32(b[header:]) != uint32(len(f.payload)) {
		return f, fmt.Errorf("payload of %s %x", f.typ, b)
	}
	return f, nil
}
