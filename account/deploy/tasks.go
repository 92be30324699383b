package deploy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
)

const (
	pollTasks     = 2 * time.Second
	describeTasks = 100 // the most that a call takes
)

// planTasks finds the tasks of the cluster: the bastions by the stack's families, and the others. Those of services are neither.
func (d *Deployer) planTasks(ctx context.Context, p *DestroyPlan) error {
	if p.cluster == "" {
		return nil
	}
	all, err := d.tasks(ctx, ecs.ListTasksInput{Cluster: &p.cluster})
	if err != nil {
		return err
	}
	ofServices, err := d.tasksOfServices(ctx, *p)
	if err != nil {
		return err
	}
	for _, family := range p.families {
		some, err := d.tasks(ctx, ecs.ListTasksInput{Cluster: &p.cluster, Family: &family})
		if err != nil {
			return err
		}
		p.Tasks = append(p.Tasks, without(some, ofServices)...)
	}
	p.Others = without(all, ofServices, p.Tasks)
	return nil
}

// tasksOfServices are the tasks that the stack's services have started, and would start anew.
func (d *Deployer) tasksOfServices(ctx context.Context, p DestroyPlan) (arns []string, _ error) {
	for _, service := range p.services {
		some, err := d.tasks(ctx, ecs.ListTasksInput{Cluster: &p.cluster, ServiceName: &service})
		if err != nil {
			return nil, err
		}
		arns = append(arns, some...)
	}
	return arns, nil
}

func without(all []string, others ...[]string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool {
		return slices.ContainsFunc(others, func(o []string) bool { return slices.Contains(o, s) })
	})
}

// tasks lists ARNs of tasks. A cluster that has gone has none.
func (d *Deployer) tasks(ctx context.Context, in ecs.ListTasksInput) (arns []string, _ error) {
	for {
		out, err := d.aws.ListTasks(ctx, &in)
		if awsanswer.Of(err).Code == "ClusterNotFoundException" {
			return nil, nil
		}
		if err != nil {
			return nil, d.faultOn("list the tasks of cluster "+*in.Cluster, "ecs:ListTasks", "", err)
		}
		arns = append(arns, out.TaskArns...)
		if in.NextToken = out.NextToken; aws.ToString(in.NextToken) == "" {
			return arns, nil
		}
	}
}

// stopTasks stops the bastions, also those that were started since the plan, and waits until none is left: a cluster with tasks cannot be
// deleted. Another run may have told some to stop.
func (d *Deployer) stopTasks(ctx context.Context, p DestroyPlan, done *Destroyed, on func(Event)) error {
	if p.cluster == "" {
		return nil
	}
	for {
		running := false
		ofServices, err := d.tasksOfServices(ctx, p)
		if err != nil {
			return err
		}
		for _, family := range p.families {
			arns, err := d.tasks(ctx, ecs.ListTasksInput{Cluster: &p.cluster, Family: &family})
			if err != nil {
				return err
			}
			ending, err := d.tasks(ctx, ecs.ListTasksInput{Cluster: &p.cluster, Family: &family, DesiredStatus: ecstypes.DesiredStatusStopped})
			if err != nil {
				return err
			}
			arns = without(arns, ofServices)
			for _, arn := range arns {
				if err := d.stopTask(ctx, p.cluster, arn, on); err != nil {
					return err
				}
				if !slices.Contains(done.Tasks, arn) {
					done.Tasks = append(done.Tasks, arn)
				}
			}
			left, err := d.ending(ctx, p.cluster, ending)
			if err != nil {
				return err
			}
			running = running || left || len(arns) > 0
		}
		if !running {
			return nil
		}
		if err := d.Pause(ctx, pollTasks); err != nil {
			return fail.New(fail.Other, "wait for the bastions of "+d.stack()+" to stop", err, again)
		}
	}
}

func (d *Deployer) stopTask(ctx context.Context, cluster, arn string, on func(Event)) error {
	_, err := d.aws.StopTask(ctx, &ecs.StopTaskInput{Cluster: &cluster, Task: &arn, Reason: aws.String("bastion destroy")})
	if err != nil {
		if awsanswer.Of(err).Class == awsanswer.NotFound || strings.Contains(awsanswer.Of(err).Message, "not found") {
			return nil
		}
		return d.faultOn(fmt.Sprintf("stop the bastion %s", arn), "ecs:StopTask", arn, err)
	}
	if on != nil {
		on(Event{Resource: arn[strings.LastIndexByte(arn, '/')+1:], Type: "AWS::ECS::Task", PhysicalID: arn, Status: "STOPPING"})
	}
	return nil
}

// ending reports whether one of the tasks that were told to stop has not yet done so.
func (d *Deployer) ending(ctx context.Context, cluster string, arns []string) (bool, error) {
	for some := range slices.Chunk(arns, describeTasks) {
		out, err := d.aws.DescribeTasks(ctx, &ecs.DescribeTasksInput{Cluster: &cluster, Tasks: some})
		if err != nil {
			return false, d.faultOn("look at the tasks of cluster "+cluster, "ecs:DescribeTasks", "", err)
		}
		for _, t := range out.Tasks {
			if aws.ToString(t.LastStatus) != "STOPPED" {
				return true, nil
			}
		}
	}
	return false, nil
}
