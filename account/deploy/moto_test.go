package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/e2e/rig"
)

// motoConfig returns the configuration of clients of a new emulator.
func motoConfig(t *testing.T) aws.Config {
	t.Helper()
	moto := rig.Moto(t)
	return aws.Config{
		Region: "eu-central-1", BaseEndpoint: &moto, Retryer: rig.MotoRetryer, HTTPClient: rig.MotoClient(t),
		Credentials: credentials.NewStaticCredentialsProvider("madeup", "madeup", ""),
	}
}

// motoDeployer is a deployer whose pauses are short. moto 5.2.1 reads the tags of a KMS key as those of KMS's API, and fails: they are
// left out of the template.
func motoDeployer(t *testing.T, cfg aws.Config, name string) *Deployer {
	t.Helper()
	clients := Bind(cfg)
	create := clients.CreateChangeSet
	clients.CreateChangeSet = func(ctx context.Context, in *cloudformation.CreateChangeSetInput, o ...func(*cloudformation.Options)) (
		*cloudformation.CreateChangeSetOutput, error,
	) {
		var template map[string]any
		if err := json.Unmarshal([]byte(*in.TemplateBody), &template); err != nil {
			return nil, err
		}
		if key, ok := template["Resources"].(map[string]any)["Key"].(map[string]any); ok {
			delete(key["Properties"].(map[string]any), "Tags")
		}
		mended, err := json.Marshal(template)
		if err != nil {
			return nil, err
		}
		in.TemplateBody = aws.String(string(mended))
		return create(ctx, in, o...)
	}
	d := New(clients, name)
	d.Version = "1.2.3"
	d.Pause = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	return d
}

// An emulator that is not ours makes the stack, finds nothing to change in it, changes it, and lets the same command go on from a
// preview that was never applied. moto 5.2.1 has no outputs of a stack that a change set made.
func TestMoto(t *testing.T) {
	cfg := motoConfig(t)
	s := newStack(t, account.Inputs{})
	d := motoDeployer(t, cfg, "bastion")
	if state, err := d.Look(t.Context()); err != nil || state.Phase != None {
		t.Fatalf("%+v, %v", state, err)
	}
	if _, err := d.Preview(t.Context(), s, given); err != nil {
		t.Fatal(err)
	}
	d = motoDeployer(t, cfg, "bastion")
	var events []string
	if _, err := install(t.Context(), d, s, func(e Event) { events = append(events, e.Status) }); err != nil {
		t.Fatal(err)
	}
	if len(events) == 0 || events[len(events)-1] != "CREATE_COMPLETE" {
		t.Errorf("events %q", events)
	}
	state, err := d.Look(t.Context())
	if err != nil || state.Phase != Ready || !state.Own || state.Inputs.Name != "bastion" || state.Parameters["VpcId"] != "vpc-1" {
		t.Fatalf("%+v, %v", state, err)
	}
	p, err := d.Preview(t.Context(), newStack(t, state.Inputs), nil)
	if err != nil || !p.Empty {
		t.Errorf("%+v, %v", p, err)
	}
	in := state.Inputs
	in.CPU, in.Memory = 2048, 4096
	p, err = d.Preview(t.Context(), newStack(t, in), nil)
	if err != nil || p.Empty || len(p.Changes) != 1 || p.Changes[0].Resource != "TaskDefinition" || p.Changes[0].Action != "Modify" {
		t.Fatalf("%+v, %v", p.Changes, err)
	}
	if err := d.Discard(t.Context(), p); err != nil {
		t.Error(err)
	}
	if _, err := install(t.Context(), d, newStack(t, in), nil); err != nil {
		t.Fatal(err)
	}
	if state, err = d.Look(t.Context()); err != nil || state.Inputs.CPU != 2048 {
		t.Errorf("%+v, %v", state.Inputs, err)
	}
}

// What stands beside the stack stays: a stack of a similar name, a role and a security group of similar names, another cluster.
func TestMotoDestroy(t *testing.T) {
	cfg := motoConfig(t)
	ctx := t.Context()
	if _, err := install(ctx, motoDeployer(t, cfg, "bastion-two"), newStack(t, account.Inputs{Name: "bastion-two"}), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := iam.NewFromConfig(cfg).CreateRole(ctx, &iam.CreateRoleInput{
		RoleName: aws.String("bastion-TaskRole"), AssumeRolePolicyDocument: aws.String("{}"),
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := ec2.NewFromConfig(cfg).CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{
		GroupName: aws.String("bastion"), Description: aws.String("a neighbour's"), VpcId: aws.String("vpc-1"),
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := ecs.NewFromConfig(cfg).CreateCluster(ctx, &ecs.CreateClusterInput{ClusterName: aws.String("shop")}); err != nil {
		t.Fatal(err)
	}
	before := beside(t, cfg)
	d := motoDeployer(t, cfg, "bastion")
	for range 2 { // the second time as the first
		if _, err := install(ctx, d, newStack(t, account.Inputs{}), nil); err != nil {
			t.Fatal(err)
		}
		if made := beside(t, cfg); len(made) < len(before)+5 {
			t.Fatalf("only %q", made)
		}
		p, err := d.PlanDestroy(ctx, nil)
		if err != nil || p.Nothing() || len(p.Tasks)+len(p.Others) != 0 || len(p.Keep) != 2 {
			t.Fatalf("%+v, %v", p, err)
		}
		done, err := d.Destroy(ctx, p, DestroyOptions{Audit: true}, nil)
		if err != nil || len(done.Removed) == 0 {
			t.Fatalf("%+v, %v", done, err)
		}
		if left := beside(t, cfg); !slices.Equal(left, before) {
			t.Errorf("there are %q, want %q", left, before)
		}
		p, err = d.PlanDestroy(ctx, nil)
		if err != nil || !p.Nothing() || len(p.Keep) != 0 {
			t.Errorf("%+v, %v", p, err)
		}
	}
}

// killer is a transport on which the n-th call that changes something ends the process, before or after it has its effect.
type killer struct {
	http.RoundTripper
	n     int
	after bool
	kill  func()
	calls int
}

func (k *killer) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	form, _ := url.ParseQuery(string(body))
	_, action, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	if action == "" {
		action = form.Get("Action")
	}
	if strings.HasPrefix(action, "Describe") || strings.HasPrefix(action, "List") || strings.HasPrefix(action, "Get") {
		return k.RoundTripper.RoundTrip(r)
	}
	k.calls++
	if k.calls == k.n && !k.after {
		k.kill()
		return nil, errKilled
	}
	resp, err := k.RoundTripper.RoundTrip(r)
	if k.calls == k.n && err == nil {
		k.kill()
		_ = resp.Body.Close()
		return nil, errKilled
	}
	return resp, err
}

// A stack is made, changed and removed; whichever call ends the process, the same again comes to the same end.
func TestMotoInterrupted(t *testing.T) {
	cfg := motoConfig(t)
	transport := cfg.HTTPClient.(*http.Client).Transport
	life := func(ctx context.Context, k *killer) error {
		k.RoundTripper = transport
		mortal := cfg
		mortal.HTTPClient = &http.Client{Transport: k}
		d := motoDeployer(t, mortal, "bastion")
		if _, err := install(ctx, d, newStack(t, account.Inputs{}), nil); err != nil {
			return err
		}
		if _, err := install(ctx, d, newStack(t, account.Inputs{CPU: 2048}), nil); err != nil {
			return err
		}
		_, err := destroy(ctx, d, DestroyOptions{Audit: true}, nil)
		return err
	}
	before := beside(t, cfg)
	whole := new(killer)
	if err := life(t.Context(), whole); err != nil || whole.calls < 6 {
		t.Fatalf("%v, %d calls", err, whole.calls)
	}
	for n := range whole.calls {
		for _, after := range []bool{false, true} {
			ctx, cancel := context.WithCancelCause(t.Context())
			if err := life(ctx, &killer{n: n + 1, after: after, kill: func() { cancel(errKilled) }}); err == nil {
				t.Fatalf("call %d does not end it", n+1)
			}
			if err := life(t.Context(), new(killer)); err != nil {
				t.Errorf("after call %d, %v: %v", n+1, after, err)
			}
			if left := beside(t, cfg); !slices.Equal(left, before) {
				t.Errorf("after call %d, %v: there are %q, want %q", n+1, after, left, before)
			}
		}
	}
}

// beside names what is in the emulator, of the types that go with a stack there. moto 5.2.1 leaves a deleted stack's cluster, task
// definitions and managed policies, and deletes what the template says to retain, except on creation.
func beside(t *testing.T, cfg aws.Config) (names []string) {
	t.Helper()
	ctx := t.Context()
	roles, err := iam.NewFromConfig(cfg).ListRoles(ctx, &iam.ListRolesInput{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range roles.Roles {
		names = append(names, "role "+*r.RoleName)
	}
	groups, err := ec2.NewFromConfig(cfg).DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{})
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range groups.SecurityGroups {
		names = append(names, "group "+*g.GroupName)
	}
	logs, err := cloudwatchlogs.NewFromConfig(cfg).DescribeLogGroups(ctx, &cloudwatchlogs.DescribeLogGroupsInput{})
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range logs.LogGroups {
		names = append(names, "log group "+*g.LogGroupName)
	}
	stacks, err := cloudformation.NewFromConfig(cfg).DescribeStacks(ctx, &cloudformation.DescribeStacksInput{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range stacks.Stacks {
		names = append(names, "stack "+*s.StackName)
	}
	slices.Sort(names)
	return names
}

// mended is a transport to moto 5.2.1's ECS: it lists stopped tasks too, unless it is asked for others, and answers sizes as numbers.
type mended struct{ http.RoundTripper }

func (m mended) RoundTrip(r *http.Request) (*http.Response, error) {
	service, action, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	if !strings.HasPrefix(service, "AmazonEC2ContainerService") {
		return m.RoundTripper.RoundTrip(r)
	}
	if action == "ListTasks" {
		var in map[string]any
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			return nil, err
		}
		if in["desiredStatus"] == nil {
			in["desiredStatus"] = "RUNNING"
		}
		body, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	resp, err := m.RoundTripper.RoundTrip(r)
	if err != nil || action != "RunTask" && action != "DescribeTasks" && action != "StopTask" {
		return resp, err
	}
	defer resp.Body.Close()
	var out any
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		return nil, err
	}
	body, err := json.Marshal(sizesAsText(out))
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return resp, err
}

// sizesAsText are the containers' sizes as ECS has them.
func sizesAsText(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			if n, ok := value.(float64); ok && (name == "cpu" || name == "memory") {
				v[name] = fmt.Sprint(n)
			} else {
				v[name] = sizesAsText(value)
			}
		}
	case []any:
		for i := range v {
			v[i] = sizesAsText(v[i])
		}
	}
	return v
}

// An emulator that is not ours runs a task of the stack's family and one of a neighbour's. destroy stops the first, and says that the
// other is in its way.
func TestMotoStopsTasks(t *testing.T) {
	cfg := motoConfig(t)
	cfg.HTTPClient = &http.Client{Transport: mended{cfg.HTTPClient.(*http.Client).Transport}}
	ctx := t.Context()
	d := motoDeployer(t, cfg, "bastion")
	if _, err := install(ctx, d, newStack(t, account.Inputs{}), nil); err != nil {
		t.Fatal(err)
	}
	tasks := ecs.NewFromConfig(cfg)
	subnets, err := ec2.NewFromConfig(cfg).DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{})
	if err != nil {
		t.Fatal(err)
	}
	run := func(family string) string {
		t.Helper()
		definition, err := tasks.RegisterTaskDefinition(ctx, &ecs.RegisterTaskDefinitionInput{
			Family: &family, NetworkMode: ecstypes.NetworkModeAwsvpc, RequiresCompatibilities: []ecstypes.Compatibility{ecstypes.CompatibilityFargate},
			Cpu: aws.String("256"), Memory: aws.String("512"),
			ContainerDefinitions: []ecstypes.ContainerDefinition{{Name: aws.String("bastion"), Image: aws.String("i"), Memory: aws.Int32(512)}},
		})
		if err != nil {
			t.Fatal(err)
		}
		out, err := tasks.RunTask(ctx, &ecs.RunTaskInput{
			Cluster: aws.String("bastion"), TaskDefinition: definition.TaskDefinition.TaskDefinitionArn, LaunchType: ecstypes.LaunchTypeFargate,
			NetworkConfiguration: &ecstypes.NetworkConfiguration{AwsvpcConfiguration: &ecstypes.AwsVpcConfiguration{
				Subnets: []string{*subnets.Subnets[0].SubnetId}, SecurityGroups: []string{"sg-1"}, // moto 5.2.1 fails without any
			}},
		})
		if err != nil || len(out.Tasks) != 1 {
			t.Fatalf("%+v, %v", out, err)
		}
		return *out.Tasks[0].TaskArn
	}
	own, other := run("bastion"), run("shop")
	p, err := d.PlanDestroy(ctx, nil)
	if err != nil || !slices.Equal(p.Tasks, []string{own}) || !slices.Equal(p.Others, []string{other}) {
		t.Fatalf("%+v, %v", p, err)
	}
	if _, err := d.Destroy(ctx, p, DestroyOptions{}, nil); err == nil {
		t.Error("a stack with a neighbour's task is removed")
	}
	if _, err := tasks.StopTask(ctx, &ecs.StopTaskInput{Cluster: aws.String("bastion"), Task: &other}); err != nil {
		t.Fatal(err)
	}
	if p, err = d.PlanDestroy(ctx, nil); err != nil {
		t.Fatal(err)
	}
	done, err := d.Destroy(ctx, p, DestroyOptions{}, nil)
	if err != nil || !slices.Equal(done.Tasks, []string{own}) {
		t.Fatalf("%+v, %v", done, err)
	}
	out, err := tasks.DescribeTasks(ctx, &ecs.DescribeTasksInput{Cluster: aws.String("bastion"), Tasks: []string{own}})
	if err == nil && len(out.Tasks) == 1 && (*out.Tasks[0].LastStatus != "STOPPED" || *out.Tasks[0].StoppedReason != "bastion destroy") {
		t.Errorf("%+v", out.Tasks[0])
	}
}
