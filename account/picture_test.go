package account

import (
	"os"
	"strings"
	"testing"
)

// pictured are the words for the types of a stack in the picture of the account.
var pictured = map[string]string{
	"AWS::CloudWatch::Alarm": "CloudWatch alarms", "AWS::EC2::SecurityGroup": "Security group:", "AWS::EC2::SecurityGroupIngress": "security group ingress",
	"AWS::EC2::VPCEndpoint": "VPC endpoints", "AWS::ECR::Repository": "ECR repository", "AWS::ECS::Cluster": "ECS cluster", "AWS::ECS::Service": "ECS service",
	"AWS::ECS::TaskDefinition": "task definition", "AWS::Events::Rule": "EventBridge rule", "AWS::IAM::ManagedPolicy": "IAM managed policy",
	"AWS::IAM::Role": "IAM roles", "AWS::KMS::Alias": "alias", "AWS::KMS::Key": "KMS key", "AWS::Logs::LogGroup": "Log group", "AWS::Logs::MetricFilter": "Metric filters",
	"AWS::S3::Bucket": "S3 bucket", "AWS::S3::BucketPolicy": "bucket policy", "AWS::SNS::Subscription": "subscription", "AWS::SNS::Topic": "SNS topic",
	"AWS::SNS::TopicPolicy": "topic policy",
}

// The picture in the documentation has each type of a stack's resources, and they are options there if a default stack has none.
func TestPicture(t *testing.T) {
	text, err := os.ReadFile("../docs/overview.md")
	if err != nil {
		t.Fatal(err)
	}
	_, picture, found := strings.Cut(string(text), "```mermaid\n")
	picture, _, closed := strings.Cut(picture, "```")
	if !found || !closed {
		t.Fatal("docs/overview.md has no picture")
	}
	usual := make(map[string]bool)
	for _, r := range newStack(t, Inputs{}).Resources {
		usual[r.Type] = true
	}
	seen := make(map[string]bool)
	for name, in := range variants {
		for _, r := range newStack(t, in).Resources {
			words, ok := pictured[r.Type]
			if !ok || !strings.Contains(picture, words) {
				t.Errorf("%s: the picture lacks %s", name, r.Type)
				continue
			}
			_, after, _ := strings.Cut(picture, words)
			if option := strings.Contains(strings.SplitN(after, "\"", 2)[0], "(option)"); !option && !usual[r.Type] {
				t.Errorf("%s is an option, and the picture does not say so", r.Type)
			}
			seen[r.Type] = true
		}
	}
	for kind := range pictured {
		if !seen[kind] {
			t.Errorf("no stack has %s any more", kind)
		}
	}
}
