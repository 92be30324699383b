// Package lookup says which of the agent's forwards a name of the command line means. A name belongs to a profile, account and region: in
// a command that names one of these, it means a forward there; in another it must be of one alone.
package lookup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// Scope is what a command is for, as far as its settings and variables name it.
type Scope struct {
	Environment     string // "": any
	Profile, Region string
	ByVariables     bool // the credentials are those of variables

	// WhoAmI returns the region and the owner of the command's own credentials. It is asked only where several forwards remain.
	WhoAmI func(context.Context) (region, owner string, err error)
	// IsTarget reports whether bastion forward takes a text as a target; nil: any may be one.
	IsTarget func(text string) bool
}

// isNamed reports whether the command says which scope it is for.
func (m Scope) isNamed() bool { return m.Environment != "" || m.Profile != "" || m.ByVariables }

// Has reports whether a forward may be of the scope.
func (m Scope) Has(f api.Forward) bool {
	switch {
	case m.Environment != "" && f.Environment != "": // an older agent does not say it
		return m.Environment == f.Environment
	case m.Region != "" && f.Region != "" && f.Region != m.Region:
		return false
	case m.ByVariables:
		return f.Owner != ""
	case m.Profile != "":
		return f.Owner == "" && f.Profile == m.Profile
	}
	return true
}

func (m Scope) String() string {
	var parts []string
	switch {
	case m.Environment != "":
		parts = append(parts, "the environment "+m.Environment)
	case m.ByVariables:
		parts = append(parts, "the credentials of your variables")
	case m.Profile != "":
		parts = append(parts, "the profile "+m.Profile)
	}
	if m.Region != "" {
		parts = append(parts, "the region "+m.Region)
	}
	return strings.Join(parts, " and ")
}

// scopeText names the scope of a forward.
func scopeText(f api.Forward) string {
	var parts []string
	if f.Environment != "" {
		parts = append(parts, "environment "+f.Environment)
	}
	switch {
	case f.Profile != "":
		parts = append(parts, "profile "+f.Profile)
	case f.Owner != "":
		parts = append(parts, "credentials of "+f.Owner)
	default:
		parts = append(parts, "no profile")
	}
	if f.Account != "" {
		parts = append(parts, "account "+f.Account)
	}
	if f.Region != "" {
		parts = append(parts, f.Region)
	}
	return strings.Join(parts, ", ")
}

// ErrNone is why there is nothing to choose from.
var ErrNone = errors.New("no such forward")

// Choose returns the forward, of those that ref means by its name, name@link or (of several in a row) another property, that is
// of the command's scope. Of several with one target there it is the same each time. The error is ErrNone where no forward
// is called so.
func Choose(ctx context.Context, all []api.Forward, ref string, m Scope, by ...func(api.Forward) string) (api.Forward, error) {
	name, link, qualified := strings.Cut(ref, "@")
	if qualified {
		for _, f := range all {
			if f.Name == name && f.Link == link {
				return f, nil
			}
		}
	}
	var others []api.Forward
	for _, of := range append([]func(api.Forward) string{func(f api.Forward) string { return f.Name }}, by...) {
		some := those(all, func(f api.Forward) bool { return of(f) == ref })
		if fits := those(some, m.Has); len(fits) > 0 {
			return chooseOne(ctx, fits, ref, m)
		}
		others = append(others, some...)
	}
	if len(others) == 0 {
		return api.Forward{}, ErrNone
	}
	return api.Forward{}, fail.New(fail.NoTarget, "", fmt.Errorf("no forward %s is of %s", ref, m), "choose the scope: "+scopes(others))
}

// those returns the forwards that keep accepts.
func those(all []api.Forward, keep func(api.Forward) bool) []api.Forward {
	return slices.DeleteFunc(slices.Clone(all), func(f api.Forward) bool { return !keep(f) })
}

// scopes lists forwards with their scopes.
func scopes(forwards []api.Forward) string {
	var out []string
	for _, f := range forwards {
		out = append(out, fmt.Sprintf("%s@%s is of %s", f.Name, f.Link, scopeText(f)))
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), "; ")
}

// chooseOne chooses among forwards that may all be meant.
func chooseOne(ctx context.Context, fits []api.Forward, ref string, m Scope) (api.Forward, error) {
	slices.SortFunc(fits, func(x, y api.Forward) int {
		if x.Detached != y.Detached {
			if x.Detached {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.Link, y.Link))
	})
	sameScope := func(all []api.Forward) bool {
		return !slices.ContainsFunc(all, func(f api.Forward) bool {
			return f.Environment != all[0].Environment || f.Profile != all[0].Profile || f.Region != all[0].Region || f.Owner != all[0].Owner
		})
	}
	if sameScope(fits) {
		return fits[0], nil
	}
	if !m.isNamed() { // no profile is a scope too
		if own := those(fits, func(f api.Forward) bool { return f.Environment == "" && f.Profile == "" && f.Owner == "" }); len(own) > 0 {
			fits = own
		}
	}
	if !sameScope(fits) && m.WhoAmI != nil {
		region, owner, err := m.WhoAmI(ctx)
		if own := slices.DeleteFunc(slices.Clone(fits), func(f api.Forward) bool {
			return f.Region != region || f.Owner != owner || m.isNamed() && !m.ByVariables && f.Profile != m.Profile || !m.isNamed() && f.Profile != ""
		}); err == nil && len(own) > 0 {
			fits = own
		}
	}
	if sameScope(fits) {
		return fits[0], nil
	}
	return api.Forward{}, fail.New(fail.NoTarget, "", fmt.Errorf("%s means several forwards: %s", ref, scopes(fits)),
		"choose with --environment, or --profile and --region, or name one as NAME@LINK")
}

// Find returns the forward of a target, not of a proxy, that name means, also by its target. It must be one that serves.
func Find(ctx context.Context, all []api.Forward, name string, m Scope) (api.Forward, error) {
	tcp := those(all, func(f api.Forward) bool { return f.Kind != api.KindProxy })
	f, err := Choose(ctx, tcp, name, m, func(f api.Forward) string { return f.Spec },
		func(f api.Forward) string { return request.WithoutPort(f.Spec) })
	switch {
	case errors.Is(err, ErrNone):
	case err == nil && f.State == api.ForwardKept:
		return f, fail.New(fail.NoTarget, "", fmt.Errorf("no agent is running to open the forward %s again", f.Name),
			"run bastion agent start")
	case err == nil && f.State == api.ForwardFailed:
		return f, fail.New(fail.NoTarget, "", fmt.Errorf("the forward %s does not work: %s", f.Name, cmp.Or(f.Error, string(f.State))),
			cmp.Or(f.Next, reopen(f)))
	default:
		return f, err
	}
	wanted := inEnvironment(m.Environment, name)
	next := "start one: bastion forward -d " + wanted
	switch {
	case strings.Contains(name, "@"):
		next = "bastion ls shows NAME@LINK of each"
	case slices.ContainsFunc(all, func(f api.Forward) bool { return f.Name == name }):
		return api.Forward{}, fail.New(fail.NoTarget, "", fmt.Errorf("%s is a proxy, which has no connection string", name),
			"name the forward of a database; bastion ls shows the forwards")
	case m.IsTarget != nil && !m.IsTarget(name):
		next = "start one: bastion forward -d SPEC, where SPEC is rds:ID, cache:ID, HOST:PORT or a name of the configuration"
	}
	var names []string
	for _, f := range tcp {
		names = append(names, inEnvironment(f.Environment, f.Name))
	}
	if len(names) > 0 {
		slices.Sort(names)
		next += "; these run: " + strings.Join(slices.Compact(names), ", ")
	}
	return api.Forward{}, fail.New(fail.NoTarget, "", fmt.Errorf("no forward of %s is running", wanted), next)
}

// inEnvironment writes a forward's name as the command line takes it.
func inEnvironment(environment, name string) string {
	if environment == "" {
		return name
	}
	return environment + "/" + name
}

// Missing says what the forward f lacks, or why there is none, and what to do.
func Missing(f api.Forward, err error) (lacks, next string) {
	switch {
	case errors.Is(err, ErrNone):
		return "there is none", "bastion ls forwards shows the forwards; allow more time with --timeout"
	case err != nil:
		return err.Error(), fail.NextOf(err)
	case f.State == api.ForwardKept:
		return "no agent is running", "bastion agent start opens the forward again"
	case f.Error == "":
		return "its link is not up", "bastion status shows the link; allow more time with --timeout"
	case f.State == api.ForwardFailed:
		return "it does not work (" + f.Error + ")", cmp.Or(f.Next, reopen(f))
	}
	return "it waits (" + f.Error + ")", cmp.Or(f.Next, "bastion status shows the link; allow more time with --timeout")
}

// reopen is the next step for a forward that does not work: a command tries again at once.
func reopen(f api.Forward) string {
	verb := "forward -d --name " + f.Name + " " + f.Spec
	if f.Kind == api.KindProxy {
		verb = "socks -d --name " + f.Name
	}
	if _, port, err := net.SplitHostPort(f.Listen); err == nil {
		verb += " " + port
	}
	return "try again: bastion " + verb
}
