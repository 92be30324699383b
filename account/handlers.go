package account

import "slices"

// handler has the permissions that CloudFormation's handlers of a type need for the stack. Those that a handler's schema lists for
// properties which no stack has are left out; account/testdata/handlers.json has all, and a test compares.
type handler struct {
	kind       string // type
	statements func(*Stack) Policy
}

// All together would be too long for a managed policy.
var (
	handlers = []handler{
		{"AWS::KMS::Key", keyHandler},
		{"AWS::Logs::LogGroup", logHandler}, // and their metric filters
		{"AWS::ECR::Repository", repositoryHandler},
		{"AWS::ECS::Cluster", clusterHandler}, // and its task definitions
		{"AWS::ECS::Service", serviceHandler},
	}
	roleHandlers = []handler{
		{"AWS::IAM::Role", roleHandler},
		{"AWS::IAM::ManagedPolicy", policyHandler},
		{"AWS::S3::Bucket", bucketHandler}, // here there is room for it
	}
	networkHandlers = []handler{
		{"AWS::EC2::SecurityGroup", groupHandler},
		{"AWS::EC2::SecurityGroupIngress", ingressHandler},
		{"AWS::EC2::VPCEndpoint", endpointHandler},
		{"AWS::SNS::Topic", alarmHandler}, // and who may write to it, alarms and rules
		{"AWS::SNS::Subscription", subscriptionHandler},
	}
)

func keyHandler(s *Stack) Policy {
	keys := arn("kms", "key/*")
	ours := Object{{"StringEquals", Object{{"aws:ResourceTag/bastion", "true"}}}}
	return Policy{
		{
			Sid: "MakeTheKey", Action: []string{"kms:CreateKey"}, Resource: List{"*"},
			Condition: Object{{"StringEquals", Object{{"aws:RequestTag/bastion", "true"}}}},
		},
		{Sid: "TagTheKey", Action: []string{"kms:TagResource"}, Resource: List{keys}},
		{
			Sid: "ChangeTheKey",
			Action: []string{
				"kms:CreateAlias", "kms:CreateGrant", "kms:DeleteAlias", "kms:DescribeKey", "kms:DisableKey", "kms:EnableKey",
				"kms:EnableKeyRotation", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus", "kms:ListResourceTags", "kms:PutKeyPolicy",
				"kms:RetireGrant", "kms:ScheduleKeyDeletion", "kms:UntagResource", "kms:UpdateAlias", "kms:UpdateKeyDescription",
			},
			Resource: List{keys}, Condition: ours,
		},
		{
			Sid: "NameTheKey", Action: []string{"kms:CreateAlias", "kms:DeleteAlias", "kms:UpdateAlias"},
			Resource: List{arn("kms", "alias/"+s.Inputs.Name)},
		},
		{Sid: "FindTheName", Action: []string{"kms:ListAliases"}, Resource: List{"*"}},
	}
}

func logHandler(s *Stack) Policy {
	return Policy{
		{
			Sid: "TheLogs",
			Action: []string{
				"logs:AssociateKmsKey", "logs:CreateLogGroup", "logs:DeleteLogGroup", "logs:DeleteMetricFilter", "logs:DeleteRetentionPolicy",
				"logs:DescribeMetricFilters", "logs:DisassociateKmsKey", "logs:GetDataProtectionPolicy", "logs:ListTagsForResource",
				"logs:PutMetricFilter", "logs:PutRetentionPolicy", "logs:TagResource", "logs:UntagResource",
			},
			Resource: List{
				arn("logs", "log-group:"+s.logGroup()), arn("logs", "log-group:"+s.logGroup()+":*"),
				arn("logs", "log-group:"+s.execGroup()+":*"),
			},
		},
		{
			Sid: "SeeTheLogs", Action: []string{"logs:DescribeIndexPolicies", "logs:DescribeLogGroups", "logs:DescribeResourcePolicies"},
			Resource: List{"*"},
		},
	}
}

func bucketHandler(s *Stack) Policy {
	return Policy{{
		Sid: "TheBucketOfTranscripts",
		Action: []string{
			"s3:CreateBucket", "s3:DeleteBucket", "s3:DeleteBucketPolicy", "s3:GetAccelerateConfiguration", "s3:GetAnalyticsConfiguration",
			"s3:GetBucketAbac", "s3:GetBucketAcl", "s3:GetBucketCORS", "s3:GetBucketLogging", "s3:GetBucketMetadataTableConfiguration",
			"s3:GetBucketNotification", "s3:GetBucketObjectLockConfiguration", "s3:GetBucketOwnershipControls", "s3:GetBucketPolicy",
			"s3:GetBucketPublicAccessBlock", "s3:GetBucketTagging", "s3:GetBucketVersioning", "s3:GetBucketWebsite",
			"s3:GetEncryptionConfiguration", "s3:GetIntelligentTieringConfiguration", "s3:GetInventoryConfiguration",
			"s3:GetLifecycleConfiguration", "s3:GetMetricsConfiguration", "s3:GetReplicationConfiguration", "s3:ListBucket",
			"s3:ListTagsForResource", "s3:PutBucketOwnershipControls", "s3:PutBucketPolicy", "s3:PutBucketPublicAccessBlock",
			"s3:PutBucketTagging", "s3:PutBucketVersioning", "s3:PutEncryptionConfiguration", "s3:PutLifecycleConfiguration",
			"s3:TagResource", "s3:UntagResource",
		},
		Resource: List{Text{"arn:", Partition, ":s3:::" + s.Inputs.Name + "-auditbucket-*"}},
	}}
}

func repositoryHandler(s *Stack) Policy {
	policy := Policy{{
		Sid: "TheRepository",
		Action: []string{
			"ecr:CreateRepository", "ecr:DeleteLifecyclePolicy", "ecr:DeleteRepository", "ecr:DescribeRepositories", "ecr:GetLifecyclePolicy",
			"ecr:GetRepositoryPolicy", "ecr:ListTagsForResource", "ecr:PutImageScanningConfiguration", "ecr:PutImageTagMutability",
			"ecr:PutLifecyclePolicy", "ecr:TagResource", "ecr:UntagResource",
		},
		Resource: List{arn("ecr", "repository/"+s.Inputs.Name)},
	}}
	if s.Inputs.Key != "" {
		policy = append(policy, Statement{
			Sid: "EncryptTheImages", Action: []string{"kms:CreateGrant", "kms:DescribeKey", "kms:RetireGrant"}, Resource: List{s.Inputs.Key},
		})
	}
	return policy
}

func clusterHandler(s *Stack) Policy {
	var families, roles List
	for _, c := range s.Inputs.Classes {
		families = append(families, arn("ecs", "task-definition/"+s.family(c)+":*"))
	}
	for _, given := range []string{s.Inputs.ExecutionRole, s.Inputs.TaskRole} {
		if given != "" {
			roles = append(roles, given)
		}
	}
	if len(roles) < 2 {
		roles = append(roles, s.madeIn("role"))
	}
	cluster := arn("ecs", "cluster/"+s.Inputs.Name)
	return Policy{
		{
			Sid: "TheCluster",
			Action: []string{
				"ecs:CreateCluster", "ecs:DeleteCluster", "ecs:DescribeClusters", "ecs:PutClusterCapacityProviders", "ecs:UpdateCluster",
				"ecs:UpdateClusterSettings",
			},
			Resource: List{cluster},
		},
		{Sid: "TheTaskDefinitions", Action: []string{"ecs:RegisterTaskDefinition"}, Resource: families},
		{
			Sid: "TagsOfBoth", Action: []string{"ecs:ListTagsForResource", "ecs:TagResource", "ecs:UntagResource"},
			Resource: append(List{cluster}, families...),
		},
		{Sid: "SeeTaskDefinitions", Action: []string{"ecs:DeregisterTaskDefinition", "ecs:DescribeTaskDefinition"}, Resource: List{"*"}},
		{
			Sid: "RolesOfTheTasks", Action: []string{"iam:PassRole"}, Resource: roles,
			Condition: Object{{"StringEquals", Object{{"iam:PassedToService", "ecs-tasks.amazonaws.com"}}}},
		},
		{
			Sid: "RoleOfECS", Action: []string{"iam:CreateServiceLinkedRole"},
			Resource:  List{iamARN("role/aws-service-role/ecs.amazonaws.com/AWSServiceRoleForECS*")},
			Condition: Object{{"StringEquals", Object{{"iam:AWSServiceName", "ecs.amazonaws.com"}}}},
		},
	}
}

func roleHandler(s *Stack) Policy {
	roles := s.madeIn("role")
	grant := Statement{ // what a role may do: with the boundary, if there is one
		Sid: "MakeRoles", Action: []string{"iam:CreateRole", "iam:PutRolePolicy"}, Resource: List{roles},
	}
	if s.Inputs.Boundary != "" {
		grant.Action = append(grant.Action, "iam:PutRolePermissionsBoundary")
		grant.Condition = Object{{"ArnEquals", Object{{"iam:PermissionsBoundary", s.Inputs.Boundary}}}}
	}
	return Policy{grant, {
		Sid: "ChangeRoles",
		Action: []string{
			"iam:DeleteRole", "iam:DeleteRolePolicy", "iam:GetRole", "iam:GetRolePolicy", "iam:ListAttachedRolePolicies",
			"iam:ListRolePolicies", "iam:TagRole", "iam:UntagRole", "iam:UpdateAssumeRolePolicy", "iam:UpdateRole", "iam:UpdateRoleDescription",
		},
		Resource: List{roles},
	}}
}

func policyHandler(s *Stack) Policy {
	policies := s.madeIn("policy")
	var people List
	for _, c := range s.Inputs.Classes {
		for _, name := range c.Roles {
			people = append(people, iamARN("role/"+name), iamARN("role/*/"+name))
		}
	}
	return Policy{
		{
			Sid: "PoliciesOfPeople",
			Action: []string{
				"iam:CreatePolicy", "iam:CreatePolicyVersion", "iam:DeletePolicy", "iam:DeletePolicyVersion", "iam:GetPolicy",
				"iam:GetPolicyVersion", "iam:ListEntitiesForPolicy", "iam:ListPolicyVersions",
			},
			Resource: List{policies},
		},
		{
			Sid: "GiveThemToTheirRoles", Action: []string{"iam:AttachRolePolicy", "iam:DetachRolePolicy"}, Resource: people,
			Condition: Object{{"ArnLike", Object{{"iam:PolicyARN", policies}}}},
		},
	}
}

// groupHandler is for groups, whose names AWS makes up.
func groupHandler(s *Stack) Policy {
	groups := List{arn("ec2", "security-group/*")}
	return Policy{
		{
			Sid:      "MakeSecurityGroups",
			Action:   []string{"ec2:CreateSecurityGroup"},
			Resource: List{arn("ec2", "security-group/*"), s.vpcARN()},
		},
		{
			Sid:      "AdmitAndRevoke",
			Action:   []string{"ec2:AuthorizeSecurityGroupEgress", "ec2:AuthorizeSecurityGroupIngress"},
			Resource: List{arn("ec2", "security-group/*"), arn("ec2", "security-group-rule/*")},
		},
		{
			Sid: "ChangeSecurityGroups",
			Action: []string{
				"ec2:DeleteSecurityGroup", "ec2:RevokeSecurityGroupEgress", "ec2:RevokeSecurityGroupIngress",
				"ec2:UpdateSecurityGroupRuleDescriptionsEgress", "ec2:UpdateSecurityGroupRuleDescriptionsIngress",
			},
			Resource: groups,
		},
		{Sid: "TagSecurityGroups", Action: []string{"ec2:CreateTags", "ec2:DeleteTags"}, Resource: groups},
		{
			Sid: "SeeSecurityGroups", Action: []string{"ec2:DescribeInstances", "ec2:DescribeSecurityGroups"},
			Resource: List{"*"},
		},
	}
}

// ingressHandler is for the rules in groups of the databases, which the operator names.
func ingressHandler(s *Stack) Policy {
	var groups List
	for _, i := range s.Inputs.Ingress {
		group := arn("ec2", "security-group/"+i.Group)
		if !slices.ContainsFunc(groups, func(g any) bool { return slices.Equal(g.(Text), group) }) {
			groups = append(groups, group)
		}
	}
	return Policy{
		{
			Sid: "AdmitTasksToDatabases", Action: []string{"ec2:AuthorizeSecurityGroupIngress"},
			Resource: append(slices.Clip(groups), arn("ec2", "security-group-rule/*")),
		},
		{
			Sid:      "RevokeTheirAdmission",
			Action:   []string{"ec2:RevokeSecurityGroupIngress", "ec2:UpdateSecurityGroupRuleDescriptionsIngress"},
			Resource: groups,
		},
		{
			Sid: "SeeAdmissions", Action: []string{"ec2:DescribeSecurityGroupRules", "ec2:DescribeSecurityGroups"}, Resource: List{"*"},
		},
	}
}

// vpcARN is the stack's VPC, or any if the deployer gives it as a parameter.
func (s *Stack) vpcARN() Text {
	if s.Inputs.VPC == "" {
		return arn("ec2", "vpc/*")
	}
	return arn("ec2", "vpc/"+s.Inputs.VPC)
}

func endpointHandler(s *Stack) Policy {
	endpoints := arn("ec2", "vpc-endpoint/*")
	return Policy{
		{
			Sid: "MakeEndpoints", Action: []string{"ec2:CreateVpcEndpoint"},
			Resource: List{
				endpoints, s.vpcARN(), arn("ec2", "subnet/*"), arn("ec2", "security-group/*"), arn("ec2", "route-table/*"),
			},
		},
		{
			Sid: "ChangeEndpoints", Action: []string{"ec2:ModifyVpcEndpoint"},
			Resource: List{endpoints, arn("ec2", "subnet/*"), arn("ec2", "security-group/*"), arn("ec2", "route-table/*")},
		},
		{Sid: "EndAndTagEndpoints", Action: []string{"ec2:CreateTags", "ec2:DeleteTags", "ec2:DeleteVpcEndpoints"}, Resource: List{endpoints}},
		{
			Sid: "SeeEndpoints",
			Action: []string{
				"ec2:DescribeSubnets", "ec2:DescribeVpcEndpoints", "ec2:DescribeVpcs",
			},
			Resource: List{"*"},
		},
	}
}

func alarmHandler(s *Stack) Policy {
	return Policy{
		{
			Sid: "TheTopic",
			Action: []string{
				"sns:CreateTopic", "sns:DeleteTopic", "sns:GetDataProtectionPolicy", "sns:GetTopicAttributes", "sns:ListSubscriptionsByTopic",
				"sns:ListTagsForResource", "sns:SetTopicAttributes", "sns:Subscribe", "sns:TagResource", "sns:Unsubscribe", "sns:UntagResource",
			},
			Resource: List{s.made("sns", "")},
		},
		{
			Sid: "TheAlarms",
			Action: []string{
				"cloudwatch:DeleteAlarms", "cloudwatch:DescribeAlarms", "cloudwatch:ListTagsForResource", "cloudwatch:PutMetricAlarm",
				"cloudwatch:TagResource", "cloudwatch:UntagResource",
			},
			Resource: List{s.made("cloudwatch", "alarm:")},
		},
		{
			Sid: "TheRule",
			Action: []string{
				"events:DeleteRule", "events:DescribeRule", "events:ListTagsForResource", "events:ListTargetsByRule", "events:PutRule",
				"events:PutTargets", "events:RemoveTargets", "events:TagResource", "events:UntagResource",
			},
			Resource: List{s.made("events", "rule/")},
		},
	}
}

func subscriptionHandler(s *Stack) Policy {
	return Policy{{
		Sid: "TheSubscription", Action: []string{"sns:GetSubscriptionAttributes", "sns:SetSubscriptionAttributes"},
		Resource: List{s.made("sns", "")},
	}}
}
