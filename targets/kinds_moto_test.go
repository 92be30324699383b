package targets_test

import (
	"context"
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	ekstypes "github.com/aws/aws-sdk-go-v2/service/eks/types"
	"github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	"github.com/aws/aws-sdk-go-v2/service/kafka"
	kafkatypes "github.com/aws/aws-sdk-go-v2/service/kafka/types"
	"github.com/aws/aws-sdk-go-v2/service/memorydb"
	"github.com/aws/aws-sdk-go-v2/service/opensearch"
	searchtypes "github.com/aws/aws-sdk-go-v2/service/opensearch/types"
	"github.com/aws/aws-sdk-go-v2/service/opensearchserverless"
	aosstypes "github.com/aws/aws-sdk-go-v2/service/opensearchserverless/types"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	rdstypes "github.com/aws/aws-sdk-go-v2/service/rds/types"
	"github.com/aws/aws-sdk-go-v2/service/redshift"
	"github.com/aws/aws-sdk-go-v2/service/servicediscovery"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/targets"
)

// discovered checks that the list has the targets, and that each is found by its name: with an address, or with the reason why not.
func discovered(t *testing.T, r *targets.Resolver, want []string) {
	t.Helper()
	found, err := r.All(t.Context())
	if err != nil {
		t.Logf("not listed: %v", err)
	}
	var got []string
	for _, f := range found {
		got = append(got, f.Name)
		if f.What == "" || f.Kind == "" {
			t.Errorf("%+v is not whole", f)
		}
		spec, err := targets.Parse(f.Name)
		if err != nil {
			t.Errorf("%s: %v", f.Name, err)
			continue
		}
		e, err := r.Resolve(t.Context(), spec)
		switch kind := fail.KindOf(err); {
		case err == nil && (e.Host == "" || e.Port == 0 || e.Name != f.Name):
			t.Errorf("%s: %+v", f.Name, e)
		case err != nil && kind != fail.NoTarget && kind != fail.Usage && !strings.HasPrefix(f.Name, "msk:") && f.Name != "ecs:secret/api":
			t.Errorf("%s: %v (%v)", f.Name, err, kind)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestKindsOnMoto: an emulator that is not ours answers about the kinds that it has.
func TestKindsOnMoto(t *testing.T) {
	if _, err := exec.LookPath("moto_server"); err != nil {
		rig.LeaveOut(t, "moto_server is missing: pip install 'moto[server]==5.2.1'")
	}
	cfg := aws.Config{
		Region: "eu-central-1", BaseEndpoint: aws.String(rig.Moto(t)), HTTPClient: rig.MotoClient(t), Retryer: rig.MotoRetryer,
		Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "not-a-key", ""),
	}
	group := furnishMoto(t, cfg)
	r := &targets.Resolver{Region: cfg.Region, AWS: targets.Connect(cfg)}
	discovered(t, r, []string{
		"cloudmap:corp.internal/billing", "ec2:build", "ecs:apps/api", "eks:main", "lb:web", "memorydb:scores", "msk:events", "neptune:graph",
		"opensearch:logs", "opensearch:vectors", "rds:orders", "rdsproxy:pool", "redshift:dwh",
	})
	for _, text := range []string{
		"rds:orders", "neptune:graph", "rdsproxy:pool", "memorydb:scores", "redshift:dwh", "opensearch:logs", "msk:events", "eks:main", "lb:web",
		"ec2:build:22",
	} {
		spec, err := targets.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		_, thing, _ := r.Examine(t.Context(), spec) // moto does not let every kind become usable; its domains have no status
		if !slices.Contains(thing.Groups, group) || thing.Status == "" && text != "opensearch:logs" || thing.SignIn.Means == "" {
			t.Errorf("%s: %+v, want the security group %s", text, thing, group)
		}
	}
	for _, spec := range []string{"ec2:build:22", "lb:web:80", "rds:orders", "rdsproxy:pool"} {
		if vpc, err := r.VPC(t.Context(), resolve(t, r, spec)); err != nil || !strings.HasPrefix(vpc, "vpc-") {
			t.Errorf("%s is in %q, %v", spec, vpc, err)
		}
	}
}

// furnishMoto makes one target of each kind that moto has, and returns the id of their security group.
func furnishMoto(t *testing.T, cfg aws.Config) (group string) {
	t.Helper()
	ctx := t.Context()
	do := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	network := ec2.NewFromConfig(cfg)
	vpcs, err := network.DescribeVpcs(ctx, nil)
	do("find the VPC", err)
	subnets, err := network.DescribeSubnets(ctx, nil)
	do("find subnets", err)
	subnet := []string{*subnets.Subnets[0].SubnetId, *subnets.Subnets[1].SubnetId}
	made, err := network.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{
		GroupName: aws.String("targets"), Description: aws.String("of targets"), VpcId: vpcs.Vpcs[0].VpcId,
	})
	do("make a security group", err)
	groups := []string{*made.GroupId}

	databases := rds.NewFromConfig(cfg)
	_, err = databases.CreateDBInstance(ctx, &rds.CreateDBInstanceInput{
		DBInstanceIdentifier: aws.String("orders"), DBInstanceClass: aws.String("db.t3.micro"), Engine: aws.String("postgres"),
		MasterUsername: aws.String("root"), MasterUserPassword: aws.String("not-a-password"), AllocatedStorage: aws.Int32(20),
		VpcSecurityGroupIds: groups, EnableIAMDatabaseAuthentication: aws.Bool(true),
	})
	do("make an instance", err)
	_, err = databases.CreateDBCluster(ctx, &rds.CreateDBClusterInput{
		DBClusterIdentifier: aws.String("graph"), Engine: aws.String("neptune"), MasterUsername: aws.String("root"),
		MasterUserPassword: aws.String("not-a-password"), VpcSecurityGroupIds: groups,
	})
	do("make a graph database", err)
	_, err = databases.CreateDBProxy(ctx, &rds.CreateDBProxyInput{
		DBProxyName: aws.String("pool"), EngineFamily: rdstypes.EngineFamilyPostgresql, RoleArn: aws.String("arn:aws:iam::123456789012:role/x"),
		VpcSubnetIds: subnet, VpcSecurityGroupIds: groups, Auth: []rdstypes.UserAuthConfig{{AuthScheme: rdstypes.AuthSchemeSecrets, SecretArn: aws.String("x")}},
	})
	do("make a proxy", err)
	_, err = memorydb.NewFromConfig(cfg).CreateCluster(ctx, &memorydb.CreateClusterInput{
		ClusterName: aws.String("scores"), NodeType: aws.String("db.t4g.small"), ACLName: aws.String("open-access"),
		SecurityGroupIds: groups,
	})
	do("make a MemoryDB cluster", err)
	_, err = redshift.NewFromConfig(cfg).CreateCluster(ctx, &redshift.CreateClusterInput{
		ClusterIdentifier: aws.String("dwh"), NodeType: aws.String("ra3.large"), MasterUsername: aws.String("root"),
		MasterUserPassword: aws.String("Not-A-Passw0rd"), DBName: aws.String("sales"),
		VpcSecurityGroupIds: groups,
	})
	do("make a warehouse", err)
	_, err = opensearch.NewFromConfig(cfg).CreateDomain(ctx, &opensearch.CreateDomainInput{
		DomainName: aws.String("logs"), EngineVersion: aws.String("OpenSearch_2.19"),
		VPCOptions: &searchtypes.VPCOptions{SubnetIds: subnet[:1], SecurityGroupIds: groups},
	})
	do("make a domain", err)
	furnishCollection(ctx, t, cfg)
	_, err = kafka.NewFromConfig(cfg).CreateClusterV2(ctx, &kafka.CreateClusterV2Input{
		ClusterName: aws.String("events"), Provisioned: &kafkatypes.ProvisionedRequest{
			KafkaVersion: aws.String("3.9.0"), NumberOfBrokerNodes: aws.Int32(2),
			BrokerNodeGroupInfo: &kafkatypes.BrokerNodeGroupInfo{ClientSubnets: subnet, InstanceType: aws.String("kafka.t3.small"), SecurityGroups: groups},
		},
	})
	do("make an MSK cluster", err)
	_, err = eks.NewFromConfig(cfg).CreateCluster(ctx, &eks.CreateClusterInput{
		Name: aws.String("main"), RoleArn: aws.String("arn:aws:iam::123456789012:role/eks"), ResourcesVpcConfig: &ekstypes.VpcConfigRequest{SubnetIds: subnet, SecurityGroupIds: groups, EndpointPrivateAccess: aws.Bool(true)},
	})
	do("make an EKS cluster", err)
	furnishBalancer(ctx, t, cfg, subnet, groups)

	services := servicediscovery.NewFromConfig(cfg)
	_, err = services.CreatePrivateDnsNamespace(ctx, &servicediscovery.CreatePrivateDnsNamespaceInput{Name: aws.String("corp.internal"), Vpc: vpcs.Vpcs[0].VpcId})
	do("make a namespace", err)
	namespaces, err := services.ListNamespaces(ctx, nil)
	do("find the namespace", err)
	_, err = services.CreateService(ctx, &servicediscovery.CreateServiceInput{Name: aws.String("billing"), NamespaceId: namespaces.Namespaces[0].Id})
	do("make a service", err)

	_, err = network.RunInstances(ctx, &ec2.RunInstancesInput{
		ImageId: aws.String("ami-12c6146b"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1), SubnetId: &subnet[0],
		SecurityGroupIds: groups,
		TagSpecifications: []ec2types.TagSpecification{{
			ResourceType: ec2types.ResourceTypeInstance, Tags: []ec2types.Tag{{Key: aws.String("Name"), Value: aws.String("build")}},
		}},
	})
	do("run an instance", err)
	containers := ecs.NewFromConfig(cfg)
	_, err = containers.CreateCluster(ctx, &ecs.CreateClusterInput{ClusterName: aws.String("apps")})
	do("make an ECS cluster", err)
	_, err = containers.RegisterTaskDefinition(ctx, &ecs.RegisterTaskDefinitionInput{
		Family: aws.String("api"), NetworkMode: ecstypes.NetworkModeAwsvpc,
		ContainerDefinitions: []ecstypes.ContainerDefinition{{Name: aws.String("api"), Image: aws.String("api"), Memory: aws.Int32(128)}},
	})
	do("register a task definition", err)
	_, err = containers.CreateService(ctx, &ecs.CreateServiceInput{
		Cluster: aws.String("apps"), ServiceName: aws.String("api"), TaskDefinition: aws.String("api"), DesiredCount: aws.Int32(0),
	})
	do("make an ECS service", err)
	return *made.GroupId
}

func furnishCollection(ctx context.Context, t *testing.T, cfg aws.Config) {
	t.Helper()
	c := opensearchserverless.NewFromConfig(cfg)
	policy, err := json.Marshal(map[string]any{
		"Rules":  []any{map[string]any{"ResourceType": "collection", "Resource": []string{"collection/vectors"}}},
		"KmsARN": "arn:aws:kms:eu-central-1:123456789012:key/x", // moto needs one
	})
	if err == nil {
		_, err = c.CreateSecurityPolicy(ctx, &opensearchserverless.CreateSecurityPolicyInput{
			Name: aws.String("own"), Type: aosstypes.SecurityPolicyTypeEncryption, Policy: aws.String(string(policy)),
		})
	}
	if err == nil {
		_, err = c.CreateCollection(ctx, &opensearchserverless.CreateCollectionInput{
			Name: aws.String("vectors"), Tags: []aosstypes.Tag{{Key: aws.String("team"), Value: aws.String("data")}}, // moto needs one
		})
	}
	if err != nil {
		t.Fatalf("make a collection: %v", err)
	}
}

func furnishBalancer(ctx context.Context, t *testing.T, cfg aws.Config, subnets, groups []string) {
	t.Helper()
	c := elasticloadbalancingv2.NewFromConfig(cfg)
	for name, scheme := range map[string]elbtypes.LoadBalancerSchemeEnum{"web": elbtypes.LoadBalancerSchemeEnumInternal, "shop": elbtypes.LoadBalancerSchemeEnumInternetFacing} {
		made, err := c.CreateLoadBalancer(ctx, &elasticloadbalancingv2.CreateLoadBalancerInput{Name: &name, Scheme: scheme, Subnets: subnets, SecurityGroups: groups})
		if err == nil {
			_, err = c.CreateListener(ctx, &elasticloadbalancingv2.CreateListenerInput{
				LoadBalancerArn: made.LoadBalancers[0].LoadBalancerArn, Port: aws.Int32(8080), Protocol: elbtypes.ProtocolEnumHttp,
				DefaultActions: []elbtypes.Action{{
					Type: elbtypes.ActionTypeEnumFixedResponse, FixedResponseConfig: &elbtypes.FixedResponseActionConfig{StatusCode: aws.String("200")},
				}},
			})
		}
		if err != nil {
			t.Fatalf("make a load balancer: %v", err)
		}
	}
}
