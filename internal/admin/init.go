package admin

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/account/deploy"
	"github.com/bastion-ssm/bastion/account/price"
	"github.com/bastion-ssm/bastion/account/setup"
	"github.com/bastion-ssm/bastion/account/survey"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/partition"
)

// initOptions are the options of init that are no settings.
type initOptions struct {
	answers survey.Answers
	emit    string // what to print instead of deploying; empty: deploy
	offline bool
	dryRun  bool
	yes     bool
	noTest  bool
	prices  string // file with a table of prices; empty: the program's own
	imageOptions
}

// flags are the options of init on the command line.
func (o *initOptions) flags() []cli.Option {
	in := &o.answers.Inputs
	answer := func(form, help, flag string) *cli.Flag {
		return cli.Func(form, help, func(v string) error { return o.answers.Answer(flag, v) }, flag)
	}
	number := func(into *int, form, help, name string) *cli.Flag {
		return cli.Func(form, help, func(v string) (err error) {
			if *into, err = strconv.Atoi(v); err != nil {
				return fail.Usagef("write a whole number", "--%s %q is no number", name, v)
			}
			if *into == 0 { // the default of Inputs
				return fail.Usagef("write another number, or leave the option out", "want a number above 0")
			}
			return nil
		}, name)
	}
	return []cli.Option{
		nameOption(&in.Name, "name of the stack, with which the names in it begin (default: bastion)"),
		answer("VPC", "the VPC of the databases, by id or name", survey.FlagVPC),
		answer("yes|no", "let the tasks into the databases' security groups", survey.FlagGroups),
		answer("yes|no", "make VPC endpoints even where a NAT gateway leads to AWS", survey.FlagEndpoints),
		answer("yes|no", "run tasks in public subnets, each with a public address", survey.FlagPublic),
		cli.Func("DEST,...", "destinations that bastions may connect to (default: the databases)", o.allow, "allow"),
		cli.Func("DEST:PORT,...", "where the tasks' security group lets them out (docs/operators.md)", o.answers.LetOut, survey.FlagEgress),
		cli.Func("NAME=DEST,...", "a class of bastions with its destinations; repeat it for each", o.class, "class"),
		cli.Func("[CLASS=]TASKS", "a service that keeps this many tasks for all (ADR 18)", o.answers.Share, survey.FlagShared),
		cli.Func("[CLASS=]ROLE,...", "roles whose people may use the bastions, by name", o.answers.Admit, survey.FlagPeople),
		cli.Text(&in.Path, "PATH", "path of roles and policies in IAM", "iam-path"),
		cli.Text(&in.Boundary, "ARN", "permissions boundary of the roles", "boundary"),
		cli.Text(&in.TaskRole, "ARN", "an existing role for the tasks", "task-role"),
		cli.Text(&in.ExecutionRole, "ARN", "an existing role for ECS to start them", "execution-role"),
		cli.Text(&in.Key, "ARN", "an existing KMS key", "kms-key"),
		number(&in.RetentionDays, "DAYS", "how long the audit log is kept (default: 365)", "retention"),
		cli.Text(&in.Architecture, "ARCH", "processor of the tasks: X86_64 or ARM64", "architecture"),
		cli.Text(&in.AlarmEmail, "ADDRESS", "who gets the alarms", "email"),
		cli.Switch(&in.ExecLogs, "keep transcripts of ECS Exec (ADR 15)", "exec-logs"),
		cli.Switch(&in.Insights, "container insights of the cluster", "insights"),
		cli.Switch(&in.Spot, "people may have bastions on Fargate Spot (task_capacity)", "spot"),
		cli.Func("VARIABLE=ARN", "a secret for the tasks' environment (docs/operators.md)", o.secret, "secret"),
		cli.Text(&o.prices, "FILE", "a table of prices for the estimate (ADR 17)", "prices"),
		o.imageFlag(),
		cli.Func("FORM", "print "+strings.Join(setup.Forms, ", ")+" instead of deploying", o.form, "emit"),
		cli.Switch(&o.offline, "with --emit: ask AWS nothing; what is not given stays a parameter", "offline"),
		cli.Switch(&o.dryRun, "show the plan and change nothing", "dry-run"),
		cli.Switch(&o.yes, "do not ask before the deployment", "yes", "y"),
		cli.Switch(&o.noTest, "do not start a bastion at the end", "no-test"),
	}
}

// form takes the form of --emit.
func (o *initOptions) form(name string) error {
	if !slices.Contains(setup.Forms, name) {
		return fail.Usagef("use "+strings.Join(setup.Forms, ", "), "%q is no form of a stack", name)
	}
	o.emit = name
	return nil
}

// table is the operator's table of prices, nil if there is none.
func (o *initOptions) table() (*price.Table, error) {
	if o.prices == "" {
		return nil, nil
	}
	text, err := os.ReadFile(o.prices)
	if err != nil {
		return nil, fail.New(fail.Usage, "read --prices", err, "name a file")
	}
	table, err := price.Parse(text)
	if err != nil {
		return nil, fail.New(fail.Usage, "read --prices "+o.prices, err, "begin with account/price/prices.json")
	}
	return &table, nil
}

// allow takes the list of the only class.
func (o *initOptions) allow(list string) error {
	if len(o.answers.Inputs.Classes) > 0 {
		return errLists
	}
	o.answers.Inputs.Classes = []account.Class{{Allow: strings.Split(list, ",")}}
	return nil
}

var errLists = errors.New("give one --allow, or each class its list by --class")

// arnParts are those of a secret's ARN, between colons.
const arnParts = 7

func (o *initOptions) secret(text string) error {
	name, rest, ok := strings.Cut(text, "=")
	if !ok {
		return fail.Usagef("write --secret VARIABLE=ARN", "--secret %q names no variable", text)
	}
	secret := account.Secret{Variable: name}
	secret.ARN, secret.Key, _ = strings.Cut(rest, ",")
	if parts := strings.SplitN(secret.ARN, ":", arnParts+1); len(parts) > arnParts {
		secret.ARN, secret.Field = strings.Join(parts[:arnParts], ":"), strings.TrimSuffix(parts[arnParts], "::") // as ECS writes it, or without its end
	}
	o.answers.Inputs.Secrets = append(o.answers.Inputs.Secrets, secret)
	return nil
}

func (o *initOptions) class(text string) error {
	name, list, ok := strings.Cut(text, "=")
	if !ok || name == "" || list == "" {
		return fail.Usagef("write --class NAME=DESTINATION,...", "--class %q has no name or no destination", text)
	}
	if classes := o.answers.Inputs.Classes; len(classes) > 0 && classes[0].Name == "" { // of --allow
		return errLists
	}
	o.answers.Inputs.Classes = append(o.answers.Inputs.Classes, account.Class{Name: name, Allow: strings.Split(list, ",")})
	return nil
}

func (a *program) initCommand() *cli.Command {
	var o initOptions
	return &cli.Command{
		Name:     "init",
		Summary:  "set an AWS account up for bastions; run it again to go on, or to change it",
		Examples: []string{"bastion init --vpc main --change-security-groups yes --yes"},
		Flags:    o.flags(),
		Settings: invocation.CommonSettings,
		Run:      a.With(func(ctx context.Context, s config.Settings, _ []string) error { return a.setUp(ctx, s, o) }),
	}
}

// emitUnseen prints the stack of the options alone.
func (a *program) emitUnseen(s config.Settings, o initOptions) error {
	o.answers.Inputs.Region = s.AWS.Region
	in, notes, err := survey.Unseen(o.answers)
	if err != nil {
		return err
	}
	stack, err := account.New(in)
	if err != nil {
		return err
	}
	for _, note := range notes {
		a.Note(s, "%s", note)
	}
	region := cmp.Or(s.AWS.Region, "REGION")
	return a.emit(o.emit, stack, account.Place{Partition: partition.Of(region).ID, Region: region, Account: "ACCOUNT_ID"})
}

// setUp runs `bastion init`.
func (a *program) setUp(ctx context.Context, s config.Settings, o initOptions) error {
	if err := a.take(&o); err != nil {
		return err
	}
	if o.offline && o.emit == "" {
		return fail.Usagef("add --emit "+strings.Join(setup.Forms, "|"), "--offline deploys nothing, and there is no --emit")
	}
	if o.offline {
		return a.emitUnseen(s, o)
	}
	binaries, err := o.binaries()
	if err != nil && (o.bastiond != nil || o.emit == "" && !o.dryRun) { // a program that carries none can show a plan
		return err
	}
	prices, err := o.table()
	if err != nil {
		return err
	}
	cfg, p, err := a.LoadAWS(ctx, s)
	if err != nil {
		return err
	}
	defer p.Close()
	set := &setup.Setup{
		Survey: survey.Bind(cfg), Stacks: deploy.New(deploy.Bind(cfg), o.answers.Inputs.Defaults().Name),
		Registry: setup.NewRegistry(cfg, a.Registry), Person: &setup.Terminal{
			In: a.In, Err: a.Err, Progress: p, Alone: o.yes, Defaults: o.dryRun || o.emit != "",
		},
		Answers: o.answers, Binaries: binaries, Version: a.Version,
		Price: price.Options{Prices: prices, Fargate: price.BySettings(s.Local.PriceVCPUHour, s.Local.PriceGBHour)},
	}
	set.Stacks.Version = set.Version
	plan, err := set.Look(ctx)
	if err != nil {
		return err
	}
	p.Idle()
	if o.emit != "" {
		return a.emit(o.emit, plan.Stack, plan.Place)
	}
	return a.carryOut(ctx, s, o, set, plan, p)
}

// InitOutput is the JSON output of init.
type InitOutput struct {
	Plan    setup.Shown       `json:"plan"`
	Outputs map[string]string `json:"outputs"`            // of the stack; empty: nothing was deployed
	File    string            `json:"file,omitempty"`     // that was written
	TaskARN string            `json:"task_arn,omitempty"` // of the bastion that was started as a test
	Tested  string            `json:"tested,omitempty"`   // the database that has answered
}

// carryOut shows the plan, asks, and does it.
func (a *program) carryOut(
	ctx context.Context, s config.Settings, o initOptions, set *setup.Setup, plan *setup.Plan, p *console.Progress,
) error {
	if !o.dryRun || plan.Exists {
		if err := set.Preview(ctx, plan); err != nil {
			return err
		}
		p.Idle()
	}
	out := InitOutput{Plan: plan.Show()}
	if o.dryRun {
		return errors.Join(a.showInit(s, out), set.Discard(ctx, plan))
	}
	if err := out.Plan.WriteText(a.Err); err != nil {
		return err
	}
	if agreed, err := a.agreed(ctx, o.yes, "Deploy this? [y/N] "); !agreed {
		if err == nil {
			err = fail.New(fail.Other, "", errors.New("not deployed; nothing was changed"), "")
		}
		return errors.Join(err, set.Discard(context.WithoutCancel(ctx), plan))
	}
	result, err := set.Apply(ctx, plan, pushing(p))
	if err != nil {
		return a.goesOn(ctx, p, err)
	}
	p.Idle()
	out.Outputs = result.Outputs
	if out.File, err = a.writeFile(s, result.Settings); err == nil && !o.noTest {
		out.TaskARN, out.Tested, err = Try(ctx, a.Invocation, s, result.Settings, plan.Choice.Databases)
	}
	return errors.Join(a.showInit(s, out), err)
}

// showInit prints what init has done, or would do.
func (a *program) showInit(s config.Settings, out InitOutput) error {
	if s.Output.Format == "json" {
		return a.PrintJSON(out)
	}
	if out.Outputs == nil {
		return out.Plan.WriteText(a.Out)
	}
	var b strings.Builder
	_ = console.Printf(&b, "the stack %s is deployed in %s\n", out.Plan.Stack, out.Plan.Region)
	if out.File != "" {
		_ = console.Printf(&b, "wrote %s: put it into your team's repository, or share it with the account: bastion config share\n", out.File)
	}
	if out.TaskARN != "" {
		_ = console.Printf(&b, "a bastion runs as a test, and stops when nobody uses it: %s\n", out.TaskARN)
	}
	if out.Tested != "" {
		_ = console.Printf(&b, "%s answers through it; now: bastion forward %s 12345\n", out.Tested, out.Tested)
	}
	_, err := io.WriteString(a.Out, b.String())
	return err
}

// writeFile writes bastion.yaml into the working directory, and returns its name. It leaves one that is there as it is, and says on
// standard error what it should have.
func (a *program) writeFile(s config.Settings, settings setup.Settings) (string, error) {
	err := settings.Write(config.FileName)
	if errors.Is(err, fs.ErrExist) {
		text, err := settings.File()
		a.Note(s, "%s is there already and stays as it is; this is what it needs:\n  %s", config.FileName, console.Paragraph(text))
		return "", err
	}
	if err != nil {
		return "", fail.New(fail.Other, "write "+config.FileName, err, "run init in a directory that you may write to")
	}
	return config.FileName, nil
}

// Try starts a bastion of what was made and connects to the first database that has an address. It returns the task's ARN and the
// database's name, as far as it got.
func Try(
	ctx context.Context, in *invocation.Invocation, s config.Settings, made setup.Settings, databases []survey.Database,
) (task, database string, _ error) {
	s.AWS.Region, s.Bastion.Cluster, s.Bastion.TaskDefinition = made.Region, made.Cluster, made.TaskDefinition
	s.Bastion.SharedService = made.SharedService
	s.Bastion.Subnets, s.Bastion.SecurityGroups, s.Bastion.AssignPublicIP = made.Subnets, []string{made.SecurityGroup}, made.PublicAddress
	run, err := in.Open(ctx, "init", s)
	if err != nil {
		return "", "", err
	}
	defer run.Close()
	defer run.Progress.Idle()
	if err := setup.WithFreshRoles(ctx, func() error {
		up, err := run.Access.Up(ctx)
		task = up.TaskARN
		return err
	}); err != nil {
		return task, "", err
	}
	for _, d := range databases {
		if len(d.Addresses) > 0 {
			return task, d.Name, run.Connect(ctx, access.Destination(d.Addresses[0].Host, d.Addresses[0].Port))
		}
	}
	return task, "", nil
}

// emit prints the stack in another form.
func (a *program) emit(form string, stack *account.Stack, place account.Place) error {
	text, err := setup.Emit(stack, place, form)
	if err != nil {
		return err
	}
	return a.Document(form, string(text))
}

// take takes the settings that are on the command line into the inputs. Those of a file are what an earlier init has made.
func (a *program) take(o *initOptions) error {
	s, err := config.Load(config.Source{
		Flags: a.Line.Settings, NoFile: true, LookupEnv: func(string) (string, bool) { return "", false },
	})
	if err != nil {
		return err
	}
	in := &o.answers.Inputs
	in.Subnets = s.Bastion.Subnets
	switch groups := s.Bastion.SecurityGroups; len(groups) {
	case 0:
	case 1:
		in.SecurityGroup = groups[0]
	default:
		return fail.Usagef("name one security group", "--security-groups has %d: a stack's tasks have one", len(groups))
	}
	if in.SecurityGroup != "" && len(in.Egress) > 0 {
		return fail.Usagef("leave one of them out", "--%s is for the stack's own security group, and --security-groups names another", survey.FlagEgress)
	}
	size := s.TaskSize()
	in.CPU, in.Memory = size.CPU, size.Memory
	for _, key := range slices.Sorted(maps.Keys(s.Bastion.Tags)) {
		in.Tags = append(in.Tags, account.Tag{Key: key, Value: s.Bastion.Tags[key]})
	}
	return nil
}
