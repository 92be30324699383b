package bastions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// A task's starter chooses its owner tag, startedBy, overrides and network. So the Manager compares a task with the owner's
// marks with the task that this client would start, as far as ECS and EC2 show it. docs/adr/0010-whose-bastion.md has the
// reasons.

// inspect returns the bastion of a task with the owner's marks. It is Refused if it differs from the task that this client
// would start, and Outdated if that has another revision.
func (m *Manager) inspect(ctx context.Context, y *yardstick, task *types.Task) (Bastion, error) {
	spec := y.spec
	b := fromTask(spec, task)
	if tagValue(task.Tags, tagOwner) != spec.Owner.UserID {
		b.Outdated = "was started by an older bastion, whose owner tag IAM cannot compare with the caller"
		return b, nil
	}
	if b.Refused = refusal(spec, task); b.Refused != "" || b.Stopping() || m.checked.has(spec, b.TaskARN) {
		return b, nil
	}
	complete := true
	var unchecked []string
	for _, part := range []struct {
		why     *string
		compare func(context.Context, *yardstick, *types.Task) (string, error)
	}{{&b.Refused, m.otherNetwork}, {&b.Outdated, otherRevision}} {
		why, err := part.compare(ctx, y, task)
		var unknown *unknownError
		switch {
		case errors.Is(err, errTooEarly):
			complete = false
		case errors.As(err, &unknown):
			complete = false
			unchecked = append(unchecked, unknown.Error())
		case err != nil:
			return b, err
		case why != "":
			*part.why = why
			return b, nil
		}
	}
	b.Unchecked = strings.Join(unchecked, "; ")
	if complete {
		m.checked.add(spec, b.TaskARN)
	}
	return b, nil
}

// yardstick describes the task that this client would start now. Each part is looked up once, when first needed.
type yardstick struct {
	spec     Spec
	network  func() (*types.NetworkConfiguration, error)
	revision func() (string, error) // family:revision
}

func (m *Manager) yardstick(ctx context.Context, spec Spec) *yardstick {
	return &yardstick{
		spec:     spec,
		network:  sync.OnceValues(func() (*types.NetworkConfiguration, error) { return m.network(ctx, spec) }),
		revision: sync.OnceValues(func() (string, error) { return m.revision(ctx, spec.TaskDefinition) }),
	}
}

// confirm inspects a bastion again, unless it was checked completely before. It returns the unchecked properties.
func (m *Manager) confirm(ctx context.Context, spec Spec, b Bastion) (unchecked string, err error) {
	if m.checked.has(spec, b.TaskARN) {
		return "", nil
	}
	now, err := m.Get(ctx, spec, b.TaskARN)
	if err != nil {
		return "", err
	}
	return now.Unchecked, nil
}

// unknownError says what cannot be compared, with a hint.
type unknownError struct{ error }

// errTooEarly says that a starting task cannot be compared yet.
var errTooEarly = errors.New("the task has no network interface yet")

// refusal returns why this client would not have started the task, by DescribeTasks alone; "" if it might have.
func refusal(spec Spec, task *types.Task) string {
	return cmp.Or(otherPlace(spec, task), otherLaunch(task), otherOverrides(task.Overrides))
}

// otherPlace compares account, region and cluster.
func otherPlace(spec Spec, task *types.Task) string {
	owner, err := arn.Parse(spec.Owner.ARN)
	if err != nil {
		return "cannot be compared: the owner's ARN " + spec.Owner.ARN + " is not one"
	}
	region := ""
	for name, value := range map[string]*string{
		"task": task.TaskArn, "cluster": task.ClusterArn, "task definition": task.TaskDefinitionArn,
	} {
		parsed, err := arn.Parse(aws.ToString(value))
		if err != nil {
			return fmt.Sprintf("has the %s %q, which is not an ARN", name, aws.ToString(value))
		}
		if parsed.AccountID != owner.AccountID {
			return fmt.Sprintf("has the %s of account %s, not of yours, %s", name, parsed.AccountID, owner.AccountID)
		}
		if region = cmp.Or(region, parsed.Region); region != parsed.Region {
			return "has ARNs of the regions " + region + " and " + parsed.Region
		}
	}
	want, have := spec.cluster(), aws.ToString(task.ClusterArn)
	if have != want && (arn.IsARN(want) || lastPart(have) != want) {
		return "runs in cluster " + have + ", not in " + want
	}
	return ""
}

// The capacity providers that are AWS's own: Fargate without and with the price and the interruptions of Spot.
const (
	providerFargate = "FARGATE"
	providerSpot    = "FARGATE_SPOT"
)

// otherLaunch compares where the task runs, and its attachments. Who started the task chose its capacity; as with sizes, that changes
// neither program nor destination, and a running task is used whichever a new one would have.
func otherLaunch(task *types.Task) string {
	switch {
	case task.LaunchType != types.LaunchTypeFargate:
		return fmt.Sprintf("has the launch type %q, not FARGATE", task.LaunchType)
	case aws.ToString(task.ContainerInstanceArn) != "":
		return "runs on the container instance " + lastPart(aws.ToString(task.ContainerInstanceArn))
	}
	switch provider := aws.ToString(task.CapacityProviderName); provider {
	case "", providerFargate, providerSpot:
	default:
		return "was placed by the capacity provider " + provider
	}
	for _, a := range task.Attachments {
		if aws.ToString(a.Type) == "AmazonElasticBlockStorage" {
			return "has a volume attached"
		}
	}
	return ""
}

// otherOverrides returns the task's overrides besides sizes. This client sends no others, and sizes change neither program nor
// destination.
func otherOverrides(o *types.TaskOverride) string {
	switch {
	case o == nil:
		return ""
	case aws.ToString(o.TaskRoleArn) != "":
		return "has the task role overridden: " + aws.ToString(o.TaskRoleArn)
	case aws.ToString(o.ExecutionRoleArn) != "":
		return "has the execution role overridden: " + aws.ToString(o.ExecutionRoleArn)
	case len(o.InferenceAcceleratorOverrides) > 0: //nolint:staticcheck // ECS may still answer it
		return "has accelerators overridden"
	}
	for _, c := range o.ContainerOverrides {
		var what string
		switch {
		case len(c.Command) > 0:
			what = fmt.Sprintf("the command %q", c.Command)
		case len(c.Environment) > 0:
			what = "the variable " + aws.ToString(c.Environment[0].Name)
		case len(c.EnvironmentFiles) > 0:
			what = "an environment file"
		case len(c.ResourceRequirements) > 0:
			what = "resources"
		default:
			continue
		}
		return "has overrides in container " + aws.ToString(c.Name) + ": " + what
	}
	return ""
}

// revision returns the "family:revision" that RunTask would start; without a revision, the family's latest.
func (m *Manager) revision(ctx context.Context, definition string) (string, error) {
	if name := lastPart(definition); strings.Contains(name, ":") {
		return name, nil
	}
	const op, action = "compare a task's definition", "ecs:DescribeTaskDefinition"
	out, err := m.ecs.DescribeTaskDefinition(ctx, &ecs.DescribeTaskDefinitionInput{TaskDefinition: aws.String(definition)})
	switch err = ecsError(op, action, err); {
	case fail.KindOf(err) == fail.Denied:
		return "", &unknownError{errors.New("whether it runs the latest revision (" + fail.NextOf(err) + ")")}
	case err != nil:
		return "", err
	}
	return lastPart(aws.ToString(out.TaskDefinition.TaskDefinitionArn)), nil
}

// otherRevision compares the revision.
func otherRevision(_ context.Context, y *yardstick, task *types.Task) (string, error) {
	if y.spec.TaskDefinition == "" {
		return "", nil
	}
	want, err := y.revision()
	if have := lastPart(aws.ToString(task.TaskDefinitionArn)); err == nil && want != have {
		return "runs task definition " + have + "; a new one would run " + want, nil
	}
	return "", err
}

// otherNetwork compares subnet, security groups and public address.
func (m *Manager) otherNetwork(ctx context.Context, y *yardstick, task *types.Task) (string, error) {
	network, err := y.network()
	switch kind := fail.KindOf(err); {
	case kind == fail.Denied:
		return "", &unknownError{fmt.Errorf("its network (%w)", err)}
	case kind == fail.Usage: // no task could be started either, and others can make tags ambiguous
		return "has a network that cannot be compared: " + err.Error(), nil
	case err != nil:
		return "", err
	}
	want := network.AwsvpcConfiguration
	if subnet := attachmentDetail(task, "subnetId"); subnet != "" && !slices.Contains(want.Subnets, subnet) {
		return "is in subnet " + subnet + ", not in " + strings.Join(want.Subnets, ", "), nil
	}
	id := attachmentDetail(task, "networkInterfaceId")
	switch {
	case id == "" && aws.ToString(task.LastStatus) != "RUNNING":
		return "", errTooEarly
	case id == "":
		return "", &unknownError{errors.New("its security groups (ECS names no network interface)")}
	}
	face, err := m.networkInterface(ctx, id)
	if err != nil {
		return "", err
	}
	if subnet := aws.ToString(face.SubnetId); !slices.Contains(want.Subnets, subnet) {
		return "is in subnet " + subnet + ", not in " + strings.Join(want.Subnets, ", "), nil
	}
	if public := face.Association; public != nil && aws.ToString(public.PublicIp) != "" && !y.spec.AssignPublicIP {
		return "has the public address " + aws.ToString(public.PublicIp), nil
	}
	return otherGroups(want.SecurityGroups, face.Groups), nil
}

// otherGroups compares security groups. Without any, RunTask uses the VPC's default group; no other group can have its name.
func otherGroups(want []string, have []ec2types.GroupIdentifier) string {
	var ids []string
	for _, g := range have {
		ids = append(ids, aws.ToString(g.GroupId))
	}
	slices.Sort(ids)
	if len(want) == 0 && len(have) == 1 && aws.ToString(have[0].GroupName) == "default" || slices.Equal(ids, want) {
		return ""
	}
	return fmt.Sprintf("has the security groups %s, not %s", strings.Join(ids, ", "),
		cmp.Or(strings.Join(want, ", "), "the VPC's default"))
}

func (m *Manager) networkInterface(ctx context.Context, id string) (*ec2types.NetworkInterface, error) {
	const op, action = "compare a task's network", "ec2:DescribeNetworkInterfaces"
	if m.ec2 == nil {
		return nil, &unknownError{errors.New("its security groups (EC2 is not set up)")}
	}
	out, err := m.ec2.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{NetworkInterfaceIds: []string{id}})
	switch err = fail.AWS(fail.Start, op, action, err); {
	case fail.KindOf(err) == fail.Denied:
		return nil, &unknownError{errors.New("its security groups (" + fail.NextOf(err) + ")")}
	case err != nil:
		return nil, err
	case len(out.NetworkInterfaces) != 1:
		return nil, fail.New(fail.Start, op, fmt.Errorf("EC2 does not know the interface %s", id), "try again")
	}
	return &out.NetworkInterfaces[0], nil
}

// maxChecked bounds the remembered tasks.
const maxChecked = 64

// checked remembers the tasks that match a Spec. Their network and overrides never change, and each check costs calls. It does
// not remember refusals, so the next look checks those tasks again.
type checked struct {
	mu    sync.Mutex
	tasks map[string]bool
}

func checkedKey(spec Spec, task string) string {
	spec.StartTimeout, spec.Avoid = 0, ""
	return fmt.Sprintf("%s\n%+v", task, spec) // fmt sorts maps
}

func (c *checked) has(spec Spec, task string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tasks[checkedKey(spec, task)]
}

func (c *checked) add(spec Spec, task string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.tasks) >= maxChecked {
		clear(c.tasks)
	}
	if c.tasks == nil {
		c.tasks = make(map[string]bool)
	}
	c.tasks[checkedKey(spec, task)] = true
}
