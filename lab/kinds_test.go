//go:build unix

package lab_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/lab"
)

// TestAWSCLIKinds: the AWS CLI, whose parsers share no code with the SDK for Go, reads the answers about all kinds of targets.
func TestAWSCLIKinds(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	addr := netip.MustParseAddrPort("127.9.8.7:7777")
	team := map[string]string{"team": "data"}
	for _, err := range []error{
		l.AddDBProxy(lab.DBProxy{Name: "pool", RequireTLS: true, Readers: []string{"pool-ro"}, Addr: addr}),
		l.AddMemoryDB(lab.MemoryDB{Name: "scores", TLS: true, Addr: addr}),
		l.AddWarehouse(lab.Warehouse{ID: "dwh", Tags: team, Addr: addr}),
		l.AddWarehouse(lab.Warehouse{ID: "adhoc", Serverless: true, Addr: addr}),
		l.AddSearch(lab.Search{Name: "logs", Addr: addr}),
		l.AddSearch(lab.Search{Name: "vectors", Serverless: true, Addr: addr}),
		l.AddKafka(lab.Kafka{Name: "events", Brokers: []netip.AddrPort{addr, addr}, Tags: team}),
		l.AddKubernetes(lab.Kubernetes{Name: "main", Tags: team, Addr: addr}),
		l.AddBalancer(lab.Balancer{Name: "web", Listeners: []lab.Listener{{Port: 443, Protocol: "HTTPS"}}, Addr: addr}),
		l.AddMappedService(lab.MappedService{Namespace: "corp.internal", Name: "billing", Instances: []netip.AddrPort{addr}}),
		l.AddMachine(lab.Machine{ID: "i-0123456789abcdef0", Tags: map[string]string{"Name": "build"}, Addr: addr.Addr()}),
		l.AddECSService(lab.ECSService{Cluster: lab.ServicesCluster, Name: "api", Tasks: []netip.AddrPort{addr}}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	c := newCLI(t, l, l.Env())
	check := func(want any, v any, path ...any) {
		t.Helper()
		if got := at(v, path...); got != want {
			t.Errorf("%v is %v, want %v, in %v", path, got, want, v)
		}
	}
	check(true, c.run(t, "rds", "describe-db-proxies", "--db-proxy-name", "pool"), "DBProxies", 0, "RequireTLS")
	check("READ_ONLY", c.run(t, "rds", "describe-db-proxy-endpoints"), "DBProxyEndpoints", 1, "TargetRole")
	check(7777.0, c.run(t, "memorydb", "describe-clusters", "--cluster-name", "scores"), "Clusters", 0, "ClusterEndpoint", "Port")
	check("data", c.run(t, "redshift", "describe-clusters"), "Clusters", 0, "Tags", 0, "Value")
	check("AVAILABLE", c.run(t, "redshift-serverless", "list-workgroups"), "workgroups", 0, "status")
	check("adhoc", c.run(t, "redshift-serverless", "get-workgroup", "--workgroup-name", "adhoc"), "workgroup", "workgroupName")
	check("logs", c.run(t, "opensearch", "list-domain-names"), "DomainNames", 0, "DomainName")
	check("OpenSearch_2.19", c.run(t, "opensearch", "describe-domains", "--domain-names", "logs"), "DomainStatusList", 0, "EngineVersion")
	id, _ := at(c.run(t, "opensearchserverless", "list-collections"), "collectionSummaries", 0, "id").(string)
	check("vectors", c.run(t, "opensearchserverless", "batch-get-collection", "--ids", id), "collectionDetails", 0, "name")
	check("ACTIVE", c.run(t, "opensearchserverless", "list-vpc-endpoints"), "vpcEndpointSummaries", 0, "status")
	arn, _ := at(c.run(t, "kafka", "list-clusters-v2", "--cluster-name-filter", "ev"), "ClusterInfoList", 0, "ClusterArn").(string)
	brokers, _ := at(c.run(t, "kafka", "get-bootstrap-brokers", "--cluster-arn", arn), "BootstrapBrokerString").(string)
	if !strings.HasPrefix(brokers, "b-1.events.") || strings.Count(brokers, ":7777") != 2 {
		t.Errorf("brokers %q", brokers)
	}
	check("main", c.run(t, "eks", "list-clusters"), "clusters", 0)
	check("ACTIVE", c.run(t, "eks", "describe-cluster", "--name", "main"), "cluster", "status")
	balancer, _ := at(c.run(t, "elbv2", "describe-load-balancers", "--names", "web"), "LoadBalancers", 0, "LoadBalancerArn").(string)
	check("HTTPS", c.run(t, "elbv2", "describe-listeners", "--load-balancer-arn", balancer), "Listeners", 0, "Protocol")
	check("corp.internal", c.run(t, "servicediscovery", "list-namespaces"), "Namespaces", 0, "Name")
	check("billing", c.run(t, "servicediscovery", "list-services"), "Services", 0, "Name")
	check("127.9.8.7", c.run(t, "ec2", "describe-instances", "--filters", "Name=tag:Name,Values=build"),
		"Reservations", 0, "Instances", 0, "PrivateIpAddress")
	service, _ := at(c.run(t, "ecs", "list-services", "--cluster", lab.ServicesCluster), "serviceArns", 0).(string)
	task, _ := at(c.run(t, "ecs", "list-tasks", "--cluster", lab.ServicesCluster, "--service-name", service), "taskArns", 0).(string)
	tasks := c.run(t, "ecs", "describe-tasks", "--cluster", lab.ServicesCluster, "--tasks", task)
	check("service:api", tasks, "tasks", 0, "group")
	check("1024", tasks, "tasks", 0, "cpu")

	// The security groups, each in its service's own form.
	const group = "sg-000000000000database"
	check(group, c.run(t, "rds", "describe-db-proxies"), "DBProxies", 0, "VpcSecurityGroupIds", 0)
	check(group, c.run(t, "memorydb", "describe-clusters"), "Clusters", 0, "SecurityGroups", 0, "SecurityGroupId")
	check(group, c.run(t, "redshift", "describe-clusters"), "Clusters", 0, "VpcSecurityGroups", 0, "VpcSecurityGroupId")
	check(group, c.run(t, "redshift-serverless", "list-workgroups"), "workgroups", 0, "securityGroupIds", 0)
	check(group, c.run(t, "opensearch", "describe-domains", "--domain-names", "logs"), "DomainStatusList", 0, "VPCOptions", "SecurityGroupIds", 0)
	endpoint, _ := at(c.run(t, "opensearchserverless", "list-vpc-endpoints"), "vpcEndpointSummaries", 0, "id").(string)
	check(group, c.run(t, "opensearchserverless", "batch-get-vpc-endpoint", "--ids", endpoint), "vpcEndpointDetails", 0, "securityGroupIds", 0)
	check(group, c.run(t, "kafka", "list-clusters-v2"), "ClusterInfoList", 0, "Provisioned", "BrokerNodeGroupInfo", "SecurityGroups", 0)
	check(group, c.run(t, "eks", "describe-cluster", "--name", "main"), "cluster", "resourcesVpcConfig", "clusterSecurityGroupId")
	check(group, c.run(t, "elbv2", "describe-load-balancers"), "LoadBalancers", 0, "SecurityGroups", 0)
	check(group, c.run(t, "ec2", "describe-instances"), "Reservations", 0, "Instances", 0, "SecurityGroups", 0, "GroupId")
	check(group, c.run(t, "ec2", "describe-network-interfaces"), "NetworkInterfaces", 0, "Groups", 0, "GroupId")

	for _, tt := range []struct {
		code string
		args []string
	}{
		{"DBProxyNotFoundFault", []string{"rds", "describe-db-proxies", "--db-proxy-name", "nope"}},
		{"ClusterNotFoundFault", []string{"memorydb", "describe-clusters", "--cluster-name", "nope"}},
		{"ClusterNotFound", []string{"redshift", "describe-clusters", "--cluster-identifier", "nope"}},
		{"ResourceNotFoundException", []string{"redshift-serverless", "get-workgroup", "--workgroup-name", "nope"}},
		{"ResourceNotFoundException", []string{"eks", "describe-cluster", "--name", "nope"}},
		{"LoadBalancerNotFound", []string{"elbv2", "describe-load-balancers", "--names", "nope"}},
		{"NotFoundException", []string{"kafka", "get-bootstrap-brokers", "--cluster-arn", arn + "x"}},
		{"ServiceNotFoundException", []string{"ecs", "list-tasks", "--cluster", lab.ServicesCluster, "--service-name", "nope"}},
		{"UnknownOperationException", []string{"eks", "list-nodegroups", "--cluster-name", "main"}},
	} {
		if text := c.fails(t, tt.args...); !strings.Contains(text, "("+tt.code+")") {
			t.Errorf("%q fails with %q, want %s", tt.args, text, tt.code)
		}
	}
}
