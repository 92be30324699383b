package account

import (
	"slices"

	"github.com/bastion-ssm/bastion/internal/partition"
)

// network makes the security group of the tasks, and VPC endpoints if the operator wants some.
func (s *Stack) network() {
	if s.Inputs.Endpoints.Make {
		s.endpoints()
	}
	if s.Inputs.SecurityGroup == "" {
		s.add("SecurityGroup", "AWS::EC2::SecurityGroup", Object{
			{"GroupDescription", s.Inputs.Name + ": tasks of bastions, no inbound rule"},
			{"VpcId", Ref(paramVPC)},
			{"SecurityGroupEgress", s.egress()},
		})
	}
	for _, i := range s.Inputs.Ingress {
		s.add(ingressID(i), "AWS::EC2::SecurityGroupIngress", Object{
			{"GroupId", i.Group},
			{"IpProtocol", "tcp"},
			{"FromPort", i.Port},
			{"ToPort", i.Port},
			{"SourceSecurityGroupId", s.groupID()},
			{"Description", "bastion: tasks of the stack " + s.Inputs.Name + " to " + i.For},
		})
	}
}

// ingressID is the logical id of a rule for tasks in a group of others: it stays when other rules come and go.
func ingressID(i Ingress) string { return "Ingress" + title(i.Group) + "Port" + decimal(i.Port) }

// toVPC reports whether one of the rules is for the ranges of the VPC, as without any rule.
func toVPC(rules []Egress) bool {
	return len(rules) == 0 || slices.ContainsFunc(rules, func(r Egress) bool { return r.CIDR == "" && r.Group == "" })
}

// databases are what tasks connect to in the VPC unless the operator lists something.
var databases = []struct {
	port int
	name string
}{{3306, "MySQL"}, {5432, "PostgreSQL"}, {6379, "Redis"}}

// UsualEgress are the rules of tasks' security groups for databases of the usual ports in the given ranges: those that a stack without
// Inputs.Egress has. The range "" is the VPC.
func UsualEgress(cidrs []string) (rules []Egress) {
	for _, d := range databases {
		for _, cidr := range cidrs {
			rules = append(rules, Egress{Port: d.port, CIDR: cidr, Description: d.name})
		}
	}
	return rules
}

// egressRule is a rule of a security group for where tasks may connect to.
func egressRule(port int, destination string, value any, description string) Object {
	return Object{
		{"IpProtocol", "tcp"},
		{"FromPort", port},
		{"ToPort", port},
		{destination, value},
		{"Description", description},
	}
}

// egress is where tasks may connect to: AWS, and what the operator lists.
func (s *Stack) egress() List { return append(s.egressToAWS(), s.listedEgress()...) }

func (s *Stack) egressToAWS() (rules List) {
	e := s.Inputs.Endpoints
	if len(e.made()) > 0 {
		rules = append(rules, egressRule(443, "DestinationSecurityGroupId", Attr{"EndpointsGroup", "GroupId"}, "AWS by VPC endpoints"))
	}
	for _, group := range e.Groups {
		rules = append(rules, egressRule(443, "DestinationSecurityGroupId", group, "AWS by VPC endpoints"))
	}
	if len(rules) == 0 {
		rules = append(rules, egressRule(443, "CidrIp", "0.0.0.0/0", "AWS by the internet"))
	}
	if e.makes("s3") || e.PrefixList != "" {
		rules = append(rules, egressRule(443, "DestinationPrefixListId", s.prefixList(), "ECR layers by the gateway endpoint of S3"))
	}
	return rules
}

// listedEgress is where tasks may connect to besides AWS.
func (s *Stack) listedEgress() (rules List) {
	listed := s.Inputs.Egress
	if len(listed) == 0 {
		listed = UsualEgress([]string{""})
	}
	for _, r := range listed {
		switch {
		case r.CIDR != "":
			rules = append(rules, egressRule(r.Port, "CidrIp", r.CIDR, r.Description))
		case r.Group != "":
			rules = append(rules, egressRule(r.Port, "DestinationSecurityGroupId", r.Group, r.Description))
		default:
			for _, cidr := range s.cidrs() {
				rules = append(rules, egressRule(r.Port, "CidrIp", cidr, r.Description))
			}
		}
	}
	return rules
}

// cidrs are the IPv4 ranges of the VPC.
func (s *Stack) cidrs() List { return append(List{Ref(paramCIDR)}, words(s.Inputs.MoreCIDRs...)...) }

// prefixList is that of S3's gateway endpoint, which has no security group.
func (s *Stack) prefixList() any {
	if s.Inputs.Endpoints.makes("s3") {
		return Ref(paramPrefix)
	}
	return s.Inputs.Endpoints.PrefixList
}

// interfaces are the services that a task reaches by interface endpoints.
// Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/vpc-endpoints.html
var interfaces = []string{"ssmmessages", "ecr.api", "ecr.dkr", "logs", "kms"}

// NewRegionServices are further services that a task needs in regions opened after 2023-12-23. They are made where Endpoints.Services has
// them.
var NewRegionServices = []string{"ecs", "ecs-agent", "ecs-telemetry"}

// SecretsService is what a task with secrets needs too. Without Endpoints.Services it is made where Inputs.Secrets has some.
const SecretsService = "secretsmanager"

// EndpointServices are the services whose VPC endpoints a task needs. S3's is a gateway endpoint, the others are interface endpoints.
var EndpointServices = append(slices.Clip(interfaces), "s3")

// endpoints makes the VPC endpoints, for the channels and logs of this account alone.
func (s *Stack) endpoints() {
	if made := s.Inputs.Endpoints.made(); len(made) > 0 {
		if len(s.Inputs.Secrets) > 0 && len(s.Inputs.Endpoints.Services) == 0 {
			made = append(made, SecretsService)
		}
		s.interfaceEndpoints(made)
	}
	if s.Inputs.Endpoints.makes("s3") {
		s.add("EndpointS3", "AWS::EC2::VPCEndpoint", Object{
			{"VpcEndpointType", "Gateway"},
			{"ServiceName", s.endpointService("s3")},
			{"VpcId", Ref(paramVPC)},
			{"RouteTableIds", Ref(paramTables)},
			{"PolicyDocument", Policy{ofThisAccount(), imageLayers()}.document()},
		})
	}
}

// interfaceEndpoints makes the interface endpoints of services, and their security group.
func (s *Stack) interfaceEndpoints(services []string) {
	var admitted List // private DNS leads everybody in the VPC here, not bastions alone
	for _, cidr := range s.cidrs() {
		admitted = append(admitted, Object{
			{"IpProtocol", "tcp"},
			{"FromPort", 443},
			{"ToPort", 443},
			{"CidrIp", cidr},
			{"Description", "AWS for the VPC"},
		})
	}
	s.add("EndpointsGroup", "AWS::EC2::SecurityGroup", Object{
		{"GroupDescription", s.Inputs.Name + ": VPC endpoints"},
		{"VpcId", Ref(paramVPC)},
		{"SecurityGroupIngress", admitted},
		{"SecurityGroupEgress", List{Object{ // an endpoint connects to nothing, and without a rule AWS adds one for everything
			{"IpProtocol", "tcp"},
			{"FromPort", 443},
			{"ToPort", 443},
			{"CidrIp", "127.0.0.1/32"},
			{"Description", "Nothing"},
		}}},
	})
	for _, service := range services {
		s.add("Endpoint"+serviceID(service), "AWS::EC2::VPCEndpoint", Object{
			{"VpcEndpointType", "Interface"},
			{"ServiceName", s.endpointService(service)},
			{"VpcId", Ref(paramVPC)},
			{"SubnetIds", Ref(paramSubnets)},
			{"SecurityGroupIds", List{Attr{"EndpointsGroup", "GroupId"}}},
			{"PrivateDnsEnabled", true},
			{"PolicyDocument", Policy{ofThisAccount()}.document()},
		})
	}
}

// endpointService is the name of a service's VPC endpoint service.
func (s *Stack) endpointService(service string) any {
	if region := s.Inputs.Region; region != "" {
		return partition.Of(region).EndpointService(service, region)
	}
	return Text{"com.amazonaws.", Region, "." + service}
}

// ofThisAccount lets the account's own principals through an endpoint, and no other's: a task that somebody registered elsewhere cannot
// reach that account.
func ofThisAccount() Statement {
	return Statement{
		Sid: "PrincipalsOfThisAccount", Principal: Object{{"AWS", "*"}}, Action: []string{"*"}, Resource: List{"*"},
		Condition: Object{{"StringEquals", Object{{"aws:PrincipalAccount", Account}}}},
	}
}

// imageLayers lets through what ECR signs for whoever pulls an image.
// Source: https://docs.aws.amazon.com/AmazonECR/latest/userguide/vpc-endpoints.html#ecr-minimum-s3-perms
func imageLayers() Statement {
	return Statement{
		Sid: "ImageLayers", Principal: Object{{"AWS", "*"}}, Action: []string{"s3:GetObject"},
		Resource: List{Text{"arn:", Partition, ":s3:::prod-", Region, "-starport-layer-bucket/*"}},
	}
}

// serviceID is a service's part of a logical id.
func serviceID(service string) string {
	switch service {
	case "ecr.api":
		return "EcrApi"
	case "ecr.dkr":
		return "EcrDkr"
	}
	return title(service)
}
