package lab

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/netip"
	"slices"

	"github.com/bastion-ssm/bastion/lab/awsapi"
	"github.com/bastion-ssm/bastion/lab/iam"
)

// ECSService is a service with running tasks that are servers of this machine: the lab starts no program for them.
type ECSService struct {
	Cluster, Name string
	Tasks         []netip.AddrPort // where they listen
	Groups        []string         // ids of the tasks' security groups; default: the lab's of databases
}

// AddECSService adds a service, and its cluster unless there is one.
func (l *Lab) AddECSService(s ECSService) error {
	l.ecs.mu.Lock()
	if _, ok := l.ecs.clusters[s.Cluster]; !ok {
		l.ecs.clusters[s.Cluster] = &clusterState{}
	}
	l.ecs.fixed = append(l.ecs.fixed, s)
	l.ecs.mu.Unlock()
	d := TaskDefinition{Family: s.Name, NoTaskRole: true}
	if len(s.Tasks) > 0 {
		d.port = int(s.Tasks[0].Port())
	}
	l.AddTaskDefinition(d)
	def := l.ecs.definition(s.Name)
	for _, addr := range s.Tasks {
		if err := l.publish(addr); err != nil {
			return fmt.Errorf("add ECS service %s/%s: %w", s.Cluster, s.Name, err)
		}
		id := randomHex(32)
		done := make(chan struct{})
		close(done)
		now := l.cfg.Now()
		t := &task{
			id: id, arn: l.arn("ecs", "task/"+s.Cluster+"/"+id), cluster: s.Cluster, def: def, runtimeID: id + "-0000000000", group: groupOfService + s.Name,
			startedBy: "ecs-svc/" + randomDigits(19), subnet: vpcSubnet + "a", ip: addr.Addr().String(), size: taskSize{def.CPU, def.Memory},
			created: now, pullStart: now, pullStop: now, started: now, stop: make(chan struct{}), done: done,
			last: statusRunning, desired: statusRunning, version: 1,
		}
		l.ec2.attach(networkInterface{t.interfaceID(), t.subnet, t.ip, false, guardedBy(s.Groups)})
		l.ecs.mu.Lock()
		l.ecs.tasks = append(l.ecs.tasks, t)
		l.ecs.mu.Unlock()
	}
	return nil
}

// hasService reports whether a cluster has a service, by name or ARN.
func (e *ecs) hasService(cluster, ref string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.serviceLocked(cluster, ref) != nil ||
		slices.ContainsFunc(e.fixed, func(s ECSService) bool { return s.Cluster == cluster && s.Name == lastOf(ref) })
}

type listServicesInput struct {
	Cluster   string `json:"cluster"`
	NextToken string `json:"nextToken"`
}

func (e *ecs) listServices(_ context.Context, _ *awsapi.Call, in *listServicesInput) (any, error) {
	cluster, err := e.cluster(in.Cluster)
	if err != nil {
		return nil, err
	}
	arns := []string{}
	e.mu.Lock()
	for _, s := range e.services {
		if s.cluster == cluster && !s.gone {
			arns = append(arns, e.arn("ecs", "service/"+cluster+"/"+s.name))
		}
	}
	for _, s := range e.fixed {
		if s.Cluster == cluster {
			arns = append(arns, e.arn("ecs", "service/"+cluster+"/"+s.Name))
		}
	}
	e.mu.Unlock()
	const size = 10 // as ECS's default is
	marker, err := base64.StdEncoding.DecodeString(in.NextToken)
	some, next, ok := awsapi.Page(arns, string(marker), size)
	if err != nil || !ok {
		return nil, invalidParameter("Invalid token in the request.")
	}
	return withToken(map[string]any{"serviceArns": some}, "nextToken", base64.StdEncoding.EncodeToString([]byte(next))), nil
}

func (e *ecs) listServicesAccess(c *awsapi.Call) []awsapi.Access {
	in := inputOf[listServicesInput](c)
	return []awsapi.Access{{Action: c.Name(), Resource: "*", Context: iam.Context{}.With("ecs:cluster", e.clusterARN(in.Cluster))}}
}
