package targets_test

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/targets"
)

// newLab starts a lab without databases of its own.
func newLab(t *testing.T, cfg lab.Config) *lab.Lab {
	t.Helper()
	cfg.Postgres, cfg.Redis, cfg.NoWeb = lab.Off, lab.Off, true
	cfg.Bastiond = os.DevNull // no task runs
	l, err := lab.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// resolverOf returns a Resolver with the lab's own credentials, whose permissions are those of the policy for users.
func resolverOf(t *testing.T, l *lab.Lab) *targets.Resolver {
	t.Helper()
	value := func(key string) string {
		for _, kv := range slices.Backward(l.Env()) {
			if v, ok := strings.CutPrefix(kv, key+"="); ok {
				return v
			}
		}
		return ""
	}
	cfg, err := config.LoadDefaultConfig(t.Context(),
		config.WithSharedConfigFiles([]string{value("AWS_CONFIG_FILE")}),
		config.WithSharedCredentialsFiles([]string{value("AWS_SHARED_CREDENTIALS_FILE")}),
		config.WithSharedConfigProfile(value("AWS_PROFILE")), config.WithBaseEndpoint(l.URL()), config.WithRetryMaxAttempts(1))
	if err != nil {
		t.Fatal(err)
	}
	return &targets.Resolver{Region: l.Region(), AWS: targets.Connect(cfg)}
}

// furnish gives a lab something of every kind.
func furnish(t *testing.T, l *lab.Lab) {
	t.Helper()
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr("127.9.8.7"), port) }
	team := map[string]string{"team": "data"}
	for _, err := range []error{
		l.AddDBInstance(lab.DBInstance{ID: "orders", Addr: at(5432), Tags: team}),
		l.AddDBCluster(lab.DBCluster{ID: "papers", Engine: "docdb", Addr: at(27017)}),
		l.AddDBCluster(lab.DBCluster{ID: "graph", Engine: "neptune", Addr: at(8182), Status: "failing-over"}),
		l.AddDBInstance(lab.DBInstance{ID: "graph-1", Engine: "neptune", Cluster: "graph", Addr: at(8182)}),
		l.AddDBCluster(lab.DBCluster{ID: "asleep", Engine: "docdb", Addr: at(27018), Status: "stopped"}),
		l.AddDBProxy(lab.DBProxy{Name: "pool", RequireTLS: true, IAM: true, Readers: []string{"pool-ro"}, Addr: at(5433)}),
		l.AddCache(lab.Cache{ID: "sessions", Addr: at(6379)}),
		l.AddMemoryDB(lab.MemoryDB{Name: "scores", TLS: true, Addr: at(6380)}),
		l.AddMemoryDB(lab.MemoryDB{Name: "coming", Status: "creating", Addr: at(6381)}),
		l.AddWarehouse(lab.Warehouse{ID: "dwh", Database: "sales", Addr: at(5439), Tags: team}),
		l.AddWarehouse(lab.Warehouse{ID: "paused", Status: "paused", Addr: at(5440)}),
		l.AddWarehouse(lab.Warehouse{ID: "adhoc", Serverless: true, Addr: at(5441)}),
		l.AddSearch(lab.Search{Name: "logs", Addr: at(443)}),
		l.AddSearch(lab.Search{Name: "open", Public: true, Version: "Elasticsearch_7.10", Addr: at(443)}),
		l.AddSearch(lab.Search{Name: "vectors", Serverless: true, Addr: at(443)}),
		l.AddKafka(lab.Kafka{Name: "events", TLS: true, Brokers: []netip.AddrPort{at(9094), at(9094), at(9094)}, Tags: team}),
		l.AddKafka(lab.Kafka{Name: "events-old", State: "CREATING"}),
		l.AddKubernetes(lab.Kubernetes{Name: "Main_1", Addr: at(443), Tags: team}),
		l.AddKubernetes(lab.Kubernetes{Name: "public", Public: true, Addr: at(443)}),
		l.AddBalancer(lab.Balancer{Name: "Web", Listeners: []lab.Listener{{Port: 80, Protocol: "HTTP"}, {Port: 443, Protocol: "HTTPS"}}, Addr: at(8443)}),
		l.AddBalancer(lab.Balancer{Name: "tcp", Type: "network", Listeners: []lab.Listener{{Port: 5432, Protocol: "TCP"}}, Addr: at(8444)}),
		l.AddBalancer(lab.Balancer{Name: "shop", InternetFacing: true, Listeners: []lab.Listener{{Port: 443, Protocol: "HTTPS"}}, Addr: at(8445)}),
		l.AddMappedService(lab.MappedService{Namespace: "corp.internal", Name: "billing", Instances: []netip.AddrPort{at(8080)}}),
		l.AddMappedService(lab.MappedService{Namespace: "corp.internal", Name: "idle"}),
		l.AddMachine(lab.Machine{ID: "i-0123456789abcdef0", Tags: map[string]string{"Name": "Build Host", "team": "data"}, Addr: netip.MustParseAddr("127.9.8.6")}),
		l.AddMachine(lab.Machine{ID: "i-0123456789abcdef1", Tags: map[string]string{"Name": "web"}, Addr: netip.MustParseAddr("127.9.8.5")}),
		l.AddMachine(lab.Machine{ID: "i-0123456789abcdef2", Tags: map[string]string{"Name": "web"}, Addr: netip.MustParseAddr("127.9.8.4")}),
		l.AddMachine(lab.Machine{ID: "i-0123456789abcdef3", State: "stopped", Tags: map[string]string{"Name": "off"}, Addr: netip.MustParseAddr("127.9.8.3")}),
		l.AddECSService(lab.ECSService{Cluster: lab.ServicesCluster, Name: "api", Tasks: []netip.AddrPort{at(8081), at(8081)}}),
		l.AddECSService(lab.ECSService{Cluster: lab.ServicesCluster, Name: "none"}),
		l.AddECSService(lab.ECSService{Cluster: "secret", Name: "api", Tasks: []netip.AddrPort{at(8082)}}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestKinds: each kind is found with the permissions of the policy for users, by the SDK's own clients and deserializers.
func TestKinds(t *testing.T) {
	l := newLab(t, lab.Config{})
	furnish(t, l)
	r := resolverOf(t, l)
	for _, tt := range []struct {
		spec, name string
		host       string // begins with it
		port       int
		engine     string
		tls        bool
		note       string // in one of the notes
	}{
		{"docdb:papers", "docdb:papers", "papers.cluster-", 27017, "docdb", false, ""},
		{"docdb", "docdb:papers", "papers.cluster-", 27017, "docdb", false, ""}, // the other one is stopped
		{"docdb:Papers/reader:1", "docdb:papers/reader", "papers.cluster-ro-", 1, "docdb", false, ""},
		{"neptune:graph", "neptune:graph", "graph.cluster-", 8182, "neptune", false, "failing-over"},
		{"neptune:graph-1", "neptune:graph-1", "graph-1.", 8182, "neptune", false, ""},
		{"rdsproxy:pool", "rdsproxy:pool", "pool.proxy-", 5432, "postgres", true, ""},
		{"rdsproxy:pool/reader", "rdsproxy:pool/reader", "pool-ro.endpoint.proxy-", 5432, "postgres", true, ""},
		{"rdsproxy:pool-ro", "rdsproxy:pool-ro", "pool-ro.endpoint.proxy-", 5432, "postgres", true, ""},
		{"memorydb:scores", "memorydb:scores", "clustercfg.scores.", 6380, "valkey", true, "cluster mode"},
		{"memorydb", "memorydb:scores", "clustercfg.scores.", 6380, "valkey", true, "cluster mode"},
		{"redshift:dwh", "redshift:dwh", "dwh.abc123.", 5439, "redshift", false, ""},
		{"redshift:adhoc", "redshift:adhoc", "adhoc.000000000000.", 5441, "redshift", false, ""},
		{"opensearch:logs", "opensearch:logs", "vpc-logs-", 443, "opensearch", true, ""},
		{"opensearch:open", "opensearch:open", "search-open-", 443, "elasticsearch", true, "in no VPC"},
		{"opensearch:vectors", "opensearch:vectors", "", 443, "opensearch", true, ""},
		{"msk:events", "msk:events", "b-1.events.", 9094, "kafka", true, "--hosts"},
		{"msk:events/2", "msk:events/b-2", "b-2.events.", 9094, "kafka", true, "--hosts"},
		{"eks:Main_1", "eks:Main_1", "", 443, "kubernetes", true, ""},
		{"eks:public", "eks:public", "", 443, "kubernetes", true, "private endpoint is off"},
		{"lb:Web", "lb:Web", "internal-Web-", 443, "", true, ""},
		{"lb:Web:80", "lb:Web", "internal-Web-", 80, "", false, ""},
		{"lb:tcp", "lb:tcp", "internal-tcp-", 5432, "", false, ""},
		{"lb:shop", "lb:shop", "shop-", 443, "", true, "internet-facing"},
		{"cloudmap:corp.internal/billing", "cloudmap:corp.internal/billing", "127.9.8.7", 8080, "", false, ""},
		{"ec2:Build Host:22", "ec2:Build Host", "127.9.8.6", 22, "", false, ""},
		{"ec2:i-0123456789abcdef1:80", "ec2:i-0123456789abcdef1", "127.9.8.5", 80, "", false, ""},
		{"ec2:127.9.8.4:80", "ec2:127.9.8.4", "127.9.8.4", 80, "", false, ""},
		{"ecs:apps/api", "ecs:apps/api", "127.9.8.7", 8081, "", false, "2 tasks run"},
		{"ecs:apps/api:9000", "ecs:apps/api", "127.9.8.7", 9000, "", false, ""},
	} {
		t.Run(tt.spec, func(t *testing.T) {
			spec, err := targets.Parse(tt.spec)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := targets.Parse(spec.String()); err != nil || again != spec {
				t.Errorf("%q is parsed as %+v, %v", spec, again, err)
			}
			e, err := r.Resolve(t.Context(), spec)
			if err != nil || e.Name != tt.name || !strings.HasPrefix(e.Host, tt.host) || e.Host == "" || e.Port != tt.port ||
				e.Engine != tt.engine || e.TLS != tt.tls || !strings.Contains(e.Note+e.StatusNote, tt.note) {
				t.Errorf("%+v, %v\nwant %+v", e, err, tt)
			}
			if tt.note == "" && e.Note+e.StatusNote != "" && !strings.HasPrefix(tt.spec, "ecs:") {
				t.Errorf("notes %q, %q", e.Note, e.StatusNote)
			}
		})
	}
}

func TestKindsErrors(t *testing.T) {
	l := newLab(t, lab.Config{})
	furnish(t, l)
	r := resolverOf(t, l)
	for _, tt := range []struct {
		spec       string
		kind       fail.Kind
		text, next string
	}{
		{"docdb:asleep", fail.NoTarget, `status is "stopped"`, "aws docdb start-db-cluster --db-cluster-identifier asleep"},
		{"docdb:graph", fail.NoTarget, `no DocumentDB cluster or instance "graph"`, "docdb:asleep"},
		{"redshift:paused", fail.NoTarget, `"paused"`, "aws redshift resume-cluster --cluster-identifier paused"},
		{"redshift:dhw", fail.NoTarget, `no Redshift cluster or workgroup "dhw"`, "did you mean redshift:dwh?"},
		{"memorydb:coming", fail.NoTarget, "no endpoint yet", "wait until"},
		{"memorydb:score", fail.NoTarget, "no MemoryDB cluster", "did you mean memorydb:scores?"},
		{"rdsproxy:poll", fail.NoTarget, "no RDS proxy", "did you mean rdsproxy:pool"},
		{"rdsproxy:pool-ro/reader", fail.NoTarget, "no reader endpoint", "leave /reader away"},
		{"opensearch:log", fail.NoTarget, "no OpenSearch domain", "did you mean opensearch:logs?"},
		{"msk:event", fail.NoTarget, "no MSK cluster", "msk:events"},
		{"msk:events/9", fail.NoTarget, "no broker b-9", "msk:events/b-1, msk:events/b-2"},
		{"msk:events-old", fail.NoTarget, "no endpoint yet", "wait until"},
		{"eks:main_1", fail.NoTarget, "no EKS cluster", "did you mean eks:Main_1?"},
		{"lb:Wed", fail.NoTarget, "no load balancer", "did you mean lb:Web?"},
		{"cloudmap:corp.internal/bill", fail.NoTarget, "no Cloud Map service", "did you mean cloudmap:corp.internal/billing or"},
		{"cloudmap:corp.internal/idle", fail.NoTarget, "without an instance", "name another one"},
		{"ec2:web:80", fail.NoTarget, "it is the name of 2", "name one of them"},
		{"ec2:off:80", fail.NoTarget, `"stopped"`, "aws ec2 start-instances --instance-ids i-0123456789abcdef3"},
		{"ec2:i-0123456789abcdef1", fail.Usage, "AWS names no port for the EC2 instance", "ec2:i-0123456789abcdef1:PORT"},
		{"ec2:wbe:1", fail.NoTarget, "no EC2 instance", "there are:"},
		{"ecs:apps/ap", fail.NoTarget, "no ECS service", "did you mean ecs:apps/api?"},
		{"ecs:apps/none", fail.NoTarget, "without a running task", "name another one"},
		{"ecs:secret/api", fail.Denied, "ecs:ListTasks", ""},
	} {
		t.Run(tt.spec, func(t *testing.T) {
			spec, err := targets.Parse(tt.spec)
			if err != nil {
				t.Fatal(err)
			}
			e, err := r.Resolve(t.Context(), spec)
			if fail.KindOf(err) != tt.kind || !strings.Contains(fmt.Sprint(err), tt.text) || !strings.Contains(fail.NextOf(err), tt.next) {
				t.Errorf("%+v, %v (%v)\nnext step %q", e, err, fail.KindOf(err), fail.NextOf(err))
			}
		})
	}
}

// The list has everything of every kind, with its status and tags, and every name in it resolves or says why not.
func TestAllKinds(t *testing.T) {
	l := newLab(t, lab.Config{})
	furnish(t, l)
	r := resolverOf(t, l)
	found, err := r.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"cache:sessions", "cloudmap:corp.internal/billing", "cloudmap:corp.internal/idle", "docdb:asleep (stopped)", "docdb:papers",
		"ec2:Build Host [data]", "ec2:i-0123456789abcdef1", "ec2:i-0123456789abcdef2", "ec2:off (stopped)", "ecs:apps/api", "ecs:apps/none",
		"ecs:secret/api", "eks:Main_1 [data]", "eks:public", "lb:Web", "lb:tcp", "memorydb:coming (creating)", "memorydb:scores",
		"msk:events [data]", "msk:events-old (CREATING)", "neptune:graph (failing-over)", "opensearch:logs", "opensearch:vectors",
		"rds:orders [data]", "rdsproxy:pool", "rdsproxy:pool-ro", "redshift:adhoc", "redshift:dwh [data]", "redshift:paused (paused)",
	}
	var got []string
	for _, f := range found {
		text := f.Name
		if s := strings.ToLower(f.Status); s != "available" && s != "active" && s != "running" && s != "" {
			text += " (" + f.Status + ")"
		}
		if f.Tags["team"] != "" {
			text += " [" + f.Tags["team"] + "]"
		}
		got = append(got, text)
		spec, err := targets.Parse(f.Name)
		if err != nil || spec.Kind.Prefix() != f.Kind {
			t.Errorf("%s: %v of %s", f.Name, err, f.Kind)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for i := range want {
		want[i], _, _ = strings.Cut(strings.SplitN(want[i], " (", 2)[0], " [")
	}
	discovered(t, r, want)
}

// Lists of several pages are read to their end, of 250 things of each kind that has pages.
func TestManyOfEachKind(t *testing.T) {
	const many = 250
	l := newLab(t, lab.Config{})
	at := netip.MustParseAddrPort("127.9.8.7:1")
	var errs []error
	for i := range many {
		id := fmt.Sprintf("t-%03d", i)
		errs = append(errs, l.AddDBInstance(lab.DBInstance{ID: id, Addr: at}), l.AddDBCluster(lab.DBCluster{ID: id, Engine: "docdb", Addr: at}),
			l.AddDBProxy(lab.DBProxy{Name: id, Addr: at}), l.AddCache(lab.Cache{ID: id, Addr: at}), l.AddMemoryDB(lab.MemoryDB{Name: id, Addr: at}),
			l.AddWarehouse(lab.Warehouse{ID: id, Addr: at}), l.AddWarehouse(lab.Warehouse{ID: "s" + id, Serverless: true, Addr: at}),
			l.AddSearch(lab.Search{Name: id, Addr: at}), l.AddSearch(lab.Search{Name: "s" + id, Serverless: true, Addr: at}),
			l.AddKafka(lab.Kafka{Name: id, Brokers: []netip.AddrPort{at}}), l.AddKubernetes(lab.Kubernetes{Name: id, Addr: at}),
			l.AddBalancer(lab.Balancer{Name: id, Addr: at}), l.AddMappedService(lab.MappedService{Namespace: id[:3], Name: id}),
			l.AddECSService(lab.ECSService{Cluster: "c", Name: id}),
			l.AddMachine(lab.Machine{ID: fmt.Sprintf("i-%017x", i), Addr: at.Addr()}))
	}
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	found, err := resolverOf(t, l).All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	count := make(map[string]int)
	for _, f := range found {
		count[f.Kind]++
	}
	for _, d := range targets.Kinds() {
		want := many
		switch d.Kind {
		case targets.Redshift, targets.OpenSearch:
			want = 2 * many
		case targets.Neptune:
			want = 0
		}
		if count[d.Prefix] != want {
			t.Errorf("%d of %s, want %d", count[d.Prefix], d.Prefix, want)
		}
	}
}

// Statuses and engines that AWS adds later do not keep anything from being used.
func TestUnknownWords(t *testing.T) {
	l := newLab(t, lab.Config{})
	at := netip.MustParseAddrPort("127.9.8.7:7777")
	const word = "Tomorrow's-Word"
	for _, err := range []error{
		l.AddDBCluster(lab.DBCluster{ID: "d", Engine: "docdb-next", Status: word, Addr: at}),
		l.AddDBProxy(lab.DBProxy{Name: "p", Family: "NEXTSQL", Status: word, Addr: at}),
		l.AddMemoryDB(lab.MemoryDB{Name: "m", Engine: word, Status: word, Addr: at}),
		l.AddWarehouse(lab.Warehouse{ID: "r", Status: word, Addr: at}),
		l.AddWarehouse(lab.Warehouse{ID: "w", Serverless: true, Status: word, Addr: at}),
		l.AddSearch(lab.Search{Name: "o", Version: word, Status: word, Addr: at}),
		l.AddSearch(lab.Search{Name: "c", Serverless: true, Status: word, Addr: at}),
		l.AddKafka(lab.Kafka{Name: "k", State: word, Brokers: []netip.AddrPort{at}}),
		l.AddKubernetes(lab.Kubernetes{Name: "e", Status: word, Addr: at}),
		l.AddBalancer(lab.Balancer{Name: "b", Type: "next", State: word, Listeners: []lab.Listener{{Port: 1234, Protocol: "NEXT"}}, Addr: at}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r := resolverOf(t, l)
	for _, text := range []string{
		"docdb:d", "rdsproxy:p:1", "memorydb:m", "redshift:r", "redshift:w", "opensearch:o", "opensearch:c", "msk:k", "eks:e", "lb:b",
	} {
		spec, err := targets.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if e, err := r.Resolve(t.Context(), spec); err != nil || e.Host == "" || e.Port == 0 {
			t.Errorf("%s: %+v, %v", text, e, err)
		}
	}
}

// A client of Kafka gets a forward for each broker.
func TestBrokers(t *testing.T) {
	l := newLab(t, lab.Config{})
	furnish(t, l)
	r := resolverOf(t, l)
	r.Names = map[string]targets.Named{"stream": {Target: "msk:events"}}
	for text, want := range map[string]int{"msk:events": 3, "stream": 3, "msk:events/1": 1, "eks:Main_1": 1, "db.internal:1": 1} {
		spec, err := targets.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		specs, err := r.Brokers(t.Context(), spec)
		if err != nil || len(specs) != want {
			t.Errorf("%s: %v, %v", text, specs, err)
		}
		if want == 3 && len(specs) == 3 && (specs[2].Kind != targets.Host || !strings.HasPrefix(specs[2].Host, "b-3.events.") || specs[2].Port != 9094) {
			t.Errorf("%s: the last is %+v", text, specs[2])
		}
	}
}
