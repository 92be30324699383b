package gateway

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

// dialNode opens one of a node's channels. (Package lab tests what a node does with them.)
func dialNode(t *testing.T, g *Gateway, path, token string) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	base, _, _ := strings.Cut(g.StreamURL("x"), streamPath)
	ws, _, err := websocket.Dial(ctx, base+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	b, err := json.Marshal(map[string]string{
		"MessageSchemaVersion": "1.0", "RequestId": uuid.NewString(), "TokenValue": token,
		"AgentVersion": "3.3.0.0", "PlatformType": "linux", "ClientInstanceId": testTarget,
	})
	if err == nil {
		err = ws.Write(ctx, websocket.MessageText, b)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ws
}

// nextType is the type of the next message.
func nextType(t *testing.T, ws *websocket.Conn) frame.MessageType {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, b, err := ws.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	m, err := frame.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	return m.Type
}

// nodeOf connects a node to a session of its own, of which it has got the task.
func nodeOf(t *testing.T, g *Gateway) (clientToken string, dial func() *websocket.Conn) {
	t.Helper()
	token, err := g.ControlToken(testTarget)
	if err != nil {
		t.Fatal(err)
	}
	control := dialNode(t, g, controlPath+testTarget+"?role=subscribe&stream=input", token)
	waitFor(t, "the node", func() bool { return g.HasNode(testTarget) })
	clientToken, err = g.Start(Spec{ID: "s", Document: DocSSH, Target: testTarget, Port: 22, Node: true})
	if err != nil {
		t.Fatal(err)
	}
	if typ := nextType(t, control); typ != typeTask {
		t.Fatalf("%s on the control channel", typ)
	}
	return clientToken, func() *websocket.Conn {
		t.Helper()
		token, err := g.NodeToken("s", testTarget)
		if err != nil {
			t.Fatal(err)
		}
		return dialNode(t, g, streamPath+"s?role=publish_subscribe", token)
	}
}

// The gateway tells each side when the other one comes and goes, in whatever order they come.
func TestNodePublication(t *testing.T) {
	t.Parallel()
	const start, pause = frame.StartPublication, frame.PausePublication
	g := newGateway(t, Config{})
	token, dial := nodeOf(t, g)
	hears := func(who string, ws *websocket.Conn, want frame.MessageType) {
		t.Helper()
		if typ := nextType(t, ws); typ != want {
			t.Fatalf("the %s hears %s, want %s", who, typ, want)
		}
	}
	node := dial()
	hears("node", node, pause)
	client := dialWS(t, g, "s")
	hello(t, client, token)
	hears("client", client, start)
	hears("node", node, start)
	if n := g.CutAgent("s", CutReset); n != 1 {
		t.Fatal(n)
	}
	hears("client", client, pause)
	node = dial()
	hears("node", node, start)
	hears("client", client, start)
	if n := g.Cut("s", CutClose); n != 1 {
		t.Fatal(n)
	}
	hears("node", node, pause)
	later := dial() // takes the place of the earlier one
	hears("later node", later, pause)
	if status := closeStatus(t, node); status != websocket.StatusNormalClosure {
		t.Errorf("the earlier node's websocket ends with %v", status)
	}
}
