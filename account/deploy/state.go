package deploy

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/sleep"
)

// Deployer deploys the stack of a name in a region. Its methods are not for several goroutines at once.
type Deployer struct {
	aws  Clients
	name string
	// Version is the program's, for the record in the template.
	Version string
	// Pause waits between two looks at what CloudFormation does.
	Pause func(context.Context, time.Duration) error
}

// New returns the deployer of the stack with a name.
func New(clients Clients, name string) *Deployer {
	return &Deployer{aws: clients, name: name, Pause: sleep.For}
}

// Phase is what can be done with a stack.
type Phase uint8

// The phases.
const (
	None      Phase = iota // there is no such stack
	Review                 // it has a change set and nothing else yet
	Ready                  // it can be changed
	Busy                   // CloudFormation is at work on it
	Unmade                 // its creation failed: it can only be deleted
	Stuck                  // a change failed, and so did its rollback
	Undeleted              // its deletion failed
	Unknown                // a status that this program does not know, or cannot do anything about
)

// phases has each status of CloudFormation's.
var phases = map[types.StackStatus]Phase{
	types.StackStatusReviewInProgress: Review,

	types.StackStatusCreateComplete:         Ready,
	types.StackStatusUpdateComplete:         Ready,
	types.StackStatusUpdateRollbackComplete: Ready,
	types.StackStatusImportComplete:         Ready,
	types.StackStatusImportRollbackComplete: Ready,

	types.StackStatusCreateInProgress:                        Busy,
	types.StackStatusRollbackInProgress:                      Busy,
	types.StackStatusDeleteInProgress:                        Busy,
	types.StackStatusUpdateInProgress:                        Busy,
	types.StackStatusUpdateCompleteCleanupInProgress:         Busy,
	types.StackStatusUpdateRollbackInProgress:                Busy,
	types.StackStatusUpdateRollbackCompleteCleanupInProgress: Busy,
	types.StackStatusImportInProgress:                        Busy,
	types.StackStatusImportRollbackInProgress:                Busy,

	types.StackStatusCreateFailed:     Unmade,
	types.StackStatusRollbackFailed:   Unmade,
	types.StackStatusRollbackComplete: Unmade,

	types.StackStatusUpdateRollbackFailed: Stuck,
	types.StackStatusDeleteFailed:         Undeleted,
	types.StackStatusDeleteComplete:       None,

	// Only who forbade the rollback knows what to do now; this program never forbids it.
	types.StackStatusUpdateFailed:         Unknown,
	types.StackStatusImportRollbackFailed: Unknown,
}

func phaseOf(status types.StackStatus) Phase {
	if p, ok := phases[status]; ok {
		return p
	}
	return Unknown
}

// State is a stack as it is deployed.
type State struct {
	Phase  Phase
	Status string // CloudFormation's word; empty: none
	Reason string // CloudFormation's, may be empty
	ID     string // ARN

	// Own says that this program has made the stack, which is what the rest of State was read from. A stack in Review has no template yet.
	Own     bool
	Version string // of the program that made the template
	Inputs  account.Inputs
	Adopted []string

	Parameters map[string]string
	Outputs    Outputs
	Protected  bool // termination protection is on

	template []byte
	unread   error // why the record in the template says nothing: a newer program made it
}

// Outputs are a stack's outputs by name.
type Outputs map[string]string

// Look returns what is deployed.
func (d *Deployer) Look(ctx context.Context) (State, error) { return d.look(ctx, d.name) }

// look is Look at a name or an id.
func (d *Deployer) look(ctx context.Context, id string) (State, error) {
	s, err := d.describe(ctx, id)
	if err != nil || s.Phase == None || s.Phase == Review {
		return s, err
	}
	out, err := d.aws.GetTemplate(ctx, &cloudformation.GetTemplateInput{StackName: &s.ID, TemplateStage: types.TemplateStageOriginal})
	if awsanswer.Of(err).Code == codeInvalid { // it has none
		return s, nil
	}
	if err != nil {
		return s, d.fault("read the template of", "cloudformation:GetTemplate", err)
	}
	s.template = []byte(aws.ToString(out.TemplateBody))
	r, ok, err := account.ReadRecord(s.template)
	s.Own, s.Version, s.Inputs, s.Adopted, s.unread = ok, r.Version, r.Inputs, r.Adopted, err
	return s, nil
}

// errNameless keeps an empty name from CloudFormation, which answers with all stacks: the first of them would be the one to change.
var errNameless = errors.New("its name is empty")

// describe is look without the template. Whatever the Deployer does to a stack begins with it.
func (d *Deployer) describe(ctx context.Context, id string) (State, error) {
	if id == "" {
		return State{}, fail.New(fail.Usage, "look at a stack", errNameless, "give its name (--name)")
	}
	out, err := d.aws.DescribeStacks(ctx, &cloudformation.DescribeStacksInput{StackName: &id})
	if isMissing(err) || err == nil && len(out.Stacks) == 0 {
		return State{}, nil
	}
	if err != nil {
		return State{}, d.fault("look at", "cloudformation:DescribeStacks", err)
	}
	stack := out.Stacks[0]
	s := State{
		Phase: phaseOf(stack.StackStatus), Status: string(stack.StackStatus), Reason: aws.ToString(stack.StackStatusReason),
		ID: aws.ToString(stack.StackId), Protected: aws.ToBool(stack.EnableTerminationProtection),
		Parameters: make(map[string]string), Outputs: make(Outputs),
	}
	for _, p := range stack.Parameters {
		s.Parameters[aws.ToString(p.ParameterKey)] = aws.ToString(p.ParameterValue)
	}
	for _, o := range stack.Outputs {
		s.Outputs[aws.ToString(o.OutputKey)] = aws.ToString(o.OutputValue)
	}
	return s, nil
}

// codeInvalid is CloudFormation's code for whatever is wrong with a call.
const codeInvalid = "ValidationError"

// isMissing reports CloudFormation's answer for a stack that does not exist, for which it has no code of its own.
func isMissing(err error) bool {
	answer := awsanswer.Of(err)
	return answer.Code == codeInvalid && strings.Contains(answer.Message, "does not exist")
}

// usable returns why the stack must not be touched, or nil.
func (d *Deployer) usable(s State) error {
	op := "use " + d.stack()
	switch {
	case s.Phase == None || s.Phase == Review:
		return nil
	case !s.Own:
		return fail.New(fail.Usage, op, errNotOwn, "choose another name (--name)")
	case s.unread != nil:
		return fail.New(fail.Usage, op, s.unread, "install bastion "+s.Version+" or newer")
	}
	return nil
}

// stack names the stack in messages.
func (d *Deployer) stack() string { return "stack " + d.name + " in " + d.aws.Region }
