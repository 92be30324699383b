package access

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/tunnel"
)

// userHome has the caches of the go command.
var userHome = os.Getenv("HOME")

func TestMain(m *testing.M) {
	home, err := os.MkdirTemp("", "access")
	if err != nil {
		panic(err)
	}
	// The tests ask nothing of AWS, of the network or of a real profile: all traffic outside loopback meets a proxy that does not
	// exist.
	for name, value := range map[string]string{
		"HOME": home, "HTTP_PROXY": "http://127.0.0.1:1", "HTTPS_PROXY": "http://127.0.0.1:1", "NO_PROXY": "",
	} {
		_ = os.Setenv(name, value)
	}
	if err := awssdk.ForgetEnv(); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(home)
		os.Exit(code)
	}))
}

// testAccess returns an Access that knows no AWS.
func testAccess(t *testing.T, s Settings) *Access {
	a := &Access{settings: s, clock: new(awssdk.Clock), log: slog.New(slog.DiscardHandler), progress: func(string) {}}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	t.Cleanup(a.Close)
	return a
}

func newKey(t *testing.T) (ssh.Signer, string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	return signer, string(pem.EncodeToMemory(block))
}

// answered is a grant that the bastion has accepted until then, or refused.
func answered(until time.Time, err error) *push {
	p := &push{done: make(chan struct{}), until: until, err: err}
	close(p.done)
	return p
}

// fakeConnector fails with its stored errors.
type fakeConnector struct{ errs []error }

func (c *fakeConnector) Connect(ctx context.Context) (*tunnel.Transport, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	err := c.errs[0]
	c.errs = c.errs[1:]
	return nil, err
}
func (c *fakeConnector) open(context.Context) (*opened, error) { return nil, nil }
func (c *fakeConnector) onState(tunnel.State)                  {}

func TestOnce(t *testing.T) {
	calls := 0
	f := once(func(context.Context) (int, error) {
		calls++
		if calls == 1 {
			return 0, errors.New("not yet")
		}
		return 7, nil
	})
	if _, err := f(t.Context()); err == nil {
		t.Error("the failure is lost")
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if v, err := f(t.Context()); v != 7 || err != nil {
				t.Errorf("%d, %v", v, err)
			}
		})
	}
	wg.Wait()
	if calls != 2 {
		t.Errorf("%d calls, want 2: a success is remembered, a failure is not", calls)
	}
}
