package bastions

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// wire answers the real clients of ECS (JSON), EC2 and STS (query and XML) with canned answers by action.
type wire struct {
	answer func(action string, body string, n int) (status int, answer string) // n counts the action's calls, from 1

	mu    sync.Mutex
	calls map[string]int
}

func (w *wire) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	_, action, isJSON := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	if !isJSON {
		for field := range strings.SplitSeq(string(body), "&") {
			if value, ok := strings.CutPrefix(field, "Action="); ok {
				action = value
			}
		}
	}
	w.mu.Lock()
	if w.calls == nil {
		w.calls = make(map[string]int)
	}
	w.calls[action]++
	n := w.calls[action]
	w.mu.Unlock()
	status, answer := w.answer(action, string(body), n)
	if isJSON {
		rw.Header().Set("Content-Type", "application/x-amz-json-1.1")
	}
	rw.WriteHeader(status)
	fmt.Fprint(rw, answer)
}

func (w *wire) config(t *testing.T) aws.Config {
	t.Helper()
	server := httptest.NewServer(w)
	t.Cleanup(server.Close)
	return aws.Config{
		Region: "eu-central-1", BaseEndpoint: aws.String(server.URL), HTTPClient: server.Client(),
		Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "secret", ""),
		Retryer: func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) {
				o.Backoff = retry.BackoffDelayerFunc(func(int, error) (time.Duration, error) { return 0, nil })
			})
		},
	}
}

func (w *wire) manager(t *testing.T) *Manager {
	t.Helper()
	config := w.config(t)
	return New(Config{ECS: ecs.NewFromConfig(config), EC2: ec2.NewFromConfig(config), Version: "1.2.3"})
}

func jsonError(code, message string) string {
	return fmt.Sprintf(`{"__type":"com.amazonaws.ecs#%s","message":%q}`, code, message)
}

func xmlError(code, message string) string {
	return fmt.Sprintf(
		"<Response><Errors><Error><Code>%s</Code><Message>%s</Message></Error></Errors></Response>",
		code,
		message,
	)
}

func stsError(code, message string) string {
	return fmt.Sprintf("<ErrorResponse><Error><Code>%s</Code><Message>%s</Message></Error></ErrorResponse>", code, message)
}

func wireARN(i int) string {
	return fmt.Sprintf("arn:aws:ecs:eu-central-1:000000000000:task/demo/%032d", i)
}

// wireTask is a task as ECS describes it.
func wireTask(i int) map[string]any {
	return map[string]any{
		"taskArn":              wireARN(i),
		"clusterArn":           testCluster,
		"taskDefinitionArn":    testFamily,
		"startedBy":            NewOwner(testARN, testUserID).StartedBy,
		"lastStatus":           "RUNNING",
		"desiredStatus":        "RUNNING",
		"createdAt":            1767225600 + float64(i) + 0.5,
		"startedAt":            1767225700,
		"enableExecuteCommand": true,
		"launchType":           "FARGATE",
		"tags": []any{
			map[string]any{"key": "bastion:owner", "value": testUserID},
			map[string]any{"key": "bastion:version", "value": "1.0"},
		},
		"containers": []any{map[string]any{
			"name": "bastion", "runtimeId": "0123-456",
			"managedAgents": []any{map[string]any{"name": "ExecuteCommandAgent", "lastStatus": "RUNNING"}},
		}},
	}
}

// pageStart reads the tokens that these servers give for the next page.
func pageStart(t *testing.T, token string) int {
	if token == "" {
		return 0
	}
	start, err := strconv.Atoi(strings.TrimPrefix(token, "from "))
	if err != nil {
		t.Errorf("page token %q: %v", token, err)
	}
	return start
}

func mustJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// account answers as a cluster with n ready bastions, listed in pages of 100.
func account(t *testing.T, n int) *wire {
	return &wire{answer: func(action, body string, _ int) (int, string) {
		var in struct {
			Cluster, StartedBy, NextToken, DesiredStatus, Family string
			Tasks, Include                                       []string
		}
		if err := json.Unmarshal([]byte(body), &in); err != nil && strings.HasPrefix(body, "{") {
			t.Errorf("%s: %v", action, err)
		}
		switch action {
		case "ListTasks":
			if in.Cluster != "demo" || in.StartedBy != NewOwner(testARN, testUserID).StartedBy || in.DesiredStatus != "" || in.Family != "" {
				t.Errorf("ListTasks %s", body)
			}
			start := pageStart(t, in.NextToken)
			var arns []string
			for i := start; i < min(start+100, n); i++ {
				arns = append(arns, wireARN(i))
			}
			out := map[string]any{"taskArns": arns}
			if start+100 < n {
				out["nextToken"] = fmt.Sprintf("from %d", start+100)
			}
			return 200, mustJSON(out)
		case "DescribeTasks":
			if len(in.Tasks) > 100 || !slices.Equal(in.Include, []string{"TAGS"}) || in.Cluster != "demo" {
				t.Errorf("DescribeTasks of %d tasks, %v", len(in.Tasks), in.Include)
			}
			var tasks []any
			for i := range n {
				if slices.Contains(in.Tasks, wireARN(i)) {
					tasks = append(tasks, wireTask(i))
				}
			}
			return 200, mustJSON(map[string]any{"tasks": tasks})
		case "DescribeTaskDefinition":
			return 200, mustJSON(map[string]any{"taskDefinition": map[string]any{"taskDefinitionArn": testFamily}})
		case "StopTask":
			return 200, `{}`
		case "RunTask":
			return 200, mustJSON(map[string]any{"tasks": []any{wireTask(n)}})
		case "DescribeSubnets":
			return 200, `<DescribeSubnetsResponse><subnetSet><item><subnetId>subnet-1</subnetId><vpcId>vpc-1</vpcId></item></subnetSet>` +
				`</DescribeSubnetsResponse>`
		case "DescribeSecurityGroups":
			return 200, `<DescribeSecurityGroupsResponse><securityGroupInfo><item><groupId>sg-1</groupId><vpcId>vpc-1</vpcId></item>` +
				`</securityGroupInfo></DescribeSecurityGroupsResponse>`
		case "GetCallerIdentity":
			return 200, "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>" + testARN +
				"</Arn><UserId>" + testUserID + "</UserId><Account>000000000000</Account>" +
				"</GetCallerIdentityResult></GetCallerIdentityResponse>"
		default:
			return 400, jsonError("InvalidAction", action)
		}
	}}
}

func TestListPages(t *testing.T) {
	m := account(t, 230).manager(t)
	all, err := m.List(t.Context(), testSpec())
	if err != nil || len(all) != 230 {
		t.Fatalf("List: %d, %v", len(all), err)
	}
	first := all[0]
	if first.TaskARN != wireARN(229) || first.RuntimeID != "0123-456" || !first.ExecRunning || first.Version != "1.0" ||
		first.Target() != fmt.Sprintf(
			"ecs:demo_%032d_0123-456",
			229,
		) || first.CreatedAt.UTC() != time.Unix(1767225829, 5e8).UTC() {
		t.Errorf("the newest is %+v", first)
	}
	b, err := m.Find(t.Context(), testSpec())
	if err != nil || b.TaskARN != wireARN(229) {
		t.Errorf("Find = %+v, %v; want the newest of the ready", b, err)
	}
}

// networkSpec makes Ensure call all there is.
func networkSpec() Spec {
	spec := testSpec()
	spec.Subnets = nil
	spec.SubnetTags = map[string]string{"tier": "private"}
	spec.SecurityGroupTags = map[string]string{"app": "bastion"}
	return spec
}

// TestDenied: the AccessDenied of each call names the permission to ask for, and IAM's message goes before the call's
// name.
func TestDenied(t *testing.T) {
	const noPassRole = "User: u is not authorized to perform: iam:PassRole on resource: r"
	stop := func(t *testing.T, m *Manager) error {
		_, _, err := m.Stop(t.Context(), testSpec(), "test", false)
		return err
	}
	ensure := func(t *testing.T, m *Manager) error {
		_, _, err := m.Ensure(t.Context(), networkSpec(), nil)
		return err
	}
	for _, tt := range []struct {
		action, permission, message string
		tasks                       int
		do                          func(*testing.T, *Manager) error
	}{
		{"ListTasks", "ecs:ListTasks", "no", 0, ensure},
		{"DescribeTasks", "ecs:DescribeTasks", "no", 1, ensure},
		{"RunTask", "ecs:RunTask", "no", 0, ensure},
		{"RunTask", "iam:PassRole", noPassRole, 0, ensure},
		{"RunTask", "ecs:TagResource", strings.ReplaceAll(noPassRole, "iam:PassRole", "ecs:TagResource"), 0, ensure},
		{"StopTask", "ecs:StopTask", "no", 1, stop},
		{"DescribeSubnets", "ec2:DescribeSubnets", "no", 0, ensure},
		{"DescribeSecurityGroups", "ec2:DescribeSecurityGroups", "no", 0, ensure},
	} {
		for _, f := range []struct {
			code, xmlCode string
			kind          fail.Kind
			next          string
			calls         int
		}{
			{"AccessDeniedException", "UnauthorizedOperation", fail.Denied, "ask for the IAM permission " + tt.permission, 1},
			{"ExpiredTokenException", "ExpiredToken", fail.Credentials, "sign in again", 1},
			{"UnrecognizedClientException", "AuthFailure", fail.Credentials, "check the AWS credentials", 1},
			{"ThrottlingException", "RequestLimitExceeded", fail.Start, "AWS is throttling this account", 3},
		} {
			if tt.action == "DescribeTasks" && f.kind == fail.Denied {
				continue // TestMayNotSee
			}
			t.Run(tt.action+" "+tt.permission+" "+f.code, func(t *testing.T) {
				w := account(t, tt.tasks)
				normal := w.answer
				w.answer = func(action, body string, n int) (int, string) {
					if action != tt.action {
						return normal(action, body, n)
					}
					if strings.HasPrefix(tt.permission, "ec2:") {
						return 400, xmlError(f.xmlCode, tt.message)
					}
					return 400, jsonError(f.code, tt.message)
				}
				err := tt.do(t, w.manager(t))
				checkError(t, err, f.kind, nil, f.next)
				if w.calls[tt.action] != f.calls {
					t.Errorf("%d calls, want %d", w.calls[tt.action], f.calls)
				}
			})
		}
	}
}

// TestDeniedNames: the stack's policy denies each name that is not the stack's, so a denial says which names to look at, unless another
// policy or a denial of something else is the cause.
func TestDeniedNames(t *testing.T) {
	const denied = "User: arn:aws:sts::1:assumed-role/Dev/ada is not authorized to perform: "
	const noPolicy, explicit = " because no identity-based policy allows the action", " with an explicit deny in a service control policy"
	names := "; or correct the name, if it is misspelt: --cluster " + testSpec().Cluster
	for _, tt := range []struct{ action, message, names string }{
		{"ListTasks", denied + "ecs:ListTasks on resource: *" + noPolicy, names},
		{
			"RunTask", denied + "ecs:RunTask on resource: arn:aws:ecs:eu-central-1:1:task-definition/t:*" + noPolicy,
			names + ", --task-definition " + testSpec().TaskDefinition,
		},
		{"RunTask", denied + "iam:PassRole on resource: arn:aws:iam::1:role/r" + noPolicy, ""},
		{"ListTasks", denied + "ecs:ListTasks on resource: *" + explicit, ""},
	} {
		w := account(t, 0)
		normal := w.answer
		w.answer = func(action, body string, n int) (int, string) {
			if action != tt.action {
				return normal(action, body, n)
			}
			return 400, jsonError("AccessDeniedException", tt.message)
		}
		_, _, err := w.manager(t).Ensure(t.Context(), testSpec(), nil)
		if _, said, _ := strings.Cut(fail.NextOf(err), "; or "); fail.KindOf(err) != fail.Denied || said != strings.TrimPrefix(tt.names, "; or ") {
			t.Errorf("%s: %v; next %q, want %q", tt.message, err, fail.NextOf(err), tt.names)
		}
	}
}

// TestThrottled: two throttled answers are retried, unseen, RunTask's with the same client token.
func TestThrottled(t *testing.T) {
	w := account(t, 0)
	normal := w.answer
	tokens := make(map[string]bool)
	w.answer = func(action, body string, n int) (int, string) {
		if action == "RunTask" {
			var in struct{ ClientToken string }
			if err := json.Unmarshal([]byte(body), &in); err != nil {
				t.Error(err)
			}
			tokens[in.ClientToken] = true
		}
		switch {
		case n > 2:
		case strings.HasPrefix(action, "DescribeS"):
			return 503, xmlError("RequestLimitExceeded", "Request limit exceeded.")
		default:
			return 400, jsonError("ThrottlingException", "Rate exceeded")
		}
		return normal(action, body, n)
	}
	b, started, err := w.manager(t).Ensure(t.Context(), networkSpec(), nil)
	if err != nil || !started || !b.ExecRunning {
		t.Errorf("Ensure = %+v, %v, %v", b, started, err)
	}
	if w.calls["RunTask"] != 3 || len(tokens) != 1 {
		t.Errorf("%d RunTask calls with %d client tokens", w.calls["RunTask"], len(tokens))
	}
}

func TestRunTaskErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		answer string
		kind   fail.Kind
		want   []string
		next   string
	}{
		{
			"no resource", 200, `{"tasks":[],"failures":[{"arn":"arn:c","reason":"RESOURCE:MEMORY","detail":"none left"}]}`,
			fail.Start,
			[]string{"start a bastion in cluster demo: RESOURCE:MEMORY (none left) for arn:c"},
			"lacks that resource",
		},
		{
			"no interface", 200, `{"failures":[{"reason":"RESOURCE:ENI"}]}`, fail.Start,
			[]string{"RESOURCE:ENI"},
			"no free network interfaces",
		},
		{
			"quota", 200, `{"failures":[{"reason":"You've reached the limit on the number of vCPUs you can run concurrently"}]}`,
			fail.Start,
			[]string{"vCPUs"},
			"ask for a higher quota",
		},
		{"silence", 200, `{}`, fail.Start, []string{"gave no reason"}, "try again"},
		{
			"cluster", 400, jsonError("ClusterNotFoundException", "Cluster not found."), fail.Usage,
			[]string{"ClusterNotFoundException: Cluster not found."},
			"set the cluster",
		},
		{
			"definition", 400, jsonError("ClientException", "TaskDefinition not found."), fail.Usage,
			[]string{"TaskDefinition not found"},
			"register the task definition",
		},
		{
			"role", 400, jsonError("InvalidParameterException",
				"A valid taskRoleArn is not being used. Specify a valid task role in your "+
					"task definition and try again."), fail.Start,
			[]string{"A valid taskRoleArn"},
			"task role that allows ssmmessages:CreateControlChannel",
		},
		{
			"subnet", 400, jsonError("InvalidParameterException", "The subnet ID 'subnet-x' does not exist"), fail.Usage,
			[]string{"subnet-x"},
			"check the subnets",
		},
		{"server", 500, jsonError("ServerException", "oops"), fail.Start, []string{"ServerException: oops"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := account(t, 0)
			normal := w.answer
			w.answer = func(action, body string, n int) (int, string) {
				if action == "RunTask" {
					return tt.status, tt.answer
				}
				return normal(action, body, n)
			}
			_, _, err := w.manager(t).Ensure(t.Context(), testSpec(), nil)
			checkError(t, err, tt.kind, tt.want, tt.next)
		})
	}
}

func TestWhoAmI(t *testing.T) {
	w := account(t, 0)
	owner, err := WhoAmI(t.Context(), sts.NewFromConfig(w.config(t)))
	if err != nil || owner.ARN != testARN || !strings.HasPrefix(owner.StartedBy, "bastion-") ||
		len(owner.StartedBy) != 32 {
		t.Errorf("WhoAmI = %+v, %v", owner, err)
	}
	for _, tt := range []struct {
		code string
		kind fail.Kind
		next string
	}{
		{"ExpiredToken", fail.Credentials, "sign in again"},
		{"InvalidClientTokenId", fail.Credentials, "check the AWS credentials"},
		{"AccessDenied", fail.Denied, "sts:GetCallerIdentity"},
	} {
		w := &wire{answer: func(string, string, int) (int, string) { return 403, stsError(tt.code, "no") }}
		_, err := WhoAmI(t.Context(), sts.NewFromConfig(w.config(t)))
		checkError(t, err, tt.kind, []string{"find out who you are", tt.code}, tt.next)
	}
	w = &wire{answer: func(string, string, int) (int, string) {
		return 200, "<GetCallerIdentityResponse><GetCallerIdentityResult/></GetCallerIdentityResponse>"
	}}
	_, err = WhoAmI(t.Context(), sts.NewFromConfig(w.config(t)))
	checkError(t, err, fail.Credentials, []string{"no ARN"}, "")
}

// TestNoCredentials: a chain that finds nothing is told as such, before anything is sent.
func TestNoCredentials(t *testing.T) {
	for _, name := range []string{
		"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE",
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
	} {
		t.Setenv(name, "")
	}
	none := filepath.Join(t.TempDir(), "none")
	t.Setenv("AWS_CONFIG_FILE", none)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", none)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	loaded, err := config.LoadDefaultConfig(t.Context(), config.WithRegion("eu-central-1"))
	if err != nil {
		t.Fatal(err)
	}
	w := account(t, 0)
	c := w.config(t)
	c.Credentials = loaded.Credentials
	_, err = WhoAmI(t.Context(), sts.NewFromConfig(c))
	checkError(t, err, fail.Credentials, []string{"no AWS credentials found"}, "bastion login")
	if len(w.calls) != 0 {
		t.Errorf("calls %v", w.calls)
	}
}
