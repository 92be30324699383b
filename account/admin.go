package account

// adminPolicy is what the operators of a stack's bastions may do: bastion gc, audit, cost and config share, and stop any bastion of the
// stack's cluster. It gives no way into a bastion.
func (s *Stack) adminPolicy() Policy {
	cluster, tasks := arn("ecs", "cluster/"+s.Inputs.Name), arn("ecs", "task/"+s.Inputs.Name+"/*")
	inCluster := Member{"ArnEquals", Object{{"ecs:cluster", cluster}}}
	return Policy{
		{Sid: "ListTheTasks", Action: []string{"ecs:ListTasks"}, Resource: List{"*"}, Condition: Object{inCluster}},
		// Whatever runs in the cluster is looked at: its tags tell whether it is a bastion.
		{Sid: "SeeTheTasks", Action: []string{"ecs:DescribeTasks"}, Resource: List{tasks}, Condition: Object{inCluster}},
		{
			Sid: "StopBastions", Action: []string{"ecs:StopTask"}, Resource: List{tasks},
			Condition: Object{inCluster, {"StringLike", Object{{"aws:ResourceTag/" + ownerTag, "*"}}}},
		},
		{Sid: "ReadTheirLife", Action: []string{"ecs:DescribeTaskDefinition"}, Resource: List{"*"}},
		// Cost Explorer has no resources: whoever asks it sees the costs of the whole account.
		{Sid: "AskWhatWasBilled", Action: []string{"ce:GetCostAndUsage"}, Resource: List{"*"}},
		{
			Sid: "ShareAConfiguration", Action: []string{"ssm:DeleteParameter", "ssm:GetParameter", "ssm:PutParameter"},
			Resource: List{sharedConfiguration},
		},
		{Sid: "ReadTheAudit", Action: []string{"logs:FilterLogEvents"}, Resource: List{arn("logs", "log-group:"+s.logGroup()+":*")}},
	}
}
