package targets

import (
	"slices"
	"testing"

	"github.com/bastion-ssm/bastion/internal/fail"
)

func TestCacheNodes(t *testing.T) {
	node := func(id, group, host string) thing {
		return thing{id, "<CacheClusterId>" + id + "</CacheClusterId><ReplicationGroupId>" + group + "</ReplicationGroupId>" +
			"<Engine>valkey</Engine><CacheNodes><CacheNode>" + address("Endpoint", host, 6379) + "</CacheNode></CacheNodes>"}
	}
	w := shop()
	w.pageSize = 2
	w.things["DescribeCacheClusters"] = []thing{
		node("sharded-0002-001", "sharded", "b.x"), node("Sharded-0001-001", "sharded", "a.x"), node("other", "others", "o.x"),
		node("sharded-0001-002", "sharded", ""),
		{"pages", "<CacheClusterId>pages</CacheClusterId>"},
	}
	r := w.resolver(t)
	got, err := r.CacheNodes(t.Context(), "sharded")
	want := []Endpoint{
		{Name: "sharded-0001-001", Host: "a.x", Port: 6379, Engine: "valkey", TLS: true},
		{Name: "sharded-0002-001", Host: "b.x", Port: 6379, Engine: "valkey", TLS: true},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := r.CacheNodes(t.Context(), "nope"); fail.KindOf(err) != fail.NoTarget || fail.NextOf(err) == "" {
		t.Errorf("unknown: %+v, %v", got, err)
	}
	w.fails = map[string][]failure{"DescribeCacheClusters": {{403, "AccessDenied", "no"}}}
	if _, err := r.CacheNodes(t.Context(), "sharded"); fail.KindOf(err) != fail.Denied {
		t.Errorf("denied: %v", err)
	}
	if _, err := new(Resolver).CacheNodes(t.Context(), "sharded"); err == nil {
		t.Error("without a client")
	}
}

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
