package account

// cluster makes the cluster, with ECS Exec encrypted and logged.
func (s *Stack) cluster() {
	insights := "disabled"
	if s.Inputs.Insights {
		insights = "enabled"
	}
	cluster := Object{
		{"ClusterName", s.Inputs.Name},
		{"ClusterSettings", List{Object{{"Name", "containerInsights"}, {"Value", insights}}}},
		{"Configuration", Object{{"ExecuteCommandConfiguration", s.exec()}}},
	}
	if s.Inputs.Spot {
		cluster = append(cluster, Member{"CapacityProviders", words("FARGATE", "FARGATE_SPOT")})
	}
	s.add("Cluster", "AWS::ECS::Cluster", cluster)
}

// exec is how ECS Exec works in the cluster. Where transcripts are encrypted, the agent in the task refuses a session unless it can see
// that they are, by permissions of the task role.
// Source: validate in amazon-ssm-agent, agent/session/shell/shell.go.
func (s *Stack) exec() Object {
	if !s.Inputs.ExecLogs {
		return Object{{"KmsKeyId", s.keyARN()}, {"Logging", "NONE"}} // DEFAULT means the task definition's log group
	}
	return Object{
		{"KmsKeyId", s.keyARN()},
		{"Logging", "OVERRIDE"},
		{"LogConfiguration", Object{
			{"CloudWatchLogGroupName", Ref("ExecLog")},
			{"CloudWatchEncryptionEnabled", true},
			{"S3BucketName", Ref("AuditBucket")},
			{"S3EncryptionEnabled", true},
			{"S3KeyPrefix", "exec"},
		}},
	}
}

// volumes are the places that a bastion writes to: bastiond's control socket, and the ECS Exec agent's.
var volumes = []struct{ name, path string }{
	{"control", "/run/bastiond"},
	{"managed-agents", "/managed-agents"},
	{"ssm-lib", "/var/lib/amazon/ssm"},
	{"ssm-log", "/var/log/amazon/ssm"},
}

// classes makes the task definition of each class, the policy of its people, and the service of a shared one.
func (s *Stack) classes() {
	for _, c := range s.Inputs.Classes {
		s.add("TaskDefinition"+title(c.Name), "AWS::ECS::TaskDefinition", s.taskDefinition(c))
		policy := Object{
			{"Description", "Start and use bastions of one's own: " + s.family(c)},
			{"Path", s.Inputs.Path},
			{"PolicyDocument", s.peoplePolicy(c).document()},
		}
		if c.Shared > 0 {
			policy[0].Value = "Use the shared bastion: " + s.family(c)
		}
		if len(c.Roles) > 0 {
			policy = append(policy, Member{"Roles", words(c.Roles...)})
		}
		s.add("UserPolicy"+title(c.Name), "AWS::IAM::ManagedPolicy", policy)
		if c.Shared > 0 {
			s.service(c)
		}
	}
}

// environment are the variables of a class's tasks. ECS would start a shared task anew that ended for want of clients.
func (s *Stack) environment(c Class) List {
	variables := List{Object{{"Name", "BASTIOND_ALLOW"}, {"Value", Ref(paramAllow + title(c.Name))}}}
	if c.Shared > 0 {
		variables = append(variables, Object{{"Name", "BASTIOND_IDLE_STOP"}, {"Value", "0"}})
	}
	return variables
}

func (s *Stack) taskDefinition(c Class) Object {
	var places, mounts List
	for _, v := range volumes {
		places = append(places, Object{{"Name", v.name}})
		mounts = append(mounts, Object{{"SourceVolume", v.name}, {"ContainerPath", v.path}})
	}
	container := Object{
		{"Name", "bastion"},
		{"Image", Text{Attr{"Repository", "RepositoryUri"}, ":", Ref(paramImage + title(c.Name))}},
		{"Essential", true},
		{"User", "65532:65532"},
		{"ReadonlyRootFilesystem", true},
		{"StopTimeout", 30}, // longer than bastiond's drain
		{"LinuxParameters", Object{{"Capabilities", Object{{"Drop", words("ALL")}}}, {"InitProcessEnabled", true}}}, // docs/adr/0021
		{"Environment", s.environment(c)},
		{"HealthCheck", Object{
			{"Command", words("CMD", "/bastiond", "healthcheck")},
			{"Interval", 30},
			{"Timeout", 5},
			{"Retries", 3},
			{"StartPeriod", 5},
		}},
		{"MountPoints", mounts},
		{"LogConfiguration", Object{{"LogDriver", "awslogs"}, {"Options", Object{
			{"awslogs-group", Ref("AuditLog")},
			{"awslogs-region", Region},
			{"awslogs-stream-prefix", "task"},
			{"mode", "blocking"}, // rather than lose an audit line
		}}}},
	}
	if secrets := s.secrets(); len(secrets) > 0 {
		container = append(container, Member{"Secrets", secrets})
	}
	return Object{
		{"Family", s.family(c)},
		{"RequiresCompatibilities", words("FARGATE")},
		{"NetworkMode", "awsvpc"},
		{"Cpu", decimal(s.Inputs.CPU)},
		{"Memory", decimal(s.Inputs.Memory)},
		{"RuntimePlatform", Object{{"CpuArchitecture", s.Inputs.Architecture}, {"OperatingSystemFamily", "LINUX"}}},
		{"TaskRoleArn", roleARN(s.Inputs.TaskRole, "TaskRole")},
		{"ExecutionRoleArn", roleARN(s.Inputs.ExecutionRole, "ExecutionRole")},
		{"ContainerDefinitions", List{container}},
		{"Volumes", places},
	}
}
