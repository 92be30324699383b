package lab

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/lab/awsapi"
	"github.com/bastion-ssm/bastion/lab/gateway"
	"github.com/bastion-ssm/bastion/lab/iam"
)

type runTaskInput struct {
	Cluster                  string                   `json:"cluster"`
	TaskDefinition           string                   `json:"taskDefinition"`
	Count                    *int                     `json:"count"`
	LaunchType               string                   `json:"launchType"`
	CapacityProviderStrategy []ecsCapacity            `json:"capacityProviderStrategy"`
	NetworkConfiguration     *ecsNetworkConfiguration `json:"networkConfiguration"`
	EnableExecuteCommand     bool                     `json:"enableExecuteCommand"`
	StartedBy                string                   `json:"startedBy"`
	Group                    string                   `json:"group"`
	Tags                     []ecsTag                 `json:"tags"`
	PropagateTags            string                   `json:"propagateTags"`
	ClientToken              string                   `json:"clientToken"`
	Overrides                ecsOverrides             `json:"overrides"`

	service *ecsService // that starts it; nil: a caller does
}

// ecsCapacity is a part of a capacity provider strategy. The lab takes the first.
type ecsCapacity struct {
	CapacityProvider string `json:"capacityProvider"`
	Weight           int    `json:"weight"`
	Base             int    `json:"base"`
}

// capacityProviders are those of the lab's cluster.
var capacityProviders = []string{"FARGATE", "FARGATE_SPOT"}

func (e *ecs) runTask(_ context.Context, c *awsapi.Call, in *runTaskInput) (any, error) {
	cluster, def, err := e.place(in.Cluster, in.TaskDefinition)
	if err != nil {
		return nil, err
	}
	count := 1
	if in.Count != nil {
		count = *in.Count
	}
	if err := e.checkRun(c, in, def, count); err != nil {
		return nil, err
	}
	tasks, err := e.launch(cluster, def, in, count)
	if err != nil {
		return nil, err
	}
	type output struct {
		Tasks    []ecsTask    `json:"tasks"`
		Failures []ecsFailure `json:"failures"`
	}
	return output{e.views(tasks, true), []ecsFailure{}}, nil
}

// place returns the cluster and the task definition of a call that starts tasks.
func (e *ecs) place(clusterRef, definitionRef string) (cluster string, def *TaskDefinition, err error) {
	if cluster, err = e.cluster(clusterRef); err == nil {
		def, err = e.runnable(definitionRef)
	}
	return cluster, def, err
}

// runnable returns the task definition that a call wants to run.
func (e *ecs) runnable(ref string) (*TaskDefinition, error) {
	def := e.definition(ref)
	if def == nil {
		return nil, awsapi.Errorf("ClientException", "TaskDefinition not found.")
	}
	return def, nil
}

// checkRun validates a RunTask call for Fargate.
func (e *ecs) checkRun(c *awsapi.Call, in *runTaskInput, def *TaskDefinition, count int) error {
	if count < 1 || count > maxRunCount {
		return invalidParameter("Count must be between 1 and %d.", maxRunCount)
	}
	if in.LaunchType != "" && len(in.CapacityProviderStrategy) > 0 {
		return invalidParameter("Specifying both a launch type and capacity provider strategy is not supported. " +
			"Remove one and try again.")
	}
	if in.NetworkConfiguration == nil || in.NetworkConfiguration.AwsvpcConfiguration == nil {
		return invalidParameter("Network Configuration must be provided when networkMode 'awsvpc' is specified.")
	}
	if in.LaunchType != "FARGATE" && len(in.CapacityProviderStrategy) == 0 {
		return invalidParameter("No Container Instances were found in your cluster.")
	}
	for _, c := range in.CapacityProviderStrategy {
		if !slices.Contains(capacityProviders, c.CapacityProvider) {
			return invalidParameter("The specified capacity provider '%s' was not found. Specify a valid name or ARN and try again.",
				c.CapacityProvider)
		}
	}
	vpc := in.NetworkConfiguration.AwsvpcConfiguration
	if err := e.network.checkNetwork(vpc.Subnets, vpc.SecurityGroups); err != nil {
		return err
	}
	if p := vpc.AssignPublicIP; p != "" && p != "ENABLED" && p != "DISABLED" {
		return invalidParameter("assignPublicIp must be ENABLED or DISABLED.")
	}
	if in.EnableExecuteCommand && def.taskRole() == "" && in.Overrides.TaskRoleArn == "" {
		return invalidParameter("A valid taskRoleArn is not being used. " +
			"Specify a valid task role in your task definition and try again.")
	}
	if !startedByPattern.MatchString(in.StartedBy) {
		return invalidParameter("startedBy may have at most %d letters, digits, hyphens, slashes and underscores.",
			maxStartedBy)
	}
	if err := checkTags(in.Tags); err != nil {
		return err
	}
	for _, o := range in.Overrides.ContainerOverrides {
		if o.Name != def.Container {
			return invalidParameter("Override for container named %s is not a container in the TaskDefinition.", o.Name)
		}
	}
	if _, err := sizeOf(def, in.Overrides); err != nil {
		return err
	}
	if c == nil { // a service's
		return nil
	}
	return e.authorizeRun(c, in, def)
}

var startedByPattern = regexp.MustCompile(fmt.Sprintf(`^[A-Za-z0-9_/.@:+=-]{0,%d}$`, maxStartedBy))

// authorizeRun checks the permissions that RunTask needs besides its own.
func (e *ecs) authorizeRun(c *awsapi.Call, in *runTaskInput, def *TaskDefinition) error {
	var needs []awsapi.Access
	if len(in.Tags) > 0 {
		needs = append(needs, awsapi.Access{
			Action: "ecs:TagResource", Resource: e.arn("ecs", "task/"+clusterName(in.Cluster)+"/*"),
			Context: requestTags(iam.Context{}, in.Tags).With("ecs:CreateAction", "RunTask"),
		})
	}
	for _, role := range []string{
		cmp.Or(in.Overrides.ExecutionRoleArn, def.executionRole()), cmp.Or(in.Overrides.TaskRoleArn, def.taskRole()),
	} {
		if role != "" {
			needs = append(needs, awsapi.Access{
				Action: "iam:PassRole", Resource: role, Context: iam.Context{}.With("iam:PassedToService", "ecs-tasks.amazonaws.com"),
			})
		}
	}
	return c.Authorize(needs...)
}

var tagPattern = regexp.MustCompile(`^[\p{L}\p{Z}\p{N}_.:/=+\-@]*$`)

func checkTags(tags []ecsTag) error {
	if len(tags) > 50 {
		return invalidParameter("A resource can have at most 50 tags.")
	}
	seen := make(map[string]bool)
	for _, t := range tags {
		switch {
		case t.Key == "" || len(t.Key) > 128 || len(t.Value) > 256:
			return invalidParameter("Tag keys have 1 to 128 characters, values at most 256.")
		case strings.HasPrefix(strings.ToLower(t.Key), "aws:"):
			return invalidParameter("Tag keys cannot begin with aws:.")
		case !tagPattern.MatchString(t.Key) || !tagPattern.MatchString(t.Value):
			return invalidParameter("Tags may have letters, numbers, spaces and + - = . _ : / @ alone.")
		case seen[t.Key]:
			return invalidParameter("Duplicate tag keys found. Please note that Tag keys are case insensitive.")
		}
		seen[t.Key] = true
	}
	return nil
}

// launch makes and starts the tasks. For a repeated client token it returns the earlier tasks.
func (e *ecs) launch(cluster string, def *TaskDefinition, in *runTaskInput, count int) ([]*task, error) {
	request, err := json.Marshal(in) //nolint:gosec // a client token is an idempotency key, no secret
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(request)
	env := e.taskEnv(def, in.Overrides)

	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, &awsapi.Error{Code: "ServerException", Message: "The lab is closing.", Status: 500}
	}
	if old, ok := e.tokens[in.ClientToken]; ok && in.ClientToken != "" {
		if old.request != digest {
			return nil, awsapi.Errorf("ConflictException", "The client token was used for a different request.")
		}
		return old.tasks, nil
	}
	e.forget()
	var tasks []*task
	for range count {
		tasks = append(tasks, e.startLocked(cluster, def, in, env))
	}
	if in.ClientToken != "" {
		e.tokens[in.ClientToken] = runToken{digest, tasks}
	}
	return tasks, nil
}

// startLocked makes and starts a task. The caller holds the lock.
func (e *ecs) startLocked(cluster string, def *TaskDefinition, in *runTaskInput, env map[string]string) *task {
	t := e.newTask(cluster, def, in, env)
	e.tasks = append(e.tasks, t)
	e.launched++
	e.wg.Go(func() { e.live(e.ctx, t) })
	return t
}

// forget drops the oldest stopped tasks, and the client tokens, once there are too many. Callers hold the lock.
func (e *ecs) forget() {
	if len(e.tokens) > maxTasks {
		clear(e.tokens)
	}
	extra := len(e.tasks) - maxTasks
	e.tasks = slices.DeleteFunc(e.tasks, func(t *task) bool {
		if extra <= 0 || t.last != statusStopped {
			return false
		}
		extra--
		return true
	})
}

func (e *ecs) taskEnv(def *TaskDefinition, overrides ecsOverrides) map[string]string {
	env := make(map[string]string)
	if e.baseEnv != nil {
		maps.Copy(env, e.baseEnv())
	}
	maps.Copy(env, def.Env)
	for _, o := range overrides.ContainerOverrides {
		for _, kv := range o.Environment {
			env[kv.Name] = kv.Value
		}
	}
	return env
}

func (e *ecs) newTask(cluster string, def *TaskDefinition, in *runTaskInput, env map[string]string) *task {
	id := randomHex(32)
	vpc := in.NetworkConfiguration.AwsvpcConfiguration
	command := def.Command
	for _, o := range in.Overrides.ContainerOverrides {
		if len(o.Command) > 0 { // the image's entry point stays
			command = append(slices.Clone(def.Command[:1]), o.Command...)
		}
	}
	subnet := vpc.Subnets[0]
	size, _ := sizeOf(def, in.Overrides) // checkRun has accepted it
	t := &task{
		size: size, machine: e.machine(size),
		id: id, arn: e.arn("ecs", "task/"+cluster+"/"+id), cluster: cluster, def: def,
		runtimeID: id + "-" + randomDigits(10), exec: in.EnableExecuteCommand, env: env, command: command,
		startedBy: in.StartedBy, group: cmp.Or(in.Group, "family:"+def.Family), subnet: subnet, ip: e.network.newAddress(subnet),
		publicIP: vpc.AssignPublicIP == "ENABLED", overrides: in.Overrides, created: e.now(),
		stop: make(chan struct{}), done: make(chan struct{}),
		last: statusProvisioning, desired: statusRunning, version: 1, tags: slices.Clone(in.Tags), service: in.service,
	}
	if len(in.CapacityProviderStrategy) > 0 {
		t.capacity = in.CapacityProviderStrategy[0].CapacityProvider
	}
	if t.exec {
		t.agent = statusPending
	}
	e.network.attach(networkInterface{t.interfaceID(), subnet, t.ip, t.publicIP, slices.Clone(vpc.SecurityGroups)})
	return t
}

// machine returns the machine of a task of this size; nil if work costs nothing.
func (e *ecs) machine(size taskSize) *gateway.Machine {
	if e.unmetered || size.cpu == 0 {
		return nil
	}
	return gateway.NewMachine(float64(size.cpu) / 1024)
}
