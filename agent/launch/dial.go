package launch

import (
	"context"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/sleep"
)

// checkPause is the pause between two questions to an agent that is making a connection, which may take as long as a bastion's start.
const checkPause = 10 * time.Second

// Dial opens a connection whose end the agent explains by its ID. An agent of an older version refuses IDs: req has none then.
func Dial(ctx context.Context, client *api.Client, req *api.DialRequest) (net.Conn, error) {
	conn, err := dial(ctx, client, *req, checkPause)
	if scope, ok := WithoutEnvironment(req.Scope, err); ok {
		req.Scope = scope
		conn, err = dial(ctx, client, *req, checkPause)
	}
	if req.ID != "" && fail.KindOf(err) == fail.Usage && strings.Contains(err.Error(), `unknown field "id"`) {
		req.ID = ""
		return dial(ctx, client, *req, checkPause)
	}
	return conn, err
}

// dial opens a connection by the agent. It gives up when the agent, which may be stopped or blocked, answers nothing at all.
func dial(ctx context.Context, client *api.Client, req api.DialRequest, every time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel(nil)
	asking.Go(func() {
		for sleep.For(ctx, every) == nil {
			if _, err := client.Info(ctx); fail.KindOf(err) == fail.Timeout && ctx.Err() == nil {
				cancel(err)
			}
		}
	})
	return client.Dial(ctx, req)
}
