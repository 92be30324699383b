package lab

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/lab/awsapi"
	"github.com/bastion-ssm/bastion/lab/gateway"
)

// TaskDefinition is a task definition with one container.
type TaskDefinition struct {
	Family      string
	Revision    int    // 0 is 1
	Container   string // the container's name; default: Family
	Image       string
	Command     []string // default: /bastiond
	Env         map[string]string
	CPU, Memory int           // of its tasks, in units and MiB; default 1024 and 2048
	StopTimeout time.Duration // 0 is the lab's
	NoTaskRole  bool          // tasks of it cannot have ECS Exec
	RoleDeny    []string      // patterns of actions that the task role may not do: "kms:Decrypt"
	site
}

func (d *TaskDefinition) definitionARN() string {
	return d.arn("ecs", fmt.Sprintf("task-definition/%s:%d", d.Family, d.Revision))
}

func (d *TaskDefinition) stopTimeout(otherwise time.Duration) time.Duration {
	if d.StopTimeout > 0 {
		return d.StopTimeout
	}
	return otherwise
}

func (d *TaskDefinition) taskRole() string {
	if d.NoTaskRole {
		return ""
	}
	return d.iamARN("iam", "role/"+d.Family+"-task")
}

func (d *TaskDefinition) executionRole() string {
	return d.iamARN("iam", "role/"+d.Family+"-execution")
}

const (
	maxTasks     = 500 // kept, the stopped ones included
	maxDescribe  = 100
	maxRunCount  = 10
	maxStartedBy = 128
)

// ecs is the Elastic Container Service.
type ecs struct {
	site
	log    *slog.Logger
	now    func() time.Time
	timing timing
	// unmetered tasks have all of this machine, and the agents' work in them costs nothing.
	unmetered bool
	runner    Runner
	dir       string // for the tasks' scratch directories
	kmsKey    string // of ECS Exec sessions; empty is none
	decrypt   gateway.Decrypt
	network   *ec2
	sessions  *sessions
	faults    *faults
	// baseEnv is what every task's environment begins with; it is asked for each new task.
	baseEnv func() map[string]string
	// metadata is where a task finds what ECS says of it.
	metadata func(id string) string

	ctx context.Context // ends the tasks
	wg  sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	clusters map[string]*clusterState
	defs     map[string][]*TaskDefinition // by family, by revision
	tasks    []*task                      // oldest first
	tokens   map[string]runToken
	launched int
}

type clusterState struct{ tags []ecsTag }

// runToken remembers a RunTask call by its clientToken.
type runToken struct {
	request [sha256.Size]byte
	tasks   []*task
}

func (e *ecs) service() awsapi.Service {
	arnRes := func(c *awsapi.Call) string {
		var in struct{ ResourceArn string }
		_ = c.Bind(&in)
		return in.ResourceArn
	}
	return awsapi.Service{
		Name: "ecs", Protocol: awsapi.JSON, Target: "AmazonEC2ContainerServiceV20141113", Version: "2014-11-13",
		Ops: map[string]awsapi.Op{
			"RunTask":                {Handle: jsonOp(e.runTask), Access: e.runTaskAccess},
			"DescribeTasks":          {Handle: jsonOp(e.describeTasks), Access: e.describeTasksAccess},
			"ListTasks":              {Handle: jsonOp(e.listTasks), Access: e.listTasksAccess},
			"StopTask":               {Handle: jsonOp(e.stopTask), Access: e.stopTaskAccess},
			"ExecuteCommand":         {Handle: jsonOp(e.executeCommand), Access: e.executeCommandAccess},
			"DescribeClusters":       {Handle: jsonOp(e.describeClusters), Resource: e.describeClustersResource},
			"ListClusters":           {Handle: jsonOp(e.listClusters)},
			"DescribeTaskDefinition": {Handle: jsonOp(e.describeTaskDefinition)},
			"ListTagsForResource":    {Handle: jsonOp(e.listTags), Resource: arnRes},
			"TagResource":            {Handle: jsonOp(e.tagResource), Access: e.tagResourceAccess},
			"UntagResource":          {Handle: jsonOp(e.untagResource), Resource: arnRes},
		},
	}
}

type handler = func(context.Context, *awsapi.Call) (any, error)

// jsonOp makes an operation of a function with typed input.
func jsonOp[In any](f func(context.Context, *awsapi.Call, *In) (any, error)) handler {
	return func(ctx context.Context, c *awsapi.Call) (any, error) {
		in := new(In)
		if err := c.Bind(in); err != nil {
			return nil, err
		}
		return f(ctx, c, in)
	}
}

func invalidParameter(format string, args ...any) error {
	return awsapi.Errorf("InvalidParameterException", format, args...)
}

func clusterName(ref string) string {
	if ref == "" {
		return "default"
	}
	return lastOf(ref)
}

// cluster checks that the cluster exists, and returns its name.
func (e *ecs) cluster(ref string) (string, error) {
	name := clusterName(ref)
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.clusters[name]; !ok {
		return "", awsapi.Errorf("ClusterNotFoundException", "Cluster not found.")
	}
	return name, nil
}

// find returns a task of a cluster by id or ARN, or nil.
func (e *ecs) find(cluster, ref string) *task {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.findLocked(cluster, ref)
}

func (e *ecs) findLocked(cluster, ref string) *task {
	id := lastOf(ref)
	for _, t := range e.tasks {
		if t.id == id && t.cluster == cluster && (ref == id || ref == t.arn) {
			return t
		}
	}
	return nil
}

// definition finds a task definition by family, family:revision or ARN.
func (e *ecs) definition(ref string) *TaskDefinition {
	name := lastOf(ref)
	family, rev, pinned := strings.Cut(name, ":")
	e.mu.Lock()
	defer e.mu.Unlock()
	revisions := e.defs[family]
	if len(revisions) == 0 || (name != ref && !strings.HasPrefix(ref, e.arn("ecs", "task-definition/"))) {
		return nil
	}
	if !pinned {
		return revisions[len(revisions)-1]
	}
	n, err := strconv.Atoi(rev)
	if err != nil {
		return nil
	}
	for _, d := range revisions {
		if d.Revision == n {
			return d
		}
	}
	return nil
}

func (e *ecs) addDefinition(d TaskDefinition) {
	d.site = e.site
	if d.Container == "" {
		d.Container = d.Family
	}
	if d.Image == "" {
		d.Image = d.partition().Endpoint(Account+".dkr.ecr", d.region) + "/" + d.Family + ":latest"
	}
	if len(d.Command) == 0 {
		d.Command = []string{bastiondPath}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if d.CPU == 0 && d.Memory == 0 {
		d.CPU, d.Memory = defaultSize.cpu, defaultSize.memory
	}
	if d.Revision == 0 {
		d.Revision = len(e.defs[d.Family]) + 1
	}
	e.defs[d.Family] = append(e.defs[d.Family], &d)
}

func (e *ecs) addCluster(name string, tags []ecsTag) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.clusters[name] = &clusterState{tags: tags}
}

type runTaskInput struct {
	Cluster                  string                   `json:"cluster"`
	TaskDefinition           string                   `json:"taskDefinition"`
	Count                    *int                     `json:"count"`
	LaunchType               string                   `json:"launchType"`
	CapacityProviderStrategy []struct{}               `json:"capacityProviderStrategy"`
	NetworkConfiguration     *ecsNetworkConfiguration `json:"networkConfiguration"`
	EnableExecuteCommand     bool                     `json:"enableExecuteCommand"`
	StartedBy                string                   `json:"startedBy"`
	Group                    string                   `json:"group"`
	Tags                     []ecsTag                 `json:"tags"`
	PropagateTags            string                   `json:"propagateTags"`
	ClientToken              string                   `json:"clientToken"`
	Overrides                ecsOverrides             `json:"overrides"`
}

func (e *ecs) runTask(_ context.Context, c *awsapi.Call, in *runTaskInput) (any, error) {
	cluster, err := e.cluster(in.Cluster)
	if err != nil {
		return nil, err
	}
	def := e.definition(in.TaskDefinition)
	if def == nil {
		return nil, awsapi.Errorf("ClientException", "TaskDefinition not found.")
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

// checkRun is the validation of a RunTask on Fargate.
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
	return e.authorizeRun(c, in, def)
}

var startedByPattern = regexp.MustCompile(fmt.Sprintf(`^[A-Za-z0-9_/.@:+=-]{0,%d}$`, maxStartedBy))

// authorizeRun asks for the permissions that RunTask needs besides its own.
func (e *ecs) authorizeRun(c *awsapi.Call, in *runTaskInput, def *TaskDefinition) error {
	var needs []awsapi.Access
	if len(in.Tags) > 0 {
		keys := tagKeys("aws:requesttag/", in.Tags)
		keys["ecs:createaction"] = "RunTask"
		needs = append(needs, awsapi.Access{
			Action: "ecs:TagResource", Resource: e.arn("ecs", "task/"+clusterName(in.Cluster)+"/*"), Keys: keys,
		})
	}
	for _, role := range []string{
		cmp.Or(in.Overrides.ExecutionRoleArn, def.executionRole()), cmp.Or(in.Overrides.TaskRoleArn, def.taskRole()),
	} {
		if role != "" {
			needs = append(needs, awsapi.Access{
				Action: "iam:PassRole", Resource: role,
				Keys: map[string]string{"iam:passedtoservice": "ecs-tasks.amazonaws.com"}, //nolint:gosec // G101: not a secret
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

// launch makes the tasks and begins their lives. A client token that came before gives the tasks of then.
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
		t := e.newTask(cluster, def, in, env)
		tasks = append(tasks, t)
		e.tasks = append(e.tasks, t)
		e.launched++
		e.wg.Go(func() { e.live(e.ctx, t) })
	}
	if in.ClientToken != "" {
		e.tokens[in.ClientToken] = runToken{digest, tasks}
	}
	return tasks, nil
}

// forget drops the oldest stopped tasks once there are too many, and the client tokens. The caller holds the lock.
func (e *ecs) forget() {
	if len(e.tokens) > maxTasks {
		clear(e.tokens)
	}
	for i := 0; len(e.tasks) > maxTasks && i < len(e.tasks); {
		if e.tasks[i].last == statusStopped {
			e.tasks = slices.Delete(e.tasks, i, i+1)
		} else {
			i++
		}
	}
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
	group := in.Group
	if group == "" {
		group = "family:" + def.Family
	}
	command := def.Command
	for _, o := range in.Overrides.ContainerOverrides {
		if len(o.Command) > 0 { // the image's entry point stays
			command = append(slices.Clone(def.Command[:1]), o.Command...)
		}
	}
	subnet := vpc.Subnets[0]
	size, _ := sizeOf(def, in.Overrides) // checkRun has found it in order
	t := &task{
		size: size, machine: e.machine(size),
		id: id, arn: e.arn("ecs", "task/"+cluster+"/"+id), cluster: cluster, def: def,
		runtimeID: id + "-" + randomDigits(10), exec: in.EnableExecuteCommand, env: env, command: command,
		startedBy: in.StartedBy, group: group, subnet: subnet, ip: e.network.newAddress(subnet),
		publicIP: vpc.AssignPublicIP == "ENABLED", overrides: in.Overrides, created: e.now(),
		stop: make(chan struct{}), done: make(chan struct{}),
		last: statusProvisioning, desired: statusRunning, version: 1, tags: slices.Clone(in.Tags),
	}
	if t.exec {
		t.agent = statusPending
	}
	e.network.attach(networkInterface{t.interfaceID(), subnet, t.ip, t.publicIP, slices.Clone(vpc.SecurityGroups)})
	return t
}

// machine is what a task of this size runs on; nil if work is to cost nothing.
func (e *ecs) machine(size taskSize) *gateway.Machine {
	if e.unmetered || size.cpu == 0 {
		return nil
	}
	return gateway.NewMachine(float64(size.cpu) / 1024)
}

type describeTasksInput struct {
	Cluster string   `json:"cluster"`
	Tasks   []string `json:"tasks"`
	Include []string `json:"include"`
}

func (e *ecs) describeTasks(_ context.Context, _ *awsapi.Call, in *describeTasksInput) (any, error) {
	cluster, err := e.cluster(in.Cluster)
	if err != nil {
		return nil, err
	}
	if len(in.Tasks) == 0 {
		return nil, invalidParameter("Tasks cannot be empty.")
	}
	if len(in.Tasks) > maxDescribe {
		return nil, invalidParameter("Tasks cannot have more than %d entries.", maxDescribe)
	}
	var found []*task
	failures := []ecsFailure{}
	for _, ref := range in.Tasks {
		if t := e.find(cluster, ref); t != nil {
			found = append(found, t)
			continue
		}
		if lastOf(ref) == ref {
			ref = e.arn("ecs", "task/"+cluster+"/"+ref)
		}
		failures = append(failures, ecsFailure{Arn: ref, Reason: "MISSING"})
	}
	type output struct {
		Tasks    []ecsTask    `json:"tasks"`
		Failures []ecsFailure `json:"failures"`
	}
	return output{e.views(found, slices.Contains(in.Include, "TAGS")), failures}, nil
}

type listTasksInput struct {
	Cluster           string `json:"cluster"`
	Family            string `json:"family"`
	StartedBy         string `json:"startedBy"`
	ServiceName       string `json:"serviceName"`
	ContainerInstance string `json:"containerInstance"`
	DesiredStatus     string `json:"desiredStatus"`
	LaunchType        string `json:"launchType"`
	MaxResults        *int   `json:"maxResults"`
	NextToken         string `json:"nextToken"`
}

func (e *ecs) listTasks(_ context.Context, _ *awsapi.Call, in *listTasksInput) (any, error) {
	cluster, err := e.cluster(in.Cluster)
	if err != nil {
		return nil, err
	}
	if in.ServiceName != "" {
		return nil, awsapi.Errorf("ServiceNotFoundException", "Service not found.")
	}
	size := maxDescribe
	if in.MaxResults != nil {
		if size = *in.MaxResults; size < 1 || size > maxDescribe {
			return nil, invalidParameter("maxResults must be between 1 and %d.", maxDescribe)
		}
	}
	desired := in.DesiredStatus
	switch desired {
	case "":
		desired = statusRunning
	case statusRunning, statusPending, statusStopped:
	default:
		return nil, invalidParameter("desiredStatus must be RUNNING, PENDING or STOPPED.")
	}
	arns := []string{}
	e.mu.Lock()
	for _, t := range e.tasks {
		if t.cluster == cluster && t.desired == desired && in.ContainerInstance == "" &&
			(in.Family == "" || t.def.Family == in.Family) &&
			(in.StartedBy == "" || t.startedBy == in.StartedBy) &&
			(in.LaunchType == "" || in.LaunchType == "FARGATE") {
			arns = append(arns, t.arn)
		}
	}
	e.mu.Unlock()
	marker, err := base64.StdEncoding.DecodeString(in.NextToken)
	page, next, ok := awsapi.Page(arns, string(marker), size)
	if err != nil || !ok {
		return nil, invalidParameter("Invalid token in the request.")
	}
	type output struct {
		TaskArns  []string `json:"taskArns"`
		NextToken string   `json:"nextToken,omitempty"`
	}
	return output{page, base64.StdEncoding.EncodeToString([]byte(next))}, nil
}

type stopTaskInput struct {
	Cluster string `json:"cluster"`
	Task    string `json:"task"`
	Reason  string `json:"reason"`
}

func (e *ecs) stopTask(_ context.Context, _ *awsapi.Call, in *stopTaskInput) (any, error) {
	cluster, err := e.cluster(in.Cluster)
	if err != nil {
		return nil, err
	}
	t := e.find(cluster, in.Task)
	if t == nil {
		return nil, invalidParameter("The referenced task was not found.")
	}
	reason := in.Reason
	if reason == "" {
		reason = "Task stopped by user"
	}
	e.requestStop(t, stopUser, reason)
	type output struct {
		Task ecsTask `json:"task"`
	}
	return output{e.views([]*task{t}, true)[0]}, nil
}

// requestStop has a task stop; the first reason stays.
func (e *ecs) requestStop(t *task, code, reason string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t.desired == statusStopped {
		return
	}
	t.desired, t.stopping = statusStopped, e.now()
	t.version++
	if t.stopCode == "" {
		t.stopCode, t.stoppedReason = code, reason
	}
	close(t.stop)
}

type executeCommandInput struct {
	Cluster     string `json:"cluster"`
	Task        string `json:"task"`
	Container   string `json:"container"`
	Command     string `json:"command"`
	Interactive *bool  `json:"interactive"`
}

type ecsSession struct {
	SessionID  string `json:"sessionId"`
	StreamURL  string `json:"streamUrl"`
	TokenValue string `json:"tokenValue"`
}

func (e *ecs) executeCommand(_ context.Context, c *awsapi.Call, in *executeCommandInput) (any, error) {
	cluster, err := e.cluster(in.Cluster)
	if err != nil {
		return nil, err
	}
	if in.Command == "" {
		return nil, invalidParameter("Command cannot be empty.")
	}
	if in.Interactive == nil || !*in.Interactive {
		return nil, invalidParameter("Interactive is the only mode supported currently.")
	}
	t := e.find(cluster, in.Task)
	if t == nil {
		return nil, invalidParameter("The referenced task was not found.")
	}
	if in.Container != "" && in.Container != t.def.Container {
		return nil, invalidParameter("The container %s was not found in the task.", in.Container)
	}
	if err := e.execReady(t); err != nil {
		return nil, err
	}
	s, err := e.sessions.start(c.Identity, "ecs-execute-command", gateway.Spec{
		Document: gateway.DocECSExec, Target: t.target(), Command: in.Command,
		Dial: t.container.Dial, Exec: t.container.Exec, Machine: t.machine, KMSKeyID: e.kmsKey, Decrypt: e.decryptAs(t),
	})
	if err != nil {
		return nil, err
	}
	type output struct {
		ClusterArn    string     `json:"clusterArn"`
		ContainerArn  string     `json:"containerArn"`
		ContainerName string     `json:"containerName"`
		Interactive   bool       `json:"interactive"`
		Session       ecsSession `json:"session"`
		TaskArn       string     `json:"taskArn"`
	}
	return output{
		e.arn("ecs", "cluster/"+cluster), t.containerARN(), t.def.Container, true,
		ecsSession(s),
		t.arn,
	}, nil
}

// decryptAs is kms:Decrypt with the credentials of a task's role, as the exec agent calls it.
func (e *ecs) decryptAs(t *task) gateway.Decrypt {
	role := awsapi.Identity{
		ARN: e.iamARN("sts", "assumed-role/"+lastOf(t.role())+"/"+t.id), Account: Account, Deny: t.def.RoleDeny,
	}
	return func(ctx context.Context, ciphertext []byte, encryptionContext map[string]string) ([]byte, error) {
		if err := role.Authorize(awsapi.JSON, awsapi.Access{Action: "kms:Decrypt", Resource: e.kmsKey}); err != nil {
			return nil, err
		}
		return e.decrypt(ctx, ciphertext, encryptionContext)
	}
}

// role is the ARN of a task's role.
func (t *task) role() string { return cmp.Or(t.overrides.TaskRoleArn, t.def.taskRole()) }

// execReady says whether the exec agent of a task answers.
func (e *ecs) execReady(t *task) error {
	e.mu.Lock()
	running := t.last == statusRunning && t.agent == statusRunning
	connected := t.connected
	e.mu.Unlock()
	if !running {
		return invalidParameter("The execute command failed because execute command was not enabled " +
			"when the task was run or the execute command agent isn’t running. " +
			"Wait and try again or run a new task with execute command enabled and try again.")
	}
	if !connected || e.faults.notConnected() {
		return awsapi.Errorf("TargetNotConnectedException",
			"The execute command failed due to an internal error. Try again later.")
	}
	return nil
}

// target is the SSM target of a task's container.
func (t *task) target() string { return "ecs:" + t.cluster + "_" + t.id + "_" + t.runtimeID }

func (t *task) interfaceID() string { return "eni-" + t.id[:17] }

func (t *task) containerARN() string {
	return t.def.site.arn("ecs", "container/"+t.cluster+"/"+t.id+"/"+seededUUID(t.runtimeID))
}

// byTarget finds the task of an SSM target "ecs:<cluster>_<task id>_<runtime id>". Cluster names may contain
// underscores.
func (e *ecs) byTarget(target string) (*task, bool) {
	rest, ok := strings.CutPrefix(target, "ecs:")
	if !ok {
		return nil, false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range e.tasks {
		if rest == t.cluster+"_"+t.id+"_"+t.runtimeID {
			return t, true
		}
	}
	return nil, false
}

// endSessions terminates the sessions of a task whose container has ended.
func (e *ecs) endSessions(t *task) { e.sessions.endAll(t.target()) }

type describeClustersInput struct {
	Clusters []string `json:"clusters"`
	Include  []string `json:"include"`
}

func (e *ecs) describeClustersResource(c *awsapi.Call) string {
	var in describeClustersInput
	_ = c.Bind(&in) // the handler reports it
	name := ""
	if len(in.Clusters) > 0 {
		name = in.Clusters[0]
	}
	return e.arn("ecs", "cluster/"+clusterName(name))
}

func (e *ecs) describeClusters(_ context.Context, _ *awsapi.Call, in *describeClustersInput) (any, error) {
	if len(in.Clusters) == 0 {
		in.Clusters = []string{"default"}
	}
	if len(in.Clusters) > maxDescribe {
		return nil, invalidParameter("Clusters cannot have more than %d entries.", maxDescribe)
	}
	clusters, failures := []ecsCluster{}, []ecsFailure{}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ref := range in.Clusters {
		name := clusterName(ref)
		state, ok := e.clusters[name]
		if !ok {
			failures = append(failures, ecsFailure{Arn: e.arn("ecs", "cluster/"+name), Reason: "MISSING"})
			continue
		}
		clusters = append(clusters, e.clusterView(name, state, in.Include))
	}
	type output struct {
		Clusters []ecsCluster `json:"clusters"`
		Failures []ecsFailure `json:"failures"`
	}
	return output{clusters, failures}, nil
}

// clusterView describes a cluster; the caller holds the lock.
func (e *ecs) clusterView(name string, state *clusterState, include []string) ecsCluster {
	v := ecsCluster{
		ClusterArn: e.arn("ecs", "cluster/"+name), ClusterName: name, Status: "ACTIVE",
		CapacityProviders: []string{"FARGATE", "FARGATE_SPOT"}, Tags: []ecsTag{},
	}
	for _, t := range e.tasks {
		switch {
		case t.cluster != name:
		case t.last == statusRunning:
			v.RunningTasksCount++
		case t.last == statusProvisioning, t.last == statusPending, t.last == statusActivating:
			v.PendingTasksCount++
		}
	}
	if slices.Contains(include, "TAGS") {
		v.Tags = append(v.Tags, state.tags...)
	}
	if slices.Contains(include, "CONFIGURATIONS") {
		v.Configuration = &ecsClusterConfiguration{&ecsExecConfiguration{KMSKeyID: e.kmsKey, Logging: "DEFAULT"}}
	}
	return v
}

func (e *ecs) listClusters(_ context.Context, _ *awsapi.Call, _ *struct{}) (any, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	type output struct {
		ClusterArns []string `json:"clusterArns"`
	}
	out := output{[]string{}}
	for _, name := range slices.Sorted(maps.Keys(e.clusters)) {
		out.ClusterArns = append(out.ClusterArns, e.arn("ecs", "cluster/"+name))
	}
	return out, nil
}

type describeTaskDefinitionInput struct {
	TaskDefinition string `json:"taskDefinition"`
}

func (e *ecs) describeTaskDefinition(_ context.Context, _ *awsapi.Call, in *describeTaskDefinitionInput) (any, error) {
	d := e.definition(in.TaskDefinition)
	if d == nil {
		return nil, awsapi.Errorf("ClientException", "Unable to describe task definition.")
	}
	environment := []ecsKeyValue{}
	env := e.taskEnv(d, ecsOverrides{})
	for _, k := range slices.Sorted(maps.Keys(env)) {
		environment = append(environment, ecsKeyValue{k, env[k]})
	}
	cpu, memory := taskSize{d.CPU, d.Memory}.texts()
	type output struct {
		TaskDefinition ecsTaskDefinition `json:"taskDefinition"`
		Tags           []ecsTag          `json:"tags"`
	}
	return output{ecsTaskDefinition{
		TaskDefinitionArn: d.definitionARN(), Family: d.Family, Revision: d.Revision, Status: "ACTIVE", NetworkMode: "awsvpc",
		RequiresCompatibilities: []string{"FARGATE"}, Compatibilities: []string{"EC2", "FARGATE"},
		CPU: cpu, Memory: memory, TaskRoleArn: d.taskRole(), ExecutionRoleArn: d.executionRole(),
		ContainerDefinitions: []ecsContainerDefinition{{
			Name: d.Container, Image: d.Image, Essential: true, Command: d.Command, Environment: environment,
			MountPoints: []struct{}{}, VolumesFrom: []struct{}{}, PortMappings: []struct{}{},
			StopTimeout: int(d.stopTimeout(e.timing.grace).Seconds()),
		}},
		Volumes: []struct{}{}, PlacementConstraints: []struct{}{},
	}, []ecsTag{}}, nil
}

// tagsOf returns where the tags of a resource are kept; the caller holds the lock.
func (e *ecs) tagsOf(resource string) (*[]ecsTag, error) {
	kind, rest, _ := strings.Cut(strings.TrimPrefix(resource, e.arn("ecs", "")), "/")
	switch kind {
	case "cluster":
		if c, ok := e.clusters[rest]; ok {
			return &c.tags, nil
		}
		return nil, awsapi.Errorf("ClusterNotFoundException", "Cluster not found.")
	case "task":
		cluster, id, _ := strings.Cut(rest, "/")
		if t := e.findLocked(cluster, id); t != nil {
			return &t.tags, nil
		}
		return nil, invalidParameter("The specified task is stopped or was not found. " +
			"Specify a running task and try again.")
	}
	return nil, invalidParameter("The resource %s was not found.", resource)
}

type tagInput struct {
	ResourceArn string   `json:"resourceArn"`
	Tags        []ecsTag `json:"tags"`
	TagKeys     []string `json:"tagKeys"`
}

func (e *ecs) listTags(_ context.Context, _ *awsapi.Call, in *tagInput) (any, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	tags, err := e.tagsOf(in.ResourceArn)
	if err != nil {
		return nil, err
	}
	type output struct {
		Tags []ecsTag `json:"tags"`
	}
	return output{append([]ecsTag{}, *tags...)}, nil
}

func (e *ecs) tagResource(_ context.Context, _ *awsapi.Call, in *tagInput) (any, error) {
	if err := checkTags(in.Tags); err != nil {
		return nil, err
	}
	return e.changeTags(in.ResourceArn, func(tags []ecsTag) []ecsTag {
		for _, n := range in.Tags {
			tags = slices.DeleteFunc(tags, func(t ecsTag) bool { return t.Key == n.Key })
		}
		return append(tags, in.Tags...)
	})
}

func (e *ecs) untagResource(_ context.Context, _ *awsapi.Call, in *tagInput) (any, error) {
	return e.changeTags(in.ResourceArn, func(tags []ecsTag) []ecsTag {
		return slices.DeleteFunc(tags, func(t ecsTag) bool { return slices.Contains(in.TagKeys, t.Key) })
	})
}

func (e *ecs) changeTags(resource string, change func([]ecsTag) []ecsTag) (any, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	tags, err := e.tagsOf(resource)
	if err != nil {
		return nil, err
	}
	*tags = change(slices.Clone(*tags))
	return struct{}{}, nil
}

// views describes tasks as DescribeTasks does.
func (e *ecs) views(tasks []*task, tags bool) []ecsTask {
	e.mu.Lock()
	defer e.mu.Unlock()
	views := make([]ecsTask, 0, len(tasks))
	for _, t := range tasks {
		views = append(views, e.view(t, tags))
	}
	return views
}

func (e *ecs) view(t *task, tags bool) ecsTask {
	attachment := seededUUID(t.id)
	cpu, memory := t.size.texts()
	v := ecsTask{
		TaskArn: t.arn, ClusterArn: e.arn("ecs", "cluster/"+t.cluster), TaskDefinitionArn: t.def.definitionARN(), Group: t.group,
		StartedBy: t.startedBy, LaunchType: "FARGATE", PlatformVersion: "1.4.0", PlatformFamily: "Linux",
		AvailabilityZone: e.network.zone(t.subnet), LastStatus: t.last, DesiredStatus: t.desired, HealthStatus: "UNKNOWN",
		CPU: cpu, Memory: memory, EnableExecuteCommand: t.exec,
		CreatedAt: awsapi.At(t.created), PullStartedAt: awsapi.At(t.pullStart), PullStoppedAt: awsapi.At(t.pullStop),
		StartedAt: awsapi.At(t.started), StoppingAt: awsapi.At(t.stopping), ExecutionStoppedAt: awsapi.At(t.execStopped),
		StoppedAt: awsapi.At(t.stopped), StopCode: t.stopCode, StoppedReason: t.stoppedReason, Version: t.version,
		Overrides: t.overrides, Containers: []ecsContainer{e.containerView(t, attachment)}, Tags: []ecsTag{},
	}
	if v.Overrides.ContainerOverrides == nil {
		v.Overrides.ContainerOverrides = []ecsContainerOverride{{Name: t.def.Container}}
	}
	if !t.pullStart.IsZero() {
		v.Connectivity, v.ConnectivityAt = "CONNECTED", awsapi.At(t.pullStart)
	}
	status := "ATTACHED"
	switch t.last {
	case statusProvisioning:
		status = "PRECREATED"
	case statusStopped:
		status = "DELETED"
	}
	details := []ecsKeyValue{{"subnetId", t.subnet}}
	if t.last != statusProvisioning { // the interface is made first
		details = append(details, ecsKeyValue{"networkInterfaceId", t.interfaceID()}, ecsKeyValue{"privateIPv4Address", t.ip})
	}
	v.Attachments = []ecsAttachment{{ID: attachment, Type: "ElasticNetworkInterface", Status: status, Details: details}}
	if tags {
		v.Tags = append(v.Tags, t.tags...)
	}
	return v
}

func (e *ecs) containerView(t *task, attachment string) ecsContainer {
	c := ecsContainer{
		ContainerArn: t.containerARN(), TaskArn: t.arn, Name: t.def.Container, Image: t.def.Image, LastStatus: statusPending,
		NetworkBindings: []struct{}{}, NetworkInterfaces: []ecsNetworkInterface{}, HealthStatus: "UNKNOWN", CPU: "0",
		ExitCode: t.exitCode, Reason: t.containerReason,
	}
	if t.last != statusProvisioning {
		c.NetworkInterfaces = append(c.NetworkInterfaces, ecsNetworkInterface{attachment, t.ip})
	}
	if t.container != nil {
		c.RuntimeID = t.runtimeID
		c.LastStatus = statusRunning
	}
	if t.exitCode != nil || t.last == statusStopped {
		c.LastStatus = statusStopped
	}
	if t.agent != "" {
		c.ManagedAgents = []ecsManagedAgent{{
			Name: "ExecuteCommandAgent", LastStatus: t.agent,
			LastStartedAt: awsapi.At(t.agentAt),
		}}
	}
	return c
}

// seededUUID returns a UUID that depends on the seed alone.
func seededUUID(seed string) string {
	h := sha256.Sum256([]byte(seed))
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

// close stops all tasks and waits until they have.
func (e *ecs) close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.wg.Wait()
}
