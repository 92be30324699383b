package main

import (
	"encoding/json"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/doctor"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/targets"
)

// populate gives a lab, for each kind, a target in order, one whose security group does not admit the bastion ("shut"), and one whose
// status is bad ("bad").
func populate(t *testing.T, l *lab.Lab) {
	t.Helper()
	l.SetSecurityGroup(lab.SecurityGroup{ID: "sg-shut", Name: "shut", Ingress: []lab.SecurityRule{{From: 1, To: 65535, CIDR: "192.168.0.0/16"}}})
	shut := []string{"sg-shut"}
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr("127.9.8.7"), port) }
	web, team := []lab.Listener{{Port: 443, Protocol: "HTTPS"}}, func(name string) map[string]string { return map[string]string{"Name": name} }
	brokers := []netip.AddrPort{at(9094)}
	for _, err := range []error{
		l.AddDBInstance(lab.DBInstance{ID: "one", IAM: true, Addr: at(5432)}),
		l.AddDBInstance(lab.DBInstance{ID: "shut", IAM: true, Groups: shut, Addr: at(5433)}),
		l.AddDBInstance(lab.DBInstance{ID: "bad", IAM: true, Status: "stopped", Addr: at(5434)}),
		l.AddDBInstance(lab.DBInstance{ID: "off", Addr: at(5435)}),
		l.AddDBInstance(lab.DBInstance{ID: "ora", Engine: "oracle-se2", Addr: at(1521)}),
		l.AddDBCluster(lab.DBCluster{ID: "many", Addr: at(5436)}),
		l.AddDBInstance(lab.DBInstance{ID: "many-1", Cluster: "many", Addr: at(5436)}),
		l.AddCache(lab.Cache{ID: "one", Addr: at(6379)}), l.AddCache(lab.Cache{ID: "shut", Groups: shut, Addr: at(6380)}),
		l.AddCache(lab.Cache{ID: "bad", Status: "create-failed", Addr: at(6381)}),
		l.AddCache(lab.Cache{ID: "elastic", Kind: lab.ServerlessCache, Groups: shut, Addr: at(6382)}),
		l.AddDBProxy(lab.DBProxy{Name: "one", IAM: true, Addr: at(5432)}),
		l.AddDBProxy(lab.DBProxy{Name: "shut", IAM: true, Groups: shut, Addr: at(5432)}),
		l.AddDBProxy(lab.DBProxy{Name: "bad", IAM: true, Status: "suspended", Addr: at(5432)}), l.AddDBProxy(lab.DBProxy{Name: "off", Addr: at(5432)}),
		l.AddDBCluster(lab.DBCluster{ID: "papers", Engine: "docdb", Addr: at(27017)}),
		l.AddDBCluster(lab.DBCluster{ID: "papers-shut", Engine: "docdb", Groups: shut, Addr: at(27018)}),
		l.AddDBCluster(lab.DBCluster{ID: "papers-bad", Engine: "docdb", Status: "stopped", Addr: at(27019)}),
		l.AddDBCluster(lab.DBCluster{ID: "graph", Engine: "neptune", Addr: at(8182)}),
		l.AddDBCluster(lab.DBCluster{ID: "graph-shut", Engine: "neptune", IAM: true, Groups: shut, Addr: at(8183)}),
		l.AddDBCluster(lab.DBCluster{ID: "graph-bad", Engine: "neptune", Status: "failing-over", Addr: at(8184)}),
		l.AddMemoryDB(lab.MemoryDB{Name: "one", Addr: at(6379)}), l.AddMemoryDB(lab.MemoryDB{Name: "shut", Groups: shut, Addr: at(6380)}),
		l.AddMemoryDB(lab.MemoryDB{Name: "bad", Status: "creating", Addr: at(6381)}),
		l.AddWarehouse(lab.Warehouse{ID: "one", Addr: at(5439)}), l.AddWarehouse(lab.Warehouse{ID: "shut", Groups: shut, Addr: at(5440)}),
		l.AddWarehouse(lab.Warehouse{ID: "bad", Status: "paused", Addr: at(5441)}),
		l.AddWarehouse(lab.Warehouse{ID: "adhoc", Serverless: true, Groups: shut, Addr: at(5442)}),
		l.AddSearch(lab.Search{Name: "one", Addr: at(443)}), l.AddSearch(lab.Search{Name: "shut", Groups: shut, Addr: at(443)}),
		l.AddSearch(lab.Search{Name: "bad", Status: "Isolated", Addr: at(443)}), l.AddSearch(lab.Search{Name: "open", Public: true, Addr: at(443)}),
		l.AddSearch(lab.Search{Name: "vectors", Serverless: true, Groups: shut, Addr: at(443)}),
		l.AddKafka(lab.Kafka{Name: "one", Brokers: brokers}), l.AddKafka(lab.Kafka{Name: "shut", Groups: shut, Brokers: brokers}),
		l.AddKafka(lab.Kafka{Name: "bad", State: "CREATING"}),
		l.AddKubernetes(lab.Kubernetes{Name: "one", Addr: at(443)}), l.AddKubernetes(lab.Kubernetes{Name: "shut", Groups: shut, Addr: at(443)}),
		l.AddKubernetes(lab.Kubernetes{Name: "bad", Status: "FAILED", Addr: at(443)}),
		l.AddKubernetes(lab.Kubernetes{Name: "public", Public: true, Groups: shut, Addr: at(443)}),
		l.AddBalancer(lab.Balancer{Name: "one", Listeners: web, Addr: at(8443)}),
		l.AddBalancer(lab.Balancer{Name: "shut", Groups: shut, Listeners: web, Addr: at(8444)}),
		l.AddBalancer(lab.Balancer{Name: "bad", State: "failed", Listeners: web, Addr: at(8445)}),
		l.AddBalancer(lab.Balancer{Name: "tcp", Type: "network", Listeners: web, Addr: at(8446)}),
		l.AddMappedService(lab.MappedService{Namespace: "corp", Name: "one", Instances: []netip.AddrPort{at(8080)}}),
		l.AddMappedService(lab.MappedService{Namespace: "corp", Name: "bad"}),
		l.AddMachine(lab.Machine{ID: "i-0123456789abcdef0", Tags: team("one"), Addr: netip.MustParseAddr("127.9.8.6")}),
		l.AddMachine(lab.Machine{ID: "i-0123456789abcdef1", Tags: team("shut"), Groups: shut, Addr: netip.MustParseAddr("127.9.8.5")}),
		l.AddMachine(lab.Machine{ID: "i-0123456789abcdef2", Tags: team("bad"), State: "stopped", Addr: netip.MustParseAddr("127.9.8.4")}),
		l.AddECSService(lab.ECSService{Cluster: lab.ServicesCluster, Name: "one", Tasks: []netip.AddrPort{at(8081)}}),
		l.AddECSService(lab.ECSService{Cluster: lab.ServicesCluster, Name: "shut", Groups: shut, Tasks: []netip.AddrPort{at(8082)}}),
		l.AddECSService(lab.ECSService{Cluster: lab.ServicesCluster, Name: "bad"}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Each kind of target: in order it is green, and each fault has its finding and no other. The next kind needs its rows here.
func TestDoctorOfEachKind(t *testing.T) {
	t.Parallel()
	e := startLab(t, func(c *lab.Config) { c.Redis, c.Postgres = lab.Off, lab.Off })
	populate(t, e.Lab)
	hosts := filepath.Join(t.TempDir(), "hosts")
	writeFile(t, hosts, "")
	const (
		unplaced = "skipped target.vpc unknown" // AWS does not say in which VPC it is
		closed   = "error target.security_group closed"
		down     = "error target.status down"
		passing  = "warning target.status passing"
		off      = "warning target.iam off"
	)
	seen := make(map[targets.Kind][]string)
	for _, tt := range []struct{ want, targets string }{
		{"", "rds:one rds:ora cache:one rdsproxy:one docdb:papers neptune:graph memorydb:one redshift:one opensearch:one msk:one eks:one lb:one " +
			"ec2:one:22 ecs:apps/one"},
		{"", "eks:public lb:tcp"}, // the kinds' own ways to have no security group
		{unplaced, "cloudmap:corp/one opensearch:open"},
		{unplaced + ", " + closed, "opensearch:vectors"},
		{closed, "rds:shut cache:shut cache:elastic rdsproxy:shut docdb:papers-shut neptune:graph-shut memorydb:shut redshift:shut redshift:adhoc " +
			"opensearch:shut msk:shut eks:shut lb:shut ec2:shut:22 ec2:127.9.8.5:22 ecs:apps/shut"},
		{down, "rds:bad cache:bad rdsproxy:bad docdb:papers-bad memorydb:bad redshift:bad opensearch:bad msk:bad eks:bad lb:bad cloudmap:corp/bad " +
			"ec2:bad:22 ecs:apps/bad"},
		{passing, "neptune:graph-bad"},
		{off, "rds:off rds:many rds:many-1 rdsproxy:off msk:one:9098"},
		{"error target.exists unusable", "ec2:one"},
	} {
		for target := range strings.FieldsSeq(tt.targets) {
			got := e.run([]string{"BASTION_TLS_CA=" + e.DatabaseCA(), "BASTION_HOSTS_FILE=" + hosts}, "doctor", "-o", "json", target)
			var r doctor.Report
			if err := json.Unmarshal([]byte(got.stdout), &r); err != nil {
				t.Fatalf("%s: %v: %d: %s%s", target, err, got.code, got.stdout, got.stderr)
			}
			if have := strings.Join(findings(r), ", "); have != tt.want {
				t.Errorf("%s: %s, want %s", target, have, tt.want)
			}
			for _, f := range r.Findings {
				isBad := f.Level == doctor.Error || f.Level == doctor.Warning
				if strings.HasPrefix(f.ID, "target.") && f.Means == "" || isBad && f.Fix == "" {
					t.Errorf("%s: %+v", target, f)
				}
			}
			spec, err := targets.Parse(target)
			if err != nil {
				t.Fatal(err)
			}
			seen[spec.Kind] = append(seen[spec.Kind], tt.want)
		}
	}
	for _, d := range targets.Kinds() {
		has := func(want ...string) bool {
			return slices.ContainsFunc(want, func(w string) bool { return slices.Contains(seen[d.Kind], w) })
		}
		if !has("", unplaced) || !has(down, passing) || !has(closed) && d.Kind != targets.CloudMap {
			t.Errorf("%s has no rows for a target in order, for its status, or for its security group: %q", d.Prefix, seen[d.Kind])
		}
	}
}
