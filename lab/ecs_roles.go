package lab

import (
	"cmp"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// addStack makes the cluster and the task definition of the template. env and deny are for tasks of that definition. Its allow-list is a
// parameter, for which tasks get the lab's. How long a task has to stop, and whether ECS Exec is encrypted, is for the lab to say.
func (e *ecs) addStack(env map[string]string, deny []string) error {
	var cluster struct {
		ClusterName   string
		Tags          []ecsTag
		Configuration struct {
			ExecuteCommandConfiguration struct {
				Logging          string
				LogConfiguration struct{ CloudWatchLogGroupName, S3BucketName, S3KeyPrefix string }
			}
		}
	}
	var def struct {
		Family                        string
		Cpu, Memory                   string
		TaskRoleArn, ExecutionRoleArn string
		Tags                          []ecsTag
		ContainerDefinitions          []struct {
			Name, Image            string
			ReadonlyRootFilesystem bool
			MountPoints            []struct{ ContainerPath string }
			LinuxParameters        struct {
				Capabilities       struct{ Drop []string }
				InitProcessEnabled bool
			}
			Environment      []ecsKeyValue
			Secrets          []struct{ Name, ValueFrom string }
			LogConfiguration struct{ Options map[string]string }
		}
	}
	if err := e.stack.read("Cluster", &cluster); err != nil {
		return err
	}
	if err := e.stack.read("TaskDefinition", &def); err != nil {
		return err
	}
	if len(def.ContainerDefinitions) != 1 {
		return fmt.Errorf("the template's task definition has %d containers, want 1", len(def.ContainerDefinitions))
	}
	container := def.ContainerDefinitions[0]
	d := TaskDefinition{
		Family: def.Family, Container: container.Name, Image: container.Image, Env: definitionEnv(container.Environment, env), RoleDeny: deny, tags: def.Tags,
		logGroup: container.LogConfiguration.Options["awslogs-group"],
	}
	d.ReadOnlyRoot, d.NoInit = container.ReadonlyRootFilesystem, !container.LinuxParameters.InitProcessEnabled
	d.DropCapabilities = container.LinuxParameters.Capabilities.Drop
	for _, m := range container.MountPoints {
		d.Mounts = append(d.Mounts, m.ContainerPath)
	}
	for _, s := range container.Secrets {
		d.secrets = append(d.secrets, e.stack.secret(s.Name, s.ValueFrom))
		d.Env[s.Name] = d.secrets[len(d.secrets)-1].value()
	}
	d.roles.task, d.roles.execution = def.TaskRoleArn, def.ExecutionRoleArn
	var err error
	if d.CPU, err = strconv.Atoi(def.Cpu); err == nil {
		d.Memory, err = strconv.Atoi(def.Memory)
	}
	if err != nil {
		return fmt.Errorf("the template's task definition: %w", err)
	}
	exec := cluster.Configuration.ExecuteCommandConfiguration
	e.addCluster(cluster.ClusterName, clusterState{tags: cluster.Tags, logging: exec.Logging, transcripts: transcripts{
		exec.LogConfiguration.CloudWatchLogGroupName, exec.LogConfiguration.S3BucketName, exec.LogConfiguration.S3KeyPrefix,
	}})
	e.addDefinition(d)
	return nil
}

// definitionEnv are the variables of the template's task definition, but for the list, for which tasks get the lab's.
func definitionEnv(template []ecsKeyValue, own map[string]string) map[string]string {
	env := make(map[string]string)
	for _, kv := range template {
		if !strings.HasPrefix(kv.Name, "BASTIOND_ALLOW") {
			env[kv.Name] = kv.Value
		}
	}
	maps.Copy(env, own)
	return env
}

// role returns the ARN of a task's role.
func (t *task) role() string { return cmp.Or(t.overrides.TaskRoleArn, t.def.taskRole()) }

// taskIdentity is a task's role, with whose credentials the exec agent in the task calls AWS.
func (e *ecs) taskIdentity(t *task) *awsapi.Identity {
	id := e.roleIdentity(t.role(), t.id)
	id.Deny = t.def.RoleDeny
	return id
}

// roleIdentity is a session of a role.
func (e *ecs) roleIdentity(role, session string) *awsapi.Identity {
	return &awsapi.Identity{
		Name: session, ARN: e.roleARN(role, session),
		UserID: "AROALABLABLABLABLABLA:" + session, Account: e.account,
		Policies: e.permissions.role(role, e.stack), Ledger: &e.permissions.ledger,
	}
}

// roleARN is the ARN of a session of a role.
func (e *ecs) roleARN(role, session string) string {
	return e.iamARN("sts", "assumed-role/"+lastOf(role)+"/"+session)
}

// mayListen reports whether the task role lets the exec agent wait for sessions.
func (e *ecs) mayListen(t *task) bool {
	return allowsAll(e.taskIdentity(t), "ssmmessages:CreateControlChannel", "ssmmessages:OpenControlChannel")
}

// mayOpenChannels reports whether the task role lets the agent take part in a session.
func (e *ecs) mayOpenChannels(t *task) bool {
	return allowsAll(e.taskIdentity(t), "ssmmessages:CreateDataChannel", "ssmmessages:OpenDataChannel")
}

func allowsAll(id *awsapi.Identity, actions ...string) bool {
	for _, a := range actions {
		if id.Authorize(awsapi.JSON, awsapi.Access{Action: a, Resource: "*"}) != nil {
			return false
		}
	}
	return true
}

// pull asks the execution role for what ECS does before a task's program starts. It returns why the task stops, or "".
func (e *ecs) pull(t *task) string {
	role := e.roleIdentity(cmp.Or(t.overrides.ExecutionRoleArn, t.def.executionRole()), t.id)
	if why := e.readSecrets(role, t.def.secrets); why != "" {
		return why
	}
	_, repository, _ := strings.Cut(t.def.Image, "/")
	repository, _, _ = strings.Cut(repository, ":")
	pull := []awsapi.Access{{Action: "ecr:GetAuthorizationToken", Resource: "*"}}
	for _, a := range []string{"ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer"} {
		pull = append(pull, awsapi.Access{Action: a, Resource: e.arn("ecr", "repository/"+repository)})
	}
	if err := role.Authorize(awsapi.JSON, pull...); err != nil {
		return "CannotPullContainerError: " + err.Error()
	}
	if t.def.logGroup == "" {
		return ""
	}
	stream := e.arn("logs", "log-group:"+t.def.logGroup+":log-stream:task/"+t.def.Container+"/"+t.id)
	err := role.Authorize(awsapi.JSON,
		awsapi.Access{Action: "logs:CreateLogStream", Resource: stream}, awsapi.Access{Action: "logs:PutLogEvents", Resource: stream})
	if err != nil {
		return "ResourceInitializationError: failed to validate logger args: create stream has been retried 1 times: " +
			"failed to create Cloudwatch log stream: " + err.Error()
	}
	return ""
}
