package main

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/internal/inventory"
	"github.com/bastion-ssm/bastion/internal/targetlist"
	"github.com/bastion-ssm/bastion/lab"
)

// furnish gives the lab something of each kind of target. It returns a target of each whose name a call looks up.
func (e *labEnv) furnish() []string {
	e.t.Helper()
	addr := netip.MustParseAddrPort("127.9.8.7:7777")
	for _, err := range []error{
		e.AddDBCluster(lab.DBCluster{ID: "papers", Engine: "docdb", Addr: addr}),
		e.AddDBCluster(lab.DBCluster{ID: "graph", Engine: "neptune", Addr: addr}),
		e.AddDBProxy(lab.DBProxy{Name: "pool", Readers: []string{"pool-ro"}, Addr: addr}),
		e.AddMemoryDB(lab.MemoryDB{Name: "scores", Addr: addr}),
		e.AddWarehouse(lab.Warehouse{ID: "dwh", Tags: map[string]string{"team": "data"}, Addr: addr}),
		e.AddWarehouse(lab.Warehouse{ID: "adhoc", Serverless: true, Addr: addr}),
		e.AddSearch(lab.Search{Name: "logs", Addr: addr}),
		e.AddSearch(lab.Search{Name: "vectors", Serverless: true, Addr: addr}),
		e.AddKafka(lab.Kafka{Name: "events", Brokers: []netip.AddrPort{addr, addr}, Tags: map[string]string{"team": "data"}}),
		e.AddKubernetes(lab.Kubernetes{Name: "main", Addr: addr}),
		e.AddBalancer(lab.Balancer{Name: "web", Listeners: []lab.Listener{{Port: 7777, Protocol: "HTTPS"}}, Addr: addr}),
		e.AddMappedService(lab.MappedService{Namespace: "corp.internal", Name: "billing", Instances: []netip.AddrPort{addr}}),
		e.AddMachine(lab.Machine{ID: "i-0123456789abcdef0", Tags: map[string]string{"Name": "build"}, Addr: addr.Addr(), Ports: []uint16{7777}}),
	} {
		if err != nil {
			e.t.Fatal(err)
		}
	}
	return []string{
		"docdb:papers", "neptune:graph", "rdsproxy:pool", "rdsproxy:pool-ro", "memorydb:scores", "redshift:dwh", "redshift:adhoc", "opensearch:logs",
		"opensearch:vectors", "msk:events", "eks:main", "lb:web", "cloudmap:corp.internal/billing", "ec2:build:7777",
	}
}

// TestListIsKept: ls targets asks AWS once, then prints the kept list with its age, until it is told to ask again.
func TestListIsKept(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	e.furnish()
	calls := func() (n int) {
		for _, count := range e.Calls() {
			n += count
		}
		return n
	}
	list := func(args ...string) (out inventory.Output, specs []string) {
		t.Helper()
		r := e.must(append([]string{"ls", "targets", "-o", "json"}, args...)...)
		if err := json.Unmarshal([]byte(r.stdout), &out); err != nil {
			t.Fatal(err)
		}
		for _, target := range out.Targets {
			specs = append(specs, target.Spec)
		}
		return out, specs
	}
	out, first := list()
	if len(out.Lists) != 1 || out.Lists[0].Kept || out.Lists[0].AsOf == nil || out.Lists[0].Account != lab.Account || !slices.Contains(first, "eks:main") || !slices.Contains(first, "rds:orders") {
		t.Errorf("%+v", out)
	}
	asked := calls()
	if err := e.AddKubernetes(lab.Kubernetes{Name: "second", Addr: netip.MustParseAddrPort("127.9.8.7:7777")}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	out, again := list()
	t.Logf("the kept list took %s", time.Since(began))
	if len(out.Lists) != 1 || !out.Lists[0].Kept || !slices.Equal(again, first) || calls() != asked {
		t.Errorf("%q; %d calls more", again, calls()-asked)
	}
	r := e.must("ls", "targets")
	if !strings.Contains(r.stderr, "seconds ago") || !strings.Contains(r.stderr, "--refresh") || calls() != asked {
		t.Errorf("%s%s; %d calls more", r.stdout, r.stderr, calls()-asked)
	}
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{[]string{"--kind", "redshift"}, []string{"redshift:adhoc", "redshift:dwh"}},
		{[]string{"--tag", "team=data"}, []string{"msk:events", "redshift:dwh"}},
		{[]string{"--tag", "team=data", "--kind", "msk", "--kind", "eks"}, []string{"msk:events"}},
		{[]string{"--tag", "team=other"}, nil},
	} {
		if _, got := list(tt.args...); !slices.Equal(got, tt.want) {
			t.Errorf("%q: %q, want %q", tt.args, got, tt.want)
		}
	}
	if calls() != asked {
		t.Errorf("choosing took %d calls", calls()-asked)
	}

	// Completion has it, and another scope has not.
	complete := func(env []string, word string) string { return e.run(env, "__complete", "forward", word).stdout }
	if got := complete(nil, "redshift:d"); !strings.HasPrefix(got, "redshift:dwh\tredshift, available") {
		t.Errorf("completion: %q", got)
	}
	for _, env := range [][]string{{"AWS_PROFILE=other"}, {"AWS_REGION=eu-west-1"}, {"AWS_ENDPOINT_URL=http://127.0.0.1:1"}} {
		if got := complete(env, "redshift:d"); got != "" {
			t.Errorf("completion with %q: %q", env, got)
		}
	}
	if calls() != asked {
		t.Errorf("completion took %d calls", calls()-asked)
	}

	if _, got := list("--kind", "eks", "--refresh"); !slices.Equal(got, []string{"eks:main", "eks:second"}) {
		t.Errorf("%q", got)
	}
	if _, got := list("--refresh"); !slices.Contains(got, "eks:second") {
		t.Errorf("%q", got)
	}
	files, err := filepath.Glob(filepath.Join(e.value("BASTION_STATE_DIR"), "targets-*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%q, %v", files, err)
	}
	if info, err := os.Stat(files[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// A service that denies or does not answer is named, and the rest is shown, also when the list is printed again.
func TestListInPart(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	e.furnish()
	env := e.as("jo", lab.IdentityConfig{Deny: []string{"eks:*", "kafka:ListClustersV2"}})
	for _, again := range []bool{false, true} {
		r := e.run(env, "ls", "targets")
		if r.code != 5 || !strings.Contains(r.stderr, "eks:ListClusters") || !strings.Contains(r.stderr, "kafka:ListClustersV2") ||
			!strings.Contains(r.stdout, "redshift:dwh") || strings.Contains(r.stdout, "eks:main") || strings.Contains(r.stderr, "ago") != again {
			t.Errorf("%d\n%s%s", r.code, r.stdout, r.stderr)
		}
	}
}

// Bad options are refused before AWS is asked.
func TestListOptions(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	for _, args := range [][]string{{"--kind", "rd"}, {"--kind", ""}, {"--tag", "team"}, {"--tag", "=x"}, {"x"}} {
		if r := e.run(nil, append([]string{"ls", "targets"}, args...)...); r.code != 2 {
			t.Errorf("%q: %d %s", args, r.code, r.stderr)
		}
	}
	if n := len(e.Calls()); n != 0 {
		t.Errorf("%v", e.Calls())
	}
}

// A list is a scope's own, and a file that is not whole is none.
func TestKeptFiles(t *testing.T) {
	dir := t.TempDir()
	scope := targetlist.NewScope("", "prod", "eu-central-1", map[string]string{"AWS_ENDPOINT_URL": "x"})
	list := targetlist.List{Scope: scope, At: time.Now(), Items: []targetlist.Item{{Spec: "rds:orders", Kind: "rds"}}}
	if err := targetlist.Save(dir, list); err != nil {
		t.Fatal(err)
	}
	if got, ok := targetlist.Load(dir, scope); !ok || len(got.Items) != 1 {
		t.Errorf("%+v, %v", got, ok)
	}
	for name, other := range map[string]targetlist.Scope{
		"environment": targetlist.NewScope("prod", "prod", "eu-central-1", map[string]string{"AWS_ENDPOINT_URL": "x"}),
		"profile":     targetlist.NewScope("", "dev", "eu-central-1", map[string]string{"AWS_ENDPOINT_URL": "x"}),
		"region":      targetlist.NewScope("", "prod", "eu-west-1", map[string]string{"AWS_ENDPOINT_URL": "x"}),
		"variables":   targetlist.NewScope("", "prod", "eu-central-1", map[string]string{"AWS_ENDPOINT_URL": "y"}),
	} {
		if got, ok := targetlist.Load(dir, other); ok {
			t.Errorf("another %s has %+v", name, got)
		}
	}
	paths, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(paths) != 1 {
		t.Fatalf("%q, %v", paths, err)
	}
	if err := os.Truncate(paths[0], 20); err != nil {
		t.Fatal(err)
	}
	if got, ok := targetlist.Load(dir, scope); ok {
		t.Errorf("half a file has %+v", got)
	}
}
