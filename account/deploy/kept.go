package deploy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// Resource is a resource of a stack.
type Resource struct {
	ID         string `json:"resource"` // logical
	Type       string `json:"type"`
	PhysicalID string `json:"physical_id"`
	Status     string `json:"status,omitempty"` // CloudFormation's

	drift types.StackResourceDriftStatus
}

// Types of what outlives its stack.
const (
	typeLogs   = "AWS::Logs::LogGroup"
	typeKey    = "AWS::KMS::Key"
	typeBucket = "AWS::S3::Bucket"
)

// isAudit reports whether a resource is one that the audit is in. What else a stack leaves belongs to one of these.
func (r Resource) isAudit() bool {
	return r.Type == typeLogs || r.Type == typeKey || r.Type == typeBucket
}

// Kept returns what earlier stacks of the name left when they were deleted, and what is still there of it. CloudFormation remembers a
// deleted stack for 90 days.
func (d *Deployer) Kept(ctx context.Context) ([]Resource, error) {
	var stacks []types.StackSummary
	in := &cloudformation.ListStacksInput{StackStatusFilter: []types.StackStatus{types.StackStatusDeleteComplete}}
	for {
		out, err := d.aws.ListStacks(ctx, in)
		if err != nil {
			return nil, d.fault("look for deleted stacks like", "cloudformation:ListStacks", err)
		}
		for _, s := range out.StackSummaries {
			if aws.ToString(s.StackName) == d.name {
				stacks = append(stacks, s)
			}
		}
		if in.NextToken = out.NextToken; aws.ToString(in.NextToken) == "" {
			break
		}
	}
	slices.SortStableFunc(stacks, func(a, b types.StackSummary) int { // the newest first
		return aws.ToTime(b.DeletionTime).Compare(aws.ToTime(a.DeletionTime))
	})
	var seen, kept []Resource
	for _, s := range stacks {
		left, err := d.leftBy(ctx, aws.ToString(s.StackId))
		if err != nil {
			return nil, err
		}
		for _, r := range left {
			if slices.ContainsFunc(seen, r.isSame) {
				continue
			}
			seen = append(seen, r)
			if there, err := d.exists(ctx, r); err != nil {
				return nil, err
			} else if there {
				kept = append(kept, r)
			}
		}
	}
	return kept, nil
}

// leftBy is what a deleted stack left, or used without having it. A stack that bastion did not make left nothing of bastion's.
func (d *Deployer) leftBy(ctx context.Context, stack string) (left []Resource, _ error) {
	out, err := d.aws.GetTemplate(ctx, &cloudformation.GetTemplateInput{StackName: &stack, TemplateStage: types.TemplateStageOriginal})
	if awsanswer.Of(err).Code == codeInvalid { // one that never was more than a preview
		return nil, nil
	}
	if err != nil {
		return nil, d.fault("read the template of a deleted", "cloudformation:GetTemplate", err)
	}
	r, ok, _ := account.ReadRecord([]byte(aws.ToString(out.TemplateBody))) // a newer program's stack is one of bastion's too
	if !ok {
		return nil, nil
	}
	in := &cloudformation.DescribeStackEventsInput{StackName: &stack}
	for {
		out, err := d.aws.DescribeStackEvents(ctx, in)
		if err != nil {
			return nil, d.fault("read the events of a deleted", "cloudformation:DescribeStackEvents", err)
		}
		for _, e := range out.StackEvents {
			one := Resource{
				ID: aws.ToString(e.LogicalResourceId), Type: aws.ToString(e.ResourceType),
				PhysicalID: aws.ToString(e.PhysicalResourceId),
			}
			if e.ResourceStatus == types.ResourceStatusDeleteSkipped && one.PhysicalID != "" && one.isAudit() {
				left = append(left, one)
			}
		}
		if in.NextToken = out.NextToken; aws.ToString(in.NextToken) == "" {
			break
		}
	}
	return append(left, adoptedKeys(r.Adopted)...), nil
}

// adoptedKeys are the keys in the list of what a stack has adopted. The log groups in it are resources of the stack.
func adoptedKeys(adopted []string) (keys []Resource) {
	for _, name := range adopted {
		if strings.HasPrefix(name, "arn:") {
			keys = append(keys, Resource{ID: "Key", Type: typeKey, PhysicalID: name})
		}
	}
	return keys
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
			one := Resource{
				ID: aws.ToString(r.LogicalResourceId), Type: aws.ToString(r.ResourceType), PhysicalID: aws.ToString(r.PhysicalResourceId),
				Status: string(r.ResourceStatus),
			}
			if r.DriftInformation != nil {
				one.drift = r.DriftInformation.StackResourceDriftStatus
			}
			all = append(all, one)
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
		switch answer := awsanswer.Of(err); {
		case answer.Class == awsanswer.NotFound, answer.Code == "NotFoundException":
			return false, nil
		case answer.Class == awsanswer.Denied: // a key that was finally deleted has no tag by which the policy allows the call
			return false, nil
		}
		if err != nil {
			return false, d.faultOn("look for the KMS key "+r.PhysicalID, "kms:DescribeKey", "", err)
		}
		return out.KeyMetadata != nil && !ending(out.KeyMetadata.KeyState), nil
	}
	return true, nil // a bucket: to look costs a permission more
}

// ending reports whether a key is about to be deleted. One that is disabled is not: somebody may enable it again.
func ending(state kmstypes.KeyState) bool {
	return state == kmstypes.KeyStatePendingDeletion || state == kmstypes.KeyStatePendingReplicaDeletion
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
			taken, adopted = append(taken, r), append(adopted, r.PhysicalID)
		case r.Type == typeKey && in.Key == "":
			out, err := d.aws.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &r.PhysicalID})
			if err != nil || out.KeyMetadata == nil {
				return nil, nil, nil, d.faultOn("look for the KMS key "+r.PhysicalID, "kms:DescribeKey", "", err)
			}
			in.Key = aws.ToString(out.KeyMetadata.Arn)
			if out.KeyMetadata.KeyState != kmstypes.KeyStateEnabled {
				return nil, nil, nil, fail.New(fail.Usage, "use the KMS key that an earlier stack of the name has left: "+in.Key,
					fmt.Errorf("its state is %s", out.KeyMetadata.KeyState),
					"enable it (aws kms enable-key --key-id "+r.PhysicalID+"), or name another by --kms-key")
			}
			taken, adopted = append(taken, r), append(adopted, in.Key)
		}
	}
	slices.Sort(adopted) // the same template each time
	if in.Key != s.Inputs.Key {
		if s, err = account.New(in); err != nil {
			return nil, nil, nil, err
		}
	}
	return s, taken, adopted, nil
}
