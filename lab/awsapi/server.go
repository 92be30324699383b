package awsapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/bastion-ssm/bastion/internal/sleep"
	"github.com/bastion-ssm/bastion/lab/iam"
)

// Protocol is a wire protocol of the AWS APIs.
type Protocol uint8

// The protocols.
const (
	JSON     Protocol = iota // AWS JSON 1.1
	Query                    // form in, XML out
	EC2                      // EC2's variant of Query
	RESTJSON                 // methods and paths, JSON out
	RESTXML                  // methods and paths, XML out; the bodies of calls are JSON: Session Manager's message gateway alone
)

const maxBody = 1 << 20

// Service is an AWS service with the operations that the lab models.
type Service struct {
	Name      string // as in the credential scope and before the colon of its IAM actions
	Protocol  Protocol
	Target    string // JSON: the prefix of X-Amz-Target
	Version   string // Query, EC2: the API version
	Namespace string // Query, EC2: the answers' XML namespace
	Ops       map[string]Op
}

// Op is an operation.
type Op struct {
	// Handle returns the result, which the server marshals as JSON for a JSON service and otherwise as XML. The server calls it
	// after it has authenticated and authorized the caller.
	Handle func(ctx context.Context, c *Call) (any, error)
	// Resource returns the ARN for the action, which a denial names. Nil means "*".
	Resource func(c *Call) string
	// Access returns all accesses that the call needs, with their condition keys, if that is more than the action on Resource.
	Access func(c *Call) []Access
	// Open operations need no permission.
	Open bool
	// Anonymous operations need no signature; only those of Query can be. Without one, Call.Identity is empty.
	Anonymous bool
	// Route is a RESTJSON or RESTXML operation's method and path, such as "GET /clusters/{name}".
	Route string
	// Status is that of the operation's success; 0 is 200.
	Status int
}

// Call is one request.
type Call struct {
	Service  *Service
	Action   string
	Identity Identity
	Form     url.Values // Query, EC2; RESTJSON, RESTXML: the query and the parts of the path
	body     []byte     // JSON, RESTJSON, RESTXML
}

// Name returns the IAM action, such as "ecs:RunTask".
func (c *Call) Name() string { return c.Service.Name + ":" + c.Action }

// Bind decodes the body of a JSON call into dst, and ignores members that dst lacks.
func (c *Call) Bind(dst any) error {
	if len(c.body) == 0 {
		return nil
	}
	if err := json.Unmarshal(c.body, dst); err != nil {
		return c.Service.Protocol.common(errMalformed, "Could not parse the request: "+err.Error())
	}
	return nil
}

// Authorize returns an error if the caller lacks one of the accesses. Handlers call it for permissions that an operation needs
// besides its own, such as iam:PassRole.
func (c *Call) Authorize(needs ...Access) error {
	return c.Identity.Authorize(c.Service.Protocol, needs...)
}

// Authorize returns an error, in the protocol's form, if the identity lacks one of the accesses.
func (id *Identity) Authorize(p Protocol, needs ...Access) error {
	for _, a := range needs {
		d, err := id.decide(a)
		if err != nil {
			return err
		}
		if d.Effect != iam.Allow {
			return denied(p, id, a, d.Effect == iam.ExplicitDeny)
		}
	}
	return nil
}

// denied is a denial in AWS's words. EC2 names a resource only if the action is about one.
func denied(p Protocol, id *Identity, a Access, explicit bool) *Error {
	on, why := " on resource: "+a.Resource, "because no identity-based policy allows the "+a.Action+" action"
	if explicit {
		why = "with an explicit deny in an identity-based policy"
	}
	start := ""
	if p == EC2 {
		start = "You are not authorized to perform this operation. "
		if a.Resource == "*" {
			on = ""
		}
	}
	return p.common(errDenied, fmt.Sprintf("%sUser: %s is not authorized to perform: %s%s %s", start, id.ARN, a.Action, on, why))
}

// Config configures a Server.
type Config struct {
	Region     string
	Identities *Directory
	Services   []Service
	Now        func() time.Time // nil is time.Now
	Logger     *slog.Logger     // nil discards
	// Before, if not nil, runs for every authenticated call before its authorization. Its error is the answer.
	Before func(ctx context.Context, c *Call) error
}

// Server is the http.Handler of the APIs.
type Server struct {
	cfg      Config
	verifier verifier
	services map[string]*Service

	mu     sync.Mutex
	counts map[string]int
}

// New returns a Server.
func New(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		cfg:      cfg,
		verifier: verifier{region: cfg.Region, identities: cfg.Identities, now: cfg.Now},
		services: make(map[string]*Service),
		counts:   make(map[string]int),
	}
	for i := range cfg.Services {
		s.services[cfg.Services[i].Name] = &cfg.Services[i]
	}
	return s
}

// Counts returns how many authenticated calls came, by action.
func (s *Server) Counts() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.counts)
}

// ServeHTTP answers one call. The credential scope names the service, because one endpoint serves all.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := uuid.NewString()
	w = distant{w, r.Context()}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		writeError(w, guessProtocol(r), "", id, &Error{
			Code: "RequestEntityTooLarge", Message: err.Error(),
			Status: http.StatusRequestEntityTooLarge,
		})
		return
	}
	c := s.anonymous(r, body)
	var result any
	if c != nil {
		result, err = s.run(r, c)
	} else {
		auth, ok := parseAuthorization(r.Header.Get("Authorization"))
		if !ok {
			p := guessProtocol(r)
			e := p.common(errMissingAuth, "Missing Authentication Token")
			if r.Header.Get("Authorization") != "" {
				e = p.common(errIncompleteSignature, "Authorization header is no complete "+algorithm+" signature.")
			}
			writeError(w, p, "", id, e)
			return
		}
		svc, ok := s.services[auth.service]
		if !ok {
			p := guessProtocol(r)
			writeError(w, p, "", id, p.common(errUnknownAction,
				fmt.Sprintf("The lab does not model the service %q.", auth.service)))
			return
		}
		c = &Call{Service: svc}
		result, err = s.call(r, c, body, auth)
	}
	svc := c.Service
	log := s.cfg.Logger.With("action", c.Name(), "who", c.Identity.Name, "request", id)
	if err != nil {
		e := svc.Protocol.asError(err)
		log.Info("api call", "error", e.Code, "message", e.Message)
		writeError(w, svc.Protocol, svc.Namespace, id, e)
		return
	}
	log.Debug("api call")
	if err := writeResult(w, c, id, result); err != nil {
		log.Error("api answer", "error", err)
	}
}

// distant delays an answer, as every real network does. aws-sdk-go-v2 relies on that. It closes a request's body as soon as the
// answer begins. If net/http has not seen the body's end by then, it takes that for a failed request and closes the connection
// under the answer. An answer that the client has read in one go (4 KiB) survives that.
type distant struct {
	http.ResponseWriter
	ctx context.Context
}

const (
	distance    = 3 * time.Millisecond
	bigDistance = 30 * time.Millisecond // for answers that do not survive it
	bigAnswer   = 3 << 10
)

// Write gets the whole answer in one call.
func (d distant) Write(p []byte) (int, error) {
	wait := distance
	if len(p) > bigAnswer {
		wait = bigDistance
	}
	_ = sleep.For(d.ctx, wait) // an answer to a client that has gone needs no delay
	return d.ResponseWriter.Write(p)
}

// anonymous returns the call of a request without a signature, if it is for an operation that needs none; nil otherwise.
func (s *Server) anonymous(r *http.Request, body []byte) *Call {
	if r.Header.Get("Authorization") != "" || guessProtocol(r) != Query {
		return nil
	}
	for _, svc := range s.services {
		c := &Call{Service: svc}
		if svc.Protocol == Query && c.parse(r, body) == nil && svc.Ops[c.Action].Anonymous {
			return c
		}
	}
	return nil
}

// call authenticates, authorizes and runs one call; it fills in c.
func (s *Server) call(r *http.Request, c *Call, body []byte, auth authorization) (any, error) {
	p := c.Service.Protocol
	identity, fault := s.verifier.verify(r, body, auth, p)
	if fault != nil {
		return nil, fault
	}
	c.Identity = identity
	if err := c.parse(r, body); err != nil {
		return nil, err
	}
	return s.run(r, c)
}

// run authorizes and runs a call whose caller is known.
func (s *Server) run(r *http.Request, c *Call) (any, error) {
	op, err := s.authorize(r, c)
	if err != nil {
		return nil, err
	}
	return op.Handle(r.Context(), c)
}

// authorize returns the operation of a call whose caller is known and may call it.
func (s *Server) authorize(r *http.Request, c *Call) (Op, error) {
	p := c.Service.Protocol
	op, known := c.Service.Ops[c.Action]
	s.count(c, known)
	if !known {
		return op, p.common(errUnknownAction, fmt.Sprintf(
			"Could not find operation %s for version %s: the lab does not model it.", c.Action, c.Service.Version))
	}
	if s.cfg.Before != nil {
		if err := s.cfg.Before(r.Context(), c); err != nil {
			return op, err
		}
	}
	if op.Open {
		return op, nil
	}
	return op, c.Authorize(op.needs(c)...)
}

// Admit authenticates and authorizes a request without a body that another handler serves, such as a websocket's upgrade. action is that
// of an operation without a Handle, "ssmmessages:OpenControlChannel". Admit answers a request that it refuses, and returns false.
func (s *Server) Admit(w http.ResponseWriter, r *http.Request, action string, form url.Values) (Identity, bool) {
	service, name, _ := strings.Cut(action, ":")
	c := &Call{Service: s.services[service], Action: name, Form: form}
	if err := s.identify(r, c); err != nil {
		s.Refuse(w, service, err)
		return Identity{}, false
	}
	if _, err := s.authorize(r, c); err != nil {
		s.Refuse(w, service, err)
		return Identity{}, false
	}
	return c.Identity, true
}

// identify authenticates a request without a body.
func (s *Server) identify(r *http.Request, c *Call) error {
	p := c.Service.Protocol
	auth, ok := parseAuthorization(r.Header.Get("Authorization"))
	if !ok || auth.service != c.Service.Name {
		return p.common(errMissingAuth, "Request is not authenticated.")
	}
	identity, fault := s.verifier.verify(r, nil, auth, p)
	if fault != nil {
		return fault
	}
	c.Identity = identity
	return nil
}

// Refuse answers a request of the service with the error.
func (s *Server) Refuse(w http.ResponseWriter, service string, err error) {
	svc := s.services[service]
	e := svc.Protocol.asError(err)
	s.cfg.Logger.Info("refused", "service", service, "error", e.Code, "message", e.Message)
	writeError(w, svc.Protocol, svc.Namespace, uuid.NewString(), e)
}

// needs returns what the caller of an operation must be allowed.
func (op Op) needs(c *Call) []Access {
	switch {
	case op.Access != nil:
		return op.Access(c)
	case op.Resource != nil:
		return []Access{{Action: c.Name(), Resource: op.Resource(c)}}
	}
	return []Access{{Action: c.Name(), Resource: "*"}}
}

// count counts a call by its action; names that no service has share one counter, as a client could make up any number.
func (s *Server) count(c *Call, known bool) {
	name := c.Name()
	if !known {
		name = c.Service.Name + ":?"
	}
	s.mu.Lock()
	s.counts[name]++
	s.mu.Unlock()
}

func (c *Call) parse(r *http.Request, body []byte) error {
	p := c.Service.Protocol
	if p == JSON {
		prefix, action, ok := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
		if !ok || prefix != c.Service.Target {
			return p.common(errUnknownAction, "X-Amz-Target names no operation of "+c.Service.Name+".")
		}
		c.Action, c.body = action, body
		return nil
	}
	if p == RESTJSON || p == RESTXML {
		return c.route(r, body)
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return p.common(errMalformed, "The request is no form: "+err.Error())
	}
	for k, v := range r.URL.Query() {
		form[k] = append(form[k], v...)
	}
	c.Action, c.Form = form.Get("Action"), form
	if c.Action == "" {
		return p.common(errUnknownAction, "The request names no Action.")
	}
	return nil
}

// route finds the operation of a RESTJSON or RESTXML call by its method and path.
func (c *Call) route(r *http.Request, body []byte) error {
	path := strings.Split(strings.TrimSuffix(r.URL.EscapedPath(), "/"), "/")
	for action, op := range c.Service.Ops {
		method, pattern, _ := strings.Cut(op.Route, " ")
		form := r.URL.Query()
		if method == r.Method && matchPath(strings.Split(pattern, "/"), path, form) {
			c.Action, c.Form, c.body = action, form, body
			return nil
		}
	}
	return c.Service.Protocol.common(errUnknownAction, "No operation of "+c.Service.Name+" has this method and path.")
}

// matchPath reports whether a path fits a pattern, and adds the parts in braces to form.
func matchPath(pattern, path []string, form url.Values) bool {
	if len(pattern) != len(path) {
		return false
	}
	for i, part := range pattern {
		value, err := url.PathUnescape(path[i])
		switch {
		case err != nil:
			return false
		case strings.HasPrefix(part, "{"):
			form.Set(strings.Trim(part, "{}"), value)
		case part != value:
			return false
		}
	}
	return true
}

// guessProtocol is for requests that do not say which service they are for.
func guessProtocol(r *http.Request) Protocol {
	if r.Header.Get("X-Amz-Target") != "" || strings.Contains(r.Header.Get("Content-Type"), "json") {
		return JSON
	}
	return Query
}

var errNoResult = errors.New("handler returned nothing")
