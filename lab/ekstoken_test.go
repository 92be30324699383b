package lab_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/targets"
)

// A token of package targets is for its cluster, its signer and its minute alone. The AWS CLI's tokens are of the same form.
func TestVerifyClusterToken(t *testing.T) {
	l := start(t, quick(t))
	cfg := sdk(t, l.Env())
	caller := "arn:aws:iam::" + lab.Account + ":user/lab"
	mint := func(cluster string, at time.Time) string {
		token, err := targets.ClusterToken(t.Context(), cluster, lab.Region, cfg.Credentials, at)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	good := mint("prod", time.Now())
	if arn, err := l.VerifyClusterToken(good, "prod"); err != nil || arn != caller {
		t.Errorf("%s, %v", arn, err)
	}
	request, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(good, "k8s-aws-v1."))
	if err != nil {
		t.Fatal(err)
	}
	altered := strings.Replace(string(request), "Version=2011-06-15", "Version=2011-06-16", 1)
	for what, token := range map[string]string{
		"for another cluster": mint("dev", time.Now()), "of yesterday": mint("prod", time.Now().AddDate(0, 0, -1)),
		"of two minutes ago": mint("prod", time.Now().Add(-2*time.Minute)),
		"altered":            "k8s-aws-v1." + base64.RawURLEncoding.EncodeToString([]byte(altered)),
		"of another form":    strings.Replace(good, "k8s-aws-v1.", "k8s-aws-v2.", 1), "cut off": good[:len(good)-4], "empty": "",
	} {
		if arn, err := l.VerifyClusterToken(token, "prod"); err == nil {
			t.Errorf("a token %s is one of %s", what, arn)
		}
	}
	if token, err := targets.ClusterToken(t.Context(), "a b", lab.Region, cfg.Credentials, time.Now()); err == nil {
		t.Errorf("a token for no cluster: %s", token)
	}

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, need(t, "aws", "/usr/bin/aws"), "eks", "get-token", "--cluster-name", "prod", "--region", lab.Region,
		"--output", "json")
	cmd.Env = append(l.Environ(os.Environ()), "AWS_ENDPOINT_URL=", "AWS_STS_REGIONAL_ENDPOINTS=regional", "HOME="+t.TempDir())
	var credential struct{ Status struct{ Token string } }
	out, err := cmd.Output()
	if err != nil || json.Unmarshal(out, &credential) != nil {
		t.Fatalf("the AWS CLI's token: %v, %s", err, out)
	}
	if arn, err := l.VerifyClusterToken(credential.Status.Token, "prod"); err != nil || arn != caller {
		t.Errorf("the AWS CLI's token: %s, %v", arn, err)
	}
}
