package lab

import (
	"context"
	"strings"

	"github.com/bastion-ssm/bastion/lab/awsapi"
	"github.com/bastion-ssm/bastion/lab/gateway"
	"github.com/bastion-ssm/bastion/lab/iam"
)

// What the two roles do where the template has the options for it: secrets for tasks, and transcripts of ECS Exec.

// taskSecret is a secret of a task definition.
type taskSecret struct {
	variable, arn string
	key           string // ARN of the KMS key that encrypts it; empty: AWS's own
}

// value is what Secrets Manager has of it.
func (s taskSecret) value() string { return "secret of " + s.variable }

// secretARN is the ARN in a definition's ValueFrom, behind which may stand a field, a stage and a version.
func secretARN(from string) string {
	const parts = 7
	all := strings.SplitN(from, ":", parts+1)
	return strings.Join(all[:min(len(all), parts)], ":")
}

// readSecrets asks the execution role for the secrets of a task. It returns why the task stops, or "".
func (e *ecs) readSecrets(role *awsapi.Identity, secrets []taskSecret) string {
	for _, s := range secrets {
		needs := []awsapi.Access{{Action: "secretsmanager:GetSecretValue", Resource: s.arn}}
		if s.key != "" {
			needs = append(needs, awsapi.Access{
				Action: "kms:Decrypt", Resource: s.key,
				Context: named(iam.Context{}, "kms:EncryptionContext:", map[string]string{"SecretARN": s.arn}).
					With("kms:EncryptionContextKeys", "SecretARN").With("kms:CallerAccount", e.account).
					With("kms:ViaService", e.partition().Endpoint("secretsmanager", e.region)),
			})
		}
		if err := role.Authorize(awsapi.JSON, needs...); err != nil {
			return "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: " +
				"unable to retrieve secret from asm: " + err.Error()
		}
	}
	return ""
}

// transcripts are where ECS Exec's agents write what is said in their sessions.
type transcripts struct{ logGroup, bucket, prefix string }

// transcribe asks the task role for what the agent does for a session's transcript: to see that both places encrypt, to write to the log,
// and at the end to put the file into the bucket.
// Source: validate and finishLogging in amazon-ssm-agent, agent/session/shell/shell.go.
func (e *ecs) transcribe(t *task, to transcripts) error {
	log, bucket := "log-group:"+to.logGroup+":", "arn:"+e.partition().ID+":s3:::"+to.bucket
	stream := e.arn("logs", log+"log-stream:ecs-execute-command-"+t.id)
	byS3 := e.kms.access("kms:GenerateDataKey", map[string]string{"aws:s3:arn": bucket})
	byS3.Context = byS3.Context.With("kms:ViaService", e.partition().Endpoint("s3", e.region))
	return e.taskIdentity(t).Authorize(awsapi.JSON,
		awsapi.Access{Action: "logs:DescribeLogGroups", Resource: "*"},
		awsapi.Access{Action: "s3:GetEncryptionConfiguration", Resource: bucket},
		awsapi.Access{Action: "logs:DescribeLogStreams", Resource: e.arn("logs", log)},
		awsapi.Access{Action: "logs:CreateLogStream", Resource: stream},
		awsapi.Access{Action: "logs:PutLogEvents", Resource: stream},
		awsapi.Access{Action: "s3:PutObject", Resource: bucket + "/" + to.prefix + "/" + t.id + ".log"},
		byS3,
	)
}

// transcribed is how a task runs the commands of ECS Exec in a cluster: with a transcript, without which it runs none.
func (e *ecs) transcribed(t *task) func(context.Context, []string) (gateway.Process, error) {
	e.mu.Lock()
	to := e.clusters[t.cluster].transcripts
	e.mu.Unlock()
	if to == (transcripts{}) {
		return t.container.Exec
	}
	return func(ctx context.Context, command []string) (gateway.Process, error) {
		if err := e.transcribe(t, to); err != nil {
			return nil, err
		}
		return t.container.Exec(ctx, command)
	}
}
