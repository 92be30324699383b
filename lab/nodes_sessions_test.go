package lab_test

import (
	"bytes"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/gateway"
	"github.com/bastion-ssm/bastion/sessions"
)

// portNode is a connected node in a task of its own, whose sessions reach a server at addr.
func portNode(t *testing.T, l *lab.Lab, addr string) *labNode {
	t.Helper()
	n := newNode(t, l, runBare(t, l))
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n.port = port
	n.online(l)
	return n
}

// openPort opens a session by the product's client.
func openPort(t *testing.T, l *lab.Lab, n *labNode) *sessions.Stream {
	t.Helper()
	port, err := strconv.Atoi(n.port)
	if err != nil {
		t.Fatal(err)
	}
	s, err := sessions.New(sessions.Config{SSM: ssm.NewFromConfig(sdk(t, l.Env()))}).OpenPort(t.Context(), sessions.Port{
		Target: n.target, Port: port, ServerFirst: true, ServerFirstTimeout: 20 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	greeting := make([]byte, len(hello))
	if _, err := io.ReadFull(s, greeting); err != nil || string(greeting) != hello {
		t.Fatalf("%q, %v", greeting, err)
	}
	return s
}

// exchange sends data to an echo server, disturbs the session after each part, and checks what comes back.
func exchange(t *testing.T, s io.ReadWriter, parts int, disturb func(i int)) {
	t.Helper()
	const size = 32 << 10
	data := bytes.Repeat([]byte("what goes must come back, and once: 0123456789\n"), parts*size/47+1)[:parts*size]
	for i := range data {
		data[i] ^= byte(i >> 8) // no two stretches are the same
	}
	sent := make(chan error, 1)
	go func() {
		_, err := s.Write(data)
		sent <- err
	}()
	got := make([]byte, len(data))
	for i := range parts {
		if _, err := io.ReadFull(s, got[i*size:(i+1)*size]); err != nil {
			t.Fatalf("part %d: %v", i, err)
		}
		disturb(i)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if !bytes.Equal(got, data) {
		t.Error("the data has changed on its way")
	}
}

func live(l *lab.Lab) int64 { return l.Gateway().Counters().Live }

// A port session of the product's client through a node, from the start to the end.
func TestNodeSession(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	n := portNode(t, l, echoServer(t, hello))
	s := openPort(t, l, n)
	if task := await(t, n.tasks); task.Parameters["portNumber"] != n.port {
		t.Errorf("task %+v", task)
	}
	exchange(t, s, 8, func(int) {})
	const size = 256 << 10
	if info := l.Gateway().Sessions()[0]; !info.Node || !info.AgentConnected || !info.Connected ||
		info.BytesUp < size || info.BytesDown < size {
		t.Errorf("session %+v", info)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "the session ends", func() bool { return live(l) == 0 })
	calls := l.Calls()
	for _, action := range []string{"CreateControlChannel", "OpenControlChannel", "CreateDataChannel", "OpenDataChannel"} {
		if calls["ssmmessages:"+action] != 1 {
			t.Errorf("%d calls of %s", calls["ssmmessages:"+action], action)
		}
	}
}

// Each side may lose its websocket at any time, in any way: nothing is lost, and nothing comes twice.
func TestNodeSessionResumes(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	n := portNode(t, l, echoServer(t, hello))
	s := openPort(t, l, n)
	g := l.Gateway()
	exchange(t, s, 8, func(i int) {
		how := []string{gateway.CutClose, gateway.CutReset}[i/2%2]
		cut := g.CutAgent
		if i%2 == 0 {
			cut = g.Cut
		}
		eventually(t, "a websocket to cut", func() bool { return cut("", how) == 1 })
	})
	if info := g.Sessions()[0]; info.Resumes < 3 || g.Counters().AgentCuts != 4 {
		t.Errorf("session %+v, %+v", info, g.Counters())
	}
	eventually(t, "the node connects again each time", func() bool { return l.Calls()["ssmmessages:CreateDataChannel"] == 5 })
	// The faults cut a node's websocket, too, and disturb its messages.
	if err := g.SetFaults(gateway.Faults{
		CutEveryMS: 300, CutSide: gateway.CutBoth, Drop: 0.01, Duplicate: 0.01, Reorder: 0.01, DelayMS: 1, Seed: 1,
	}); err != nil {
		t.Fatal(err)
	}
	exchange(t, s, 4, func(int) {})
	if err := g.SetFaults(gateway.Faults{}); err != nil {
		t.Fatal(err)
	}
}

// A node may connect its data channel before the client's websocket is there, and after it.
func TestNodeComesFirst(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	n := portNode(t, l, echoServer(t, hello))
	out, err := startSession(t, l, n.target)
	if err != nil {
		t.Fatal(err)
	}
	session := func() gateway.Info { return l.Gateway().Sessions()[0] }
	eventually(t, "the node is there", func() bool { return session().AgentConnected })
	if session().Connected {
		t.Error("a client is there")
	}
	terminate(t, l, *out.SessionId)
	eventually(t, "the session ends", func() bool { return live(l) == 0 && n.idle() })
}

// terminate ends a session as its client may.
func terminate(t *testing.T, l *lab.Lab, id string) {
	t.Helper()
	_, err := ssm.NewFromConfig(sdk(t, l.Env())).TerminateSession(t.Context(), &ssm.TerminateSessionInput{SessionId: &id})
	if err != nil {
		t.Fatal(err)
	}
}

// idle reports whether the node has ended all of its sessions.
func (n *labNode) idle() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.sessions) == 0
}

// What ends a session for the service, ends it at the node and at the client.
func TestNodeSessionEnds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		idle   time.Duration
		end    func(t *testing.T, l *lab.Lab, id string)
		want   string
		byData bool // the node can know by its data channel alone
	}{
		{"terminated", 0, terminate, "", false},
		{"without the control channel", 0, func(t *testing.T, l *lab.Lab, id string) {
			if n := l.Gateway().CutControl("", gateway.CutReset); n != 1 {
				t.Errorf("cut %d control channels", n)
			}
			if err := l.Gateway().Terminate(id); err != nil {
				t.Error(err)
			}
		}, "", true},
		{"idle", time.Second, func(*testing.T, *lab.Lab, string) {}, "timed out", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := quick(t)
			cfg.Gateway.IdleTimeout = tt.idle
			l := start(t, cfg)
			n := portNode(t, l, echoServer(t, hello))
			s := openPort(t, l, n)
			tt.end(t, l, l.Gateway().Sessions()[0].ID)
			n.stay()
			if _, err := s.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("the client reads: %v", err)
			}
			eventually(t, "the node's part ends", n.idle)
			if got := await(t, n.closed); tt.byData && !strings.HasPrefix(got, "data ") {
				t.Errorf("closed: %s", got)
			}
			if live(l) != 0 {
				t.Error("a session is live")
			}
		})
	}
}

// The far end's end is the session's, whose client gets the node's words.
func TestNodeEndsSession(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	n := portNode(t, l, echoServer(t, hello))
	s := openPort(t, l, n)
	n.report(l.Gateway().Sessions()[0].ID, "this is the end")
	if _, err := s.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "this is the end") {
		t.Errorf("the client reads: %v", err)
	}
	if live(l) != 0 {
		t.Error("a session is live")
	}
	n.report("no-session", "") // is acknowledged, too
	if _, err := n.create("data-channel/no-session"); err == nil || !strings.Contains(err.Error(), "Session does not exist") {
		t.Error(err)
	}
}

// A data channel is for the node of the session's target alone.
func TestDataChannelIsChecked(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	n, other := newNode(t, l, runBare(t, l)), newNode(t, l, runBare(t, l))
	n.online(l)
	other.online(l)
	out, err := startSession(t, l, n.target)
	if err != nil {
		t.Fatal(err)
	}
	channel := "data-channel/" + *out.SessionId
	admin, err := sdk(t, l.Env()).Credentials.Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.create(channel); err == nil || !strings.Contains(err.Error(), "Session does not exist") {
		t.Errorf("another node: %v", err)
	}
	own := n.creds
	n.creds = admin
	if _, err := n.create(channel); err == nil || !strings.Contains(err.Error(), "AccessDeniedException") {
		t.Errorf("a user: %v", err)
	}
	n.creds = own
	token, err := n.create(channel)
	if err != nil {
		t.Fatal(err)
	}
	hello := map[string]string{"ClientId": "", "ClientInstanceId": n.target}
	connected := func(by *labNode, token string, hello map[string]string) bool {
		t.Helper()
		ws, err := by.dial(channel + "?role=publish_subscribe")
		if err == nil {
			err = by.open(ws, token, hello)
		}
		if err != nil {
			t.Fatal(err)
		}
		_, b, err := ws.Read(t.Context())
		if err != nil {
			return false
		}
		f, err := parseNodeFrame(b)
		if err != nil || f.typ != "pause_publication" {
			t.Errorf("%+v, %v", f, err)
		}
		return true
	}
	if connected(other, token, hello) {
		t.Error("another node opens the data channel")
	}
	if connected(n, "x", hello) || connected(n, *out.TokenValue, hello) {
		t.Error("another token opens the node's data channel")
	}
	if connected(n, token, map[string]string{"ClientInstanceId": other.target}) {
		t.Error("another id opens the node's data channel")
	}
	if !connected(n, token, hello) {
		t.Error("the node is refused")
	}
	if connected(n, token, hello) {
		t.Error("a token opens two websockets")
	}
	if err := l.SetAPIFaults(lab.APIFaults{Deny: []string{"ssmmessages:OpenDataChannel"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.dial(channel + "?role=publish_subscribe"); err == nil || !strings.Contains(err.Error(), "ssmmessages:OpenDataChannel") {
		t.Errorf("without the permission: %v", err)
	}
	if err := l.Gateway().Terminate(*out.SessionId); err != nil {
		t.Fatal(err)
	}
	if _, err := n.create(channel); err == nil || !strings.Contains(err.Error(), "Session is already terminated") {
		t.Errorf("after the end: %v", err)
	}
}

// A node's task stops: so do its sessions.
func TestNodeTaskStops(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	n := portNode(t, l, echoServer(t, hello))
	s := openPort(t, l, n)
	if err := l.StopTask(t.Context(), l.Tasks()[0].ID, "enough"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(make([]byte, 1)); err == nil {
		t.Error("the session lives on")
	}
	_, err := startSession(t, l, n.target)
	wantCode(t, err, "TargetNotConnected", aws.ToString(&n.target))
}
