package agent

import (
	"context"

	"github.com/bastion-ssm/bastion/targets"
)

// Token returns an IAM token for a database, which is a secret: it is the user's password there.
func (a *Agent) Token(ctx context.Context, e targets.Endpoint, user string) (string, error) {
	return targets.Token(ctx, e, user, a.credentials)
}
