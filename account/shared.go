package account

import "slices"

// The people of a class with Shared have no tasks of their own: an ECS service keeps its tasks running in the subnets' zones, and everybody
// of the class enters them by ECS Exec. Whoever does is root in the container, so what one of them may do there, each may. Nobody of the class
// starts or stops a task.

// maxShared is the most tasks of a service.
const maxShared = 10

// sharedTag is the tag by which a service's tasks belong to a class's people, with the service's name. RunTask may not set it.
const sharedTag = "bastion:shared"

// paramTasks begins the names of the parameters with the numbers of tasks.
const paramTasks = "Tasks"

// TasksParameter is the name of the parameter with the number of tasks of a shared class.
func TasksParameter(class string) string { return paramTasks + title(class) }

// ServiceOutput is the name of the output with a shared class's service.
func ServiceOutput(class string) string { return "SharedService" + title(class) }

// shares reports whether the stack has a shared class.
func (in Inputs) shares() bool { return len(in.SharedClasses()) > 0 }

// SharedClasses are the classes whose bastions are a service's.
func (in Inputs) SharedClasses() (shared []Class) {
	for _, c := range in.Classes {
		if c.Shared > 0 {
			shared = append(shared, c)
		}
	}
	return shared
}

// service makes the service of a shared class. A deployment starts the new tasks before it ends the old ones, goes back if the new ones
// do not start, and spreads them over the zones; a task that ends gives way to another.
func (s *Stack) service(c Class) {
	public := "DISABLED"
	if s.Inputs.PublicAddress {
		public = "ENABLED"
	}
	s.add("Service"+title(c.Name), "AWS::ECS::Service", Object{
		{"ServiceName", s.family(c)},
		{"Cluster", Ref("Cluster")},
		{"TaskDefinition", Ref("TaskDefinition" + title(c.Name))},
		{"DesiredCount", Ref(TasksParameter(c.Name))},
		{"LaunchType", "FARGATE"},
		{"PlatformVersion", "LATEST"},
		{"AvailabilityZoneRebalancing", "ENABLED"},
		{"DeploymentConfiguration", Object{
			{"MinimumHealthyPercent", 100},
			{"MaximumPercent", 200},
			{"DeploymentCircuitBreaker", Object{{"Enable", true}, {"Rollback", true}}},
		}},
		{"EnableECSManagedTags", true},
		{"EnableExecuteCommand", true},
		{"PropagateTags", "SERVICE"},
		{"NetworkConfiguration", Object{{"AwsvpcConfiguration", Object{
			{"Subnets", Ref(paramSubnets)},
			{"SecurityGroups", List{s.groupID()}},
			{"AssignPublicIp", public},
		}}}},
		{"Tags", List{Object{{"Key", sharedTag}, {"Value", s.family(c)}}}},
	})
}

// sharedPolicy is what a person may do with a shared class: find the service's tasks and enter them, and start or stop none.
func (s *Stack) sharedPolicy(c Class) Policy {
	cluster, tasks := arn("ecs", "cluster/"+s.Inputs.Name), arn("ecs", "task/"+s.Inputs.Name+"/*")
	ofService := Member{"aws:ResourceTag/" + sharedTag, s.family(c)}
	inCluster := Member{"ArnEquals", Object{{"ecs:cluster", cluster}}}
	common := s.sessionStatements()
	for i := range common { // which revision runs, the service says
		common[i].Action = slices.DeleteFunc(common[i].Action, func(a string) bool { return a == "ecs:DescribeTaskDefinition" })
	}
	return append(Policy{
		{Sid: "ListTheTasks", Action: []string{"ecs:ListTasks"}, Resource: List{"*"}, Condition: Object{inCluster}},
		{
			Sid: "SeeTheService", Action: []string{"ecs:DescribeServices"},
			Resource: List{arn("ecs", "service/"+s.Inputs.Name+"/"+s.family(c))},
		},
		{
			Sid: "SeeItsTasks", Action: []string{"ecs:DescribeTasks"}, Resource: List{tasks},
			Condition: Object{inCluster, {"StringEquals", Object{ofService}}},
		},
		{Sid: "HandOverAGrantInTheCluster", Action: []string{"ecs:ExecuteCommand"}, Resource: List{cluster}},
		{
			Sid: "HandOverAGrantToItsTasks", Action: []string{"ecs:ExecuteCommand"}, Resource: List{tasks},
			Condition: Object{{"StringEquals", Object{ofService, {"ecs:container-name", "bastion"}}}},
		},
		{
			Sid: "OpenSessionsToItsTasks", Action: []string{"ssm:StartSession"}, Resource: List{tasks},
			Condition: Object{{"StringEquals", Object{ofService}}, {"BoolIfExists", Object{{"ssm:SessionDocumentAccessCheck", "true"}}}},
		},
	}, append(common, s.diagnosis(cluster)...)...)
}

// unshared keeps a person from starting a task with the mark of a service's: where there is a service, others enter such tasks.
func (s *Stack) unshared(condition Object) Object {
	if !s.Inputs.shares() {
		return condition
	}
	return append(condition, Member{"Null", Object{{"aws:RequestTag/" + sharedTag, "true"}}})
}

// serviceHandler is for the services of shared classes.
func serviceHandler(s *Stack) Policy {
	var services, deployments List
	for _, c := range s.Inputs.SharedClasses() {
		name := s.Inputs.Name + "/" + s.family(c)
		services, deployments = append(services, arn("ecs", "service/"+name)), append(deployments, arn("ecs", "service-deployment/"+name+"/*"))
	}
	return Policy{
		{
			Sid: "TheServices",
			Action: []string{
				"ecs:CreateService", "ecs:DeleteService", "ecs:DescribeServices", "ecs:ListServiceDeployments",
				"ecs:ListTagsForResource", "ecs:TagResource", "ecs:UntagResource", "ecs:UpdateService",
			},
			Resource: services,
		},
		{
			Sid: "TheirDeployments", Action: []string{"ecs:DescribeServiceDeployments"},
			Resource: append(slices.Clip(services), deployments...),
		},
	}
}
