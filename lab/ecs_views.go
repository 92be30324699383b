package lab

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// clusterView describes a cluster; the caller holds the lock.
func (e *ecs) clusterView(name string, state *clusterState, include []string) ecsCluster {
	v := ecsCluster{
		ClusterArn: e.arn("ecs", "cluster/"+name), ClusterName: name, Status: cmp.Or(state.status, "ACTIVE"),
		CapacityProviders: capacityProviders, Tags: []ecsTag{},
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
		v.Configuration = &ecsClusterConfiguration{&ecsExecConfiguration{KMSKeyID: e.kmsKey, Logging: cmp.Or(state.logging, "DEFAULT")}}
	}
	return v
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
		StartedBy: t.startedBy, LaunchType: "FARGATE", CapacityProviderName: t.capacity,
		PlatformVersion: cmp.Or(t.platform, "1.4.0"), PlatformFamily: "Linux",
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
		c.ManagedAgents = []ecsManagedAgent{{"ExecuteCommandAgent", t.agent, t.agentReason, awsapi.At(t.agentAt)}}
	}
	return c
}

// definitionView describes a task definition with the environment of its container.
func (e *ecs) definitionView(d *TaskDefinition, environment []ecsKeyValue) ecsTaskDefinition {
	cpu, memory := taskSize{d.CPU, d.Memory}.texts()
	status, compatible := "ACTIVE", []string{"EC2", "FARGATE"}
	if d.Inactive {
		status = "INACTIVE"
	}
	if d.NotFargate {
		compatible = []string{"EC2"}
	}
	c := ecsContainerDefinition{
		Name: d.Container, Image: d.Image, Essential: true, Command: d.Command, Environment: environment,
		MountPoints: []ecsMount{}, VolumesFrom: []struct{}{}, PortMappings: portMappings(d.port), ReadonlyRootFilesystem: d.ReadOnlyRoot,
		StopTimeout: int(cmp.Or(d.StopTimeout, e.timing.grace).Seconds()), LinuxParameters: &ecsLinuxParameters{InitProcessEnabled: !d.NoInit},
	}
	if len(d.DropCapabilities) > 0 {
		c.LinuxParameters.Capabilities = &ecsCapabilities{d.DropCapabilities}
	}
	if d.logGroup != "" {
		c.LogConfiguration = &ecsLogConfiguration{"awslogs", map[string]string{
			"awslogs-group": d.logGroup, "awslogs-region": e.region, "awslogs-stream-prefix": "task",
		}}
	}
	volumes := []ecsVolume{}
	for i, path := range d.Mounts {
		name := fmt.Sprintf("v%d", i)
		volumes = append(volumes, ecsVolume{name})
		c.MountPoints = append(c.MountPoints, ecsMount{name, path})
	}
	containers := []ecsContainerDefinition{c}
	for _, name := range d.Beside {
		containers = append(containers, ecsContainerDefinition{
			Name: name, Image: d.Image, Environment: []ecsKeyValue{}, MountPoints: []ecsMount{}, VolumesFrom: []struct{}{}, PortMappings: []ecsPortMapping{},
		})
	}
	return ecsTaskDefinition{
		TaskDefinitionArn: d.definitionARN(), Family: d.Family, Revision: d.Revision, Status: status, NetworkMode: cmp.Or(d.NetworkMode, "awsvpc"),
		RequiresCompatibilities: compatible[len(compatible)-1:], Compatibilities: compatible,
		CPU: cpu, Memory: memory, TaskRoleArn: d.taskRole(), ExecutionRoleArn: d.executionRole(), PidMode: d.PidMode,
		ContainerDefinitions: containers, Volumes: volumes, PlacementConstraints: []struct{}{},
	}
}

func portMappings(port int) []ecsPortMapping {
	if port == 0 {
		return []ecsPortMapping{}
	}
	return []ecsPortMapping{{port, port, "tcp"}}
}
