package access

import (
	"context"
	"time"

	"github.com/bastion-ssm/bastion/targets"
)

// askForTime bounds a call that only reads AWS's time. With a correct clock the token is valid without it.
const askForTime = 5 * time.Second

// Token returns an IAM authentication token for a database user. It is a secret: it is the user's password.
func (a *Access) Token(ctx context.Context, e targets.Endpoint, user string) (string, error) {
	skew, known := a.clock.Skew()
	if !known { // the endpoint was found without a call
		asked, cancel := context.WithTimeout(ctx, askForTime)
		_, _ = a.whoami(asked) // its answer's time matters, not its result
		cancel()
		skew, _ = a.clock.Skew()
	}
	e.Region = a.region
	return targets.Token(ctx, e, user, a.credentials, time.Now().Add(skew))
}
