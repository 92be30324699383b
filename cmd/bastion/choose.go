package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// meant is the scope that a command is for, as far as its settings and variables name it.
type meant struct {
	profile, region string
	byVariables     bool // the credentials are those of variables

	// whoami returns the region and the owner of the command's own credentials. It is asked only where several forwards remain.
	whoami func(context.Context) (region, owner string, err error)
}

func (a *app) meant(s config.Settings) meant {
	env := awssdk.RelevantEnv(os.Environ())
	m := meant{profile: s.AWS.Profile, region: cmp.Or(s.AWS.Region, env["AWS_REGION"], env["AWS_DEFAULT_REGION"])}
	if m.profile == "" {
		m.byVariables = awssdk.NewEnv(env).Credentials().HasKeys()
		if !m.byVariables {
			m.profile = cmp.Or(env["AWS_PROFILE"], env["AWS_DEFAULT_PROFILE"])
		}
	}
	var region, owner string
	m.whoami = func(ctx context.Context) (string, string, error) {
		if region != "" {
			return region, owner, nil
		}
		run, err := a.open(ctx, "", s)
		if err != nil {
			return "", "", err
		}
		defer run.close()
		ctx, cancel := bounded(ctx, s)
		defer cancel()
		if m.byVariables {
			if owner, err = run.access.Owner(ctx); err != nil {
				return "", "", err
			}
		}
		region = run.access.Region()
		return region, owner, nil
	}
	return m
}

// isNamed reports whether the command says which scope it is for.
func (m meant) isNamed() bool { return m.profile != "" || m.byVariables }

// has reports whether a forward may be of the scope.
func (m meant) has(f api.Forward) bool {
	switch {
	case m.region != "" && f.Region != "" && f.Region != m.region:
		return false
	case m.byVariables:
		return f.Owner != ""
	case m.profile != "":
		return f.Owner == "" && f.Profile == m.profile
	}
	return true
}

func (m meant) String() string {
	var parts []string
	switch {
	case m.byVariables:
		parts = append(parts, "the credentials of your variables")
	case m.profile != "":
		parts = append(parts, "the profile "+m.profile)
	}
	if m.region != "" {
		parts = append(parts, "the region "+m.region)
	}
	return strings.Join(parts, " and ")
}

// scopeText names the scope of a forward.
func scopeText(f api.Forward) string {
	var parts []string
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

// errNoForward is why there is nothing to choose from.
var errNoForward = errors.New("no such forward")

// choose returns the forward, of those that ref means by its name, name@link or (of several in a row) another property, that is
// of the command's scope. Of several with one target there it is the same each time. The error is errNoForward where no forward
// is called so.
func choose(ctx context.Context, all []api.Forward, ref string, m meant, by ...func(api.Forward) string) (api.Forward, error) {
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
		var some []api.Forward
		for _, f := range all {
			if of(f) == ref {
				some = append(some, f)
			}
		}
		fits := slices.DeleteFunc(slices.Clone(some), func(f api.Forward) bool { return !m.has(f) })
		if len(fits) > 0 {
			return chooseOne(ctx, fits, ref, m)
		}
		others = append(others, some...)
	}
	if len(others) == 0 {
		return api.Forward{}, errNoForward
	}
	return api.Forward{}, fail.New(fail.NoTarget, "", fmt.Errorf("no forward %s is of %s", ref, m), "choose the scope: "+scopes(others))
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
func chooseOne(ctx context.Context, fits []api.Forward, ref string, m meant) (api.Forward, error) {
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
			return f.Profile != all[0].Profile || f.Region != all[0].Region || f.Owner != all[0].Owner
		})
	}
	if sameScope(fits) {
		return fits[0], nil
	}
	if !m.isNamed() { // no profile is a scope too
		if own := slices.DeleteFunc(slices.Clone(fits), func(f api.Forward) bool {
			return f.Profile != "" || f.Owner != ""
		}); len(own) > 0 {
			fits = own
		}
	}
	if !sameScope(fits) && m.whoami != nil {
		region, owner, err := m.whoami(ctx)
		if own := slices.DeleteFunc(slices.Clone(fits), func(f api.Forward) bool {
			return f.Region != region || f.Owner != owner || m.isNamed() && !m.byVariables && f.Profile != m.profile || !m.isNamed() && f.Profile != ""
		}); err == nil && len(own) > 0 {
			fits = own
		}
	}
	if sameScope(fits) {
		return fits[0], nil
	}
	return api.Forward{}, fail.New(fail.NoTarget, "", fmt.Errorf("%s means several forwards: %s", ref, scopes(fits)),
		"choose with --profile and --region, or name one as NAME@LINK")
}
