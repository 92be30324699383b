package targets

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/bastion-ssm/bastion/internal/fail"
)

var at = time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC)

const ordersHost = "orders.abc123.eu-central-1.rds.amazonaws.com"

// The lab's verifier, which shares no code with the signer, shows whether a token is valid for RDS. This test checks its parts.
func TestToken(t *testing.T) {
	keys := credentials.NewStaticCredentialsProvider("AKIAEXAMPLE", "secret", "session+token")
	e := Endpoint{Name: "rds:orders", Host: ordersHost, Port: 5432, Engine: "postgres", IAM: true}
	token, err := Token(t.Context(), e, "app user", keys, at)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse("https://" + token)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	for key, want := range map[string]string{
		"Action": "connect", "DBUser": "app user", "X-Amz-Expires": "900", "X-Amz-Security-Token": "session+token",
		"X-Amz-Date": "20260301T123000Z",
	} {
		if got := q.Get(key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	if u.Host != ordersHost+":5432" {
		t.Errorf("made for %s", u.Host)
	}
	if c := q.Get("X-Amz-Credential"); !strings.HasSuffix(c, "/eu-central-1/rds-db/aws4_request") {
		t.Errorf("credential %s", c)
	}
	if strings.Contains(token, "secret") {
		t.Error("the secret key is in the token")
	}
	// AWS's flag counts, also of an engine that nobody has heard of.
	e.Engine = "tomorrow"
	if _, err := Token(t.Context(), e, "app user", keys, at); err != nil {
		t.Error(err)
	}
	// A host of RDS that is named as such is as good; its region is its own, whatever the client's is.
	for host, region := range map[string]string{
		"X.cluster-ro-1.cn-north-1.rds.amazonaws.com.cn.":      "cn-north-1",
		"orders.abc.rds.cn-northwest-1.amazonaws.com.cn":       "cn-northwest-1",
		"pool.proxy-abc.us-gov-west-1.rds.amazonaws.com":       "us-gov-west-1",
		"c.cluster-custom-abc.eusc-de-east-1.rds.amazonaws.eu": "eusc-de-east-1",
		"orders.abc.rds.us-iso-east-1.c2s.ic.gov":              "us-iso-east-1",
		"world.global-abc.global.rds.amazonaws.com":            "eu-west-3", // the client's
	} {
		e = Endpoint{Name: host, Host: host, Port: 3306, Region: "eu-west-3"}
		token, err = Token(t.Context(), e, "app", keys, at)
		if err != nil || !strings.Contains(token, "%2F"+region+"%2Frds-db%2F") ||
			!strings.HasPrefix(token, strings.TrimSuffix(host, ".")+":3306") {
			t.Errorf("%s: %v: %s", host, err, token)
		}
	}
}

func TestTokenErrors(t *testing.T) {
	keys := credentials.NewStaticCredentialsProvider("AKIAEXAMPLE", "secret", "")
	good := Endpoint{Name: "rds:orders", Host: ordersHost, Port: 5432, Engine: "postgres", IAM: true}
	for name, tt := range map[string]struct {
		change func(*Endpoint)
		user   string
		kind   fail.Kind
		says   string
	}{
		"no user":        {nil, "", fail.Usage, "--user"},
		"a strange user": {nil, "a\nb", fail.Usage, "--user"},
		"not enabled":    {func(e *Endpoint) { e.IAM = false }, "app", fail.Denied, "--enable-iam-database-authentication"},
		"oracle":         {func(e *Endpoint) { e.Engine = "oracle-ee" }, "app", fail.Usage, "password"},
		"Neptune":        {func(e *Endpoint) { e.Engine = "neptune" }, "app", fail.Usage, "neptune-db"},
		"DocumentDB":     {func(e *Endpoint) { e.Engine = "docdb" }, "app", fail.Usage, "MONGODB-AWS"},
		"no RDS host":    {func(e *Endpoint) { *e = Endpoint{Name: "db", Host: "db.internal", Port: 5432} }, "app", fail.Usage, "rds:ID"},
		"an address":     {func(e *Endpoint) { *e = Endpoint{Name: "db", Host: "10.0.0.1", Port: 5432} }, "app", fail.Usage, "rds:ID"},
		"China's name": {
			func(e *Endpoint) { *e = Endpoint{Name: "db", Host: "db.internal", Port: 5432, Region: "cn-north-1"} }, "app", fail.Usage,
			"ID.xxxx.rds.cn-north-1.amazonaws.com.cn:PORT",
		},
		"a name of two partitions": {
			func(e *Endpoint) { e.Host = "orders.abc.cn-north-1.rds.amazonaws.com" }, "app", fail.Usage, "rds:ID",
		},
		"a global name, no region": {
			func(e *Endpoint) { e.Host = "world.global-abc.global.rds.amazonaws.com" }, "app", fail.Usage, "rds:ID",
		},
	} {
		e := good
		if tt.change != nil {
			tt.change(&e)
		}
		token, err := Token(t.Context(), e, tt.user, keys, at)
		if fail.KindOf(err) != tt.kind || !strings.Contains(fail.NextOf(err), tt.says) || token != "" {
			t.Errorf("%s: %q, %v (next: %s)", name, token, err, fail.NextOf(err))
		}
	}
	noKeys := aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{}, errors.New("expired")
	})
	_, err := Token(t.Context(), good, "app", noKeys, at)
	if fail.KindOf(err) != fail.Credentials || fail.NextOf(err) == "" {
		t.Errorf("without credentials: %v", err)
	}
}
