package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/lab/awsapi"
	"github.com/bastion-ssm/bastion/lab/gateway"
	"github.com/bastion-ssm/bastion/lab/vpc"
)

const (
	bastiondPath = "/bastiond" // in the image
	bastionName  = "bastion"   // cluster, task definition and container
)

// Off is the mode of a database that the lab does not start.
const Off vpc.Mode = "off"

// Config configures a Lab. The zero value uses the databases that the machine has, at a pace that a human notices.
type Config struct {
	Region   string // default: eu-central-1; its partition is in every ARN and name
	Account  string // default: 000000000000; any other is made up too
	Listen   string // loopback address of the one listener; default 127.0.0.1:0
	Bastiond string // path of the program that tasks of the task definition "bastion" run
	Runner   Runner // default: a HostRunner with Bastiond
	// AllowHostExec lets ECS Exec run commands of this machine in tasks of the default Runner.
	AllowHostExec bool
	Dir           string       // for the files of the lab; default: a temporary one, removed by Close
	Log           *slog.Logger // nil discards

	// StateDelay is how long each of PROVISIONING, PENDING and ACTIVATING lasts (300 ms). ExecDelay is the time from RUNNING until
	// the exec agent is RUNNING (300 ms), and ConnectDelay from there until it answers (200 ms). Negative means none.
	StateDelay, ExecDelay, ConnectDelay time.Duration
	// StopTimeout is a task's time between SIGTERM and SIGKILL (30 s).
	StopTimeout time.Duration

	// Unmetered tasks have all of this machine, and the agents' work costs nothing. Sessions are then faster than real ones.
	Unmetered bool

	KMS             bool     // encrypt exec and shell sessions
	ExecLogs        bool     // transcripts of ECS Exec, for which the task role is asked; nobody keeps them
	Shared          int      // tasks of the service "bastion", which people share, in place of tasks of their own; 0: no service
	Postgres, Redis vpc.Mode // the databases; default vpc.Auto; Off for none
	NoWeb           bool     // no internal web site
	// TaskEnv is added to the environment of the task definition "bastion".
	TaskEnv map[string]string
	// Secrets are handed to these tasks by their execution role. Their values are made up.
	Secrets []account.Secret
	// TaskRoleDeny are patterns of actions that the role of these tasks must not do: "kms:Decrypt".
	TaskRoleDeny []string
	// Allow are further destinations for the tasks' BASTIOND_ALLOW.
	Allow     []string
	Instances map[string]Instance // managed nodes, by id
	User      IdentityConfig      // rights of the identity "lab"; "admin" may do everything

	IdentityCenter IdentityCenterConfig
	// RoleLife is the life of the credentials of assumed roles and of `aws login`. 0: AWS's.
	RoleLife time.Duration
	// TaskCredentialsLife is the life of the credentials that a task's program gets of its role. 0: AWS's.
	TaskCredentialsLife time.Duration

	Gateway gateway.Config   // knobs of the message gateway; Logger, BaseURL and LookupHost are the lab's
	Now     func() time.Time // for signatures and expiry; default time.Now
}

// Lab is a running local AWS.
type Lab struct {
	site
	cfg Config
	log *slog.Logger
	dir string // of the files
	tmp string // for tasks: its path is short
	url string

	identities  awsapi.Directory
	stack       *stack
	permissions *permissions
	api         *awsapi.Server
	gw          *gateway.Gateway
	faults      *faults
	sessions    *sessions
	ecs         *ecs
	ssm         *ssm
	ec2         *ec2
	rds         *rds
	cache       *elasticache
	kms         *kms
	sts         *sts
	signin      *signin

	identityCenter *IdentityCenter

	memorydb   *memorydb
	redshift   *redshift
	opensearch *opensearch
	kafka      *kafka
	eks        *eks
	balancers  *balancers
	cloudmap   *cloudmap

	authority *vpc.Authority // of the databases' certificates
	resolver  *vpc.Resolver
	postgres  *vpc.Postgres
	redis     *vpc.Redis
	web       *web

	httpServer *http.Server
	serving    sync.WaitGroup
	endTasks   context.CancelFunc
	closeOnce  sync.Once
	closeErr   error

	mu       sync.Mutex
	allow    []string // destinations that the tasks may reach
	names    map[string][]netip.Addr
	profiles []profile
}

// Start starts a lab and returns once everything in it answers. ctx bounds only the start; Close ends the lab.
func Start(ctx context.Context, cfg Config) (*Lab, error) {
	l := &Lab{cfg: cfg.withDefaults(), names: make(map[string][]netip.Addr)}
	l.log, l.site = l.cfg.Log, site{l.cfg.Region, l.cfg.Account}
	if err := l.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start the lab: %w", err), l.Close())
	}
	return l, nil
}

func (c Config) withDefaults() Config {
	c.Region, c.Account = cmp.Or(c.Region, Region), cmp.Or(c.Account, Account)
	c.Listen = cmp.Or(c.Listen, "127.0.0.1:0")
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	c.StateDelay = max(cmp.Or(c.StateDelay, 300*time.Millisecond), 0)
	c.ExecDelay = max(cmp.Or(c.ExecDelay, 300*time.Millisecond), 0)
	c.ConnectDelay = max(cmp.Or(c.ConnectDelay, 200*time.Millisecond), 0)
	c.StopTimeout = max(cmp.Or(c.StopTimeout, 30*time.Second), 0)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Runner == nil {
		c.Runner = &HostRunner{Programs: map[string]string{bastiondPath: c.Bastiond}, AllowHostExec: c.AllowHostExec}
	}
	return c
}

func (l *Lab) start(ctx context.Context) error {
	if err := l.makeDirs(); err != nil {
		return err
	}
	listener, err := l.listen(ctx)
	if err != nil {
		return err
	}
	if err := l.populate(ctx); err != nil {
		return errors.Join(err, listener.Close())
	}
	l.serve(listener)
	if err := l.ecs.addService(); err != nil {
		return err
	}
	l.log.Info("the lab is up", "url", l.url)
	return nil
}

// populate makes all services and resources.
func (l *Lab) populate(ctx context.Context) error {
	if err := l.build(); err != nil {
		return err
	}
	if err := l.startVPC(ctx); err != nil {
		return err
	}
	_, errUser := l.AddIdentity("lab", l.cfg.User)
	_, errAdmin := l.AddIdentity("admin", IdentityConfig{Allow: []string{"*"}})
	return errors.Join(errUser, errAdmin)
}

func (l *Lab) makeDirs() error {
	var err error
	if l.tmp, err = os.MkdirTemp("", "blab"); err != nil {
		return err
	}
	l.dir = cmp.Or(l.cfg.Dir, l.tmp)
	return os.MkdirAll(l.dir, 0o700)
}

// RuntimeDir returns the directory for the sockets of the lab's own bastion agent.
func (l *Lab) RuntimeDir() string { return filepath.Join(l.tmp, "run") }

// StateDir returns the directory for that agent's log and forwards.
func (l *Lab) StateDir() string { return filepath.Join(l.tmp, "state") }

func (l *Lab) listen(ctx context.Context) (net.Listener, error) {
	if err := vpc.CheckLoopback(l.cfg.Listen); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", l.cfg.Listen)
	if err != nil {
		return nil, err
	}
	l.url = "http://" + listener.Addr().String()
	return listener, nil
}

// build makes the services and connects them.
func (l *Lab) build() error {
	var err error
	if l.kms, err = newKMS(l.site); err != nil {
		return err
	}
	if l.stack, err = newStack(l.site, l.kms.keyARN(), l.cfg); err != nil {
		return err
	}
	if l.permissions, err = newPermissions(l.stack); err != nil {
		return err
	}
	kmsKey := ""
	if l.cfg.KMS {
		kmsKey = l.kms.keyARN()
	}
	now := l.cfg.Now
	l.faults = &faults{now: now}

	gw := l.cfg.Gateway
	gw.Logger = l.log.With("part", "gateway")
	gw.BaseURL = func() string { return "ws" + strings.TrimPrefix(l.url, "http") }
	gw.LookupHost = l.lookupHost
	n := &nodes{site: l.site, identities: &l.identities, api: func() *awsapi.Server { return l.api }}
	gw.Admit = n.admit
	l.gw = gateway.New(gw)
	l.sessions = &sessions{gw: l.gw, now: now, decrypt: l.kms.decrypt, faults: l.faults}

	l.ec2 = &ec2{site: l.site}
	ctx, cancel := context.WithCancel(context.Background())
	l.endTasks = cancel
	l.ecs = &ecs{
		site: l.site, stack: l.stack, permissions: l.permissions, kms: l.kms,
		log: l.log.With("part", "ecs"), now: now, runner: l.cfg.Runner, dir: l.tmp, kmsKey: kmsKey,
		timing:    timing{l.cfg.StateDelay, l.cfg.ExecDelay, l.cfg.ConnectDelay, l.cfg.StopTimeout},
		unmetered: l.cfg.Unmetered,
		network:   l.ec2, sessions: l.sessions, faults: l.faults, baseEnv: l.taskEnv, ctx: ctx,
		url: func() string { return l.url }, identities: &l.identities, credentialsLife: l.cfg.TaskCredentialsLife,
		clusters: make(map[string]*clusterState), noRoles: make(map[string]bool), defs: make(map[string][]*TaskDefinition), tokens: make(map[string]runToken),
	}
	n.ecs, n.gw = l.ecs, l.gw
	l.ssm = &ssm{
		site: l.site,
		log:  l.log.With("part", "ssm"), ecs: l.ecs, sessions: l.sessions, faults: l.faults, kmsKey: kmsKey,
		instances: make(map[string]Instance),
	}
	for id, i := range l.cfg.Instances {
		l.AddInstance(id, i)
	}
	l.rds, l.cache = &rds{site: l.site}, &elasticache{site: l.site}
	l.addSTS()
	l.memorydb, l.redshift, l.opensearch = &memorydb{site: l.site}, &redshift{site: l.site}, &opensearch{site: l.site}
	l.kafka, l.eks = &kafka{site: l.site}, &eks{site: l.site}
	l.balancers, l.cloudmap = &balancers{site: l.site}, &cloudmap{site: l.site}
	l.api = awsapi.New(awsapi.Config{
		Region: l.region, Identities: &l.identities, Now: now, Logger: l.log.With("part", "api"), Before: l.faults.before,
		Services: []awsapi.Service{
			l.ecs.service(), l.ssm.service(), l.ec2.service(), l.rds.service(), l.cache.service(), l.kms.service(),
			l.sts.service(), (&iamService{site: l.site, ecs: l.ecs}).service(), (&instanceConnect{site: l.site, ssm: l.ssm, now: now}).service(),
			l.memorydb.service(), l.redshift.service(), l.redshift.serverless(), l.opensearch.service(), l.opensearch.serverless(),
			l.kafka.service(), l.eks.service(), n.service(), l.balancers.service(), l.cloudmap.service(),
		},
	})
	if err := l.addIdentityCenter(); err != nil {
		return err
	}
	return l.addDefaults()
}

// addSTS makes the services that give temporary credentials. The permissions must exist.
func (l *Lab) addSTS() {
	admit := func(id awsapi.Identity) error { return l.admit(id, l.cfg.User) }
	l.sts = &sts{
		site: l.site, now: l.cfg.Now, identities: &l.identities, life: l.cfg.RoleLife, admit: admit,
		codes: make(map[string]bool), tokens: make(map[string]time.Time),
	}
	l.signin = &signin{
		site: l.site,
		now:  l.cfg.Now, url: func() string { return l.url }, life: cmp.Or(l.cfg.RoleLife, loginLife), sessions: make(map[string]*loginSession),
		issue: func(expires time.Time) (awsapi.Identity, error) {
			id := l.temporaryIdentity("lab", "lab", expires)
			return id, admit(id)
		},
	}
}

// addDefaults makes the resources that every lab has.
func (l *Lab) addDefaults() error {
	tags := func(name string) map[string]string { return map[string]string{"bastion": "true", "Name": name} }
	l.ec2.subnets = []Subnet{
		{ID: vpcSubnet + "a", CIDR: "10.99.1.0/24", Zone: l.zone('a'), Tags: tags("private-a")},
		{ID: vpcSubnet + "b", CIDR: "10.99.2.0/24", Zone: l.zone('b'), Tags: tags("private-b")},
	}
	l.ec2.groups = []SecurityGroup{
		{ID: vpcGroup, Name: bastionName, Description: "no inbound rule", Tags: tags(bastionName)},
		{ID: databaseGroup, Name: "databases", Description: "from the bastion", Ingress: []SecurityRule{{0, 65535, "", vpcGroup}}},
	}
	l.ec2.tables = []RouteTable{{ID: "rtb-0000000000000000lab", Main: true, Routes: []Route{{"0.0.0.0/0", "nat-0000000000000000lab"}}}}
	l.allow = slices.Clone(l.cfg.Allow)
	return l.ecs.addStack(l.cfg.TaskEnv, l.cfg.TaskRoleDeny)
}

func (l *Lab) serve(listener net.Listener) {
	mux := http.NewServeMux()
	mux.Handle("GET /v1/data-channel/", l.gw)
	mux.Handle("GET /v1/control-channel/", l.gw)
	mux.Handle("/_lab/", l.admin())
	mux.HandleFunc("GET "+metadataPath+"{task}", l.ecs.serveMetadata)
	mux.HandleFunc("GET "+metadataPath+"{task}/{of}", l.ecs.serveMetadata)
	mux.HandleFunc("GET "+credentialsPath+"{id}", l.ecs.serveCredentials)
	l.identityCenter.register(mux)
	mux.Handle("POST /v1/token", l.signin)
	mux.Handle("/", l.api)
	l.httpServer = &http.Server{
		Handler: l.dated(mux), ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(l.log.Handler(), slog.LevelDebug),
	}
	l.serving.Go(func() {
		if err := l.httpServer.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			l.log.Error("the listener failed", "error", err)
		}
	})
}

// dated gives every answer the date of the lab's clock.
func (l *Lab) dated(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", l.cfg.Now().UTC().Format(http.TimeFormat))
		h.ServeHTTP(w, r)
	})
}

// Close ends everything that the lab runs, waits for that, and removes the lab's temporary files.
func (l *Lab) Close() error {
	l.closeOnce.Do(func() { l.closeErr = l.close() })
	return l.closeErr
}

func (l *Lab) close() error {
	var errs []error
	if l.endTasks != nil {
		l.endTasks()
		l.ecs.close()
	}
	if l.gw != nil {
		errs = append(errs, l.gw.Close())
	}
	if l.httpServer != nil {
		errs = append(errs, l.httpServer.Close())
		l.serving.Wait()
	}
	errs = append(errs, l.closeVPC())
	if l.tmp != "" {
		errs = append(errs, os.RemoveAll(l.tmp))
	}
	return errors.Join(errs...)
}

// Region returns the account's region: AWS_REGION.
func (l *Lab) Region() string { return l.region }

// Account returns the lab's account.
func (l *Lab) Account() string { return l.account }

// URL returns the endpoint of the APIs: AWS_ENDPOINT_URL.
func (l *Lab) URL() string { return l.url }

// Gateway returns the message gateway, which has the data channel's faults.
func (l *Lab) Gateway() *gateway.Gateway { return l.gw }

// SetAPIFaults replaces the faults of the control plane.
func (l *Lab) SetAPIFaults(f APIFaults) error {
	if err := f.validate(); err != nil {
		return err
	}
	l.faults.replace(f)
	return nil
}

// APIFaults returns the faults in force; counts are the remaining ones.
func (l *Lab) APIFaults() APIFaults { return l.faults.get() }

// Calls returns how many authenticated API calls came, by action ("ecs:RunTask").
func (l *Lab) Calls() map[string]int { return l.api.Counts() }

// AddInstance adds a managed node, or replaces the one with the id.
func (l *Lab) AddInstance(id string, i Instance) {
	l.ssm.mu.Lock()
	defer l.ssm.mu.Unlock()
	l.ssm.instances[id] = i
}

// AddCluster adds an ECS cluster.
func (l *Lab) AddCluster(name string) { l.ecs.addCluster(name, clusterState{}) }

// AddTaskDefinition registers a task definition, or another revision of one.
func (l *Lab) AddTaskDefinition(d TaskDefinition) { l.ecs.addDefinition(d) }

// AddSubnet adds a subnet.
func (l *Lab) AddSubnet(s Subnet) {
	l.ec2.mu.Lock()
	defer l.ec2.mu.Unlock()
	l.ec2.subnets = append(l.ec2.subnets, s)
}

// AddSecurityGroup adds a security group.
func (l *Lab) AddSecurityGroup(g SecurityGroup) {
	l.ec2.mu.Lock()
	defer l.ec2.mu.Unlock()
	l.ec2.groups = append(l.ec2.groups, g)
}

// Task describes a task of the lab, for tests and the admin endpoint.
type Task struct {
	ID            string    `json:"id"`
	ARN           string    `json:"arn"`
	Cluster       string    `json:"cluster"`
	Definition    string    `json:"definition"`
	StartedBy     string    `json:"started_by,omitempty"`
	Target        string    `json:"target"`
	LastStatus    string    `json:"last_status"`
	DesiredStatus string    `json:"desired_status"`
	Connected     bool      `json:"connected"`          // the exec agent answers
	Capacity      string    `json:"capacity,omitempty"` // its capacity provider; empty: the launch type FARGATE
	PID           int       `json:"pid,omitempty"`
	Created       time.Time `json:"created"`
	StopCode      string    `json:"stop_code,omitempty"`
	StoppedReason string    `json:"stopped_reason,omitempty"`
	ExitCode      *int      `json:"exit_code,omitempty"`
}

// Tasks describes the tasks, oldest first.
func (l *Lab) Tasks() []Task {
	l.ecs.mu.Lock()
	defer l.ecs.mu.Unlock()
	tasks := []Task{}
	for _, t := range l.ecs.tasks {
		v := Task{
			ID: t.id, ARN: t.arn, Cluster: t.cluster, Definition: t.def.Family, StartedBy: t.startedBy, Target: t.target(),
			LastStatus: t.last, DesiredStatus: t.desired, Connected: t.connected, Capacity: t.capacity, Created: t.created,
			StopCode: t.stopCode, StoppedReason: t.stoppedReason, ExitCode: t.exitCode,
		}
		if t.container != nil && t.exitCode == nil {
			v.PID = t.container.PID()
		}
		tasks = append(tasks, v)
	}
	return tasks
}

// ErrNoTask is the error for a task that the lab does not have.
var ErrNoTask = errors.New("no such task")

func (l *Lab) task(id string) (*task, error) {
	l.ecs.mu.Lock()
	defer l.ecs.mu.Unlock()
	i := slices.IndexFunc(l.ecs.tasks, func(t *task) bool { return t.id == id || t.arn == id })
	if i < 0 {
		return nil, fmt.Errorf("%w: %s", ErrNoTask, id)
	}
	return l.ecs.tasks[i], nil
}

// StopTask stops a task as AWS itself does, such as for maintenance of the host, and waits until it is STOPPED.
func (l *Lab) StopTask(ctx context.Context, id, reason string) error {
	t, err := l.task(id)
	if err != nil {
		return err
	}
	l.ecs.requestStop(t, "ServiceSchedulerInitiated", reason)
	select {
	case <-t.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// KillTask ends a task's program without warning, as a crash or the kernel's out-of-memory killer would.
func (l *Lab) KillTask(id string) error {
	t, err := l.task(id)
	if err != nil {
		return err
	}
	l.ecs.mu.Lock()
	defer l.ecs.mu.Unlock()
	if t.container == nil {
		return fmt.Errorf("task %s has no program yet", id)
	}
	t.container.Kill()
	return nil
}

// Exec runs a command inside a task under a pty, without a session. Tests use it to look into tasks. The caller must wait for the
// command.
func (l *Lab) Exec(ctx context.Context, id string, argv []string) (gateway.Process, error) {
	t, err := l.task(id)
	if err != nil {
		return nil, err
	}
	l.ecs.mu.Lock()
	c := t.container
	l.ecs.mu.Unlock()
	if c == nil {
		return nil, fmt.Errorf("task %s has no program yet", id)
	}
	return c.Exec(ctx, argv)
}

// TaskOutput returns the output of a task's program so far. For bastiond that is the audit on stdout and the log on stderr.
func (l *Lab) TaskOutput(id string) (stdout, stderr []byte, err error) {
	t, err := l.task(id)
	if err != nil {
		return nil, nil, err
	}
	l.ecs.mu.Lock()
	out, errs := t.stdout, t.stderr
	l.ecs.mu.Unlock()
	if stdout, err = out.read(); err != nil {
		return nil, nil, err
	}
	stderr, err = errs.read()
	return stdout, stderr, err
}

// taskEnv returns the environment with which every task begins.
func (l *Lab) taskEnv() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	env := map[string]string{"BASTIOND_ALLOW": strings.Join(l.allow, ",")}
	if l.resolver != nil {
		env["BASTIOND_RESOLVER"] = l.resolver.Addr().String()
	}
	return env
}

// Allow adds destinations ("127.0.0.9:*") to the BASTIOND_ALLOW of tasks that start from now on.
func (l *Lab) Allow(destinations ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.allow = append(l.allow, destinations...)
}

// path returns the path of one of the lab's files.
func (l *Lab) path(name string) string { return filepath.Join(l.dir, name) }
