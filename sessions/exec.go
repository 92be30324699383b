package sessions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// Exec is a command for ECS Exec. The agent in the container splits it into words by shell rules, but runs it without a shell.
type Exec struct {
	Cluster   string
	Task      string // id or ARN
	Container string
	Command   string
	// Target is the container's SSM target, ecs:<cluster>_<task id>_<runtime id>. Only clusters that encrypt sessions with KMS need
	// it; if it is empty then, Exec looks it up with ecs:DescribeTasks.
	Target string

	Started func() // called when AWS has accepted the command, long before its first output; may be nil
}

func (e Exec) op() string { return fmt.Sprintf("run %q in task %s", e.Command, e.Task) }

// Exec runs a command. The stream reads the command's terminal output: text with stdout and stderr merged, and lines ended by CR
// LF. It has no exit code. The stream ends with io.EOF, or with a *ClosedError that says why the command could not start. Written
// bytes are typed at the terminal. ctx bounds the opening, not the stream.
func (c *Client) Exec(ctx context.Context, e Exec) (*Stream, error) {
	if c.cfg.ECS == nil {
		return nil, errors.New("sessions: Config.ECS is needed for Exec")
	}
	op := e.op()
	var keyID atomic.Value // of KMS, once the agent has asked for encryption
	s, err := c.start(ctx, e.target(), true, func(ctx context.Context) (string, grant, error) {
		in := &ecs.ExecuteCommandInput{Task: &e.Task, Command: &e.Command, Interactive: true}
		if e.Cluster != "" {
			in.Cluster = &e.Cluster
		}
		if e.Container != "" {
			in.Container = &e.Container
		}
		out, err := c.cfg.ECS.ExecuteCommand(ctx, in, func(o *ecs.Options) { o.Retryer = c.once })
		if err != nil {
			return "", grant{}, fail.AWS(fail.Start, op, "ecs:ExecuteCommand", err)
		}
		if out.Session == nil {
			return "", grant{}, nil
		}
		if e.Started != nil {
			e.Started()
		}
		return aws.ToString(out.Session.SessionId),
			grant{aws.ToString(out.Session.StreamUrl), aws.ToString(out.Session.TokenValue)}, nil
	}, func(cfg *streamConfig) {
		cfg.dataKey = func(ctx context.Context, r *keyRequest) ([]byte, []byte, error) {
			keyID.Store(r.keyID)
			return c.execDataKey(ctx, e, r)
		}
	})
	if err != nil {
		return nil, err
	}
	if err := c.await(ctx, s, c.cfg.OpenTimeout, false, 0); err != nil {
		s.abandon()
		if id, ok := keyID.Load().(string); ok {
			err = encryptionError(op, id, err)
		}
		return nil, openError(op, err)
	}
	return s, nil
}

// encryptionError adds the permissions that the task needs to an error from the opening of an encrypted session. Such an error is a
// denial in the agent's words, or the silence of an agent that waits for KMS. Other errors come back unchanged.
func encryptionError(op, keyID string, err error) error {
	var closed *ClosedError
	isClosed := errors.As(err, &closed)
	switch {
	case isClosed && strings.Contains(closed.Output, "AccessDenied") && strings.Contains(closed.Output, "data key"):
		return fail.New(fail.Denied, op, fmt.Errorf("%w with KMS key %s: %w", ErrDataKey, keyID, err),
			awsanswer.Judge(awsanswer.Answer{Code: "AccessDenied", Message: closed.Output}).NextDeniedTo("the task role", "kms:Decrypt", keyID)+
				"; it is the key of the cluster's ECS Exec")
	case isClosed && strings.Contains(closed.Output, "data key"):
		return fail.New(fail.Start, op, fmt.Errorf("%w with KMS key %s: %w", ErrDataKey, keyID, err),
			"check the key, and the task's way to the kms endpoint")
	case errors.Is(err, ErrUnanswered):
		return fail.New(fail.Start, op, err, "the cluster's ECS Exec is encrypted with KMS key "+keyID+
			": give the task's network a way to the kms endpoint, and its role kms:Decrypt on the key")
	}
	return err
}

// target names the far end in messages when the SSM target is unknown.
func (e Exec) target() string {
	if e.Target != "" {
		return e.Target
	}
	return e.Task
}

// RunExec runs a command to its end and returns its output. It fails if the output exceeds maxOutput bytes. If the command could
// not start, it returns the output so far and an error that wraps a *ClosedError with the reason.
func (c *Client) RunExec(ctx context.Context, e Exec, maxOutput int) ([]byte, error) {
	s, err := c.Exec(ctx, e)
	if err != nil {
		return nil, err
	}
	defer s.abandon()
	unhook := context.AfterFunc(ctx, s.abandon)
	defer unhook()
	out, err := io.ReadAll(io.LimitReader(s, int64(maxOutput)+1))
	switch {
	case ctx.Err() != nil:
		return out, openError(e.op(), ctx.Err())
	case err != nil:
		cause := cmp.Or(s.Err(), err)
		return out, openError(e.op(), cause)
	case len(out) > maxOutput:
		return out[:maxOutput], fail.New(fail.Start, e.op(), fmt.Errorf("it printed more than %d bytes", maxOutput), "")
	}
	return out, nil
}

// taskDescriber is the call that looks up a container's runtime id; *ecs.Client implements it.
type taskDescriber interface {
	DescribeTasks(context.Context, *ecs.DescribeTasksInput, ...func(*ecs.Options)) (*ecs.DescribeTasksOutput, error)
}

// execDataKey makes the data key of an exec session. The key is bound to the SSM target, which ExecuteCommand did not return.
func (c *Client) execDataKey(ctx context.Context, e Exec, r *keyRequest) (plain, encrypted []byte, err error) {
	if e.Target == "" {
		if e.Target, err = c.execTarget(ctx, e); err != nil {
			return nil, nil, err
		}
	}
	r.targetID = e.Target
	return c.dataKey(ctx, r)
}

// execTarget looks up the SSM target of a container.
func (c *Client) execTarget(ctx context.Context, e Exec) (string, error) {
	d, ok := c.cfg.ECS.(taskDescriber)
	if !ok {
		return "", errors.New("the session is encrypted: Exec.Target is needed")
	}
	in := &ecs.DescribeTasksInput{Tasks: []string{e.Task}}
	if e.Cluster != "" {
		in.Cluster = &e.Cluster
	}
	out, err := d.DescribeTasks(ctx, in)
	if err != nil {
		return "", fail.AWS(fail.Start, "describe task "+e.Task, "ecs:DescribeTasks", err)
	}
	for _, t := range out.Tasks {
		if target, ok := targetOf(t, e.Container); ok {
			return target, nil
		}
	}
	return "", fmt.Errorf("task %s has no container %q with a runtime id", e.Task, e.Container)
}

// targetOf returns the SSM target of a task's container: the named one, or the only one.
func targetOf(t ecstypes.Task, container string) (string, bool) {
	for _, ct := range t.Containers {
		if aws.ToString(ct.RuntimeId) != "" && (aws.ToString(ct.Name) == container || container == "" && len(t.Containers) == 1) {
			return fmt.Sprintf("ecs:%s_%s_%s", lastPart(aws.ToString(t.ClusterArn)), lastPart(aws.ToString(t.TaskArn)),
				aws.ToString(ct.RuntimeId)), true
		}
	}
	return "", false
}

// lastPart returns the part of an ARN after its last slash.
func lastPart(arn string) string { return arn[strings.LastIndexByte(arn, '/')+1:] }

// dataKey asks KMS for a data key for this session that only the agent at the request's target can decrypt.
func (c *Client) dataKey(ctx context.Context, r *keyRequest) (plain, encrypted []byte, err error) {
	const op = "encrypt the session"
	if c.cfg.KMS == nil {
		return nil, nil, fail.New(fail.Start, op, errors.New("it is to be encrypted with KMS, which is not set up here"), "")
	}
	out, err := c.cfg.KMS.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{
		KeyId:             &r.keyID,
		NumberOfBytes:     aws.Int32(dataKeySize),
		EncryptionContext: r.encryptionContext(),
	})
	if err != nil {
		// Two operations, because a caller may replace the outer one.
		return nil, nil, fail.New(fail.Other, op,
			fail.AWS(fail.Start, "use KMS key "+r.keyID+" as its user", "kms:GenerateDataKey", err), "")
	}
	return out.Plaintext, out.CiphertextBlob, nil
}
