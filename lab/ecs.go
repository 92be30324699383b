package lab

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/lab/awsapi"
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
	NoTaskRole  bool          // its tasks cannot have ECS Exec
	// DropCapabilities are those that the container drops: {"ALL"}. The HostRunner's processes keep what this machine gives them.
	DropCapabilities []string
	// What DescribeTaskDefinition shows of it besides. The lab's tasks do not heed it.
	Inactive     bool     // it was deregistered
	NotFargate   bool     // it is for EC2 instances alone
	NetworkMode  string   // default: awsvpc
	PidMode      string   // default: none
	ReadOnlyRoot bool     // of the container
	Mounts       []string // writable paths of the container
	NoInit       bool     // the container has no init process
	Beside       []string // names of further containers
	// LikeStack is for another revision of the template's definition: it has what that has, but for Image, if set, and DropCapabilities.
	LikeStack bool
	RoleDeny  []string                         // patterns of actions that the task role must not do: "kms:Decrypt"
	roles     struct{ task, execution string } // ARNs; the default has the family's name
	logGroup  string                           // of its output; empty: none
	secrets   []taskSecret
	port      int // of its container; 0: none
	tags      []ecsTag
	site
}

func (d *TaskDefinition) definitionARN() string {
	return d.arn("ecs", fmt.Sprintf("task-definition/%s:%d", d.Family, d.Revision))
}

func (d *TaskDefinition) taskRole() string {
	if d.NoTaskRole {
		return ""
	}
	return cmp.Or(d.roles.task, d.iamARN("iam", "role/"+d.Family+"-task"))
}

func (d *TaskDefinition) executionRole() string {
	return cmp.Or(d.roles.execution, d.iamARN("iam", "role/"+d.Family+"-execution"))
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
	// unmetered gives tasks all of this machine; the agents' work in them costs nothing.
	unmetered bool
	runner    Runner
	dir       string // for the tasks' scratch directories
	kmsKey    string // of ECS Exec sessions; empty: none
	kms       *kms
	// stack made the cluster and the task definition "bastion"; its roles have the permissions of package account.
	stack       *stack
	permissions *permissions
	network     *ec2
	sessions    *sessions
	faults      *faults
	// baseEnv returns the variables with which every new task's environment begins.
	baseEnv func() map[string]string
	// url returns the URL of the lab, which has the endpoints of tasks for metadata and credentials.
	url             func() string
	identities      *awsapi.Directory
	credentialsLife time.Duration // of a task role's; 0: AWS's

	ctx context.Context // ends the tasks
	wg  sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	clusters map[string]*clusterState
	noRoles  map[string]bool              // ARNs of roles that are gone
	defs     map[string][]*TaskDefinition // by family, by revision
	tasks    []*task                      // oldest first
	services []*ecsService
	fixed    []ECSService // whose tasks run elsewhere
	tokens   map[string]runToken
	launched int
}

type clusterState struct {
	tags    []ecsTag
	logging string // of ECS Exec; empty: DEFAULT
	transcripts
	status string // empty: ACTIVE
}

// runToken records a RunTask call by its clientToken.
type runToken struct {
	request [sha256.Size]byte
	tasks   []*task
}

func (e *ecs) service() awsapi.Service {
	return awsapi.Service{
		Name: "ecs", Protocol: awsapi.JSON, Target: "AmazonEC2ContainerServiceV20141113", Version: "2014-11-13",
		Ops: map[string]awsapi.Op{
			"RunTask":                {Handle: jsonOp(e.runTask), Access: e.runTaskAccess},
			"DescribeTasks":          {Handle: jsonOp(e.describeTasks), Access: e.describeTasksAccess},
			"ListTasks":              {Handle: jsonOp(e.listTasks), Access: e.listTasksAccess},
			"StopTask":               {Handle: jsonOp(e.stopTask), Access: e.stopTaskAccess},
			"CreateService":          {Handle: jsonOp(e.createService), Access: e.createServiceAccess},
			"UpdateService":          {Handle: jsonOp(e.updateService), Access: e.changeServiceAccess},
			"DeleteService":          {Handle: jsonOp(e.deleteService), Access: e.changeServiceAccess},
			"DescribeServices":       {Handle: jsonOp(e.describeServices), Access: e.describeServicesAccess},
			"ExecuteCommand":         {Handle: jsonOp(e.executeCommand), Access: e.executeCommandAccess},
			"DescribeClusters":       {Handle: jsonOp(e.describeClusters), Access: e.describeClustersAccess},
			"ListClusters":           {Handle: jsonOp(e.listClusters)},
			"ListServices":           {Handle: jsonOp(e.listServices), Access: e.listServicesAccess},
			"DescribeTaskDefinition": {Handle: jsonOp(e.describeTaskDefinition)},
			"ListTagsForResource":    {Handle: jsonOp(e.listTags), Access: e.tagAccess},
			"TagResource":            {Handle: jsonOp(e.tagResource), Access: e.tagAccess},
			"UntagResource":          {Handle: jsonOp(e.untagResource), Access: e.tagAccess},
		},
	}
}

type handler = func(context.Context, *awsapi.Call) (any, error)

// jsonOp turns a function with typed input into an operation.
func jsonOp[In any](f func(context.Context, *awsapi.Call, *In) (any, error)) handler {
	return func(ctx context.Context, c *awsapi.Call) (any, error) {
		in := new(In)
		if err := c.Bind(in); err != nil {
			return nil, err
		}
		return f(ctx, c, in)
	}
}

// inputOf returns the input of a call whose access is in question; one that cannot be read, the operation reports.
func inputOf[In any](c *awsapi.Call) (in In) {
	_ = c.Bind(&in)
	return in
}

func invalidParameter(format string, args ...any) error {
	return awsapi.Errorf("InvalidParameterException", format, args...)
}

func clusterName(ref string) string { return cmp.Or(lastOf(ref), "default") }

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
	if i := slices.IndexFunc(revisions, func(d *TaskDefinition) bool { return d.Revision == n }); i >= 0 {
		return revisions[i]
	}
	return nil
}

func (e *ecs) addDefinition(d TaskDefinition) {
	d.site = e.site
	d.Container = cmp.Or(d.Container, d.Family)
	d.Image = cmp.Or(d.Image, d.partition().Endpoint(d.account+".dkr.ecr", d.region)+"/"+d.Family+":latest")
	if len(d.Command) == 0 {
		d.Command = []string{bastiondPath}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if d.CPU == 0 && d.Memory == 0 {
		d.CPU, d.Memory = defaultSize.cpu, defaultSize.memory
	}
	d.Revision = cmp.Or(d.Revision, len(e.defs[d.Family])+1)
	if d.LikeStack && len(e.defs[d.Family]) > 0 {
		like := *e.defs[d.Family][0]
		like.Image, like.Revision, like.DropCapabilities = cmp.Or(d.Image, like.Image), d.Revision, d.DropCapabilities
		d = like
	}
	e.defs[d.Family] = append(e.defs[d.Family], &d)
}

func (e *ecs) addCluster(name string, state clusterState) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.clusters[name] = &state
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
	group := ""
	if in.ServiceName != "" {
		if !e.hasService(cluster, in.ServiceName) {
			return nil, awsapi.Errorf("ServiceNotFoundException", "Service not found.")
		}
		group = groupOfService + lastOf(in.ServiceName) // also of a task that only says so: it is not known whether ECS refuses that
	}
	size := maxDescribe
	if in.MaxResults != nil {
		if size = *in.MaxResults; size < 1 || size > maxDescribe {
			return nil, invalidParameter("maxResults must be between 1 and %d.", maxDescribe)
		}
	}
	desired := cmp.Or(in.DesiredStatus, statusRunning)
	if desired != statusRunning && desired != statusPending && desired != statusStopped {
		return nil, invalidParameter("desiredStatus must be RUNNING, PENDING or STOPPED.")
	}
	arns := []string{}
	e.mu.Lock()
	for _, t := range e.tasks {
		if t.cluster == cluster && t.desired == desired && in.ContainerInstance == "" &&
			(in.Family == "" || t.def.Family == in.Family) && (group == "" || t.group == group) &&
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
	e.requestStop(t, stopUser, cmp.Or(in.Reason, "Task stopped by user"))
	type output struct {
		Task ecsTask `json:"task"`
	}
	return output{e.views([]*task{t}, true)[0]}, nil
}

// requestStop makes a task stop; the first reason stays.
func (e *ecs) requestStop(t *task, code, reason string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stopLocked(t, code, reason)
}

// stopLocked is requestStop for callers that hold the lock.
func (e *ecs) stopLocked(t *task, code, reason string) {
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

type describeClustersInput struct {
	Clusters []string `json:"clusters"`
	Include  []string `json:"include"`
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

func (e *ecs) listClusters(_ context.Context, _ *awsapi.Call, _ *struct{}) (any, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	type output struct {
		ClusterArns []string `json:"clusterArns"`
	}
	out := output{[]string{}}
	for _, name := range sortedKeys(e.clusters) {
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
	for _, k := range sortedKeys(env) {
		environment = append(environment, ecsKeyValue{k, env[k]})
	}
	type output struct {
		TaskDefinition ecsTaskDefinition `json:"taskDefinition"`
		Tags           []ecsTag          `json:"tags"`
	}
	return output{e.definitionView(d, environment), []ecsTag{}}, nil
}

// tagsOf returns the tags of a resource. Callers hold the lock.
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

// seededUUID returns a UUID that depends only on the seed.
func seededUUID(seed string) string {
	h := sha256.Sum256([]byte(seed))
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

// close stops all tasks and waits until they have stopped.
func (e *ecs) close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.wg.Wait()
}
