package targets

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// One call that is denied, or fails, takes away no more than what it alone finds: of the list of all, and of each identifier.
func TestOnePartFails(t *testing.T) {
	found := map[string][]string{ // what each call alone finds
		"DescribeDBInstances":       {"rds:orders", "rds:stock", "rds:fresh"},
		"DescribeDBClusters":        {"rds:shop", "docdb:papers", "rds:both", "rds:coming"},
		"DescribeReplicationGroups": {"cache:sessions", "cache:coming", "cache:moving", "cache:sharded"},
		"DescribeServerlessCaches":  {"cache:elastic"},
		"DescribeCacheClusters":     {"cache:pages", "cache:single"},
	}
	for action := range found {
		for _, f := range []failure{
			{403, "AccessDenied", "User: u is not authorized to perform: x:Y because no session policy allows the x:Y action"},
			{400, "Throttling", "Rate exceeded"},
			{500, "InternalFailure", "Something broke"},
			{400, "InvalidAction", "The action is not valid for this web service"},
		} {
			t.Run(action+" "+f.code, func(t *testing.T) {
				w := shop()
				w.fails = map[string][]failure{action: {f}}
				r := w.resolver(t)
				all, err := r.All(t.Context(), RDS, Cache, DocDB, Neptune)
				if err == nil || !strings.Contains(err.Error(), f.code) {
					t.Errorf("the error of the list is %v", err)
				}
				for of, names := range found {
					for _, name := range names {
						listed := slices.ContainsFunc(all, func(e Found) bool { return e.Name == name })
						if listed != (of != action) {
							t.Errorf("%s is listed: %v", name, listed)
						}
						if name == "rds:fresh" || strings.HasSuffix(name, ":coming") || name == "rds:both" {
							continue // these have no endpoint, or are of both
						}
						e, err := r.Resolve(t.Context(), mustParse(t, name))
						switch {
						case of != action && (err != nil || e.Name != name):
							t.Errorf("%s: %+v, %v", name, e, err)
						case of == action && (err == nil || !strings.Contains(err.Error(), f.code) || fail.KindOf(err) == fail.NoTarget):
							t.Errorf("%s: %+v, %v", name, e, err)
						}
					}
				}
			})
		}
	}
}

// An endpoint of one service that is out of reach takes away the list of that service alone.
func TestOneServiceOutOfReach(t *testing.T) {
	for _, of := range []Kind{RDS, Cache} {
		w := shop()
		w.cut = map[Kind]string{RDS: "rds", Cache: "elasticache"}[of]
		r := w.resolver(t)
		all, err := r.All(t.Context(), RDS, Cache)
		if err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("without %v: %v", of, err)
		}
		for _, kind := range []Kind{RDS, Cache} {
			listed := slices.ContainsFunc(all, func(e Found) bool { return strings.HasPrefix(e.Name, Spec{Kind: kind}.String()+":") })
			if listed != (kind != of) {
				t.Errorf("without %v: %v is listed: %v", of, kind, listed)
			}
		}
	}
}

// The only candidate that could be seen is used, with a note, and none is told as the failure that it is.
func TestBareKindInPart(t *testing.T) {
	w := &wire{
		things: map[string][]thing{"DescribeReplicationGroups": {group("sessions", "available", "sessions.ng.x", "")}},
		fails:  map[string][]failure{"DescribeServerlessCaches": {{403, "AccessDenied", "no"}}},
	}
	e, err := w.resolver(t).Resolve(t.Context(), mustParse(t, "cache"))
	if err != nil || e.Name != "cache:sessions" || !strings.Contains(e.StatusNote, "without a look at the serverless caches") ||
		!strings.Contains(e.StatusNote, "AccessDenied") {
		t.Errorf("%+v, %v", e, err)
	}
	w.things = nil
	_, err = w.resolver(t).Resolve(t.Context(), mustParse(t, "cache"))
	if fail.KindOf(err) != fail.Denied || !strings.Contains(fmt.Sprint(err), "AccessDenied") {
		t.Errorf("%v", err)
	}
}

// What every call would be answered ends them all.
func TestAllPartsFail(t *testing.T) {
	w := shop()
	expired := []failure{{403, "ExpiredToken", "The security token included in the request is expired"}}
	w.fails = map[string][]failure{"DescribeReplicationGroups": expired, "DescribeServerlessCaches": expired, "DescribeCacheClusters": expired}
	_, err := w.resolver(t).Resolve(t.Context(), mustParse(t, "cache:pages"))
	if fail.KindOf(err) != fail.Credentials || len(w.made()) != 1 {
		t.Errorf("%v", err)
	}
}

// The list has all engines of RDS's API by the kinds they are; a bare rds leaves out those that are no RDS, and knows them by name.
func TestNeptuneAndDocumentDB(t *testing.T) {
	w := &wire{things: map[string][]thing{"DescribeDBClusters": {
		cluster("graph", "neptune", "available", "graph.x", "graph-ro.x", 8182),
		cluster("papers", "docdb", "available", "papers.x", "papers-ro.x", 27017),
		cluster("shop", "aurora-mysql", "available", "shop.x", "shop-ro.x", 3306),
	}}}
	r := w.resolver(t)
	for _, tt := range []struct {
		only []Kind
		want []string
	}{
		{[]Kind{RDS, DocDB, Neptune}, []string{"docdb:papers", "neptune:graph", "rds:shop"}},
		{[]Kind{RDS}, []string{"rds:shop"}},
		{[]Kind{Neptune}, []string{"neptune:graph"}},
	} {
		all, err := r.All(t.Context(), tt.only...)
		var names []string
		for _, e := range all {
			names = append(names, e.Name)
		}
		if calls := w.made(); err != nil || !slices.Equal(names, tt.want) || len(calls) != 2 {
			t.Errorf("%q, %v; calls %q", names, err, calls)
		}
	}
	for spec, want := range map[string]string{"docdb": "docdb:papers", "neptune": "neptune:graph", "docdb:papers/reader": "docdb:papers/reader"} {
		if e, err := r.Resolve(t.Context(), mustParse(t, spec)); err != nil || e.Name != want {
			t.Errorf("%s: %+v, %v", spec, e, err)
		}
	}
	if e, err := r.Resolve(t.Context(), mustParse(t, "neptune:papers")); fail.KindOf(err) != fail.NoTarget {
		t.Errorf("a cluster of another kind: %+v, %v", e, err)
	}
	if e, err := r.Resolve(t.Context(), mustParse(t, "rds:papers")); err != nil || e.Name != "rds:papers" {
		t.Errorf("%+v, %v", e, err)
	}
	if e, err := r.Resolve(t.Context(), mustParse(t, "rds")); err != nil || e.Name != "rds:shop" {
		t.Errorf("%+v, %v", e, err)
	}
}

// A member of a cluster has the cluster's IAM authentication, whatever its own flag says.
func TestMembersIAM(t *testing.T) {
	const on = "<IAMDatabaseAuthenticationEnabled>true</IAMDatabaseAuthenticationEnabled>"
	with := func(base thing, xml string) thing { return thing{base.id, base.xml + xml} }
	for name, tt := range map[string]struct {
		instance, cluster string
		fails             map[string][]failure
		want              bool
		calls             int
	}{
		"both":                           {on, on, nil, true, 1},
		"the cluster alone":              {"", on, nil, true, 2},
		"neither":                        {"", "", nil, false, 2},
		"the cluster cannot be asked":    {"", on, map[string][]failure{"DescribeDBClusters": {{403, "AccessDenied", "no"}}}, true, 2},
		"a single instance has its own":  {"", "", nil, false, 1},
		"a single instance that has one": {on, "", nil, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			db := with(instance("shop-1", "aurora-postgresql", "available", "shop-1.x", 5432), tt.instance)
			if !strings.HasPrefix(name, "a single") {
				db = member("shop", db)
			}
			w := &wire{fails: tt.fails, things: map[string][]thing{
				"DescribeDBInstances": {db},
				"DescribeDBClusters":  {with(cluster("shop", "aurora-postgresql", "available", "shop.x", "shop-ro.x", 5432), tt.cluster)},
			}}
			e, err := w.resolver(t).Resolve(t.Context(), mustParse(t, "rds:shop-1"))
			if calls := w.made(); err != nil || e.IAM != tt.want || len(calls) != tt.calls {
				t.Errorf("%+v, %v; calls %q", e, err, calls)
			}
		})
	}
}

// A cluster without a replica may have no reader endpoint: that is no matter of time.
func TestNoReaderEndpoint(t *testing.T) {
	w := &wire{things: map[string][]thing{"DescribeReplicationGroups": {group("sessions", "available", "sessions.ng.x", "")}}}
	_, err := w.resolver(t).Resolve(t.Context(), mustParse(t, "cache:sessions/reader"))
	if fail.KindOf(err) != fail.NoTarget || !strings.Contains(fmt.Sprint(err), "no reader endpoint") || !strings.Contains(fail.NextOf(err), "leave /reader away") {
		t.Errorf("%v, next step %q", err, fail.NextOf(err))
	}
}
