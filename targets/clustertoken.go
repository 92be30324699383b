package targets

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/partition"
	"github.com/bastion-ssm/bastion/internal/pattern"
)

// ClusterTokenLifetime is how long clients use a token of an EKS cluster. EKS accepts it for a minute more.
const ClusterTokenLifetime = 14 * time.Minute

const (
	clusterTokenPrefix = "k8s-aws-v1."  //nolint:gosec // G101: what every token begins with
	clusterHeader      = "x-k8s-aws-id" // signed, so that a token is for one cluster
	// clusterSigned is how long STS accepts the request in a token, in seconds. EKS makes the request with its first use.
	clusterSigned = "60"
)

var clusterName = pattern.Lazy(`^[0-9A-Za-z][0-9A-Za-z_-]{0,99}$`)

// ValidClusterName reports whether an EKS cluster can have the name.
func ValidClusterName(name string) bool { return clusterName().MatchString(name) }

// ClusterToken returns a token of the user for an EKS cluster: a signed request to STS for the caller's identity. at is the time by AWS's
// clock. The token is a secret. ClusterToken makes no call.
func ClusterToken(ctx context.Context, cluster, region string, credentials aws.CredentialsProvider, at time.Time) (string, error) {
	op := "make a token for the EKS cluster " + cluster
	if !ValidClusterName(cluster) {
		return "", fail.New(fail.Usage, op, fmt.Errorf("%q is not the name of an EKS cluster", clip(cluster)), "name the cluster: eks:NAME")
	}
	query := url.Values{"Action": {"GetCallerIdentity"}, "Version": {"2011-06-15"}, "X-Amz-Expires": {clusterSigned}}
	host := partition.Of(region).Endpoint("sts", region)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/?"+query.Encode(), http.NoBody)
	if err != nil {
		return "", fail.New(fail.Other, op, err, "")
	}
	request.Header.Set(clusterHeader, cluster)
	keys, err := credentials.Retrieve(ctx)
	if err != nil {
		return "", fail.New(fail.Credentials, op, err, awsanswer.NextSignIn)
	}
	signed, _, err := v4.NewSigner().PresignHTTP(ctx, keys, request, noBody, "sts", region, at.UTC())
	if err != nil {
		return "", fail.New(fail.Other, op, err, "")
	}
	return clusterTokenPrefix + base64.RawURLEncoding.EncodeToString([]byte(signed)), nil
}
