package awsapi

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/feature/rds/auth"
)

// The SDK's tokens are accepted, and nothing else is.
func TestVerifyPresigned(t *testing.T) {
	const endpoint = "orders.abc123.eu-central-1.rds.amazonaws.com:5432"
	var d Directory
	me := Identity{AccessKey: "ASIAEXAMPLE", SecretKey: "secret", SessionToken: "a+token/with=signs"}
	gone := Identity{AccessKey: "ASIAGONE", SecretKey: "secret", SessionToken: "t", Expires: time.Now().Add(-time.Second)}
	d.Put(me)
	d.Put(gone)
	sign := func(id Identity, endpoint, region, user string) string {
		t.Helper()
		token, err := auth.BuildAuthToken(t.Context(), endpoint, region, user,
			credentials.NewStaticCredentialsProvider(id.AccessKey, id.SecretKey, id.SessionToken))
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	want := Presigned{Service: "rds-db", Region: "eu-central-1", Host: endpoint, Now: time.Now(), MaxAge: 15 * time.Minute}
	good := sign(me, endpoint, "eu-central-1", "ann smith+é")
	id, query, err := d.VerifyPresigned(good, want)
	if err != nil || id.AccessKey != me.AccessKey || query.Get("DBUser") != "ann smith+é" || query.Get("Action") != "connect" {
		t.Errorf("%v, %v, %v", id.AccessKey, query, err)
	}

	wrongKey, wrongToken, unknown := me, me, me
	wrongKey.SecretKey, wrongToken.SessionToken, unknown.AccessKey = "other", "other", "ASIAOTHER"
	later, earlier := want, want
	later.Now, earlier.Now = want.Now.Add(16*time.Minute), want.Now.Add(-time.Hour)
	for name, tt := range map[string]struct {
		token string
		want  Presigned
		says  string
	}{
		"wrong key":          {sign(wrongKey, endpoint, "eu-central-1", "ann"), want, "signature"},
		"wrong token":        {sign(wrongToken, endpoint, "eu-central-1", "ann"), want, "credentials"},
		"unknown":            {sign(unknown, endpoint, "eu-central-1", "ann"), want, "credentials"},
		"expired identity":   {sign(gone, endpoint, "eu-central-1", "ann"), want, "expired"},
		"another region":     {sign(me, endpoint, "us-east-1", "ann"), want, "scope"},
		"another port":       {sign(me, strings.Replace(endpoint, "5432", "5433", 1), "eu-central-1", "ann"), want, "host"},
		"too late":           {good, later, "good from"},
		"too early":          {good, earlier, "good from"},
		"another user":       {strings.Replace(good, "DBUser=ann", "DBUser=eve", 1), want, "signature"},
		"another action":     {strings.Replace(good, "Action=connect", "Action=drop", 1), want, "signature"},
		"a longer life":      {strings.Replace(good, "X-Amz-Expires=900", "X-Amz-Expires=901", 1), want, "lifetime"},
		"a shorter life":     {strings.Replace(good, "X-Amz-Expires=900", "X-Amz-Expires=899", 1), want, "signature"},
		"a parameter twice":  {good + "&DBUser=eve", want, "2 times"},
		"one more parameter": {good + "&x=y", want, "signature"},
		"nothing":            {"", want, "host"},
		"only a host":        {endpoint, want, "algorithm"},
		"a bad query":        {endpoint + "/?%zz", want, "query"},
	} {
		if _, _, err := d.VerifyPresigned(tt.token, tt.want); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want something with %q", name, err, tt.says)
		}
	}
}

func TestAWSEscape(t *testing.T) {
	if got, want := awsEscape("aZ0-_.~ /+é%"), "aZ0-_.~%20%2F%2B%C3%A9%25"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, err := url.QueryUnescape(awsEscape("a b+c")); err != nil || got != "a b+c" {
		t.Errorf("%q, %v", got, err)
	}
}
