package lab

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/bastion-ssm/bastion/lab/awsapi"
	"github.com/bastion-ssm/bastion/lab/iam"
)

// ecsService keeps a number of tasks running: it starts another for each that ends, and new ones before it stops those of an older
// deployment. The ecs service's mutex guards it.
type ecsService struct {
	name, cluster string
	desired       int
	settings      createServiceInput // as it was made
	created       time.Time
	deployments   []*deployment // the primary one first
	events        []serviceEvent
	turn          int // of the subnets
	gone          bool
}

// deployment is a task definition of a service's tasks.
type deployment struct {
	id      string // the tasks' startedBy
	def     *TaskDefinition
	created time.Time
	failed  int    // tasks that ended before they ran
	state   string // of the rollout
	reason  string
}

type serviceEvent struct {
	id, message string
	at          time.Time
}

// Rollout states of deployments.
const (
	rolloutGoes   = "IN_PROGRESS"
	rolloutDone   = "COMPLETED"
	rolloutFailed = "FAILED"
)

const (
	// breakerFailures is the circuit breaker's least threshold.
	breakerFailures = 3
	maxEvents       = 100
	groupOfService  = "service:"
)

type createServiceInput struct {
	Cluster                     string                   `json:"cluster"`
	ServiceName                 string                   `json:"serviceName"`
	TaskDefinition              string                   `json:"taskDefinition"`
	DesiredCount                int                      `json:"desiredCount"`
	LaunchType                  string                   `json:"launchType"`
	PlatformVersion             string                   `json:"platformVersion"`
	AvailabilityZoneRebalancing string                   `json:"availabilityZoneRebalancing"`
	DeploymentConfiguration     deploymentConfiguration  `json:"deploymentConfiguration"`
	NetworkConfiguration        *ecsNetworkConfiguration `json:"networkConfiguration"`
	EnableExecuteCommand        bool                     `json:"enableExecuteCommand"`
	EnableECSManagedTags        bool                     `json:"enableECSManagedTags"`
	PropagateTags               string                   `json:"propagateTags"`
	Tags                        []ecsTag                 `json:"tags"`
}

type deploymentConfiguration struct {
	MinimumHealthyPercent    int `json:"minimumHealthyPercent"`
	MaximumPercent           int `json:"maximumPercent"`
	DeploymentCircuitBreaker struct {
		Enable   bool `json:"enable"`
		Rollback bool `json:"rollback"`
	} `json:"deploymentCircuitBreaker"`
}

func (e *ecs) createService(_ context.Context, c *awsapi.Call, in *createServiceInput) (any, error) {
	cluster, def, err := e.place(in.Cluster, in.TaskDefinition)
	if err != nil {
		return nil, err
	}
	if err := e.checkRun(nil, in.run(), def, 1); err != nil {
		return nil, err
	}
	if c != nil {
		if err := c.Authorize(e.tagServiceAccess(in)...); err != nil {
			return nil, err
		}
	}
	s := &ecsService{name: in.ServiceName, cluster: cluster, desired: in.DesiredCount, settings: *in, created: e.now()}
	e.mu.Lock()
	if e.serviceLocked(cluster, in.ServiceName) != nil {
		e.mu.Unlock()
		return nil, invalidParameter("Creation of service was not idempotent.")
	}
	s.deploy(def, e.now())
	e.services = append(e.services, s)
	e.mu.Unlock()
	e.reconcile(s)
	return e.serviceOutput(s), nil
}

// run is the RunTask call of a service's tasks, but for its marks.
func (in *createServiceInput) run() *runTaskInput {
	return &runTaskInput{
		Cluster: in.Cluster, TaskDefinition: in.TaskDefinition, LaunchType: cmp.Or(in.LaunchType, "FARGATE"), NetworkConfiguration: in.NetworkConfiguration,
		EnableExecuteCommand: in.EnableExecuteCommand,
	}
}

// deploy begins a deployment. The caller holds the lock.
func (s *ecsService) deploy(def *TaskDefinition, now time.Time) {
	d := &deployment{id: "ecs-svc/" + randomDigits(19), def: def, created: now, state: rolloutGoes}
	s.deployments = slices.Insert(s.deployments, 0, d)
}

func (s *ecsService) tell(now time.Time, format string, args ...any) {
	event := serviceEvent{seededUUID(s.name + strconv.Itoa(len(s.events)) + now.String()), fmt.Sprintf("(service "+s.name+") "+format, args...), now}
	s.events = slices.Insert(s.events, 0, event)
	s.events = s.events[:min(len(s.events), maxEvents)]
}

// serviceLocked returns a service by name or ARN, or nil. The caller holds the lock.
func (e *ecs) serviceLocked(cluster, ref string) *ecsService {
	for _, s := range e.services {
		if s.cluster == cluster && s.name == lastOf(ref) && !s.gone {
			return s
		}
	}
	return nil
}

type updateServiceInput struct {
	Cluster        string `json:"cluster"`
	Service        string `json:"service"`
	DesiredCount   *int   `json:"desiredCount"`
	TaskDefinition string `json:"taskDefinition"`
}

func (e *ecs) updateService(_ context.Context, _ *awsapi.Call, in *updateServiceInput) (any, error) {
	var def *TaskDefinition
	if in.TaskDefinition != "" {
		var err error
		if def, err = e.runnable(in.TaskDefinition); err != nil {
			return nil, err
		}
	}
	return e.changeService(in.Cluster, in.Service, func(s *ecsService) error {
		if in.DesiredCount != nil {
			s.desired = *in.DesiredCount
		}
		if def != nil && def != s.deployments[0].def {
			s.deploy(def, e.now())
		}
		return nil
	})
}

// changeService changes a service, and returns what it is then. change is called with the lock.
func (e *ecs) changeService(cluster, ref string, change func(*ecsService) error) (any, error) {
	e.mu.Lock()
	s := e.serviceLocked(clusterName(cluster), ref)
	var err error = awsapi.Errorf("ServiceNotFoundException", "Service not found.")
	if s != nil {
		err = change(s)
	}
	e.mu.Unlock()
	if err != nil {
		return nil, err
	}
	e.reconcile(s)
	return e.serviceOutput(s), nil
}

type deleteServiceInput struct {
	Cluster string `json:"cluster"`
	Service string `json:"service"`
	Force   bool   `json:"force"`
}

func (e *ecs) deleteService(_ context.Context, _ *awsapi.Call, in *deleteServiceInput) (any, error) {
	return e.changeService(in.Cluster, in.Service, func(s *ecsService) error {
		if s.desired > 0 && !in.Force {
			return invalidParameter("The service cannot be stopped while it is scaled above 0.")
		}
		s.desired, s.gone = 0, true
		return nil
	})
}

type describeServicesInput struct {
	Cluster  string   `json:"cluster"`
	Services []string `json:"services"`
	Include  []string `json:"include"`
}

// maxServices is the most that a call describes.
const maxServices = 10

func (e *ecs) describeServices(_ context.Context, _ *awsapi.Call, in *describeServicesInput) (any, error) {
	cluster, err := e.cluster(in.Cluster)
	if err != nil {
		return nil, err
	}
	if len(in.Services) == 0 || len(in.Services) > maxServices {
		return nil, invalidParameter("Services must have 1 to %d entries.", maxServices)
	}
	found, failures := []serviceView{}, []ecsFailure{}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ref := range in.Services {
		s := e.serviceLocked(cluster, ref)
		if s == nil {
			failures = append(failures, ecsFailure{Arn: e.arn("ecs", "service/"+cluster+"/"+lastOf(ref)), Reason: "MISSING"})
			continue
		}
		found = append(found, e.serviceView(s, slices.Contains(in.Include, "TAGS")))
	}
	type output struct {
		Services []serviceView `json:"services"`
		Failures []ecsFailure  `json:"failures"`
	}
	return output{found, failures}, nil
}

// reconcile starts and stops tasks until the service has what it should, as far as can be done now.
func (e *ecs) reconcile(s *ecsService) {
	e.mu.Lock()
	def := s.deployments[0].def
	e.mu.Unlock()
	env := e.taskEnv(def, ecsOverrides{})
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.ctx.Err() != nil || s.deployments[0].def != def { // the change has its own call
		return
	}
	primary := s.deployments[0]
	var current, older []*task
	ready := 0
	for _, t := range e.tasks {
		switch {
		case t.service != s || t.desired != statusRunning:
		case t.startedBy != primary.id:
			older = append(older, t)
		default:
			current = append(current, t)
			if t.last == statusRunning && (t.connected || !t.exec) {
				ready++
			}
		}
	}
	for n := len(current); n < s.desired && primary.state != rolloutFailed; n++ {
		t := e.startLocked(s.cluster, def, s.runTask(), env)
		s.tell(e.now(), "has started 1 tasks: (task %s).", t.id)
	}
	surplus := current[min(len(current), s.desired):]
	spare := max(0, len(older)-max(0, s.desired-ready)) // as many as the new ones have taken the place of
	for _, t := range slices.Concat(surplus, older[:spare]) {
		e.stopLocked(t, stopScaling, "Scaling activity initiated by (deployment "+primary.id+")")
		s.tell(e.now(), "has stopped 1 running tasks: (task %s).", t.id)
	}
	if ready >= s.desired && primary.state == rolloutGoes {
		primary.state = rolloutDone
		s.tell(e.now(), "has reached a steady state.")
	}
	s.deployments = slices.DeleteFunc(s.deployments, func(d *deployment) bool {
		return d != primary && !slices.ContainsFunc(older[spare:], func(t *task) bool { return t.startedBy == d.id })
	})
}

// runTask is the RunTask call of the next task, with the service's marks. Tasks take turns in the subnets.
func (s *ecsService) runTask() *runTaskInput {
	in := s.settings.run()
	in.Group, in.StartedBy = groupOfService+s.name, s.deployments[0].id
	if s.settings.PropagateTags == "SERVICE" {
		in.Tags = slices.Clone(s.settings.Tags)
	}
	if s.settings.EnableECSManagedTags {
		in.Tags = append(in.Tags, ecsTag{"aws:ecs:clusterName", s.cluster}, ecsTag{"aws:ecs:serviceName", s.name})
	}
	in.service = s
	s.turn++
	vpc := *in.NetworkConfiguration.AwsvpcConfiguration
	at := s.turn % len(vpc.Subnets)
	vpc.Subnets = slices.Concat(vpc.Subnets[at:], vpc.Subnets[:at])
	in.NetworkConfiguration = &ecsNetworkConfiguration{AwsvpcConfiguration: &vpc}
	return in
}

// served tells a task's service of a change in it.
func (e *ecs) served(t *task) {
	if t.service == nil {
		return
	}
	e.mu.Lock()
	s := t.service
	d := s.deployments[0]
	// ECS waits longer and longer before it starts a task anew that ends at once; here the circuit breaker counts it.
	brief := t.started.IsZero() || e.now().Sub(t.started) < time.Second
	if t.startedBy == d.id && brief && t.last == statusDeactivating && t.stopCode != stopScaling && t.stopCode != stopUser {
		if d.failed++; d.failed >= breakerFailures && s.settings.DeploymentConfiguration.DeploymentCircuitBreaker.Enable && d.state == rolloutGoes {
			s.breaks(d, e.now())
		}
	}
	e.mu.Unlock()
	e.reconcile(s)
}

// breaks ends a deployment whose tasks do not start, and goes back to the one before. The caller holds the lock.
func (s *ecsService) breaks(d *deployment, now time.Time) {
	d.state, d.reason = rolloutFailed, "ECS deployment circuit breaker: tasks failed to start."
	s.tell(now, "(deployment %s) deployment failed: tasks failed to start.", d.id)
	if s.settings.DeploymentConfiguration.DeploymentCircuitBreaker.Rollback && len(s.deployments) > 1 {
		s.deploy(s.deployments[1].def, now)
		s.tell(now, "rolling back to (deployment %s).", s.deployments[0].id)
	}
}

type deploymentView struct {
	ID                 string       `json:"id"`
	Status             string       `json:"status"`
	TaskDefinition     string       `json:"taskDefinition"`
	DesiredCount       int          `json:"desiredCount"`
	PendingCount       int          `json:"pendingCount"`
	RunningCount       int          `json:"runningCount"`
	FailedTasks        int          `json:"failedTasks"`
	CreatedAt          *awsapi.Time `json:"createdAt"`
	LaunchType         string       `json:"launchType"`
	RolloutState       string       `json:"rolloutState"`
	RolloutStateReason string       `json:"rolloutStateReason,omitempty"`
}

type eventView struct {
	ID        string       `json:"id"`
	CreatedAt *awsapi.Time `json:"createdAt"`
	Message   string       `json:"message"`
}

type serviceView struct {
	ServiceArn              string                   `json:"serviceArn"`
	ServiceName             string                   `json:"serviceName"`
	ClusterArn              string                   `json:"clusterArn"`
	Status                  string                   `json:"status"`
	DesiredCount            int                      `json:"desiredCount"`
	RunningCount            int                      `json:"runningCount"`
	PendingCount            int                      `json:"pendingCount"`
	LaunchType              string                   `json:"launchType"`
	PlatformVersion         string                   `json:"platformVersion,omitempty"`
	TaskDefinition          string                   `json:"taskDefinition"`
	SchedulingStrategy      string                   `json:"schedulingStrategy"`
	DeploymentConfiguration deploymentConfiguration  `json:"deploymentConfiguration"`
	NetworkConfiguration    *ecsNetworkConfiguration `json:"networkConfiguration"`
	EnableExecuteCommand    bool                     `json:"enableExecuteCommand"`
	EnableECSManagedTags    bool                     `json:"enableECSManagedTags"`
	PropagateTags           string                   `json:"propagateTags,omitempty"`
	CreatedAt               *awsapi.Time             `json:"createdAt"`
	Deployments             []deploymentView         `json:"deployments"`
	Events                  []eventView              `json:"events"`
	Tags                    []ecsTag                 `json:"tags"`
}

func (e *ecs) serviceOutput(s *ecsService) any {
	e.mu.Lock()
	defer e.mu.Unlock()
	type output struct {
		Service serviceView `json:"service"`
	}
	return output{e.serviceView(s, true)}
}

// serviceView describes a service. The caller holds the lock.
func (e *ecs) serviceView(s *ecsService, tags bool) serviceView {
	in := s.settings
	v := serviceView{
		ServiceArn: e.arn("ecs", "service/"+s.cluster+"/"+s.name), ServiceName: s.name, ClusterArn: e.clusterARN(s.cluster), Status: "ACTIVE",
		DesiredCount: s.desired, LaunchType: "FARGATE", PlatformVersion: in.PlatformVersion, TaskDefinition: s.deployments[0].def.definitionARN(),
		SchedulingStrategy: "REPLICA", DeploymentConfiguration: in.DeploymentConfiguration, NetworkConfiguration: in.NetworkConfiguration,
		EnableExecuteCommand: in.EnableExecuteCommand, EnableECSManagedTags: in.EnableECSManagedTags, PropagateTags: in.PropagateTags,
		CreatedAt: awsapi.At(s.created), Events: []eventView{}, Tags: []ecsTag{},
	}
	if s.gone {
		v.Status = "DRAINING"
	}
	for i, d := range s.deployments {
		of := deploymentView{
			ID: d.id, Status: "ACTIVE", TaskDefinition: d.def.definitionARN(), FailedTasks: d.failed, CreatedAt: awsapi.At(d.created), LaunchType: "FARGATE",
			RolloutState: d.state, RolloutStateReason: d.reason,
		}
		if i == 0 {
			of.Status, of.DesiredCount = "PRIMARY", s.desired
		}
		for _, t := range e.tasks {
			switch {
			case t.service != s || t.startedBy != d.id || t.desired != statusRunning:
			case t.last == statusRunning:
				of.RunningCount++
			default:
				of.PendingCount++
			}
		}
		v.RunningCount += of.RunningCount
		v.PendingCount += of.PendingCount
		v.Deployments = append(v.Deployments, of)
	}
	for _, event := range s.events {
		v.Events = append(v.Events, eventView{event.id, awsapi.At(event.at), event.message})
	}
	if tags {
		v.Tags = append(v.Tags, in.Tags...)
	}
	return v
}

// serviceAccess returns an action on a service.
func (e *ecs) serviceAccess(action, cluster, ref string) awsapi.Access {
	e.mu.Lock()
	defer e.mu.Unlock()
	var tags []ecsTag
	if s := e.serviceLocked(clusterName(cluster), ref); s != nil {
		tags = s.settings.Tags
	}
	return awsapi.Access{
		Action: action, Resource: e.arn("ecs", "service/"+clusterName(cluster)+"/"+lastOf(ref)),
		Context: resourceTags(iam.Context{}.With("ecs:cluster", e.clusterARN(cluster)), tags),
	}
}

func (e *ecs) createServiceAccess(c *awsapi.Call) []awsapi.Access {
	in := inputOf[createServiceInput](c)
	access := e.serviceAccess(c.Name(), in.Cluster, in.ServiceName)
	access.Context = requestTags(access.Context, in.Tags).With("ecs:enable-execute-command", strconv.FormatBool(in.EnableExecuteCommand))
	return []awsapi.Access{access}
}

// tagServiceAccess is what CreateService needs besides itself.
func (e *ecs) tagServiceAccess(in *createServiceInput) []awsapi.Access {
	if len(in.Tags) == 0 {
		return nil
	}
	return []awsapi.Access{{
		Action: "ecs:TagResource", Resource: e.arn("ecs", "service/"+clusterName(in.Cluster)+"/"+in.ServiceName),
		Context: requestTags(iam.Context{}, in.Tags).With("ecs:CreateAction", "CreateService"),
	}}
}

func (e *ecs) changeServiceAccess(c *awsapi.Call) []awsapi.Access {
	in := inputOf[updateServiceInput](c) // a deletion has the same two members
	return []awsapi.Access{e.serviceAccess(c.Name(), in.Cluster, in.Service)}
}

func (e *ecs) describeServicesAccess(c *awsapi.Call) []awsapi.Access {
	in := inputOf[describeServicesInput](c)
	var needs []awsapi.Access
	for _, ref := range in.Services {
		needs = append(needs, e.serviceAccess(c.Name(), in.Cluster, ref))
	}
	return needs
}

// addService makes the service of the template, if it has a shared class.
func (e *ecs) addService() error {
	if _, shared := e.stack.resources["Service"]; !shared {
		return nil
	}
	var of struct {
		createServiceInput
		DesiredCount string // a parameter's value
	}
	if err := e.stack.read("Service", &of); err != nil { // encoding/json does not mind cases
		return err
	}
	in := &of.createServiceInput
	var err error
	if in.DesiredCount, err = strconv.Atoi(of.DesiredCount); err != nil {
		return fmt.Errorf("read Service of the template: %w", err)
	}
	_, err = e.createService(e.ctx, nil, in)
	return err
}
