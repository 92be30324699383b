package account

import (
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// Stack is what an account needs for bastions: parameters, resources in the order in which a reader meets them, and outputs.
type Stack struct {
	Inputs     Inputs // with their defaults; of instances, what both kinds have
	Parameters []Parameter
	Resources  []Resource
	Outputs    []Output
	classic    bool // of EC2 instances, not tasks
}

// Parameter is a value that the deployer gives.
type Parameter struct {
	Name, Type, Description string
	Default                 string // empty: the deployer must give a value
}

// Resource is a resource by CloudFormation's type and properties.
type Resource struct {
	ID         string // logical
	Type       string
	Properties Object
	Keep       bool // stays when the stack is deleted, because it holds the audit
}

// Output is a value that is shown after the deployment.
type Output struct {
	Name, Description string
	Value             any
}

// New builds the stack of what the inputs choose, with defaults for the rest. The error has all that is wrong with them.
func New(in Inputs) (*Stack, error) {
	in = in.Defaults()
	if err := in.Validate(); err != nil {
		return nil, Wrong(err)
	}
	s := &Stack{Inputs: in}
	s.parameters()
	s.key()
	s.logs()
	s.repository()
	s.cluster()
	s.roles()
	s.network()
	s.classes()
	s.alarms()
	s.outputs()
	s.tag()
	return s, nil
}

// Wrong is the error for what Validate has found.
func Wrong(err error) error {
	return fail.New(fail.Usage, "inputs of the stack", err, "correct them, and run the command again")
}

// Resource returns a resource by its logical id.
func (s *Stack) Resource(id string) (Resource, bool) {
	i := slices.IndexFunc(s.Resources, func(r Resource) bool { return r.ID == id })
	if i < 0 {
		return Resource{}, false
	}
	return s.Resources[i], true
}

// add adds a resource, and returns it for changes before the next is added.
func (s *Stack) add(id, kind string, properties Object) *Resource {
	s.Resources = append(s.Resources, Resource{ID: id, Type: kind, Properties: properties})
	return &s.Resources[len(s.Resources)-1]
}

// Names of parameters.
const (
	paramVPC     = "VpcId"
	paramCIDR    = "VpcCidr"
	paramAllow   = "Allow" // and a class
	paramSubnets = "SubnetIds"
	paramTables  = "RouteTableIds"
	paramPrefix  = "S3PrefixListId"
	paramImage   = "ImageTag" // and a class
)

func (s *Stack) parameters() {
	e, ownGroup := s.Inputs.Endpoints, s.Inputs.SecurityGroup == ""
	makesInterfaces, makesS3 := len(e.made()) > 0, e.makes("s3")
	add := func(needed bool, p Parameter) {
		if needed {
			s.Parameters = append(s.Parameters, p)
		}
	}
	add(ownGroup || e.Make, Parameter{
		Name: paramVPC, Type: "AWS::EC2::VPC::Id", Default: s.Inputs.VPC, Description: "VPC of the databases",
	})
	add(ownGroup && toVPC(s.Inputs.Egress) || makesInterfaces, Parameter{
		Name: paramCIDR, Type: "String", Default: s.Inputs.VPCCIDR, Description: "IPv4 addresses of the VPC, such as 10.0.0.0/16",
	})
	for _, c := range s.Inputs.Classes {
		add(true, Parameter{
			Name: paramAllow + title(c.Name), Type: "String", Default: joined(c.Allow),
			Description: "What bastions of " + s.family(c) + " may connect to, such as 10.0.0.0/16:5432,10.0.0.0/16:6379",
		})
		add(true, Parameter{
			Name: ImageParameter(c.Name), Type: "String", Default: s.Inputs.ImageTag,
			Description: "Tag of the image of " + s.family(c) + " in the repository of this stack",
		})
	}
	for _, c := range s.Inputs.SharedClasses() {
		add(true, Parameter{
			Name: TasksParameter(c.Name), Type: "Number", Default: decimal(c.Shared),
			Description: "Tasks of the service " + s.family(c) + "; 0 until its image is in the repository of this stack",
		})
	}
	add(makesInterfaces || s.Inputs.shares(), Parameter{
		Name: paramSubnets, Type: "List<AWS::EC2::Subnet::Id>", Default: joined(s.Inputs.Subnets),
		Description: "Private subnets of the tasks and of the VPC endpoints",
	})
	add(makesS3, Parameter{
		Name: paramTables, Type: "CommaDelimitedList", Default: joined(e.RouteTables),
		Description: "Route tables of the subnets, for the gateway endpoint of S3",
	})
	add(makesS3 && ownGroup, Parameter{
		Name: paramPrefix, Type: "String", Default: e.PrefixList,
		Description: "Managed prefix list of S3 in the region, pl-...",
	})
}

// ImageParameter is the name of the parameter with the tag of a class's image.
func ImageParameter(class string) string { return paramImage + title(class) }

// TaskDefinitionOutput is the name of the output with a class's task definition.
func TaskDefinitionOutput(class string) string { return outTaskDefinition + title(class) }

// outTaskDefinition begins the names of the outputs with the classes' task definitions.
const outTaskDefinition = "TaskDefinition"

// family is the name of a class's task definition.
func (s *Stack) family(c Class) string {
	if c.Name == "" {
		return s.Inputs.Name
	}
	return s.Inputs.Name + "-" + c.Name
}

// logGroup and execGroup are the names of the log groups of bastiond's audit and of ECS Exec.
func (s *Stack) logGroup() string  { return "/" + s.Inputs.Name }
func (s *Stack) execGroup() string { return "/" + s.Inputs.Name + "/exec" }

// keyARN is the ARN of the KMS key.
func (s *Stack) keyARN() any {
	if s.Inputs.Key != "" {
		return s.Inputs.Key
	}
	return Attr{"Key", "Arn"}
}

// roleARN is the ARN of a role: the operator's, or the stack's own.
func roleARN(given, id string) any {
	if given != "" {
		return given
	}
	return Attr{id, "Arn"}
}

// groupID is the security group of the tasks.
func (s *Stack) groupID() any {
	if s.Inputs.SecurityGroup != "" {
		return s.Inputs.SecurityGroup
	}
	return Attr{"SecurityGroup", "GroupId"}
}

func (s *Stack) outputs() {
	s.Outputs = []Output{
		{"Cluster", "Name of the cluster", Ref("Cluster")},
		{"RepositoryUri", "Repository that bastiond's image is pushed to", Attr{"Repository", "RepositoryUri"}},
		{"SecurityGroupId", "Security group of the tasks, which databases must admit", s.groupID()},
		{"AuditLogGroup", "Log group with the audit log", Ref("AuditLog")},
		{"AlarmTopic", "Topic of the alarms", Ref("AlarmTopic")},
		{"Configuration", "A bastion.yaml for the people of " + s.family(s.Inputs.Classes[0]), s.configuration(s.Inputs.Classes[0])},
	}
	for _, c := range s.Inputs.Classes {
		s.Outputs = append(s.Outputs,
			Output{TaskDefinitionOutput(c.Name), "Task definition for the setting task_definition", s.family(c)},
			Output{"UserPolicy" + title(c.Name), "Policy of the people who use it", Ref("UserPolicy" + title(c.Name))})
		if c.Shared > 0 {
			s.Outputs = append(s.Outputs, Output{ServiceOutput(c.Name), "Service for the setting shared_service", s.family(c)})
		}
	}
}

// configuration is the text of a bastion.yaml for whoever deploys the stack without bastion init, which writes one itself. A list of subnets
// that is a parameter cannot be part of a text.
func (s *Stack) configuration(c Class) Text {
	text := Text{"region: ", Region, "\ncluster: ", Ref("Cluster"), "\ntask_definition: ", s.family(c), "\nsecurity_groups: [", s.groupID(), "]\n"}
	if c.Shared > 0 {
		text = append(text, "shared_service: "+s.family(c)+"\n")
	}
	if len(s.Inputs.Subnets) > 0 {
		text = append(text, "subnets: ["+strings.Join(s.Inputs.Subnets, ", ")+"]\n")
	} else {
		text = append(text, "# subnets: [the private subnets of the tasks]\n")
	}
	if s.Inputs.PublicAddress {
		text = append(text, "assign_public_ip: true\n")
	}
	return text
}

// tagged are the types that take tags as a list, with the name of the property that has them.
var tagged = map[string]string{
	"AWS::KMS::Key": "Tags", "AWS::Logs::LogGroup": "Tags", "AWS::S3::Bucket": "Tags", "AWS::ECR::Repository": "Tags",
	"AWS::ECS::Cluster": "Tags", "AWS::IAM::Role": "Tags", "AWS::EC2::SecurityGroup": "Tags", "AWS::EC2::VPCEndpoint": "Tags",
	"AWS::ECS::TaskDefinition": "Tags", "AWS::SNS::Topic": "Tags", "AWS::CloudWatch::Alarm": "Tags", "AWS::SSM::Document": "Tags",
	"AWS::ECS::Service": "Tags",
}

// tag puts the tags on all that takes some. The client takes each security group of the VPC with the tag "bastion", so that of the
// endpoints has it not.
func (s *Stack) tag() {
	own := tagList(s.Inputs.Tags)
	all := append(tagList([]Tag{{"bastion", "true"}}), own...)
	for i := range s.Resources {
		tags := all
		if s.Resources[i].ID == "EndpointsGroup" || s.classic {
			tags = own
		}
		if name := tagged[s.Resources[i].Type]; name != "" && len(tags) > 0 {
			s.Resources[i].Properties = s.Resources[i].Properties.with(name, tags)
		}
	}
}
