package lab

import (
	"context"
	"slices"

	"github.com/bastion-ssm/bastion/lab/awsapi"
	"github.com/bastion-ssm/bastion/lab/gateway"
)

type executeCommandInput struct {
	Cluster     string `json:"cluster"`
	Task        string `json:"task"`
	Container   string `json:"container"`
	Command     string `json:"command"`
	Interactive *bool  `json:"interactive"`
}

type ecsSession struct {
	SessionID  string `json:"sessionId"`
	StreamURL  string `json:"streamUrl"`
	TokenValue string `json:"tokenValue"`
}

func (e *ecs) executeCommand(_ context.Context, c *awsapi.Call, in *executeCommandInput) (any, error) {
	cluster, err := e.cluster(in.Cluster)
	if err != nil {
		return nil, err
	}
	if in.Command == "" {
		return nil, invalidParameter("Command cannot be empty.")
	}
	if in.Interactive == nil || !*in.Interactive {
		return nil, invalidParameter("Interactive is the only mode supported currently.")
	}
	t := e.find(cluster, in.Task)
	if t == nil {
		return nil, invalidParameter("The referenced task was not found.")
	}
	if in.Container != "" && in.Container != t.def.Container {
		return nil, invalidParameter("The container %s was not found in the task.", in.Container)
	}
	if err := e.execReady(t); err != nil {
		return nil, err
	}
	s, err := e.sessions.start(c.Identity, "ecs-execute-command", gateway.Spec{
		Document: gateway.DocECSExec, Target: t.target(), Command: in.Command, Node: e.sessions.gw.HasNode(t.target()), Owner: c.Identity.ARN,
		Dial: t.container.Dial, Exec: e.transcribed(t), Machine: t.machine, KMSKeyID: e.kmsKey, Decrypt: e.decryptAs(t),
		NoAgent: !e.mayOpenChannels(t),
	})
	if err != nil {
		return nil, err
	}
	type output struct {
		ClusterArn    string     `json:"clusterArn"`
		ContainerArn  string     `json:"containerArn"`
		ContainerName string     `json:"containerName"`
		Interactive   bool       `json:"interactive"`
		Session       ecsSession `json:"session"`
		TaskArn       string     `json:"taskArn"`
	}
	return output{e.arn("ecs", "cluster/"+cluster), t.containerARN(), t.def.Container, true, ecsSession(s), t.arn}, nil
}

// decryptAs is kms:Decrypt with the credentials of a task's role, as the exec agent calls it.
func (e *ecs) decryptAs(t *task) gateway.Decrypt {
	role := e.taskIdentity(t)
	return func(ctx context.Context, ciphertext []byte, encryptionContext map[string]string) ([]byte, error) {
		if err := role.Authorize(awsapi.JSON, e.kms.access("kms:Decrypt", encryptionContext)); err != nil {
			return nil, err
		}
		return e.kms.decrypt(ctx, ciphertext, encryptionContext)
	}
}

// execReady returns an error unless a task's exec agent answers.
func (e *ecs) execReady(t *task) error {
	e.mu.Lock()
	running := t.last == statusRunning && t.agent == statusRunning
	connected := t.connected
	e.mu.Unlock()
	if !running {
		return invalidParameter("The execute command failed because execute command was not enabled " +
			"when the task was run or the execute command agent isn’t running. " +
			"Wait and try again or run a new task with execute command enabled and try again.")
	}
	if !connected || e.faults.notConnected() {
		return execFails()
	}
	return nil
}

// execFails is ExecuteCommand's error for a task whose agent does not answer.
func execFails() error {
	return awsapi.Errorf("TargetNotConnectedException", "The execute command failed due to an internal error. Try again later.")
}

// target returns the SSM target of a task's container.
func (t *task) target() string { return "ecs:" + t.cluster + "_" + t.id + "_" + t.runtimeID }

func (t *task) interfaceID() string { return "eni-" + t.id[:17] }

func (t *task) containerARN() string {
	return t.def.site.arn("ecs", "container/"+t.cluster+"/"+t.id+"/"+seededUUID(t.runtimeID))
}

// byTarget returns the task of an SSM target "ecs:<cluster>_<task id>_<runtime id>". Cluster names may contain underscores.
func (e *ecs) byTarget(target string) (*task, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := slices.IndexFunc(e.tasks, func(t *task) bool { return t.target() == target })
	if i < 0 {
		return nil, false
	}
	return e.tasks[i], true
}
