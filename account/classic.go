package account

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/bastion-ssm/bastion/internal/pattern"
)

// ClassicInputs are an operator's choices for bastions that are EC2 instances: for people who need a shell and a host that stays. The zero
// value of a field means the default that its comment states.
type ClassicInputs struct {
	Name    string // as of Inputs; "bastion-host"
	VPC     string // with VPCCIDR and Subnets, as of Inputs
	VPCCIDR string
	Subnets []string // one for each zone
	Egress  []Egress // as of Inputs
	// EndpointGroups and PrefixList are those of existing endpoints, as of Inputs.Endpoints: of ssm, ssmmessages, logs, kms and S3.
	EndpointGroups []string
	PrefixList     string

	Path     string // of roles and policies; "/"
	Boundary string // as of Inputs
	Key      string // as of Inputs

	RetentionDays int      // of transcripts; 365
	InstanceType  string   // t4g.nano
	Architecture  string   // arm64 or x86_64, of the instance type; arm64
	Most          int      // instances at most; 2
	CPUTarget     int      // percent of CPU that the number of instances follows; 60
	Hours         *Hours   // nil: instances are there always
	IdleMinutes   int      // after which a session without input ends; 20
	AlarmEmail    string   // as of Inputs
	Roles         []string // names of the IAM roles whose people may use it
	Tags          []Tag    // on everything that takes tags
}

// Hours are when there are instances.
type Hours struct {
	From, To string // HH:MM
	Days     string // as of cron; "MON-FRI"
	TimeZone string // of IANA, such as Europe/Berlin; "UTC"
}

// Defaults returns the inputs with defaults in place of zero values.
func (in ClassicInputs) Defaults() ClassicInputs {
	in.Name = cmp.Or(in.Name, "bastion-host")
	in.Path = cmp.Or(in.Path, "/")
	in.RetentionDays = cmp.Or(in.RetentionDays, retentions[0])
	in.InstanceType = cmp.Or(in.InstanceType, "t4g.nano")
	in.Architecture = cmp.Or(in.Architecture, "arm64")
	in.Most = cmp.Or(in.Most, 2)
	in.CPUTarget = cmp.Or(in.CPUTarget, 60)
	in.IdleMinutes = cmp.Or(in.IdleMinutes, 20)
	if in.Hours != nil {
		h := *in.Hours
		h.Days, h.TimeZone = cmp.Or(h.Days, "MON-FRI"), cmp.Or(h.TimeZone, "UTC")
		in.Hours = &h
	}
	return in
}

var (
	clockForm    = pattern.Lazy(`^([01][0-9]|2[0-3]):[0-5][0-9]$`)
	daysForm     = pattern.Lazy(`^(\*|(MON|TUE|WED|THU|FRI|SAT|SUN)([-,](MON|TUE|WED|THU|FRI|SAT|SUN))*)$`)
	zoneForm     = pattern.Lazy(`^[A-Za-z_]+(/[A-Za-z0-9_+-]+){0,2}$`)
	instanceForm = pattern.Lazy(`^[a-z0-9-]+\.[a-z0-9]+$`)
)

// Validate returns what is wrong with inputs that have their defaults, all of it.
func (in ClassicInputs) Validate() error {
	var faults []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	check(instanceForm().MatchString(in.InstanceType), "instance type %q: want one such as t4g.nano", in.InstanceType)
	check(in.Architecture == "arm64" || in.Architecture == "x86_64", "architecture %q: want arm64 or x86_64", in.Architecture)
	check(in.Most >= 1 && in.Most <= 20, "%d instances at most: want 1 to 20", in.Most)
	check(in.CPUTarget >= 10 && in.CPUTarget <= 90, "CPU target of %d percent: want 10 to 90", in.CPUTarget)
	check(in.IdleMinutes >= 1 && in.IdleMinutes <= 60, "sessions idle for %d minutes: Session Manager takes 1 to 60", in.IdleMinutes)
	if h := in.Hours; h != nil {
		check(clockForm().MatchString(h.From) && clockForm().MatchString(h.To) && h.From != h.To, "hours from %q to %q: want two times HH:MM",
			h.From, h.To)
		check(daysForm().MatchString(h.Days), "days %q: want them as cron does, such as MON-FRI", h.Days)
		check(zoneForm().MatchString(h.TimeZone), "time zone %q: want a name of IANA, such as Europe/Berlin", h.TimeZone)
	}
	faults = append(faults, in.common().Defaults().Validate())
	return errors.Join(faults...)
}

// common are the inputs that both kinds of stack have.
func (in ClassicInputs) common() Inputs {
	return Inputs{
		Name: in.Name, VPC: in.VPC, VPCCIDR: in.VPCCIDR, Subnets: in.Subnets, Egress: in.Egress,
		Endpoints: Endpoints{Groups: in.EndpointGroups, PrefixList: in.PrefixList}, Path: in.Path, Boundary: in.Boundary, Key: in.Key,
		RetentionDays: in.RetentionDays, AlarmEmail: in.AlarmEmail, Tags: in.Tags,
	}
}

// NewClassic builds the stack of bastions that are EC2 instances: an Auto Scaling group over the subnets' zones, without an inbound rule, a
// public address or a key pair. Sessions are encrypted, and their transcripts go to CloudWatch Logs and S3.
func NewClassic(in ClassicInputs) (*Stack, error) {
	in = in.Defaults()
	if err := in.Validate(); err != nil {
		return nil, fmt.Errorf("inputs of the stack: %w", err)
	}
	c := classic{Stack: &Stack{Inputs: in.common().Defaults()}, in: in}
	c.Stack.classic = true
	c.parameters()
	c.key()
	c.addLog("SessionLog", c.sessionGroup())
	c.auditBucket()
	c.preferences()
	c.role()
	c.group()
	c.instances()
	c.people()
	c.alarmTopic()
	c.alarms()
	c.outputs()
	c.tag()
	return c.Stack, nil
}

// classic is a stack of instances while it is built.
type classic struct {
	*Stack
	in ClassicInputs
}

func (c classic) sessionGroup() string { return "/" + c.in.Name + "/sessions" }

// instanceTag is the tag by which policies know the stack's instances.
func (c classic) instanceTag() Member { return Member{"ssm:resourceTag/bastion:host", c.in.Name} }

// Names of the parameters of office hours.
const (
	paramOpen  = "OpenAt"
	paramClose = "CloseAt"
	paramZone  = "TimeZone"
)

func (c classic) parameters() {
	c.Parameters = []Parameter{
		{Name: paramVPC, Type: "AWS::EC2::VPC::Id", Default: c.in.VPC, Description: "VPC of the databases"},
		{
			Name: paramSubnets, Type: "List<AWS::EC2::Subnet::Id>", Default: joined(c.in.Subnets),
			Description: "Private subnets of the instances, one for each zone",
		},
	}
	if h := c.in.Hours; h != nil {
		c.Parameters = append(c.Parameters,
			Parameter{Name: paramOpen, Type: "String", Default: h.cron(h.From), Description: "When the instances come: minute, hour, day, month, weekdays"},
			Parameter{Name: paramClose, Type: "String", Default: h.cron(h.To), Description: "When they go"},
			Parameter{Name: paramZone, Type: "String", Default: h.TimeZone, Description: "Time zone of both, such as Europe/Berlin"})
	}
	if toVPC(c.in.Egress) {
		c.Parameters = append(c.Parameters, Parameter{
			Name: paramCIDR, Type: "String", Default: c.in.VPCCIDR, Description: "IPv4 addresses of the VPC, such as 10.0.0.0/16",
		})
	}
}

// preferences makes the document by which people open a shell. It is one of the stack's: the account's own preferences
// (SSM-SessionManagerRunShell) are others'.
func (c classic) preferences() {
	c.add("SessionPreferences", "AWS::SSM::Document", Object{
		{"Name", c.in.Name + "-shell"},
		{"DocumentType", "Session"},
		{"DocumentFormat", "JSON"},
		{"UpdateMethod", "NewVersion"},
		{"Content", Object{
			{"schemaVersion", "1.0"},
			{"description", c.in.Name + ": shell with encryption and transcripts"},
			{"sessionType", "Standard_Stream"},
			{"inputs", Object{
				{"kmsKeyId", c.keyARN()},
				{"s3BucketName", Ref("AuditBucket")},
				{"s3KeyPrefix", "sessions"},
				{"s3EncryptionEnabled", true},
				{"cloudWatchLogGroupName", Ref("SessionLog")},
				{"cloudWatchEncryptionEnabled", true},
				{"cloudWatchStreamingEnabled", true},
				{"idleSessionTimeout", decimal(c.in.IdleMinutes)},
				{"runAsEnabled", false},
				{"runAsDefaultUser", ""},
			}},
		}},
	})
}

// group makes the security group of the instances.
func (c classic) group() {
	c.add("SecurityGroup", "AWS::EC2::SecurityGroup", Object{
		{"GroupDescription", c.in.Name + ": instances, no inbound rule"},
		{"VpcId", Ref(paramVPC)},
		{"SecurityGroupEgress", c.egress()},
	})
}

// rootDevice is that of Amazon Linux 2023.
const rootDevice = "/dev/xvda"

// maxAge is the most seconds that an instance lives: the next one has the newest image, and its patches.
const maxAge = 7 * 24 * 3600

// instances makes the launch template and the group that keeps instances in the zones.
func (c classic) instances() {
	c.add("LaunchTemplate", "AWS::EC2::LaunchTemplate", Object{{"LaunchTemplateData", Object{
		{"ImageId", "resolve:ssm:/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-" + c.in.Architecture},
		{"InstanceType", c.in.InstanceType},
		{"IamInstanceProfile", Object{{"Arn", Attr{"InstanceProfile", "Arn"}}}},
		{"MetadataOptions", Object{{"HttpEndpoint", "enabled"}, {"HttpTokens", "required"}, {"HttpPutResponseHopLimit", 1}}},
		{"Monitoring", Object{{"Enabled", true}}},
		{"BlockDeviceMappings", List{Object{{"DeviceName", rootDevice}, {"Ebs", Object{
			{"Encrypted", true}, {"VolumeType", "gp3"}, {"VolumeSize", 8}, {"DeleteOnTermination", true},
		}}}}},
		{"NetworkInterfaces", List{Object{
			{"DeviceIndex", 0},
			{"AssociatePublicIpAddress", false},
			{"DeleteOnTermination", true},
			{"Groups", List{Attr{"SecurityGroup", "GroupId"}}},
		}}},
	}}})
	tags := List{
		Object{{"Key", "bastion:host"}, {"Value", c.in.Name}, {"PropagateAtLaunch", true}},
		Object{{"Key", "Name"}, {"Value", c.in.Name}, {"PropagateAtLaunch", true}},
	}
	for _, t := range c.in.Tags {
		tags = append(tags, Object{{"Key", t.Key}, {"Value", t.Value}, {"PropagateAtLaunch", true}})
	}
	c.add("Instances", "AWS::AutoScaling::AutoScalingGroup", Object{
		{"MinSize", "1"},
		{"MaxSize", decimal(c.in.Most)},
		{"VPCZoneIdentifier", Ref(paramSubnets)},
		{"LaunchTemplate", Object{{"LaunchTemplateId", Ref("LaunchTemplate")}, {"Version", Attr{"LaunchTemplate", "LatestVersionNumber"}}}},
		{"HealthCheckType", "EC2"},
		{"HealthCheckGracePeriod", 120},
		{"MaxInstanceLifetime", maxAge},
		{"MetricsCollection", List{Object{{"Granularity", "1Minute"}}}},
		{"Tags", tags},
	})
	c.add("FollowCPU", "AWS::AutoScaling::ScalingPolicy", Object{
		{"AutoScalingGroupName", Ref("Instances")},
		{"PolicyType", "TargetTrackingScaling"},
		{"TargetTrackingConfiguration", Object{
			{"PredefinedMetricSpecification", Object{{"PredefinedMetricType", "ASGAverageCPUUtilization"}}},
			{"TargetValue", c.in.CPUTarget},
		}},
	})
	if h := c.in.Hours; h != nil {
		c.schedule("Open", paramOpen, 1, c.in.Most)
		c.schedule("Close", paramClose, 0, 0)
	}
}

// cron is a time of the days as cron has it.
func (h *Hours) cron(at string) string {
	hour, minute, _ := strings.Cut(at, ":")
	return fmt.Sprintf("%d %d * * %s", number(minute), number(hour), h.Days)
}

// schedule sets the group's size at the times of a parameter.
func (c classic) schedule(id, at string, least, most int) {
	c.add(id, "AWS::AutoScaling::ScheduledAction", Object{
		{"AutoScalingGroupName", Ref("Instances")},
		{"Recurrence", Ref(at)},
		{"TimeZone", Ref(paramZone)},
		{"MinSize", least},
		{"MaxSize", most},
		{"DesiredCapacity", least},
	})
}

// number is a number of two digits.
func number(digits string) int { return int(digits[0]-'0')*10 + int(digits[1]-'0') }

// alarms tells the topic of instances that are ill, too busy for the group to follow, or not to be had.
func (c classic) alarms() {
	alarm := func(id, metric, statistic string, threshold int, description string) {
		c.add(id, "AWS::CloudWatch::Alarm", Object{
			{"AlarmDescription", c.in.Name + ": " + description},
			{"Namespace", "AWS/EC2"},
			{"MetricName", metric},
			{"Dimensions", List{Object{{"Name", "AutoScalingGroupName"}, {"Value", Ref("Instances")}}}},
			{"Statistic", statistic},
			{"Period", 300},
			{"EvaluationPeriods", 3},
			{"Threshold", threshold},
			{"ComparisonOperator", "GreaterThanOrEqualToThreshold"},
			{"TreatMissingData", "notBreaching"}, // there is no instance out of hours
			{"AlarmActions", List{Ref("AlarmTopic")}},
		})
	}
	alarm("StatusAlarm", "StatusCheckFailed", "Maximum", 1, "an instance fails its status checks")
	alarm("BusyAlarm", "CPUUtilization", "Average", 90, "the instances are busy, and there are as many as may be")
	c.add("LaunchFailed", "AWS::Events::Rule", Object{
		{"Description", c.in.Name + ": an instance could not be started"},
		{"EventPattern", Object{
			{"source", words("aws.autoscaling")},
			{"detail-type", words("EC2 Instance Launch Unsuccessful")},
			{"detail", Object{{"AutoScalingGroupName", List{Ref("Instances")}}}},
		}},
		{"Targets", List{Object{{"Id", "topic"}, {"Arn", Ref("AlarmTopic")}}}},
	})
}

func (c classic) outputs() {
	c.Outputs = []Output{
		{"SecurityGroupId", "Security group of the instances, which databases must admit", Attr{"SecurityGroup", "GroupId"}},
		{"SessionDocument", "Document of shells: aws ssm start-session --document-name", Ref("SessionPreferences")},
		{"SessionLogGroup", "Log group with the transcripts", Ref("SessionLog")},
		{"AlarmTopic", "Topic of the alarms", Ref("AlarmTopic")},
		{"UserPolicy", "Policy of the people who use it", Ref("UserPolicy")},
	}
}
