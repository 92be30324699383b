package account

import (
	"strings"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
)

// terraformPseudo are the facts of a deployment: a data source, and its attribute.
var terraformPseudo = map[Pseudo][2]string{
	Partition: {"aws_partition", "partition"},
	URLSuffix: {"aws_partition", "dns_suffix"},
	Region:    {"aws_region", "region"},
	Account:   {"aws_caller_identity", "account_id"},
}

// terraformKind is how Terraform's AWS provider has a type of CloudFormation's.
type terraformKind struct {
	name      string
	ref       string            // attribute that CloudFormation's Ref stands for
	attrs     map[string]string // those of its attributes, where not its name in snake case
	names     map[string]string // of properties, where not theirs in snake case; "" leaves one out, "." puts its members in its place
	documents []string          // properties that are JSON
	single    string            // property that is a list here, and one value there
	switches  []string          // properties that are ENABLED or DISABLED here, and true or false there
	mapped    map[string]string // properties that are lists of objects here, and maps there: the member of an object that is the key
	prefix    string            // attribute by which AWS makes a name up, as CloudFormation does
	keep      string            // attribute that keeps it: by leaving it, or, prevent_destroy, by refusing to destroy it
}

// terraformKinds are all types of a stack. Source: https://registry.terraform.io/providers/hashicorp/aws/latest/docs
var terraformKinds = map[string]terraformKind{
	"AWS::KMS::Key": {
		name: "aws_kms_key", ref: "key_id", names: map[string]string{"KeyPolicy": "policy"}, documents: []string{"KeyPolicy"},
		keep: "prevent_destroy",
	},
	"AWS::KMS::Alias": {name: "aws_kms_alias", ref: "name", names: map[string]string{"AliasName": "name"}},
	"AWS::Logs::LogGroup": {
		name: "aws_cloudwatch_log_group", ref: "name", names: map[string]string{"LogGroupName": "name"}, keep: "skip_destroy",
	},
	"AWS::S3::Bucket": {
		name: "aws_s3_bucket", ref: "id", prefix: "bucket_prefix", keep: "prevent_destroy",
		names: map[string]string{
			"BucketEncryption": "", "LifecycleConfiguration": "", "OwnershipControls": "", "PublicAccessBlockConfiguration": "",
			"VersioningConfiguration": "",
		},
	},
	"AWS::S3::BucketPolicy": {
		name: "aws_s3_bucket_policy", ref: "id", names: map[string]string{"PolicyDocument": "policy"}, documents: []string{"PolicyDocument"},
	},
	"AWS::ECR::Repository": {
		name: "aws_ecr_repository", ref: "name", attrs: map[string]string{"RepositoryUri": "repository_url"},
		names: map[string]string{"RepositoryName": "name", "EmptyOnDelete": "force_delete", "LifecyclePolicy": ""},
	},
	"AWS::ECS::Cluster": {
		name: "aws_ecs_cluster", ref: "name",
		names: map[string]string{
			"ClusterName": "name", "ClusterSettings": "setting", "CapacityProviders": "",
			"S3EncryptionEnabled": "s3_bucket_encryption_enabled",
		},
	},
	"AWS::ECS::TaskDefinition": {
		name: "aws_ecs_task_definition", ref: "arn", documents: []string{"ContainerDefinitions"},
		names: map[string]string{"Volumes": "volume"},
	},
	"AWS::ECS::Service": {
		name: "aws_ecs_service", ref: "id",
		names: map[string]string{
			"ServiceName": "name", "AwsvpcConfiguration": ".", "DeploymentConfiguration": ".",
			"MinimumHealthyPercent": "deployment_minimum_healthy_percent", "MaximumPercent": "deployment_maximum_percent",
		},
		switches: []string{"AssignPublicIp"},
	},
	"AWS::IAM::Role": {
		name: "aws_iam_role", ref: "name", prefix: "name_prefix", documents: []string{"AssumeRolePolicyDocument"},
		names: map[string]string{"AssumeRolePolicyDocument": "assume_role_policy", "Policies": ""},
	},
	"AWS::IAM::ManagedPolicy": {
		name: "aws_iam_policy", ref: "arn", prefix: "name_prefix", documents: []string{"PolicyDocument"},
		names: map[string]string{"PolicyDocument": "policy", "Roles": ""},
	},
	"AWS::EC2::SecurityGroup": {
		name: "aws_security_group", ref: "id", attrs: map[string]string{"GroupId": "id"}, prefix: "name_prefix",
		names: map[string]string{"GroupDescription": "description", "SecurityGroupEgress": "", "SecurityGroupIngress": ""},
	},
	"AWS::EC2::SecurityGroupIngress": {
		name: "aws_vpc_security_group_ingress_rule", ref: "id",
		names: map[string]string{"GroupId": "security_group_id", "SourceSecurityGroupId": "referenced_security_group_id"},
	},
	"AWS::EC2::VPCEndpoint": {
		name: "aws_vpc_endpoint", ref: "id", names: map[string]string{"PolicyDocument": "policy"}, documents: []string{"PolicyDocument"},
	},
	"AWS::SNS::Topic": {name: "aws_sns_topic", ref: "arn", prefix: "name_prefix"},
	"AWS::SNS::TopicPolicy": {
		name: "aws_sns_topic_policy", ref: "id", documents: []string{"PolicyDocument"},
		names: map[string]string{"PolicyDocument": "policy", "Topics": "arn"}, single: "Topics",
	},
	"AWS::SNS::Subscription": {name: "aws_sns_topic_subscription", ref: "arn"},
	"AWS::Logs::MetricFilter": {
		name: "aws_cloudwatch_log_metric_filter", ref: "name", prefix: "name",
		names: map[string]string{
			"FilterPattern": "pattern", "MetricTransformations": "metric_transformation", "MetricName": "name", "MetricNamespace": "namespace",
			"MetricValue": "value",
		},
	},
	"AWS::CloudWatch::Alarm": {
		name: "aws_cloudwatch_metric_alarm", ref: "alarm_name", prefix: "alarm_name", mapped: map[string]string{"Dimensions": "Name"},
	},
	"AWS::Events::Rule": {
		name: "aws_cloudwatch_event_rule", ref: "name", prefix: "name_prefix", documents: []string{"EventPattern"},
		names: map[string]string{"Targets": ""},
	},
	"AWS::SSM::Document": {
		name: "aws_ssm_document", ref: "name", documents: []string{"Content"},
		names: map[string]string{"UpdateMethod": ""}, // the provider makes a new version in any case
	},
	"AWS::IAM::InstanceProfile": {
		name: "aws_iam_instance_profile", ref: "name", prefix: "name_prefix", names: map[string]string{"Roles": "role"}, single: "Roles",
	},
	"AWS::EC2::LaunchTemplate": {
		name: "aws_launch_template", ref: "id", attrs: map[string]string{"LatestVersionNumber": "latest_version"}, prefix: "name_prefix",
		names: map[string]string{"LaunchTemplateData": ".", "Groups": "security_groups"},
	},
	"AWS::AutoScaling::AutoScalingGroup": {
		name: "aws_autoscaling_group", ref: "name", prefix: "name_prefix",
		names: map[string]string{"LaunchTemplateId": "id", "MetricsCollection": ".", "Granularity": "metrics_granularity", "Tags": "tag"},
	},
	"AWS::AutoScaling::ScalingPolicy": {
		name: "aws_autoscaling_policy", ref: "arn", prefix: "name", names: map[string]string{"AutoScalingGroupName": "autoscaling_group_name"},
	},
	"AWS::AutoScaling::ScheduledAction": {
		name: "aws_autoscaling_schedule", ref: "arn", prefix: "scheduled_action_name",
		names: map[string]string{"AutoScalingGroupName": "autoscaling_group_name"},
	},
}

// groupMetrics are the metrics of an Auto Scaling group. Without a list CloudFormation collects all, and the provider none.
// Source: https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-metrics.html
var groupMetrics = words("GroupDesiredCapacity", "GroupInServiceInstances", "GroupMaxSize", "GroupMinSize", "GroupPendingInstances",
	"GroupStandbyInstances", "GroupTerminatingInstances", "GroupTotalInstances")

// parts writes what the provider has as further resources.
func (w *terraformWriter) parts(r Resource) {
	switch r.Type {
	case "AWS::S3::Bucket":
		w.bucketParts(r)
	case "AWS::ECR::Repository":
		w.repositoryParts(r)
	case "AWS::ECS::Cluster":
		if providers := r.Properties.get("CapacityProviders"); providers != nil {
			w.part("aws_ecs_cluster_capacity_providers", r, Object{{"cluster_name", Ref(r.ID)}, {"capacity_providers", providers}})
		}
	case "AWS::IAM::Role":
		w.roleParts(r)
	case "AWS::IAM::ManagedPolicy":
		w.policyParts(r)
	case "AWS::EC2::SecurityGroup":
		w.groupParts(r)
	case "AWS::Events::Rule":
		w.ruleParts(r)
	}
}

// part writes a further resource of r, with the attributes and blocks of o under Terraform's own names.
func (w *terraformWriter) part(kind string, r Resource, o Object) {
	body := w.resource(kind, r.ID)
	for _, m := range o {
		w.member(body, terraformKind{}, m.Name, m.Value)
	}
}

func (w *terraformWriter) bucketParts(r Resource) {
	bucket := Member{"bucket", Ref(r.ID)}
	encryption := r.Properties.get("BucketEncryption").(Object).get("ServerSideEncryptionConfiguration").(List)[0].(Object)
	by := encryption.get("ServerSideEncryptionByDefault").(Object)
	w.part("aws_s3_bucket_server_side_encryption_configuration", r, Object{bucket, {"rule", Object{
		{"bucket_key_enabled", encryption.get("BucketKeyEnabled")},
		{"apply_server_side_encryption_by_default", Object{
			{"kms_master_key_id", by.get("KMSMasterKeyID")}, {"sse_algorithm", by.get("SSEAlgorithm")},
		}},
	}}})
	rule := r.Properties.get("LifecycleConfiguration").(Object).get("Rules").(List)[0].(Object)
	w.part("aws_s3_bucket_lifecycle_configuration", r, Object{bucket, {"rule", Object{
		{"id", rule.get("Id")},
		{"status", rule.get("Status")},
		{"filter", Object{}},
		{"expiration", Object{{"days", rule.get("ExpirationInDays")}}},
		{"noncurrent_version_expiration", rule.get("NoncurrentVersionExpiration")},
		{"abort_incomplete_multipart_upload", rule.get("AbortIncompleteMultipartUpload")},
	}}})
	w.part("aws_s3_bucket_ownership_controls", r, Object{bucket, {"rule", r.Properties.get("OwnershipControls").(Object).get("Rules")}})
	access := Object{bucket}
	for _, m := range r.Properties.get("PublicAccessBlockConfiguration").(Object) {
		access = append(access, Member{snake(m.Name), m.Value})
	}
	w.part("aws_s3_bucket_public_access_block", r, access)
	w.part("aws_s3_bucket_versioning", r, Object{bucket, {"versioning_configuration", r.Properties.get("VersioningConfiguration")}})
}

func (w *terraformWriter) repositoryParts(r Resource) {
	policy := r.Properties.get("LifecyclePolicy").(Object).get("LifecyclePolicyText")
	w.part("aws_ecr_lifecycle_policy", r, Object{{"repository", Ref(r.ID)}, {"policy", policy}})
}

func (w *terraformWriter) roleParts(r Resource) {
	for _, p := range r.Properties.get("Policies").(List) {
		policy := w.resource("aws_iam_role_policy", r.ID)
		policy.SetAttributeRaw("name", w.expression(p.(Object).get("PolicyName")))
		policy.SetAttributeRaw("role", w.expression(Ref(r.ID)))
		w.properties(policy, terraformKinds["AWS::IAM::ManagedPolicy"], Object{{"PolicyDocument", p.(Object).get("PolicyDocument")}})
	}
}

func (w *terraformWriter) policyParts(r Resource) {
	roles, _ := r.Properties.get("Roles").(List)
	for i, role := range roles {
		body := w.resource("aws_iam_role_policy_attachment", r.ID+decimal(i+1))
		body.SetAttributeRaw("role", w.expression(role))
		body.SetAttributeRaw("policy_arn", w.expression(Ref(r.ID)))
	}
}

// ruleNames are the names of the other end of a security group's rule.
var ruleNames = strings.NewReplacer("cidr_ip", "cidr_ipv4", "destination_security_group_id", "referenced_security_group_id",
	"destination_prefix_list_id", "prefix_list_id")

// groupParts writes the rules of a security group. Where tasks may connect to besides AWS is a variable: those who use the module list what
// they like, of any number. A template has no loop for that (docs/adr/0015).
func (w *terraformWriter) groupParts(r Resource) {
	for _, way := range []string{"Egress", "Ingress"} {
		rules, _ := r.Properties.get("SecurityGroup" + way).(List)
		if r.ID == "SecurityGroup" && way == "Egress" {
			listed := w.stack.listedEgress()
			rules = rules[:len(rules)-len(listed)]
			w.listedEgress(r, listed)
		}
		for i, rule := range rules {
			o := Object{{"security_group_id", Ref(r.ID)}}
			for _, m := range rule.(Object) {
				o = append(o, Member{ruleNames.Replace(snake(m.Name)), m.Value})
			}
			w.part("aws_vpc_security_group_"+strings.ToLower(way)+"_rule", Resource{ID: r.ID + decimal(i+1)}, o)
		}
	}
}

// egressVariable is the variable of a module with the rules for where tasks may connect to besides AWS, by names of the reader's. A rule's
// name is known before anything is made, unlike the id of a security group in it: so for_each goes by it.
const egressVariable = "egress"

// listedEgress writes rules that a variable may take the place of.
func (w *terraformWriter) listedEgress(r Resource, rules List) {
	var members []hclwrite.ObjectAttrTokens
	for i, rule := range rules {
		members = append(members, hclwrite.ObjectAttrTokens{
			Name: hclwrite.TokensForValue(cty.StringVal("rule" + decimal(i+1))),
			Value: w.expression(Object{
				{"port", rule.(Object).get("FromPort")},
				{"cidr", rule.(Object).get("CidrIp")},
				{"group", rule.(Object).get("DestinationSecurityGroupId")},
				{"description", rule.(Object).get("Description")},
			}),
		})
	}
	w.file.Body().AppendNewline()
	variable := w.file.Body().AppendNewBlock("variable", []string{egressVariable}).Body()
	variable.SetAttributeValue("description", cty.StringVal("What the tasks may connect to besides AWS, in place of the rules in this file: "+
		"each a port of a CIDR, or of a security group by its id"))
	variable.SetAttributeRaw("type", raw("map(object({ port = number, cidr = optional(string), group = optional(string), description = optional(string) }))"))
	variable.SetAttributeValue("default", cty.NullVal(cty.DynamicPseudoType))
	w.file.Body().AppendNewline()
	locals := w.file.Body().AppendNewBlock("locals", nil).Body()
	locals.SetAttributeRaw(egressVariable, append(raw("var."+egressVariable+" != null ? var."+egressVariable+" : "), hclwrite.TokensForObject(members)...))
	body := w.resource("aws_vpc_security_group_egress_rule", r.ID)
	body.SetAttributeRaw("for_each", raw("local."+egressVariable))
	body.SetAttributeRaw("security_group_id", w.expression(Ref(r.ID)))
	body.SetAttributeValue("ip_protocol", cty.StringVal("tcp"))
	for _, attribute := range []struct{ name, value string }{
		{"from_port", "each.value.port"},
		{"to_port", "each.value.port"},
		{"cidr_ipv4", "each.value.cidr"},
		{"referenced_security_group_id", "each.value.group"},
		{"description", "coalesce(each.value.description, each.key)"},
	} {
		body.SetAttributeRaw(attribute.name, raw(attribute.value))
	}
}

// raw is an expression as it is written.
func raw(text string) hclwrite.Tokens {
	return hclwrite.Tokens{{Type: hclsyntax.TokenIdent, Bytes: []byte(text)}}
}

func (w *terraformWriter) ruleParts(r Resource) {
	for _, t := range r.Properties.get("Targets").(List) {
		target := t.(Object)
		w.part("aws_cloudwatch_event_target", r, Object{{"rule", Ref(r.ID)}, {"target_id", target.get("Id")}, {"arn", target.get("Arn")}})
	}
}
