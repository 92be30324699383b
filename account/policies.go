package account

import "slices"

// Policy is a policy document of IAM.
type Policy []Statement

// Statement is a statement of a policy. An empty effect is Allow. Principal is empty in policies of roles and people.
type Statement struct {
	Sid, Effect string
	Principal   Object
	Action      []string
	Resource    List
	Condition   Object
}

// document is the policy as AWS takes it.
func (p Policy) document() Object {
	statements := make(List, 0, len(p))
	for _, s := range p {
		effect := s.Effect
		if effect == "" {
			effect = "Allow"
		}
		o := Object{{"Sid", s.Sid}, {"Effect", effect}}
		if len(s.Principal) > 0 {
			o = append(o, Member{"Principal", s.Principal})
		}
		o = append(o, Member{"Action", single(words(s.Action...))})
		if len(s.Resource) > 0 {
			o = append(o, Member{"Resource", single(s.Resource)})
		}
		if len(s.Condition) > 0 {
			o = append(o, Member{"Condition", s.Condition})
		}
		statements = append(statements, o)
	}
	return Object{{"Version", "2012-10-17"}, {"Statement", statements}}
}

// single is the list, or its element if it has just one.
func single(l List) any {
	if len(l) == 1 {
		return l[0]
	}
	return l
}

// roles makes the roles of the tasks, unless there are some.
func (s *Stack) roles() {
	if s.Inputs.ExecutionRole == "" {
		s.role("ExecutionRole", "what ECS does to start a bastion", s.executionRole())
	}
	if s.Inputs.TaskRole == "" {
		s.role("TaskRole", "what a bastion does", s.taskRole())
	}
}

func (s *Stack) role(id, description string, policy Policy) {
	role := Object{
		{"Description", s.Inputs.Name + ": " + description},
		{"Path", s.Inputs.Path},
		{"AssumeRolePolicyDocument", tasksOfThisAccount().document()},
		{"Policies", List{Object{{"PolicyName", s.Inputs.Name}, {"PolicyDocument", policy.document()}}}},
	}
	if s.Inputs.Boundary != "" {
		role = append(role, Member{"PermissionsBoundary", s.Inputs.Boundary})
	}
	s.add(id, "AWS::IAM::Role", role)
}

// tasksOfThisAccount is who may assume the two roles.
func tasksOfThisAccount() Policy {
	return Policy{{
		Sid: "TasksOfThisAccount", Principal: Object{{"Service", "ecs-tasks.amazonaws.com"}}, Action: []string{"sts:AssumeRole"},
		Condition: Object{
			{"StringEquals", Object{{"aws:SourceAccount", Account}}},
			{"ArnLike", Object{{"aws:SourceArn", arn("ecs", "*")}}},
		},
	}}
}

// executionRole is what ECS does to start a task: pull the image, write the audit log, read the secrets.
func (s *Stack) executionRole() Policy {
	policy := Policy{
		{Sid: "RegistryToken", Action: []string{"ecr:GetAuthorizationToken"}, Resource: List{"*"}},
		{
			Sid:      "PullTheImage",
			Action:   []string{"ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"},
			Resource: List{arn("ecr", "repository/"+s.Inputs.Name)},
		},
		{
			Sid: "WriteTheAuditLog", Action: []string{"logs:CreateLogStream", "logs:PutLogEvents"},
			Resource: List{arn("logs", "log-group:"+s.logGroup()+":log-stream:*")},
		},
	}
	var secrets, keys []string
	for _, secret := range s.Inputs.Secrets {
		secrets = append(secrets, secret.ARN)
		if secret.Key != "" {
			keys = append(keys, secret.Key)
		}
	}
	unique := func(arns []string) List { return words(slices.Compact(slices.Sorted(slices.Values(arns)))...) }
	if len(secrets) > 0 {
		policy = append(policy, Statement{Sid: "ReadTheSecrets", Action: []string{"secretsmanager:GetSecretValue"}, Resource: unique(secrets)})
	}
	if len(keys) > 0 {
		policy = append(policy, Statement{
			Sid: "DecryptTheSecrets", Action: []string{"kms:Decrypt"}, Resource: unique(keys),
			Condition: Object{{"StringEquals", Object{{"kms:ViaService", Text{"secretsmanager.", Region, ".", URLSuffix}}}}},
		})
	}
	return policy
}

// taskRole is what the task does, which is what ECS Exec's agent in it does: its channels, the data keys of its sessions, its log.
func (s *Stack) taskRole() Policy {
	policy := Policy{
		{
			Sid: "ExecAgentChannels",
			Action: []string{
				"ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel",
				"ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel",
			},
			Resource: List{"*"},
		},
		{
			Sid: "DecryptExecKeys", Action: []string{"kms:Decrypt"}, Resource: List{s.keyARN()},
			Condition: s.sessionsOfTheCluster(),
		},
	}
	if s.Inputs.ExecLogs {
		policy = append(policy, s.writeExecLogs()...)
	}
	return policy
}

// writeExecLogs is what the agent in the task needs to write its transcripts, and to see first that they will be encrypted.
func (s *Stack) writeExecLogs() Policy {
	return Policy{
		{Sid: "FindTheExecLog", Action: []string{"logs:DescribeLogGroups"}, Resource: List{"*"}},
		{Sid: "SeeTheExecLog", Action: []string{"logs:DescribeLogStreams"}, Resource: List{arn("logs", "log-group:"+s.execGroup()+":*")}},
		{
			Sid: "WriteTheExecLog", Action: []string{"logs:CreateLogStream", "logs:PutLogEvents"},
			Resource: List{arn("logs", "log-group:"+s.execGroup()+":log-stream:*")},
		},
		{Sid: "SeeThatTheBucketEncrypts", Action: []string{"s3:GetEncryptionConfiguration"}, Resource: List{Attr{"AuditBucket", "Arn"}}},
		{Sid: "WriteToTheBucket", Action: []string{"s3:PutObject"}, Resource: List{Text{Attr{"AuditBucket", "Arn"}, "/exec/*"}}},
		{
			Sid: "EncryptInTheBucket", Action: []string{"kms:GenerateDataKey"}, Resource: List{s.keyARN()},
			Condition: Object{{"StringEquals", Object{{"kms:ViaService", Text{"s3.", Region, ".", URLSuffix}}}}},
		},
	}
}

// sessionsOfTheCluster is the encryption context of ECS Exec's sessions to the cluster's tasks.
func (s *Stack) sessionsOfTheCluster() Object {
	return Object{{"StringLike", Object{{"kms:EncryptionContext:aws:ssm:TargetId", "ecs:" + s.Inputs.Name + "_*"}}}}
}

// userID is the caller in a policy: AROA...:SESSION-NAME of a role, AIDA... of a user.
const userID = "${aws:userid}"

// sharedConfiguration is the parameter with the configuration of bastion that people without a file use, whatever the stack's name.
var sharedConfiguration = arn("ssm", "parameter/bastion/config")

// ownerTag is the tag by which a task belongs to somebody.
const ownerTag = "bastion:owner"

// peoplePolicy is what a person of a class may do.
func (s *Stack) peoplePolicy(c Class) Policy {
	if c.Shared > 0 {
		return s.sharedPolicy(c)
	}
	return s.userPolicy(c)
}

// userPolicy is what a person may do with a class: start a bastion of their own, and use, see and stop no other's.
func (s *Stack) userPolicy(c Class) Policy {
	cluster, tasks := arn("ecs", "cluster/"+s.Inputs.Name), arn("ecs", "task/"+s.Inputs.Name+"/*")
	own := Member{"aws:ResourceTag/" + ownerTag, userID}
	inCluster := Member{"ArnEquals", Object{{"ecs:cluster", cluster}}}
	start := Policy{
		{
			Sid: "StartABastion", Action: []string{"ecs:RunTask"}, Resource: List{arn("ecs", "task-definition/"+s.family(c)+":*")},
			Condition: s.unshared(Object{
				inCluster, {"StringEquals", Object{{"ecs:enable-execute-command", "true"}, {"aws:RequestTag/" + ownerTag, userID}}},
			}),
		},
		{
			Sid: "MarkItAsOwn", Action: []string{"ecs:TagResource"}, Resource: List{tasks},
			Condition: s.unshared(Object{{"StringEquals", Object{{"ecs:CreateAction", "RunTask"}, {"aws:RequestTag/" + ownerTag, userID}}}}),
		},
		{
			Sid: "GiveItItsRoles", Action: []string{"iam:PassRole"},
			Resource:  List{roleARN(s.Inputs.ExecutionRole, "ExecutionRole"), roleARN(s.Inputs.TaskRole, "TaskRole")},
			Condition: Object{{"StringEquals", Object{{"iam:PassedToService", "ecs-tasks.amazonaws.com"}}}},
		},
	}
	use := Policy{
		{Sid: "ListTheTasks", Action: []string{"ecs:ListTasks"}, Resource: List{"*"}, Condition: Object{inCluster}},
		{
			Sid: "SeeAndStopOwn", Action: []string{"ecs:DescribeTasks", "ecs:StopTask"}, Resource: List{tasks},
			Condition: Object{inCluster, {"StringEquals", Object{own}}},
		},
		{Sid: "HandOverAGrantInTheCluster", Action: []string{"ecs:ExecuteCommand"}, Resource: List{cluster}},
		{
			Sid: "HandOverAGrantToOwn", Action: []string{"ecs:ExecuteCommand"}, Resource: List{tasks},
			Condition: Object{{"StringEquals", Object{own, {"ecs:container-name", "bastion"}}}},
		},
		{
			Sid: "OpenSessionsToOwn", Action: []string{"ssm:StartSession"}, Resource: List{tasks},
			Condition: Object{{"StringEquals", Object{own}}, {"BoolIfExists", Object{{"ssm:SessionDocumentAccessCheck", "true"}}}},
		},
	}
	return append(append(append(start, use...), s.sessionStatements()...), append(s.diagnosis(cluster), s.diagnosisOfOwn()...)...)
}

// diagnosis is what bastion doctor reads besides. Without it the doctor works, and says what it cannot see.
func (s *Stack) diagnosis(cluster any) Policy {
	return Policy{
		{Sid: "DiagnoseTheCluster", Action: []string{"ecs:DescribeClusters"}, Resource: List{cluster}},
		{Sid: "DiagnoseSessions", Action: []string{"ssm:GetDocument"}, Resource: List{arn("ssm", "document/SSM-SessionManagerRunShell")}},
	}
}

// diagnosisOfOwn is what it reads besides for people who start the tasks: how a task reaches AWS, and what its roles may do.
func (s *Stack) diagnosisOfOwn() Policy {
	return Policy{
		{Sid: "DiagnoseTheNetwork", Action: []string{"ec2:DescribeRouteTables", "ec2:DescribeVpcEndpoints"}, Resource: List{"*"}},
		{
			Sid: "DiagnoseTheRoles", Action: []string{"iam:SimulatePrincipalPolicy"},
			Resource: List{roleARN(s.Inputs.ExecutionRole, "ExecutionRole"), roleARN(s.Inputs.TaskRole, "TaskRole")},
		},
	}
}

// sessionStatements are a user's permissions that name sessions, keys and what exists, not tasks.
func (s *Stack) sessionStatements() Policy {
	document := func(name string) Text { return Text{"arn:", Partition, ":ssm:", Region, "::document/" + name} }
	return append(Policy{
		{
			Sid: "BySessionDocumentsForPorts", Action: []string{"ssm:StartSession"},
			Resource: List{document("AWS-StartPortForwardingSession"), document("AWS-StartSSHSession")},
		},
		{Sid: "CarryOwnSessions", Action: []string{"ssmmessages:OpenDataChannel"}, Resource: List{arn("ssm", "session/"+userID+"-*")}},
		{
			Sid: "ResumeAndEndOwnSessions", Action: []string{"ssm:ResumeSession", "ssm:TerminateSession"}, Resource: List{arn("ssm", "session/*")},
			Condition: Object{{"StringEquals", Object{{"ssm:resourceTag/aws:ssmmessages:session-id", userID}}}},
		},
		{
			Sid: "MakeExecKeys", Action: []string{"kms:GenerateDataKey"}, Resource: List{s.keyARN()},
			Condition: s.sessionsOfTheCluster(),
		},
		{
			Sid: "CompareTasksAndChooseTheNetwork",
			Action: []string{
				"ec2:DescribeNetworkInterfaces", "ec2:DescribeSecurityGroups", "ec2:DescribeSubnets", "ec2:DescribeVpcs",
				"ecs:DescribeTaskDefinition",
			},
			Resource: List{"*"},
		},
		{Sid: "ReadTheSharedConfiguration", Action: []string{"ssm:GetParameter"}, Resource: List{sharedConfiguration}},
	}, lookUps()...)
}

// lookUps are a user's permissions to look up targets. Package targets has the calls. ECS's tasks are not among them: a user reads no
// other's, and what reads those of other clusters is for the operator to add (docs/targets.md).
func lookUps() Policy {
	return Policy{
		{ // one statement, and one resource for each service: IAM bounds a policy's length
			Sid: "LookUpTargets",
			Action: []string{
				"eks:DescribeCluster", "elasticache:DescribeCacheClusters", "elasticache:DescribeReplicationGroups",
				"elasticache:DescribeServerlessCaches", "es:DescribeDomains", "memorydb:DescribeClusters", "rds:DescribeDBClusters",
				"rds:DescribeDBInstances", "rds:DescribeDBProxies", "rds:DescribeDBProxyEndpoints", "redshift-serverless:GetWorkgroup",
				"redshift:DescribeClusters", "servicediscovery:DiscoverInstances",
			},
			Resource: List{
				arn("eks", "cluster/*"), arn("elasticache", "*"), arn("es", "domain/*"), arn("memorydb", "cluster/*"), arn("rds", "*"),
				arn("redshift-serverless", "workgroup/*"), arn("redshift", "cluster:*"), arn("servicediscovery", "*"),
			},
		},
		{ // AWS has no resources for these
			Sid: "ListTargets",
			Action: []string{
				"aoss:BatchGetCollection", "aoss:BatchGetVpcEndpoint", "aoss:ListCollections", "aoss:ListVpcEndpoints", "ec2:DescribeInstances",
				"ecs:ListClusters", "ecs:ListServices", "eks:ListClusters", "elasticloadbalancing:DescribeListeners",
				"elasticloadbalancing:DescribeLoadBalancers", "es:ListDomainNames", "kafka:GetBootstrapBrokers", "kafka:ListClustersV2", "redshift-serverless:ListWorkgroups",
				"servicediscovery:ListNamespaces", "servicediscovery:ListServices",
			},
			Resource: List{"*"},
		},
	}
}
