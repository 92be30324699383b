package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/lab/awsapi"
	"github.com/bastion-ssm/bastion/lab/gateway"
	"github.com/bastion-ssm/bastion/lab/iam"
)

// Instance is a managed node (EC2, or on premises) with an SSM agent.
type Instance struct {
	// Ports maps ports of the node's localhost to loopback addresses of this machine: {22: "127.0.0.1:40022"}. Other ports are
	// closed.
	Ports map[int]string
	// Offline nodes are registered but not connected.
	Offline bool
	// ActiveKeys is a directory for the keys that EC2 Instance Connect sends to the node. It gets a file in authorized_keys form
	// for each user, for sshd's AuthorizedKeysFile. Without it the node takes none.
	ActiveKeys string
	Tags       map[string]string // by which policies know it
}

// document is a session document with its parameters.
type document struct {
	name   string // the gateway's name for its function
	params []documentParam
}

type documentParam struct {
	name, pattern, value string // value is the default
	required             bool
}

const (
	portPattern      = `^([1-9]|[1-9][0-9]{1,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$`
	localPortPattern = `^([0-9]|[1-9][0-9]{1,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$`
	hostPattern      = "^[^,$^&\\(\\)!;'\"<>\\`{}\\[\\]\\|#=]{3,}$"
)

var documents = map[string]document{
	gateway.DocSSH: {gateway.DocSSH, []documentParam{
		{name: "portNumber", pattern: portPattern, value: "22"},
	}},
	gateway.DocPort: {gateway.DocPort, []documentParam{
		{name: "portNumber", pattern: portPattern, value: "80"},
		{name: "localPortNumber", pattern: localPortPattern, value: "0"},
	}},
	gateway.DocPortRemote: {gateway.DocPortRemote, []documentParam{
		{name: "portNumber", pattern: portPattern, value: "80"},
		{name: "localPortNumber", pattern: localPortPattern, value: "0"},
		{name: "host", pattern: hostPattern, required: true},
	}},
	gateway.DocShell: {gateway.DocShell, nil},
}

// parameters checks the client's parameters for the document and fills in the defaults.
func (d document) parameters(given map[string][]string) (map[string]string, error) {
	values := make(map[string]string)
	for _, p := range d.params {
		v, ok := given[p.name]
		switch {
		case !ok && p.required:
			return nil, invalidDocParam("Parameter %s is required by document %s.", p.name, d.name)
		case !ok:
			values[p.name] = p.value
			continue
		case len(v) != 1:
			return nil, invalidDocParam("Parameter %s of document %s takes one value, not %d.", p.name, d.name, len(v))
		}
		if !regexp.MustCompile(p.pattern).MatchString(v[0]) {
			return nil, invalidDocParam("Parameter %s has value %q, which does not match %s.", p.name, v[0], p.pattern)
		}
		values[p.name] = v[0]
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if _, known := values[name]; !known {
			return nil, invalidDocParam("Parameter %s is not defined in document %s.", name, d.name)
		}
	}
	return values, nil
}

func invalidDocParam(format string, args ...any) error {
	return awsapi.Errorf("InvalidParameters", format, args...)
}

// validationError returns the error of JSON APIs for a member that violates its model's constraint.
func validationError(value any, member, constraint string) error {
	return awsapi.Errorf("ValidationException",
		"1 validation error detected: Value '%v' at '%s' failed to satisfy constraint: %s",
		value, member, constraint)
}

// ssm is Session Manager, and Parameter Store.
type ssm struct {
	site
	log      *slog.Logger
	ecs      *ecs
	sessions *sessions
	faults   *faults
	kmsKey   string // for shell sessions

	mu          sync.Mutex
	instances   map[string]Instance
	preferences *SessionPreferences  // nil: nobody has set some
	parameters  map[string]parameter // by name
}

func (s *ssm) service() awsapi.Service {
	return awsapi.Service{
		Name: "ssm", Protocol: awsapi.JSON, Target: "AmazonSSM", Version: "2014-11-06",
		Ops: map[string]awsapi.Op{
			"StartSession":     {Handle: jsonOp(s.startSession), Access: s.startSessionAccess},
			"ResumeSession":    {Handle: jsonOp(s.resumeSession), Access: s.sessionAccess},
			"TerminateSession": {Handle: jsonOp(s.terminateSession), Access: s.sessionAccess},
			"DescribeSessions": {Handle: jsonOp(s.describeSessions)},
			"GetDocument":      {Handle: jsonOp(s.getDocument), Access: s.getDocumentAccess},
			"GetParameter":     {Handle: jsonOp(s.getParameter), Access: s.parameterAccess},
			"PutParameter":     {Handle: jsonOp(s.putParameter), Access: s.parameterAccess},
			"DeleteParameter":  {Handle: jsonOp(s.deleteParameter), Access: s.parameterAccess},
		},
	}
}

type startSessionInput struct {
	Target       string              `json:"Target"`
	DocumentName string              `json:"DocumentName"`
	Parameters   map[string][]string `json:"Parameters"`
	Reason       string              `json:"Reason"`
}

type startSessionOutput struct {
	SessionID  string `json:"SessionId"`
	StreamURL  string `json:"StreamUrl"`
	TokenValue string `json:"TokenValue"`
}

// startSessionAccess returns the accesses to the target and the document.
func (s *ssm) startSessionAccess(c *awsapi.Call) []awsapi.Access {
	in := inputOf[startSessionInput](c)
	target := awsapi.Access{Action: c.Name(), Resource: s.arn("ec2", "instance/"+in.Target)}
	if rest, ok := strings.CutPrefix(in.Target, "ecs:"); ok {
		if f := strings.Split(rest, "_"); len(f) >= 3 {
			target = s.ecs.taskAccess(c.Name(), strings.Join(f[:len(f)-2], "_"), f[len(f)-2])
			target.Context = withoutService(target.Context, "ecs") // Session Manager knows the tags alone
		}
	} else if strings.HasPrefix(in.Target, "mi-") {
		target.Resource = s.arn("ssm", "managed-instance/"+in.Target)
	}
	tags := s.instance(in.Target).Tags
	target.Context = named(named(target.Context, "aws:ResourceTag/", tags), "ssm:resourceTag/", tags)
	hasDocument := in.DocumentName != ""
	target.Context = target.Context.With("ssm:SessionDocumentAccessCheck", strconv.FormatBool(hasDocument))
	if !hasDocument {
		return []awsapi.Access{target}
	}
	document := strings.Replace(s.arn("ssm", "document/"+in.DocumentName), ":"+s.account+":", "::", 1)
	return []awsapi.Access{target, {Action: c.Name(), Resource: document}}
}

// instance returns a managed node; an unknown one has nothing.
func (s *ssm) instance(id string) Instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.instances[id]
}

// sessionAccess returns the access to a session, which SSM has tagged with the user id of its starter.
func (s *ssm) sessionAccess(c *awsapi.Call) []awsapi.Access {
	in := inputOf[sessionInput](c)
	var keys iam.Context
	if owner, target := s.sessions.ownerOf(in.SessionID); owner != "" {
		keys = keys.With("ssm:resourceTag/aws:ssmmessages:session-id", owner).With("ssm:resourceTag/aws:ssmmessages:target-id", target)
	}
	return []awsapi.Access{{Action: c.Name(), Resource: s.arn("ssm", "session/"+in.SessionID), Context: keys}}
}

func (s *ssm) startSession(_ context.Context, c *awsapi.Call, in *startSessionInput) (any, error) {
	if in.Target == "" || len(in.Target) > 400 {
		return nil, validationError(in.Target, "target", "Member must have length between 1 and 400")
	}
	if len(in.Reason) > 256 {
		return nil, validationError(in.Reason, "reason", "Member must have length less than or equal to 256")
	}
	name := cmp.Or(in.DocumentName, gateway.DocShell)
	doc, ok := documents[name]
	if !ok {
		return nil, awsapi.Errorf("InvalidDocument", "Document with name %s does not exist.", name)
	}
	params, err := doc.parameters(in.Parameters)
	if err != nil {
		return nil, err
	}
	spec := gateway.Spec{Document: doc.name, Target: in.Target, Host: params["host"], Parameters: params}
	if p := params["portNumber"]; p != "" {
		if spec.Port, err = strconv.Atoi(p); err != nil {
			return nil, err
		}
	}
	if doc.name == gateway.DocShell {
		spec.KMSKeyID = s.kmsKey
	}
	if !s.connect(&spec) || spec.Node && s.faults.nodesHidden() || s.faults.notConnected() {
		return nil, notConnected(in.Target)
	}
	if strings.HasPrefix(in.Target, "ecs:") {
		switch s.faults.document(name) {
		case RefuseDenied:
			return nil, awsapi.Errorf("AccessDeniedException", "User: %s is not authorized to perform: ssm:StartSession on resource: "+
				"arn:%s:ssm:%s::document/%s because no identity-based policy allows the ssm:StartSession action",
				c.Identity.ARN, s.partition().ID, s.region, name)
		case RefuseInvalid:
			return nil, awsapi.Errorf("InvalidDocument", "Document with name %s is not valid for this target.", name)
		case OverSilent:
			spec.NoAgent = true
		}
	}
	spec.Owner = c.Identity.ARN
	return s.sessions.start(c.Identity, c.Identity.Name, spec, in.Reason)
}

func notConnected(target string) error {
	return awsapi.Errorf("TargetNotConnected", "%s is not connected.", target)
}

// connect fills in the way to the target. It returns false if the target is not connected.
func (s *ssm) connect(spec *gateway.Spec) bool {
	if strings.HasPrefix(spec.Target, "ecs:") {
		t, ok := s.ecs.byTarget(spec.Target)
		if !ok {
			return false
		}
		spec.Node = s.sessions.gw.HasNode(spec.Target)
		s.ecs.mu.Lock()
		defer s.ecs.mu.Unlock()
		if t.last != statusRunning || !t.connected && !spec.Node {
			return false
		}
		if spec.Node {
			return true
		}
		spec.Dial, spec.Exec, spec.Machine = t.container.Dial, t.container.Exec, t.machine
		spec.NoAgent = !s.ecs.mayOpenChannels(t)
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	node, ok := s.instances[spec.Target]
	if !ok || node.Offline {
		return false
	}
	spec.Dial = node.dial
	spec.Exec = func(context.Context, []string) (gateway.Process, error) {
		return nil, errors.New("the lab's instances run no commands")
	}
	return true
}

func (n Instance) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	ip, err := netip.ParseAddr(host)
	if host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return dialLoopback(ctx, network, addr)
	}
	p, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	to, ok := n.Ports[p]
	if !ok {
		if host == "localhost" || host == "127.0.0.1" || host == "::1" { // the node itself
			return nil, fmt.Errorf("dial %s: connection refused", addr)
		}
		to = addr // another host of the VPC
	}
	return dialLoopback(ctx, network, to)
}

type sessionInput struct {
	SessionID string `json:"SessionId"`
}

func (s *ssm) resumeSession(_ context.Context, c *awsapi.Call, in *sessionInput) (any, error) {
	if s.faults.resumeForbidden() || !s.sessions.mayResume(c.Identity, in.SessionID) {
		return nil, &awsapi.Error{Code: "AccessDeniedException", Message: "Forbidden", Status: 403}
	}
	return s.sessions.resume(in.SessionID)
}

func (s *ssm) terminateSession(_ context.Context, _ *awsapi.Call, in *sessionInput) (any, error) {
	if err := s.sessions.terminate(in.SessionID); err != nil {
		return nil, err
	}
	type output struct {
		SessionID string `json:"SessionId"`
	}
	return output{in.SessionID}, nil
}

type describeSessionsInput struct {
	State      string `json:"State"`
	MaxResults *int   `json:"MaxResults"`
	NextToken  string `json:"NextToken"`
	Filters    []struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	} `json:"Filters"`
}

type sessionView struct {
	SessionID    string       `json:"SessionId"`
	Target       string       `json:"Target"`
	Status       string       `json:"Status"`
	StartDate    *awsapi.Time `json:"StartDate,omitempty"`
	EndDate      *awsapi.Time `json:"EndDate,omitempty"`
	DocumentName string       `json:"DocumentName"`
	Owner        string       `json:"Owner"`
	Reason       string       `json:"Reason,omitempty"`
}

func (s *ssm) describeSessions(_ context.Context, _ *awsapi.Call, in *describeSessionsInput) (any, error) {
	if in.State != "Active" && in.State != "History" {
		return nil, validationError(in.State, "state", "Member must satisfy enum value set: [Active, History]")
	}
	size := 200
	if in.MaxResults != nil {
		if size = *in.MaxResults; size < 1 || size > 200 {
			return nil, validationError(size, "maxResults", "Member must have value between 1 and 200")
		}
	}
	views := s.sessions.list(in.State == "Active")
	for _, f := range in.Filters {
		get, ok := map[string]func(sessionView) string{
			"Target":    func(v sessionView) string { return v.Target },
			"Owner":     func(v sessionView) string { return v.Owner },
			"Status":    func(v sessionView) string { return v.Status },
			"SessionId": func(v sessionView) string { return v.SessionID },
		}[f.Key]
		if !ok {
			return nil, awsapi.Errorf("InvalidFilterKey", "The filter key %s is not valid.", f.Key)
		}
		views = slices.DeleteFunc(views, func(v sessionView) bool { return get(v) != f.Value })
	}
	page, next, ok := awsapi.Page(views, in.NextToken, size)
	if !ok {
		return nil, awsapi.Errorf("InvalidNextToken", "The specified token is not valid.")
	}
	type output struct {
		Sessions  []sessionView `json:"Sessions"`
		NextToken string        `json:"NextToken,omitempty"`
	}
	return output{append([]sessionView{}, page...), next}, nil
}

// maxHistory bounds the remembered ended sessions.
const maxHistory = 1000

// sessions starts the sessions of both SSM and ECS Exec, and records them.
type sessions struct {
	gw      *gateway.Gateway
	now     func() time.Time
	decrypt gateway.Decrypt // with the permissions of an agent that may decrypt
	faults  *faults

	starting sync.Mutex // held while a session finds a place and takes it

	mu      sync.Mutex
	records []*sessionRecord // oldest first
}

type sessionRecord struct {
	view  sessionView
	owner awsapi.Identity // at the start of the session
	ended time.Time
}

// start begins a session whose id begins with prefix.
func (s *sessions) start(owner awsapi.Identity, prefix string, spec gateway.Spec, reason ...string) (
	startSessionOutput, error,
) {
	spec.ID = prefix + "-" + randomHex(17)
	if spec.Decrypt == nil {
		spec.Decrypt = s.decrypt
	}
	s.starting.Lock() // to count a container's sessions
	defer s.starting.Unlock()
	if err := s.place(&spec); err != nil {
		return startSessionOutput{}, err
	}
	token, err := s.gw.Start(spec)
	switch {
	case errors.Is(err, gateway.ErrNoNode), errors.Is(err, gateway.ErrDown):
		if spec.Document == gateway.DocECSExec {
			return startSessionOutput{}, execFails()
		}
		return startSessionOutput{}, notConnected(spec.Target)
	case err != nil:
		return startSessionOutput{}, sessionError(err, spec.ID)
	}
	r := &sessionRecord{owner: owner, view: sessionView{
		SessionID: spec.ID, Target: spec.Target, StartDate: awsapi.At(s.now()), DocumentName: spec.Document,
		Owner: owner.ARN, Reason: strings.Join(reason, ""),
	}}
	s.mu.Lock()
	s.records = append(s.records, r)
	if n := len(s.records) - maxHistory; n > 0 {
		s.records = slices.Delete(s.records, 0, n)
	}
	s.mu.Unlock()
	return startSessionOutput{spec.ID, s.gw.StreamURL(spec.ID), token}, nil
}

// place checks whether the container has a place for the session. Without a place the session gets no agent, if the faults say so.
func (s *sessions) place(spec *gateway.Spec) error {
	most, silent := s.faults.container()
	if most == 0 || spec.NoAgent || !strings.HasPrefix(spec.Target, "ecs:") {
		return nil
	}
	live := 0
	for _, info := range s.gw.Sessions() {
		if info.Target == spec.Target && !info.NoAgent {
			live++
		}
	}
	switch {
	case live < most:
		return nil
	case silent:
		spec.NoAgent = true
		return nil
	case spec.Document == gateway.DocECSExec:
		return awsapi.Errorf("ClientException",
			"Unable to start new execute sessions because the maximum session limit of %d has been reached.", most)
	}
	return awsapi.Errorf("ServiceQuotaExceededException", "Too many sessions are active: the target may have %d.", most)
}

// mayResume reports whether the caller's credentials may resume a session. A session that temporary credentials began ends with
// them, as users of the service report.
func (s *sessions) mayResume(caller awsapi.Identity, id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.records, func(r *sessionRecord) bool { return r.view.SessionID == id })
	if i < 0 {
		return true // the gateway decides
	}
	owner := &s.records[i].owner
	return owner.Expires.IsZero() || owner.AccessKey == caller.AccessKey
}

// ownerOf returns the user id and the target with which SSM tags a session. AWS does not document the owner of ECS Exec's sessions; here
// it is the caller of ExecuteCommand, or with the fault nobody.
func (s *sessions) ownerOf(id string) (owner, target string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.records, func(r *sessionRecord) bool { return r.view.SessionID == id })
	if i < 0 || s.records[i].view.DocumentName == gateway.DocECSExec && s.faults.get().ExecOwnerless {
		return "", ""
	}
	return s.records[i].owner.UserID, s.records[i].view.Target
}

func (s *sessions) resume(id string) (startSessionOutput, error) {
	token, err := s.gw.Resume(id)
	if err != nil {
		return startSessionOutput{}, sessionError(err, id)
	}
	return startSessionOutput{id, s.gw.StreamURL(id), token}, nil
}

func (s *sessions) terminate(id string) error {
	if err := s.gw.Terminate(id); err != nil {
		return sessionError(err, id)
	}
	return nil
}

// endAll terminates the sessions to a target.
func (s *sessions) endAll(target string) {
	for _, info := range s.gw.Sessions() {
		if info.Target == target {
			_ = s.gw.Terminate(info.ID) // it may just have ended
		}
	}
}

// list describes the live sessions, or the ended ones.
func (s *sessions) list(active bool) []sessionView {
	live := make(map[string]gateway.Info)
	for _, info := range s.gw.Sessions() {
		live[info.ID] = info
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var views []sessionView
	for _, r := range slices.Backward(s.records) { // newest first
		info, isLive := live[r.view.SessionID]
		if !isLive && r.ended.IsZero() {
			r.ended = s.now()
		}
		if isLive != active {
			continue
		}
		v := r.view
		switch {
		case !isLive:
			v.Status, v.EndDate = "Terminated", awsapi.At(r.ended)
		case info.Connected:
			v.Status = "Connected"
		default:
			v.Status = "Disconnected"
		}
		views = append(views, v)
	}
	return views
}

func sessionError(err error, id string) error {
	switch {
	case errors.Is(err, gateway.ErrNoSession):
		return awsapi.Errorf("DoesNotExistException", "Session %s does not exist.", id)
	case errors.Is(err, gateway.ErrTerminated):
		return awsapi.Errorf("DoesNotExistException", "Session %s is terminated.", id)
	case errors.Is(err, gateway.ErrLimit):
		return awsapi.Errorf("ServiceQuotaExceededException", "Too many sessions are active.")
	case errors.Is(err, gateway.ErrInvalid):
		return awsapi.Errorf("ValidationException", "%s", err.Error())
	}
	return err
}
