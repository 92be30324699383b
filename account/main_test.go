package account

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// variants are inputs that between them choose everything, each way.
var variants = map[string]Inputs{
	"default": {},
	"endpoints": {
		Region: "eu-central-1", Endpoints: Endpoints{Make: true}, Subnets: []string{"subnet-0a", "subnet-0b"},
		Egress: []Egress{{Port: 5432, CIDR: "10.0.0.0/16", Description: "PostgreSQL"}},
	},
	"classes": {
		Name: "tunnel", Path: "/data/", Boundary: "arn:aws:iam::000000000000:policy/boundary", ExecLogs: true, Insights: true, Spot: true,
		RetentionDays: 731, CPU: 256, Architecture: "ARM64", AlarmEmail: "security@example.com",
		Classes: []Class{
			{Name: "read-only", Allow: []string{"*.rds.amazonaws.com:5432"}, Roles: []string{"analysts"}},
			{Name: "all", Allow: []string{"10.0.0.0/8:5432", "10.0.0.0/8:6379"}},
		},
		Tags: []Tag{{"team", "data"}, {"cost-centre", "42"}},
	},
	"shared": {
		Name: "tunnel", Subnets: []string{"subnet-0123456789abcdef0", "subnet-0123456789abcdef1"},
		Classes: []Class{
			{Name: "own", Allow: []string{"*.rds.amazonaws.com:5432"}},
			{Name: "team", Allow: []string{"10.0.0.0/8:5432"}, Shared: 2},
		},
		Tags: []Tag{{"team", "data"}},
	},
	"only shared": {PublicAddress: true, Classes: []Class{{Shared: 3}}},
	"existing": {
		SecurityGroup: "sg-0123456789abcdef0", Key: "arn:aws:kms:eu-central-1:000000000000:key/01234567-89ab-cdef-0123-456789abcdef",
		TaskRole: "arn:aws:iam::000000000000:role/task", ExecutionRole: "arn:aws:iam::000000000000:role/execution",
	},
	"secrets": {
		Endpoints: Endpoints{Make: true},
		Secrets: []Secret{
			{Variable: "UPSTREAM_CA", ARN: "arn:aws:secretsmanager:eu-central-1:000000000000:secret:upstream-AbCdEf"},
			{
				Variable: "PROXY_PASSWORD", ARN: "arn:aws:secretsmanager:eu-central-1:000000000000:secret:team/proxy-GhIjKl", Field: "password",
				Key: "arn:aws:kms:eu-central-1:000000000000:key/01234567-89ab-cdef-0123-456789abcdef",
			},
		},
	},
	"existing group": {SecurityGroup: "sg-0123456789abcdef0", Endpoints: Endpoints{Make: true}},
	"some endpoints": {
		Region: "ca-west-1", MoreCIDRs: []string{"100.64.0.0/16"},
		Endpoints: Endpoints{
			Make: true, Services: []string{"kms", "ssmmessages", "ecs-agent"}, Groups: []string{"sg-0123456789abcdef2", "sg-0123456789abcdef3"},
			PrefixList: "pl-0123456789abcdef0",
		},
		Ingress: []Ingress{
			{Group: "sg-0123456789abcdef1", Port: 5432, For: "rds:orders"},
			{Group: "sg-0123456789abcdef2", Port: 443, For: "VPC endpoints"},
		},
	},
	"into the VPC": {
		MoreCIDRs: []string{"100.64.0.0/16"},
		Egress:    []Egress{{Port: 1433, Description: "SQL Server"}, {Port: 22, CIDR: "10.9.8.7/32", Description: "a host"}},
	},
	"gateway endpoint": {Endpoints: Endpoints{Make: true, Services: []string{"s3"}, Groups: []string{"sg-0123456789abcdef0"}}},
	"existing endpoints": {
		Endpoints: Endpoints{Groups: []string{"sg-0123456789abcdef0"}, PrefixList: "pl-0123456789abcdef0"},
		Egress:    []Egress{{Port: 6379, Group: "sg-0123456789abcdef1", Description: "Redis"}},
	},
}

func newStack(t *testing.T, in Inputs) *Stack {
	t.Helper()
	s, err := New(in)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
