package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/arn"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/account/survey"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/partition"
	"github.com/bastion-ssm/bastion/internal/pattern"
)

// policyOptions are the options of iam-policy that are no settings.
type policyOptions struct {
	inputs   account.Inputs
	answers  survey.Answers // with the people of the classes
	account  string
	classes  []string
	deployed bool // by the choices of the stack that is deployed
}

func (a *program) iamPolicyCommand() *cli.Command {
	var o policyOptions
	return &cli.Command{
		Name:    "iam-policy",
		Summary: "print the IAM policies of users, operators and whoever sets an account up",
		Args:    "[NAME]", MaxArgs: 1,
		About: []cli.Passage{
			cli.Terms(
				"user", "start and use bastions of one's own; the stack makes this one itself",
				"admin", "bastion gc, audit, cost, config share: see and stop everybody's bastions, enter none",
				"init", "what bastion init, plan, upgrade and destroy call",
				"resources, roles, network", "what CloudFormation calls for them, and nobody else: attach them beside init",
			),
			cli.Para(`Without NAME it lists them, without credentials. The policies are of the model that the stack comes from (docs/adr/0015).
				They name the account and region of your credentials; with --account no call is made.`),
		},
		Examples: []string{
			"bastion iam-policy admin > admin.json",
			"bastion iam-policy user-team --deployed",
			"bastion iam-policy user --account 111122223333 --region eu-central-1",
		},
		Flags: []cli.Option{
			cli.Text(&o.account, "ID", "account that the policies name (default: your credentials')", "account"),
			nameOption(&o.inputs.Name, "name of the stack (default: bastion)"),
			cli.Switch(&o.deployed, "by the choices of the deployed stack, in place of the options below", "deployed"),
			cli.Func("NAME", "class of bastions; repeatable", func(v string) error { o.classes = append(o.classes, v); return nil }, "class"),
			cli.Func("[CLASS=]ROLE,...", "roles whose people may use the bastions, as of init", o.answers.Admit, survey.FlagPeople),
			cli.Text(&o.inputs.Path, "PATH", "IAM path of the stack's roles and policies (default: /)", "iam-path"),
			cli.Text(&o.inputs.Boundary, "ARN", "permissions boundary of the stack's roles", "boundary"),
			cli.Text(&o.inputs.Key, "ARN", "existing KMS key", "kms-key"),
			cli.Switch(&o.inputs.ExecLogs, "with transcripts of ECS Exec", "exec-logs"),
			cli.Switch(&o.inputs.Endpoints.Make, "with VPC endpoints that the stack makes", "make-endpoints"),
		},
		Settings: invocation.CommonSettings,
		Complete: func([]string) []cli.Candidate {
			return []cli.Candidate{
				{Value: "user", Help: "of users"},
				{Value: "admin", Help: "of operators"},
				{Value: "init", Help: "of whoever sets up"},
				{Value: "resources", Help: "beside init"},
				{Value: "roles", Help: "beside init"},
				{Value: "network", Help: "beside init"},
			}
		},
		Run: a.With(func(ctx context.Context, s config.Settings, args []string) error {
			return a.iamPolicy(ctx, s, strings.Join(args, ""), o) // one at most
		}),
	}
}

// iamPolicy runs `bastion iam-policy`.
func (a *program) iamPolicy(ctx context.Context, s config.Settings, name string, o policyOptions) error {
	for _, c := range o.classes {
		o.inputs.Classes = append(o.inputs.Classes, account.Class{Name: c})
	}
	place := account.Place{Partition: "aws", Region: "REGION", Account: "ACCOUNT_ID"}
	if o.deployed {
		var err error
		if o.inputs, place, err = a.deployed(ctx, s, o); err != nil {
			return err
		}
	}
	in := o.inputs.Defaults()
	var err error
	if in.Classes, err = o.answers.OfClasses(in.Classes); err != nil {
		return err
	}
	stack, err := account.New(in)
	if err != nil {
		return fail.New(fail.Usage, "", err, "bastion iam-policy --help lists the options")
	}
	if !o.deployed && (name != "" || s.Output.Format == "json") { // the list has names alone
		if place, err = a.place(ctx, s, o.account); err != nil {
			return err
		}
	}
	documents, err := stack.Documents(place)
	if err != nil {
		return err
	}
	if name == "" {
		return a.listPolicies(s, documents)
	}
	i := slices.IndexFunc(documents, func(d account.Document) bool { return d.Name == name })
	if i < 0 {
		var names []string
		for _, d := range documents {
			names = append(names, d.Name)
		}
		return fail.Usagef(config.DidYouMean(name, names, "bastion iam-policy ", "there are "+strings.Join(names, ", ")),
			"unknown policy %q", name)
	}
	_, err = a.Out.Write(documents[i].JSON)
	return err
}

// deployed returns the choices of the deployed stack, and where it is.
func (a *program) deployed(ctx context.Context, s config.Settings, o policyOptions) (in account.Inputs, place account.Place, err error) {
	if o.account != "" || o.answers.People != nil || !reflect.DeepEqual(o.inputs, account.Inputs{Name: o.inputs.Name}) {
		return in, place, fail.Usagef("leave out the others, or --deployed", "--deployed takes the place of all options but --name")
	}
	d, err := a.openStack(ctx, s, stackOptions{cmp.Or(o.inputs.Name, account.Inputs{}.Defaults().Name)})
	if err != nil {
		return in, place, err
	}
	defer d.progress.Close()
	d.progress.Step("reading the stack " + d.name)
	state, err := d.ready(ctx)
	if err != nil {
		return in, place, err
	}
	d.progress.Idle()
	if !state.Own {
		return in, place, fail.New(fail.Usage, "read the stack "+d.name, errors.New("bastion has not made it"), "give the name of the stack: --name")
	}
	id, err := arn.Parse(state.ID)
	if err != nil {
		return in, place, fmt.Errorf("read the stack %s: %w", d.name, err)
	}
	return state.Inputs, account.Place{Partition: id.Partition, Region: id.Region, Account: id.AccountID}, nil
}

// listedPolicy is a policy in JSON output.
type listedPolicy struct {
	Name        string          `json:"name"`
	Description string          `json:"description"`
	Policy      json.RawMessage `json:"policy"`
}

// listPolicies prints the names of policies, in JSON with the policies.
func (a *program) listPolicies(s config.Settings, all []account.Document) error {
	if s.Output.Format == "json" {
		out := make([]listedPolicy, len(all))
		for i, d := range all {
			out[i] = listedPolicy{d.Name, d.Description, d.JSON}
		}
		return a.PrintJSON(map[string]any{"policies": out})
	}
	rows := [][]string{{"POLICY", "FOR"}}
	for _, d := range all {
		rows = append(rows, []string{d.Name, d.Description})
	}
	return a.printRows(s, rows)
}

var accountForm = pattern.Lazy(`^[0-9]{12}$`)

// place is where the stack is: where the credentials lead, or what the user says without a call of AWS.
func (a *program) place(ctx context.Context, s config.Settings, id string) (account.Place, error) {
	region := s.AWS.Region
	if id == "" {
		run, err := a.Open(ctx, "iam-policy", s)
		if err != nil {
			return account.Place{}, err
		}
		defer run.Close()
		owner, err := run.Access.Owner(ctx)
		if err != nil {
			return account.Place{}, err
		}
		parts := strings.SplitN(owner, ":", 6)
		if len(parts) < 6 {
			return account.Place{}, fail.New(fail.Credentials, "find out the account", errors.New(owner+" is not an ARN"), "give --account")
		}
		id, region = parts[4], run.Access.Region()
	}
	for _, variable := range []string{"AWS_REGION", "AWS_DEFAULT_REGION"} {
		if region == "" {
			region = os.Getenv(variable)
		}
	}
	if !accountForm().MatchString(id) || !partition.IsRegion(region) {
		return account.Place{}, fail.Usagef("give --account and --region, or credentials",
			"account %q, region %q: want 12 digits and a region", id, region)
	}
	return account.Place{Partition: partition.Of(region).ID, Region: region, Account: id}, nil
}
