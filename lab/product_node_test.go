//go:build unix

package lab_test

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/gateway"
	"github.com/bastion-ssm/bastion/node"
	"github.com/bastion-ssm/bastion/sessions"
)

// productPort is the port that the product's node serves.
const productPort = "7022"

// productNode runs the product's node as the agent of a task of its own. Its sessions reach a server that sends greeting and then echoes.
// It returns the node's identity.
func productNode(t *testing.T, l *lab.Lab, greeting string) (who *labNode) {
	t.Helper()
	who = newNode(t, l, runBare(t, l))
	who.port = productPort
	serve := func(_ context.Context, task node.Task, c net.Conn) {
		if !strings.HasPrefix(task.Owner, "arn:") || c.RemoteAddr().String() != task.Owner {
			t.Errorf("the session's owner is %q", task.Owner)
		}
		_, _ = io.WriteString(c, greeting)
		_, _ = io.Copy(c, c)
	}
	n, err := node.New(node.Settings{
		ID: who.target, Region: "eu-central-1", Endpoint: who.api, Ports: map[int]node.Handler{7022: serve},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return who.creds, nil }),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { n.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	eventually(t, "the node is connected", func() bool { return l.Gateway().HasNode(who.target) })
	return who
}

// The product's client and the product's node, through the lab: whoever loses its websocket, and whatever the service does to the
// messages, nothing is lost and nothing comes twice.
func TestProductNode(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	s := openPort(t, l, productNode(t, l, hello))
	g := l.Gateway()
	exchange(t, s, 8, func(i int) {
		how := []string{gateway.CutClose, gateway.CutReset}[i/2%2]
		cut := g.CutAgent
		if i%2 == 0 {
			cut = g.Cut
		}
		eventually(t, "a websocket to cut", func() bool { return cut("", how) == 1 })
	})
	if err := g.SetFaults(gateway.Faults{Drop: 0.01, Duplicate: 0.01, Reorder: 0.01, DelayMS: 1, Seed: 1}); err != nil {
		t.Fatal(err)
	}
	exchange(t, s, 8, func(int) {})
	if err := g.SetFaults(gateway.Faults{}); err != nil {
		t.Fatal(err)
	}
	exchange(t, s, 256, func(int) {})
	if n := g.CutControl("", gateway.CutReset); n != 1 {
		t.Errorf("cut %d control channels", n)
	}
	exchange(t, s, 2, func(int) {})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "the session ends", func() bool { return live(l) == 0 })
}

// The service's end of a session, and a port that nobody serves, end it for the client.
func TestProductNodeEnds(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	n := productNode(t, l, hello)
	s := openPort(t, l, n)
	terminate(t, l, s.SessionID())
	if b, err := io.ReadAll(s); len(b) > 0 || err != nil {
		t.Errorf("after the end: read %q, %v", b, err)
	}
	_, err := sessions.New(sessions.Config{SSM: ssm.NewFromConfig(sdk(t, l.Env()))}).OpenPort(t.Context(), sessions.Port{
		Target: n.target, Port: 22, ServerFirst: true, ServerFirstTimeout: 20 * time.Second,
	})
	if err == nil || !strings.Contains(err.Error(), "Unable to connect to specified port: port 22 is not served") {
		t.Error(err)
	}
	eventually(t, "the sessions end", func() bool { return live(l) == 0 })
}

// AWS's own client and the product's node: the SSH document, with cuts of the node's side, and a forwarded port, which carries smux.
func TestPluginProductNode(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	n := productNode(t, l, "")
	c := newCLI(t, l, l.Env())
	cmd, in, lines := c.sshSession(t, "--target", n.target, "--parameters", "portNumber="+productPort)
	echoThroughCuts(t, l, in, lines)
	_ = cmd.Wait() // the plugin's exit code says nothing
	terminateLeft(t, l)
	eventually(t, "the session ends", func() bool { return live(l) == 0 })

	forwardByPlugin(t, c.command(t, "ssm", "start-session", "--target", n.target, "--document-name", "AWS-StartPortForwardingSession",
		"--parameters", `{"portNumber":["`+productPort+`"],"localPortNumber":["0"]}`))
	// The plugin's request to end the session may have the number of another message: see TestPluginPortForwarding.
	for _, s := range l.Gateway().Sessions() {
		c.run(t, "ssm", "terminate-session", "--session-id", s.ID)
	}
	eventually(t, "the session ends", func() bool { return live(l) == 0 })
}
