package doctor

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/tunnel"
)

// answer is an error as AWS's services give it.
type answer struct{ code, message string }

func (a answer) Error() string        { return a.code + ": " + a.message }
func (a answer) ErrorCode() string    { return a.code }
func (a answer) ErrorMessage() string { return a.message }

// healthy are facts without a fault.
func healthy(t *testing.T) *Facts {
	t.Helper()
	s, err := config.FromTexts(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Forward.TLSCA = "ca.pem"
	f := &Facts{Version: "1.0.0", Settings: s}
	f.Machine.AgentErr = api.ErrNotRunning
	f.Credentials = Credentials{Region: "eu-central-1", Account: "1", SkewKnown: true}
	f.Reaches = []Reached{{Service: gateway, Host: "h:443", Secure: true, Upgrade: true, Status: 403}}
	f.Account = Account{
		Asked: true, Cluster: &ecstypes.Cluster{Status: aws.String("ACTIVE")},
		Definition: &ecstypes.TaskDefinition{
			Status: ecstypes.TaskDefinitionStatusActive, NetworkMode: ecstypes.NetworkModeAwsvpc,
			Cpu: aws.String("1024"), Memory: aws.String("2048"),
			TaskRoleArn: aws.String("arn:aws:iam::1:role/t"), ExecutionRoleArn: aws.String("arn:aws:iam::1:role/e"),
			ContainerDefinitions: []ecstypes.ContainerDefinition{{
				Name: aws.String("bastion"), Image: aws.String("1.dkr.ecr.eu-central-1.amazonaws.com/bastion:1"),
				LinuxParameters: &ecstypes.LinuxParameters{InitProcessEnabled: aws.Bool(true)},
			}},
		},
		TaskRole: Simulated{Asked: true}, ExecutionRole: Simulated{Asked: true},
		Subnets: []ec2types.Subnet{{
			SubnetId: aws.String("subnet-1"), VpcId: aws.String("vpc-1"), AvailableIpAddressCount: aws.Int32(9),
			CidrBlock: aws.String("10.0.0.0/24"),
		}},
		Tables: []ec2types.RouteTable{{
			VpcId: aws.String("vpc-1"), Associations: []ec2types.RouteTableAssociation{{Main: aws.Bool(true)}},
			Routes: []ec2types.Route{{DestinationCidrBlock: aws.String("0.0.0.0/0"), NatGatewayId: aws.String("nat-1")}},
		}},
		Groups: []ec2types.SecurityGroup{{
			GroupId: aws.String("sg-1"), VpcId: aws.String("vpc-1"),
			IpPermissionsEgress: []ec2types.IpPermission{{IpProtocol: aws.String("-1")}},
		}},
		Preferences: Preferences{None: true},
	}
	f.Running = Running{Asked: true, All: []bastions.Bastion{{
		TaskID: "t", LastStatus: "RUNNING", ExecEnabled: true, ExecStatus: "RUNNING", ExecRunning: true, RuntimeID: "r", Platform: "1.4.0",
	}}, Measured: &access.Measured{Version: "1", MemoryLimit: 100, MemoryUsed: 10, Sessions: 1, MaxSessions: 9}}
	return f
}

func said(all []Finding) (out []string) {
	for _, f := range all {
		if f.Level != OK && (f.Level != Skipped || f.Needs == "" && f.Case != caseNone) {
			out = append(out, fmt.Sprintf("%s %s %s", f.Level, f.ID, f.Case))
		}
	}
	return out
}

func TestHealthy(t *testing.T) {
	if got := said(judge(healthy(t), Checks())); len(got) > 0 {
		t.Errorf("%q", got)
	}
}

// Facts that no set-up of the lab has.
func TestJudge(t *testing.T) {
	denied := fail.AWS(fail.Other, "look", "ecs:X", answer{
		"AccessDeniedException",
		"User: u is not authorized to perform: ecs:X on resource: r with an explicit deny in a service control policy",
	})
	for name, tt := range map[string]struct {
		change func(f *Facts)
		want   []string
	}{
		"agent of this version":   {func(f *Facts) { f.Machine.AgentErr, f.Machine.Agent.Version = nil, "1.0.0" }, nil},
		"state directory":         {func(f *Facts) { f.Machine.StateErr = errors.New("x") }, []string{"error machine.directories state"}},
		"port is the agent's own": {func(f *Facts) { f.Machine.Ports = []Port{{5432, "orders", syscall.EADDRINUSE, "orders", ""}} }, nil},
		"port below 1024": {
			func(f *Facts) {
				f.Target, f.Where.Dialed, f.Machine.Ports = "x:80", true, []Port{{80, "x:80", syscall.EACCES, "", ""}}
			},
			[]string{"error machine.ports busy"},
		},
		"a server in place of the task": {func(f *Facts) { f.Settings.SSHD.Target, f.Account, f.Running = "i-1", Account{}, Running{} }, nil},
		"a shared bastion": {func(f *Facts) {
			f.Settings.Bastion.SharedService, f.Account.Definition, f.Account.Subnets, f.Account.Groups = "bastions", nil, nil, nil
			f.Account.LastStopped = &bastions.Bastion{StoppedReason: "x"}
		}, nil},
		"clock behind":    {func(f *Facts) { f.Credentials.Skew = 2 * time.Minute }, []string{"warning machine.clock off"}},
		"clock far ahead": {func(f *Facts) { f.Credentials.Skew = -time.Hour }, []string{"error machine.clock far"}},
		"no time":         {func(f *Facts) { f.Credentials.SkewKnown = false }, []string{"skipped machine.clock unasked"}},
		"time of the gateway's answer": {
			func(f *Facts) {
				f.Credentials.SkewKnown = false
				f.Reaches[0].At, f.Reaches[0].Date = time.Unix(1000, 0), time.Unix(400, 0)
			},
			[]string{"error machine.clock far"},
		},
		"credentials without a network": {
			func(f *Facts) {
				f.Credentials.LoadErr, f.Reaches[0].TCPErr = errors.New("dial tcp"), errors.New("refused")
			},
			[]string{"error network.tcp closed"},
		},
		"task too small": {
			func(f *Facts) { f.Settings.Link.Sessions, f.Account.Definition.Memory = 60, aws.String("512") },
			[]string{"warning aws.task_size memory"},
		},
		"boundary of the task role": {
			func(f *Facts) { f.Account.TaskRole.Refused = []Refused{{"a:B", "*", false, "permissions boundary"}} },
			[]string{"error aws.task_role lacks"},
		},
		"definition is not to be seen": {
			func(f *Facts) { f.Account.Definition, f.Account.DefinitionErr = nil, denied },
			[]string{"skipped aws.task_definition denied"},
		},
		"no execution role, and none needed": {func(f *Facts) {
			f.Account.ExecutionRole, f.Account.Definition.ExecutionRoleArn = Simulated{}, nil
			f.Account.Definition.ContainerDefinitions[0].Image = aws.String("ghcr.io/x/bastion:1")
		}, nil},
		"no execution role for ECR": {func(f *Facts) { f.Account.Definition.ExecutionRoleArn = nil }, []string{"error aws.execution_role none"}},
		"subnets unset":             {func(f *Facts) { f.Settings.Bastion.SubnetTags = nil }, []string{"error aws.subnets unset"}},
		"refused task":              {func(f *Facts) { f.Running.All[0].Refused = "has a volume" }, []string{"error bastion.task refused"}},
		"unchecked task":            {func(f *Facts) { f.Running.All[0].Unchecked = "x" }, []string{"skipped bastion.task unchecked"}},
		"task starts":               {func(f *Facts) { f.Running.All[0].LastStatus, f.Running.All[0].ExecRunning = "PENDING", false }, nil},
		"session limit": {
			func(f *Facts) {
				f.Running.ConnectErr = fail.AWS(fail.Start, "x", "ssm:StartSession", answer{
					"ServiceQuotaExceededException",
					"Too many sessions are active",
				})
			},
			[]string{"error bastion.connect limit"},
		},
		"not connected": {
			func(f *Facts) {
				f.Running.ConnectErr = fail.AWS(fail.Start, "x", "x", answer{"TargetNotConnected", "x is not connected."})
			},
			[]string{"error bastion.connect not_connected"},
		},
		"sessions full": {func(f *Facts) { f.Running.Measured.Sessions = 9 }, []string{"warning bastion.sessions full"}},
		"memory full":   {func(f *Facts) { f.Running.Measured.MemoryUsed = 95 }, []string{"warning bastion.headroom memory"}},
		"CPU full":      {func(f *Facts) { f.Running.Measured.Throttled = 0.6 }, []string{"warning bastion.headroom cpu"}},
		"quota at the last start": {
			func(f *Facts) {
				f.Running.All, f.Account.LastStopped = nil, &bastions.Bastion{StoppedReason: "Capacity is unavailable at this time."}
			},
			[]string{"warning aws.last_start failed"},
		},
		"failed before one that runs": {func(f *Facts) {
			f.Account.LastStopped = &bastions.Bastion{StoppedReason: "x", CreatedAt: time.Unix(1, 0)}
			f.Running.All[0].CreatedAt = time.Unix(2, 0)
		}, nil},
	} {
		f := healthy(t)
		tt.change(f)
		got := said(judge(f, Checks()))
		want := slices.Clone(tt.want)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// The finding names the list that refuses a destination, by bastiond's words, and what widens it.
func TestUnlisted(t *testing.T) {
	for message, want := range map[string][2]string{
		"destination db:5432: no entry of the allow-list permits it":                                     {"task", "--allow '10.0.0.0/8:*,db:5432'"},
		"destination db:5432: the image's own list: no entry of the allow-list permits it":               {"image", "ALLOW"},
		"destination db:5432: the grant does not permit it":                                              {"grant", "grant_command"},
		"destination 169.254.169.254:80: 169.254.169.254 is never permitted (instance metadata)":         {"never", "another destination"},
		"destination db:5432: 127.0.0.1 is a loopback address, which no entry of the allow-list names":   {"task", "--allow"},
		"destination db:5432: the image's own list: 10.0.0.2 is the VPC's resolver, which no entry does": {"image", "ALLOW"},
	} {
		f := healthy(t)
		f.Target, f.Where.Endpoint.Host, f.Where.Endpoint.Port, f.Where.Dialed = "db:5432", "db", 5432, true
		f.Where.DialErr = &tunnel.RefusedError{Dest: "db:5432", Reason: ssh.Prohibited, Message: message}
		f.Account.Definition.ContainerDefinitions[0].Environment = []ecstypes.KeyValuePair{{
			Name: aws.String("BASTIOND_ALLOW"), Value: aws.String("10.0.0.0/8:*"),
		}}
		got := judgeReach(f)
		if got.Level != Error || got.Case != want[0] || !strings.Contains(got.Fix, want[1]) || got.kind != fail.Denied {
			t.Errorf("%s: %+v, want %v", message, got, want)
		}
	}
}

// The statement that mends a role allows what the simulator refuses, and not more.
func TestAllow(t *testing.T) {
	for _, tt := range []struct {
		refused []Refused
		want    string
	}{
		{[]Refused{{Action: "a:B", Resource: "*"}}, `{"Effect": "Allow", "Action": ["a:B"], "Resource": "*"}`},
		{[]Refused{{Action: "a:B", Resource: "x"}, {Action: "a:C", Resource: "x"}}, `{"Effect": "Allow", "Action": ["a:B", "a:C"], "Resource": "x"}`},
		{[]Refused{{Action: "a:B", Resource: "x"}, {Action: "a:C", Resource: "y"}}, `{"Effect": "Allow", "Action": ["a:B", "a:C"], "Resource": "*"}`},
		{
			[]Refused{{Action: "logs:PutLogEvents", Resource: "arn:aws:logs:r:1:log-group:/g:log-stream:task/0/0"}},
			`{"Effect": "Allow", "Action": ["logs:PutLogEvents"], "Resource": "arn:aws:logs:r:1:log-group:/g:*"}`,
		},
	} {
		if got := allow(tt.refused); got != tt.want {
			t.Errorf("%s, want %s", got, tt.want)
		}
	}
}

// The commands make each missing endpoint, S3's as a gateway at the subnets' route tables.
func TestMakeEndpoints(t *testing.T) {
	f := healthy(t)
	f.Account.Tables[0].RouteTableId, f.Account.Tables[0].Routes = aws.String("rtb-1"), nil
	got := judgeRoutes(f)
	for _, want := range []string{
		"for s in com.amazonaws.eu-central-1.ssmmessages com.amazonaws.eu-central-1.ecr.api com.amazonaws.eu-central-1.ecr.dkr; do aws ec2 ",
		"--vpc-id vpc-1 --service-name $s --vpc-endpoint-type Interface --private-dns-enabled --subnet-ids subnet-1 --security-group-ids sg-1; done",
		"--service-name com.amazonaws.eu-central-1.s3 --vpc-endpoint-type Gateway --route-table-ids rtb-1",
	} {
		if got.Level != Error || !strings.Contains(got.Fix, want) {
			t.Errorf("%s: no %q", got.Fix, want)
		}
	}
}

// The ids are each one's own, and what a check needs is there.
func TestTable(t *testing.T) {
	seen := make(map[string]bool)
	for _, p := range Checks() {
		for _, c := range p.Checks {
			if seen[c.ID] || c.Looks == "" || c.judge == nil {
				t.Errorf("%s: twice, or without a text", c.ID)
			}
			seen[c.ID] = true
		}
	}
	for _, p := range Checks() {
		for _, c := range p.Checks {
			for _, n := range c.Needs {
				if !seen[n] {
					t.Errorf("%s needs %s, which is not there", c.ID, n)
				}
			}
		}
	}
	if n := strings.Count(Table(), "\n| `"); n != len(seen) {
		t.Errorf("%d rows, want %d", n, len(seen))
	}
}

func TestRefusedByPolicy(t *testing.T) {
	for policy, want := range map[string]string{
		"":          "",
		"{not json": "",
		`{"Statement":[{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*"}]}`:                                  "",
		`{"Statement":{"Effect":"Allow","Action":"s3:Get*","Resource":"*"}}`:                                              "",
		`{"Statement":{"Effect":"Allow","Action":"S3:*object","Resource":"*"}}`:                                           "",
		`{"Statement":{"Effect":"Allow","Action":["s3:Put*","s3:List*"],"Resource":"*"}}`:                                 "s3:GetObject",
		`{"Statement":[{"Effect":"Allow","Action":"*"},{"Effect":"Deny","Action":"s3:*","Resource":"*"}]}`:                "s3:GetObject",
		`{"Statement":[{"Effect":"Allow","Action":"*"},{"Effect":"Deny","Action":"s3:*","Resource":"*","Condition":{}}]}`: "",
		`{"Statement":[{"Effect":"Allow","Action":"*"},{"Effect":"Deny","NotAction":"s3:*","Resource":"*"}]}`:             "",
		`{"Statement":[{"Effect":"Allow","Action":"*"},{"Effect":"Deny","NotAction":"s3:Put*","Resource":["a","*"]}]}`:    "s3:GetObject",
	} {
		if got, _ := refusedByPolicy(policy, []string{"s3:GetObject"}); got != want {
			t.Errorf("%s: %q, want %q", policy, got, want)
		}
	}
}

// The text has no character that a terminal must not show, whatever AWS says, and a symbol for each level.
func TestShow(t *testing.T) {
	f := healthy(t)
	f.Account.LastStopped, f.Running.All = &bastions.Bastion{StoppedReason: "evil \x1b]0;x\a"}, nil
	r := Report{Version: "1.0.0", Findings: judge(f, Checks()), Measured: &access.Measured{}, facts: f}
	for _, style := range []Style{{}, {All: true}, {Colour: true}} {
		var b strings.Builder
		if err := r.Show(&b, style); err != nil {
			t.Fatal(err)
		}
		text := b.String()
		if style.Colour {
			for _, s := range signs {
				text = strings.ReplaceAll(text, s.colour, "")
			}
			text = strings.ReplaceAll(text, plainColour, "")
		}
		if strings.ContainsAny(text, "\x1b\a") {
			t.Errorf("%q", text)
		}
		if !strings.Contains(text, "! aws.last_start") || !strings.Contains(text, "mend: ") || strings.Contains(text,
			"bastion.connect") != style.All {
			t.Errorf("%+v: %s", style, text)
		}
	}
}

func TestJudgeVPC(t *testing.T) {
	here, there := report.Place{VPC: "vpc-1", Region: "eu-central-1"}, report.Place{VPC: "vpc-2", Region: "eu-central-1"}
	abroad, unknown := report.Place{VPC: "vpc-2", Region: "us-east-1"}, report.Place{Region: "eu-central-1", Unknown: "AWS denies it"}
	refusal := func(reason ssh.RejectionReason, message string) error {
		return &tunnel.RefusedError{Dest: "db:5432", Reason: reason, Message: message}
	}
	noWay := refusal(ssh.ConnectionFailed, "cannot connect: i/o timeout")
	for _, tt := range []struct {
		name    string
		target  report.Place
		serving string
		dialed  bool
		err     error
		level   Level
		word    string
		says    string // in what it means, or in the fix
	}{
		{"same", here, "", false, nil, OK, "", "in the target's VPC"},
		{"unknown", unknown, "", false, nil, Skipped, "unknown", "AWS denies it"},
		{"other, not tried", there, "", false, nil, Warning, "other_vpc", "vpc-2 in eu-central-1, and the bastion in vpc-1"},
		{"other, connected", there, "", true, nil, OK, "", "the two are connected"},
		{"other, no way", there, "", true, noWay, Error, "other_vpc", "peering"},
		{"other, an environment serves it", there, "prod", true, noWay, Error, "other_vpc", "prod/TARGET"},
		{"other, refused by the list", there, "", true, refusal(ssh.Prohibited, "not listed"), Warning, "other_vpc", "not known"},
		{"other, refused by the target", there, "", true, refusal(ssh.ConnectionFailed, "connection refused"), OK, "", "connected"},
		{"other region", abroad, "", true, noWay, Error, "other_region", "vpc-2 in us-east-1"},
	} {
		f := healthy(t)
		f.Where = Where{Places: report.Places{Target: tt.target, Bastion: here}, Serving: tt.serving, Dialed: tt.dialed, DialErr: tt.err}
		got := judgeVPC(f)
		if got.Level != tt.level || got.Case != tt.word || !strings.Contains(got.Means+got.Fix, tt.says) {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
	if got := judgeVPC(healthy(t)); got.Level != OK { // a host
		t.Errorf("%+v", got)
	}
}
