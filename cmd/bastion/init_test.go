package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	cfntypes "github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/bastion-ssm/bastion/account/setup"
	"github.com/bastion-ssm/bastion/account/survey"
	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/admin"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/invocation"
)

// stackOutputs are what a stack of the tests has made.
const stackOutputs = `<Outputs>` +
	`<member><OutputKey>Cluster</OutputKey><OutputValue>bastion</OutputValue></member>` +
	`<member><OutputKey>TaskDefinition</OutputKey><OutputValue>bastion</OutputValue></member>` +
	`<member><OutputKey>SecurityGroupId</OutputKey><OutputValue>sg-made</OutputValue></member>` +
	`<member><OutputKey>RepositoryUri</OutputKey><OutputValue>123456789012.dkr.ecr.eu-central-1.amazonaws.com/bastion</OutputValue></member>` +
	`</Outputs>`

// cloudFormation is moto behind a proxy that mends CloudFormation: moto 5.2.1 fails at the tags of a KMS key, and has no outputs of a stack
// that a change set made.
func cloudFormation(t *testing.T, moto string) string {
	t.Helper()
	to, err := url.Parse(moto)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host
			body, _ := io.ReadAll(r.In.Body)
			if form, err := url.ParseQuery(string(body)); err == nil && form.Get("Action") == "CreateChangeSet" {
				var template map[string]any
				if json.Unmarshal([]byte(form.Get("TemplateBody")), &template) == nil {
					delete(template["Resources"].(map[string]any)["Key"].(map[string]any)["Properties"].(map[string]any), "Tags")
					mended, _ := json.Marshal(template)
					form.Set("TemplateBody", string(mended))
					body = []byte(form.Encode())
				}
			}
			r.Out.Body, r.Out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		},
		ModifyResponse: func(r *http.Response) error {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return err
			}
			body = bytes.Replace(body, []byte("_COMPLETE</StackStatus>"), []byte("_COMPLETE</StackStatus>"+stackOutputs), 1)
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			r.Header.Set("Content-Length", strconv.Itoa(len(body)))
			return nil
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	return server.URL
}

// anyRegistry is a registry, and a transport on which every host leads to it.
func anyRegistry(t *testing.T) http.RoundTripper {
	t.Helper()
	server := httptest.NewTLSServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	transport := server.Client().Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.ServerName = "example.com" // in the test's certificate
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
	}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// inProcess runs a command line in this process, with a registry to push images to and nothing on standard input.
func inProcess(ctx context.Context, t *testing.T, registry http.RoundTripper, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	nobody, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	var stdout, stderr syncBuilder
	a := newApp(invocation.Stdio{In: nobody, Out: &stdout, Err: &stderr})
	a.Registry = registry
	code := finish(ctx, a.Err, a.Run(ctx, append([]string{"bastion"}, args...)))
	return result{code, stdout.String(), stderr.String()}
}

// database makes a database in moto's default VPC, which its security group lets nobody reach.
func database(t *testing.T, endpoint string) {
	t.Helper()
	cfg := motoConfig(t, endpoint)
	subnets, err := ec2.NewFromConfig(cfg).DescribeSubnets(t.Context(), &ec2.DescribeSubnetsInput{})
	if err != nil {
		t.Fatal(err)
	}
	group, err := ec2.NewFromConfig(cfg).CreateSecurityGroup(t.Context(), &ec2.CreateSecurityGroupInput{
		VpcId: subnets.Subnets[0].VpcId, GroupName: aws.String("orders"), Description: aws.String("orders"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rds.NewFromConfig(cfg).CreateDBInstance(t.Context(), &rds.CreateDBInstanceInput{
		DBInstanceIdentifier: aws.String("orders"), DBInstanceClass: aws.String("db.t4g.micro"), Engine: aws.String("postgres"),
		VpcSecurityGroupIds: []string{*group.GroupId}, AllocatedStorage: aws.Int32(20), MasterUsername: aws.String("u"),
		MasterUserPassword: aws.String("password"),
	}); err != nil {
		t.Fatal(err)
	}
}

// The command leads an account of an emulator that is not ours to a stack, an image and a file; the second time it changes nothing.
func TestInitOnMoto(t *testing.T) {
	program, err := bastiond() // for this machine, and good enough for an image
	if err != nil {
		t.Fatal(err)
	}
	endpoint := cloudFormation(t, rig.Moto(t))
	database(t, endpoint)
	for _, kv := range append(offline(t.TempDir()), "AWS_ENDPOINT_URL="+endpoint, "AWS_REGION=eu-central-1", "AWS_ACCESS_KEY_ID=AKIATEST",
		"AWS_SECRET_ACCESS_KEY=not-a-key", "AWS_MAX_ATTEMPTS=2", "BASTION_CONFIG="+os.DevNull) {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
	pricesFile, err := filepath.Abs(filepath.Join("..", "..", "account", "price", "prices.json"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Chdir(dir)
	transport := anyRegistry(t)
	bastion := func(args ...string) result {
		t.Helper()
		return inProcess(t.Context(), t, transport, append([]string{"init", "--bastiond", "amd64=" + program}, args...)...)
	}
	expect := func(what string, r result, code int, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(r.stdout+r.stderr, want) {
				t.Errorf("%s: it does not say %q", what, want)
			}
		}
		if r.code != code || t.Failed() {
			t.Fatalf("%s: exit code %d, want %d\n%s%s", what, r.code, code, r.stdout, r.stderr)
		}
	}
	expect("without an answer", bastion("--yes"), 2, "--change-security-groups")
	expect("without a confirmation", bastion("--change-security-groups", "no"), 2, "add --yes", "The stack bastion in account 123456789012")
	expect("only a plan", bastion("--change-security-groups", "yes", "--dry-run"), 0, "AWS::ECS::Cluster", "Of yours it changes", "Cost: about $")
	expect("a plan without an answer", bastion("--dry-run"), 0, "taking --change-security-groups", "AWS::ECS::Cluster")
	prices := filepath.Join(dir, "prices.json")
	published, err := os.ReadFile(pricesFile)
	if err == nil {
		err = os.WriteFile(prices, bytes.ReplaceAll(published, []byte(`"key_month": "1"`), []byte(`"key_month": "77"`)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	expect("a plan with one's own prices", bastion("--change-security-groups", "yes", "--dry-run", "--prices", prices, "--price-vcpu-hour", "5"), 0,
		"KMS key: $77.00 a month", "Fargate vCPU, ARM: $5.0000 an hour")
	if _, err := os.Stat(config.FileName); err == nil {
		t.Error("a plan wrote " + config.FileName)
	}
	expect("the set-up", bastion("--change-security-groups", "yes", "--yes", "--no-test"), 0, "wrote bastion.yaml")
	text, err := os.ReadFile(filepath.Join(dir, config.FileName))
	if err != nil || !strings.Contains(string(text), "orders: rds:orders") || !strings.Contains(string(text), "sg-made") {
		t.Errorf("%v, the file is\n%s", err, text)
	}
	expect("again", bastion("--yes", "--no-test"), 0, "Nothing changes", "stays as it is")

	var out admin.InitOutput
	r := bastion("--task-size", "small", "--dry-run", "-o", "json")
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil || r.code != 0 {
		t.Fatalf("%v: %d\n%s%s", err, r.code, r.stdout, r.stderr)
	}
	plan := out.Plan
	if len(out.Outputs) > 0 || !plan.Exists || len(plan.Resources) != 1 || plan.Resources[0].Resource != "TaskDefinition" {
		t.Errorf("a smaller task changes %+v", plan.Resources)
	}
}

// What is printed for those who deploy themselves needs no AWS.
func TestInitEmit(t *testing.T) {
	for _, kv := range offline(t.TempDir()) {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--emit", "cfn", "--offline", "--name", "data"}, 0, `"Default": "1"`},
		{[]string{"--emit", "terraform", "--offline", "--boundary", "arn:aws:iam::111122223333:policy/b"}, 0, "permissions_boundary"},
		{[]string{"--emit", "json", "--offline", "--region", "cn-north-1"}, 0, `"${Key.Arn}"`},
		{[]string{"--emit", "policies", "--offline", "--region", "cn-north-1"}, 0, `"arn:aws-cn:ecs:cn-north-1:ACCOUNT_ID:`},
		{[]string{"--emit", "cfn", "--offline", "--spot"}, 0, `"FARGATE_SPOT"`},
		{
			[]string{"--emit", "cfn", "--offline", "--secret", "TOKEN=arn:aws:secretsmanager:eu-central-1:111122223333:secret:t-AbCdEf"},
			0, `"secretsmanager:GetSecretValue"`,
		},
		{[]string{"--emit", "cfn", "--offline", "--secret", "TOKEN"}, 2, "names no variable"},
		{
			[]string{"--emit", "cfn", "--offline", "--secret", "TOKEN=arn:aws:secretsmanager:eu-central-1:111122223333:secret:t-AbCdEf:field," +
				"arn:aws:kms:eu-central-1:111122223333:key/k"},
			0, `:secret:t-AbCdEf:field::"`,
		},
		{
			[]string{"--emit", "cfn", "--offline", "--secret", "TOKEN=arn:aws:secretsmanager:eu-central-1:111122223333:secret:t-AbCdEf:field::," +
				"arn:aws:kms:eu-central-1:111122223333:key/k"},
			0, `"arn:aws:kms:eu-central-1:111122223333:key/k"`,
		},
		{[]string{"--emit", "cfn", "--offline", "--make-endpoints", "yes", "--region", "cn-north-1"}, 0, `"cn.com.amazonaws.cn-north-1.ecr.api"`},
		{[]string{"--emit", "cfn", "--offline", "--shared", "2", "--public-address", "yes"}, 0, `"AssignPublicIp": "ENABLED"`},
		{[]string{"--emit", "cfn", "--offline", "--vpc", "vpc-0a"}, 0, `"Default": "vpc-0a"`},
		{[]string{"--emit", "cfn", "--offline", "--vpc", "main"}, 2, "takes a look at the account"},
		{[]string{"--emit", "cfn", "--offline", "--change-security-groups", "yes"}, 2, "takes a look at the account"},
		{[]string{"--emit", "cfn", "--offline", "--allow", "10.1.2.0/24:1433"}, 0, `"FromPort": 1433`},
		{[]string{"--emit", "cfn", "--offline", "--allow", "10.1.2.0/24:1-9"}, 0, "bastion: the tasks' security group opens no range of ports"},
		{[]string{"--emit", "cfn", "--offline", "--egress", "10.1.0.0/16:1433"}, 0, `"CidrIp": "10.1.0.0/16"`},
		{[]string{"--emit", "cfn", "--offline", "--egress", "10.1.0.0/16:1433", "--allow", "*:22"}, 0, "no rule of --egress has the port of: *:22"},
		{[]string{"--emit", "cfn", "--offline", "--egress", "10.1.0.0/16"}, 2, "is no rule"},
		{[]string{"--emit", "cfn", "--offline", "--egress", "fd00::/8:22"}, 2, "want an IPv4 CIDR"},
		{[]string{"--emit", "cfn", "--offline", "--egress", "vpc:22", "--security-groups", "sg-1"}, 2, "for the stack's own security group"},
		{[]string{"--emit", "cfn", "--offline", "--class", "read=10.0.0.0/16:5432", "--people", "read=analysts,interns"}, 0, `"interns"`},
		{[]string{"--emit", "cfn", "--offline", "--people", "write=analysts"}, 2, `there is no class "write"`},
		{[]string{"--emit", "cfn", "--offline", "--security-groups", "databases"}, 2, "want its id, sg-..."},
		{[]string{"--emit", "bicep", "--offline"}, 2, "no form of a stack"},
		{[]string{"--emit", "bicep"}, 2, "no form of a stack"},
		{[]string{"--offline"}, 2, "there is no --emit"},
		{[]string{"--emit", "cfn", "--offline", "--retention", "0"}, 2, "want a number above 0"},
		{[]string{"--emit", "cfn", "--offline", "--retention", "1y"}, 2, "is no number"},
		{[]string{"--emit", "cfn", "--offline", "--execution-role", "arn:aws:iam::1:role/x"}, 2, "12 digits"},
		{[]string{"--emit", "cfn", "--offline", "--allow", "10.0.0.0/33:5432"}, 2, "want a CIDR without host bits"},
		{[]string{"--dry-run", "--bastiond", "amd64=/nowhere"}, 2, "name a file"},
		{[]string{"--emit", "cfn", "--offline", "--class", "read"}, 2, "has no name or no destination"},
		{[]string{"--emit", "cfn", "--offline", "--class", "read=10.0.0.0/16:5432", "--class", "write=10.0.0.0/16:3306"}, 0, `"ImageTagWrite"`},
		{[]string{"--emit", "cfn", "--offline", "--class", "read=10.0.0.0/16:5432", "--allow", "10.0.0.0/16:3306"}, 2, "give one --allow"},
		{[]string{"--emit", "cfn", "--offline", "--allow", "10.0.0.0/16:3306", "--class", "read=10.0.0.0/16:5432"}, 2, "give one --allow"},
		{[]string{"--emit", "cfn", "--offline", "--retention", "7"}, 2, "want a year or more, as CloudWatch Logs takes it: 365, 400"},
		{[]string{"--emit", "cfn", "--offline", "--security-groups", "sg-1,sg-2"}, 2, "name one security group"},
		{[]string{"--vpc", "a", "--public-address", "perhaps"}, 2, "neither yes nor no"},
		{[]string{"--dry-run", "--prices", "/nowhere"}, 2, "name a file"},
		{[]string{"--dry-run", "--prices", os.DevNull}, 2, "begin with account/price/prices.json"},
		{[]string{"--bastiond", "FILE"}, 2, "names no architecture"},
		{[]string{"--bastiond", "amd64=/nowhere"}, 2, "name a file"},
	} {
		var stdout, stderr syncBuilder
		code := run(t.Context(), append([]string{"bastion", "init"}, test.args...), invocation.Stdio{In: os.Stdin, Out: &stdout, Err: &stderr})
		if code != test.code || !strings.Contains(stdout.String()+stderr.String(), test.want) {
			t.Errorf("%q: exit code %d, want %d with %q\n%s%.400s", test.args, code, test.code, test.want, stderr.String(), stdout.String())
		}
	}
}

// What is printed has the rules of --egress in each form. An emulator that is not ours makes the template's stack and takes its rules;
// HashiCorp's parser reads the module.
func TestEmittedEgress(t *testing.T) {
	for _, kv := range offline(t.TempDir()) {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
	moto := cloudFormation(t, rig.Moto(t))
	cfg := motoConfig(t, moto)
	network := ec2.NewFromConfig(cfg)
	vpcs, err := network.DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{})
	if err != nil || len(vpcs.Vpcs) == 0 {
		t.Fatalf("%+v, %v", vpcs, err)
	}
	group, err := network.CreateSecurityGroup(t.Context(), &ec2.CreateSecurityGroupInput{
		VpcId: vpcs.Vpcs[0].VpcId, GroupName: aws.String("orders"), Description: aws.String("orders"),
	})
	if err != nil {
		t.Fatal(err)
	}
	emit := func(form string) string {
		t.Helper()
		r := inProcess(t.Context(), t, nil, "init", "--emit", form, "--offline", "--allow", "10.1.0.0/16:5432", "--vpc", *vpcs.Vpcs[0].VpcId,
			"--egress", "10.1.0.0/16:5432,"+*group.GroupId+":6379", "--egress", "vpc:1433,10.9.8.7:22")
		if r.code != 0 || r.stderr != "" {
			t.Fatalf("--emit %s: %d: %s", form, r.code, r.stderr)
		}
		return r.stdout
	}
	stacks := cloudformation.NewFromConfig(cfg)
	stack, set := aws.String("bastion"), aws.String("first")
	if _, err := stacks.CreateChangeSet(t.Context(), &cloudformation.CreateChangeSetInput{
		StackName: stack, ChangeSetName: set, ChangeSetType: cfntypes.ChangeSetTypeCreate, TemplateBody: aws.String(emit("cfn")),
		Capabilities: []cfntypes.Capability{cfntypes.CapabilityCapabilityIam},
		Parameters:   []cfntypes.Parameter{{ParameterKey: aws.String("VpcCidr"), ParameterValue: vpcs.Vpcs[0].CidrBlock}},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := stacks.ExecuteChangeSet(t.Context(), &cloudformation.ExecuteChangeSetInput{StackName: stack, ChangeSetName: set}); err != nil {
		t.Fatal(err)
	}
	want := []string{"0.0.0.0/0:443", "10.1.0.0/16:5432", "10.9.8.7/32:22", *vpcs.Vpcs[0].CidrBlock + ":1433", *group.GroupId + ":6379"}
	slices.Sort(want)
	if got := templateEgress(t, stacks, network, *vpcs.Vpcs[0].CidrBlock); !slices.Equal(got, want) {
		t.Errorf("the template's rules are %q, want %q", got, want)
	}
	if got := append([]string{"0.0.0.0/0:443"}, moduleEgress(t, emit("terraform"), *vpcs.Vpcs[0].CidrBlock)...); !slices.Equal(got, want) {
		t.Errorf("the module's rules are %q, want %q", got, want)
	}
}

// templateEgress are the outbound rules of the tasks' security group in the template of the stack that was made. moto 5.2.1 makes the group
// without them, so each is added to it here: EC2 has to take it.
func templateEgress(t *testing.T, stacks *cloudformation.Client, network *ec2.Client, vpcCIDR string) (rules []string) {
	t.Helper()
	name := aws.String("bastion")
	made, err := stacks.DescribeStackResources(t.Context(), &cloudformation.DescribeStackResourcesInput{StackName: name})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(made.StackResources, func(r cfntypes.StackResource) bool { return aws.ToString(r.LogicalResourceId) == "SecurityGroup" })
	if i < 0 {
		t.Fatalf("no security group among %+v", made.StackResources)
	}
	out, err := stacks.GetTemplate(t.Context(), &cloudformation.GetTemplateInput{StackName: name})
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`\{\s*"Ref":\s*"VpcCidr"\s*\}`).ReplaceAllString(*out.TemplateBody, strconv.Quote(vpcCIDR))
	var template struct {
		Resources struct {
			SecurityGroup struct {
				Properties struct {
					SecurityGroupEgress []struct {
						FromPort                           int32
						CidrIp, DestinationSecurityGroupId string
					}
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &template); err != nil {
		t.Fatal(err)
	}
	for _, r := range template.Resources.SecurityGroup.Properties.SecurityGroupEgress {
		permission := ec2types.IpPermission{IpProtocol: aws.String("tcp"), FromPort: &r.FromPort, ToPort: &r.FromPort}
		if r.CidrIp != "" {
			permission.IpRanges = []ec2types.IpRange{{CidrIp: &r.CidrIp}}
		} else {
			permission.UserIdGroupPairs = []ec2types.UserIdGroupPair{{GroupId: &r.DestinationSecurityGroupId}}
		}
		if _, err := network.AuthorizeSecurityGroupEgress(t.Context(), &ec2.AuthorizeSecurityGroupEgressInput{
			GroupId: made.StackResources[i].PhysicalResourceId, IpPermissions: []ec2types.IpPermission{permission},
		}); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
		rules = append(rules, fmt.Sprintf("%s%s:%d", r.CidrIp, r.DestinationSecurityGroupId, r.FromPort))
	}
	slices.Sort(rules)
	return rules
}

// moduleEgress are the rules of a Terraform module without a value for its variable egress.
func moduleEgress(t *testing.T, text, vpcCIDR string) (rules []string) {
	t.Helper()
	file, faults := hclparse.NewParser().ParseHCL([]byte(text), "main.tf")
	if faults.HasErrors() {
		t.Fatal(faults)
	}
	for _, b := range file.Body.(*hclsyntax.Body).Blocks {
		if b.Type != "locals" {
			continue
		}
		all, faults := b.Body.Attributes["egress"].Expr.Value(&hcl.EvalContext{Variables: map[string]cty.Value{"var": cty.ObjectVal(map[string]cty.Value{
			"egress": cty.NullVal(cty.DynamicPseudoType), "vpc_cidr": cty.StringVal(vpcCIDR),
		})}})
		if faults.HasErrors() {
			t.Fatal(faults)
		}
		for _, rule := range all.AsValueMap() {
			to := rule.GetAttr("cidr")
			if to.IsNull() {
				to = rule.GetAttr("group")
			}
			port, _ := rule.GetAttr("port").AsBigFloat().Int64()
			rules = append(rules, fmt.Sprintf("%s:%d", to.AsString(), port))
		}
	}
	slices.Sort(rules)
	return rules
}

// At the end a bastion runs, and a database has answered through it; one that does not is an error that names it.
func TestInitTriesTheBastion(t *testing.T) {
	e := startLab(t, nil)
	e.here(nil, "down") // sets the environment
	s, err := config.Load(config.Source{})
	if err != nil {
		t.Fatal(err)
	}
	a := newApp(invocation.Stdio{In: os.Stdin, Out: io.Discard, Err: io.Discard})
	made := setup.Settings{
		Region: "eu-central-1", Cluster: s.Bastion.Cluster, TaskDefinition: s.Bastion.TaskDefinition,
		Subnets: []string{"subnet-0000000000000laba"}, SecurityGroup: "sg-0000000000000000lab",
	}
	host, text, err := net.SplitHostPort(e.Databases()[0].Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	task, tested, err := admin.Try(t.Context(), a.Invocation, s, made, []survey.Database{
		{Name: "rds:without-an-address"}, {Name: "rds:orders", Addresses: []survey.Address{{Host: host, Port: port}}},
	})
	if err != nil || !strings.Contains(task, ":task/") || tested != "rds:orders" {
		t.Errorf("task %q, tested %q, error %v", task, tested, err)
	}
	_, _, err = admin.Try(t.Context(), a.Invocation, s, made, []survey.Database{
		{Name: "rds:gone", Addresses: []survey.Address{{Host: "gone." + host, Port: port}}},
	})
	if err == nil || !strings.Contains(err.Error(), "gone."+host) {
		t.Errorf("a database that is not there: %v", err)
	}
}
