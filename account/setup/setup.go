package setup

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/account/deploy"
	"github.com/bastion-ssm/bastion/account/image"
	"github.com/bastion-ssm/bastion/account/price"
	"github.com/bastion-ssm/bastion/account/survey"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/targets"
)

// Person is who decides, and who is told.
type Person interface {
	// Answer answers a question. Its error ends the set-up: an answer that nobody can give needs a flag.
	Answer(context.Context, survey.Question) (string, error)
	// Step is what the set-up waits for from now on.
	Step(text string)
	// Event is a step of CloudFormation's.
	Event(deploy.Event)
}

// Setup sets an account up, in one region. Its fields are given before its first method is called.
type Setup struct {
	Survey   survey.Clients
	Stacks   *deploy.Deployer // of the stack that Answers.Inputs names
	Registry *Registry
	Person   Person
	Answers  survey.Answers

	// Binaries are bastiond's, by architecture; Version is theirs, and the program's.
	Binaries map[string][]byte
	Version  string
	Price    price.Options // for the plan's estimate of the cost
}

// Plan is what a set-up will do.
type Plan struct {
	account.Place
	Stack    *account.Stack
	Choice   survey.Choice // how the inputs came about; for a stack that exists, only what has changed around it
	Images   []Image       // nil: somebody else pushes them
	Exists   bool          // the stack exists and is ready: Changes are against it
	Changes  []deploy.Change
	Adopted  []deploy.Resource // left by an earlier stack of the name
	Findings []survey.Finding

	preview    deploy.Preview
	price      price.Options
	repository string            // of the images, if the stack exists
	deployed   map[string]string // the stack's parameters, if it exists
	ingress    []account.Ingress // the stack's rules in groups of others, if it exists
	people     []admission       // of the stack, if it exists
}

// Result is what a set-up has made.
type Result struct {
	Outputs  deploy.Outputs
	Settings Settings
}

// Look finds out what is there and what to do. It asks at most two questions, and changes nothing: what an earlier set-up has begun, it
// only follows to its end.
func (s *Setup) Look(ctx context.Context) (*Plan, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	s.Person.Step("looking at the account")
	var given []string
	if id := s.Answers.Inputs.SecurityGroup; id != "" {
		given = append(given, id)
	}
	landscape, err := survey.Look(ctx, s.Survey, given...)
	if err != nil {
		return nil, err
	}
	state, err := s.Stacks.Look(ctx)
	if err != nil {
		return nil, err
	}
	if state.Phase == deploy.Busy {
		s.Person.Step("following what CloudFormation is at work on")
		if state, err = s.Stacks.Follow(ctx, s.Person.Event); err != nil {
			return nil, err
		}
	}
	if state.Phase == deploy.Stuck { // a survey would choose for a stack that has its inputs
		return nil, fail.New(fail.Usage, "set up the stack "+s.Answers.Inputs.Name, fmt.Errorf("it is in the state %s", state.Status),
			"continue the rollback by bastion upgrade, and run the command again")
	}
	plan := &Plan{
		Place:    account.Place{Partition: landscape.Partition, Region: landscape.Region, Account: landscape.Account},
		Findings: landscape.Findings, Exists: state.Phase == deploy.Ready, price: s.Price,
	}
	var inputs account.Inputs
	if plan.Exists {
		if inputs, err = s.standing(plan, landscape, state); err != nil {
			return nil, err
		}
	} else {
		if plan.Choice, err = s.choose(ctx, landscape); err != nil {
			return nil, err
		}
		inputs = plan.Choice.Inputs
		inputs.PublicAddress = plan.Choice.PublicAddress
	}
	return plan, s.complete(plan, inputs)
}

// check looks for faults of the answers, before anybody waits or is asked. Memory alone is that of a stack whose CPU units are not known yet.
func (s *Setup) check() error {
	in := s.Answers.Inputs
	if in.CPU == 0 {
		in.Memory = 0
	}
	if err := in.Defaults().Validate(); err != nil {
		return account.Wrong(err)
	}
	return nil
}

// RepositoryOutput is the name of the stack's output with the repository of the images.
const RepositoryOutput = "RepositoryUri"

// complete makes a plan's images and its stack.
func (s *Setup) complete(plan *Plan, inputs account.Inputs) (err error) {
	inputs = inputs.Defaults()
	if inputs.Classes, err = s.Answers.OfClasses(inputs.Classes); err != nil {
		return err
	}
	if s.Binaries != nil {
		if plan.Images, err = Images(s.Binaries, s.Version, inputs.Classes); err != nil {
			return err
		}
	}
	plan.Stack, err = account.New(inputs)
	plan.Choice.Inputs = inputs
	return err
}

// choose chooses the inputs of a new stack, with the answers of the person.
func (s *Setup) choose(ctx context.Context, l survey.Landscape) (survey.Choice, error) {
	for {
		choice, err := survey.Choose(l, s.Answers)
		if err != nil {
			return choice, err
		}
		asksVPC := len(choice.Questions) > 0 && choice.Questions[0].Flag == survey.FlagVPC
		if id := s.Answers.Inputs.SecurityGroup; id != "" && !asksVPC {
			if err := l.CheckGroup(id, choice.VPC.ID); err != nil {
				return choice, err
			}
		}
		if len(choice.Questions) == 0 {
			return choice, nil
		}
		q := choice.Questions[0]
		answer, err := s.Person.Answer(ctx, q)
		if err != nil {
			return choice, err
		}
		if err := s.Answers.Answer(q.Flag, answer); err != nil {
			return choice, err
		}
	}
}

// merged is base with what is set in over.
func merged(base, over account.Inputs) account.Inputs {
	to, from := reflect.ValueOf(&base).Elem(), reflect.ValueOf(over)
	for i := range from.NumField() {
		if !from.Field(i).IsZero() {
			to.Field(i).Set(from.Field(i))
		}
	}
	return base
}

func foreign(name string) error {
	return fail.New(fail.Usage, "set up the stack "+name, errors.New("there is a stack of this name that bastion has not made"),
		"choose another name: --name NAME")
}

// parameters are the stack's parameters that are not in its inputs: which image a class has. Without images it stays. A new stack has no
// tasks of services: there is no image yet in its repository.
func (p *Plan) parameters() map[string]string {
	parameters := make(map[string]string)
	for _, c := range p.Stack.Inputs.Classes {
		if tag, ok := p.deployed[account.ImageParameter(c.Name)]; ok {
			parameters[account.ImageParameter(c.Name)] = tag
		}
	}
	for _, i := range p.Images {
		parameters[account.ImageParameter(i.Class)] = i.Tag
	}
	if !p.Exists {
		for _, c := range p.Stack.Inputs.SharedClasses() {
			parameters[account.TasksParameter(c.Name)] = "0"
		}
	}
	return parameters
}

// Preview asks CloudFormation what the plan would change. It makes a change set, which Apply executes and Discard removes. What is left
// of a creation that failed is removed first.
func (s *Setup) Preview(ctx context.Context, p *Plan) error {
	s.Person.Step("asking CloudFormation what will change")
	if _, err := s.Stacks.Settle(ctx, s.Person.Event); err != nil {
		return err
	}
	preview, err := s.Stacks.Preview(ctx, p.Stack, p.parameters())
	p.preview, p.Changes, p.Adopted = preview, preview.Changes, preview.Adopted
	return err
}

// Discard takes a preview back.
func (s *Setup) Discard(ctx context.Context, p *Plan) error { return s.Stacks.Discard(ctx, p.preview) }

// Apply deploys what Preview has shown, and pushes the images. Interrupted, it goes on when a new Look, Preview and Apply are made. A stack
// that stands gets its images first: whoever starts a bastion meanwhile needs one that is there.
func (s *Setup) Apply(ctx context.Context, p *Plan, progress func(image.Progress)) (Result, error) {
	if p.Exists {
		if err := s.push(ctx, p, p.repository, progress); err != nil {
			return Result{}, err
		}
	}
	s.Person.Step("deploying the stack")
	outputs, err := s.Stacks.Apply(ctx, p.preview, s.Person.Event)
	if err == nil && !p.Exists {
		err = s.push(ctx, p, outputs[RepositoryOutput], progress)
		if err == nil && len(p.Images) > 0 && len(p.Stack.Inputs.SharedClasses()) > 0 {
			err = s.share(ctx, p)
		}
	}
	if err != nil {
		return Result{}, err
	}
	return Result{Outputs: outputs, Settings: p.settings(outputs)}, nil
}

// share gives the services of a new stack their tasks, once the images are there.
func (s *Setup) share(ctx context.Context, p *Plan) error {
	s.Person.Step("starting the shared bastions")
	made := *p
	made.Exists = true // its parameters are those of a stack that stands
	preview, err := s.Stacks.Preview(ctx, p.preview.Stack, made.parameters())
	if err != nil {
		return err
	}
	_, err = s.Stacks.Apply(ctx, preview, s.Person.Event)
	return err
}

func (s *Setup) push(ctx context.Context, p *Plan, repository string, progress func(image.Progress)) error {
	if len(p.Images) == 0 {
		return nil
	}
	s.Person.Step("pushing the image")
	return s.Registry.Push(ctx, p.Images, repository, progress)
}

// settings are those of the configuration file. With several classes, they are the first one's.
func (p *Plan) settings(outputs deploy.Outputs) Settings {
	in := p.Stack.Inputs
	s := Settings{
		Account: p.Account, Region: p.Region, Cluster: outputs["Cluster"],
		TaskDefinition: outputs[account.TaskDefinitionOutput(in.Classes[0].Name)],
		Subnets:        in.Subnets, SecurityGroup: outputs["SecurityGroupId"], PublicAddress: in.PublicAddress,
	}
	if in.Classes[0].Shared > 0 {
		s.SharedService = outputs[account.ServiceOutput(in.Classes[0].Name)]
	}
	for _, d := range p.Choice.Databases {
		if kind, name, ok := strings.Cut(d.Name, ":"); ok && targets.CheckName(name) == nil {
			if s.Targets == nil {
				s.Targets = make(map[string]string)
			}
			if _, taken := s.Targets[name]; taken { // a database and a cache of one name
				name += "-" + kind
			}
			s.Targets[name] = d.Name
		}
	}
	return s
}
