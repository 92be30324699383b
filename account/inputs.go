package account

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/internal/fargate"
	"github.com/bastion-ssm/bastion/internal/pattern"
)

// Inputs are an operator's choices. The zero value of a field means the default that Defaults gives.
type Inputs struct {
	// Name begins the names of what is made: cluster, log groups, policies. It is the stack's name too.
	Name string
	// Region is where the stack will be. With none, VPC endpoints have the names of the partitions aws and aws-us-gov.
	Region string
	// VPC, VPCCIDR and Subnets are where the tasks run. They may stay empty for a template whose parameters the deployer fills in.
	VPC, VPCCIDR string
	MoreCIDRs    []string // IPv4 ranges of the VPC besides VPCCIDR
	Subnets      []string
	// PublicAddress gives each task a public address. Only the client's setting assign_public_ip does that: no resource depends on it.
	PublicAddress bool

	// SecurityGroup is an existing one for the tasks; empty makes one without inbound rules, with the egress of Egress.
	// Without any, Egress is PostgreSQL, MySQL and Redis in the VPC.
	SecurityGroup string
	Egress        []Egress
	Endpoints     Endpoints
	// Ingress lets tasks into security groups that others made. The stack adds these rules, and deleting it removes them.
	Ingress []Ingress

	Path     string // of roles and policies in IAM, such as "/teams/data/"
	Boundary string // ARN of the permissions boundary of the roles; empty: none
	// TaskRole and ExecutionRole are ARNs of existing roles; empty makes them.
	TaskRole, ExecutionRole string

	RetentionDays int    // of the audit log and of the exec log; CloudWatch Logs takes certain numbers only
	Key           string // ARN of an existing KMS key for logs, images, alarms and ECS Exec, whose policy admits these services; empty makes one
	CPU, Memory   int    // CPU units and MiB of a task
	Architecture  string // X86_64 or ARM64
	Insights      bool   // container insights of the cluster
	Spot          bool   // people may have their bastions on Fargate Spot (setting task_capacity)
	ExecLogs      bool   // transcripts of ECS Exec to CloudWatch Logs and S3; see docs/adr/0015
	ImageTag      string // of the image in the repository that is made
	AlarmEmail    string // subscribes to the alarms; empty: nobody does

	// Secrets are handed to the tasks as environment variables. An existing ExecutionRole must be able to read them.
	Secrets []Secret

	Classes []Class
	Tags    []Tag // on everything that takes tags
}

// Class is a kind of bastion: which destinations it reaches, and who may use it. Whoever may run a task may override its environment: the
// list bounds them if it is built into the class's image (parameter ImageTag and the class). Classes share roles and security group.
type Class struct {
	Name  string   // of its task definition behind Inputs.Name; empty for the only one
	Allow []string // destinations as BASTIOND_ALLOW takes them; without any, a parameter that the deployer must give
	Roles []string // names of the IAM roles whose people may use it, none of IAM Identity Center's; more can attach its policy
	// Shared is how many tasks everybody of the class shares, which an ECS service keeps running; 0: each person starts their own.
	Shared int `json:",omitempty"`
}

// Egress is a rule for what tasks may connect to.
type Egress struct {
	Port        int
	CIDR        string // of the destination, or
	Group       string // its security group; with neither, the IPv4 ranges of the VPC
	Description string
}

// Ingress lets tasks into a security group that is not the stack's: a database's, or that of an existing VPC endpoint.
type Ingress struct {
	Group string // its id, sg-...
	Port  int
	For   string // what listens there; the rule's description names it, beside the stack
}

// Endpoints says how tasks reach AWS.
type Endpoints struct {
	// Make creates VPC endpoints: those of Services, or without any all of EndpointServices.
	Make        bool
	Services    []string // to make, by the names of EndpointServices; regions opened after 2023-12-23 also need ecs, ecs-agent, ecs-telemetry
	RouteTables []string // of the subnets, for S3's gateway endpoint, if it is made
	// Groups are the security groups of interface endpoints that exist. Without any and without Make, tasks reach AWS by the internet
	// (a NAT gateway, or a public address), and the egress rule for port 443 is for any address.
	Groups []string
	// PrefixList is the region's managed prefix list of S3, to which the gateway endpoint leads: CloudFormation cannot look it up.
	PrefixList string
}

// makes reports whether the stack makes the endpoint of a service.
func (e Endpoints) makes(service string) bool {
	services := e.Services
	if len(services) == 0 {
		services = EndpointServices
	}
	return e.Make && slices.Contains(services, service)
}

// made are the services whose interface endpoints the stack makes, in the model's order.
func (e Endpoints) made() []string {
	return slices.DeleteFunc(slices.Concat(interfaces, NewRegionServices, []string{SecretsService}),
		func(service string) bool { return !e.makes(service) })
}

// Tag is a tag of a resource.
type Tag struct{ Key, Value string }

// retentions are the days that CloudWatch Logs can keep a log for, from a year on.
// Source: https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutRetentionPolicy.html
var retentions = []int{365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653}

// maxName is the most bytes of a name, and of a class's: Terraform's provider makes up names of roles from 38 bytes at most.
const maxName = 20

// maxPurpose is the most bytes of Ingress.For: a description has 255, and the stack's name is in it twice.
const maxPurpose = 150

// Defaults returns the inputs with defaults in place of zero values.
func (in Inputs) Defaults() Inputs {
	set := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	set(&in.Name, "bastion")
	set(&in.Path, "/")
	set(&in.Architecture, "X86_64")
	set(&in.ImageTag, "1")
	if in.RetentionDays == 0 {
		in.RetentionDays = retentions[0]
	}
	if in.CPU == 0 {
		in.CPU = 1024
	}
	if memories := fargate.Memories(in.CPU); in.Memory == 0 && len(memories) > 0 {
		in.Memory = memories[0]
	}
	if len(in.Classes) == 0 {
		in.Classes = []Class{{}}
	}
	return in
}

// maxDescription is the most bytes of a rule's description.
const maxDescription = 255

var (
	nameForm  = pattern.Lazy(`^[a-z][a-z0-9]+(-[a-z0-9]+)*$`)
	classForm = pattern.Lazy(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	plainText = pattern.Lazy(`^[A-Za-z0-9 ._:/()#,@+=&;{}!$*-]+$`) // as EC2 takes descriptions
	groupForm = pattern.Lazy(`^sg-[0-9a-z]+$`)
	pathForm  = pattern.Lazy(`^/([\x21-\x7e]+/)?$`)
)

// Validate returns what is wrong with inputs that have their defaults, all of it.
func (in Inputs) Validate() error {
	var faults []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	check(nameForm().MatchString(in.Name) && len(in.Name) <= maxName,
		"name %q: want 2 to %d lower-case letters, digits and single hyphens, a letter first", in.Name, maxName)
	check(pathForm().MatchString(in.Path), "IAM path %q: want / at its begin and end", in.Path)
	check(slices.Contains(retentions, in.RetentionDays), "log retention of %d days: want a year or more, as CloudWatch Logs takes it: %s",
		in.RetentionDays, list(retentions))
	memories := fargate.Memories(in.CPU)
	check(len(memories) > 0, "%d CPU units: Fargate has %s", in.CPU, list(fargate.CPUs()))
	check(len(memories) == 0 || slices.Contains(memories, in.Memory), "%d MiB with %d CPU units: Fargate has %s", in.Memory, in.CPU,
		list(memories))
	check(in.Architecture == "X86_64" || in.Architecture == "ARM64", "architecture %q: want X86_64 or ARM64", in.Architecture)
	for _, e := range in.Egress {
		prefix, err := netip.ParsePrefix(e.CIDR)
		isCIDR := err == nil && prefix.Addr().Is4()
		check(e.CIDR == "" || e.Group == "" && isCIDR, "egress to port %d: want an IPv4 CIDR or a security group", e.Port)
		check(e.Port > 0 && e.Port < 1<<16, "egress to port %d: want 1 to 65535", e.Port)
		check(plainText().MatchString(e.Description) && len(e.Description) <= maxDescription,
			"egress to port %d: want a description of at most %d letters, digits and ._-:/()#,@+=&;{}!$*",
			e.Port, maxDescription)
	}
	in.validateNetwork(check)
	in.validateNames(check)
	in.validateSecrets(check)
	seen := make(map[string]bool)
	for _, c := range in.Classes {
		check(c.Name == "" && len(in.Classes) == 1 || classForm().MatchString(c.Name) && len(c.Name) <= maxName,
			"class %q: want at most %d lower-case letters, digits and single hyphens", c.Name, maxName)
		id := strings.ReplaceAll(c.Name, "-", "")
		check(!seen[id], "class %q: there are two of the name, hyphens left out", c.Name)
		check(c.Shared >= 0 && c.Shared <= maxShared, "%d shared tasks of class %q: want 0 to %d", c.Shared, c.Name, maxShared)
		seen[id] = true
		for _, role := range c.Roles {
			check(roleNameForm().MatchString(role) && !strings.HasPrefix(role, ssoRoles), "role %q of class %q: want the name of a role, none of "+
				"IAM Identity Center's: attach the class's policy to its permission set instead", role, c.Name)
		}
	}
	for _, t := range in.Tags {
		check(t.Key != "" && len(t.Key) <= 128 && len(t.Value) <= 256 && !strings.HasPrefix(t.Key, "aws:"), "tag %q: AWS takes no such tag",
			t.Key)
		check(t.Key != "bastion" && !strings.HasPrefix(t.Key, "bastion:"), "tag %q: bastion itself sets it", t.Key)
	}
	return errors.Join(faults...)
}

// The forms of what others have made.
var (
	boundaryForm = pattern.Lazy(`^arn:[^:]+:iam::[^:]+:policy/.`)
	anyKeyForm   = pattern.Lazy(`^arn:[^:]+:kms:[^:]+:[^:]+:key/.`)              // also the guide's, which has words to fill in
	roleForm     = pattern.Lazy(`^arn:[^:]+:iam::([0-9]{12}|ACCOUNT_ID):role/.`) // also the guide's
	emailForm    = pattern.Lazy(`^[^@\s]+@[^@\s]+$`)
	roleNameForm = pattern.Lazy(`^[A-Za-z0-9_+=,.@-]{1,64}$`)
)

// ssoRoles begins the names of IAM Identity Center's roles, which nobody else may change.
const ssoRoles = "AWSReservedSSO_"

// validateNames checks what Validate checks of what others have made: CloudFormation would find it out in the middle of a deployment, and
// bastiond a destination at its start.
func (in Inputs) validateNames(check func(ok bool, format string, args ...any)) {
	for _, name := range []struct {
		value, what, want string
		form              func() *regexp.Regexp
	}{
		{in.Boundary, "permissions boundary", "the ARN of a policy", boundaryForm},
		{in.TaskRole, "task role", "the ARN of a role, with an account of 12 digits", roleForm},
		{in.ExecutionRole, "execution role", "the ARN of a role, with an account of 12 digits", roleForm},
		{in.Key, "KMS key", "the ARN of a key, not of an alias", anyKeyForm},
		{in.AlarmEmail, "address for alarms", "NAME@DOMAIN", emailForm},
		{in.SecurityGroup, "security group of the tasks", "its id, sg-...", groupForm},
	} {
		check(name.value == "" || name.form().MatchString(name.value), "%s %q: want %s", name.what, name.value, name.want)
	}
	for _, c := range in.Classes {
		for _, destination := range c.Allow {
			err := checkDestination(destination)
			check(err == nil, "destination %q: %w", destination, err)
		}
	}
}

// validateNetwork checks what Validate checks of the VPC, its endpoints and the groups of others.
func (in Inputs) validateNetwork(check func(ok bool, format string, args ...any)) {
	for _, cidr := range in.MoreCIDRs {
		prefix, err := netip.ParsePrefix(cidr)
		check(err == nil && prefix.Addr().Is4(), "VPC range %q: want an IPv4 CIDR", cidr)
	}
	services := slices.Concat(EndpointServices, NewRegionServices, []string{SecretsService})
	for _, service := range in.Endpoints.Services {
		check(slices.Contains(services, service), "endpoint service %q: want one of %s", service, strings.Join(services, ", "))
	}
	check(in.Endpoints.Make || len(in.Endpoints.Services) == 0, "endpoint services %s: the stack makes none",
		strings.Join(in.Endpoints.Services, ", "))
	rules := make(map[string]bool)
	for _, i := range in.Ingress {
		check(groupForm().MatchString(i.Group), "ingress of %q: want the id of a security group, sg-...", i.Group)
		check(i.Port > 0 && i.Port < 1<<16, "ingress to port %d: want 1 to 65535", i.Port)
		check(plainText().MatchString(i.For) && len(i.For) <= maxPurpose,
			"ingress to port %d: want what it is for, at most %d letters, digits and ._-:/()#,@+=&;{}!$*", i.Port, maxPurpose)
		check(!rules[ingressID(i)], "ingress of %s to port %d: given twice", i.Group, i.Port)
		rules[ingressID(i)] = true
	}
}

// list is numbers as a person reads them.
func list(numbers []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(numbers), " ", ", "), "[]")
}
