package account

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// control is a check of a scanner: checkov's by CKV, AWS Security Hub's by the service and a number. It passes, or fails for a reason that
// is stated here.
type control struct {
	id     string
	kind   string // type of the resources that it is about
	passes func(s *Stack, r Resource) bool
	reason string // why it does not pass, and should not
}

// at is a property of a resource by its path.
func (r Resource) at(path string) any {
	var v any = r.Properties
	for name := range strings.SplitSeq(path, ".") {
		o, ok := v.(Object)
		if !ok {
			return nil
		}
		v = o.get(name)
	}
	return v
}

// is passes where a property has a value.
func is(path string, want any) func(*Stack, Resource) bool {
	return func(_ *Stack, r Resource) bool { return r.at(path) == want }
}

// has passes where a property is set.
func has(path string) func(*Stack, Resource) bool {
	return func(_ *Stack, r Resource) bool { return r.at(path) != nil }
}

// says passes where the properties as JSON match, or where they do not.
func says(pattern string, want bool) func(*Stack, Resource) bool {
	expression := regexp.MustCompile(pattern)
	return func(_ *Stack, r Resource) bool {
		text, err := marshal(resolve(r.Properties, intrinsic))
		return err == nil && expression.Match(text) == want
	}
}

// container passes where the one container has a property of a value.
func container(path string, want any) func(*Stack, Resource) bool {
	return func(_ *Stack, r Resource) bool {
		one := Resource{Properties: r.at("ContainerDefinitions").(List)[0].(Object)}
		return one.at(path) == want
	}
}

// unbound are the actions that a role's or people's policy allows on any resource.
func (s *Stack) unbound(r Resource) (actions []string) {
	for _, statement := range s.policies()[r.ID].get("Statement").(List) {
		o := statement.(Object)
		resources, isList := o.get("Resource").(List)
		if !isList {
			resources = List{o.get("Resource")}
		}
		if !slices.Contains(resources, any("*")) {
			continue
		}
		if list, isList := o.get("Action").(List); isList {
			for _, a := range list {
				actions = append(actions, a.(string))
			}
		} else {
			actions = append(actions, o.get("Action").(string))
		}
	}
	return actions
}

// noneOnAll passes where a policy allows no action on any resource that matches.
func noneOnAll(pattern string) func(*Stack, Resource) bool {
	expression := regexp.MustCompile("(?i)^(" + pattern + ")$")
	return func(s *Stack, r Resource) bool { return !slices.ContainsFunc(s.unbound(r), expression.MatchString) }
}

// What cloudsplaining, and checkov by it, call exposure of credentials, exfiltration of data, and management of permissions.
const (
	exposing     = `ecr:GetAuthorizationToken|sts:(AssumeRole.*|Get.*Token)|iam:(Create|Update)(AccessKey|LoginProfile)|redshift:GetClusterCredentials.*|rds-db:connect`
	exfiltration = `s3:GetObject|ssm:GetParameters?(ByPath)?|secretsmanager:GetSecretValue|kms:Decrypt`
	permissions  = `iam:(Attach|Add|Create|Delete|Detach|Put|Set|Update|Pass).*|kms:(CreateGrant|PutKeyPolicy)|ecr:SetRepositoryPolicy|s3:PutBucket(Policy|Acl)|.*:(Tag|Untag)Role`
	writing      = `[a-z0-9-]+:(Create|Delete|Modify|Open|Put|Resume|Run|Send|Start|Stop|Tag|Terminate|Untag|Update|Write|Execute)[A-Za-z]*`
)

// controls are the usual scanners' checks for what a stack has.
var controls = []control{
	{"CKV_AWS_7 (KMS.4)", "AWS::KMS::Key", is("EnableKeyRotation", true), ""},
	{"CKV_AWS_33", "AWS::KMS::Key", says(`"Principal":(\{"AWS":)?"\*"`, false), ""},
	{"CKV_AWS_66", "AWS::Logs::LogGroup", has("RetentionInDays"), ""},
	{"CKV_AWS_338 (CloudWatch.16)", "AWS::Logs::LogGroup", func(_ *Stack, r Resource) bool { return r.at("RetentionInDays").(int) >= 365 }, ""},
	{"CKV_AWS_158", "AWS::Logs::LogGroup", has("KmsKeyId"), ""},
	{"CKV_AWS_19 (S3.4)", "AWS::S3::Bucket", has("BucketEncryption"), ""},
	{"CKV_AWS_145 (S3.17)", "AWS::S3::Bucket", says(`"SSEAlgorithm":"aws:kms"`, true), ""},
	{"CKV_AWS_21 (S3.14)", "AWS::S3::Bucket", is("VersioningConfiguration.Status", "Enabled"), ""},
	{"CKV_AWS_53 (S3.8)", "AWS::S3::Bucket", is("PublicAccessBlockConfiguration.BlockPublicAcls", true), ""},
	{"CKV_AWS_54 (S3.8)", "AWS::S3::Bucket", is("PublicAccessBlockConfiguration.BlockPublicPolicy", true), ""},
	{"CKV_AWS_55 (S3.8)", "AWS::S3::Bucket", is("PublicAccessBlockConfiguration.IgnorePublicAcls", true), ""},
	{"CKV_AWS_56 (S3.8)", "AWS::S3::Bucket", is("PublicAccessBlockConfiguration.RestrictPublicBuckets", true), ""},
	{"CKV2_AWS_61 (S3.13)", "AWS::S3::Bucket", has("LifecycleConfiguration"), ""},
	{"S3.12", "AWS::S3::Bucket", says(`"ObjectOwnership":"BucketOwnerEnforced"`, true), ""}, // no ACLs
	{"S3.5", "AWS::S3::BucketPolicy", says(`"aws:SecureTransport":"false"`, true), ""},
	{"CKV_AWS_20, 57 (S3.2, S3.3)", "AWS::S3::Bucket", is("AccessControl", nil), ""},
	{"CKV2_AWS_6 (S3.1, S3.8)", "AWS::S3::Bucket", has("PublicAccessBlockConfiguration"), ""},
	{
		"CKV2_AWS_62 (S3.11)", "AWS::S3::Bucket", has("NotificationConfiguration"),
		"nobody waits for a transcript; the alarms are of the audit log and of CloudTrail",
	},
	{
		"S3.15", "AWS::S3::Bucket", has("ObjectLockEnabled"),
		"a lock that nobody can undo is the operator's decision; versions and the policy of the account keep the transcripts until their end",
	},
	{
		"CKV_AWS_18 (S3.9)", "AWS::S3::Bucket", has("LoggingConfiguration"),
		"CloudTrail's data events tell who read the bucket; a log of accesses would need a second bucket with the same question",
	},
	{
		"CKV_AWS_144 (S3.7)", "AWS::S3::Bucket", has("ReplicationConfiguration"),
		"the audit itself is in CloudWatch Logs; whoever wants transcripts in two regions replicates the bucket",
	},
	{"CKV_AWS_51 (ECR.2)", "AWS::ECR::Repository", is("ImageTagMutability", "IMMUTABLE"), ""},
	{"CKV_AWS_136 (ECR.5)", "AWS::ECR::Repository", is("EncryptionConfiguration.EncryptionType", "KMS"), ""},
	{"CKV_AWS_163 (ECR.1)", "AWS::ECR::Repository", is("ImageScanningConfiguration.ScanOnPush", true), ""},
	{"ECR.3", "AWS::ECR::Repository", has("LifecyclePolicy"), ""},
	{"CKV_AWS_32", "AWS::ECR::Repository", is("RepositoryPolicyText", nil), ""}, // none, so nobody of another account
	{
		"CKV_AWS_65 (ECS.12)", "AWS::ECS::Cluster", says(`"containerInsights","Value":"enabled"`, true),
		"an input: it costs by the task, and bastiond's own metrics and log say more",
	},
	{
		"CKV_AWS_223", "AWS::ECS::Cluster", says(`"Logging":"NONE"`, false),
		"an input: the person in the container could write the transcripts, and CloudTrail has each command (ADR 15)",
	},
	{"CKV_AWS_224", "AWS::ECS::Cluster", has("Configuration.ExecuteCommandConfiguration.KmsKeyId"), ""},
	{"CKV_AWS_97", "AWS::ECS::TaskDefinition", says(`"EFSVolumeConfiguration"`, false), ""},
	{"CKV_AWS_249", "AWS::ECS::TaskDefinition", func(_ *Stack, r Resource) bool {
		return fmt.Sprint(r.at("TaskRoleArn")) != fmt.Sprint(r.at("ExecutionRoleArn"))
	}, ""},
	{"CKV_AWS_335 (ECS.3)", "AWS::ECS::TaskDefinition", is("PidMode", nil), ""},
	{"CKV_AWS_336 (ECS.5)", "AWS::ECS::TaskDefinition", container("ReadonlyRootFilesystem", true), ""},
	{"ECS.1", "AWS::ECS::TaskDefinition", container("User", "65532:65532"), ""},
	{"no capabilities", "AWS::ECS::TaskDefinition", says(`"LinuxParameters":\{"Capabilities":\{"Drop":\["ALL"\]\}`, true), ""},
	{"CKV_AWS_334 (ECS.4)", "AWS::ECS::TaskDefinition", container("Privileged", nil), ""},
	{"ECS.14", "AWS::ECS::Cluster", says(`"Tags":\[`, true), ""},
	{"ECS.15", "AWS::ECS::TaskDefinition", says(`"Tags":\[`, true), ""},
	{"ECS.17", "AWS::ECS::TaskDefinition", is("NetworkMode", "awsvpc"), ""},
	{"ECS.8", "AWS::ECS::TaskDefinition", func(s *Stack, r Resource) bool { // a secret's value is Secrets Manager's: its variable may be called so
		environment := r.at("ContainerDefinitions").(List)[0].(Object).get("Environment")
		return says(`(?i)"Name":"[A-Z_]*(SECRET|PASSWORD|TOKEN|ACCESS_KEY)`, false)(s, Resource{Properties: Object{{"Environment", environment}}})
	}, ""},
	{"ECS.9", "AWS::ECS::TaskDefinition", container("LogConfiguration.LogDriver", "awslogs"), ""},
	{"CKV_AWS_332 (ECS.10)", "AWS::ECS::Service", is("PlatformVersion", "LATEST"), ""},
	{
		"CKV_AWS_333 (ECS.2)", "AWS::ECS::Service", says(`"AssignPublicIp":"DISABLED"`, true),
		"an input: only where the operator chose public addresses, because nothing else leads to AWS; no inbound rule lets anybody in",
	},
	{"circuit breaker", "AWS::ECS::Service", is("DeploymentConfiguration.DeploymentCircuitBreaker.Rollback", true), ""},
	{"several zones", "AWS::ECS::Service", is("NetworkConfiguration.AwsvpcConfiguration.Subnets", Ref(paramSubnets)), ""},
	{"ECS.13", "AWS::ECS::Service", says(`"Tags":\[`, true), ""},
	{"no load balancer", "AWS::ECS::Service", is("LoadBalancers", nil), ""}, // SSM leads to the tasks, and nothing else
	{"CKV_AWS_23", "AWS::EC2::SecurityGroup", says(`"Description":""`, false), ""},
	{"CKV_AWS_24, 25, 260 (EC2.13, 14, 18, 19)", "AWS::EC2::SecurityGroup", says(`"SecurityGroupIngress":[^]]*"0\.0\.0\.0/0"`, false), ""},
	{"CKV_AWS_23", "AWS::EC2::SecurityGroupIngress", has("Description"), ""},
	{"CKV_AWS_24, 25, 260 (EC2.13, 14, 18, 19)", "AWS::EC2::SecurityGroupIngress", has("SourceSecurityGroupId"), ""},
	{"CKV_AWS_382", "AWS::EC2::SecurityGroup", says(`"IpProtocol":"?-1`, false), ""},
	{"CKV_AWS_60", "AWS::IAM::Role", says(`"AssumeRolePolicyDocument":[^]]*"AWS":"\*"`, false), ""},
	{"CKV_AWS_62, 63 (IAM.1, 21)", "AWS::IAM::Role", says(`"Action":"([a-z0-9]+:)?\*"`, false), ""},
	{"CKV_AWS_62, 63 (IAM.1, 21)", "AWS::IAM::ManagedPolicy", says(`"Action":"([a-z0-9]+:)?\*"`, false), ""},
	{"CKV_AWS_110", "AWS::IAM::ManagedPolicy", says(`iam:(Attach|Create|Put|Update)`, false), ""},
	{"CKV_AWS_107", "AWS::IAM::ManagedPolicy", noneOnAll(exposing), ""},
	{
		"CKV_AWS_107", "AWS::IAM::Role", noneOnAll(exposing),
		"ecr:GetAuthorizationToken has no resource; what its token pulls is bound to the stack's repository",
	},
	{"CKV_AWS_108 (KMS.1)", "AWS::IAM::ManagedPolicy", noneOnAll(exfiltration), ""},
	{"CKV_AWS_108 (KMS.2)", "AWS::IAM::Role", noneOnAll(exfiltration), ""},
	{"CKV_AWS_109", "AWS::IAM::ManagedPolicy", noneOnAll(permissions), ""},
	{"CKV_AWS_109", "AWS::IAM::Role", noneOnAll(permissions), ""},
	{"CKV_AWS_111", "AWS::IAM::ManagedPolicy", noneOnAll(writing), ""},
	{
		"CKV_AWS_111", "AWS::IAM::Role", noneOnAll(writing),
		"the channels of ECS Exec's agent (ssmmessages) have no resource",
	},
	{"CKV_AWS_274", "AWS::IAM::Role", is("ManagedPolicyArns", nil), ""}, // none of AWS's, so not AdministratorAccess
	{"IAM.22", "AWS::IAM::ManagedPolicy", is("Users", nil), ""},
	{"CKV_AWS_79, 341 (EC2.8, AutoScaling.3)", "AWS::EC2::LaunchTemplate", is("LaunchTemplateData.MetadataOptions.HttpPutResponseHopLimit", 1), ""},
	{"CKV_AWS_79 (EC2.170)", "AWS::EC2::LaunchTemplate", is("LaunchTemplateData.MetadataOptions.HttpTokens", "required"), ""},
	{"CKV_AWS_8 (EC2.7)", "AWS::EC2::LaunchTemplate", says(`"Ebs":\{"Encrypted":true`, true), ""},
	{"CKV_AWS_88 (EC2.25, AutoScaling.5)", "AWS::EC2::LaunchTemplate", says(`"AssociatePublicIpAddress":false`, true), ""},
	{"CKV_AWS_126", "AWS::EC2::LaunchTemplate", is("LaunchTemplateData.Monitoring.Enabled", true), ""},
	{"no key pair", "AWS::EC2::LaunchTemplate", is("LaunchTemplateData.KeyName", nil), ""},
	{"AutoScaling.9 (CKV_AWS_315)", "AWS::AutoScaling::AutoScalingGroup", has("LaunchTemplate"), ""},
	{"CKV_AWS_153", "AWS::AutoScaling::AutoScalingGroup", has("Tags"), ""},
	{"AutoScaling.2", "AWS::AutoScaling::AutoScalingGroup", is("VPCZoneIdentifier", Ref(paramSubnets)), ""}, // a subnet for each zone
	{"CKV_AWS_112, 113", "AWS::SSM::Document", says(`"kmsKeyId".*"s3EncryptionEnabled":true.*"cloudWatchEncryptionEnabled":true`, true), ""},
	{
		"AutoScaling.6", "AWS::AutoScaling::AutoScalingGroup", has("MixedInstancesPolicy"),
		"one small type: a bastion that cannot be had in a zone is made in another",
	},
	{"CKV_AWS_169 (SNS.4)", "AWS::SNS::TopicPolicy", says(`"Principal":(\{"AWS":)?"\*"`, false), ""},
	{"CKV_AWS_26 (SNS.1)", "AWS::SNS::Topic", has("KmsMasterKeyId"), ""},
	{"CKV_AWS_319 (CloudWatch.17)", "AWS::CloudWatch::Alarm", has("AlarmActions"), ""},
}

// Each control passes for each of its resources in each variant, or fails for the stated reason in the default one.
func TestControls(t *testing.T) {
	stacks := allStacks(t)
	for _, c := range controls {
		seen, failed := 0, 0
		for name, s := range stacks {
			for _, r := range s.Resources {
				if r.Type != c.kind {
					continue
				}
				seen++
				if !c.passes(s, r) {
					failed++
					if c.reason == "" {
						t.Errorf("%s: %s in %s", c.id, r.ID, name)
					}
				}
			}
		}
		if seen == 0 {
			t.Errorf("%s: no %s to look at", c.id, c.kind)
		}
		if c.reason != "" && failed == 0 {
			t.Errorf("%s: passes, and has a reason why it does not", c.id)
		}
	}
}
