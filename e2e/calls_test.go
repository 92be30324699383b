//go:build linux

package e2e

import (
	"debug/elf"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// sdkMethod is the name of a method of a service's client.
var sdkMethod = regexp.MustCompile(`^github\.com/aws/aws-sdk-go-v2/service/([a-z0-9]+)\.\(\*Client\)\.([A-Z]\w+)$`)

// The program links only the AWS calls that it makes. With a whole client, the linker keeps all of a service's calls, 700 for EC2,
// and a MB for each 150. See access/calls.go.
func TestProgramKeepsOnlyItsCalls(t *testing.T) {
	t.Parallel()
	want := map[string][]string{
		"cloudformation": {
			"ContinueUpdateRollback", "CreateChangeSet", "DeleteChangeSet", "DeleteStack", "DescribeChangeSet",
			"DescribeStackDriftDetectionStatus", "DescribeStackEvents", "DescribeStackResourceDrifts", "DescribeStacks", "DetectStackDrift",
			"ExecuteChangeSet", "GetTemplate", "ListStackResources", "ListStacks",
		},
		"cloudwatchlogs": {"DeleteLogGroup", "DescribeLogGroups", "FilterLogEvents"},
		"ec2": {
			"DescribeInstances", "DescribeManagedPrefixLists", "DescribeNatGateways", "DescribeNetworkInterfaces", "DescribeRouteTables",
			"DescribeSecurityGroups", "DescribeSubnets",
			"DescribeVpcAttribute", "DescribeVpcEndpointServices", "DescribeVpcEndpoints", "DescribeVpcs", "GetPasswordData",
		},
		"costexplorer":       {"GetCostAndUsage"},
		"ecr":                {"GetAuthorizationToken"},
		"ec2instanceconnect": {"Options", "SendSSHPublicKey", "SendSerialConsoleSSHPublicKey"}, // the whole client: it has just these
		"ecs": {
			"DescribeClusters", "DescribeServices", "DescribeTaskDefinition", "DescribeTasks", "ExecuteCommand", "ListClusters", "ListServices", "ListTasks",
			"RunTask", "StopTask",
		},
		"eks":                    {"DescribeCluster", "ListClusters"},
		"elasticloadbalancingv2": {"DescribeListeners", "DescribeLoadBalancers"},
		"kafka":                  {"GetBootstrapBrokers", "ListClustersV2"},
		"memorydb":               {"DescribeClusters"},
		"opensearch":             {"DescribeDomains", "ListDomainNames"},
		"opensearchserverless":   {"BatchGetCollection", "BatchGetVpcEndpoint", "ListCollections", "ListVpcEndpoints"},
		"redshift":               {"DescribeClusters"},
		"redshiftserverless":     {"GetWorkgroup", "ListWorkgroups"},
		"servicediscovery":       {"DiscoverInstances", "ListNamespaces", "ListServices"},
		"elasticache":            {"DescribeCacheClusters", "DescribeReplicationGroups", "DescribeServerlessCaches"},
		"iam":                    {"SimulatePrincipalPolicy"},
		"kms":                    {"DescribeKey", "GenerateDataKey", "ScheduleKeyDeletion"},
		"rds":                    {"DescribeDBClusters", "DescribeDBInstances", "DescribeDBProxies", "DescribeDBProxyEndpoints"},
		"ssm":                    {"DeleteParameter", "GetDocument", "GetParameter", "PutParameter", "ResumeSession", "StartSession", "TerminateSession"},
	}
	program, err := elf.Open(filepath.Join(bin, "bastion"))
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	symbols, err := program.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string][]string)
	for _, s := range symbols {
		if m := sdkMethod.FindStringSubmatch(s.Name); m != nil {
			got[m[1]] = append(got[m[1]], m[2])
		}
	}
	for _, credentials := range []string{"signin", "sso", "ssooidc", "sts"} { // the SDK itself makes interfaces of their clients
		delete(got, credentials)
	}
	for _, service := range slices.Sorted(maps.Keys(got)) {
		slices.Sort(got[service])
		if !slices.Equal(got[service], want[service]) {
			t.Errorf("%s: the program has %s, and calls %s", service, strings.Join(got[service], ", "), strings.Join(want[service], ", "))
		}
		delete(want, service)
	}
	for service := range want {
		t.Errorf("%s: the program has none of its calls", service)
	}
}
