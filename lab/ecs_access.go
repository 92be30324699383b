package lab

import (
	"strconv"
	"strings"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// The accesses that callers of ECS need, with the condition keys of AWS's Service Authorization Reference.

// tagKeys returns tags as condition keys, under "aws:requesttag/" or "aws:resourcetag/".
func tagKeys(prefix string, tags []ecsTag) map[string]string {
	keys := make(map[string]string)
	for _, t := range tags {
		keys[strings.ToLower(prefix+t.Key)] = t.Value
	}
	return keys
}

func (e *ecs) clusterARN(ref string) string { return e.arn("ecs", "cluster/"+clusterName(ref)) }

// taskAccess returns an action on a task. An unknown task has no tags.
func (e *ecs) taskAccess(action, cluster, ref string) awsapi.Access {
	var tags []ecsTag
	if t := e.find(clusterName(cluster), ref); t != nil {
		e.mu.Lock()
		tags = t.tags
		e.mu.Unlock()
	}
	keys := tagKeys("aws:resourcetag/", tags)
	keys["ecs:cluster"] = e.clusterARN(cluster)
	return awsapi.Access{
		Action: action, Resource: e.arn("ecs", "task/"+clusterName(cluster)+"/"+lastOf(ref)), Keys: keys,
	}
}

func (e *ecs) runTaskAccess(c *awsapi.Call) []awsapi.Access {
	in := inputOf[runTaskInput](c)
	resource := e.arn("ecs", "task-definition/"+lastOf(in.TaskDefinition))
	if d := e.definition(in.TaskDefinition); d != nil {
		resource = d.definitionARN()
	}
	keys := tagKeys("aws:requesttag/", in.Tags)
	keys["ecs:cluster"] = e.clusterARN(in.Cluster)
	keys["ecs:enable-execute-command"] = strconv.FormatBool(in.EnableExecuteCommand)
	return []awsapi.Access{{Action: c.Name(), Resource: resource, Keys: keys}}
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

func (e *ecs) listTasksAccess(c *awsapi.Call) []awsapi.Access {
	arn := e.clusterARN(inputOf[listTasksInput](c).Cluster)
	return []awsapi.Access{{Action: c.Name(), Resource: arn, Keys: map[string]string{"ecs:cluster": arn}}}
}

func (e *ecs) stopTaskAccess(c *awsapi.Call) []awsapi.Access {
	in := inputOf[stopTaskInput](c)
	return []awsapi.Access{e.taskAccess(c.Name(), in.Cluster, in.Task)}
}

// executeCommandAccess returns the accesses to the task and to the cluster, which lacks the task's tags.
func (e *ecs) executeCommandAccess(c *awsapi.Call) []awsapi.Access {
	in := inputOf[executeCommandInput](c)
	task := e.taskAccess(c.Name(), in.Cluster, in.Task)
	if t := e.find(clusterName(in.Cluster), in.Task); t != nil && in.Container == "" {
		in.Container = t.def.Container
	}
	task.Keys["ecs:container-name"], task.Keys["ecs:task"] = in.Container, task.Resource
	arn := e.clusterARN(in.Cluster)
	return []awsapi.Access{task, {Action: c.Name(), Resource: arn, Keys: map[string]string{
		"ecs:cluster": arn, "ecs:container-name": in.Container,
	}}}
}

func (e *ecs) tagResourceAccess(c *awsapi.Call) []awsapi.Access {
	in := inputOf[tagInput](c)
	return []awsapi.Access{{Action: c.Name(), Resource: in.ResourceArn, Keys: tagKeys("aws:requesttag/", in.Tags)}}
}
