package access

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2instanceconnect"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/fargate"
	"github.com/bastion-ssm/bastion/internal/login"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/sessions"
	"github.com/bastion-ssm/bastion/targets"
)

// Settings are all settings of an Access; package config reads and documents them.
type Settings = config.Settings

// Options are what an Access needs besides its Settings.
type Options struct {
	Version  string            // program version, for the task's tags
	Logger   *slog.Logger      // nil: discard the log
	Progress func(step string) // receives the step that the Access waits for; nil: ignored. It must not block.
	// Path receives an event when a bond has lost every path and when it has one again; nil: ignored. It must not block.
	Path func(report.Path)

	// Env replaces the process's own AWS_* and SSH_AUTH_SOCK variables; nil: the process's own.
	Env *awssdk.Env
	// MFA gets MFA codes. nil: from the setting mfa_command; without that, a profile that needs a code fails.
	MFA *awssdk.MFA
	// SignIn is told once that only the user can renew the AWS credentials, and with nil that they are renewed; nil: ignored. It must
	// not block.
	SignIn func(*report.SignIn)
	// Show is called with the first link and shows the Access's links to other processes; Close calls the function that it returns.
	// nil: nothing shows them. It must not block.
	Show func(*Access) (hide func())
}

// Access is one user's access to one AWS account and region. Close it at the end.
type Access struct {
	settings Settings
	region   string
	log      *slog.Logger
	progress func(string)
	trace    *trace // nil: nothing is recorded
	options  Options

	credentials aws.CredentialsProvider
	signIn      atomic.Pointer[report.SignIn] // nil: nothing is known that needs the user
	clock       *awssdk.Clock

	manager  *bastions.Manager
	sessions *sessions.Client
	resolver *targets.Resolver

	instanceConnect *ec2instanceconnect.Client
	passwordData    passwordCall

	hostKeys  *hostKeys // nil: the Access remembers none
	documents documents
	account   atomic.Value // string: the owner's account, once it is known

	whoami func(context.Context) (bastions.Owner, error)
	vpc    func(context.Context) (string, error) // of the settings' bastion

	ctx    context.Context // the tasks' context; ends at Close
	cancel context.CancelFunc
	// commandEnd is how long a grant command that has answered may take to end.
	commandEnd time.Duration
	tasks      sync.WaitGroup // background work; Close waits for it

	bonds bonds
	links links
}

// New loads the AWS configuration and returns an Access. It fails if the region or the credentials are missing. It calls AWS
// only to obtain credentials.
func New(ctx context.Context, s Settings, o Options) (*Access, error) {
	// Tasks outlive the calls that begin them, and New's context.
	tasksCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	if o.MFA == nil && s.AWS.MFACommand != "" {
		o.MFA = &awssdk.MFA{Ask: login.CodeBy(tasksCtx, s.AWS.MFACommand)}
	}
	cfg, err := awssdk.Load(ctx, awssdk.Source{Profile: s.AWS.Profile, Region: s.AWS.Region, Env: o.Env, MFA: o.MFA, CallTimeout: s.AWS.Timeout})
	if err != nil {
		cancel()
		return nil, err
	}
	log := cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	progress := o.Progress
	if progress == nil {
		progress = func(string) {}
	}
	clk := new(awssdk.Clock)
	cfg.APIOptions = append(cfg.APIOptions, clk.Add)
	ecsCalls := bindECS(ecs.NewFromConfig(cfg))
	stsClient := sts.NewFromConfig(cfg)
	ec2Client := ec2.NewFromConfig(cfg)
	names := make(map[string]targets.Named, len(s.Targets))
	for name, t := range s.Targets {
		names[name] = targets.Named{Target: t.Spec}
	}
	a := &Access{
		ctx: tasksCtx, cancel: cancel, commandEnd: commandEnd,
		settings:    s,
		credentials: cfg.Credentials,
		clock:       clk,
		region:      cfg.Region,
		log:         log,
		progress:    progress,
		options:     o,
		manager: bastions.New(bastions.Config{
			ECS: ecsCalls, EC2: bindEC2(ec2Client), Logger: log, Version: o.Version,
		}),
		sessions: sessions.New(sessions.Config{
			SSM: bindSSM(ssm.NewFromConfig(cfg)), ECS: ecsCalls, KMS: bindKMS(kms.NewFromConfig(cfg)),
			HTTPClient: awssdk.WebsocketClient(cfg), Logger: log,
		}),
		resolver: &targets.Resolver{
			AWS: targets.Connect(cfg), Names: names, Region: cfg.Region,
		},
		instanceConnect: ec2instanceconnect.NewFromConfig(cfg),
		passwordData:    ec2Client.GetPasswordData,
		whoami:          once(func(ctx context.Context) (bastions.Owner, error) { return bastions.WhoAmI(ctx, stsClient) }),
	}
	a.vpc = once(a.bastionVPC)
	if s.Link.SessionDocument != documentAuto {
		a.documents.forced = s.Link.SessionDocument
	}
	dir, err := dirs.Runtime(s.Local.RuntimeDir)
	if err != nil {
		log.Debug("host keys and session documents are not remembered", "err", err)
		return a, nil
	}
	a.documents.dir = dir
	if s.Local.RememberHostKeys {
		a.hostKeys = &hostKeys{dir: dir}
	}
	return a, nil
}

// Close cancels the background work and waits until the sessions have ended. The caller closes all links first.
func (a *Access) Close() {
	a.links.mu.Lock()
	hide := a.links.hide
	a.links.mu.Unlock()
	if hide != nil {
		hide()
	}
	a.cancel()
	a.tasks.Wait()
}

// once returns f with its first success remembered. Concurrent callers share one call.
func once[T any](f func(context.Context) (T, error)) func(context.Context) (T, error) {
	turn := make(chan struct{}, 1)
	var value T
	var known bool
	return func(ctx context.Context) (T, error) {
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		case <-ctx.Done():
			var zero T
			return zero, context.Cause(ctx)
		}
		if known {
			return value, nil
		}
		v, err := f(ctx)
		if err == nil {
			value, known = v, true
		}
		return v, err
	}
}

// spec returns the bastion that the settings describe, with its owner.
func (a *Access) spec(ctx context.Context) (bastions.Spec, error) {
	s := a.settings
	owner, err := a.whoami(ctx)
	if err != nil {
		return bastions.Spec{}, err
	}
	if parsed, err := arn.Parse(owner.ARN); err == nil {
		a.account.Store(parsed.AccountID)
	}
	return bastions.Spec{
		Size:    s.TaskSize(),
		Spot:    s.Bastion.Capacity == config.CapacitySpot,
		Cluster: s.Bastion.Cluster, TaskDefinition: s.Bastion.TaskDefinition, Container: s.Bastion.Container,
		Subnets: s.Bastion.Subnets, SubnetTags: s.Bastion.SubnetTags,
		SecurityGroups: s.Bastion.SecurityGroups, SecurityGroupTags: s.Bastion.SecurityGroupTags,
		AssignPublicIP: s.Bastion.AssignPublicIP, Tags: s.Bastion.Tags, Owner: owner, StartTimeout: s.Bastion.StartTimeout,
		Service: s.Bastion.SharedService, Avoid: avoided(ctx),
	}, nil
}

// needsTask returns an error for a command about tasks if the settings name a plain OpenSSH server.
func (a *Access) needsTask(op string) error {
	if a.settings.SSHD.Target == "" {
		return nil
	}
	return fail.New(fail.Usage, op, errors.New("the setting target names a server, which bastion neither starts nor stops"),
		"leave out target to use a bastion task")
}

// needsOwn returns an error for a command that ends a bastion if the settings name a shared one.
func (a *Access) needsOwn(op string) error {
	if a.settings.Bastion.SharedService == "" {
		return nil
	}
	return fail.New(fail.Usage, op,
		fmt.Errorf("the bastion is shared: ECS runs the tasks of service %s, and others use them", a.settings.Bastion.SharedService),
		"leave out shared_service to start and stop a bastion of your own")
}

func show(b bastions.Bastion) report.Bastion {
	out := report.Bastion{
		TaskID: b.TaskID, TaskARN: b.TaskARN, Cluster: b.Cluster, Container: b.Container, Status: b.LastStatus,
		Exec: b.ExecStatus, Ready: b.ExecRunning, Reason: b.StoppedReason, Size: report.Size{CPU: b.Size.CPU, Memory: b.Size.Memory, Architecture: b.Architecture, Spot: b.Spot},
		Refused: b.Refused, Outdated: b.Outdated, Unchecked: b.Unchecked, Service: b.Service,
	}
	if b.RuntimeID != "" {
		out.Target = b.Target()
	}
	if !b.CreatedAt.IsZero() {
		out.Created = &b.CreatedAt
	}
	if !b.StartedAt.IsZero() {
		out.Started = &b.StartedAt
	}
	return out
}

// priced is show with an estimate of the bastion's cost so far, if its size is known.
func (a *Access) priced(b bastions.Bastion) report.Bastion {
	out := show(b)
	price := fargate.Price{VCPUHour: a.settings.Local.PriceVCPUHour, GBHour: a.settings.Local.PriceGBHour}
	if c, known := b.Cost(price, time.Now()); known {
		out.Cost = &c
	}
	return out
}

// UpResult is the result of Up.
type UpResult struct {
	report.Bastion
	New     bool   `json:"new"`      // started by this call
	Version string `json:"version"`  // bastiond's version
	HostKey string `json:"host_key"` // bastiond's host key fingerprint
}

// Up finds or starts the bastion and waits until bastiond answers in it. On an error only the result's New is valid.
func (a *Access) Up(ctx context.Context) (UpResult, error) {
	if err := a.needsTask("start the bastion"); err != nil {
		return UpResult{}, err
	}
	spec, b, started, err := a.ensure(ctx)
	if err != nil {
		return UpResult{New: started}, err
	}
	// This grant's key is thrown away, so it admits nobody. Its answer shows that bastiond works.
	x, err := a.admit(spec, *b, nil, false)
	if err != nil {
		return UpResult{New: started}, err
	}
	p := x.latest()
	if err := p.wait(ctx); err != nil {
		return UpResult{New: started}, err
	}
	return UpResult{Bastion: a.priced(*b), New: started, Version: p.reply.Version, HostKey: ssh.FingerprintSHA256(p.hostKey)}, nil
}

// DownResult is the result of Down.
type DownResult struct {
	Stopped []report.Bastion `json:"stopped"`
	Left    []report.Bastion `json:"left"` // refused bastions that the caller did not ask to stop
}

// Down stops the user's bastions. It stops refused ones only if refused is set.
func (a *Access) Down(ctx context.Context, refused bool) (DownResult, error) {
	out := DownResult{Stopped: []report.Bastion{}, Left: []report.Bastion{}}
	if err := cmp.Or(a.needsTask("stop the bastion"), a.needsOwn("stop the bastion")); err != nil {
		return out, err
	}
	a.progress("stopping your bastion")
	spec, err := a.spec(ctx)
	if err != nil {
		return out, err
	}
	stopped, left, err := a.manager.Stop(ctx, spec, downReason, refused)
	for _, b := range stopped {
		a.hostKeys.forget(b)
		out.Stopped = append(out.Stopped, show(b))
	}
	for _, b := range left {
		out.Left = append(out.Left, show(b))
	}
	return out, err
}

// Status lists the user's bastions.
func (a *Access) Status(ctx context.Context) (report.Status, error) {
	owner, err := a.whoami(ctx)
	if err != nil {
		return report.Status{}, err
	}
	st := report.Status{Owner: owner.ARN, Region: a.region, Bastions: []report.Bastion{}}
	if a.settings.SSHD.Target != "" {
		st.Target = a.settings.SSHD.Target
		return st, nil
	}
	st.Cluster = a.settings.Bastion.Cluster
	spec, err := a.spec(ctx)
	if err != nil {
		return st, err
	}
	all, err := a.manager.List(ctx, spec)
	for _, b := range all {
		st.Bastions = append(st.Bastions, a.priced(b))
	}
	return st, err
}

// Prepare starts the calls that Link needs and that do not depend on a destination. It only saves time: Link reports their
// errors.
func (a *Access) Prepare() {
	a.tasks.Go(func() { _, _ = a.whoami(a.ctx) })
}

// Resolve finds the endpoints of specs concurrently and returns them in order. It returns the error of the first spec that
// failed.
func (a *Access) Resolve(ctx context.Context, specs []targets.Spec) ([]targets.Endpoint, error) {
	out := make([]targets.Endpoint, len(specs))
	errs := make([]error, len(specs))
	var wg sync.WaitGroup
	for i, spec := range specs {
		wg.Go(func() { out[i], errs[i] = a.resolver.Resolve(ctx, spec) })
	}
	wg.Wait()
	if err := cmp.Or(errs...); err != nil {
		return nil, err
	}
	return out, nil
}

// ExamineTarget is Resolve for one spec, with all that AWS says of the target.
func (a *Access) ExamineTarget(ctx context.Context, spec targets.Spec) (targets.Endpoint, targets.Thing, error) {
	return a.resolver.Examine(ctx, spec)
}

// Brokers returns the specs of an MSK cluster's brokers; for another spec, the spec.
func (a *Access) Brokers(ctx context.Context, spec targets.Spec) ([]targets.Spec, error) {
	return a.resolver.Brokers(ctx, spec)
}

// Targets returns the targets of the region, of the given kinds or of all.
func (a *Access) Targets(ctx context.Context, only ...targets.Kind) ([]targets.Found, error) {
	return a.resolver.All(ctx, only...)
}

// Destination returns the permit pattern of one endpoint.
func Destination(host string, port int) string { return net.JoinHostPort(host, fmt.Sprint(port)) }

// Owner returns the ARN of the AWS credentials' identity.
func (a *Access) Owner(ctx context.Context) (string, error) {
	owner, err := a.whoami(ctx)
	return owner.ARN, err
}

// Account returns the AWS account; "" before the first search for a bastion.
func (a *Access) Account() string {
	account, _ := a.account.Load().(string)
	return account
}

// Region returns the AWS region.
func (a *Access) Region() string { return a.region }
