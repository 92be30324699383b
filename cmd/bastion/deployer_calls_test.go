package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/bastion-ssm/bastion/e2e/recorded"
	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
)

// states is an account that gets into the states which moto's CloudFormation does not have: resources have drifted, a change has ended in
// a rollback that failed, and a deleted stack has left its key and its audit log.
type states struct {
	next http.Handler

	mu    sync.Mutex
	stuck bool   // the stack is in UPDATE_ROLLBACK_FAILED
	token string // of the call that has continued the rollback, until the next change
	left  bool   // deleted stacks have left something
	// then is called once, after the first call of an action.
	then map[string]func()
}

const cloudFormationForm = `<%[1]sResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/"><%[1]sResult>%[2]s</%[1]sResult></%[1]sResponse>`

// driftAnswers are CloudFormation's answers about the drift of a stack, of which moto 5.2.1 knows nothing.
var driftAnswers = map[string]string{
	"DetectStackDrift": "<StackDriftDetectionId>1</StackDriftDetectionId>",
	"DescribeStackDriftDetectionStatus": "<StackId>1</StackId><StackDriftDetectionId>1</StackDriftDetectionId><Timestamp>2026-11-30T00:00:00Z</Timestamp>" +
		"<DetectionStatus>DETECTION_COMPLETE</DetectionStatus>",
	"DescribeStackResourceDrifts": "<StackResourceDrifts/>",
}

func (s *states) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	form, _ := url.ParseQuery(string(body))
	call := form.Get("Action")
	if answer, ok := driftAnswers[call]; ok {
		_, _ = fmt.Fprintf(w, cloudFormationForm, call, answer)
		return
	}
	s.mu.Lock()
	switch call {
	case "ContinueUpdateRollback":
		s.stuck, s.token = false, form.Get("ClientRequestToken")
		_, _ = fmt.Fprintf(w, cloudFormationForm, call, "")
	case "ExecuteChangeSet": // moto's events are the newest again
		s.token = ""
	}
	then := s.then[call]
	delete(s.then, call)
	s.mu.Unlock()
	if call != "ContinueUpdateRollback" {
		s.next.ServeHTTP(w, r)
	}
	if then != nil {
		then()
	}
}

// set changes the state.
func (s *states) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// mend puts the state into an answer of moto's.
func (s *states) mend(body []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stuck {
		for _, status := range []string{"CREATE_COMPLETE", "UPDATE_COMPLETE"} {
			body = bytes.ReplaceAll(body, []byte("<StackStatus>"+status), []byte("<StackStatus>UPDATE_ROLLBACK_FAILED"))
		}
	}
	const event = "<member><EventId>%[1]s</EventId><StackId>1</StackId><StackName>bastion</StackName><Timestamp>2026-11-30T00:00:00Z</Timestamp>" +
		"<LogicalResourceId>%[2]s</LogicalResourceId><PhysicalResourceId>%[3]s</PhysicalResourceId><ResourceType>%[4]s</ResourceType>" +
		"<ResourceStatus>%[5]s</ResourceStatus><ClientRequestToken>%[6]s</ClientRequestToken></member>"
	events := "<StackEvents>"
	if s.token != "" {
		events += fmt.Sprintf(event, "continued", "bastion", "1", "AWS::CloudFormation::Stack", "UPDATE_ROLLBACK_COMPLETE", s.token)
	}
	if s.left && bytes.Contains(body, []byte("<ResourceStatus>DELETE_COMPLETE")) {
		events += fmt.Sprintf(event, "key", "Key", "01234567-89ab-cdef-0123-456789abcdef", "AWS::KMS::Key", "DELETE_SKIPPED", "") +
			fmt.Sprintf(event, "log", "AuditLog", "/bastion", "AWS::Logs::LogGroup", "DELETE_SKIPPED", "")
	}
	return bytes.Replace(body, []byte("<StackEvents>"), []byte(events), 1)
}

// record is the address of an account behind states, of whose calls list keeps a record.
func record(t *testing.T, list *recorded.List, account string, s *states) string {
	t.Helper()
	to, err := url.Parse(account)
	if err != nil {
		t.Fatal(err)
	}
	s.next = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host // what is signed
		},
		ModifyResponse: func(r *http.Response) error {
			body, err := io.ReadAll(r.Body)
			body = s.mend(body)
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			r.Header.Set("Content-Length", strconv.Itoa(len(body)))
			return err
		},
		ErrorLog: log.New(io.Discard, "", 0), // a command that is interrupted ends its call
	}
	server := httptest.NewServer(list.Handler(s))
	t.Cleanup(server.Close)
	return server.URL
}

// Whoever sets an account up, looks after its stack and removes it makes the calls that are on the list of deployers, with which a test of
// package account compares the policy init. CloudFormation, EC2, RDS, logs, keys and ECR are moto's, and the tasks are the lab's.
func TestCallsOfDeployers(t *testing.T) {
	list := recorded.New(t, "deployer")
	program, err := bastiond()
	if err != nil {
		t.Fatal(err)
	}
	e := startLab(t, func(c *lab.Config) { c.Account = motoAccount })
	moto := cloudFormation(t, rig.Moto(t))
	database(t, moto)
	account := &states{then: make(map[string]func())}
	endpoint := record(t, list, halves(t, moto, e.URL()), account)
	e.here(nil, "down") // sets the environment
	t.Setenv("AWS_ENDPOINT_URL", endpoint)
	t.Setenv("AWS_PROFILE", "admin")
	t.Setenv("AWS_MAX_ATTEMPTS", "2") // moto answers what it lacks with errors that are tried again
	t.Chdir(t.TempDir())
	transport := list.Registry(anyRegistry(t))
	bastion := func(ctx context.Context, code int, line string, parts ...string) {
		t.Helper()
		r := inProcess(ctx, t, transport, strings.Fields(line)...)
		for _, part := range parts {
			if !strings.Contains(r.stdout+r.stderr, part) {
				t.Errorf("bastion %s does not say %q", line, part)
			}
		}
		if r.code != code || t.Failed() {
			t.Fatalf("bastion %s: exit code %d, want %d\n%s%s", line, r.code, code, r.stdout, r.stderr)
		}
	}
	ctx := t.Context()
	from := " --bastiond amd64=" + program
	initialize := "init --change-security-groups yes --make-endpoints yes --exec-logs --email a@example.com --no-test" + from

	bastion(ctx, 2, initialize, "add --yes")
	interrupted, interrupt := context.WithCancel(ctx)
	account.set(func() { account.then["ExecuteChangeSet"] = interrupt })
	bastion(interrupted, 1, initialize+" --yes", "run the command again")
	bastion(ctx, 0, initialize+" --yes", "wrote bastion.yaml")
	bastion(ctx, 0, "plan"+from, "no drift was found")
	bastion(ctx, 0, "iam-policy user --deployed", "task-definition/bastion")

	account.set(func() { account.stuck = true })
	bastion(ctx, 0, "upgrade --yes --image-tag 7", "image: 7")
	bastion(ctx, 0, "upgrade --yes"+from, "is of bastion")

	if r := e.run(nil, "up"); r.code != 0 { // of somebody else
		t.Fatalf("up: exit code %d\n%s", r.code, r.stderr)
	}
	bastion(ctx, 0, "destroy --yes --audit delete", "(AWS::ECS::Task): stopping")
	account.set(func() { account.left = true })
	bastion(ctx, 0, initialize+" --yes", "is deployed")
	bastion(ctx, 0, "destroy --yes")
	list.Check(*update)
}
