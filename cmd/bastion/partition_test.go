package main

import (
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/lab"
)

// In each partition a user starts a bastion, finds the databases and gets a token that RDS takes.
func TestLabPartitions(t *testing.T) {
	t.Parallel()
	for region, want := range map[string]struct{ partition, database, cache string }{
		"cn-north-1":      {"aws-cn", "orders.abc123.rds.cn-north-1.amazonaws.com.cn", "master.sessions.abc123.cnn1.cache.amazonaws.com.cn"},
		"us-gov-west-1":   {"aws-us-gov", "orders.abc123.us-gov-west-1.rds.amazonaws.com", "master.sessions.abc123.ugw1.cache.amazonaws.com"},
		"eusc-de-east-1":  {"aws-eusc", "orders.abc123.eusc-de-east-1.rds.amazonaws.eu", "cache.amazonaws.eu"},
		"us-iso-east-1":   {"aws-iso", "orders.abc123.rds.us-iso-east-1.c2s.ic.gov", "cache.c2s.ic.gov"},
		"us-isob-east-1":  {"aws-iso-b", "orders.abc123.rds.us-isob-east-1.sc2s.sgov.gov", "cache.sc2s.sgov.gov"},
		"eu-isoe-west-1":  {"aws-iso-e", "orders.abc123.rds.eu-isoe-west-1.cloud.adc-e.uk", "cache.cloud.adc-e.uk"},
		"us-isof-south-1": {"aws-iso-f", "orders.abc123.rds.us-isof-south-1.csp.hci.ic.gov", "cache.csp.hci.ic.gov"},
	} {
		t.Run(region, func(t *testing.T) {
			t.Parallel()
			e := startLab(t, func(c *lab.Config) { c.Region = region })
			up := e.must("up", "-o", "json").stdout
			if !strings.Contains(up, `"arn:`+want.partition+":ecs:"+region+":000000000000:task/bastion/") {
				t.Errorf("up: %s", up)
			}
			if s := e.must("status").stdout; strings.Contains(s, "arn:") && !strings.Contains(s, "arn:"+want.partition+":iam::") {
				t.Errorf("status: %s", s)
			}
			targets := e.must("ls", "targets").stdout
			if !strings.Contains(targets, want.database) || !strings.Contains(targets, want.cache) {
				t.Errorf("targets: %s", targets)
			}
			port := regexp.MustCompile(regexp.QuoteMeta(want.database) + `:(\d+)`).FindStringSubmatch(targets)
			if port == nil {
				t.Fatalf("no port: %s", targets)
			}
			n, err := strconv.Atoi(port[1])
			if err != nil {
				t.Fatal(err)
			}
			for _, spec := range []string{"rds:orders", net.JoinHostPort(want.database, port[1])} {
				token := strings.TrimSpace(e.must("token", spec, "--user", lab.DBIAMUser).stdout)
				if err := e.VerifyDBToken(token, want.database, n, lab.DBIAMUser); err != nil {
					t.Errorf("%s: %v", spec, err)
				}
			}
			e.must("down")
		})
	}
}
