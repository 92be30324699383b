package access

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/targets"
)

// A token is signed by AWS's clock, whether a call was needed to find the database or not. Small differences are none.
func TestTokenByTheClockOfAWS(t *testing.T) {
	const host = "orders.abc123.eu-central-1.rds.amazonaws.com"
	for name, skew := range map[string]time.Duration{
		"ahead": 2 * time.Hour, "behind": -20 * time.Minute, "right": 0, "almost right": 20 * time.Second,
	} {
		for _, spec := range []string{"rds:orders", host + ":5432"} {
			t.Run(name+"/"+spec, func(t *testing.T) {
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					w.Header().Set("Date", time.Now().Add(skew).UTC().Format(http.TimeFormat))
					if strings.Contains(string(body), "Action=DescribeDBInstances") {
						fmt.Fprintf(w, `<R><DescribeDBInstancesResult><DBInstances><DBInstance><DBInstanceIdentifier>orders</DBInstanceIdentifier>`+
							`<Engine>postgres</Engine><DBInstanceStatus>available</DBInstanceStatus><Endpoint><Address>%s</Address><Port>5432</Port></Endpoint>`+
							`<IAMDatabaseAuthenticationEnabled>true</IAMDatabaseAuthenticationEnabled>`+
							`</DBInstance></DBInstances></DescribeDBInstancesResult></R>`, host)
						return
					}
					_, _ = io.WriteString(w, `<R><GetCallerIdentityResult><Arn>arn:aws:iam::1:user/a</Arn></GetCallerIdentityResult></R>`)
				}))
				defer server.Close()
				for name, value := range map[string]string{
					"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "made-up", "AWS_REGION": "eu-central-1", "AWS_ENDPOINT_URL": server.URL,
				} {
					t.Setenv(name, value)
				}
				s, err := config.FromTexts(nil)
				if err != nil {
					t.Fatal(err)
				}
				a, err := New(t.Context(), s, Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer a.Close()
				parsed, err := targets.Parse(spec)
				if err != nil {
					t.Fatal(err)
				}
				found, err := a.Resolve(t.Context(), []targets.Spec{parsed})
				if err != nil {
					t.Fatal(err)
				}
				before := time.Now()
				token, err := a.Token(t.Context(), found[0], "app")
				if err != nil {
					t.Fatal(err)
				}
				u, err := url.Parse("https://" + token)
				if err != nil {
					t.Fatal(err)
				}
				signed, err := time.Parse("20060102T150405Z", u.Query().Get("X-Amz-Date"))
				if err != nil {
					t.Fatal(err)
				}
				if skew == 20*time.Second {
					skew = 0
				}
				// Dates have whole seconds.
				if early, late := before.Add(skew-3*time.Second), time.Now().Add(skew+3*time.Second); signed.Before(early) || signed.After(late) {
					t.Errorf("signed at %v, want %v to %v", signed, early, late)
				}
			})
		}
	}
}

// The bastion compares a grant's end with its clock, and this machine plans the renewal by its own.
func TestGrantByTheClockOfAWS(t *testing.T) {
	a := testAccess(t, Settings{Grant: config.Grant{Lifetime: time.Hour}})
	for _, skew := range []time.Duration{0, 30 * time.Minute, -90 * time.Minute} {
		a.clock.Learn(skew)
		want := max(time.Hour+skew, time.Second)
		if got := a.grantLifetime(); got != want {
			t.Errorf("skew %v: %v, want %v", skew, got, want)
		}
	}
}
