package deploy

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// Drift is how the deployed resources differ from the deployed template.
type Drift struct {
	Resources []ResourceDrift `json:"resources"`
	// Unchecked are the resources whose types CloudFormation cannot compare, or which it has not.
	Unchecked  []Resource `json:"unchecked"`
	Incomplete string     `json:"incomplete,omitempty"` // why CloudFormation could not compare all that it can
}

// ResourceDrift is a resource that somebody has changed or deleted outside CloudFormation.
type ResourceDrift struct {
	Resource
	Differences []Difference `json:"differences,omitempty"`
}

// Difference is a property that differs. Its values are in JSON.
type Difference struct {
	Property string `json:"property"` // a path: "/RetentionInDays"
	Kind     string `json:"kind"`     // ADD, REMOVE, NOT_EQUAL
	Expected string `json:"expected"`
	Actual   string `json:"actual"`
}

// Drift has CloudFormation compare the resources with the template, which may take minutes.
func (d *Deployer) Drift(ctx context.Context) (Drift, error) {
	var drift Drift
	s, err := d.Look(ctx)
	if err == nil {
		err = d.usable(s)
	}
	if err != nil {
		return drift, err
	}
	begun, err := d.aws.DetectStackDrift(ctx, &cloudformation.DetectStackDriftInput{StackName: &s.ID})
	if err != nil {
		return drift, d.fault("detect the drift of", "cloudformation:DetectStackDrift", err)
	}
	for {
		out, err := d.aws.DescribeStackDriftDetectionStatus(ctx, &cloudformation.DescribeStackDriftDetectionStatusInput{
			StackDriftDetectionId: begun.StackDriftDetectionId,
		})
		if err != nil {
			return drift, d.fault("detect the drift of", "cloudformation:DescribeStackDriftDetectionStatus", err)
		}
		if out.DetectionStatus == types.StackDriftDetectionStatusDetectionFailed { // of one resource at least; the others are compared
			if drift.Incomplete = aws.ToString(out.DetectionStatusReason); drift.Incomplete == "" {
				drift.Incomplete = "CloudFormation gives no reason"
			}
		}
		if out.DetectionStatus != types.StackDriftDetectionStatusDetectionInProgress {
			break
		}
		if err := d.Pause(ctx, pollStack); err != nil {
			return drift, fail.New(fail.Other, "wait for the drift of "+d.stack(), err, "run the command again")
		}
	}
	if err := d.readDrift(ctx, s.ID, &drift); err != nil {
		return drift, err
	}
	all, err := d.resources(ctx, s.ID)
	for _, r := range all {
		if r.drift == types.StackResourceDriftStatusNotChecked {
			drift.Unchecked = append(drift.Unchecked, r)
		}
	}
	return drift, err
}

// readDrift reads what differs.
func (d *Deployer) readDrift(ctx context.Context, stack string, drift *Drift) error {
	in := &cloudformation.DescribeStackResourceDriftsInput{StackName: &stack, StackResourceDriftStatusFilters: []types.StackResourceDriftStatus{
		types.StackResourceDriftStatusModified, types.StackResourceDriftStatusDeleted,
	}}
	for {
		out, err := d.aws.DescribeStackResourceDrifts(ctx, in)
		if err != nil {
			return d.fault("read the drift of", "cloudformation:DescribeStackResourceDrifts", err)
		}
		for _, r := range out.StackResourceDrifts {
			one := ResourceDrift{Resource: Resource{
				ID: aws.ToString(r.LogicalResourceId), Type: aws.ToString(r.ResourceType), PhysicalID: aws.ToString(r.PhysicalResourceId),
				Status: string(r.StackResourceDriftStatus),
			}}
			for _, p := range r.PropertyDifferences {
				one.Differences = append(one.Differences, Difference{
					aws.ToString(p.PropertyPath), string(p.DifferenceType), aws.ToString(p.ExpectedValue), aws.ToString(p.ActualValue),
				})
			}
			drift.Resources = append(drift.Resources, one)
		}
		if in.NextToken = out.NextToken; aws.ToString(in.NextToken) == "" {
			return nil
		}
	}
}
