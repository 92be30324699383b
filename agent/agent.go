package agent

import (
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
	"github.com/aws/aws-sdk-go-v2/service/elasticache"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/fargate"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/sessions"
	"github.com/bastion-ssm/bastion/targets"
	"github.com/bastion-ssm/bastion/tunnel"
)

// Settings are all settings of an Agent; package config reads and documents them.
type Settings = config.Settings

// Options are what an Agent needs besides its Settings.
type Options struct {
	Version  string            // of the program, for the task's tags
	Command  string            // what the program does, for those who look at its links
	Logger   *slog.Logger      // nil: no log
	Progress func(step string) // says what is waited for; nil: nobody asks. It must not block.
	// Path is told when a connection has lost every path, and when it has found one; nil: nobody asks. It must not block.
	Path func(report.Path)

	// Env are the variables that count, in place of the process's own: AWS_* and SSH_AUTH_SOCK. nil: the process's.
	Env *Env
	MFA *MFA // asks for codes; nil: there is nobody to ask
	// Hosted says that the process has more Agents than this one and shows their links itself.
	Hosted bool
}

// Agent is one user's access to one AWS account and region. Close it at the end.
type Agent struct {
	settings Settings
	region   string
	log      *slog.Logger
	progress func(string)
	options  Options

	credentials aws.CredentialsProvider
	clock       *clock

	manager  *bastions.Manager
	sessions *sessions.Client
	resolver *targets.Resolver

	instanceConnect *ec2instanceconnect.Client

	hostKeys  *hostKeys // nil: none are remembered
	documents documents
	account   atomic.Value // string: that of the owner, once it is known

	whoami func(context.Context) (bastions.Owner, error)

	ctx    context.Context // of the tasks; ends at Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup // what goes on behind the caller's back: Close waits for it

	bonds bonds
	live  live
}

// New loads the AWS configuration and returns an Agent. It fails where region or credentials are missing; apart from what
// the credentials need it makes no calls.
func New(ctx context.Context, s Settings, o Options) (*Agent, error) {
	cfg, err := loadAWS(ctx, s.Profile, s.Region, o.Env, s.AWSTimeout, o.MFA.options(s.Profile)...)
	if err != nil {
		return nil, err
	}
	if o.MFA != nil && MFADevice(ctx, s.Profile) != "" {
		o.MFA.keep(s.Profile, cfg.Credentials)
	}
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	progress := o.Progress
	if progress == nil {
		progress = func(string) {}
	}
	// Tasks outlive the calls that begin them, therefore New's context too.
	tasksCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	clk := new(clock)
	cfg.APIOptions = append(cfg.APIOptions, clk.add)
	ecsClient := ecs.NewFromConfig(cfg)
	stsClient := sts.NewFromConfig(cfg)
	ec2Client := ec2.NewFromConfig(cfg)
	ssmClient := ssm.NewFromConfig(cfg)
	kmsClient := kms.NewFromConfig(cfg)
	rdsClient := rds.NewFromConfig(cfg)
	cacheClient := elasticache.NewFromConfig(cfg)
	names := make(map[string]targets.Named, len(s.Targets))
	for name, t := range s.Targets {
		names[name] = targets.Named{Target: t.Spec}
	}
	a := &Agent{
		ctx: tasksCtx, cancel: cancel,
		settings:    s,
		credentials: cfg.Credentials,
		clock:       clk,
		region:      cfg.Region,
		log:         log,
		progress:    progress,
		options:     o,
		manager: bastions.New(bastions.Config{
			ECS: ecsClient, EC2: bindEC2(ec2Client), Logger: log, Version: o.Version,
		}),
		sessions: sessions.New(sessions.Config{
			SSM: ssmClient, ECS: ecsClient, KMS: kmsClient,
			HTTPClient: websocketClient(cfg), Logger: log,
		}),
		resolver: &targets.Resolver{
			RDS: bindRDS(rdsClient), ElastiCache: bindElastiCache(cacheClient), Names: names, Region: cfg.Region,
		},
		instanceConnect: ec2instanceconnect.NewFromConfig(cfg),
		whoami:          once(func(ctx context.Context) (bastions.Owner, error) { return bastions.WhoAmI(ctx, stsClient) }),
	}
	if s.SessionDocument != documentAuto {
		a.documents.forced = s.SessionDocument
	}
	if dir, err := dirs.Runtime(s.RuntimeDir); err == nil {
		a.documents.dir = dir
	}
	if s.RememberHostKeys {
		dir, err := dirs.Runtime(s.RuntimeDir)
		if err == nil {
			a.hostKeys = &hostKeys{dir: dir}
		} else {
			log.Debug("host keys are not remembered", "err", err)
		}
	}
	return a, nil
}

// Close gives up what still goes on and waits until the sessions are ended. Links must have been closed before.
func (a *Agent) Close() {
	a.cancel()
	a.tasks.Wait()
}

// once returns f with its first success remembered. Concurrent callers share a call.
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

// spec says which bastion the settings mean.
func (a *Agent) spec(ctx context.Context) (bastions.Spec, error) {
	s := a.settings
	owner, err := a.whoami(ctx)
	if err != nil {
		return bastions.Spec{}, err
	}
	if parsed, err := arn.Parse(owner.ARN); err == nil {
		a.account.Store(parsed.AccountID)
	}
	cpu, memory := s.TaskFargate()
	return bastions.Spec{
		Size:    fargate.Size{CPU: cpu, Memory: memory},
		Cluster: s.Cluster, TaskDefinition: s.TaskDefinition, Container: s.Container,
		Subnets: s.Subnets, SubnetTags: s.SubnetTags,
		SecurityGroups: s.SecurityGroups, SecurityGroupTags: s.SecurityGroupTags,
		AssignPublicIP: s.AssignPublicIP, Tags: s.Tags, Owner: owner, StartTimeout: s.StartTimeout,
	}, nil
}

// needsTask refuses a command about tasks where the settings name a plain OpenSSH server.
func (a *Agent) needsTask(op string) error {
	if a.settings.Target == "" {
		return nil
	}
	return fail.New(fail.Usage, op, errors.New("the setting target names a server that is not started or stopped by bastion"),
		"leave out target to use a bastion task")
}

func show(b bastions.Bastion) report.Bastion {
	out := report.Bastion{
		TaskID: b.TaskID, TaskARN: b.TaskARN, Cluster: b.Cluster, Container: b.Container, Status: b.LastStatus,
		Exec: b.ExecStatus, Ready: b.ExecRunning, Reason: b.StoppedReason, Size: sizeOf(b),
		Refused: b.Refused, Outdated: b.Outdated, Unchecked: b.Unchecked,
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

// UpResult is what Up reached.
type UpResult struct {
	report.Bastion
	New     bool   `json:"new"`      // started by this call
	Version string `json:"version"`  // of bastiond
	HostKey string `json:"host_key"` // its fingerprint
}

// Up finds or starts the bastion and waits until bastiond answers in it. With an error only New of the result counts.
func (a *Agent) Up(ctx context.Context) (UpResult, error) {
	if err := a.needsTask("start the bastion"); err != nil {
		return UpResult{}, err
	}
	spec, b, started, err := a.ensure(ctx)
	if err != nil {
		return UpResult{New: started}, err
	}
	// The grant of a key that is thrown away: it lets nobody in, and its answer shows that bastiond works.
	x, err := a.newAccess(spec, *b, nil, false)
	if err != nil {
		return UpResult{New: started}, err
	}
	p := x.latest()
	if err := p.wait(ctx); err != nil {
		return UpResult{New: started}, err
	}
	shown := show(*b)
	price(&shown.Size, *b, a.settings)
	return UpResult{Bastion: shown, New: started, Version: p.reply.Version, HostKey: fingerprint(p.hostKey)}, nil
}

// DownResult is what Down reached.
type DownResult struct {
	Stopped []report.Bastion `json:"stopped"`
	Left    []report.Bastion `json:"left"` // refused, and not asked for
}

// Down stops the user's bastions. Those that are refused are left alone unless refused says otherwise.
func (a *Agent) Down(ctx context.Context, refused bool) (DownResult, error) {
	out := DownResult{Stopped: []report.Bastion{}, Left: []report.Bastion{}}
	if err := a.needsTask("stop the bastion"); err != nil {
		return out, err
	}
	a.progress("stopping your bastion")
	spec, err := a.spec(ctx)
	if err != nil {
		return out, err
	}
	stopped, left, err := a.manager.Stop(ctx, spec, downReason, refused)
	for _, b := range stopped {
		if a.hostKeys != nil {
			a.hostKeys.forget(b)
		}
		out.Stopped = append(out.Stopped, show(b))
	}
	for _, b := range left {
		out.Left = append(out.Left, show(b))
	}
	return out, err
}

// Status looks at the user's bastions.
func (a *Agent) Status(ctx context.Context) (report.Status, error) {
	owner, err := a.whoami(ctx)
	if err != nil {
		return report.Status{}, err
	}
	st := report.Status{Owner: owner.ARN, Region: a.region, Bastions: []report.Bastion{}}
	if a.settings.Target != "" {
		st.Target = a.settings.Target
		return st, nil
	}
	st.Cluster = a.settings.Cluster
	spec, err := a.spec(ctx)
	if err != nil {
		return st, err
	}
	all, err := a.manager.List(ctx, spec)
	for _, b := range all {
		shown := show(b)
		price(&shown.Size, b, a.settings)
		st.Bastions = append(st.Bastions, shown)
	}
	return st, err
}

// Prepare begins what Link will need and does not depend on the destinations. It is an optimisation: its errors come again.
func (a *Agent) Prepare() {
	a.tasks.Go(func() { _, _ = a.whoami(a.ctx) })
}

// Resolve finds the endpoints of specs, all at once, and returns them in order. The error is that of the first that fails.
func (a *Agent) Resolve(ctx context.Context, specs []targets.Spec) ([]targets.Endpoint, error) {
	out := make([]targets.Endpoint, len(specs))
	errs := make([]error, len(specs))
	var wg sync.WaitGroup
	for i, spec := range specs {
		wg.Go(func() { out[i], errs[i] = a.resolver.Resolve(ctx, spec) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Targets returns the databases and caches of the region.
func (a *Agent) Targets(ctx context.Context) ([]targets.Endpoint, error) { return a.resolver.All(ctx) }

// Link returns a link to the bastion, not yet started, whose grants are narrowed to permit (empty: all that the bastion
// allows). report, which may be nil, is told of each change of its state; it must not block. The link must be closed.
//
// To bastiond it is one SSH connection, over a bond of sessions. An OpenSSH server knows no bond: there it is one SSH
// connection for each session.
func (a *Agent) Link(permit []string, report func(tunnel.State)) (*Link, error) {
	c, err := a.connector(permit)
	if err != nil {
		return nil, err
	}
	most := 1
	if a.settings.Target != "" {
		most = a.settings.Sessions
	}
	answers := new(lastFailure)
	l := &Link{agent: a, answers: answers, Pool: tunnel.NewPool(tunnel.PoolConfig{
		Max: most, Logger: a.log, OnState: report,
		New: func(onState func(tunnel.State)) *tunnel.Link { return a.newLink(c, answers, onState) },
	})}
	l.hide = a.showLive(l)
	return l, nil
}

// leastDialTimeout is how long a bastion gets, at least, to reach a destination.
const leastDialTimeout = 30 * time.Second

// newLink makes one SSH connection of a Link. answers gets what AWS answers while it connects.
func (a *Agent) newLink(c connector, answers *lastFailure, report func(tunnel.State)) *tunnel.Link {
	s := a.settings
	g := &giveUp{connector: c, answers: answers, after: s.ReconnectTimeout}
	l := tunnel.NewLink(g, tunnel.LinkConfig{
		Logger:         a.log,
		Keepalive:      tunnel.Keepalive{Interval: s.Keepalive},
		ConnectTimeout: s.ConnectTimeout,
		BackoffMin:     s.ReconnectMin,
		BackoffMax:     s.ReconnectMax,
		HoldMax:        orNone(s.HoldMax),
		HoldTimeout:    s.HoldTimeout,
		DialTimeout:    max(leastDialTimeout, s.HoldTimeout), // a bond without a path holds dials too
		OnState: func(st tunnel.State) {
			g.onState(st)
			c.onState(st)
			report(st)
		},
	})
	if s.Target == "" {
		a.tasks.Go(func() { a.watchHealth(l) })
	}
	return l
}

// orNone turns a bound of 0 into what tunnel takes for none at all.
func orNone(n int) int {
	if n == 0 {
		return -1
	}
	return n
}

// connector is a tunnel.Connector that learns what became of its transports.
type connector interface {
	tunnel.Connector
	onState(tunnel.State)
	// open brings the transport with what other SSH clients need to use it.
	open(ctx context.Context) (*opened, error)
}

func (a *Agent) connector(permit []string) (connector, error) {
	if a.settings.Target != "" {
		return newServerConnector(a)
	}
	return &taskConnector{agent: a, permit: permit}, nil
}

// giveUp bounds the time that a link may be down: the Link itself would try for ever.
type giveUp struct {
	connector connector
	answers   *lastFailure
	after     time.Duration

	mu     sync.Mutex
	everUp bool
	lost   time.Time // zero while up
	last   error     // of the attempts since then, the latest failure that says more than that the time was over
}

func (g *giveUp) onState(st tunnel.State) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch st.Phase {
	case tunnel.Up:
		g.everUp, g.lost, g.last = true, time.Time{}, nil
	case tunnel.Idle:
		g.lost, g.last = time.Time{}, nil // nobody waits
	default:
		if g.lost.IsZero() {
			g.lost = time.Now()
		}
	}
}

// Connect connects within what is left of the time. Before the first success every failure that the connector's own waiting
// has not mended is final.
func (g *giveUp) Connect(ctx context.Context) (*tunnel.Transport, error) {
	ctx = g.answers.watch(ctx)
	defer g.answers.set(nil) // from here on the link's state says why
	g.mu.Lock()
	everUp, lost := g.everUp, g.lost
	g.mu.Unlock()
	if !everUp || lost.IsZero() {
		t, err := g.connector.Connect(ctx)
		if err != nil && !everUp && ctx.Err() == nil && !isTransient(err) {
			err = tunnel.Permanent(err)
		}
		return t, err
	}
	deadline := lost.Add(g.after)
	var api lastFailure
	connectCtx, cancel := context.WithDeadline(api.watch(ctx), deadline)
	defer cancel()
	t, err := g.connector.Connect(connectCtx)
	if err == nil || ctx.Err() != nil || tunnel.IsGone(err) {
		return t, err
	}
	err = g.reason(err, api.get())
	if time.Now().Before(deadline) {
		return nil, err
	}
	next := fail.NextOf(err)
	if next == "" {
		next = "when that is mended start again, or allow more time with --reconnect-timeout"
	}
	return nil, tunnel.Permanent(fail.New(fail.Lost, "",
		fmt.Errorf("the link was lost and could not be restored within %s: %w", g.after, err), next))
}

// reason returns err, the failure of an attempt. If that only says that the time was over, it returns what AWS answered last,
// api, or else the failure of an earlier attempt.
func (g *giveUp) reason(err, api error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !errors.Is(err, context.DeadlineExceeded) || api == nil && g.last == nil:
		g.last = err
	case api != nil:
		g.last = api
	}
	return g.last
}

// isTransient reports whether a first attempt to connect may be followed by another.
func isTransient(err error) bool {
	var t *transientError
	return errors.As(err, &t)
}

// transientError marks an error that a further attempt may mend.
type transientError struct{ error }

func (e *transientError) Unwrap() error { return e.error }

// Destination returns the permit pattern of one endpoint.
func Destination(host string, port int) string { return net.JoinHostPort(host, fmt.Sprint(port)) }

// Owner returns the ARN of the identity that the AWS credentials are of.
func (a *Agent) Owner(ctx context.Context) (string, error) {
	owner, err := a.whoami(ctx)
	return owner.ARN, err
}

// Account returns the AWS account; "" until a bastion was looked for.
func (a *Agent) Account() string {
	account, _ := a.account.Load().(string)
	return account
}

// Region returns the AWS region.
func (a *Agent) Region() string { return a.region }
