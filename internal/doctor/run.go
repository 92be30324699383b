package doctor

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/targets"
)

// The gatherers' time limits. A gatherer that is late leaves its facts without an answer, and the checks say so.
const (
	credentialsLimit = 10 * time.Second
	promptLimit      = 2 * time.Minute // of credentials for which the user is asked
	stepLimit        = 4 * time.Second // of a step on the way to an endpoint
	callLimit        = 8 * time.Second // of a call, with the SDK's further attempts
	connectLimit     = 25 * time.Second
	localLimit       = 3 * time.Second
)

// attempts is how often the doctor tries a call: a failure is a finding, and not to be waited for.
const attempts = 2

// Options are what an examination is of.
type Options struct {
	Settings    config.Settings
	SettingsErr error // of the settings: they are then defaults
	Target      string
	Version     string
	Program     string // this program's path, for OpenSSH's block
	MFA         *awssdk.MFA
	Progress    func(step string) // must not block
	// Serving returns the name of another environment whose bastion is at a place, or "". nil: there are no environments.
	Serving func(context.Context, report.Place) string
}

// Run examines, and returns the report. It ends with ctx.
func Run(ctx context.Context, o Options) Report {
	began := time.Now()
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	f := &Facts{Version: o.Version, Settings: o.Settings, SettingsErr: o.SettingsErr, Target: o.Target}
	g := &gatherer{Options: o, facts: f}
	g.target()
	if o.SettingsErr == nil {
		g.gather(ctx)
	} else {
		g.openSSH(ctx)
	}
	r := Report{
		V: reportVersion, Version: o.Version, System: runtime.GOOS + "/" + runtime.GOARCH, Target: o.Target, Env: o.Settings.Environment,
		Findings: judge(f, Checks()), Endpoints: []Reach{}, Measured: f.Running.Measured, facts: f,
	}
	for _, e := range f.Reaches {
		r.Endpoints = append(r.Endpoints, e.show())
	}
	r.Worst, r.Fixes, r.Seconds = worst(r.Findings), fixes(f), time.Since(began).Seconds()
	return r
}

// gatherer collects facts. Each of its methods writes a part of them that no other writes.
type gatherer struct {
	Options
	facts *Facts
	cfg   aws.Config
	calls calls
}

// target reads the target.
func (g *gatherer) target() {
	f := g.facts
	if g.Target == "" || g.SettingsErr != nil {
		return
	}
	f.Spec, f.TargetErr = targets.Parse(g.Target)
	if f.TargetErr == nil && f.Spec.Kind == targets.Name {
		named, ok := g.Settings.Targets[f.Spec.ID]
		if !ok {
			return // a host without a dot, or a name that Resolve reports
		}
		if spec, err := request.Named(named); err == nil {
			f.Spec = spec
		}
	}
}

// together runs functions at once and waits for all.
func together(functions ...func()) {
	var all sync.WaitGroup
	for _, f := range functions {
		all.Go(f)
	}
	all.Wait()
}

func (g *gatherer) gather(ctx context.Context) {
	f := g.facts
	g.Progress("looking at this machine and the way to AWS")
	together(
		func() { g.directories(ctx) },
		func() { g.openSSH(ctx) },
		func() { g.hosts() },
		func() { g.credentials(ctx) },
	)
	if f.Credentials.ProfileErr != nil || f.Credentials.RegionErr != nil {
		g.ports(ctx)
		return
	}
	together(func() { g.network(ctx) }, func() { g.identity(ctx) })
	if f.Credentials.LoadErr == nil && f.Credentials.AskErr == nil {
		g.Progress("looking at the bastion's set-up in AWS")
		g.aws(ctx)
	}
	g.ports(ctx)
}

// aws looks at AWS, then at the bastion that runs, if one does.
func (g *gatherer) aws(ctx context.Context) {
	f := g.facts
	way, err := access.New(ctx, g.Settings, access.Options{Version: g.Version, MFA: g.MFA})
	if err != nil {
		f.Running.Err = err
		return
	}
	defer way.Close()
	g.calls = bind(g.cfg)
	isTask := g.Settings.SSHD.Target == ""
	tasks := []func(){func() { g.where(ctx, way) }}
	if isTask {
		f.Account.Asked, f.Running.Asked = true, true
		tasks = append(tasks, func() { g.account(ctx) }, func() { g.running(ctx, way) })
	}
	together(tasks...)
	b := f.bastion()
	if !isTask || b == nil || !b.ExecRunning || b.Refused != "" || b.Outdated != "" {
		return
	}
	g.Progress("measuring a connection to the bastion")
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	destination := ""
	if f.Target != "" && f.Where.Err == nil && f.TargetErr == nil {
		destination = access.Destination(f.Where.Endpoint.Host, f.Where.Endpoint.Port)
	}
	f.Running.Measured, f.Running.ConnectErr = way.Measure(ctx, destination)
	if m := f.Running.Measured; m != nil {
		f.Where.Dialed, f.Where.DialErr = m.Dialed, m.Dial
	}
}
