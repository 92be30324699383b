package targets_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/targets"
)

// guarded gives a lab something of every kind with a security group of its own, whose id is made of the name in it.
func guarded(t *testing.T, l *lab.Lab) {
	t.Helper()
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr("127.9.8.7"), port) }
	sg := func(of string) []string {
		l.SetSecurityGroup(lab.SecurityGroup{ID: "sg-" + of, Name: of})
		return []string{"sg-" + of}
	}
	for _, err := range []error{
		l.AddDBInstance(lab.DBInstance{ID: "orders", IAM: true, Groups: sg("orders"), Addr: at(5432)}),
		l.AddDBInstance(lab.DBInstance{ID: "legacy", Engine: "oracle-ee", Groups: sg("legacy"), Addr: at(1521)}),
		l.AddDBInstance(lab.DBInstance{ID: "asleep", Status: "stopped", Groups: sg("asleep"), Addr: at(5435)}),
		l.AddDBCluster(lab.DBCluster{ID: "shop", Groups: sg("shop"), Addr: at(5433)}),
		l.AddDBInstance(lab.DBInstance{ID: "shop-1", Cluster: "shop", Groups: sg("shop-1"), Addr: at(5433)}),
		l.AddDBCluster(lab.DBCluster{ID: "papers", Engine: "docdb", Groups: sg("papers"), Addr: at(27017)}),
		l.AddDBCluster(lab.DBCluster{ID: "graph", Engine: "neptune", IAM: true, Groups: sg("graph"), Addr: at(8182)}),
		l.AddDBProxy(lab.DBProxy{Name: "pool", Readers: []string{"pool-ro"}, Groups: sg("pool"), Addr: at(5434)}),
		l.AddCache(lab.Cache{ID: "sessions", Groups: sg("sessions"), Addr: at(6379)}),
		l.AddCache(lab.Cache{ID: "single", Kind: lab.CacheCluster, Groups: sg("single"), Addr: at(6381)}),
		l.AddCache(lab.Cache{ID: "elastic", Kind: lab.ServerlessCache, Groups: sg("elastic"), Addr: at(6382)}),
		l.AddMemoryDB(lab.MemoryDB{Name: "scores", Groups: sg("scores"), Addr: at(6380)}),
		l.AddWarehouse(lab.Warehouse{ID: "dwh", Groups: sg("dwh"), Addr: at(5439)}),
		l.AddWarehouse(lab.Warehouse{ID: "adhoc", Serverless: true, Groups: sg("adhoc"), Addr: at(5441)}),
		l.AddSearch(lab.Search{Name: "logs", Groups: sg("logs"), Addr: at(443)}),
		l.AddSearch(lab.Search{Name: "open", Public: true, Addr: at(443)}),
		l.AddSearch(lab.Search{Name: "vectors", Serverless: true, Groups: sg("vectors"), Addr: at(443)}),
		l.AddKafka(lab.Kafka{Name: "events", IAM: true, Groups: sg("events"), Brokers: []netip.AddrPort{at(9098)}}),
		l.AddKafka(lab.Kafka{Name: "plain", Groups: sg("plain"), Brokers: []netip.AddrPort{at(9092)}}),
		l.AddKubernetes(lab.Kubernetes{Name: "main", Groups: sg("main"), Addr: at(443)}),
		l.AddKubernetes(lab.Kubernetes{Name: "public", Public: true, Addr: at(443)}),
		l.AddBalancer(lab.Balancer{Name: "web", Groups: sg("web"), Listeners: []lab.Listener{{Port: 443, Protocol: "HTTPS"}}, Addr: at(8443)}),
		l.AddBalancer(lab.Balancer{Name: "tcp", Type: "network", Listeners: []lab.Listener{{Port: 5432, Protocol: "TCP"}}, Addr: at(8444)}),
		l.AddBalancer(lab.Balancer{Name: "front", InternetFacing: true, Listeners: []lab.Listener{{Port: 443, Protocol: "HTTPS"}}, Addr: at(8445)}),
		l.AddMappedService(lab.MappedService{Namespace: "corp.internal", Name: "billing", Instances: []netip.AddrPort{at(8080)}}),
		l.AddMachine(lab.Machine{ID: "i-0123456789abcdef0", Tags: map[string]string{"Name": "build"}, Groups: sg("build"), Addr: at(0).Addr()}),
		l.AddECSService(lab.ECSService{Cluster: lab.ServicesCluster, Name: "api", Groups: sg("api"), Tasks: []netip.AddrPort{at(8081)}}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Each kind tells its security groups, or why it has none, and what IAM has to do with a sign-in. No kind is left out.
func TestExamine(t *testing.T) {
	l := newLab(t, lab.Config{})
	guarded(t, l)
	r := resolverOf(t, l)
	r.Names = map[string]targets.Named{"db": {Target: "rds:orders"}}
	seen := make(map[targets.Kind]bool)
	for _, tt := range []struct {
		spec, what, group string
		unguarded         string // in the reason for no groups
		means, enable     string // in the sign-in's texts
	}{
		{"rds:orders", "RDS instance", "sg-orders", "", "is on", ""},
		{"db", "RDS instance", "sg-orders", "", "is on", ""},
		{"rds:legacy", "RDS instance", "sg-legacy", "", "no IAM authentication for oracle-ee", ""},
		{"rds:shop", "RDS cluster", "sg-shop", "", "bastion token does not work", "modify-db-cluster --enable-iam"},
		{"rds:shop-1", "RDS instance", "sg-shop-1", "", "bastion token does not work", "--db-cluster-identifier shop"},
		{"rds:papers", "RDS cluster", "sg-papers", "", "MONGODB-AWS", ""},
		{"docdb:papers", "DocumentDB cluster", "sg-papers", "", "MONGODB-AWS", ""},
		{"neptune:graph", "Neptune cluster", "sg-graph", "", "signed requests alone", ""},
		{"rdsproxy:pool", "RDS proxy", "sg-pool", "", "is off", "--db-proxy-name pool"},
		{"rdsproxy:pool-ro", "RDS proxy endpoint", "sg-pool", "", "is off", "--db-proxy-name pool"},
		{"cache:sessions", "replication group", "sg-sessions", "", "as a user", ""},
		{"cache:single", "cache cluster", "sg-single", "", "as a user", ""},
		{"cache:elastic", "serverless cache", "sg-elastic", "", "as a user", ""},
		{"memorydb:scores", "MemoryDB cluster", "sg-scores", "", "as a user", ""},
		{"redshift:dwh", "Redshift cluster", "sg-dwh", "", "GetClusterCredentials", ""},
		{"redshift:adhoc", "Redshift workgroup", "sg-adhoc", "", "GetClusterCredentials", ""},
		{"opensearch:logs", "OpenSearch domain", "sg-logs", "", "access policy", ""},
		{"opensearch:open", "OpenSearch domain", "", "in no VPC", "access policy", ""},
		{"opensearch:vectors", "OpenSearch collection", "sg-vectors", "", "access policy", ""},
		{"msk:events", "MSK cluster", "sg-events", "", "is on", ""},
		{"msk:plain", "MSK cluster", "sg-plain", "", "SCRAM", ""},
		{"msk:plain:9098", "MSK cluster", "sg-plain", "", "do not listen", "aws kafka update-security"},
		{"eks:main", "EKS cluster", "sg-main", "", "eks-token", ""},
		{"eks:public", "EKS cluster", "", "private endpoint is off", "eks-token", ""},
		{"lb:web", "application load balancer", "sg-web", "", "none: the servers", ""},
		{"lb:tcp", "network load balancer", "", "those of its targets", "none: the servers", ""},
		{"lb:front", "application load balancer", "", "internet-facing", "none: the servers", ""},
		{"cloudmap", "Cloud Map service", "", "addresses alone", "none that", ""},
		{"ec2:build:22", "EC2 instance", "sg-build", "", "none that", ""},
		{"ec2:127.9.8.7:22", "EC2 instance", "sg-build", "", "none that", ""},
		{"ecs:apps/api", "ECS service", "sg-api", "", "none that", ""},
	} {
		t.Run(tt.spec, func(t *testing.T) {
			spec, err := targets.Parse(tt.spec)
			if err != nil {
				t.Fatal(err)
			}
			seen[spec.Kind] = true
			e, thing, err := r.Examine(t.Context(), spec)
			groups := strings.Join(thing.Groups, ",")
			if err != nil || e.Host == "" || thing.What != tt.what || thing.ID == "" || thing.Down || groups != tt.group || thing.GroupsErr != nil ||
				(thing.Unguarded == "") != (tt.unguarded == "") || !strings.Contains(thing.Unguarded, tt.unguarded) {
				t.Errorf("%+v, %v\nwant %+v", thing, err, tt)
			}
			in := thing.SignIn
			if !strings.Contains(in.Means, tt.means) || (in.Enable == "") != (tt.enable == "") || !strings.Contains(in.Enable, tt.enable) {
				t.Errorf("sign-in %+v, want %+v", in, tt)
			}
		})
	}
	for _, d := range targets.Kinds() {
		if !seen[d.Kind] {
			t.Errorf("no row examines %s: the next kind says whose security groups admit clients, and how IAM signs in", d.Prefix)
		}
	}
}

// What AWS says of a target is there also where no connection to it is possible, and what it denies does not hide the rest.
func TestExamineErrors(t *testing.T) {
	l := newLab(t, lab.Config{User: lab.IdentityConfig{Deny: []string{
		"elasticache:DescribeCacheClusters", "ec2:DescribeNetworkInterfaces", "aoss:BatchGetVpcEndpoint", "aoss:ListVpcEndpoints",
	}}})
	guarded(t, l)
	r := resolverOf(t, l)
	for _, tt := range []struct {
		spec, what string
		isDown     bool
		kind       fail.Kind // of the target's error
		hidden     string    // action that the groups' error names
	}{
		{"rds:asleep", "RDS instance", true, fail.NoTarget, ""},
		{"rds:orders/reader", "RDS instance", false, fail.NoTarget, ""},
		{"rds:nope", "", false, fail.NoTarget, ""},
		{"ec2:build", "EC2 instance", false, fail.Usage, ""},
		{"cache:sessions", "replication group", false, 0, "elasticache:DescribeCacheClusters"},
		{"ecs:apps/api", "ECS service", false, 0, "ec2:DescribeNetworkInterfaces"},
		{"opensearch:vectors", "OpenSearch collection", false, 0, "aoss:ListVpcEndpoints"},
		{"host.internal:1", "", false, 0, ""},
	} {
		spec, err := targets.Parse(tt.spec)
		if err != nil {
			t.Fatal(err)
		}
		_, thing, err := r.Examine(t.Context(), spec)
		if (err != nil) != (tt.kind != 0) || err != nil && fail.KindOf(err) != tt.kind || thing.What != tt.what || thing.Down != tt.isDown ||
			(thing.GroupsErr == nil) != (tt.hidden == "") || !strings.Contains(fmt.Sprint(thing.GroupsErr), tt.hidden) {
			t.Errorf("%s: %+v, %v", tt.spec, thing, err)
		}
		if tt.isDown && !slices.Equal(thing.Groups, []string{"sg-asleep"}) {
			t.Errorf("%s: %q", tt.spec, thing.Groups)
		}
	}
}
