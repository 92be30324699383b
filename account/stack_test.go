package account

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/e2e/iamref"
	"github.com/bastion-ssm/bastion/internal/config"
)

// Every reference is to a parameter, or to a resource that stands before it: what reads top-down can be made top-down.
func TestReferencesAreMade(t *testing.T) {
	for name, s := range allStacks(t) {
		t.Run(name, func(t *testing.T) {
			made := make(map[string]bool)
			for _, p := range s.Parameters {
				made[p.Name] = true
			}
			check := func(where string, v any) {
				references(v, func(r any) {
					switch r := r.(type) {
					case Ref:
						if !made[string(r)] {
							t.Errorf("%s: %s is not made yet", where, r)
						}
					case Attr:
						if !made[r.ID] {
							t.Errorf("%s: %s is not made yet", where, r.ID)
						}
					}
				})
			}
			for _, r := range s.Resources {
				check(r.ID, r.Properties)
				if made[r.ID] {
					t.Errorf("%s is made twice", r.ID)
				}
				made[r.ID] = true
			}
			for _, o := range s.Outputs {
				check("output "+o.Name, o.Value)
			}
		})
	}
}

// policies are the policies of roles and people in a stack, by the resource that has them.
func (s *Stack) policies() map[string]Object {
	found := make(map[string]Object)
	for _, r := range s.Resources {
		switch r.Type {
		case "AWS::IAM::Role":
			for _, p := range r.Properties.get("Policies").(List) {
				found[r.ID] = p.(Object).get("PolicyDocument").(Object)
			}
		case "AWS::IAM::ManagedPolicy":
			found[r.ID] = r.Properties.get("PolicyDocument").(Object)
		}
	}
	return found
}

// The actions, resource types and condition keys of each policy exist for each other.
func TestPoliciesExist(t *testing.T) {
	reference := iamref.New(t)
	d := deployment{
		partition: "aws", region: "eu-central-1", account: "000000000000", urlSuffix: "amazonaws.com",
		values: map[any]string{
			Attr{"Key", "Arn"}:           "arn:aws:kms:eu-central-1:000000000000:key/01234567-89ab-cdef-0123-456789abcdef",
			Attr{"TaskRole", "Arn"}:      "arn:aws:iam::000000000000:role/task",
			Attr{"ExecutionRole", "Arn"}: "arn:aws:iam::000000000000:role/execution",
			Attr{"AuditBucket", "Arn"}:   "arn:aws:s3:::audit",
		},
	}
	for name, s := range allStacks(t) {
		policies := s.policies()
		if len(policies) == 0 {
			t.Errorf("%s: no policy", name)
		}
		for id, document := range policies {
			text, err := marshal(resolve(document, d.literal))
			if err != nil {
				t.Fatal(err)
			}
			var policy iamref.Policy
			if err := json.Unmarshal(text, &policy); err != nil || len(policy.Statement) == 0 {
				t.Fatalf("%s: %s: %v\n%s", name, id, err, text)
			}
			for _, s := range policy.Statement {
				for _, fault := range reference.Check(s) {
					t.Errorf("%s: %s: %s: %s", name, id, s.Sid, fault)
				}
			}
		}
	}
	if err := reference.Err(); err != nil {
		t.Error(err)
	}
}

// A class's people can use its shared bastion, and neither start nor stop a task. Nobody starts one with its mark.
func TestSharedClass(t *testing.T) {
	s := newStack(t, variants["shared"])
	own, team := s.peoplePolicy(s.Inputs.Classes[0]), s.peoplePolicy(s.Inputs.Classes[1])
	actions := func(p Policy) (all []string) {
		for _, statement := range p {
			all = append(all, statement.Action...)
		}
		return all
	}
	for _, never := range []string{"ecs:RunTask", "ecs:StopTask", "ecs:TagResource", "iam:PassRole", "ecs:UpdateService"} {
		if slices.Contains(actions(team), never) {
			t.Errorf("a user of the shared bastion may %s", never)
		}
	}
	if !slices.Contains(actions(team), "ecs:DescribeServices") || slices.Contains(actions(own), "ecs:DescribeServices") {
		t.Error("exactly the users of the shared bastion see its service")
	}
	marked := 0
	for _, statement := range own {
		for _, a := range statement.Action {
			if a != "ecs:RunTask" && a != "ecs:TagResource" {
				continue
			}
			if marked++; statement.Condition.get("Null") == nil {
				t.Errorf("%s may set the mark of a service's tasks", a)
			}
		}
	}
	if marked != 2 {
		t.Errorf("%d statements start tasks, want 2", marked)
	}
	for _, statement := range team {
		tasks, _ := marshal(resolve(statement.Resource, intrinsic))
		condition, _ := marshal(resolve(statement.Condition, intrinsic))
		if strings.Contains(string(tasks), ":task/") && !strings.Contains(string(condition), `"aws:ResourceTag/bastion:shared":"tunnel-team"`) {
			t.Errorf("%s is for other tasks too: %s", statement.Sid, condition)
		}
	}
	service, _ := s.Resource("ServiceTeam")
	definition, _ := s.Resource("TaskDefinitionTeam")
	environment, _ := marshal(resolve(definition.at("ContainerDefinitions").(List)[0].(Object).get("Environment"), intrinsic))
	if !strings.Contains(string(environment), `{"Name":"BASTIOND_IDLE_STOP","Value":"0"}`) {
		t.Errorf("ECS would start idle tasks anew: %s", environment)
	}
	if tags, _ := marshal(service.at("Tags")); string(tags) !=
		`[{"Key":"bastion:shared","Value":"tunnel-team"},{"Key":"bastion","Value":"true"},{"Key":"team","Value":"data"}]` {
		t.Errorf("tags of the service and its tasks: %s", tags)
	}
	if _, err := New(Inputs{Classes: []Class{{Shared: maxShared + 1}}}); err == nil {
		t.Error("a service of too many tasks")
	}
}

// ECS reads exactly the secrets that are handed to tasks, with exactly their keys, and the tasks reach Secrets Manager.
func TestSecrets(t *testing.T) {
	s := newStack(t, variants["secrets"])
	definition, _ := s.Resource("TaskDefinition")
	text, err := marshal(definition.at("ContainerDefinitions").(List)[0].(Object).get("Secrets"))
	const want = `[{"Name":"UPSTREAM_CA","ValueFrom":"arn:aws:secretsmanager:eu-central-1:000000000000:secret:upstream-AbCdEf"},` +
		`{"Name":"PROXY_PASSWORD","ValueFrom":"arn:aws:secretsmanager:eu-central-1:000000000000:secret:team/proxy-GhIjKl:password::"}]`
	if err != nil || string(text) != want {
		t.Errorf("%s, %v; want %s", text, err, want)
	}
	read := 0
	for _, statement := range s.executionRole() {
		switch statement.Sid {
		case "ReadTheSecrets":
			read++
			if text, _ := marshal(statement.Resource); strings.Contains(string(text), "*") || len(statement.Resource) != 2 {
				t.Errorf("%s", text)
			}
		case "DecryptTheSecrets":
			read++
			if len(statement.Resource) != 1 || len(statement.Condition) == 0 {
				t.Errorf("%+v", statement)
			}
		}
	}
	if _, ok := s.Resource("EndpointSecretsmanager"); !ok || read != 2 {
		t.Errorf("%d statements, endpoint %v", read, ok)
	}
	if _, ok := newStack(t, variants["endpoints"]).Resource("EndpointSecretsmanager"); ok {
		t.Error("an endpoint for secrets without any")
	}
}

// The policy of a class names its own task definition and no other's.
func TestClassesAreApart(t *testing.T) {
	s := newStack(t, variants["classes"])
	for id, want := range map[string]string{"UserPolicyReadOnly": "task-definition/tunnel-read-only:*", "UserPolicyAll": "task-definition/tunnel-all:*"} {
		r, ok := s.Resource(id)
		text, err := marshal(resolve(r.Properties, intrinsic))
		if !ok || err != nil || strings.Count(string(text), "task-definition/") != 1 || !strings.Contains(string(text), want) {
			t.Errorf("%s: %v\n%s", id, err, text)
		}
	}
}

// Tasks reach the endpoints, as everybody in the VPC does to whom private DNS names them, and S3, whose endpoint has no security group.
func TestEndpointsAreReached(t *testing.T) {
	for name, e := range map[string]Endpoints{"made": {Make: true}, "existing": {Groups: []string{"sg-1"}, PrefixList: "pl-1"}} {
		r, _ := newStack(t, Inputs{Endpoints: e}).Resource("SecurityGroup")
		text, err := marshal(resolve(r.Properties, intrinsic))
		if err != nil || strings.Count(string(text), `"FromPort":443`) != 2 || !strings.Contains(string(text), "DestinationPrefixListId") {
			t.Errorf("%s: %s, %v", name, text, err)
		}
	}
	group, ok := newStack(t, Inputs{SecurityGroup: "sg-0123456789abcdef0", Endpoints: Endpoints{Make: true}}).Resource("EndpointsGroup")
	if rule := group.at("SecurityGroupIngress").(List)[0].(Object); !ok || rule.get("CidrIp") != Ref(paramCIDR) {
		t.Errorf("the endpoints admit %v", rule)
	}
}

// A rule that names no destination is for each range of the VPC, which is a parameter then.
func TestRuleIntoTheVPC(t *testing.T) {
	s := newStack(t, variants["into the VPC"])
	group, _ := s.Resource("SecurityGroup")
	var got []any
	for _, rule := range group.at("SecurityGroupEgress").(List) {
		got = append(got, rule.(Object).get("FromPort"), rule.(Object).get("CidrIp"))
	}
	if want := []any{443, "0.0.0.0/0", 1433, Ref(paramCIDR), 1433, "100.64.0.0/16", 22, "10.9.8.7/32"}; !reflect.DeepEqual(got, want) {
		t.Errorf("rules %v, want %v", got, want)
	}
}

// Where some endpoints exist, the stack makes the others, and tasks reach both. Each range of the VPC reaches the new ones.
func TestSomeEndpoints(t *testing.T) {
	s := newStack(t, variants["some endpoints"])
	var made []string
	for _, r := range s.Resources {
		if r.Type == "AWS::EC2::VPCEndpoint" {
			made = append(made, r.ID)
		}
	}
	if want := []string{"EndpointSsmmessages", "EndpointKms", "EndpointEcsAgent"}; !slices.Equal(made, want) {
		t.Errorf("the stack makes %q, want %q", made, want)
	}
	for id, want := range map[string][]any{
		"SecurityGroup": {
			Attr{"EndpointsGroup", "GroupId"},
			"sg-0123456789abcdef2", "sg-0123456789abcdef3", "pl-0123456789abcdef0",
			Ref(paramCIDR), "100.64.0.0/16", Ref(paramCIDR), "100.64.0.0/16", Ref(paramCIDR), "100.64.0.0/16",
		},
		"EndpointsGroup": {Ref(paramCIDR), "100.64.0.0/16"},
	} {
		r, _ := s.Resource(id)
		rules, _ := r.at("SecurityGroupEgress").(List)
		if id == "EndpointsGroup" {
			rules = r.at("SecurityGroupIngress").(List)
		}
		var got []any
		for _, rule := range rules {
			got = append(got, rule.(Object)[3].Value)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: rules for %v, want %v", id, got, want)
		}
	}
	for _, p := range s.Parameters {
		if p.Name == paramTables || p.Name == paramPrefix {
			t.Errorf("the parameter %s is for an endpoint that the stack does not make", p.Name)
		}
	}
	for _, r := range newStack(t, variants["gateway endpoint"]).Resources {
		if r.ID == "EndpointsGroup" {
			t.Error("a security group for no endpoint")
		}
	}
}

// A rule in a group of others says whose it is, and lets in the tasks' group, whether made or given.
func TestIngress(t *testing.T) {
	in := variants["some endpoints"]
	for group, want := range map[string]any{"": Attr{"SecurityGroup", "GroupId"}, "sg-0123456789abcdef9": "sg-0123456789abcdef9"} {
		in.SecurityGroup = group
		r, ok := newStack(t, in).Resource("IngressSg0123456789abcdef1Port5432")
		if !ok || r.at("SourceSecurityGroupId") != want || r.at("GroupId") != "sg-0123456789abcdef1" || r.at("FromPort") != 5432 || r.Keep {
			t.Errorf("%+v, want the source %v", r, want)
		}
		if got := r.at("Description"); got != "bastion: tasks of the stack bastion to rds:orders" {
			t.Errorf("the description is %q", got)
		}
	}
}

// Everything that takes tags has the operator's. Of the security groups one has the tag by which the client finds it: it takes all that do.
func TestTags(t *testing.T) {
	in := variants["classes"]
	in.Endpoints.Make = true
	groups := 0
	for _, r := range newStack(t, in).Resources {
		name := tagged[r.Type]
		if name == "" {
			continue
		}
		text, err := marshal(r.Properties.get(name))
		if err != nil || !strings.Contains(string(text), `"Key":"cost-centre"`) {
			t.Errorf("%s: %s, %v", r.ID, text, err)
		}
		if r.Type == "AWS::EC2::SecurityGroup" && strings.Contains(string(text), `"Key":"bastion"`) {
			groups++
		}
	}
	if groups != 1 {
		t.Errorf("the client finds %d security groups", groups)
	}
}

// VPC endpoint services have the names of their partition.
func TestEndpointServices(t *testing.T) {
	for region, want := range map[string]any{
		"":              Text{"com.amazonaws.", Region, ".ecr.api"},
		"us-gov-west-1": "com.amazonaws.us-gov-west-1.ecr.api",
		"cn-north-1":    "cn.com.amazonaws.cn-north-1.ecr.api",
	} {
		r, _ := newStack(t, Inputs{Region: region, Endpoints: Endpoints{Make: true}}).Resource("EndpointEcrApi")
		if got := r.at("ServiceName"); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", region, got, want)
		}
	}
}

// The error names all invalid inputs at once, each with its value and the expected form.
func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		in   Inputs
		want []string
	}{
		{Inputs{Name: "Bastion"}, []string{`name "Bastion"`}},
		{Inputs{Name: strings.Repeat("a", 33)}, []string{"2 to 20"}},
		{Inputs{Name: "a"}, []string{`name "a"`}},
		{Inputs{Name: "a--b"}, []string{"single hyphens"}},
		{Inputs{Path: "data"}, []string{`IAM path "data"`}},
		{Inputs{RetentionDays: 30}, []string{"30 days", "365, 400"}},
		{Inputs{CPU: 1000}, []string{"1000 CPU units", "256, 512, 1024"}},
		{Inputs{CPU: 256, Memory: 4096}, []string{"4096 MiB with 256 CPU units", "512, 1024, 2048"}},
		{Inputs{Architecture: "arm64"}, []string{`architecture "arm64"`, "ARM64"}},
		{Inputs{Egress: []Egress{{Port: 70000}}}, []string{"egress to port 70000: want 1 to 65535", "want a description"}},
		{Inputs{Egress: []Egress{{Port: 1, CIDR: "10.0.0.0/8", Group: "sg-1", Description: "x"}}}, []string{"CIDR or a security group"}},
		{Inputs{Egress: []Egress{{Port: 1, CIDR: "10.0.0.1", Description: "x"}}}, []string{"CIDR or a security group"}},
		{Inputs{Classes: []Class{{}, {Name: "a"}}}, []string{`class ""`}},
		{
			Inputs{Secrets: []Secret{{Variable: "BASTIOND_ALLOW", ARN: "upstream", Field: "a:b", Key: "alias/x"}}},
			[]string{`variable "BASTIOND_ALLOW"`, `secret "upstream"`, `field "a:b"`, `key "alias/x"`},
		},
		{Inputs{Classes: []Class{{Name: "a-b"}, {Name: "aB"}}}, []string{`class "aB"`}},
		{Inputs{Classes: []Class{{Name: "a-b"}, {Name: "ab"}}}, []string{`class "ab": there are two`}},
		{Inputs{Egress: []Egress{{Port: 1, CIDR: "fd00::/8", Description: "x"}}}, []string{"an IPv4 CIDR"}},
		{Inputs{Egress: []Egress{{Port: 1, CIDR: "10.0.0.0/8", Description: "Jo's"}}}, []string{"want a description of at most 255 letters"}},
		{Inputs{Boundary: "ARN"}, []string{"permissions boundary \"ARN\": want the ARN of a policy"}},
		{Inputs{TaskRole: "x", ExecutionRole: "arn:aws:iam::111122223333:policy/x"}, []string{"task role \"x\"", "execution role \"arn"}},
		{Inputs{TaskRole: "arn:aws:iam::1:role/x", ExecutionRole: "arn:aws:iam:::role/x"}, []string{"task role \"arn", "execution role \"arn", "12 digits"}},
		{Inputs{Key: "arn:aws:kms:eu-central-1:1:alias/x"}, []string{"not of an alias"}},
		{Inputs{AlarmEmail: "x"}, []string{"want NAME@DOMAIN"}},
		{Inputs{SecurityGroup: "databases"}, []string{`security group of the tasks "databases": want its id`}},
		{
			Inputs{Classes: []Class{{Roles: []string{"analysts", "role/x", "AWSReservedSSO_Dev_0123456789abcdef"}}}},
			[]string{`role "role/x" of class ""`, `role "AWSReservedSSO_Dev_0123456789abcdef"`, "attach the class's policy to its permission set"},
		},
		{Inputs{Classes: []Class{{Allow: []string{"10.0.0.0/16:5432", "foo", "a:1 b:2"}}}}, []string{`destination "foo"`, `destination "a:1 b:2"`}},
		{
			Inputs{Egress: []Egress{{Port: 1, CIDR: "10.0.0.0/8", Description: strings.Repeat("x", 256)}}},
			[]string{"want a description of at most 255 letters"},
		},
		{Inputs{MoreCIDRs: []string{"fd00::/8"}}, []string{`VPC range "fd00::/8"`}},
		{Inputs{Endpoints: Endpoints{Make: true, Services: []string{"ssm"}}}, []string{`endpoint service "ssm"`, "ssmmessages, ecr.api"}},
		{Inputs{Endpoints: Endpoints{Services: []string{"kms"}}}, []string{"endpoint services kms: the stack makes none"}},
		{Inputs{Ingress: []Ingress{{Group: "orders"}}}, []string{`ingress of "orders"`, "ingress to port 0: want 1", "want what it is for"}},
		{
			Inputs{Ingress: []Ingress{{Group: "sg-1", Port: 1, For: "x"}, {Group: "sg-1", Port: 1, For: "y"}}},
			[]string{"ingress of sg-1 to port 1: given twice"},
		},
		{Inputs{Ingress: []Ingress{{Group: "sg-1", Port: 1, For: strings.Repeat("x", 151)}}}, []string{"at most 150"}},
		{Inputs{Classes: []Class{{Name: "a"}, {Name: "a"}}}, []string{"two of the name"}},
		{Inputs{Tags: []Tag{{"aws:x", ""}, {"bastion:owner", "me"}}}, []string{`tag "aws:x"`, `tag "bastion:owner"`}},
	} {
		_, err := New(tt.in)
		for _, want := range tt.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v, want %q", tt.in, err, want)
			}
		}
	}
	for name, in := range variants {
		if err := in.Defaults().Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The output Configuration is a configuration file that the client takes.
func TestConfigurationOutput(t *testing.T) {
	d := deployment{region: "eu-central-1", values: map[any]string{Ref("Cluster"): "made", Attr{"SecurityGroup", "GroupId"}: "sg-made"}}
	for name, want := range map[string]string{
		"default":     "eu-central-1 made bastion [sg-made] [] false ",
		"endpoints":   "eu-central-1 made bastion [sg-made] [subnet-0a subnet-0b] false ",
		"classes":     "eu-central-1 made tunnel-read-only [sg-made] [] false ",
		"only shared": "eu-central-1 made bastion [sg-made] [] true bastion",
		"existing":    "eu-central-1 made bastion [sg-0123456789abcdef0] [] false ",
	} {
		s := newStack(t, variants[name])
		i := slices.IndexFunc(s.Outputs, func(o Output) bool { return o.Name == "Configuration" })
		path := filepath.Join(t.TempDir(), config.FileName)
		if err := os.WriteFile(path, []byte(d.text(s.Outputs[i].Value)), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(config.Source{File: path, LookupEnv: func(string) (string, bool) { return "", false }})
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, d.text(s.Outputs[i].Value))
		}
		b := c.Bastion
		if got := fmt.Sprintln(c.AWS.Region, b.Cluster, b.TaskDefinition, b.SecurityGroups, b.Subnets, b.AssignPublicIP, b.SharedService); got != want+"\n" {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// The members of an object keep their order, and characters that HTML knows stay.
func TestMarshal(t *testing.T) {
	text, err := marshal(Object{{"b", List{1, "<&>"}}, {"a", Object{}}})
	if got := string(text); err != nil || got != `{"b":[1,"<&>"],"a":{}}` {
		t.Errorf("%s, %v", got, err)
	}
}

// A variable of IAM in a text is none of the template's.
func TestSubstituted(t *testing.T) {
	for _, tt := range []struct {
		text Text
		want string
	}{
		{Text{"a", Text{"b", "c"}}, `"abc"`},
		{Text{"${aws:userid}"}, `"${aws:userid}"`},
		{arn("ssm", "session/"+userID+"-*"), `{"Fn::Sub":"arn:${AWS::Partition}:ssm:${AWS::Region}:${AWS::AccountId}:session/${!aws:userid}-*"}`},
		{Text{Attr{"Bucket", "Arn"}, "/", Ref("Name")}, `{"Fn::Sub":"${Bucket.Arn}/${Name}"}`},
	} {
		if text, err := marshal(substituted(tt.text)); err != nil || string(text) != tt.want {
			t.Errorf("%v: %s, %v; want %s", tt.text, text, err, tt.want)
		}
	}
}

// references calls f for each Ref, Attr and Pseudo in v, those in texts too.
func references(v any, f func(any)) {
	resolve(v, func(r any) any {
		if t, ok := r.(Text); ok {
			for _, part := range t {
				references(part, f)
			}
			return nil
		}
		f(r)
		return nil
	})
}

// With transcripts ECS Exec writes them to both places, encrypted, by exactly the permissions that the agent in the task needs; without
// them there is nothing of it.
func TestExecLogsBothWays(t *testing.T) {
	for _, with := range []bool{false, true} {
		s := newStack(t, Inputs{ExecLogs: with})
		cluster, _ := s.Resource("Cluster")
		exec, _ := marshal(resolve(cluster.at("Configuration.ExecuteCommandConfiguration"), intrinsic))
		role, _ := s.Resource("TaskRole")
		policy, _ := marshal(resolve(role.Properties, intrinsic))
		want := map[string]bool{
			`"Logging":"OVERRIDE"`: with, `"Logging":"NONE"`: !with, `"CloudWatchLogGroupName"`: with, `"CloudWatchEncryptionEnabled":true`: with,
			`"S3BucketName"`: with, `"S3EncryptionEnabled":true`: with, `"KmsKeyId"`: true,
		}
		for text, there := range want {
			if strings.Contains(string(exec), text) != there {
				t.Errorf("transcripts %t: %s, %s is there: %t", with, exec, text, !there)
			}
		}
		for _, action := range []string{"logs:PutLogEvents", "logs:DescribeLogGroups", "s3:PutObject", "s3:GetEncryptionConfiguration", "kms:GenerateDataKey"} {
			if strings.Contains(string(policy), action) != with {
				t.Errorf("transcripts %t: the task role has %s: %t", with, action, !with)
			}
		}
		for _, id := range []string{"ExecLog", "AuditBucket"} {
			if _, made := s.Resource(id); made != with {
				t.Errorf("transcripts %t: %s is made: %t", with, id, made)
			}
		}
	}
}
