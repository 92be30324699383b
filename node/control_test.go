package node

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/coder/websocket"
	"github.com/google/uuid"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

const nodeID = "ecs:demo_0123456789abcdef0123456789abcdef_0123456789abcdef0123456789abcdef-0000000001"

// fakeService is the message gateway with one node, over HTTP. Each data channel leads to a gateway in memory.
type fakeService struct {
	t    testing.TB
	srv  *httptest.Server
	node *Node
	g    *gateway

	serving sync.WaitGroup // connections, which the server does not wait for once they are websockets

	mu        sync.Mutex
	denied    int // control channels to refuse yet
	tokens    map[string]bool
	control   *websocket.Conn
	hellos    []map[string]string
	inputs    []map[string]string
	outcomes  []outcome
	ignore    int           // outcomes not to acknowledge
	deaf      bool          // the next control channel is not read
	session   Config        // settings of sessions
	stop      chan struct{} // closed at the test's end
	connected chan struct{} // one for each control channel
	reported  chan struct{} // one for each outcome
	keys      map[string]bool
}

type outcome struct {
	taskComplete
	id uuid.UUID
}

func newFakeService(t testing.TB) *fakeService {
	f := &fakeService{
		t: t, g: &gateway{rng: rand.New(rand.NewPCG(1, 2))}, tokens: map[string]bool{}, keys: map[string]bool{},
		stop: make(chan struct{}), connected: make(chan struct{}, 100), reported: make(chan struct{}, 100),
	}
	f.srv = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(func() {
		close(f.stop)
		f.srv.Close()
		f.serving.Wait()
	})
	return f
}

func (f *fakeService) serve(w http.ResponseWriter, r *http.Request) {
	f.serving.Add(1)
	defer f.serving.Done()
	f.checkSignature(r)
	kind, id, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/"), "/")
	if r.Method == http.MethodPost {
		f.create(w, r, kind, id)
		return
	}
	query := map[string]string{"control-channel": "role=subscribe&stream=input", "data-channel": "role=publish_subscribe"}[kind]
	if r.URL.RawQuery != query {
		f.t.Errorf("query %q of a %s", r.URL.RawQuery, kind)
	}
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		f.t.Error(err)
		return
	}
	defer func() { _ = ws.CloseNow() }() // the node may have closed it
	ws.SetReadLimit(frame.MaxPayload + frame.Overhead)
	typ, b, err := ws.Read(r.Context())
	var hello map[string]string
	if err != nil || typ != websocket.MessageText || json.Unmarshal(b, &hello) != nil {
		f.t.Errorf("hello %q of type %v: %v", b, typ, err)
		return
	}
	f.mu.Lock()
	f.hellos = append(f.hellos, hello)
	if !f.tokens[hello["TokenValue"]] {
		f.t.Errorf("token %q", hello["TokenValue"])
	}
	delete(f.tokens, hello["TokenValue"])
	f.mu.Unlock()
	if kind == "control-channel" {
		f.serveControl(r.Context(), ws)
	} else {
		f.serveData(r.Context(), ws)
	}
}

// checkSignature looks at the form of the signature; the lab verifies it.
func (f *fakeService) checkSignature(r *http.Request) {
	authorization := r.Header.Get("Authorization")
	if !strings.Contains(authorization, "/eu-west-1/ssmmessages/aws4_request") || r.Header.Get("X-Amz-Security-Token") != "token" {
		f.t.Errorf("%s %s is signed as %q", r.Method, r.URL, authorization)
	}
	_, key, _ := strings.Cut(authorization, "Credential=")
	key, _, _ = strings.Cut(key, "/")
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys[key] = true
}

func (f *fakeService) create(w http.ResponseWriter, r *http.Request, kind, id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var input map[string]string
	if err := json.NewDecoder(r.Body).Decode(&input); err != nil || kind == "control-channel" && id != nodeID {
		f.t.Errorf("create %s %s: %v", kind, id, err)
	}
	f.inputs = append(f.inputs, input)
	if kind == "control-channel" && f.denied > 0 {
		f.denied--
		http.Error(w, "<AccessDeniedException><Message>no</Message></AccessDeniedException>", http.StatusForbidden)
		return
	}
	token := uuid.NewString()
	f.tokens[token] = true
	w.WriteHeader(http.StatusCreated)
	_ = xml.NewEncoder(w).Encode(struct {
		XMLName                          xml.Name `xml:"CreateChannelResponse"`
		MessageSchemaVersion, TokenValue string
	}{MessageSchemaVersion: "1.0", TokenValue: token})
}

func (f *fakeService) serveControl(ctx context.Context, ws *websocket.Conn) {
	f.mu.Lock()
	f.control = ws
	deaf := f.deaf
	f.deaf = false
	f.mu.Unlock()
	f.connected <- struct{}{}
	if deaf {
		<-f.stop
		return
	}
	for {
		_, b, err := ws.Read(ctx)
		if err != nil {
			return
		}
		m, err := frame.Decode(b)
		var o outcome
		if err != nil || m.Type != frame.TaskComplete || json.Unmarshal(m.Payload, &o.taskComplete) != nil {
			f.t.Errorf("message %q on the control channel: %v", b, err)
			continue
		}
		o.id = m.ID
		f.mu.Lock()
		f.outcomes = append(f.outcomes, o)
		ignored := f.ignore > 0
		f.ignore--
		f.mu.Unlock()
		if !ignored {
			f.send(frame.TaskAcknowledge, mustJSON(map[string]any{"SchemaVersion": 1, "MessageId": m.ID, "TaskId": o.TaskID, "Topic": o.Topic}))
		}
		f.reported <- struct{}{}
	}
}

// send sends a message on the control channel.
func (f *fakeService) send(typ frame.MessageType, payload []byte) {
	m := frame.Message{Type: typ, Created: time.Now(), Flags: frame.FlagAck, ID: uuid.New(), Payload: payload}
	f.mu.Lock()
	ws := f.control
	f.mu.Unlock()
	if err := ws.Write(context.Background(), websocket.MessageBinary, m.Append(nil)); err != nil {
		f.t.Error(err)
	}
}

// serveData joins a data channel to the gateway in memory.
func (f *fakeService) serveData(ctx context.Context, ws *websocket.Conn) {
	sock, err := f.g.dial(atNode)(ctx)
	if err != nil {
		f.t.Error(err)
		return
	}
	defer sock.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer func() { _ = ws.CloseNow() }() // the node may have closed it
		for {
			b, err := sock.Read(nil)
			if err != nil || ws.Write(ctx, websocket.MessageBinary, b) != nil {
				return
			}
		}
	}()
	for {
		_, b, err := ws.Read(ctx)
		if err != nil || sock.Write(b, false) != nil {
			return
		}
	}
}

// ended waits until the node has no session.
func (f *fakeService) ended(t *testing.T) {
	t.Helper()
	for range 1000 {
		f.node.mu.Lock()
		left := len(f.node.sessions)
		f.node.mu.Unlock()
		if left == 0 {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	t.Fatal("a session has not ended")
}

// run runs a node at the service until the test's end.
func (f *fakeService) run(ports map[int]Handler, connected func(error)) {
	f.t.Helper()
	keys := make(chan string, 1000)
	for i := range 1000 {
		keys <- "AKID" + string(rune('A'+i%26))
	}
	n, err := New(Settings{
		ID: nodeID, Region: "eu-west-1", Endpoint: f.srv.URL, Ports: ports, Connected: connected, Session: f.session,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: <-keys, SecretAccessKey: "secret", SessionToken: "token"}, nil
		}),
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.node = n
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { n.Run(ctx) })
	f.t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	f.await("a control channel", f.connected)
}

func (f *fakeService) await(what string, c <-chan struct{}) {
	f.t.Helper()
	select {
	case <-c:
	case <-time.After(30 * time.Second):
		f.t.Fatalf("waited for %s in vain", what)
	}
}

// outcome returns the n-th outcome, counted from 0.
func (f *fakeService) outcome(n int) outcome {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.outcomes) <= n {
		f.t.Fatalf("%d outcomes", len(f.outcomes))
	}
	return f.outcomes[n]
}

// A session begins with a message of the control channel, has a data channel of its own, and ends with an outcome that is sent until
// it is acknowledged.
func TestNodeServesASession(t *testing.T) {
	f := newFakeService(t)
	f.ignore = 1
	f.run(map[int]Handler{7022: echo}, nil)
	task := taskPayload(t, "s-1", docSSH, documents[docSSH], `{"portNumber":"7022"}`)
	f.send(frame.InteractiveShell, task)
	f.send(frame.InteractiveShell, task) // again: it runs already
	c := newClient(t, f.g, rawVersion)
	readString(t, c, c, "hello")
	f.g.cut(atNode)
	readString(t, c, c, "after a cut")
	c.flag(frame.TerminateSession)
	f.await("the outcome", f.reported)
	f.await("the outcome again", f.reported)
	_ = c.Close()
	f.ended(t)
	first, second := f.outcome(0), f.outcome(1)
	want := taskComplete{
		SchemaVersion: 1, TaskID: "s-1", Topic: "agent_task_complete", FinalTaskStatus: statusSuccess, InstanceID: nodeID, RetryNumber: 1,
	}
	if first.taskComplete != want {
		t.Errorf("outcome %+v, want %+v", first, want)
	}
	if want.RetryNumber = 2; second.taskComplete != want || second.id != first.id {
		t.Errorf("outcome again %+v, want %+v", second, want)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	control, data := f.hellos[0], f.hellos[1]
	if control["AgentVersion"] != agentVersion || control["PlatformType"] != "linux" || control["MessageSchemaVersion"] != "1.0" {
		t.Errorf("hello of the control channel %v", control)
	}
	if data["ClientInstanceId"] != nodeID || data["ClientId"] != "" || data["MessageSchemaVersion"] != "1.0" || len(f.hellos) != 3 {
		t.Errorf("hellos of the data channel %v", f.hellos[1:])
	}
	if len(f.outcomes) != 2 {
		t.Errorf("%d outcomes: one is not acknowledged", len(f.outcomes))
	}
	if len(f.keys) < 4 {
		t.Errorf("the credentials are kept: %v", f.keys)
	}
}

// Sessions outlive the control channel, which is made again.
func TestNodeReconnects(t *testing.T) {
	f := newFakeService(t)
	f.denied = 1
	var mu sync.Mutex
	var states []error
	f.run(map[int]Handler{7022: echo}, func(err error) {
		mu.Lock()
		defer mu.Unlock()
		states = append(states, err)
	})
	f.send(frame.InteractiveShell, taskPayload(t, "s-1", docSSH, documents[docSSH], `{"portNumber":"7022"}`))
	c := newClient(t, f.g, rawVersion)
	readString(t, c, c, "hello")
	f.mu.Lock()
	_ = f.control.Close(websocket.StatusNormalClosure, "Bye")
	f.mu.Unlock()
	f.await("another control channel", f.connected)
	readString(t, c, c, "still here")
	f.send(frame.ChannelClosed, []byte(`{"SessionId":"s-1"}`))
	f.await("the outcome", f.reported)
	_ = c.Close()
	if o := f.outcome(0); o.FinalTaskStatus != statusSuccess || o.Output != "" {
		t.Errorf("outcome %+v", o)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(states) < 4 || states[0] == nil || !strings.Contains(states[0].Error(), "AccessDenied") || states[1] != nil || states[2] == nil {
		t.Errorf("states %v", states)
	}
}

// A control channel that does not answer is made again.
func TestNodePings(t *testing.T) {
	f := newFakeService(t)
	f.deaf = true
	f.session = Config{PingInterval: 20 * time.Millisecond, PingTimeout: 20 * time.Millisecond}
	f.run(nil, nil)
	f.await("another control channel", f.connected)
}

// What the node does not serve has an outcome, and no data channel.
func TestNodeRefuses(t *testing.T) {
	f := newFakeService(t)
	f.run(map[int]Handler{7022: echo}, nil)
	f.send("agent_job", []byte(`{}`))
	f.send(frame.InteractiveShell, []byte(`{}`))
	f.send(frame.ChannelClosed, []byte(`{"SessionId":"unknown"}`))
	f.send(frame.TaskAcknowledge, []byte(`{"MessageId":"x"}`))
	for i, kind := range []string{"Standard_Stream", strings.Repeat("ä", 100_000)} {
		f.send(frame.InteractiveShell, taskPayload(t, "s-2", "SSM-SessionManagerRunShell",
			`{"schemaVersion":"1.0","sessionType":"`+kind+`"}`, `{}`))
		f.await("the outcome", f.reported)
		o := f.outcome(i)
		if o.FinalTaskStatus != statusFailed || !strings.HasPrefix(o.Output, "Plugin with name "+kind[:4]) || len(o.Output) > mostOutput ||
			!utf8.ValidString(o.Output) {
			t.Errorf("outcome %+v", o)
		}
		f.ended(t)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.hellos) != 1 {
		t.Errorf("%d websockets", len(f.hellos))
	}
}

func TestNewRefusesEndpoints(t *testing.T) {
	for endpoint, ok := range map[string]bool{
		"https://ssmmessages.eu-west-1.example": true, "http://127.0.0.1:1": true,
		"http://ssmmessages.example": false, "ssmmessages.example": false, "": false, "ftp://x": false,
	} {
		if _, err := New(Settings{Endpoint: endpoint}); ok != (err == nil) {
			t.Errorf("%q: %v", endpoint, err)
		}
	}
}

// A redirect does not take a signed call to another server.
func TestRedirected(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the other server was asked") }))
	defer other.Close()
	srv := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer srv.Close()
	n, err := New(Settings{
		ID: nodeID, Endpoint: srv.URL, Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "a", SecretAccessKey: "b"}, nil
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.service.openControl(t.Context(), nodeID); err == nil {
		t.Error("no error")
	}
}

// A session that the service calls terminated is not resumed.
func TestTerminatedWithTheService(t *testing.T) {
	err := answerError("400 Bad Request", []byte("<Error><Message>Session is already terminated</Message></Error>"))
	if !errors.Is(err, errTerminated) || errors.Is(answerError("500", []byte("no")), errTerminated) {
		t.Error(err)
	}
}

// FuzzAnswers gives the parsers of what the service sends any bytes.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte("<CreateControlChannelResponse><TokenValue>t</TokenValue></CreateControlChannelResponse>"))
	f.Add([]byte(`{"SessionId":"s-1"}`))
	f.Add([]byte(`{"MessageId":"803ea84a-b3c8-4240-8000-000000000000","TaskId":"s-1"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if token, err := parseToken(b); err == nil && token == "" {
			t.Error("an empty token")
		}
		_, _ = parseClosed(b)
		_, _ = parseTaskAck(b)
	})
}

var _ io.ReadWriteCloser = (*client)(nil)
