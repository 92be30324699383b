package bastions

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/fargate"
	"github.com/bastion-ssm/bastion/internal/words"
)

// maxDescribed is the most tasks for one DescribeTasks call.
const maxDescribed = 100

// ECSAPI is the part of the ECS client that a Manager calls.
type ECSAPI interface {
	ListTasks(context.Context, *ecs.ListTasksInput, ...func(*ecs.Options)) (*ecs.ListTasksOutput, error)
	DescribeTasks(context.Context, *ecs.DescribeTasksInput, ...func(*ecs.Options)) (*ecs.DescribeTasksOutput, error)
	RunTask(context.Context, *ecs.RunTaskInput, ...func(*ecs.Options)) (*ecs.RunTaskOutput, error)
	StopTask(context.Context, *ecs.StopTaskInput, ...func(*ecs.Options)) (*ecs.StopTaskOutput, error)
	DescribeServices(context.Context, *ecs.DescribeServicesInput, ...func(*ecs.Options)) (*ecs.DescribeServicesOutput, error)
	DescribeTaskDefinition(context.Context, *ecs.DescribeTaskDefinitionInput, ...func(*ecs.Options)) (
		*ecs.DescribeTaskDefinitionOutput, error)
}

// EC2API is the part of the EC2 client that a Manager calls, for subnets and security groups named by tags, and for a task's
// actual ones.
type EC2API interface {
	DescribeSubnets(context.Context, *ec2.DescribeSubnetsInput, ...func(*ec2.Options)) (*ec2.DescribeSubnetsOutput, error)
	DescribeSecurityGroups(context.Context, *ec2.DescribeSecurityGroupsInput, ...func(*ec2.Options)) (
		*ec2.DescribeSecurityGroupsOutput, error)
	DescribeNetworkInterfaces(context.Context, *ec2.DescribeNetworkInterfacesInput, ...func(*ec2.Options)) (
		*ec2.DescribeNetworkInterfacesOutput, error)
}

// Config is a Manager's configuration.
type Config struct {
	ECS     ECSAPI
	EC2     EC2API // may be nil if no Spec names subnets or security groups by tags; security groups then stay unchecked
	Logger  *slog.Logger
	Version string // for the tag bastion:version of new tasks
}

// Spec describes the wanted bastion.
type Spec struct {
	Cluster           string            // name or ARN; empty: "default"
	TaskDefinition    string            // family (its latest revision), family:revision or ARN
	Container         string            // empty: the only one, or the one named "bastion"
	Subnets           []string          // ids
	SecurityGroups    []string          // ids; without ids and tags: the VPC's default group
	SubnetTags        map[string]string // used if Subnets is empty; an empty value matches any
	SecurityGroupTags map[string]string // used if SecurityGroups is empty; an empty value matches any
	AssignPublicIP    bool
	Size              fargate.Size // of a new task; zero: the task definition's
	Spot              bool         // run a new task on Fargate Spot, which may end it with two minutes' notice
	Owner             Owner
	Tags              map[string]string // of a new task, besides the Manager's own
	StartTimeout      time.Duration     // 0: DefaultStartTimeout

	// Service is the ECS service, by name or ARN, whose tasks are bastions that people share; empty: a task of the Owner's own. Its tasks
	// must be in the Spec's network and of its task definition. None is started or stopped.
	Service string
	Avoid   string // id of a task of the service that is about to end: another is better
}

// DefaultStartTimeout is how long Ensure waits for a task and its exec agent. Fargate usually takes 30 to 60 seconds.
const DefaultStartTimeout = 4 * time.Minute

// Bastion is a task of the Spec's owner.
type Bastion struct {
	Cluster        string // name
	TaskARN        string
	TaskID         string
	RuntimeID      string // of Container; empty until it runs
	Container      string
	TaskDefinition string // ARN
	LastStatus     string // PROVISIONING, PENDING, RUNNING, ... STOPPED
	DesiredStatus  string // RUNNING or STOPPED
	ExecEnabled    bool
	ExecStatus     string // of the exec agent in Container: PENDING, RUNNING, STOPPED; empty if there is none
	ExecReason     string
	ExecRunning    bool // the task and its exec agent run, and RuntimeID is known
	CreatedAt      time.Time
	StartedAt      time.Time
	StoppedReason  string
	StopCode       string
	Version        string       // version of the program that started it
	Size           fargate.Size // parts are 0 if unknown
	Architecture   string       // x86_64 or arm64; empty: unknown
	Spot           bool         // on Fargate Spot
	Platform       string       // version of Fargate's platform; empty: unknown, or not on Fargate
	BilledFrom     time.Time    // begin of the image's pull
	PulledAt       time.Time    // end of the image's pull
	StoppedAt      time.Time
	Exits          []Exit // of the stopped containers
	Service        string // that the task belongs to, by name; empty: to its owner

	// Refused says why a task with the owner's marks must not be used: others can set these marks too. It completes the
	// sentence "the task ...". It is empty for a task that this client could have started.
	Refused string
	// Outdated says why a new task replaces this one, in the same form.
	Outdated string
	// Unchecked says which properties of the task could not be compared with this client's own task.
	Unchecked string

	containers []string // the names of all containers

	// Of a service's task; compareShared has their meaning.
	behind, unhealthy, avoided bool
	lot                        string
}

// Exit is the end of a stopped task's container.
type Exit struct {
	Container string
	Code      *int32 // nil if it never ran
	Reason    string
}

// Target returns the SSM target of the container: ecs:<cluster>_<task id>_<runtime id>.
func (b Bastion) Target() string {
	return "ecs:" + b.Cluster + "_" + b.TaskID + "_" + b.RuntimeID
}

// Stopping reports whether the task has stopped or is about to.
func (b Bastion) Stopping() bool {
	switch b.LastStatus {
	case "DEACTIVATING", "STOPPING", "DEPROVISIONING", "STOPPED", "DELETED":
		return true
	}
	return b.DesiredStatus == "STOPPED"
}

// usable reports whether the task is worth waiting for, and if not, why.
func (b Bastion) usable() (bool, string) {
	switch {
	case b.Stopping():
		return false, "is stopping"
	case b.Refused != "" && b.Service != "":
		return false, "is of the shared bastion, but not as the settings describe it: it " + b.Refused
	case b.Refused != "":
		return false, "is marked as yours, but bastion would not have started it: it " + b.Refused
	case b.Outdated != "":
		return false, b.Outdated
	case !b.ExecEnabled:
		return false, "was started without ECS Exec (enableExecuteCommand)"
	case b.Container == "" && len(b.containers) > 0:
		return false, "has no such container; it has " + strings.Join(b.containers, ", ")
	case b.ExecStatus == "STOPPED":
		return false, "has a stopped exec agent" + words.Parenthesis(b.ExecReason)
	}
	return true, ""
}

// uncheckedNote returns a note for the use of a task that could not be compared completely.
func (b Bastion) uncheckedNote() string {
	return "task " + b.TaskID + " is used unchecked in part: " + b.Unchecked
}

// compare orders usable bastions, the best first: ready ones before others, the newest of the ready ones, the oldest of the
// others. The last rule makes two processes agree that start a task at the same moment.
func compare(a, b Bastion) int {
	if a.ExecRunning != b.ExecRunning {
		if a.ExecRunning {
			return -1
		}
		return 1
	}
	if c := a.CreatedAt.Compare(b.CreatedAt); c != 0 {
		if a.ExecRunning {
			return -c
		}
		return c
	}
	return cmp.Compare(a.TaskARN, b.TaskARN)
}

// Event is a step of Ensure, for a progress display.
type Event struct {
	State  string // "finding", "starting", the task's lastStatus, "exec agent", "ready"
	Detail string
}

// Manager manages the bastions of one account and region. It is safe for concurrent use. It remembers only which tasks it has
// checked.
type Manager struct {
	ecs     ECSAPI
	ec2     EC2API
	log     *slog.Logger
	version string
	checked checked
}

// New returns a Manager.
func New(c Config) *Manager {
	return &Manager{ecs: c.ECS, ec2: c.EC2, log: cmp.Or(c.Logger, slog.New(slog.DiscardHandler)), version: c.Version}
}

// Find returns the owner's best bastion, nil if there is none. It may still be starting.
func (m *Manager) Find(ctx context.Context, spec Spec) (*Bastion, error) {
	usable, notes, err := m.candidates(ctx, spec)
	for _, note := range notes {
		m.log.WarnContext(ctx, note, "cluster", spec.cluster())
	}
	if err != nil || len(usable) == 0 {
		return nil, err
	}
	return &usable[0], nil
}

// candidates returns the owner's usable bastions, the best first, and notes about the others.
func (m *Manager) candidates(ctx context.Context, spec Spec) (usable []Bastion, notes []string, err error) {
	all, _, err := m.list(ctx, spec, true)
	if err != nil {
		return nil, nil, err
	}
	for _, b := range all {
		if ok, why := b.usable(); ok {
			usable = append(usable, b)
		} else if !b.Stopping() {
			notes = append(notes, "task "+b.TaskID+" "+why)
		}
	}
	slices.SortFunc(usable, compare)
	if spec.Service != "" {
		slices.SortFunc(usable, compareShared)
	}
	if len(usable) > 0 {
		best := usable[0]
		if note := best.otherSize(spec.Size); note != "" && spec.Service == "" {
			notes = append(notes, note)
		}
		if best.Unchecked != "" {
			notes = append(notes, best.uncheckedNote())
		}
	}
	if len(usable) > 1 && spec.Service == "" {
		var others []string
		for _, b := range usable[1:] {
			others = append(others, b.TaskID)
		}
		notes = append(notes, fmt.Sprintf("using task %s; also running: %s", usable[0].TaskID, strings.Join(others, ", ")))
	}
	return usable, notes, nil
}

// List returns the owner's tasks of the Spec's family that ECS wants to run, usable or not, the newest first. Tasks with the
// owner's marks that this client would not have started are included as Refused.
func (m *Manager) List(ctx context.Context, spec Spec) ([]Bastion, error) {
	found, denied, err := m.list(ctx, spec, false)
	if err == nil && len(found) == 0 && denied != nil {
		return nil, denied
	}
	return found, err
}

// list implements List. denied says why IAM hid some tasks from the owner; nil: it hid none. With toUse, a failed comparison is
// an error; to show or stop tasks, list only notes it.
func (m *Manager) list(ctx context.Context, spec Spec, toUse bool) (found []Bastion, denied, err error) {
	if spec.Service != "" {
		return m.listShared(ctx, spec, toUse)
	}
	op := "find your bastion in cluster " + spec.cluster()
	owner, err := spec.Owner.tag()
	if err != nil {
		return nil, nil, fail.New(fail.Usage, op, err, "")
	}
	// ListTasks accepts startedBy only as its only filter, so the family is compared below.
	arns, err := m.listARNs(ctx, op, &ecs.ListTasksInput{
		Cluster: aws.String(spec.cluster()), StartedBy: aws.String(spec.Owner.StartedBy),
	})
	if err != nil {
		return nil, nil, err
	}
	y := m.yardstick(ctx, spec)
	return m.inspectAll(ctx, op, spec, arns, toUse,
		func(task *types.Task) string { return notMine(spec, owner, task) },
		func(task *types.Task) (Bastion, error) { return m.inspect(ctx, y, task) })
}

// inspectAll describes the tasks of arns and returns those that are ours, the newest first: foreign says why a task is not, or "".
// The other results and toUse are list's.
func (m *Manager) inspectAll(ctx context.Context, op string, spec Spec, arns []string, toUse bool,
	foreign func(*types.Task) string, inspect func(*types.Task) (Bastion, error),
) (found []Bastion, denied, err error) {
	for some := range slices.Chunk(arns, maxDescribed) {
		tasks, refusal, err := m.describePermitted(ctx, op, spec, some)
		if err != nil {
			return nil, nil, err
		}
		denied = cmp.Or(denied, refusal)
		for i := range tasks {
			if why := foreign(&tasks[i]); why != "" {
				m.log.WarnContext(ctx, "task ignored: "+why, "task", aws.ToString(tasks[i].TaskArn))
				continue
			}
			b, err := inspect(&tasks[i])
			switch {
			case err != nil && (toUse || ctx.Err() != nil):
				return nil, nil, err
			case err != nil:
				b.Unchecked = err.Error()
			}
			found = append(found, b)
		}
	}
	slices.SortFunc(found, func(a, b Bastion) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return found, denied, nil
}

// describePermitted describes the tasks that IAM shows to the owner, and returns why it hid the others. A task's starter
// chooses its startedBy. One task without the owner's tag makes IAM deny the whole call; then describePermitted asks for each
// task separately.
func (m *Manager) describePermitted(ctx context.Context, op string, spec Spec, arns []string) (
	tasks []types.Task, denied, err error,
) {
	tasks, err = m.describe(ctx, op, spec, arns)
	if fail.KindOf(err) != fail.Denied {
		return tasks, nil, err
	}
	if len(arns) == 1 {
		m.log.WarnContext(ctx, "task ignored: IAM does not let you see it; it may be somebody else's", "task", arns[0], "err", err)
		return nil, err, nil
	}
	for _, arn := range arns {
		one, refusal, err := m.describePermitted(ctx, op, spec, []string{arn})
		if err != nil {
			return nil, nil, err
		}
		denied = cmp.Or(denied, refusal)
		tasks = append(tasks, one...)
	}
	return tasks, denied, nil
}

// Get returns a task by its ARN or id. An unknown task, or one that must not be used, is an error of kind fail.NoTarget.
func (m *Manager) Get(ctx context.Context, spec Spec, task string) (*Bastion, error) {
	op := fmt.Sprintf("look at task %s in cluster %s", lastPart(task), spec.cluster())
	owner, err := spec.Owner.tag()
	if err != nil {
		return nil, fail.New(fail.Usage, op, err, "")
	}
	tasks, err := m.describe(ctx, op, spec, []string{task})
	if err != nil {
		return nil, err
	}
	if len(tasks) == 0 {
		return nil, fail.New(fail.NoTarget, op, errNoTask, "bastion up starts another")
	}
	if spec.Service != "" {
		return m.getShared(ctx, op, spec, &tasks[0])
	}
	if why := notMine(spec, owner, &tasks[0]); why != "" {
		return nil, fail.New(fail.NoTarget, op, fmt.Errorf("the task is not yours: %s", why), "")
	}
	b, err := m.inspect(ctx, m.yardstick(ctx, spec), &tasks[0])
	if err != nil {
		return nil, err
	}
	if b.Refused != "" {
		return nil, fail.New(fail.NoTarget, op, fmt.Errorf("bastion would not have started the task: it %s", b.Refused),
			"bastion up starts another; bastion down --refused stops it")
	}
	return &b, nil
}

func (m *Manager) describe(ctx context.Context, op string, spec Spec, arns []string) ([]types.Task, error) {
	out, err := m.ecs.DescribeTasks(ctx, &ecs.DescribeTasksInput{
		Cluster: aws.String(spec.cluster()), Tasks: arns, Include: []types.TaskField{types.TaskFieldTags},
	})
	if err != nil {
		return nil, ecsError(op, "ecs:DescribeTasks", err)
	}
	return out.Tasks, nil
}

// notMine returns why a task does not belong to the Spec's owner, or "". A task with the owner's marks may still be another
// user's: see inspect.
func notMine(spec Spec, owner string, task *types.Task) string {
	switch tag := tagValue(task.Tags, tagOwner); tag {
	case "":
		return "it has no tag " + tagOwner
	case owner, spec.Owner.ARN: // older versions wrote the second form
	default:
		return "it belongs to " + tag
	}
	for _, t := range task.Tags { // IAM does not distinguish such keys, and may have compared the other one
		if key := aws.ToString(t.Key); key != tagOwner && strings.EqualFold(key, tagOwner) {
			return "it has the tag " + key + " beside " + tagOwner
		}
	}
	if aws.ToString(task.StartedBy) != spec.Owner.StartedBy {
		return "it was started by " + aws.ToString(task.StartedBy)
	}
	want, have := family(spec.TaskDefinition), family(aws.ToString(task.TaskDefinitionArn))
	if want != "" && want != have {
		return "it is of task definition " + have
	}
	return ""
}

func fromTask(spec Spec, task *types.Task) Bastion {
	b := Bastion{
		Cluster:        lastPart(aws.ToString(task.ClusterArn)),
		TaskARN:        aws.ToString(task.TaskArn),
		TaskID:         lastPart(aws.ToString(task.TaskArn)),
		TaskDefinition: aws.ToString(task.TaskDefinitionArn),
		LastStatus:     aws.ToString(task.LastStatus),
		DesiredStatus:  aws.ToString(task.DesiredStatus),
		ExecEnabled:    task.EnableExecuteCommand,
		CreatedAt:      aws.ToTime(task.CreatedAt),
		StartedAt:      aws.ToTime(task.StartedAt),
		StoppedReason:  aws.ToString(task.StoppedReason),
		StopCode:       string(task.StopCode),
		Version:        tagValue(task.Tags, tagVersion),
		Spot:           aws.ToString(task.CapacityProviderName) == providerSpot,
		Platform:       platformOf(task),
	}
	b.setSize(task)
	b.Cluster = cmp.Or(b.Cluster, lastPart(spec.cluster()))
	if c := chooseContainer(spec.Container, task.Containers); c != nil {
		b.Container = aws.ToString(c.Name)
		b.RuntimeID = aws.ToString(c.RuntimeId)
		for _, agent := range c.ManagedAgents {
			if agent.Name == types.ManagedAgentNameExecuteCommandAgent {
				b.ExecStatus, b.ExecReason = aws.ToString(agent.LastStatus), aws.ToString(agent.Reason)
			}
		}
	}
	if spec.Service != "" {
		b.share(spec, task)
	}
	b.ExecRunning = b.LastStatus == "RUNNING" && b.ExecStatus == "RUNNING" && b.RuntimeID != "" && !b.Stopping()
	for _, c := range task.Containers {
		b.containers = append(b.containers, aws.ToString(c.Name))
		if c.ExitCode != nil || c.Reason != nil {
			b.Exits = append(b.Exits, Exit{aws.ToString(c.Name), c.ExitCode, aws.ToString(c.Reason)})
		}
	}
	return b
}

// chooseContainer returns the container with the given name; without a name, the only one or the one named "bastion".
func chooseContainer(name string, all []types.Container) *types.Container {
	if name == "" && len(all) == 1 {
		return &all[0]
	}
	name = cmp.Or(name, "bastion")
	for i := range all {
		if aws.ToString(all[i].Name) == name {
			return &all[i]
		}
	}
	return nil
}

// Stop stops the owner's tasks of the Spec's family and returns the stopped ones, also with an error. Refused tasks may be
// another user's work: Stop returns them as left, and stops them only if refused is set.
func (m *Manager) Stop(ctx context.Context, spec Spec, reason string, refused bool) (stopped, left []Bastion, err error) {
	if spec.Service != "" {
		return nil, nil, fail.New(fail.Usage, "stop the bastion of service "+lastPart(spec.Service), errShared, "")
	}
	all, err := m.List(ctx, spec)
	if awsanswer.Of(err).Unread() {
		stopped, err = m.stopUnread(ctx, spec, reason)
		return stopped, nil, err
	}
	if err != nil {
		return nil, nil, err
	}
	for _, b := range all {
		switch {
		case b.Stopping():
			continue
		case b.Refused != "" && !refused:
			left = append(left, b)
			continue
		}
		if err := m.stop(ctx, b, reason); err != nil {
			return stopped, left, err
		}
		stopped = append(stopped, b)
	}
	return stopped, left, nil
}

func (m *Manager) stop(ctx context.Context, b Bastion, reason string) error {
	if len(reason) > 255 { // ECS's maximum
		reason = strings.ToValidUTF8(reason[:255], "")
	}
	_, err := m.ecs.StopTask(ctx, &ecs.StopTaskInput{
		Cluster: aws.String(b.Cluster), Task: aws.String(b.TaskARN), Reason: aws.String(reason),
	})
	if awsanswer.Of(err).Unread() { // the unreadable answer only describes the task
		return nil
	}
	return ecsError("stop task "+b.TaskID+" in cluster "+b.Cluster, "ecs:StopTask", err)
}

func (s Spec) cluster() string { return cmp.Or(s.Cluster, "default") }

// family returns the family of a task definition given as family, family:revision or ARN.
func family(taskDefinition string) string {
	name, _, _ := strings.Cut(lastPart(taskDefinition), ":")
	return name
}

// lastPart returns the part after an ARN's last slash.
func lastPart(arn string) string { return arn[strings.LastIndexByte(arn, '/')+1:] }

func tagValue(tags []types.Tag, key string) string {
	for _, t := range tags {
		if aws.ToString(t.Key) == key {
			return aws.ToString(t.Value)
		}
	}
	return ""
}
