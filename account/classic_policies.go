package account

// role makes the role of the instances.
func (c classic) role() {
	trust := Policy{{Sid: "Instances", Principal: Object{{"Service", "ec2.amazonaws.com"}}, Action: []string{"sts:AssumeRole"}}}
	role := Object{
		{"Description", c.in.Name + ": what the SSM agent of an instance does"},
		{"Path", c.in.Path},
		{"AssumeRolePolicyDocument", trust.document()},
		{"Policies", List{Object{{"PolicyName", c.in.Name}, {"PolicyDocument", c.instancePolicy().document()}}}},
	}
	if c.in.Boundary != "" {
		role = append(role, Member{"PermissionsBoundary", c.in.Boundary})
	}
	c.add("InstanceRole", "AWS::IAM::Role", role)
	c.add("InstanceProfile", "AWS::IAM::InstanceProfile", Object{{"Path", c.in.Path}, {"Roles", List{Ref("InstanceRole")}}})
}

// instancePolicy is what Session Manager needs of an instance: AmazonSSMManagedInstanceCore without parameters, documents and commands.
// Source: https://docs.aws.amazon.com/systems-manager/latest/userguide/getting-started-create-iam-instance-profile.html
func (c classic) instancePolicy() Policy {
	return Policy{
		{Sid: "BeAManagedNode", Action: []string{"ssm:UpdateInstanceInformation"}, Resource: List{arn("ec2", "instance/*")}},
		{
			Sid: "Channels",
			Action: []string{
				"ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel",
				"ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel",
			},
			Resource: List{"*"},
		},
		{Sid: "DecryptSessionKeys", Action: []string{"kms:Decrypt"}, Resource: List{c.keyARN()}},
		{Sid: "FindTheSessionLog", Action: []string{"logs:DescribeLogGroups"}, Resource: List{"*"}},
		{Sid: "SeeTheSessionLog", Action: []string{"logs:DescribeLogStreams"}, Resource: List{arn("logs", "log-group:"+c.sessionGroup()+":*")}},
		{
			Sid: "WriteTheSessionLog", Action: []string{"logs:CreateLogStream", "logs:PutLogEvents"},
			Resource: List{arn("logs", "log-group:"+c.sessionGroup()+":log-stream:*")},
		},
		{Sid: "SeeThatTheBucketEncrypts", Action: []string{"s3:GetEncryptionConfiguration"}, Resource: List{Attr{"AuditBucket", "Arn"}}},
		{Sid: "WriteToTheBucket", Action: []string{"s3:PutObject"}, Resource: List{Text{Attr{"AuditBucket", "Arn"}, "/sessions/*"}}},
		{
			Sid: "EncryptInTheBucket", Action: []string{"kms:GenerateDataKey"}, Resource: List{c.keyARN()},
			Condition: Object{{"StringEquals", Object{{"kms:ViaService", Text{"s3.", Region, ".", URLSuffix}}}}},
		},
	}
}

// people makes the policy of those who use the instances.
func (c classic) people() {
	policy := Object{
		{"Description", "Shells, SSH and forwards by the instances of " + c.in.Name},
		{"Path", c.in.Path},
		{"PolicyDocument", c.peoplePolicy().document()},
	}
	if len(c.in.Roles) > 0 {
		policy = append(policy, Member{"Roles", words(c.in.Roles...)})
	}
	c.add("UserPolicy", "AWS::IAM::ManagedPolicy", policy)
}

// instanceUser is who people are on an instance, by EC2 Instance Connect.
const instanceUser = "ec2-user"

func (c classic) peoplePolicy() Policy {
	document := func(name string) Text { return Text{"arn:", Partition, ":ssm:", Region, "::document/" + name} }
	instances := arn("ec2", "instance/*")
	return Policy{
		{
			Sid: "SessionsToTheInstances", Action: []string{"ssm:StartSession"}, Resource: List{instances},
			Condition: Object{{"StringEquals", Object{c.instanceTag()}}, {"BoolIfExists", Object{{"ssm:SessionDocumentAccessCheck", "true"}}}},
		},
		{
			Sid: "ByTheseDocuments", Action: []string{"ssm:StartSession"},
			Resource: List{arn("ssm", "document/"+c.in.Name+"-shell"), document("AWS-StartPortForwardingSession"), document("AWS-StartSSHSession")},
		},
		{
			Sid: "KeysForAMinute", Action: []string{"ec2-instance-connect:SendSSHPublicKey"}, Resource: List{instances},
			Condition: Object{{"StringEquals", Object{{"aws:ResourceTag/bastion:host", c.in.Name}, {"ec2:osuser", instanceUser}}}},
		},
		{Sid: "CarryOwnSessions", Action: []string{"ssmmessages:OpenDataChannel"}, Resource: List{arn("ssm", "session/"+userID+"-*")}},
		{
			Sid: "ResumeAndEndOwnSessions", Action: []string{"ssm:ResumeSession", "ssm:TerminateSession"}, Resource: List{arn("ssm", "session/*")},
			Condition: Object{{"StringEquals", Object{{"ssm:resourceTag/aws:ssmmessages:session-id", userID}}}},
		},
		{
			Sid: "MakeSessionKeys", Action: []string{"kms:GenerateDataKey"}, Resource: List{c.keyARN()},
			Condition: Object{{"StringLike", Object{{"kms:EncryptionContext:aws:ssm:TargetId", "i-*"}}}},
		},
		{Sid: "FindTheInstances", Action: []string{"ec2:DescribeInstances", "ssm:DescribeInstanceInformation"}, Resource: List{"*"}},
	}
}
