package targets

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// ecsKind has the running tasks of ECS's services, which have an address of their own (network mode awsvpc). The users' policy lists
// services, and leaves it to the operator to allow which clusters' tasks are read.
func ecsKind() Description {
	return Description{
		Kind: ECS, Prefix: "ecs", Form: "CLUSTER/SERVICE", Noun: "ECS service", Help: "a running task of an ECS service",
		More: []string{"ecs:DescribeTasks", "ecs:ListTasks"}, Lists: "ECS services", Port: "the only one of the task definition's containers",
		TLS: "unknown", Guard: "those of the task's network interface", SignIn: "none that AWS knows",
		lean: true, id: func(text string) (string, error) { return checkPath(text, "CLUSTER/SERVICE", "-_", 255) },
		parts: func(r *Resolver) []part {
			return []part{{
				of: "ECS services", actions: []string{
					actionInterfaces, "ecs:DescribeTaskDefinition", "ecs:DescribeTasks", "ecs:ListClusters", "ecs:ListServices", "ecs:ListTasks",
				},
				find: r.tasks,
			}}
		},
	}
}

// tasks returns a running task of the service, none if the service does not exist, or all services if id is nil.
func (r *Resolver) tasks(ctx context.Context, spec Spec, op string, id *string) ([]candidate, error) {
	if id == nil {
		return r.services(ctx, op)
	}
	cluster, service, _ := strings.Cut(*id, "/")
	listed, err := r.AWS.ecs().tasks(ctx, &ecs.ListTasksInput{
		Cluster: &cluster, ServiceName: &service, DesiredStatus: types.DesiredStatusRunning,
	})
	switch {
	case hasCode(err, "ClusterNotFoundException", "ServiceNotFoundException"):
		return nil, nil
	case err != nil:
		return nil, fail.AWS(fail.Other, op, "ecs:ListTasks", err)
	}
	c := candidate{id: *id, what: "ECS service", status: without + "a running task"}
	if len(listed.TaskArns) == 0 {
		return []candidate{c}, nil
	}
	out, err := r.AWS.ecs().describe(ctx, &ecs.DescribeTasksInput{Cluster: &cluster, Tasks: listed.TaskArns})
	if err != nil {
		return nil, fail.AWS(fail.Other, op, "ecs:DescribeTasks", err)
	}
	running := 0
	for i := range out.Tasks {
		task := &out.Tasks[i]
		host := interfaceDetail(task, "privateIPv4Address")
		if aws.ToString(task.LastStatus) != "RUNNING" || host == "" {
			continue
		}
		if running++; running > 1 {
			continue
		}
		c.status = "RUNNING"
		c.endpoint, c.network.Subnet = Endpoint{Host: host}, interfaceDetail(task, "subnetId")
		if id := interfaceDetail(task, "networkInterfaceId"); id != "" {
			c.seek = func(ctx context.Context) ([]string, error) { return r.interfaceGroups(ctx, id) }
		}
		if spec.Port == 0 {
			if c.endpoint.Port, err = r.taskPort(ctx, op, aws.ToString(task.TaskDefinitionArn)); err != nil {
				return nil, err
			}
		}
	}
	if running > 1 {
		c.endpoint.Note = fmt.Sprintf("%d tasks run; the forward leads to one of them, at %s", running, c.endpoint.Host)
	}
	return []candidate{c}, nil
}

// interfaceDetail returns what ECS says of a task's network interface under a name, or "".
func interfaceDetail(task *types.Task, name string) string {
	for _, a := range task.Attachments {
		for _, d := range a.Details {
			if aws.ToString(a.Type) == "ElasticNetworkInterface" && aws.ToString(d.Name) == name {
				return aws.ToString(d.Value)
			}
		}
	}
	return ""
}

const actionInterfaces = "ec2:DescribeNetworkInterfaces"

// interfaceGroups returns the security groups of a network interface.
func (r *Resolver) interfaceGroups(ctx context.Context, id string) ([]string, error) {
	out, err := r.AWS.ec2().interfaces(ctx, &ec2.DescribeNetworkInterfacesInput{NetworkInterfaceIds: []string{id}})
	if err != nil {
		return nil, fail.AWS(fail.Other, "look at the task's network interface", actionInterfaces, err)
	}
	var groups []string
	for i := range out.NetworkInterfaces {
		groups = append(groups, machineGroups(out.NetworkInterfaces[i].Groups)...)
	}
	return groups, nil
}

// taskPort returns the only TCP port of a task definition's containers; 0 if there are none or several.
func (r *Resolver) taskPort(ctx context.Context, op, definition string) (int, error) {
	out, err := r.AWS.ecs().definition(ctx, &ecs.DescribeTaskDefinitionInput{TaskDefinition: &definition})
	if err != nil {
		return 0, fail.AWS(fail.Other, op, "ecs:DescribeTaskDefinition", err)
	}
	port := 0
	for i := range out.TaskDefinition.ContainerDefinitions {
		for _, m := range out.TaskDefinition.ContainerDefinitions[i].PortMappings {
			switch p := int(aws.ToInt32(m.ContainerPort)); {
			case m.Protocol == types.TransportProtocolUdp || p == 0 || p == port:
			case port != 0:
				return 0, nil
			default:
				port = p
			}
		}
	}
	return port, nil
}

// services returns all services, without addresses: each would take two calls.
func (r *Resolver) services(ctx context.Context, op string) ([]candidate, error) {
	var clusters []string
	err := pages(ctx, r.AWS.ecs().clusters, &ecs.ListClustersInput{},
		func(in *ecs.ListClustersInput) **string { return &in.NextToken },
		func(out *ecs.ListClustersOutput) *string { return out.NextToken },
		func(out *ecs.ListClustersOutput) { clusters = append(clusters, out.ClusterArns...) })
	if err != nil {
		return nil, fail.AWS(fail.Other, op, "ecs:ListClusters", err)
	}
	services := make([][]candidate, len(clusters))
	err = each(len(clusters), func(i int) error {
		return pages(ctx, r.AWS.ecs().services, &ecs.ListServicesInput{Cluster: &clusters[i]},
			func(in *ecs.ListServicesInput) **string { return &in.NextToken },
			func(out *ecs.ListServicesOutput) *string { return out.NextToken },
			func(out *ecs.ListServicesOutput) {
				for _, arn := range out.ServiceArns {
					id := afterSlash(clusters[i]) + "/" + afterSlash(arn)
					services[i] = append(services[i], candidate{id: id, what: "ECS service"})
				}
			})
	})
	if err != nil {
		return nil, fail.AWS(fail.Other, op, "ecs:ListServices", err)
	}
	var found []candidate
	for _, some := range services {
		found = append(found, some...)
	}
	return found, nil
}

// afterSlash returns the text after the last slash: the name in an ARN.
func afterSlash(text string) string { return text[strings.LastIndexByte(text, '/')+1:] }
