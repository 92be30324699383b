package sessions

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/bastion-ssm/bastion/lab/gateway"
)

// labGateway is the lab's gateway with as much of a control plane as this package calls. It was written against AWS's own
// clients, not against this one, and so it is another witness than the fake of these tests.
type labGateway struct {
	t    testing.TB
	g    *gateway.Gateway
	mu   sync.Mutex
	n    int
	spec func(id string) gateway.Spec
}

func newLabGateway(t testing.TB, spec func(id string) gateway.Spec) *labGateway {
	t.Helper()
	l := &labGateway{t: t, spec: spec}
	var srv *httptest.Server
	l.g = gateway.New(gateway.Config{BaseURL: func() string { return "ws" + strings.TrimPrefix(srv.URL, "http") }})
	srv = httptest.NewServer(l.g)
	t.Cleanup(func() {
		if n := l.g.Counters(); n.Started != n.Terminated || n.Live != 0 {
			t.Errorf("sessions left behind: %+v", n)
		}
		_ = l.g.Close()
		srv.Close()
	})
	return l
}

func (l *labGateway) start() (id, url, token string, err error) {
	l.mu.Lock()
	l.n++
	id = fmt.Sprintf("lab-session-%d", l.n)
	l.mu.Unlock()
	token, err = l.g.Start(l.spec(id))
	return id, l.g.StreamURL(id), token, err
}

func (l *labGateway) StartSession(
	context.Context, *ssm.StartSessionInput, ...func(*ssm.Options),
) (*ssm.StartSessionOutput, error) {
	id, url, token, err := l.start()
	return &ssm.StartSessionOutput{SessionId: &id, StreamUrl: &url, TokenValue: &token}, err
}

func (l *labGateway) ResumeSession(
	_ context.Context, in *ssm.ResumeSessionInput, _ ...func(*ssm.Options),
) (*ssm.ResumeSessionOutput, error) {
	token, err := l.g.Resume(*in.SessionId)
	if err != nil {
		return nil, &types.DoesNotExistException{}
	}
	url := l.g.StreamURL(*in.SessionId)
	return &ssm.ResumeSessionOutput{SessionId: in.SessionId, StreamUrl: &url, TokenValue: &token}, nil
}

func (l *labGateway) TerminateSession(
	_ context.Context, in *ssm.TerminateSessionInput, _ ...func(*ssm.Options),
) (*ssm.TerminateSessionOutput, error) {
	return &ssm.TerminateSessionOutput{SessionId: in.SessionId}, l.g.Terminate(*in.SessionId)
}

func (l *labGateway) ExecuteCommand(
	context.Context, *ecs.ExecuteCommandInput, ...func(*ecs.Options),
) (*ecs.ExecuteCommandOutput, error) {
	id, url, token, err := l.start()
	return &ecs.ExecuteCommandOutput{Session: &ecstypes.Session{SessionId: &id, StreamUrl: &url, TokenValue: &token}}, err
}

func (l *labGateway) GenerateDataKey(
	_ context.Context, in *kms.GenerateDataKeyInput, _ ...func(*kms.Options),
) (*kms.GenerateDataKeyOutput, error) {
	return &kms.GenerateDataKeyOutput{Plaintext: noise(5, dataKeySize), CiphertextBlob: fmt.Append(nil, in.EncryptionContext)}, nil
}

// portSpec is a session to the far end that dial gives.
func portSpec(dial func() (net.Conn, error)) func(string) gateway.Spec {
	return func(id string) gateway.Spec {
		return gateway.Spec{
			ID: id, Document: gateway.DocSSH, Target: somePort.Target, Port: somePort.Port,
			Dial: func(context.Context, string, string) (net.Conn, error) { return dial() },
		}
	}
}

// Both ways, through loss, duplicates, reordering and cuts of the lab's gateway, over one session.
func TestLabGateway(t *testing.T) {
	near, far := net.Pipe()
	l := newLabGateway(t, portSpec(func() (net.Conn, error) { return near, nil }))
	s, err := New(Config{SSM: l}).OpenPort(t.Context(), somePort)
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, s, far, []byte("hello"), []byte("hello")) // the connection stands
	if err := l.g.SetFaults(gateway.Faults{Drop: .01, Duplicate: .01, Reorder: .02, MissAck: .005, Seed: 3}); err != nil {
		t.Fatal(err)
	}
	var cutter sync.WaitGroup
	cutter.Go(func() {
		for _, how := range []string{"close", "reset", "close"} {
			for cut := 0; cut == 0; { // the one before may not be mended yet
				wait(150 * time.Millisecond)
				cut = l.g.Cut("", how)
			}
		}
	})
	exchange(t, s, far, noise(1, 2<<20), noise(2, 128<<10))
	cutter.Wait()
	exchange(t, s, far, []byte("still"), []byte("there"))
	st := s.Stats()
	if st.Resumes != 3 || st.Duplicates == 0 || st.Resends == 0 {
		t.Errorf("%+v", st)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	far.Close()
}

func TestLabGatewaySilentPort(t *testing.T) {
	l := newLabGateway(t, portSpec(func() (net.Conn, error) { return nil, errors.New("connection refused") }))
	p := somePort
	p.ServerFirst, p.ServerFirstTimeout = true, 300*time.Millisecond
	if _, err := New(Config{SSM: l}).OpenPort(t.Context(), p); !errors.Is(err, ErrSilent) {
		t.Errorf("OpenPort: %v", err)
	}
	if n := l.g.Counters().Started; n != 3 {
		t.Errorf("%d sessions", n)
	}
}

func TestLabGatewayExec(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		t.Run(fmt.Sprintf("encrypted=%v", encrypted), func(t *testing.T) {
			l := newLabGateway(t, func(id string) gateway.Spec {
				spec := gateway.Spec{
					ID: id, Document: gateway.DocECSExec, Target: execTarget, Command: "printf '%s\\n' 'a  b' c",
					Exec: func(ctx context.Context, argv []string) (gateway.Process, error) {
						return gateway.ExecProcess(exec.CommandContext(ctx, argv[0], argv[1:]...))
					},
				}
				if encrypted {
					spec.KMSKeyID = "key-1"
					spec.Decrypt = func(_ context.Context, sealed []byte, encryptionContext map[string]string) ([]byte, error) {
						if string(sealed) != fmt.Sprint(encryptionContext) || encryptionContext[contextChallenge] == "" {
							return nil, fmt.Errorf("%s is not for %v", sealed, encryptionContext)
						}
						return noise(5, dataKeySize), nil
					}
				}
				return spec
			})
			e := grantCommand
			e.Target = execTarget
			out, err := New(Config{SSM: l, ECS: l, KMS: l}).RunExec(t.Context(), e, 1000)
			if err != nil || string(out) != "a  b\r\nc\r\n" {
				t.Errorf("%q: %v", out, err)
			}
		})
	}
}

// BenchmarkLabGateway is upload through the lab's gateway and agent to a far end that discards; MB/s of the whole.
func BenchmarkLabGateway(b *testing.B) {
	for _, delay := range []int{0, 20} {
		b.Run(fmt.Sprintf("upload/delay=%dms", delay), func(b *testing.B) {
			l := newLabGateway(b, portSpec(func() (net.Conn, error) {
				near, far := net.Pipe()
				go func() { _, _ = io.Copy(io.Discard, far) }()
				return near, nil
			}))
			if err := l.g.SetFaults(gateway.Faults{DelayMS: delay}); err != nil {
				b.Fatal(err)
			}
			benchUpload(b, New(Config{SSM: l}))
		})
	}
}
