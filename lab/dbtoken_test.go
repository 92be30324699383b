package lab

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/feature/rds/auth"
)

// The token is what the SDK makes; who it is for and who may use it is the lab's to check.
func TestVerifyDBToken(t *testing.T) {
	l, err := Start(t.Context(), Config{Bastiond: "none", Postgres: Off, Redis: Off, NoWeb: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := l.AddIdentity("denied", IdentityConfig{Deny: []string{"rds-db:*"}, Expires: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if err := l.AddDBInstance(DBInstance{ID: "shop", IAM: true}); err != nil {
		t.Fatal(err)
	}
	token := func(identity, endpoint string) string {
		t.Helper()
		i := slices.IndexFunc(l.profiles, func(p profile) bool { return p.name == identity })
		id := l.profiles[i].identity
		token, err := auth.BuildAuthToken(t.Context(), endpoint, Region, "ann",
			credentials.NewStaticCredentialsProvider(id.AccessKey, id.SecretKey, id.SessionToken))
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	host := l.dbHost("shop", "")
	good := token("lab", host+":5432")
	if err := l.VerifyDBToken(good, host, 5432, "ann"); err != nil {
		t.Error(err)
	}
	for _, tt := range []struct{ token, host, user, says string }{
		{good, host, "eve", `as "ann"`},
		{good, "other.example", "ann", "host"},
		{token("denied", host+":5432"), host, "ann", "rds-db:connect"},
	} {
		if err := l.VerifyDBToken(tt.token, tt.host, 5432, tt.user); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("user %s at %s: %v, want something with %q", tt.user, tt.host, err, tt.says)
		}
	}
	// The port of a database that is nowhere is 0.
	signIn := l.signIn("shop")
	if err := signIn("ann", token("lab", host+":0")); err != nil {
		t.Error(err)
	}
	l.rds.instances[0].IAM = false
	if err := signIn("ann", token("lab", host+":0")); err == nil || !strings.Contains(err.Error(), "not enabled") {
		t.Errorf("IAM is off: %v", err)
	}
}
