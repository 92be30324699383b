package targets

import (
	"slices"
	"testing"
)

func TestClusterPermits(t *testing.T) {
	for want, e := range map[string]Endpoint{
		"*:*":         {Host: "cache.internal", Port: 7000},
		"*:6379":      {Host: "clustercfg.x.cache.amazonaws.com", Port: 6379, Engine: "redis"},
		"*:6379-6380": {Host: "x.serverless.euc1.cache.amazonaws.com", Port: 6379, Engine: "valkey"},
	} {
		if got := e.ClusterPermits(); !slices.Equal(got, []string{want}) {
			t.Errorf("%+v: %q", e, got)
		}
	}
}
