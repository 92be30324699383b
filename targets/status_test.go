package targets

import (
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// Each status, with an endpoint and without.
func TestStatus(t *testing.T) {
	for status, want := range map[string]struct {
		with    usability // what there is with an endpoint
		next    string    // in the next step of an instance that is down
		without string    // in the error if the endpoint is missing
	}{
		"available":                           {usable, "", "which is available"},
		"Available":                           {usable, "", "which is available"},
		"":                                    {usable, "", "no status"},
		"backing-up":                          {usable, "", "yet"},
		"configuring-log-exports":             {usable, "", "yet"},
		"modifying":                           {usable, "", "yet"},
		"snapshotting":                        {usable, "", "yet"},
		"storage-full":                        {usable, "", "yet"},
		"storage-optimization":                {usable, "", "yet"},
		"a status of next year":               {usable, "", "yet"},
		"creating":                            {passing, "", "yet"},
		"CREATING":                            {passing, "", "yet"},
		"failing-over":                        {passing, "", "yet"},
		"maintenance":                         {passing, "", "yet"},
		"rebooting":                           {passing, "", "yet"},
		"rebooting cluster nodes":             {passing, "", "yet"},
		"starting":                            {passing, "", "yet"},
		"upgrading":                           {passing, "", "yet"},
		"stopped":                             {down, "aws rds start-db-instance --db-instance-identifier x", "takes no connections"},
		"stopping":                            {down, "wait until it is stopped", "takes no connections"},
		"deleting":                            {down, "name another", "takes no connections"},
		"failed":                              {down, "events", "takes no connections"},
		"CREATE-FAILED":                       {down, "events", "takes no connections"},
		"incompatible-network":                {down, "events", "takes no connections"},
		"insufficient-capacity":               {down, "events", "takes no connections"},
		"restore-error":                       {down, "events", "takes no connections"},
		"inaccessible-encryption-credentials": {down, "events", "takes no connections"},
		"inaccessible-encryption-credentials-recoverable": {down, "start-db-instance", "takes no connections"},
	} {
		r := (&wire{things: map[string][]thing{"DescribeDBInstances": {instance("x", "postgres", status, "x.rds", 5432)}}}).resolver(t)
		for _, spec := range []string{"rds:x", "rds"} {
			got, err := r.Resolve(t.Context(), mustParse(t, spec))
			switch {
			case want.with == down:
				checkError(t, status, got, err, fail.NoTarget, []string{"takes no connections", `"` + status + `"`}, want.next)
			case err != nil || got.Host != "x.rds" || (got.StatusNote != "") != (want.with == passing):
				t.Errorf("%s, %q: %+v, %v", spec, status, got, err)
			case want.with == passing && !strings.Contains(got.StatusNote, `"`+status+`"`):
				t.Errorf("%s, %q: the note is %q", spec, status, got.StatusNote)
			}
		}
		r = (&wire{things: map[string][]thing{"DescribeDBInstances": {instance("x", "postgres", status, "", 0)}}}).resolver(t)
		if got, err := r.Resolve(t.Context(), mustParse(t, "rds:x")); fail.KindOf(err) != fail.NoTarget ||
			!strings.Contains(err.Error(), want.without) || fail.NextOf(err) == "" {
			t.Errorf("%q without an endpoint: %+v, %v", status, got, err)
		}
	}
}

// The kinds of targets whose status is of another field.
func TestStatusOfEachKind(t *testing.T) {
	for spec, w := range map[string]*wire{
		"rds:x":        {things: map[string][]thing{"DescribeDBClusters": {cluster("x", "aurora-mysql", "stopped", "x.c", "x.ro", 3306)}}},
		"rds:x/reader": {things: map[string][]thing{"DescribeDBClusters": {cluster("x", "aurora-mysql", "stopped", "x.c", "x.ro", 3306)}}},
		"cache:x":      {things: map[string][]thing{"DescribeReplicationGroups": {group("x", "create-failed", "x.ng", "x.ro")}}},
		"cache:y": {things: map[string][]thing{"DescribeServerlessCaches": {{"y", "<ServerlessCacheName>y</ServerlessCacheName>" +
			"<Status>DELETING</Status><Engine>valkey</Engine>" + address("Endpoint", "y.x", 6379)}}}},
		"cache:z": {things: map[string][]thing{"DescribeCacheClusters": {{"z", "<CacheClusterId>z</CacheClusterId>" +
			"<CacheClusterStatus>incompatible-network</CacheClusterStatus><Engine>redis</Engine><CacheNodes><CacheNode>" +
			address("Endpoint", "z.x", 6379) + "</CacheNode></CacheNodes>"}}}},
	} {
		next := ""
		if strings.HasPrefix(spec, "rds") {
			next = "aws rds start-db-cluster --db-cluster-identifier x"
		}
		got, err := w.resolver(t).Resolve(t.Context(), mustParse(t, spec))
		checkError(t, spec, got, err, fail.NoTarget, []string{"takes no connections"}, next)
	}
	// A target that is down does not hide the only other one.
	r := (&wire{things: map[string][]thing{"DescribeDBInstances": {
		instance("old", "postgres", "stopped", "old.rds", 5432), instance("new", "postgres", "available", "new.rds", 5432),
	}}}).resolver(t)
	if got, err := r.Resolve(t.Context(), mustParse(t, "rds")); err != nil || got.Host != "new.rds" {
		t.Errorf("%+v, %v", got, err)
	}
}
