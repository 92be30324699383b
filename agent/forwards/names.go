package forwards

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/arn"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/pattern"
)

// scope is the scope of a forward's name. Forwards of different scopes may share a name.
type scope struct {
	environment string
	profile     string
	region      string
	account     string // for credentials from variables; a profile implies its account
}

// ident identifies a forward by its scope and name.
type ident struct {
	scope scope
	name  string
}

// scope returns the scope of the record's name.
func (r *Record) scope() scope {
	out := scope{
		environment: r.Scope.Settings[environmentKey], profile: ProfileOf(r.Scope, r.Owner),
		region: cmp.Or(r.Region, regionOf(r.Scope)),
	}
	if r.Owner != "" {
		out.account = accountOf(r.Owner)
	}
	return out
}

// scopes returns the scope of the record's name, and its scope in records of older versions, which lack the region.
func (r *Record) scopes() []scope {
	older := *r
	older.Region = ""
	return []scope{r.scope(), older.scope()}
}

func (r *Record) ident() ident { return ident{r.scope(), r.Request.Name} }

// sameTarget reports whether both records have the same kind and target.
func (r *Record) sameTarget(other *Record) bool {
	return r.Request.Kind == other.Request.Kind && r.Request.Target == other.Request.Target
}

// ProfileOf returns the profile of a scope's credentials; "" for the default ones. owner is the ARN of credentials from
// variables, or "".
func ProfileOf(s api.Scope, owner string) string {
	if owner != "" {
		return s.Settings["profile"]
	}
	return cmp.Or(s.Settings["profile"], s.Env["AWS_PROFILE"], s.Env["AWS_DEFAULT_PROFILE"])
}

// regionOf returns the region in a scope's settings or variables; "" if only its profile has one.
func regionOf(s api.Scope) string {
	return cmp.Or(s.Settings["region"], s.Env["AWS_REGION"], s.Env["AWS_DEFAULT_REGION"])
}

// accountOf returns the AWS account in an owner's ARN, or the ARN if it lacks one.
func accountOf(owner string) string {
	if parsed, err := arn.Parse(owner); err == nil && parsed.AccountID != "" {
		return parsed.AccountID
	}
	return owner
}

// all refers to every forward in place of a name.
const all = "all"

// maxName is the longest name of a forward, in bytes.
const maxName = 63

var nameForm = pattern.Lazy(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)

// ValidName reports whether a forward can have the name. Every target name of the configuration is valid, except "all".
func ValidName(name string) bool {
	return nameForm().MatchString(name) && len(name) <= maxName && name != all
}

// Numbered returns name with a suffix for attempt n to find a free name.
func Numbered(name string, n int) string {
	number := "-" + strconv.Itoa(n)
	return name[:min(len(name), maxName-len(number))] + number
}

// Called returns the forwards that ref names: NAME, NAME@LINK or "all". It refuses a NAME that several forwards share.
func (r *Registry) Called(ref string) ([]*Forward, error) {
	name, link, qualified := strings.Cut(ref, "@")
	var out []*Forward
	var names, refs []string
	for _, f := range r.All() {
		names = append(names, f.Name())
		if ref == all || f.Name() == name && (!qualified || f.record.Link == link) {
			out = append(out, f)
			refs = append(refs, f.Name()+"@"+f.record.Link)
		}
	}
	op := "stop the forward " + ref
	switch {
	case ref == all || len(out) == 1:
		return out, nil
	case len(out) == 0:
		return nil, fail.New(fail.NoTarget, op, errors.New("there is none of this name"), haveNames(names))
	}
	slices.Sort(refs)
	return nil, fail.New(fail.NoTarget, op, fmt.Errorf("%d accounts or regions have a forward of this name", len(out)),
		"choose one: "+strings.Join(refs, " or "))
}

// haveNames returns the hint for a caller that named a missing forward.
func haveNames(names []string) string {
	if len(names) == 0 {
		return "there are no forwards; bastion forward -d opens one"
	}
	slices.Sort(names)
	return fmt.Sprintf("there are %s; bastion ls forwards shows them", strings.Join(slices.Compact(names), ", "))
}

// Sort sorts the forwards for display, the oldest first.
func Sort(shown []api.Forward) {
	slices.SortFunc(shown, func(x, y api.Forward) int { return cmp.Or(x.Opened.Compare(y.Opened), cmp.Compare(x.Name, y.Name)) })
}

// Refer sets each forward's unique reference.
func Refer(shown []api.Forward) {
	n := make(map[string]int)
	for _, f := range shown {
		n[f.Name]++
	}
	for i := range shown {
		f := &shown[i]
		f.Ref = f.Name
		if n[f.Name] > 1 {
			f.Ref += "@" + f.Link
		}
	}
}

// holder returns the forward that keeps f from having a name in its scope; nil if the name is free. A detached forward may take
// the name of an Unopened one with the same target, which it replaces.
func (r *Registry) holder(f *Forward, name string) *Forward {
	for _, s := range f.record.scopes() {
		for _, other := range r.forwards {
			switch {
			case other == f || other.record.ident() != (ident{s, name}):
			case other.state == Unopened && f.detached && other.record.sameTarget(&f.record):
			default:
				return other
			}
		}
	}
	return nil
}

// claims reports whether f, which holds its name, is the holder that keeps other from having it.
func (f *Forward) claims(other *Forward) bool {
	return f.state != Unopened &&
		slices.ContainsFunc(f.record.scopes(), func(s scope) bool { return other.record.ident() == ident{s, f.Name()} })
}

// freeName returns name, or a numbered name that f may have.
func (r *Registry) freeName(f *Forward, name string) string {
	base := cmp.Or(name, string(f.record.Request.Kind))
	name = base
	for n := 2; r.holder(f, name) != nil; n++ {
		name = Numbered(base, n)
	}
	return name
}

// taken returns the error for a name that holder has.
func taken(name string, holder *Forward) error {
	what := cmp.Or(holder.record.Request.Target, "a proxy")
	if listen := holder.record.Request.Listen; listen != "" && holder.state != Opening { // before that it is not final
		what += " at " + listen
	}
	next := "choose another with --name; bastion stop " + name + " ends the one that has it"
	if holder.state == Opening { // Called omits Opening forwards
		next = "choose another with --name, or end the command that opens the one that has it"
	}
	return fail.New(fail.Usage, "", &api.NameTaken{Name: name, By: what}, next)
}
