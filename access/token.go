package access

import (
	"context"
	"time"

	"github.com/bastion-ssm/bastion/targets"
)

// askForTime bounds a call that only reads AWS's time. With a correct clock the token is valid without it.
const askForTime = 5 * time.Second

// now returns the time by AWS's clock. Without an answer of AWS's so far, it asks for one.
func (a *Access) now(ctx context.Context) time.Time {
	skew, known := a.clock.Skew()
	if !known {
		asked, cancel := context.WithTimeout(ctx, askForTime)
		_, _ = a.whoami(asked) // its answer's time matters, not its result
		cancel()
		skew, _ = a.clock.Skew()
	}
	return time.Now().Add(skew)
}

// Token returns an IAM authentication token for a database user. It is a secret: it is the user's password.
func (a *Access) Token(ctx context.Context, e targets.Endpoint, user string) (string, error) {
	e.Region = a.region
	return targets.Token(ctx, e, user, a.credentials, a.now(ctx))
}

// ClusterToken returns a token for an EKS cluster and when its clients need another one. It is a secret.
func (a *Access) ClusterToken(ctx context.Context, cluster string) (token string, expires time.Time, err error) {
	at := a.now(ctx)
	token, err = targets.ClusterToken(ctx, cluster, a.region, a.credentials, at)
	return token, at.Add(targets.ClusterTokenLifetime), err
}
