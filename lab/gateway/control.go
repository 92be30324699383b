package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

// Actions that open a node's channels, as IAM names them.
const (
	CreateControlChannel = "ssmmessages:CreateControlChannel"
	OpenControlChannel   = "ssmmessages:OpenControlChannel"
	CreateDataChannel    = "ssmmessages:CreateDataChannel"
	OpenDataChannel      = "ssmmessages:OpenDataChannel"
)

// Message types of control channels.
const (
	typeTask         frame.MessageType = "interactive_shell"      // starts a session
	typeTaskComplete frame.MessageType = "agent_task_complete"    // ends it, from the node
	typeTaskAck      frame.MessageType = "agent_task_acknowledge" // of that
)

// reclaimWithin is how long AWS's agent waits at most before it connects a lost control channel again, at random.
const reclaimWithin = 2500 * time.Millisecond

// controls are the nodes' control channels, one for each target. The gateway's mutex guards them.
type controls struct {
	open   map[string]*control
	tokens map[string]string // of targets, for the next control channel
	own    map[string]bool   // targets whose sessions have an agent of the gateway's own, unless a node has the control channel
}

func newControls() controls {
	return controls{open: map[string]*control{}, tokens: map[string]string{}, own: map[string]bool{}}
}

// control is a node's control channel.
type control struct {
	*socket
	target string
	hello  opening
	since  time.Time
}

// NodeInfo describes a node by its control channel.
type NodeInfo struct {
	Target       string    `json:"target"`
	AgentVersion string    `json:"agent_version"`
	Platform     string    `json:"platform"`
	Since        time.Time `json:"since"`
}

// Nodes lists the nodes with a control channel, by target.
func (g *Gateway) Nodes() []NodeInfo {
	g.mu.Lock()
	defer g.mu.Unlock()
	nodes := []NodeInfo{}
	for _, c := range g.controls.open {
		nodes = append(nodes, NodeInfo{c.target, c.hello.AgentVersion, c.hello.PlatformType, c.since})
	}
	slices.SortFunc(nodes, func(a, b NodeInfo) int { return strings.Compare(a.Target, b.Target) })
	return nodes
}

// HasNode reports whether a node has the target's control channel.
func (g *Gateway) HasNode(target string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.controls.open[target] != nil
}

// ControlToken returns a token for the target's next control channel, and voids an earlier one. Its error is ErrClosed or
// ErrDown.
func (g *Gateway) ControlToken(target string) (token string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return "", ErrClosed
	case time.Now().Before(g.up):
		return "", ErrDown
	}
	token = newToken()
	g.controls.tokens[target] = token
	return token, nil
}

// Claim connects the gateway's own agent as the target's. There is one control channel for each target, which the last to come has. So
// Claim takes it from a node. A node that comes later has it until the agent comes back.
func (g *Gateway) Claim(target string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.controls.own[target] = true
	g.replaceLocked(target)
}

// Release ends the target's part: its agent, or its node's control channel.
func (g *Gateway) Release(target string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.controls.own, target)
	delete(g.controls.tokens, target)
	if c := g.controls.open[target]; c != nil {
		delete(g.controls.open, target)
		c.cutBy(CutReset) // its network has gone
	}
}

// CutControl cuts the control channel of a target's node, or of all nodes if target is empty. It returns how many it cut. how is as for
// Cut. Sessions live on.
func (g *Gateway) CutControl(target, how string) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for of, c := range g.controls.open {
		if target == "" || target == of {
			delete(g.controls.open, of)
			c.cutBy(how)
			n++
		}
	}
	return n
}

const controlPath = "/v1/control-channel/"

// controlID returns the target of a request for a control channel.
func controlID(r *http.Request) (target string, ok bool) {
	target, ok = strings.CutPrefix(r.URL.Path, controlPath)
	q := r.URL.Query()
	return target, ok && target != "" && r.Method == http.MethodGet && q.Get("role") == "subscribe" && q.Get("stream") == "input"
}

func (g *Gateway) admit(w http.ResponseWriter, r *http.Request, action, target string) (isNode, ok bool) {
	if g.cfg.Admit == nil {
		return true, true
	}
	return g.cfg.Admit(w, r, action, target)
}

// serveControl is a control channel until its websocket ends.
func (g *Gateway) serveControl(k *socket, h opening, target string) error {
	if h.AgentVersion == "" || h.PlatformType == "" {
		_ = k.ws.Close(websocket.StatusPolicyViolation, "no valid hello")
		return errors.New("hello without the agent's version or platform")
	}
	c := &control{socket: k, target: target, hello: h, since: time.Now()}
	k.out = newLane(&g.faults, 0)
	k.gen = k.out.attach()
	if !g.attachControl(c) {
		return k.refuse()
	}
	defer g.detachControl(c)
	life := time.AfterFunc(g.cfg.SocketLife, func() { g.endControl(c, "Bye") })
	defer life.Stop()
	log := g.log.With("node", target)
	return k.relay(log, func(b []byte) bool {
		if err := g.fromNode(c, b); err != nil {
			log.Debug("gateway: message of the control channel ignored", "err", err)
		}
		return true
	})
}

// attachControl makes c the control channel of its target if its token is right.
func (g *Gateway) attachControl(c *control) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	token := g.controls.tokens[c.target]
	if g.closed || token == "" || !equal([]byte(token), []byte(c.hello.TokenValue)) {
		return false
	}
	delete(g.controls.tokens, c.target)
	g.replaceLocked(c.target)
	g.controls.open[c.target] = c
	if g.controls.own[c.target] {
		time.AfterFunc(rand.N(reclaimWithin), func() { g.reclaim(c) })
	}
	return true
}

// replaceLocked ends the target's present control channel. Callers hold mu.
func (g *Gateway) replaceLocked(target string) {
	if old := g.controls.open[target]; old != nil {
		delete(g.controls.open, target)
		old.shut("replaced by another connection")
	}
}

// reclaim gives the target of c back to the gateway's own agent, if it still has one.
func (g *Gateway) reclaim(c *control) {
	g.mu.Lock()
	own := g.controls.own[c.target]
	g.mu.Unlock()
	if own {
		g.endControl(c, "replaced by another connection")
	}
}

// endControl ends c if it still is its target's control channel.
func (g *Gateway) endControl(c *control, reason string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.controls.open[c.target] == c {
		delete(g.controls.open, c.target)
		c.shut(reason)
	}
}

func (g *Gateway) detachControl(c *control) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.controls.open[c.target] == c {
		delete(g.controls.open, c.target)
	}
}

// toNode sends a message on the target's control channel, and reports whether there is one.
func (g *Gateway) toNode(target string, b []byte) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.controls.open[target]
	if c == nil {
		return false
	}
	c.out.control(b)
	return true
}

// fromNode takes a message of a node's control channel.
func (g *Gateway) fromNode(c *control, b []byte) error {
	m, err := frame.Decode(b)
	if err != nil {
		return err
	}
	if m.Type != typeTaskComplete {
		return fmt.Errorf("message type %q", m.Type) // such as what AWS's agent says about itself
	}
	var report struct {
		TaskID string `json:"TaskId"` // the session's id
		Topic  string
		Output string
	}
	if err := json.Unmarshal(m.Payload, &report); err != nil {
		return fmt.Errorf("%s: %w", m.Type, err)
	}
	if s := g.session(report.TaskID); s != nil && s.spec.Node && s.spec.Target == c.target {
		select {
		case s.reported <- result{output: report.Output}:
		default: // reported already
		}
	}
	// Whatever the gateway makes of it: without an acknowledgement the node would send it again.
	c.out.control(message(typeTaskAck, uuid.New(), struct {
		SchemaVersion int
		MessageID     uuid.UUID `json:"MessageId"`
		TaskID        string    `json:"TaskId"`
		Topic         string
	}{1, m.ID, report.TaskID, report.Topic}))
	return nil
}
