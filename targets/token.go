package targets

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/rds/auth"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// TokenLifetime is how long a database takes a token for new connections. Those that it has let in stay.
const TokenLifetime = 15 * time.Minute

// rdsHost is a name of RDS's own, which has the region: only for such do databases take tokens.
var rdsHost = regexp.MustCompile(`(?i)^[a-z0-9.-]+\.([a-z]{2}(?:-[a-z]+)+-[0-9]+)\.rds\.amazonaws\.com(?:\.[a-z]+)?\.?$`)

// Token returns an IAM token, which is the user's password for the database at the endpoint. It is a secret. No call is made:
// whether the caller may connect is for RDS to decide when the token is used.
func Token(ctx context.Context, e Endpoint, user string, credentials aws.CredentialsProvider) (string, error) {
	op := fmt.Sprintf("make a token for %s", e.Name)
	if err := checkToken(e, user); err != nil {
		return "", err
	}
	region := rdsHost.FindStringSubmatch(e.Host)
	if region == nil {
		return "", fail.New(fail.Usage, op, fmt.Errorf("%s is not an endpoint of RDS, which alone knows tokens", e.Host),
			"name the database as rds:ID, or by its endpoint: ID.xxxx.REGION.rds.amazonaws.com:PORT")
	}
	host := strings.TrimSuffix(e.Host, ".")
	token, err := auth.BuildAuthToken(ctx, net.JoinHostPort(host, strconv.Itoa(e.Port)), strings.ToLower(region[1]), user, credentials)
	if err != nil {
		return "", fail.New(fail.Credentials, op, err, "sign in (aws sso login, aws configure) or choose a profile with --profile")
	}
	return token, nil
}

func checkToken(e Endpoint, user string) error {
	op := fmt.Sprintf("make a token for %s", e.Name)
	switch {
	case user == "":
		return fail.New(fail.Usage, op, errors.New("no database user is given"), "name the user that has the role rds_iam: --user USER")
	case len(user) > 128 || strings.ContainsFunc(user, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fail.New(fail.Usage, op, fmt.Errorf("%q is no name of a database user", clip(user)), "name a user of the database: --user USER")
	case e.Engine != "" && !strings.Contains(e.Engine, "postgres") && !strings.Contains(e.Engine, "mysql") &&
		!strings.Contains(e.Engine, "mariadb") && !strings.HasPrefix(e.Engine, "aurora"):
		return fail.New(fail.Usage, op, fmt.Errorf("RDS has no IAM authentication for %s", e.Engine),
			"sign in with a password")
	case e.Engine != "" && !e.IAM:
		return fail.New(fail.Denied, op, errors.New("IAM database authentication is not enabled on it"),
			"have it enabled (aws rds modify-db-instance --enable-iam-database-authentication, for Aurora modify-db-cluster), "+
				"or sign in with a password")
	}
	return nil
}
