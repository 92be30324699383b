package targets

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/partition"
)

// TokenLifetime is how long a token opens new connections. Existing connections stay.
const TokenLifetime = 15 * time.Minute

// Token returns an IAM token, the user's password for the database at the endpoint. at is the time by AWS's clock. The token is
// a secret. Token makes no call: RDS checks the permission when the token is used.
func Token(ctx context.Context, e Endpoint, user string, credentials aws.CredentialsProvider, at time.Time) (string, error) {
	op := fmt.Sprintf("make a token for %s", e.Name)
	if err := checkToken(e, user); err != nil {
		return "", err
	}
	region, err := tokenRegion(e)
	if err != nil {
		return "", fail.New(fail.Usage, op, err, "name the database as rds:ID, or by its endpoint: "+
			partition.Of(e.Region).RDSName("ID.xxxx", cmp.Or(e.Region, "REGION"))+":PORT")
	}
	token, err := presign(ctx, e, user, region, credentials, at)
	if err != nil {
		return "", fail.New(fail.Credentials, op, err, awsanswer.NextSignIn)
	}
	return token, nil
}

// noBody is the SHA-256 of nothing.
const noBody = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// presign makes a token: a signed URL without its scheme. The SDK's feature/rds/auth would use this machine's clock.
func presign(ctx context.Context, e Endpoint, user, region string, credentials aws.CredentialsProvider, at time.Time) (string, error) {
	const (
		scheme  = "https://"
		service = "rds-db"
	)
	query := url.Values{"Action": {"connect"}, "DBUser": {user}, "X-Amz-Expires": {strconv.Itoa(int(TokenLifetime.Seconds()))}}
	host := net.JoinHostPort(strings.TrimSuffix(e.Host, "."), strconv.Itoa(e.Port))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+host+"?"+query.Encode(), nil)
	if err != nil {
		return "", err
	}
	keys, err := credentials.Retrieve(ctx)
	if err != nil {
		return "", err
	}
	signed, _, err := v4.NewSigner().PresignHTTP(ctx, keys, request, noBody, service, region, at.UTC())
	return strings.TrimPrefix(signed, scheme), err
}

// tokenRegion returns the region to sign a token for: the one in the endpoint's name. Databases accept tokens only for RDS's
// own names. A global database's writer endpoint has no region in its name, so the client's region must be the writer's.
func tokenRegion(e Endpoint) (string, error) {
	region, ok := partition.RDSRegion(e.Host)
	switch {
	case !ok:
		return "", fmt.Errorf("%s is not an endpoint of RDS, which alone knows tokens", e.Host)
	case region != partition.GlobalRegion:
		return region, nil
	case e.Region == "":
		return "", fmt.Errorf("%s is of a global database and names no region", e.Host)
	}
	return e.Region, nil
}

// withoutTokens are the RDS engines without IAM authentication. For other engines, AWS's flag decides.
var withoutTokens = []string{"oracle", "sqlserver", "db2"}

func hasNoTokens(engine string) bool {
	return slices.ContainsFunc(withoutTokens, func(part string) bool { return strings.Contains(engine, part) })
}

func checkToken(e Endpoint, user string) error {
	op := fmt.Sprintf("make a token for %s", e.Name)
	_, ofRDS := partition.RDSRegion(e.Host)
	switch {
	case user == "":
		return fail.New(fail.Usage, op, errors.New("no database user is given"), "name the user that has the role rds_iam: --user USER")
	case len(user) > 128 || strings.ContainsFunc(user, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fail.New(fail.Usage, op, fmt.Errorf("%q is not a name of a database user", clip(user)), "name a user of the database: --user USER")
	case strings.HasPrefix(e.Engine, "neptune"):
		return fail.New(fail.Usage, op, errors.New("it is Neptune, which takes no token as a password: with IAM authentication each request is signed"),
			"have the client sign its requests (SigV4, service neptune-db) with your AWS credentials")
	case strings.HasPrefix(e.Engine, "docdb"):
		return fail.New(fail.Usage, op, errors.New("it is DocumentDB, which takes no token as a password: with IAM authentication the driver signs"),
			"have the driver sign in with authMechanism=MONGODB-AWS, or sign in with a password")
	case hasNoTokens(e.Engine):
		return fail.New(fail.Usage, op, fmt.Errorf("RDS has no IAM authentication for %s", e.Engine),
			"sign in with a password")
	case e.Engine != "" && !e.IAM && !ofRDS:
		return fail.New(fail.Usage, op, fmt.Errorf("%s is not an endpoint of RDS, which alone knows tokens", e.Host),
			"sign in as the service does")
	case e.Engine != "" && !e.IAM:
		return fail.New(fail.Denied, op, errors.New("IAM database authentication is not enabled on it"),
			"have it enabled (aws rds modify-db-instance --enable-iam-database-authentication, for Aurora modify-db-cluster), "+
				"or sign in with a password")
	}
	return nil
}
