package targets

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// shop is an account with some of everything.
func shop() *wire {
	return &wire{things: map[string][]thing{
		"DescribeDBInstances": {
			instance("orders", "postgres", "available", "orders.rds.x", 5432),
			instance("stock", "mysql", "available", "stock.rds.x", 3307),
			instance("fresh", "postgres", "creating", "", 0),
			member(
				"shop",
				instance("shop-1", "aurora-postgresql", "available", "shop-1.rds.x", 5432),
			),
			member("papers", instance("papers-1", "docdb", "available", "papers-1.x", 27017)),
			member("both", instance("both", "aurora-mysql", "available", "both.x", 3306)),
		},
		"DescribeDBClusters": {
			cluster("shop", "aurora-postgresql", "available", "shop.cluster-x", "shop.cluster-ro-x", 5432),
			cluster("papers", "docdb", "available", "papers.cluster-x", "papers.cluster-ro-x", 27017),
			cluster("both", "aurora-mysql", "available", "both.cluster-x", "both.cluster-ro-x", 3306),
			cluster("coming", "aurora-mysql", "creating", "", "", 0),
		},
		"DescribeReplicationGroups": {
			group("sessions", "available", "sessions.ng.x", "sessions-ro.ng.x"),
			group("coming", "creating", "", ""),
			{"moving", "<ReplicationGroupId>moving</ReplicationGroupId><Status>modifying</Status>" +
				"<TransitEncryptionEnabled>true</TransitEncryptionEnabled><TransitEncryptionMode>preferred</TransitEncryptionMode>" +
				"<NodeGroups><NodeGroup>" + address("PrimaryEndpoint", "moving.x", 6379) + "</NodeGroup></NodeGroups>"},
			{"sharded", "<ReplicationGroupId>sharded</ReplicationGroupId><Status>available</Status><Engine>valkey</Engine>" +
				"<ClusterEnabled>true</ClusterEnabled><TransitEncryptionEnabled>true</TransitEncryptionEnabled>" +
				"<TransitEncryptionMode>required</TransitEncryptionMode>" + address("ConfigurationEndpoint",
				"clustercfg.sharded.x", 6379)},
		},
		"DescribeServerlessCaches": {
			{"elastic", "<ServerlessCacheName>elastic</ServerlessCacheName><Status>available</Status><Engine>valkey</Engine>" +
				address("Endpoint", "elastic.serverless.x", 6379) + address("ReaderEndpoint", "elastic.serverless.x", 6380)},
		},
		"DescribeCacheClusters": {
			{
				"pages",
				"<CacheClusterId>pages</CacheClusterId><CacheClusterStatus>available</CacheClusterStatus><Engine>memcached</Engine>" +
					address(
						"ConfigurationEndpoint",
						"pages.cfg.x",
						11211,
					),
			},
			{
				"single",
				"<CacheClusterId>single</CacheClusterId><CacheClusterStatus>available</CacheClusterStatus><Engine>redis</Engine>" +
					"<CacheNodes><CacheNode>" + address("Endpoint", "single.0001.x", 6379) + "</CacheNode></CacheNodes>",
			},
			{"sessions-001", "<CacheClusterId>sessions-001</CacheClusterId><CacheClusterStatus>available</CacheClusterStatus>" +
				"<Engine>redis</Engine><ReplicationGroupId>sessions</ReplicationGroupId>" +
				"<CacheNodes><CacheNode>" + address("Endpoint", "sessions-001.x", 6379) + "</CacheNode></CacheNodes>"},
		},
	}}
}

func TestResolve(t *testing.T) {
	r := shop().resolver(t)
	r.Names = map[string]Named{
		"main":    {Target: "rds:orders"},
		"web":     {Target: "web.internal:80"},
		"sibling": {Target: "web:8080"},
	}
	for _, tt := range []struct {
		spec string
		want Endpoint
	}{
		{"rds:orders", Endpoint{Name: "rds:orders", Host: "orders.rds.x", Port: 5432, Engine: "postgres"}},
		{"rds:Orders:5433", Endpoint{Name: "rds:orders", Host: "orders.rds.x", Port: 5433, Engine: "postgres"}},
		{"rds:stock", Endpoint{Name: "rds:stock", Host: "stock.rds.x", Port: 3307, Engine: "mysql"}},
		{"rds:shop", Endpoint{Name: "rds:shop", Host: "shop.cluster-x", Port: 5432, Engine: "aurora-postgresql"}},
		{"rds:shop/writer", Endpoint{
			Name: "rds:shop/writer", Host: "shop.cluster-x", Port: 5432,
			Engine: "aurora-postgresql",
		}},
		{"rds:shop/reader", Endpoint{
			Name: "rds:shop/reader", Host: "shop.cluster-ro-x", Port: 5432,
			Engine: "aurora-postgresql",
		}},
		{"rds:shop-1", Endpoint{
			Name: "rds:shop-1", Host: "shop-1.rds.x", Port: 5432,
			Engine: "aurora-postgresql",
		}},
		{"rds:both", Endpoint{Name: "rds:both", Host: "both.x", Port: 3306, Engine: "aurora-mysql"}},
		{"rds:both/writer", Endpoint{Name: "rds:both/writer", Host: "both.cluster-x", Port: 3306, Engine: "aurora-mysql"}},
		{"rds:papers", Endpoint{Name: "rds:papers", Host: "papers.cluster-x", Port: 27017, Engine: "docdb"}},
		{"rds:3307", Endpoint{Name: "rds:stock", Host: "stock.rds.x", Port: 3307, Engine: "mysql"}},
		{"cache:sessions", Endpoint{Name: "cache:sessions", Host: "sessions.ng.x", Port: 6379, Engine: "redis"}},
		{"cache:sessions/reader", Endpoint{
			Name: "cache:sessions/reader", Host: "sessions-ro.ng.x", Port: 6379,
			Engine: "redis",
		}},
		{"cache:sharded", Endpoint{
			Name: "cache:sharded", Host: "clustercfg.sharded.x", Port: 6379, Engine: "valkey", TLS: true,
			Note: clusterModeNote, Cluster: true,
		}},
		{"cache:elastic", Endpoint{
			Name: "cache:elastic", Host: "elastic.serverless.x", Port: 6379, Engine: "valkey",
			TLS: true, Note: clusterModeNote, Cluster: true,
		}},
		{"cache:elastic/reader", Endpoint{
			Name: "cache:elastic/reader", Host: "elastic.serverless.x", Port: 6380, Engine: "valkey",
			TLS: true, Note: clusterModeNote, Cluster: true,
		}},
		{"cache:moving", Endpoint{Name: "cache:moving", Host: "moving.x", Port: 6379, Engine: "redis"}}, // TLS: not yet
		{"cache:pages", Endpoint{Name: "cache:pages", Host: "pages.cfg.x", Port: 11211, Engine: "memcached"}},
		{"cache:single", Endpoint{Name: "cache:single", Host: "single.0001.x", Port: 6379, Engine: "redis"}},
		{"cache:sessions-001", Endpoint{Name: "cache:sessions-001", Host: "sessions-001.x", Port: 6379, Engine: "redis"}},
		{"cache:11211", Endpoint{Name: "cache:pages", Host: "pages.cfg.x", Port: 11211, Engine: "memcached"}},
		{"main", Endpoint{Name: "main", Host: "orders.rds.x", Port: 5432, Engine: "postgres"}},
		{"main:1", Endpoint{Name: "main", Host: "orders.rds.x", Port: 1, Engine: "postgres"}},
		{"web", Endpoint{Name: "web", Host: "web.internal", Port: 80}},
		{"web:81", Endpoint{Name: "web", Host: "web.internal", Port: 81}},
		{"sibling", Endpoint{Name: "sibling", Host: "web", Port: 8080}}, // the host web: names do not stand for names
		{"other:81", Endpoint{Name: "other:81", Host: "other", Port: 81}},
		{"db.internal:5432", Endpoint{Name: "db.internal:5432", Host: "db.internal", Port: 5432}},
		{"[2001:db8::1]:5432", Endpoint{Name: "[2001:db8::1]:5432", Host: "2001:db8::1", Port: 5432}},
	} {
		if got, err := r.Resolve(t.Context(), mustParse(t, tt.spec)); err != nil || got != tt.want {
			t.Errorf("Resolve(%s) = %+v, %v\nwant %+v", tt.spec, got, err, tt.want)
		}
	}
}

// What clients are told about a database besides where it is.
func TestResolveDatabase(t *testing.T) {
	with := func(t thing, more string) thing { return thing{t.id, t.xml + more} }
	r := (&wire{things: map[string][]thing{
		"DescribeDBInstances": {with(instance("orders", "postgres", "available", "orders.rds.x", 5432),
			"<DBName>sales</DBName><IAMDatabaseAuthenticationEnabled>true</IAMDatabaseAuthenticationEnabled>")},
		"DescribeDBClusters": {with(cluster("shop", "aurora-mysql", "available", "shop.cluster-x", "shop.cluster-ro-x", 3306),
			"<DatabaseName>shop</DatabaseName><IAMDatabaseAuthenticationEnabled>true</IAMDatabaseAuthenticationEnabled>")},
	}}).resolver(t)
	for spec, want := range map[string]string{"rds:orders": "sales", "rds:shop": "shop", "rds:shop/reader": "shop"} {
		got, err := r.Resolve(t.Context(), mustParse(t, spec))
		if err != nil || got.Database != want || !got.IAM {
			t.Errorf("Resolve(%s) = %+v, %v; want the database %s and IAM", spec, got, err, want)
		}
	}
}

func TestResolveErrors(t *testing.T) {
	r := shop().resolver(t)
	r.Names = map[string]Named{
		"orders-db": {Target: "rds:orders"},
		"loop":      {Target: "loop"},
		"bad":       {Target: "rds:"},
		"gone":      {Target: "rds:gone"},
	}
	for _, tt := range []struct {
		spec string
		kind fail.Kind
		want []string // in the message
		next string   // in the next step
	}{
		{
			"rds:ordesr", fail.NoTarget,
			[]string{`no RDS instance or cluster "ordesr" in eu-central-1`},
			"did you mean rds:orders?",
		},
		{
			"rds:zzz", fail.NoTarget,
			[]string{`"zzz"`},
			"there are: rds:both (aurora-mysql), rds:coming (aurora-mysql, creating)",
		},
		{"rds:fresh", fail.NoTarget, []string{"RDS instance fresh has no endpoint yet", `"creating"`}, "wait until"},
		{"rds:coming", fail.NoTarget, []string{"RDS cluster coming has no endpoint yet", `"creating"`}, "wait until"},
		{"rds:orders/reader", fail.NoTarget, []string{"RDS instance orders has no reader endpoint"}, "leave /reader away"},
		{"rds", fail.NoTarget, []string{
			"4 candidates in eu-central-1",
			"rds:both (aurora-mysql), rds:orders (postgres), rds:shop (aurora-postgresql), rds:stock (mysql)",
		}, "name one of them"},
		{
			"rds:5432", fail.NoTarget,
			[]string{"2 candidates", "rds:orders (postgres), rds:shop (aurora-postgresql)"},
			"name one",
		},
		{"cache", fail.NoTarget, []string{
			"6 candidates", "cache:elastic (valkey), cache:moving (redis), cache:pages (memcached), cache:sessions (redis), " +
				"cache:sharded (valkey), " +
				"cache:single (redis)",
		}, "name one"},
		{"cache:sesions", fail.NoTarget, []string{`no ElastiCache cache "sesions"`}, "did you mean cache:sessions"},
		{"cache:coming", fail.NoTarget, []string{"replication group coming has no endpoint yet", `"creating"`}, "wait until"},
		{
			"cache:sharded/reader", fail.NoTarget,
			[]string{"replication group sharded has no reader endpoint"},
			"leave /reader",
		},
		{"orders", fail.NoTarget, []string{`target "orders": there is no such name in the configuration`}, "did you mean orders-db?"},
		{"qqqqqq", fail.NoTarget, []string{"there is no such name in the configuration"}, "rds:qqqqqq"},
		{"loop", fail.Usage, []string{`"loop" is a name too`}, "stands for"},
		{"bad", fail.Usage, []string{`target "bad" in the configuration`, "identifier is empty"}, ""},
		{"gone", fail.NoTarget, []string{`target "gone": target rds:gone`}, "there are"},
	} {
		got, err := r.Resolve(t.Context(), mustParse(t, tt.spec))
		checkError(t, tt.spec, got, err, tt.kind, tt.want, tt.next)
	}
	got, err := r.Resolve(t.Context(), Spec{})
	checkError(t, "zero", got, err, fail.Usage, []string{"no target given"}, "rds:ID")
	got, err = (&Resolver{}).Resolve(t.Context(), mustParse(t, "rds"))
	checkError(t, "no client", got, err, fail.Usage, []string{"needs AWS"}, "--profile")
	got, err = (&Resolver{}).Resolve(t.Context(), mustParse(t, "cache:x"))
	checkError(t, "no client", got, err, fail.Usage, []string{"needs AWS"}, "--profile")
}

// TestResolveOnly looks at accounts with one candidate or none.
func TestResolveOnly(t *testing.T) {
	w := &wire{things: map[string][]thing{
		"DescribeDBInstances": {
			member("papers", instance("papers-1", "docdb", "available", "papers-1.x", 27017)),
			instance("orders", "postgres", "available", "orders.x", 0),
			instance("fresh", "postgres", "creating", "", 0),
		},
		"DescribeDBClusters": {cluster("papers", "docdb", "available", "papers.cluster-x", "papers.cluster-ro-x", 27017)},
	}}
	r := w.resolver(t)
	// The only one that can be reached; its port by its engine, as AWS named none; DocumentDB is not meant by "rds".
	for spec, port := range map[string]int{"rds": 5432, "rds:5555": 5555} {
		want := Endpoint{Name: "rds:orders", Host: "orders.x", Port: port, Engine: "postgres"}
		if got, err := r.Resolve(t.Context(), mustParse(t, spec)); err != nil || got != want {
			t.Errorf("Resolve(%s) = %+v, %v; want %+v", spec, got, err, want)
		}
	}
	got, err := r.Resolve(t.Context(), mustParse(t, "cache"))
	checkError(t, "cache", got, err, fail.NoTarget, []string{"there is no ElastiCache cache in eu-central-1"}, "--region")
	got, err = r.Resolve(t.Context(), mustParse(t, "cache:x"))
	checkError(t, "cache:x", got, err, fail.NoTarget, []string{`"x"`}, "none at all")

	w.things["DescribeDBInstances"] = w.things["DescribeDBInstances"][2:]
	got, err = r.Resolve(t.Context(), mustParse(t, "rds"))
	checkError(t, "only creating", got, err, fail.NoTarget, []string{"fresh has no endpoint yet", `"creating"`}, "wait")

	w.things["DescribeDBInstances"] = []thing{instance("odd", "sqlx", "available", "odd.x", 0)}
	got, err = r.Resolve(t.Context(), mustParse(t, "rds"))
	checkError(t, "no port", got, err, fail.Usage, []string{`engine "sqlx" has no usual`}, "rds:odd:PORT")
}

// TestResolvePages looks for the last of many in pages of two, and counts all of them for a bare kind.
func TestResolvePages(t *testing.T) {
	w := &wire{pageSize: 2, things: make(map[string][]thing)}
	for i := range 7 {
		id := fmt.Sprintf("db%d", i)
		w.things["DescribeDBInstances"] = append(
			w.things["DescribeDBInstances"],
			instance(id, "postgres", "available", id+".x", 5432),
		)
		w.things["DescribeDBClusters"] = append(w.things["DescribeDBClusters"],
			cluster("cl"+id, "aurora-mysql", "available", id+".cluster-x", id+".cluster-ro-x", 3306))
		w.things["DescribeReplicationGroups"] = append(
			w.things["DescribeReplicationGroups"],
			group("rg"+id, "available", id+".x", ""),
		)
		w.things["DescribeServerlessCaches"] = append(w.things["DescribeServerlessCaches"], thing{
			"sl" + id,
			"<ServerlessCacheName>sl" + id + "</ServerlessCacheName><Engine>redis</Engine>" + address(
				"Endpoint",
				id+".sl.x",
				6379,
			),
		})
		w.things["DescribeCacheClusters"] = append(w.things["DescribeCacheClusters"], thing{
			"cc" + id,
			"<CacheClusterId>cc" + id + "</CacheClusterId><Engine>memcached</Engine>" + address(
				"ConfigurationEndpoint",
				id+".cc.x",
				11211,
			),
		})
	}
	r := w.resolver(t)
	for spec, want := range map[string]string{
		"rds": "14 candidates", "rds:3306": "7 candidates", "rds:5432": "7 candidates", "cache": "21 candidates",
		"cache:11211": "7 candidates",
	} {
		got, err := r.Resolve(t.Context(), mustParse(t, spec))
		checkError(t, spec, got, err, fail.NoTarget, []string{want}, "name one")
	}
	_, err := r.Resolve(t.Context(), mustParse(t, "cache"))
	if err == nil || !strings.Contains(err.Error(), "and 11 more") {
		t.Errorf("a long list is not cut: %v", err)
	}
	got, err := r.Resolve(t.Context(), mustParse(t, "rds:db66"))
	checkError(t, "rds:db66", got, err, fail.NoTarget, nil, "did you mean rds:db6")
}

// TestResolveCalls: an identifier costs as few calls, and so needs as few permissions, as it can.
func TestResolveCalls(t *testing.T) {
	w := shop()
	r := w.resolver(t)
	for _, tt := range []struct {
		spec string
		want []string
	}{
		{"rds:orders", []string{"DescribeDBInstances id=orders"}},
		{"rds:shop", []string{"DescribeDBInstances id=shop", "DescribeDBClusters id=shop"}},
		{"rds:shop/reader", []string{"DescribeDBClusters id=shop"}},
		{"rds:stock:3307", []string{"DescribeDBInstances id=stock"}},
		{"cache:sessions", []string{"DescribeReplicationGroups id=sessions"}},
		{"cache:elastic", []string{"DescribeReplicationGroups id=elastic", "DescribeServerlessCaches id=elastic"}},
		{"cache:pages", []string{
			"DescribeReplicationGroups id=pages", "DescribeServerlessCaches id=pages",
			"DescribeCacheClusters id=pages",
		}},
		{"cache", []string{"DescribeCacheClusters not in groups", "DescribeReplicationGroups", "DescribeServerlessCaches"}},
		{"db.internal:5432", nil},
		{"web:5432", nil},
	} {
		if _, err := r.Resolve(
			t.Context(),
			mustParse(t, tt.spec),
		); (err != nil) != (tt.spec == "cache") { // which has several
			t.Errorf("Resolve(%s): %v", tt.spec, err)
		}
		calls := w.made()
		if tt.spec == "cache" { // they are made at once
			slices.Sort(calls)
		}
		if !slices.Equal(calls, tt.want) {
			t.Errorf("Resolve(%s) calls %q, want %q", tt.spec, calls, tt.want)
		}
	}
}

// TestResolveDenied: each call's AccessDenied names the permission to ask for; the same for other failures of the
// service.
func TestResolveDenied(t *testing.T) {
	for action, spec := range map[string]string{
		"DescribeDBInstances":       "rds:orders",
		"DescribeDBClusters":        "rds:shop",
		"DescribeReplicationGroups": "cache:sessions",
		"DescribeServerlessCaches":  "cache:elastic",
		"DescribeCacheClusters":     "cache:pages",
	} {
		service := "rds:"
		if strings.HasPrefix(spec, "cache") {
			service = "elasticache:"
		}
		for _, f := range []struct {
			failure
			kind  fail.Kind
			next  string
			calls int
		}{
			{failure{403, "AccessDenied", "User: u is not authorized"}, fail.Denied, "ask for the IAM permission " + service +
				action, 1},
			{failure{403, "ExpiredToken", "The security token is expired"}, fail.Credentials, "sign in again", 1},
			{failure{403, "InvalidClientTokenId", "The token is invalid"}, fail.Credentials, "check the AWS credentials", 1},
			{failure{400, "Throttling", "Rate exceeded"}, fail.Other, "wait a minute", 3},
		} {
			w := shop()
			w.fails = map[string][]failure{action: {f.failure}}
			got, err := w.resolver(t).Resolve(t.Context(), mustParse(t, spec))
			checkError(t, spec+" "+f.code, got, err, f.kind, []string{"look up target " + spec, f.code}, f.next)
			calls := 0
			for _, call := range w.made() {
				if strings.HasPrefix(call, action) {
					calls++
				}
			}
			if calls != f.calls {
				t.Errorf("%s %s: %d calls, want %d", action, f.code, calls, f.calls)
			}
		}
	}
}

// TestResolveThrottled: two throttled answers are retried, unseen.
func TestResolveThrottled(t *testing.T) {
	w := shop()
	throttled := failure{400, "Throttling", "Rate exceeded"}
	w.fails = map[string][]failure{"DescribeDBInstances": {throttled, throttled, {status: 200}}}
	if got, err := w.resolver(t).Resolve(t.Context(), mustParse(t, "rds:orders")); err != nil || got.Port != 5432 {
		t.Errorf("Resolve = %+v, %v", got, err)
	}
}

// TestResolveLongID: ElastiCache refuses an identifier that is too long for one kind; it may still be right for the
// next.
func TestResolveLongID(t *testing.T) {
	w := shop()
	w.fails = map[string][]failure{
		"DescribeReplicationGroups": {{400, "InvalidParameterValue", "too long"}, {status: 200}},
	}
	if got, err := w.resolver(
		t,
	).Resolve(
		t.Context(),
		mustParse(t, "cache:elastic"),
	); err != nil ||
		got.Host != "elastic.serverless.x" {
		t.Errorf("Resolve = %+v, %v", got, err)
	}
}

func TestResolveCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := shop().resolver(t).Resolve(ctx, mustParse(t, "rds"))
	if !errors.Is(err, context.Canceled) || fail.KindOf(err) != fail.Other {
		t.Errorf("Resolve = %v (kind %v)", err, fail.KindOf(err))
	}
}

func TestDefaultPort(t *testing.T) {
	for engine, want := range map[string]int{
		"postgres": 5432, "aurora-postgresql": 5432, "aurora-mysql": 3306, "aurora": 3306, "mysql": 3306, "mariadb": 3306,
		"oracle-ee": 1521, "custom-oracle-se2": 1521, "sqlserver-ex": 1433, "db2-se": 50000, "docdb": 27017, "neptune": 8182,
		"redis": 6379, "valkey": 6379, "memcached": 11211, "": 0, "sqlx": 0,
	} {
		if got := DefaultPort(engine); got != want {
			t.Errorf("DefaultPort(%q) = %d, want %d", engine, got, want)
		}
	}
}

func mustParse(t *testing.T, s string) Spec {
	t.Helper()
	spec, err := Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

func checkError(t *testing.T, what string, got Endpoint, err error, kind fail.Kind, want []string, next string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: %+v, want an error", what, got)
		return
	}
	if got != (Endpoint{}) || fail.KindOf(err) != kind {
		t.Errorf("%s: %+v, kind %v, want kind %v: %v", what, got, fail.KindOf(err), kind, err)
	}
	for _, text := range want {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%s: message %q lacks %q", what, err, text)
		}
	}
	if !strings.Contains(fail.NextOf(err), next) {
		t.Errorf("%s: next step %q lacks %q", what, fail.NextOf(err), next)
	}
}
