package setup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	cfntypes "github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/rds"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/account/deploy"
	"github.com/bastion-ssm/bastion/account/image"
	"github.com/bastion-ssm/bastion/account/survey"
	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/fail"
)

const region = "eu-central-1"

// world is an account on moto's server, with a database in a private VPC.
type world struct {
	t         *testing.T
	moto      string
	transport *counted
	group     string // of the database
	vpc       string
	registry  http.RoundTripper
}

// counted is a transport that counts requests, and calls stop before one of them.
type counted struct {
	http.RoundTripper
	mu   sync.Mutex
	n    int
	at   int   // the request before which stop is called; 0: none
	aws  []int // those that were not for the registry
	stop func()
}

func (c *counted) RoundTrip(r *http.Request) (*http.Response, error) {
	return c.pass(r, c.RoundTripper)
}

// pass counts a request, and leads it to a transport.
func (c *counted) pass(r *http.Request, to http.RoundTripper) (*http.Response, error) {
	c.mu.Lock()
	if c.n++; c.n == c.at {
		c.stop()
	}
	if to == c.RoundTripper {
		c.aws = append(c.aws, c.n)
	}
	c.mu.Unlock()
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return to.RoundTrip(r)
}

// passing counts requests with others'.
type passing struct {
	http.RoundTripper
	with *counted
}

func (p passing) RoundTrip(r *http.Request) (*http.Response, error) {
	return p.with.pass(r, p.RoundTripper)
}

// count sets the request that is stopped, and returns how many there were before.
func (c *counted) count(at int, stop func()) (before int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, c.n, c.aws, c.at, c.stop = c.n, 0, nil, at, stop
	return before
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{t: t, moto: rig.Moto(t), transport: &counted{RoundTripper: rig.MotoClient(t).Transport}}
}

// config is for calls that are counted.
func (w *world) config() aws.Config {
	return aws.Config{
		Region: region, BaseEndpoint: &w.moto, Retryer: rig.MotoRetryer, HTTPClient: &http.Client{Transport: w.transport},
		Credentials: credentials.NewStaticCredentialsProvider("madeup", "madeup", ""),
	}
}

// furnish empties the account and makes the VPC and the database.
func (w *world) furnish() {
	w.t.Helper()
	w.registry = passing{elasticRegistry(w.t, "made-up"), w.transport}
	ctx := w.t.Context()
	reset, err := http.NewRequestWithContext(ctx, http.MethodPost, w.moto+"/moto-api/reset", nil)
	w.do(err)
	answer, err := w.transport.RoundTrip(reset)
	w.do(err)
	w.do(answer.Body.Close())

	network := ec2.NewFromConfig(w.config())
	vpc, err := network.CreateVpc(ctx, &ec2.CreateVpcInput{CidrBlock: aws.String("10.0.0.0/16")})
	w.do(err)
	w.vpc = *vpc.Vpc.VpcId
	_, err = network.ModifyVpcAttribute(ctx, &ec2.ModifyVpcAttributeInput{
		VpcId: &w.vpc, EnableDnsHostnames: &ec2types.AttributeBooleanValue{Value: aws.Bool(true)},
	})
	w.do(err)
	var subnets []string
	for i, zone := range []string{"a", "b"} {
		s, err := network.CreateSubnet(ctx, &ec2.CreateSubnetInput{
			VpcId: &w.vpc, CidrBlock: aws.String(fmt.Sprintf("10.0.%d.0/24", i)), AvailabilityZone: aws.String(region + zone),
		})
		w.do(err)
		subnets = append(subnets, *s.Subnet.SubnetId)
	}
	group, err := network.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{
		VpcId: &w.vpc, GroupName: aws.String("orders"), Description: aws.String("orders"),
	})
	w.do(err)
	w.group = *group.GroupId
	databases := rds.NewFromConfig(w.config())
	_, err = databases.CreateDBSubnetGroup(ctx, &rds.CreateDBSubnetGroupInput{
		DBSubnetGroupName: aws.String("data"), DBSubnetGroupDescription: aws.String("data"), SubnetIds: subnets,
	})
	w.do(err)
	_, err = databases.CreateDBInstance(ctx, &rds.CreateDBInstanceInput{
		DBInstanceIdentifier: aws.String("orders"), DBInstanceClass: aws.String("db.t4g.micro"), Engine: aws.String("postgres"),
		DBSubnetGroupName: aws.String("data"), VpcSecurityGroupIds: []string{w.group}, AllocatedStorage: aws.Int32(20),
		MasterUsername: aws.String("u"), MasterUserPassword: aws.String("password"),
	})
	w.do(err)
}

func (w *world) do(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// stacks are the calls of CloudFormation. moto 5.2.1 fails at the tags of a KMS key, has no outputs of a stack that a change set made, and
// sees no change in that of a parameter.
func (w *world) stacks() deploy.Clients {
	clients := deploy.Bind(w.config())
	create, describe := clients.CreateChangeSet, clients.DescribeStacks
	clients.CreateChangeSet = func(ctx context.Context, in *cloudformation.CreateChangeSetInput, o ...func(*cloudformation.Options)) (
		*cloudformation.CreateChangeSetOutput, error,
	) {
		var template map[string]any
		if err := json.Unmarshal([]byte(*in.TemplateBody), &template); err != nil {
			return nil, err
		}
		delete(template["Resources"].(map[string]any)["Key"].(map[string]any)["Properties"].(map[string]any), "Tags")
		mended, err := json.Marshal(template)
		body := string(mended)
		for _, p := range in.Parameters {
			if aws.ToString(p.ParameterKey) == "ImageTag" && p.ParameterValue != nil {
				body = strings.ReplaceAll(body, "${ImageTag}", *p.ParameterValue)
			}
		}
		for _, p := range in.Parameters {
			if aws.ToString(p.ParameterKey) == "Tasks" && p.ParameterValue != nil {
				body = strings.ReplaceAll(body, `{"Ref":"Tasks"}`, *p.ParameterValue)
			}
		}
		in.TemplateBody = &body
		if err != nil {
			return nil, err
		}
		return create(ctx, in, o...)
	}
	clients.DescribeStacks = func(ctx context.Context, in *cloudformation.DescribeStacksInput, o ...func(*cloudformation.Options)) (
		*cloudformation.DescribeStacksOutput, error,
	) {
		out, err := describe(ctx, in, o...)
		if err == nil && len(out.Stacks) > 0 && strings.HasSuffix(string(out.Stacks[0].StackStatus), "_COMPLETE") {
			for key, value := range map[string]string{
				"Cluster": "bastion", "TaskDefinition": "bastion", "SecurityGroupId": "sg-made", "SharedService": "bastion",
				"RepositoryUri": "123456789012.dkr.ecr." + region + ".amazonaws.com/bastion",
			} {
				out.Stacks[0].Outputs = append(out.Stacks[0].Outputs, cfntypes.Output{OutputKey: &key, OutputValue: &value})
			}
		}
		return out, err
	}
	return clients
}

// setup is a new one, as a new command has it.
func (w *world) setup(p Person) *Setup {
	registry := NewRegistry(w.config(), w.registry)
	registry.token = func(ctx context.Context, in *ecr.GetAuthorizationTokenInput, o ...func(*ecr.Options)) (*ecr.GetAuthorizationTokenOutput, error) {
		if _, err := ecr.NewFromConfig(w.config()).GetAuthorizationToken(ctx, in, o...); err != nil { // moto's token is another's
			return nil, err
		}
		return token("AWS:made-up"), nil
	}
	s := &Setup{
		Survey: survey.Bind(w.config()), Stacks: deploy.New(w.stacks(), "bastion"), Registry: registry, Person: p,
		Answers: survey.Answers{Inputs: account.Inputs{Name: "bastion"}}, Binaries: testPrograms(w.t), Version: "v1",
	}
	s.Stacks.Version = s.Version
	s.Stacks.Pause = func(ctx context.Context, _ time.Duration) error { return ctx.Err() } // the emulator is done at once
	return s
}

// run is a whole set-up.
func (w *world) run(ctx context.Context, p Person) (*Plan, Result, error) {
	s := w.setup(p)
	plan, err := s.Look(ctx)
	if err != nil {
		return nil, Result{}, err
	}
	if err := s.Preview(ctx, plan); err != nil {
		return plan, Result{}, err
	}
	result, err := s.Apply(ctx, plan, nil)
	return plan, result, err
}

// person answers what its map has, and remembers what it was asked.
type person struct {
	answers map[string]string
	asked   []string
	events  []deploy.Event
}

func (p *person) Answer(_ context.Context, q survey.Question) (string, error) {
	p.asked = append(p.asked, q.Flag)
	answer, ok := p.answers[q.Flag]
	if !ok {
		return "", errors.New("nobody answers --" + q.Flag)
	}
	return answer, nil
}
func (p *person) Step(string)          {}
func (p *person) Event(e deploy.Event) { p.events = append(p.events, e) }

var agrees = map[string]string{survey.FlagGroups: survey.Yes}

func TestSetupOnMoto(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	p := &person{answers: agrees}
	plan, result, err := w.run(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(p.asked, []string{survey.FlagGroups}) || len(p.events) == 0 {
		t.Errorf("asked %q, %d events", p.asked, len(p.events))
	}
	in := plan.Stack.Inputs
	if in.VPC != w.vpc || len(in.Ingress) != 1 || in.Ingress[0].Group != w.group || in.Ingress[0].Port != 5432 {
		t.Errorf("inputs %+v", in)
	}
	if result.Settings.Targets["orders"] != "rds:orders" || result.Settings.Cluster != "bastion" || len(result.Settings.Subnets) != 2 {
		t.Errorf("settings %+v", result.Settings)
	}
	var text bytes.Buffer
	if err := plan.Show().WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"The stack bastion in account", "VPC: " + w.vpc, "AWS::ECS::Cluster", "security group " + w.group + ": lets the tasks in at port 5432"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the plan does not say %q:\n%s", want, text.String())
		}
	}

	// Again: nobody is asked, and nothing changes.
	p = new(person)
	plan, again, err := w.run(t.Context(), p)
	if err != nil || len(p.asked) > 0 || !plan.Exists || len(plan.Changes) > 0 || len(p.events) > 0 {
		t.Errorf("again: %v; asked %q, changes %v, events %v", err, p.asked, plan.Changes, p.events)
	}
	if again.Settings.Cluster != result.Settings.Cluster || len(again.Settings.Targets) != 1 {
		t.Errorf("settings %+v, before %+v", again.Settings, result.Settings)
	}

	// A choice changes what it is about, and nothing else.
	s := w.setup(new(person))
	s.Answers.Inputs.CPU, s.Answers.Inputs.Memory = 512, 1024
	plan, err = s.Look(t.Context())
	if err == nil {
		err = s.Preview(t.Context(), plan)
	}
	if err != nil || len(plan.Changes) != 1 || plan.Changes[0].Resource != "TaskDefinition" {
		t.Errorf("%v, changes %+v", err, plan.Changes)
	}
	w.do(s.Discard(t.Context(), plan))

	// A newer program brings its image, and asks nobody.
	p = new(person)
	s = w.setup(p)
	s.Version = "v2"
	plan, err = s.Look(t.Context())
	if err == nil {
		err = s.Preview(t.Context(), plan)
	}
	if err != nil || len(plan.Changes) != 1 || plan.Changes[0].Resource != "TaskDefinition" || len(p.asked) > 0 {
		t.Fatalf("%v, changes %+v, asked %q", err, plan.Changes, p.asked)
	}
	if _, err := s.Apply(t.Context(), plan, nil); err != nil {
		t.Fatal(err)
	}
	state, err := s.Stacks.Look(t.Context())
	if tag := state.Parameters["ImageTag"]; err != nil || tag != plan.Images[0].Tag || !strings.HasPrefix(tag, "v2-") {
		t.Errorf("%v, the image is %q", err, tag)
	}

	// A program without bastiond leaves the image as it is.
	s = w.setup(new(person))
	s.Binaries = nil
	plan, err = s.Look(t.Context())
	if err == nil {
		err = s.Preview(t.Context(), plan)
	}
	if err != nil || len(plan.Changes) > 0 {
		t.Errorf("without bastiond: %v, changes %+v", err, plan.Changes)
	}
}

// A shared class has no tasks before its image is there, and then as many as were chosen.
func TestSharedSetupOnMoto(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	s := w.setup(&person{answers: agrees})
	w.do(s.Answers.Share("2"))
	plan, err := s.Look(t.Context())
	w.do(err)
	w.do(s.Preview(t.Context(), plan))
	tasks := func() int32 {
		out, err := ecs.NewFromConfig(w.config()).DescribeServices(t.Context(), &ecs.DescribeServicesInput{
			Cluster: aws.String("bastion"), Services: []string{"bastion"},
		})
		if err != nil || len(out.Services) != 1 {
			return -1
		}
		return out.Services[0].DesiredCount
	}
	var before []int32
	result, err := s.Apply(t.Context(), plan, func(image.Progress) {
		if before == nil {
			before = append(before, tasks())
		}
	})
	w.do(err)
	if len(before) != 1 || before[0] != 0 || tasks() != 2 || result.Settings.SharedService != "bastion" {
		t.Errorf("%d tasks while the image was pushed, %d in the end; %+v", before, tasks(), result.Settings)
	}
	// Again nothing changes.
	plan, _, err = w.run(t.Context(), new(person))
	if err != nil || !plan.Exists || plan.Stack.Inputs.Classes[0].Shared != 2 || len(plan.Changes) > 0 {
		t.Errorf("again: %v, %+v", err, plan)
	}
}

// live counts the account's stacks.
func (w *world) live() int {
	w.t.Helper()
	out, err := cloudformation.NewFromConfig(w.config()).ListStacks(w.t.Context(), &cloudformation.ListStacksInput{})
	w.do(err)
	return len(slices.DeleteFunc(out.StackSummaries, func(s cfntypes.StackSummary) bool { return s.StackStatus == cfntypes.StackStatusDeleteComplete }))
}

// pushed reports whether the image with a tag is in the registry.
func (w *world) pushed(tag string) bool {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, "https://registry.example.com/v2/bastion/manifests/"+tag, nil)
	w.do(err)
	r.SetBasicAuth("AWS", "made-up")
	r.Header.Set("Accept", "application/vnd.oci.image.index.v1+json")
	answer, err := w.registry.RoundTrip(r)
	w.do(err)
	w.do(answer.Body.Close())
	return answer.StatusCode == http.StatusOK
}

// Look changes nothing, and a person who does not agree leaves nothing.
func TestLookAndDiscard(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	s := w.setup(&person{answers: agrees})
	plan, err := s.Look(t.Context())
	w.do(err)
	if n := w.live(); n != 0 {
		t.Errorf("%d stacks after a look", n)
	}
	shown := plan.Show()
	if len(shown.Resources) != len(plan.Stack.Resources) || shown.Exists {
		t.Errorf("shows %d resources of %d", len(shown.Resources), len(plan.Stack.Resources))
	}
	w.do(s.Preview(t.Context(), plan))
	w.do(s.Discard(t.Context(), plan))
	if n := w.live(); n != 0 {
		t.Errorf("%d stacks after a preview that was discarded", n)
	}
	if _, err := w.setup(new(person)).Look(t.Context()); err == nil || !strings.Contains(err.Error(), survey.FlagGroups) {
		t.Errorf("without an answer: %v", err)
	}
}

// Faults of the answers are told before anybody waits or is asked; memory alone may fit the stack that stands. A security group that is
// not there is told before the next question.
func TestLookChecksAnswers(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	for want, in := range map[string]account.Inputs{
		"log retention of 30 days": {Name: "bastion", RetentionDays: 30}, `destination "foo"`: {Name: "bastion", Classes: []account.Class{{Allow: []string{"foo"}}}},
		"512 MiB with 1024": {Name: "bastion", CPU: 1024, Memory: 512},
	} {
		s := w.setup(new(person))
		s.Answers.Inputs = in
		w.transport.count(0, nil)
		_, err := s.Look(t.Context())
		if calls := w.transport.count(0, nil); fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), want) || calls > 0 {
			t.Errorf("%s: %v, after %d requests", want, err, calls)
		}
	}
	s := w.setup(new(person))
	s.Answers.Inputs.Memory = 512
	if err := s.check(); err != nil {
		t.Errorf("memory alone: %v", err)
	}
	p := &person{answers: agrees}
	s = w.setup(p)
	s.Answers.Inputs.SecurityGroup = "sg-0123456789abcdef0"
	if _, err := s.Look(t.Context()); fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "there is none in "+region) || len(p.asked) > 0 {
		t.Errorf("a security group that is not there: %v, asked %q", err, p.asked)
	}
	p = &person{answers: agrees}
	s = w.setup(p)
	s.Answers.Inputs.SecurityGroup = w.group
	if plan, err := s.Look(t.Context()); err != nil || plan.Stack.Inputs.SecurityGroup != w.group {
		t.Errorf("one of the VPC: %v", err)
	}
}

// Look only follows CloudFormation: what it leaves of a stack is for Preview to remove, or for upgrade to continue.
func TestLookFollowsOnly(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	stack, err := account.New(account.Inputs{Name: "bastion"})
	w.do(err)
	template, err := stack.Deployable("v1")
	w.do(err)
	for end, want := range map[cfntypes.StackStatus]string{
		cfntypes.StackStatusRollbackComplete:     "",
		cfntypes.StackStatusUpdateRollbackFailed: "bastion upgrade",
	} {
		looks := 0
		clients := w.stacks()
		clients.DescribeStacks = func(context.Context, *cloudformation.DescribeStacksInput, ...func(*cloudformation.Options)) (
			*cloudformation.DescribeStacksOutput, error,
		) {
			status := end
			if looks++; looks == 1 {
				status = cfntypes.StackStatusCreateInProgress
			}
			return &cloudformation.DescribeStacksOutput{Stacks: []cfntypes.Stack{{StackId: aws.String("id"), StackStatus: status}}}, nil
		}
		clients.GetTemplate = func(context.Context, *cloudformation.GetTemplateInput, ...func(*cloudformation.Options)) (
			*cloudformation.GetTemplateOutput, error,
		) {
			return &cloudformation.GetTemplateOutput{TemplateBody: aws.String(string(template))}, nil
		}
		clients.DescribeStackEvents = func(context.Context, *cloudformation.DescribeStackEventsInput, ...func(*cloudformation.Options)) (
			*cloudformation.DescribeStackEventsOutput, error,
		) {
			return new(cloudformation.DescribeStackEventsOutput), nil
		}
		s := w.setup(&person{answers: agrees})
		clients.DeleteStack, clients.ContinueUpdateRollback = nil, nil // a call panics
		s.Stacks = deploy.New(clients, "bastion")
		plan, err := s.Look(t.Context())
		switch {
		case want == "" && (err != nil || plan.Exists):
			t.Errorf("%s: %v, plan %+v", end, err, plan)
		case want != "" && !strings.Contains(fail.NextOf(err), want):
			t.Errorf("%s: %v, next %q", end, err, fail.NextOf(err))
		}
	}
}

// Whatever request is the last of a set-up that is interrupted, be it AWS's or the registry's, the next set-up ends as one that was not: with
// one stack, and the image.
func TestInterruptedSetup(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.transport.count(0, nil)
	plan, want, err := w.run(t.Context(), &person{answers: agrees})
	w.do(err)
	calls := w.transport.aws
	all := w.transport.count(0, nil)
	if len(calls) < 20 || all < len(calls)+20 {
		t.Fatalf("a set-up makes %d requests, %d of them of AWS", all, len(calls))
	}
	for at := 1; at <= all; at++ {
		if !slices.Contains(calls, at) && at%5 > 0 { // TestPushGoesOn of package image has the others
			continue
		}
		w.furnish()
		ctx, cancel := context.WithCancel(t.Context())
		w.transport.count(at, cancel)
		if _, _, err := w.run(ctx, &person{answers: agrees}); err == nil {
			t.Errorf("request %d: the set-up was not interrupted", at)
		}
		cancel()
		w.transport.count(0, nil)
		again, result, err := w.run(t.Context(), &person{answers: agrees})
		if err != nil {
			t.Errorf("request %d: the next set-up: %v", at, err)
			continue
		}
		if len(again.Stack.Resources) != len(plan.Stack.Resources) || len(result.Outputs) != len(want.Outputs) ||
			again.Images[0].Tag != plan.Images[0].Tag {
			t.Errorf("request %d: the next set-up made %+v, want %+v", at, result, want)
		}
		if n := w.live(); n != 1 || !w.pushed(again.Images[0].Tag) {
			t.Errorf("request %d: there are %d stacks, the image is there: %t", at, n, w.pushed(again.Images[0].Tag))
		}
	}
}
