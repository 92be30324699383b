package account

// byCloudFormation is the condition that AWS makes a call for CloudFormation, and so as the stack's template says.
// Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html#condition-keys-calledvia
var byCloudFormation = Member{"ForAnyValue:StringEquals", Object{{"aws:CalledVia", "cloudformation.amazonaws.com"}}}

// deployerPolicy is what bastion init, plan, upgrade and destroy call themselves. What CloudFormation calls for them is in handlerPolicy.
func (s *Stack) deployerPolicy() Policy {
	name := s.Inputs.Name
	tasks := arn("ecs", "task/"+name+"/*")
	inCluster := Member{"ArnEquals", Object{{"ecs:cluster", arn("ecs", "cluster/"+name)}}}
	return Policy{
		{
			Sid: "TheStack",
			Action: []string{
				"cloudformation:ContinueUpdateRollback", "cloudformation:CreateChangeSet", "cloudformation:DeleteChangeSet",
				"cloudformation:DeleteStack", "cloudformation:DescribeChangeSet", "cloudformation:DescribeStackEvents",
				"cloudformation:DescribeStackResourceDrifts", "cloudformation:DescribeStacks", "cloudformation:DetectStackDrift",
				"cloudformation:ExecuteChangeSet", "cloudformation:GetTemplate", "cloudformation:ListStackResources",
			},
			Resource: List{arn("cloudformation", "stack/"+name+"/*")},
		},
		{
			Sid: "LookAround",
			Action: []string{
				"cloudformation:DescribeStackDriftDetectionStatus", "cloudformation:ListStacks", "logs:DescribeLogGroups",
			},
			Resource: List{"*"},
		},
		{
			Sid: "SurveyTheNetwork",
			Action: []string{
				"ec2:DescribeManagedPrefixLists", "ec2:DescribeNatGateways", "ec2:DescribeRouteTables", "ec2:DescribeSecurityGroups",
				"ec2:DescribeSubnets",
				"ec2:DescribeVpcEndpointServices", "ec2:DescribeVpcEndpoints", "ec2:DescribeVpcs",
			},
			Resource: List{"*"},
		},
		{Sid: "SurveyTheVPC", Action: []string{"ec2:DescribeVpcAttribute"}, Resource: List{arn("ec2", "vpc/*")}},
		{
			Sid: "SurveyDatabases", Action: []string{"rds:DescribeDBClusters", "rds:DescribeDBInstances"},
			Resource: List{arn("rds", "cluster:*"), arn("rds", "db:*")},
		},
		{Sid: "SurveyProxies", Action: []string{"rds:DescribeDBProxies"}, Resource: List{arn("rds", "db-proxy:*")}},
		{
			Sid: "SurveyCaches",
			Action: []string{
				"elasticache:DescribeCacheClusters", "elasticache:DescribeReplicationGroups", "elasticache:DescribeServerlessCaches",
			},
			Resource: List{arn("elasticache", "cluster:*"), arn("elasticache", "replicationgroup:*"), arn("elasticache", "serverlesscache:*")},
		},
		{Sid: "RegistryToken", Action: []string{"ecr:GetAuthorizationToken"}, Resource: List{"*"}},
		{
			Sid: "PushTheImage",
			Action: []string{
				"ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:CompleteLayerUpload", "ecr:GetDownloadUrlForLayer",
				"ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart",
			},
			Resource: List{arn("ecr", "repository/"+name)},
		},
		{Sid: "FindBastionsToStop", Action: []string{"ecs:ListTasks"}, Resource: List{"*"}, Condition: Object{inCluster}},
		{
			Sid: "StopBastionsFirst", Action: []string{"ecs:DescribeTasks", "ecs:StopTask"}, Resource: List{tasks}, Condition: Object{inCluster},
		},
		{
			Sid: "RemoveTheAuditIfAsked", Action: []string{"logs:DeleteLogGroup"},
			Resource: List{arn("logs", "log-group:"+s.logGroup()+":*"), arn("logs", "log-group:"+s.execGroup()+":*")},
		},
		{ // also one that an earlier stack has left, which this one uses as the operator's; the tag is the stack's
			Sid: "KeyOfTheAudit", Action: []string{"kms:DescribeKey", "kms:ScheduleKeyDeletion"}, Resource: List{arn("kms", "key/*")},
			Condition: Object{{"StringEquals", Object{{"aws:ResourceTag/bastion", "true"}}}},
		},
	}
}

// handlerPolicy is what CloudFormation calls for the deployer to make, change and delete the stack's resources: the permissions of these
// handlers, as far as the stack has their types. They count for CloudFormation's calls alone.
func (s *Stack) handlerPolicy(handlers []handler) Policy {
	have := make(map[string]bool)
	for _, r := range s.Resources {
		have[r.Type] = true
	}
	var policy Policy
	for _, h := range handlers {
		if !have[h.kind] {
			continue
		}
		for _, statement := range h.statements(s) {
			if len(statement.Resource) > 0 { // an option that the stack does not have
				statement.Condition = append(Object{byCloudFormation}, statement.Condition...)
				policy = append(policy, statement)
			}
		}
	}
	return policy
}

// made is the ARN of something in the region whose name CloudFormation makes of the stack's.
func (s *Stack) made(service, kind string) Text { return arn(service, kind+s.Inputs.Name+"-*") }

// madeIn is the ARN of something of the stack's in IAM.
func (s *Stack) madeIn(kind string) Text { return iamARN(kind + s.Inputs.Path + s.Inputs.Name + "-*") }
