package deploy

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/internal/awsanswer"
)

// Resource is a resource of a stack.
type Resource struct {
	ID         string `json:"resource"` // logical
	Type       string `json:"type"`
	PhysicalID string `json:"physical_id"`
	Status     string `json:"status,omitempty"` // CloudFormation's
}

// Types of what outlives its stack.
const (
	typeLogs   = "AWS::Logs::LogGroup"
	typeKey    = "AWS::KMS::Key"
	typeBucket = "AWS::S3::Bucket"
)

// Kept returns what earlier stacks of the name left when they were deleted, and what is still there of it. CloudFormation remembers a
// deleted stack for 90 days.
func (d *Deployer) Kept(ctx context.Context) ([]Resource, error) {
	var stacks []string
	in := &cloudformation.ListStacksInput{StackStatusFilter: []types.StackStatus{types.StackStatusDeleteComplete}}
	for {
		out, err := d.aws.ListStacks(ctx, in)
		if err != nil {
			return nil, d.fault("look for deleted stacks like", "cloudformation:ListStacks", err)
		}
		for _, s := range out.StackSummaries {
			if aws.ToString(s.StackName) == d.name {
				stacks = append(stacks, aws.ToString(s.StackId))
			}
		}
		if in.NextToken = out.NextToken; aws.ToString(in.NextToken) == "" {
			break
		}
	}
	var kept []Resource
	seen := make(map[string]bool)
	for _, id := range stacks {
		left, err := d.resources(ctx, id)
		if err != nil {
			return nil, err
		}
		for _, r := range left {
			if r.Status != string(types.ResourceStatusDeleteSkipped) || seen[r.PhysicalID] {
				continue
			}
			seen[r.PhysicalID] = true
			if there, err := d.exists(ctx, r); err != nil {
				return nil, err
			} else if there {
				kept = append(kept, r)
			}
		}
	}
	return kept, nil
}

// resources are the resources of a stack, by its id.
func (d *Deployer) resources(ctx context.Context, stack string) (all []Resource, _ error) {
	in := &cloudformation.ListStackResourcesInput{StackName: &stack}
	for {
		out, err := d.aws.ListStackResources(ctx, in)
		if isMissing(err) {
			return nil, nil
		}
		if err != nil {
			return nil, d.fault("list the resources of", "cloudformation:ListStackResources", err)
		}
		for _, r := range out.StackResourceSummaries {
			all = append(all, Resource{
				ID: aws.ToString(r.LogicalResourceId), Type: aws.ToString(r.ResourceType), PhysicalID: aws.ToString(r.PhysicalResourceId),
				Status: string(r.ResourceStatus),
			})
		}
		if in.NextToken = out.NextToken; aws.ToString(in.NextToken) == "" {
			return all, nil
		}
	}
}

// exists reports whether a resource that was kept is still there. A key that is to be deleted is not.
func (d *Deployer) exists(ctx context.Context, r Resource) (bool, error) {
	switch r.Type {
	case typeLogs:
		out, err := d.aws.DescribeLogGroups(ctx, &cloudwatchlogs.DescribeLogGroupsInput{LogGroupNamePrefix: &r.PhysicalID})
		if err != nil {
			return false, d.faultOn("look for the log group "+r.PhysicalID, "logs:DescribeLogGroups", "", err)
		}
		for _, g := range out.LogGroups {
			if aws.ToString(g.LogGroupName) == r.PhysicalID {
				return true, nil
			}
		}
		return false, nil
	case typeKey:
		out, err := d.aws.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &r.PhysicalID})
		if awsanswer.Of(err).Class == awsanswer.NotFound || awsanswer.Of(err).Code == "NotFoundException" {
			return false, nil
		}
		if err != nil {
			return false, d.faultOn("look for the KMS key "+r.PhysicalID, "kms:DescribeKey", "", err)
		}
		return out.KeyMetadata != nil && out.KeyMetadata.KeyState == kmstypes.KeyStateEnabled, nil
	}
	return true, nil // a bucket: to look costs a permission more
}

// adopt returns the stack as a new one can be made beside what an earlier one of the name left. CloudFormation takes the log groups over by
// their names. It cannot do so with a key, so the stack uses that without having it, and says so in its record.
func (d *Deployer) adopt(ctx context.Context, s *account.Stack) (_ *account.Stack, taken []Resource, adopted []string, _ error) {
	kept, err := d.Kept(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	in := s.Inputs
	for _, r := range kept {
		_, wanted := s.Resource(r.ID)
		switch {
		case !wanted:
		case r.Type == typeLogs:
			taken = append(taken, r)
		case r.Type == typeKey && in.Key == "":
			out, err := d.aws.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &r.PhysicalID})
			if err != nil || out.KeyMetadata == nil {
				return nil, nil, nil, d.faultOn("look for the KMS key "+r.PhysicalID, "kms:DescribeKey", "", err)
			}
			in.Key = aws.ToString(out.KeyMetadata.Arn)
			taken, adopted = append(taken, r), append(adopted, in.Key)
		}
	}
	if in.Key != s.Inputs.Key {
		if s, err = account.New(in); err != nil {
			return nil, nil, nil, err
		}
	}
	return s, taken, adopted, nil
}
