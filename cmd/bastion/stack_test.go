package main

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/account/deploy"
	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/admin"
	"github.com/bastion-ssm/bastion/internal/invocation"
)

// standing makes a stack in an emulator, of an older program's template: it lacks the rule OtherCommand. moto 5.2.1 cannot make a key with
// tags: behind it the key is the operator's.
func standing(t *testing.T, cfg aws.Config, name, key string) {
	t.Helper()
	ctx := t.Context()
	vpcs, err := ec2.NewFromConfig(cfg).DescribeVpcs(ctx, &ec2.DescribeVpcsInput{})
	if err != nil || len(vpcs.Vpcs) == 0 {
		t.Fatalf("%+v, %v", vpcs, err)
	}
	clients := deploy.Bind(cfg)
	create := clients.CreateChangeSet
	clients.CreateChangeSet = func(ctx context.Context, in *cloudformation.CreateChangeSetInput, o ...func(*cloudformation.Options)) (
		*cloudformation.CreateChangeSetOutput, error,
	) {
		var template map[string]any
		if err := json.Unmarshal([]byte(*in.TemplateBody), &template); err != nil {
			return nil, err
		}
		delete(template["Resources"].(map[string]any), "OtherCommand")
		older, err := json.Marshal(template)
		if err != nil {
			return nil, err
		}
		in.TemplateBody = aws.String(string(older))
		return create(ctx, in, o...)
	}
	d := deploy.New(clients, name)
	d.Version = "0.1.0"
	stack, err := account.New(account.Inputs{
		Name: name, Key: key,
		VPC: *vpcs.Vpcs[0].VpcId, VPCCIDR: *vpcs.Vpcs[0].CidrBlock, Classes: []account.Class{{Allow: []string{"10.0.0.0/16:5432"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	p, err := d.Preview(ctx, stack, nil)
	if err == nil {
		_, err = d.Apply(ctx, p, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// An empty name is a mistake, such as of a script's variable that is not set: it is neither the default name nor every stack.
func TestEmptyNameIsRefused(t *testing.T) {
	for _, kv := range offline(t.TempDir()) {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
	for _, line := range []string{"plan", "upgrade --yes", "destroy --yes", "destroy --dry-run", "init --emit cfn --offline", "iam-policy user --account 111122223333"} {
		var stdout, stderr syncBuilder
		args := append(append([]string{"bastion"}, strings.Fields(line)...), "--name", "")
		code := run(t.Context(), args, invocation.Stdio{In: os.Stdin, Out: &stdout, Err: &stderr})
		if code != 2 || stdout.String() != "" || !strings.Contains(stderr.String(), "the name is empty") {
			t.Errorf("%s --name '': exit code %d, want 2\n%s%.400s", line, code, stderr.String(), stdout.String())
		}
	}
}

// A tag that is none is found out before AWS is asked.
func TestImageTagIsChecked(t *testing.T) {
	for _, tag := range []string{"bad tag", "", ".1", "a/b", strings.Repeat("a", 129)} {
		var stdout, stderr syncBuilder
		code := run(t.Context(), []string{"bastion", "upgrade", "--image-tag", tag}, invocation.Stdio{In: os.Stdin, Out: &stdout, Err: &stderr})
		if code != 2 || !strings.Contains(stderr.String(), "is no tag of an image") {
			t.Errorf("%q: exit code %d\n%s", tag, code, stderr.String())
		}
	}
}

// plan, upgrade and destroy work with an emulator that is not ours, on their own stack alone.
func TestStackCommandsOnMoto(t *testing.T) {
	t.Parallel()
	moto := rig.Moto(t)
	cfg := motoConfig(t, moto)
	const key = "arn:aws:kms:eu-central-1:123456789012:key/01234567-89ab-cdef-0123-456789abcdef"
	standing(t, cfg, "bastion", key)
	standing(t, cfg, "bastion-two", key)
	env := append(append(rig.Environ(), offline(t.TempDir())...), "AWS_ENDPOINT_URL="+moto, "AWS_REGION=eu-central-1",
		"AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=not-a-key", "AWS_MAX_ATTEMPTS=2")
	run := func(code int, line string, parts ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, filepath.Join(scratch, "bastion"), strings.Fields(line)...)
		cmd.Env, cmd.Dir = env, scratch
		var stdout, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		_ = cmd.Run()
		for _, part := range parts {
			if !strings.Contains(stdout.String()+stderr.String(), part) {
				t.Errorf("bastion %s lacks %q", line, part)
			}
		}
		if got := cmd.ProcessState.ExitCode(); got != code || t.Failed() {
			t.Fatalf("bastion %s: exit code %d, want %d\n%s%s", line, got, code, &stdout, &stderr)
		}
		return stdout.String()
	}

	run(0, "plan --no-drift", "deployed by bastion 0.1.0", "would change 1 resource", "add", "OtherCommand", "AWS::Events::Rule")
	run(10, "plan --no-drift --exit-code")
	run(1, "plan --exit-code", "OtherCommand", "detect the drift of stack bastion in eu-central-1") // moto knows no drift
	run(2, "plan --name nobody", "no stack nobody in eu-central-1", "bastion init")
	run(2, "plan --name Bad_Name", "--name")
	run(2, "upgrade", "OtherCommand", "--yes")
	run(0, "upgrade --yes", "OtherCommand", "is of bastion")
	run(0, "upgrade --yes", "is up to date")
	run(0, "plan --no-drift --exit-code", "would change nothing")

	run(0, "iam-policy user --deployed", `"`+key+`"`, "arn:aws:ecs:eu-central-1:123456789012:cluster/bastion")
	run(2, "iam-policy user --deployed --name nobody", "no stack nobody in eu-central-1")
	run(2, "iam-policy user --deployed --class read", "--deployed takes the place of all options but --name")

	run(2, "destroy", "--yes")
	run(2, "destroy --audit perhaps", "neither keep nor delete")
	var plan admin.DestroyOutput
	if err := json.Unmarshal([]byte(run(0, "destroy --dry-run -o json")), &plan); err != nil || len(plan.Remove) < 5 || len(plan.Keep) != 1 {
		t.Errorf("%+v, %v", plan, err)
	}
	run(0, "destroy --yes", "will be removed", "AuditLog (AWS::Logs::LogGroup) /bastion", "what stays in eu-central-1")
	run(0, "destroy --yes", "no stack bastion in eu-central-1")
	run(0, "plan --no-drift --name bastion-two", "OtherCommand")
}

// upgrade pushes the image of its bastiond, and the stack's next bastions are of it. plan says so before.
func TestUpgradeImageOnMoto(t *testing.T) {
	program, err := bastiond()
	if err != nil {
		t.Fatal(err)
	}
	endpoint := cloudFormation(t, rig.Moto(t))
	standing(t, motoConfig(t, endpoint), "bastion", "")
	for _, kv := range append(offline(t.TempDir()), "AWS_ENDPOINT_URL="+endpoint, "AWS_REGION=eu-central-1", "AWS_ACCESS_KEY_ID=AKIATEST",
		"AWS_SECRET_ACCESS_KEY=not-a-key", "AWS_MAX_ATTEMPTS=2", "BASTION_CONFIG="+os.DevNull) {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
	t.Chdir(t.TempDir())
	transport := anyRegistry(t)
	run := func(code int, line string, parts ...string) string {
		t.Helper()
		r := inProcess(t.Context(), t, transport, strings.Fields(line)...)
		if r.code != code {
			t.Fatalf("bastion %s: exit code %d, want %d\n%s%s", line, r.code, code, r.stdout, r.stderr)
		}
		for _, part := range parts {
			if !strings.Contains(r.stdout+r.stderr, part) {
				t.Fatalf("bastion %s lacks %q\n%s%s", line, part, r.stdout, r.stderr)
			}
		}
		return r.stdout
	}
	tags := func() string {
		t.Helper()
		resp, err := (&http.Client{Transport: transport}).Get("https://123456789012.dkr.ecr.eu-central-1.amazonaws.com/v2/bastion/tags/list")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	from := " --bastiond amd64=" + program
	run(0, "plan --no-drift", "no bastiond", "OtherCommand")
	run(2, "plan --no-drift --bastiond amd64=/nowhere", "name a file")
	var plan admin.PlanOutput
	if err := json.Unmarshal([]byte(run(0, "plan --no-drift -o json"+from)), &plan); err != nil || len(plan.Images) != 1 || plan.Images[0].Now != "1" {
		t.Fatalf("%+v, %v", plan, err)
	}
	tag := plan.Images[0].Tag
	if strings.Contains(tags(), tag) {
		t.Fatal("plan pushes the image")
	}
	run(0, "upgrade --yes"+from, "image: "+tag+", now 1", "OtherCommand", "is of bastion")
	if !strings.Contains(tags(), tag) {
		t.Errorf("the registry has %s, not %s", tags(), tag)
	}
	run(0, "upgrade --yes"+from, "is up to date")
	run(0, "plan --no-drift --exit-code"+from, "would change nothing")
	run(0, "upgrade --yes --image-tag 7", "image: 7, now "+tag)
	run(10, "plan --no-drift --exit-code"+from, "image: "+tag+", now 7")
}

// busy is the address of a CloudFormation whose stack is being changed without end.
func busy(t *testing.T) string {
	t.Helper()
	stack, err := account.New(account.Inputs{})
	if err != nil {
		t.Fatal(err)
	}
	template, err := stack.Deployable("0.1.0")
	if err != nil {
		t.Fatal(err)
	}
	var escaped strings.Builder
	if err := xml.EscapeText(&escaped, template); err != nil {
		t.Fatal(err)
	}
	const id = "<StackId>arn:aws:cloudformation:eu-central-1:000000000000:stack/bastion/1</StackId><StackName>bastion</StackName>"
	results := map[string]string{
		"DescribeStacks": "<Stacks><member>" + id + "<CreationTime>2026-11-30T00:00:00Z</CreationTime><StackStatus>UPDATE_IN_PROGRESS</StackStatus>" +
			"</member></Stacks>",
		"GetTemplate": "<TemplateBody>" + escaped.String() + "</TemplateBody>",
		"DescribeStackEvents": "<StackEvents><member>" + id + "<EventId>1</EventId><Timestamp>2026-11-30T00:00:00Z</Timestamp>" +
			"<LogicalResourceId>Cluster</LogicalResourceId><ResourceType>AWS::ECS::Cluster</ResourceType>" +
			"<ResourceStatus>UPDATE_IN_PROGRESS</ResourceStatus><ClientRequestToken>t</ClientRequestToken></member></StackEvents>",
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		action := r.FormValue("Action")
		result, known := results[action]
		if !known {
			t.Errorf("%s is called", action)
			w.WriteHeader(http.StatusBadRequest)
		}
		_, _ = fmt.Fprintf(w, `<%[1]sResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/"><%[1]sResult>%[2]s</%[1]sResult></%[1]sResponse>`,
			action, result)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// A command that is interrupted while CloudFormation is at work says that this goes on.
func TestStackCommandInterrupted(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"upgrade --yes", "destroy --yes"} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			env := append(append(rig.Environ(), offline(t.TempDir())...), "AWS_ENDPOINT_URL="+busy(t), "AWS_REGION=eu-central-1",
				"AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=not-a-key")
			p, err := rig.Start(env, filepath.Join(scratch, "bastion"), strings.Fields(line)...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _, _ = p.Stop(syscall.SIGKILL) })
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := p.WaitOutput(ctx, "Cluster (AWS::ECS::Cluster): update in progress"); err != nil {
				t.Fatalf("%v\n%s", err, p.Output())
			}
			if code, err := p.Stop(syscall.SIGINT); err != nil || code != 130 || !strings.Contains(p.Output(), "run the command again to follow it") {
				t.Errorf("exit code %d, %v\n%s", code, err, p.Output())
			}
		})
	}
}
