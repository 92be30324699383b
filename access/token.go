package access

import (
	"context"
	"time"

	"github.com/bastion-ssm/bastion/targets"
)

// askForTime bounds the call that is made for AWS's time alone. A right clock makes a good token without it.
const askForTime = 5 * time.Second

// Token returns an IAM token for a database, which is a secret: it is the user's password there.
func (a *Access) Token(ctx context.Context, e targets.Endpoint, user string) (string, error) {
	skew, known := a.clock.Skew()
	if !known { // no call was needed to find the endpoint
		asked, cancel := context.WithTimeout(ctx, askForTime)
		_, _ = a.whoami(asked) // whatever it answers
		cancel()
		skew, _ = a.clock.Skew()
	}
	e.Region = a.region
	return targets.Token(ctx, e, user, a.credentials, time.Now().Add(skew))
}
