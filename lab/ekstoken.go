package lab

import (
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// VerifyClusterToken checks a bearer token for an EKS cluster as EKS's authenticator does: it is a signed request to the region's STS for
// the caller's identity, which names the cluster. It returns the caller's ARN.
func (l *Lab) VerifyClusterToken(token, cluster string) (arn string, err error) {
	encoded, ok := strings.CutPrefix(token, "k8s-aws-v1.")
	if !ok {
		return "", fmt.Errorf("the token %.16q has another form", token)
	}
	request, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return "", fmt.Errorf("the token is refused: %w", err)
	}
	url, ok := strings.CutPrefix(string(request), "https://")
	if !ok {
		return "", fmt.Errorf("the token is refused: its request is not by https")
	}
	id, query, err := l.identities.VerifyPresigned(url, awsapi.Presigned{
		Service: "sts", Region: l.region, Host: l.eks.partition().Endpoint("sts", l.region), Now: l.cfg.Now().UTC(), MaxAge: time.Minute,
		Headers: map[string]string{"x-k8s-aws-id": cluster},
	})
	if err != nil {
		return "", fmt.Errorf("the token is refused: %w", err)
	}
	if query.Get("Action") != "GetCallerIdentity" || query.Get("Version") != "2011-06-15" {
		return "", fmt.Errorf("the token is refused: its request is %s", query.Get("Action"))
	}
	return id.ARN, nil
}
