package lab_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-ssm/bastion/lab"
)

// service is what ECS says of the lab's service.
func service(t *testing.T, c *ecs.Client) ecstypes.Service {
	t.Helper()
	out, err := c.DescribeServices(t.Context(), &ecs.DescribeServicesInput{
		Cluster: aws.String("bastion"), Services: []string{"bastion"}, Include: []ecstypes.ServiceField{ecstypes.ServiceFieldTags},
	})
	if err != nil || len(out.Services) != 1 {
		t.Fatalf("%+v, %v", out, err)
	}
	return out.Services[0]
}

// served are the tasks that the lab's service wants to run.
func served(l *lab.Lab) (ids []string) {
	for _, task := range l.Tasks() {
		if task.DesiredStatus == "RUNNING" && task.LastStatus == "RUNNING" && task.Connected {
			ids = append(ids, task.ID)
		}
	}
	return ids
}

// The lab keeps a service's tasks running as ECS does: in the template's subnets, with its tags, another for each that ends, new ones
// before the old ones end, and back again if the new ones do not start.
func TestService(t *testing.T) {
	cfg := quick(t)
	cfg.Shared = 2
	l := start(t, cfg)
	c := ecs.NewFromConfig(sdk(t, l.Env()))
	eventually(t, "two tasks", func() bool { return len(served(l)) == 2 })
	eventually(t, "a steady state", func() bool {
		s := service(t, c)
		return len(s.Deployments) == 1 && s.Deployments[0].RolloutState == ecstypes.DeploymentRolloutStateCompleted
	})
	s := service(t, c)
	if s.DesiredCount != 2 || s.RunningCount != 2 || !s.EnableExecuteCommand || s.PropagateTags != ecstypes.PropagateTagsService ||
		!s.DeploymentConfiguration.DeploymentCircuitBreaker.Rollback || len(s.Events) == 0 || len(s.Tags) < 2 || s.CreatedAt == nil {
		t.Errorf("%+v", s)
	}
	list, err := c.ListTasks(t.Context(), &ecs.ListTasksInput{Cluster: aws.String("bastion"), ServiceName: s.ServiceArn})
	if err != nil || len(list.TaskArns) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	tasks, err := c.DescribeTasks(t.Context(), &ecs.DescribeTasksInput{
		Cluster: aws.String("bastion"), Tasks: list.TaskArns, Include: []ecstypes.TaskField{ecstypes.TaskFieldTags},
	})
	if err != nil || len(tasks.Tasks) != 2 {
		t.Fatalf("%+v, %v", tasks, err)
	}
	zones := make(map[string]bool)
	for _, task := range tasks.Tasks {
		zones[*task.AvailabilityZone] = true
		if *task.Group != "service:bastion" || *task.StartedBy != *s.Deployments[0].Id || !slices.ContainsFunc(task.Tags, func(tag ecstypes.Tag) bool {
			return *tag.Key == "bastion:shared" && *tag.Value == "bastion"
		}) {
			t.Errorf("%+v", task)
		}
	}
	if len(zones) != 2 {
		t.Errorf("the tasks are in %v", zones)
	}

	was := served(l)
	if err := l.KillTask(was[0]); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another task", func() bool {
		now := served(l)
		return len(now) == 2 && !slices.Contains(now, was[0])
	})

	l.AddTaskDefinition(lab.TaskDefinition{Family: "bastion", Container: "bastion"})
	deploy := func(definition string) {
		t.Helper()
		if _, err := c.UpdateService(t.Context(), &ecs.UpdateServiceInput{
			Cluster: aws.String("bastion"), Service: aws.String("bastion"), TaskDefinition: &definition,
		}); err != nil {
			t.Fatal(err)
		}
	}
	deploy("bastion:1") // the same one is no new deployment
	if n := len(service(t, c).Deployments); n != 1 {
		t.Errorf("%d deployments", n)
	}
	l.AddTaskDefinition(lab.TaskDefinition{Family: "bastion", Container: "bastion", Command: []string{"/no/such/program"}})
	deploy("bastion:3") // its tasks do not start
	eventually(t, "the circuit breaker goes back", func() bool {
		s := service(t, c)
		return strings.HasSuffix(*s.TaskDefinition, ":1") && s.Deployments[0].RolloutState == ecstypes.DeploymentRolloutStateCompleted
	})
	eventually(t, "two tasks are left", func() bool { return len(served(l)) == 2 && len(service(t, c).Deployments) == 1 })

	for _, force := range []bool{false, true} {
		_, err := c.DeleteService(t.Context(), &ecs.DeleteServiceInput{
			Cluster: aws.String("bastion"), Service: aws.String("bastion"), Force: &force,
		})
		if (err == nil) != force {
			t.Errorf("deleted with force %t: %v", force, err)
		}
	}
	eventually(t, "no task is left", func() bool { return len(served(l)) == 0 })
}
