package lab

import (
	"context"
	"encoding/xml"
	"errors"
	"net/http"
	"net/url"

	"github.com/bastion-ssm/bastion/lab/awsapi"
	"github.com/bastion-ssm/bastion/lab/gateway"
)

// ssmMessages is the name of the message gateway's API for nodes.
const ssmMessages = "ssmmessages"

// nodes is that API, by which a program in a task becomes the SSM agent of the task's container: a node.
type nodes struct {
	site
	ecs        *ecs
	gw         *gateway.Gateway
	identities *awsapi.Directory
	api        func() *awsapi.Server
}

func (n *nodes) service() awsapi.Service {
	return awsapi.Service{
		Name: ssmMessages, Protocol: awsapi.RESTXML,
		Ops: map[string]awsapi.Op{
			"CreateControlChannel": {
				Handle: n.createControlChannel, Route: "POST /v1/control-channel/{target}", Status: http.StatusCreated,
			},
			"CreateDataChannel": {Handle: n.createDataChannel, Route: "POST /v1/data-channel/{session}", Status: http.StatusCreated},
			// Upgrades to websockets, which the gateway serves.
			"OpenControlChannel": {},
			"OpenDataChannel":    {},
		},
	}
}

// createInput is the body of both calls.
type createInput struct {
	MessageSchemaVersion string
	RequestID            string `json:"RequestId"`
}

// check refuses what the models of the calls do not allow.
func (in *createInput) check() error {
	const leastRequestID = 16
	if in.MessageSchemaVersion != "1.0" || len(in.RequestID) < leastRequestID {
		return awsapi.Errorf("BadRequest", "MessageSchemaVersion is %q, and RequestId has %d characters: want 1.0 and at least %d.",
			in.MessageSchemaVersion, len(in.RequestID), leastRequestID)
	}
	return nil
}

// channelToken is the answer of both calls.
type channelToken struct {
	XMLName              xml.Name
	MessageSchemaVersion string
	TokenValue           string
}

func (n *nodes) createControlChannel(_ context.Context, c *awsapi.Call) (any, error) {
	var in createInput
	if err := errors.Join(c.Bind(&in), in.check()); err != nil {
		return nil, err
	}
	target := c.Form.Get("target")
	if err := n.isNode(&c.Identity, c.Name(), target); err != nil {
		return nil, err
	}
	token, err := n.gw.ControlToken(target)
	return channelToken{xml.Name{Local: "CreateControlChannelResponse"}, in.MessageSchemaVersion, token}, nodeError(err)
}

func (n *nodes) createDataChannel(_ context.Context, c *awsapi.Call) (any, error) {
	var in createInput
	if err := errors.Join(c.Bind(&in), in.check()); err != nil {
		return nil, err
	}
	session := c.Form.Get("session")
	t := n.ecs.byCaller(c.Identity.ARN)
	if t == nil {
		return nil, n.foreign(&c.Identity, c.Name(), "*")
	}
	token, err := n.gw.NodeToken(session, t.target())
	return channelToken{xml.Name{Local: "CreateDataChannelResponse"}, in.MessageSchemaVersion, token}, nodeError(err)
}

// isNode returns an error unless the caller is the role's session of the task that the target names, and the task's program runs.
// What AWS checks is not known.
func (n *nodes) isNode(caller *awsapi.Identity, action, target string) error {
	t := n.ecs.byCaller(caller.ARN)
	if t == nil || t.target() != target {
		return n.foreign(caller, action, target)
	}
	return nil
}

// foreign is the error for a caller that is not the node.
func (n *nodes) foreign(caller *awsapi.Identity, action, resource string) error {
	none := *caller
	none.Policies, none.Ledger = nil, nil
	return none.Authorize(awsapi.RESTXML, awsapi.Access{Action: action, Resource: resource})
}

func nodeError(err error) error {
	switch {
	case errors.Is(err, gateway.ErrTerminated):
		return awsapi.Errorf("BadRequest", "Session is already terminated") // which AWS's agent looks for
	case errors.Is(err, gateway.ErrNoSession):
		return awsapi.Errorf("BadRequest", "Session does not exist")
	case errors.Is(err, gateway.ErrClosed), errors.Is(err, gateway.ErrDown):
		return &awsapi.Error{Code: "ServiceUnavailable", Message: err.Error(), Status: http.StatusServiceUnavailable}
	}
	return err
}

// admit decides about a websocket's upgrade, for the gateway. A data channel whose signer is not the target's role is a client's.
func (n *nodes) admit(w http.ResponseWriter, r *http.Request, action, target string) (isNode, ok bool) {
	if action == gateway.OpenDataChannel {
		key, _ := awsapi.Scope(r)
		signer, _ := n.identities.Get(key)
		if t := n.ecs.byCaller(signer.ARN); t == nil || t.target() != target {
			return false, true
		}
	}
	caller, ok := n.api().Admit(w, r, action, url.Values{"target": {target}})
	if !ok {
		return false, false
	}
	if err := n.isNode(&caller, action, target); err != nil {
		n.api().Refuse(w, ssmMessages, err)
		return false, false
	}
	return true, true
}

// byCaller returns the task whose role's session has the ARN, if the task's program runs; nil: none.
func (e *ecs) byCaller(arn string) *task {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range e.tasks {
		if t.container != nil && t.exitCode == nil && t.role() != "" && e.roleARN(t.role(), t.id) == arn {
			return t
		}
	}
	return nil
}
