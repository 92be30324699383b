package deploy

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// maxTemplate is the most bytes of a template that a call takes. More would have to be in S3 first.
const maxTemplate = 51200

// Change is what a change set does to a resource.
type Change struct {
	Action      string   `json:"action"` // Add, Modify, Remove, Import, Dynamic
	Resource    string   `json:"resource"`
	Type        string   `json:"type"`
	PhysicalID  string   `json:"physical_id,omitempty"` // empty for what is added
	Replacement string   `json:"replacement,omitempty"` // True, Conditional, False; of what is modified
	Properties  []string `json:"properties,omitempty"`  // that cause it, as far as CloudFormation says
}

// Preview is what Apply will do.
type Preview struct {
	Stack   *account.Stack
	Changes []Change
	Empty   bool       // nothing changes, and there is no change set
	New     bool       // the stack does not exist yet
	Adopted []Resource // what an earlier stack of the name has left, and this one takes over

	changeSet string // ARN
	stackID   string
	made      bool // this preview made the stack, which has nothing in it; so did the one that was interrupted before it
}

// pollChangeSet and the like are the pauses between two looks at what CloudFormation does.
const (
	pollChangeSet = 2 * time.Second
	pollStack     = 3 * time.Second
)

// unsettled are the hints for stacks that cannot be changed as they are.
var unsettled = map[Phase]string{
	Busy:      "wait until CloudFormation has ended its work, and run the command again",
	Unmade:    "bastion init removes what is left of it, and makes it anew",
	Undeleted: "bastion destroy tries again to remove it",
	Stuck:     "bastion upgrade continues the rollback",
	Unknown:   byHand,
}

// byHand is the hint for a stack about which this program can do nothing.
const byHand = "see the stack's events in the CloudFormation console, and bring it to a complete state or delete it there"

// Preview shows what would change if the stack became s, by a change set that nothing but Apply executes. params are values of parameters;
// one that is not in it has the default of s, or else the deployed value. A stack that Settle would have to work on first is an error.
func (d *Deployer) Preview(ctx context.Context, s *account.Stack, params map[string]string) (Preview, error) {
	state, err := d.Look(ctx)
	if err == nil {
		err = d.usable(state)
	}
	if err != nil {
		return Preview{}, err
	}
	p := Preview{Stack: s, New: state.Phase == None || state.Phase == Review, made: state.Phase == None}
	switch state.Phase {
	case None, Review, Ready:
	default:
		return p, fail.New(fail.Other, "preview "+d.stack(), fmt.Errorf("it is in the state %s", state.Status), unsettled[state.Phase])
	}
	adopted := state.Adopted
	if p.New {
		if p.Stack, p.Adopted, adopted, err = d.adopt(ctx, s); err != nil {
			return p, err
		}
	}
	in, err := d.changeSet(p, state, adopted, params)
	if err != nil {
		return p, err
	}
	out, found, err := d.ensureChangeSet(ctx, in, state)
	if isNoChange(err) {
		p.Empty = true
		return p, nil
	}
	if err != nil {
		return p, err
	}
	p.changeSet, p.stackID = aws.ToString(out.ChangeSetId), aws.ToString(out.StackId)
	p.made = p.made || found && state.Phase == Review
	err = d.read(ctx, &p, out)
	return p, err
}

// changeSet is the change set that makes the stack what the preview says.
func (d *Deployer) changeSet(p Preview, state State, adopted []string, params map[string]string) (
	*cloudformation.CreateChangeSetInput, error,
) {
	op := "preview " + d.stack()
	template, err := p.Stack.Deployable(d.Version, adopted...)
	if err != nil {
		return nil, fail.New(fail.Other, op, err, "")
	}
	if len(template) > maxTemplate {
		return nil, d.tooLarge(op, len(template), p.Stack.Inputs)
	}
	in := &cloudformation.CreateChangeSetInput{
		StackName: &d.name, ChangeSetType: types.ChangeSetTypeUpdate, TemplateBody: aws.String(string(template)),
		Capabilities: []types.Capability{types.CapabilityCapabilityIam}, Description: aws.String("bastion " + d.Version),
		ClientToken: aws.String("bastion-" + rand.Text()),
	}
	if p.New {
		in.ChangeSetType = types.ChangeSetTypeCreate
		if len(p.Adopted) > 0 {
			in.ImportExistingResources = aws.Bool(true)
		}
	}
	digest := sha256.New()
	_, _ = fmt.Fprintf(digest, "%s\x00%s", in.ChangeSetType, template)
	for _, q := range p.Stack.Parameters {
		parameter := types.Parameter{ParameterKey: aws.String(q.Name)}
		value, given := params[q.Name]
		_, deployed := state.Parameters[q.Name]
		switch {
		case given:
			parameter.ParameterValue = &value
		case q.Default != "":
			parameter.ParameterValue = aws.String(q.Default)
		case deployed:
			parameter.UsePreviousValue = aws.Bool(true)
		default:
			return nil, fail.New(fail.Usage, op, fmt.Errorf("the parameter %s (%s) has no value", q.Name, q.Description),
				"choose it by an option of bastion init")
		}
		in.Parameters = append(in.Parameters, parameter)
		_, _ = fmt.Fprintf(digest, "\x00%s=%s,%v", q.Name, aws.ToString(parameter.ParameterValue), deployed)
	}
	// The same change has the same name, so that an interrupted preview is found again.
	in.ChangeSetName = aws.String(fmt.Sprintf("bastion-%x", digest.Sum(nil)[:12]))
	return in, nil
}

// tooLarge is the error of a stack whose template does not fit into a call: one with many classes, or with many rules for its tasks in
// security groups of others.
func (d *Deployer) tooLarge(op string, size int, in account.Inputs) error {
	next := "divide the classes between stacks of different names (--name)"
	if len(in.Ingress) > 0 && len(in.Classes) == 1 {
		next = "add the rules to those security groups yourself (--change-security-groups no)"
	}
	return fail.New(fail.Usage, op, fmt.Errorf("its template has %d bytes with %d classes of bastions and %d rules in other security groups, and "+
		"CloudFormation takes %d", size, len(in.Classes), len(in.Ingress), maxTemplate), next)
}

// errNoChange is the end of a change set that would change nothing.
var errNoChange = errors.New("nothing changes")

func isNoChange(err error) bool {
	return errors.Is(err, errNoChange) || saysNoChange(awsanswer.Of(err).Message)
}

func saysNoChange(reason string) bool {
	return strings.Contains(reason, "didn't contain changes") || strings.Contains(reason, "No updates are to be performed")
}

// ensureChangeSet returns the change set of in when CloudFormation has made it. One that an interrupted preview left is as good: it is
// found.
func (d *Deployer) ensureChangeSet(ctx context.Context, in *cloudformation.CreateChangeSetInput, state State) (
	_ *cloudformation.DescribeChangeSetOutput, found bool, _ error,
) {
	if state.Phase != None {
		out, err := d.aws.DescribeChangeSet(ctx, &cloudformation.DescribeChangeSetInput{StackName: &d.name, ChangeSetName: in.ChangeSetName})
		switch {
		case err == nil && pending(out.Status), err == nil && out.ExecutionStatus == types.ExecutionStatusAvailable:
			out, err := d.awaitChangeSet(ctx, aws.ToString(out.ChangeSetId))
			return out, true, err
		case err == nil: // it failed, or the stack has changed since
			_, err := d.aws.DeleteChangeSet(ctx, &cloudformation.DeleteChangeSetInput{ChangeSetName: out.ChangeSetId})
			if err != nil {
				return nil, false, d.fault("delete an old change set of", "cloudformation:DeleteChangeSet", err)
			}
		case awsanswer.ClassOf(err) == awsanswer.Denied || awsanswer.ClassOf(err) == awsanswer.None:
			return nil, false, d.fault("look for a change set of", "cloudformation:DescribeChangeSet", err)
		}
	}
	made, err := d.aws.CreateChangeSet(ctx, in)
	if err != nil {
		if isNoChange(err) {
			return nil, false, errNoChange
		}
		return nil, false, d.fault("create a change set of", "cloudformation:CreateChangeSet", err)
	}
	out, err := d.awaitChangeSet(ctx, aws.ToString(made.Id))
	return out, false, err
}

func pending(s types.ChangeSetStatus) bool {
	return s == types.ChangeSetStatusCreatePending || s == types.ChangeSetStatusCreateInProgress
}

// awaitChangeSet waits until a change set is made.
func (d *Deployer) awaitChangeSet(ctx context.Context, arn string) (*cloudformation.DescribeChangeSetOutput, error) {
	for {
		out, err := d.aws.DescribeChangeSet(ctx, &cloudformation.DescribeChangeSetInput{ChangeSetName: &arn})
		if err != nil {
			return nil, d.fault("look at the change set of", "cloudformation:DescribeChangeSet", err)
		}
		switch {
		case pending(out.Status):
			if err := d.Pause(ctx, pollChangeSet); err != nil {
				return nil, fail.New(fail.Other, "wait for the change set of "+d.stack(), err, again)
			}
		case out.Status == types.ChangeSetStatusCreateComplete:
			return out, nil
		case saysNoChange(aws.ToString(out.StatusReason)):
			// Whether it goes does not matter: it cannot be executed.
			_, _ = d.aws.DeleteChangeSet(ctx, &cloudformation.DeleteChangeSetInput{ChangeSetName: &arn})
			return nil, errNoChange
		default:
			return nil, d.failed("preview", &Failure{Status: string(out.Status), Reason: aws.ToString(out.StatusReason)}, "")
		}
	}
}

// read fills in the changes, from the first page on.
func (d *Deployer) read(ctx context.Context, p *Preview, out *cloudformation.DescribeChangeSetOutput) error {
	for {
		for _, c := range out.Changes {
			if c.ResourceChange != nil {
				p.Changes = append(p.Changes, changeOf(c.ResourceChange))
			}
		}
		if aws.ToString(out.NextToken) == "" {
			return nil
		}
		var err error
		out, err = d.aws.DescribeChangeSet(ctx, &cloudformation.DescribeChangeSetInput{ChangeSetName: &p.changeSet, NextToken: out.NextToken})
		if err != nil {
			return d.fault("look at the change set of", "cloudformation:DescribeChangeSet", err)
		}
	}
}

func changeOf(r *types.ResourceChange) Change {
	c := Change{
		Action: string(r.Action), Resource: aws.ToString(r.LogicalResourceId), Type: aws.ToString(r.ResourceType),
		PhysicalID: aws.ToString(r.PhysicalResourceId), Replacement: string(r.Replacement),
	}
	seen := make(map[string]bool)
	for _, detail := range r.Details {
		if detail.Target == nil {
			continue
		}
		name := aws.ToString(detail.Target.Name)
		if name == "" {
			name = string(detail.Target.Attribute) // Tags, Metadata
		}
		if !seen[name] {
			c.Properties = append(c.Properties, name)
		}
		seen[name] = true
	}
	return c
}

// Discard removes a preview that will not be applied, and the empty stack that it made. It does nothing for an empty one.
func (d *Deployer) Discard(ctx context.Context, p Preview) error {
	if p.changeSet == "" {
		return nil
	}
	_, err := d.aws.DeleteChangeSet(ctx, &cloudformation.DeleteChangeSetInput{ChangeSetName: &p.changeSet})
	if err != nil {
		return d.fault("delete the change set of", "cloudformation:DeleteChangeSet", err)
	}
	if !p.made {
		return nil
	}
	state, err := d.describe(ctx, p.stackID)
	if err != nil || state.Phase != Review {
		return err
	}
	if _, err := d.aws.DeleteStack(ctx, &cloudformation.DeleteStackInput{StackName: &p.stackID}); err != nil {
		return d.fault("delete the empty", "cloudformation:DeleteStack", err)
	}
	return nil
}
