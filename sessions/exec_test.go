package sessions

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/google/go-cmp/cmp"
	"github.com/mmmorris1975/ssm-session-client/datachannel"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/sessions/frame"
)

// fakeECS is ECS Exec on the fake service, and KMS.
type fakeECS struct {
	*fakeService
	in     *ecs.ExecuteCommandInput
	keyErr error
	key    []byte
	keyIn  *kms.GenerateDataKeyInput
}

const execTarget = "ecs:demo_0123456789abcdef_0123456789abcdef-42"

func newFakeECS(t *testing.T, agent func(*fakeSession)) *fakeECS {
	return &fakeECS{fakeService: newFakeService(t, fakeOptions{exec: agent}, nil)}
}

func (f *fakeECS) client() *Client {
	c := f.fakeService.client(Config{ECS: f, KMS: f})
	return c
}

func (f *fakeECS) ExecuteCommand(
	ctx context.Context, in *ecs.ExecuteCommandInput, _ ...func(*ecs.Options),
) (*ecs.ExecuteCommandOutput, error) {
	f.in = in
	out, err := f.StartSession(ctx, &ssm.StartSessionInput{})
	if err != nil {
		return nil, err
	}
	return &ecs.ExecuteCommandOutput{Session: &ecstypes.Session{
		SessionId: out.SessionId, StreamUrl: out.StreamUrl, TokenValue: out.TokenValue,
	}}, nil
}

func (f *fakeECS) DescribeTasks(
	_ context.Context, in *ecs.DescribeTasksInput, _ ...func(*ecs.Options),
) (*ecs.DescribeTasksOutput, error) {
	return &ecs.DescribeTasksOutput{Tasks: []ecstypes.Task{{
		ClusterArn: aws.String("arn:aws:ecs:eu-central-1:000000000000:cluster/" + *in.Cluster),
		TaskArn:    aws.String("arn:aws:ecs:eu-central-1:000000000000:task/demo/" + in.Tasks[0]),
		Containers: []ecstypes.Container{
			{Name: aws.String("other"), RuntimeId: aws.String("wrong")},
			{Name: aws.String("bastion"), RuntimeId: aws.String("0123456789abcdef-42")},
		},
	}}}, nil
}

func (f *fakeECS) GenerateDataKey(
	_ context.Context, in *kms.GenerateDataKeyInput, _ ...func(*kms.Options),
) (*kms.GenerateDataKeyOutput, error) {
	if f.keyErr != nil {
		return nil, f.keyErr
	}
	f.keyIn = in
	f.key = noise(7, int(*in.NumberOfBytes))
	return &kms.GenerateDataKeyOutput{Plaintext: bytes.Clone(f.key), CiphertextBlob: []byte("sealed")}, nil
}

var grantCommand = Exec{Cluster: "demo", Task: "0123456789abcdef", Container: "bastion", Command: "/bastiond grant v1.x"}

// plainExec is an agent without KMS: it has no handshake, and speaks after a second.
func plainExec(output, end string) func(*fakeSession) {
	return func(s *fakeSession) {
		s.a.mu.Lock()
		s.a.complete = true
		s.a.mu.Unlock()
		wait(time.Second)
		for len(output) > 0 {
			n := min(len(output), 1024)
			s.agentSend(frame.PayloadOutput, []byte(output[:n]))
			output = output[n:]
		}
		s.finishAgent(end)
	}
}

func TestRunExec(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want := strings.Repeat("a line of the terminal\r\n", 500)
		f := newFakeECS(t, plainExec(want, ""))
		out, err := f.client().RunExec(t.Context(), grantCommand, 1<<20)
		if err != nil || string(out) != want {
			t.Errorf("%d of %d bytes: %v", len(out), len(want), err)
		}
		if !f.in.Interactive || *f.in.Cluster != "demo" || *f.in.Container != "bastion" || *f.in.Command != grantCommand.Command {
			t.Errorf("%+v", f.in)
		}
		if got := string(f.session(0).a.size); got != `{"cols":4096,"rows":50}` {
			t.Errorf("size of the terminal %s", got)
		}
		f.close()
		f.checkEnded()
	})
}

func TestRunExecTooMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeECS(t, plainExec(strings.Repeat("x", 1001), ""))
		out, err := f.client().RunExec(t.Context(), grantCommand, 1000)
		if err == nil || !strings.Contains(err.Error(), "more than 1000 bytes") || len(out) != 1000 {
			t.Errorf("%d bytes: %v", len(out), err)
		}
		f.close()
		f.checkTerminated()
	})
}

func TestRunExecCannotStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeECS(t, plainExec("", "\n----------ERROR-------\nUnable to start command: Failed to start pty: "+
			"fork/exec /bastiond: no such file or directory\n\n"))
		out, err := f.client().RunExec(t.Context(), grantCommand, 1000)
		var closed *ClosedError
		if !errors.As(err, &closed) || fail.KindOf(err) != fail.Start || len(out) > 0 ||
			!strings.HasSuffix(err.Error(), "was closed: Unable to start command: Failed to start pty: "+
				"fork/exec /bastiond: no such file or directory") {
			t.Errorf("%q: %v", out, err)
		}
		f.close()
		f.checkEnded()
	})
}

func TestRunExecCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeECS(t, func(s *fakeSession) { <-s.done })
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := f.client().RunExec(ctx, grantCommand, 1000); fail.KindOf(err) != fail.Timeout {
			t.Errorf("%v", err)
		}
		f.close()
		f.checkTerminated()
	})
}

// kmsExec is an agent with KMS: it asks for a key, proves it, and prints what it got, encrypted.
func kmsExec(t *testing.T, f *fakeECS, challenge string) func(*fakeSession) {
	return func(s *fakeSession) {
		action := map[string]any{"KMSKeyId": "key-1"}
		if challenge != "" {
			action["Challenge"] = challenge
		}
		req, _ := json.Marshal(map[string]any{"AgentVersion": "3.3.0.0", "RequestedClientActions": []any{
			map[string]any{"ActionType": "SessionType", "ActionParameters": map[string]any{"SessionType": "InteractiveCommands"}},
			map[string]any{"ActionType": "KMSEncryption", "ActionParameters": action},
		}})
		s.agentSend(frame.PayloadHandshakeRequest, req)
		select {
		case <-s.a.response:
		case <-s.done:
			return
		}
		var res struct {
			ProcessedClientActions []struct {
				ActionStatus datachannel.ActionStatus
				ActionResult struct {
					KMSCipherTextKey         []byte
					ChallengeAcknowledgement bool
				}
				Error string
			}
		}
		if err := json.Unmarshal(s.a.answer, &res); err != nil || len(res.ProcessedClientActions) != 2 {
			t.Errorf("%s: %v", s.a.answer, err)
			return
		}
		kmsAnswer := res.ProcessedClientActions[1]
		if kmsAnswer.ActionStatus != datachannel.Success {
			s.finishAgent("KMSEncryption failed on client with status 2 error: " + kmsAnswer.Error)
			return
		}
		if string(kmsAnswer.ActionResult.KMSCipherTextKey) != "sealed" ||
			kmsAnswer.ActionResult.ChallengeAcknowledgement != (challenge != "") {
			t.Errorf("%s", s.a.answer)
		}
		c, err := newPayloadCipher(append(bytes.Clone(f.key[32:]), f.key[:32]...))
		if err != nil {
			t.Error(err)
			return
		}
		text := noise(9, 64)
		s.agentSend(frame.PayloadChallengeRequest, fmt.Appendf(nil, `{"Challenge":%q}`,
			base64.StdEncoding.EncodeToString(c.seal(nil, text))))
		var answer struct{ Challenge []byte }
		if err := json.Unmarshal(<-s.a.challenge, &answer); err != nil {
			t.Error(err)
		}
		if got, err := c.open(answer.Challenge); err != nil || !bytes.Equal(got, text) {
			t.Errorf("the challenge came back as %x: %v", got, err)
		}
		s.a.mu.Lock()
		s.a.complete = true
		s.a.mu.Unlock()
		s.agentSend(frame.PayloadHandshakeComplete, []byte(`{"HandshakeTimeToComplete":1,"CustomerMessage":"encrypted"}`))
		wait(time.Second)
		s.agentSend(frame.PayloadOutput, c.seal(nil, []byte("out")))
		s.agentSend(frame.PayloadStderr, c.seal(nil, []byte("err")))
		s.agentSend(frame.PayloadExitCode, c.seal(nil, []byte("0")))
		s.a.mu.Lock()
		typed := bytes.Clone(s.a.typed.Bytes())
		s.a.mu.Unlock()
		if got, err := c.open(typed); err != nil || string(got) != "typed" {
			t.Errorf("typed %q: %v", got, err)
		}
		s.finishAgent("")
	}
}

func TestExecKMS(t *testing.T) {
	for _, challenge := range []string{"", "fkZ0oViQvx5gNe1d2zT5DQ=="} {
		for _, target := range []string{"", execTarget} {
			t.Run(fmt.Sprintf("challenge=%q target=%q", challenge, target), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFakeECS(t, nil)
					f.opts.exec = kmsExec(t, f, challenge)
					e := grantCommand
					e.Target = target
					s, err := f.client().Exec(t.Context(), e)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := s.Write([]byte("typed")); err != nil {
						t.Error(err)
					}
					if out, err := io.ReadAll(s); err != nil || string(out) != "outerr" {
						t.Errorf("read %q: %v", out, err)
					}
					s.Close()
					want := map[string]string{"aws:ssm:SessionId": "fake-0", "aws:ssm:TargetId": execTarget}
					if challenge != "" {
						want["aws:ssm:RandomChallenge"] = challenge
					}
					if diff := cmp.Diff(want, f.keyIn.EncryptionContext); diff != "" || *f.keyIn.KeyId != "key-1" {
						t.Errorf("key %s: %s", *f.keyIn.KeyId, diff)
					}
					if len(f.session(0).a.size) == 0 {
						t.Error("the terminal has no size")
					}
					f.close()
					f.checkEnded()
				})
			})
		}
	}
}

// Without a key the session fails, and the error names the missing permission.
func TestExecKMSDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeECS(t, nil)
		f.opts.exec = kmsExec(t, f, "")
		f.keyErr = accessDenied()
		_, err := f.client().Exec(t.Context(), grantCommand)
		if fail.KindOf(err) != fail.Denied || !strings.Contains(fail.NextOf(err), "kms:GenerateDataKey") {
			t.Errorf("%v; next: %s", err, fail.NextOf(err))
		}
		f.close()
		f.checkTerminated()
	})
}

func TestExecKMSNotSetUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeECS(t, nil)
		f.opts.exec = kmsExec(t, f, "")
		c := f.fakeService.client(Config{ECS: f})
		if _, err := c.Exec(t.Context(), grantCommand); err == nil || !strings.Contains(err.Error(), "not set up") {
			t.Errorf("%v", err)
		}
		f.close()
		f.checkTerminated()
	})
}

func TestTargetOf(t *testing.T) {
	task := ecstypes.Task{
		ClusterArn: aws.String("arn:aws:ecs:eu-central-1:000000000000:cluster/demo"),
		TaskArn:    aws.String("arn:aws:ecs:eu-central-1:000000000000:task/demo/abc"),
		Containers: []ecstypes.Container{{Name: aws.String("one"), RuntimeId: aws.String("abc-1")}},
	}
	for container, want := range map[string]string{"": "ecs:demo_abc_abc-1", "one": "ecs:demo_abc_abc-1", "two": ""} {
		if got, ok := targetOf(task, container); got != want || ok != (want != "") {
			t.Errorf("container %q: %q", container, got)
		}
	}
	task.Containers = append(task.Containers, ecstypes.Container{Name: aws.String("two")})
	for container, want := range map[string]string{"": "", "one": "ecs:demo_abc_abc-1", "two": ""} {
		if got, _ := targetOf(task, container); got != want {
			t.Errorf("container %q of two: %q", container, got)
		}
	}
}

// TestHandshakeRefuses gives the handshake what no agent should send.
func TestHandshakeRefuses(t *testing.T) {
	const (
		req  = frame.PayloadHandshakeRequest
		port = `{"RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":{"SessionType":"Port"}}]}`
		key  = `{"ActionType":"KMSEncryption","ActionParameters":{"KMSKeyId":"k"}}`
	)
	type msg struct {
		typ     frame.PayloadType
		payload string
	}
	for name, msgs := range map[string][]msg{
		"no JSON":                   {{req, "{"}},
		"a second request":          {{req, port}, {req, port}},
		"key without a name":        {{req, `{"RequestedClientActions":[{"ActionType":"KMSEncryption","ActionParameters":{}}]}`}},
		"key parameters no object":  {{req, `{"RequestedClientActions":[{"ActionType":"KMSEncryption","ActionParameters":3}]}`}},
		"two keys":                  {{req, `{"RequestedClientActions":[` + key + `,` + key + `]}`}},
		"challenge before a key":    {{req, port}, {frame.PayloadChallengeRequest, `{"Challenge":"AA=="}`}},
		"challenge out of the blue": {{frame.PayloadChallengeRequest, `{"Challenge":"AA=="}`}},
		"end before the request":    {{frame.PayloadHandshakeComplete, `{}`}},
		"end, no JSON":              {{req, port}, {frame.PayloadHandshakeComplete, `x`}},
	} {
		h := &handshake{}
		var err error
		for i, m := range msgs {
			if err != nil {
				t.Errorf("%s: message %d was refused: %v", name, i-1, err)
			}
			_, err = h.receive(m.typ, []byte(m.payload))
		}
		if err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	for name, payload := range map[string]string{
		"unknown action":    `{"RequestedClientActions":[{"ActionType":"Dance"}]}`,
		"a shell":           `{"RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":{"SessionType":"Standard_Stream"}}]}`,
		"no kind":           `{"RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":{}}]}`,
		"kind is no object": `{"RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":"Port"}]}`,
	} {
		h := &handshake{}
		r, err := h.receive(req, []byte(payload))
		if err != nil || h.state != hsAbandoned || len(r.replies) != 1 || h.complete() {
			t.Errorf("%s: state %d, %v", name, h.state, err)
			continue
		}
		if _, err := h.receive(frame.PayloadHandshakeComplete, []byte(`{}`)); err == nil {
			t.Errorf("%s: completed", name)
		}
	}
}

// Encrypted payloads that are not what the agent encrypted end the session: they are never delivered.
func TestPayloadCipherRefuses(t *testing.T) {
	key := noise(1, dataKeySize)
	client, err := newPayloadCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	agent, err := newPayloadCipher(append(bytes.Clone(key[32:]), key[:32]...))
	if err != nil {
		t.Fatal(err)
	}
	sealed := agent.seal(nil, []byte("text"))
	if got, err := client.open(sealed); err != nil || string(got) != "text" {
		t.Errorf("%q: %v", got, err)
	}
	bad := map[string][]byte{
		"empty": nil, "short": sealed[:11], "cut": sealed[:len(sealed)-1], "our own": client.seal(nil, []byte("text")),
	}
	for i := range sealed {
		b := bytes.Clone(sealed)
		b[i] ^= 1
		bad[fmt.Sprintf("byte %d changed", i)] = b
	}
	for name, b := range bad {
		if got, err := client.open(b); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
	for _, n := range []int{0, 32, 63, 65} {
		if _, err := newPayloadCipher(make([]byte, n)); err == nil {
			t.Errorf("key of %d bytes accepted", n)
		}
	}
}

// The agent says why it cannot use the key, in the words of its own that follow KMS's; one that waits for KMS says nothing.
func TestExecKMSTask(t *testing.T) {
	denied := "Encountered error while initiating handshake. Fetching data key failed: Unable to retrieve data key, " +
		"Error when decrypting data key AccessDeniedException: User: arn:aws:sts::0:assumed-role/bastion-task/1 is not authorized to " +
		"perform: kms:Decrypt\n\tstatus code: 400, request id: 1"
	for name, tt := range map[string]struct {
		err   error
		kind  fail.Kind
		next  string
		isKey bool
	}{
		"denied":     {&ClosedError{SessionID: "s", Output: denied}, fail.Denied, "kms:Decrypt on key-1 for the task role", true},
		"disabled":   {&ClosedError{SessionID: "s", Output: "Unable to retrieve data key, DisabledException"}, fail.Start, "check the key", true},
		"silence":    {fmt.Errorf("%w within 10s", ErrUnanswered), fail.Start, "kms endpoint", false},
		"other end":  {&ClosedError{SessionID: "s", Output: "exec: no such file"}, fail.Other, "", false},
		"other fail": {accessDenied(), fail.Other, "", false},
	} {
		err := encryptionError("run", "key-1", tt.err)
		if fail.KindOf(err) != tt.kind || !strings.Contains(fail.NextOf(err), tt.next) || errors.Is(err, ErrDataKey) != tt.isKey {
			t.Errorf("%s: %v (kind %v, next %q)", name, err, fail.KindOf(err), fail.NextOf(err))
		}
		if tt.isKey && !strings.Contains(err.Error(), "KMS key key-1") {
			t.Errorf("%s: the key is not named: %v", name, err)
		}
	}
}
