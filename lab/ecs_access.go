package lab

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/bastion-ssm/bastion/lab/awsapi"
	"github.com/bastion-ssm/bastion/lab/iam"
)

// The accesses that callers of ECS need, with the condition keys of AWS's Service Authorization Reference.

// requestTags adds the tags that a request sets.
func requestTags(in iam.Context, tags []ecsTag) iam.Context {
	var keys []string
	for _, t := range tags {
		in = in.With("aws:RequestTag/"+t.Key, t.Value)
		keys = append(keys, t.Key)
	}
	return in.With("aws:TagKeys", keys...)
}

// resourceTags adds the tags that a resource of ECS has.
func resourceTags(in iam.Context, tags []ecsTag) iam.Context {
	for _, t := range tags {
		in = in.With("aws:ResourceTag/"+t.Key, t.Value).With("ecs:ResourceTag/"+t.Key, t.Value)
	}
	return in
}

func (e *ecs) clusterARN(ref string) string { return e.arn("ecs", "cluster/"+clusterName(ref)) }

// clusterAccess returns an action on a cluster.
func (e *ecs) clusterAccess(action, ref string) awsapi.Access {
	e.mu.Lock()
	defer e.mu.Unlock()
	var tags []ecsTag
	if c, ok := e.clusters[clusterName(ref)]; ok {
		tags = c.tags
	}
	return awsapi.Access{Action: action, Resource: e.clusterARN(ref), Context: resourceTags(iam.Context{}, tags)}
}

// taskAccess returns an action on a task. An unknown task has no tags.
func (e *ecs) taskAccess(action, cluster, ref string) awsapi.Access {
	var tags []ecsTag
	if t := e.find(clusterName(cluster), ref); t != nil {
		e.mu.Lock()
		tags = t.tags
		e.mu.Unlock()
	}
	return awsapi.Access{
		Action: action, Resource: e.arn("ecs", "task/"+clusterName(cluster)+"/"+lastOf(ref)),
		Context: resourceTags(iam.Context{}.With("ecs:cluster", e.clusterARN(cluster)), tags),
	}
}

func (e *ecs) runTaskAccess(c *awsapi.Call) []awsapi.Access {
	in := inputOf[runTaskInput](c)
	resource := e.arn("ecs", "task-definition/"+lastOf(in.TaskDefinition))
	keys := requestTags(iam.Context{}, in.Tags).With("ecs:cluster", e.clusterARN(in.Cluster)).
		With("ecs:enable-execute-command", strconv.FormatBool(in.EnableExecuteCommand))
	if d := e.definition(in.TaskDefinition); d != nil {
		resource = d.definitionARN()
		cpu, memory := taskSize{d.CPU, d.Memory}.texts()
		keys = resourceTags(keys, d.tags).With("ecs:task-cpu", cmp.Or(in.Overrides.CPU, cpu)).
			With("ecs:task-memory", cmp.Or(in.Overrides.Memory, memory))
	}
	return []awsapi.Access{{Action: c.Name(), Resource: resource, Context: keys}}
}

func (e *ecs) describeTasksAccess(c *awsapi.Call) []awsapi.Access {
	in := inputOf[describeTasksInput](c)
	var needs []awsapi.Access
	for _, ref := range in.Tasks {
		needs = append(needs, e.taskAccess(c.Name(), in.Cluster, ref))
	}
	if len(needs) == 0 {
		needs = append(needs, e.taskAccess(c.Name(), in.Cluster, "*"))
	}
	return needs
}

// listTasksAccess returns the access to anything: the action's one resource type is a container instance, and Fargate has none.
func (e *ecs) listTasksAccess(c *awsapi.Call) []awsapi.Access {
	in := inputOf[listTasksInput](c)
	return []awsapi.Access{{Action: c.Name(), Resource: "*", Context: iam.Context{}.With("ecs:cluster", e.clusterARN(in.Cluster))}}
}

func (e *ecs) stopTaskAccess(c *awsapi.Call) []awsapi.Access {
	in := inputOf[stopTaskInput](c)
	return []awsapi.Access{e.taskAccess(c.Name(), in.Cluster, in.Task)}
}

// executeCommandAccess returns the accesses to the task and to the cluster, which lacks the task's tags.
func (e *ecs) executeCommandAccess(c *awsapi.Call) []awsapi.Access {
	in := inputOf[executeCommandInput](c)
	task, cluster := e.taskAccess(c.Name(), in.Cluster, in.Task), e.clusterAccess(c.Name(), in.Cluster)
	if t := e.find(clusterName(in.Cluster), in.Task); t != nil && in.Container == "" {
		in.Container = t.def.Container
	}
	task.Context = task.Context.With("ecs:container-name", in.Container).With("ecs:task", task.Resource)
	cluster.Context = cluster.Context.With("ecs:container-name", in.Container).With("ecs:cluster", cluster.Resource)
	return []awsapi.Access{task, cluster}
}

func (e *ecs) describeClustersAccess(c *awsapi.Call) []awsapi.Access {
	in := inputOf[describeClustersInput](c)
	if len(in.Clusters) == 0 {
		in.Clusters = []string{"default"}
	}
	var needs []awsapi.Access
	for _, ref := range in.Clusters {
		needs = append(needs, e.clusterAccess(c.Name(), ref))
	}
	return needs
}

// tagAccess returns the access to a resource whose tags are read or changed.
func (e *ecs) tagAccess(c *awsapi.Call) []awsapi.Access {
	in := inputOf[tagInput](c)
	keys := requestTags(iam.Context{}, in.Tags)
	if len(in.TagKeys) > 0 {
		keys = keys.With("aws:TagKeys", in.TagKeys...)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if tags, err := e.tagsOf(in.ResourceArn); err == nil {
		keys = resourceTags(keys, *tags)
	}
	return []awsapi.Access{{Action: c.Name(), Resource: in.ResourceArn, Context: keys}}
}

// withoutService returns a context without a service's own keys.
func withoutService(in iam.Context, service string) iam.Context {
	out := make(iam.Context)
	for key, values := range in {
		if !strings.HasPrefix(key, service+":") {
			out[key] = values
		}
	}
	return out
}

// named adds tags given by a map.
func named(in iam.Context, prefix string, tags map[string]string) iam.Context {
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		in = in.With(prefix+k, tags[k])
	}
	return in
}
