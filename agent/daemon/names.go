package daemon

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
)

// scope is what a forward's name belongs to. Two forwards may have one name in different scopes.
type scope struct {
	profile string
	region  string
	account string // of credentials that came by variables; a profile says which account it is
}

// ident is what identifies a forward.
type ident struct {
	scope scope
	name  string
}

// scope returns the scope of the record's name.
func (r *record) scope() scope {
	out := scope{profile: profileOf(r.Scope, r.Owner), region: cmp.Or(r.Region, regionOf(r.Scope))}
	if r.Owner != "" {
		out.account = accountOf(r.Owner)
	}
	return out
}

// scopes returns the scope of the record's name, and the one that an older version, which does not write the region down, has for it.
func (r *record) scopes() []scope {
	older := *r
	older.Region = ""
	return []scope{r.scope(), older.scope()}
}

func (r *record) ident() ident { return ident{r.scope(), r.Request.Name} }

// profileOf returns the profile whose credentials a scope has; "" for those of variables, and for the default ones.
func profileOf(s api.Scope, owner string) string {
	if owner != "" {
		return s.Settings["profile"]
	}
	return cmp.Or(s.Settings["profile"], s.Env["AWS_PROFILE"], s.Env["AWS_DEFAULT_PROFILE"])
}

// regionOf returns the region that a scope names; "" if its profile does.
func regionOf(s api.Scope) string {
	return cmp.Or(s.Settings["region"], s.Env["AWS_REGION"], s.Env["AWS_DEFAULT_REGION"])
}

// accountOf returns the AWS account of an owner's ARN; the ARN if it has none.
func accountOf(owner string) string {
	if parsed, err := arn.Parse(owner); err == nil && parsed.AccountID != "" {
		return parsed.AccountID
	}
	return owner
}

// all is what stands for every forward where a name is asked for.
const all = "all"

// called returns the forwards that ref means among those there, which are given with their links. ref is NAME, NAME@LINK, or all. A
// name that several forwards have must be given with a link.
func called(there map[ident]string, ref string) ([]ident, error) {
	name, link, qualified := strings.Cut(ref, "@")
	var out []ident
	var names, links []string
	for id, of := range there {
		names = append(names, id.name)
		if ref == all || id.name == name && (!qualified || of == link) {
			out = append(out, id)
			links = append(links, id.name+"@"+of)
		}
	}
	op := "stop the forward " + ref
	switch {
	case ref == all || len(out) == 1:
		return out, nil
	case len(out) == 0:
		return nil, fail.New(fail.NoTarget, op, errors.New("there is none of this name"), haveNames(names))
	}
	slices.Sort(links)
	return nil, fail.New(fail.NoTarget, op, fmt.Errorf("%d accounts or regions have a forward of this name", len(out)),
		"choose one: "+strings.Join(links, " or "))
}

// haveNames returns the next step for a caller that named a missing forward.
func haveNames(names []string) string {
	if len(names) == 0 {
		return "there are no forwards; bastion forward -d opens one"
	}
	slices.Sort(names)
	return fmt.Sprintf("there are %q; bastion ls forwards shows them", slices.Compact(names))
}

// refer gives each forward the text that means it alone.
func refer(forwards []api.Forward) {
	n := make(map[string]int)
	for _, f := range forwards {
		n[f.Name]++
	}
	for i := range forwards {
		f := &forwards[i]
		f.Ref = f.Name
		if n[f.Name] > 1 {
			f.Ref += "@" + f.Link
		}
	}
}

// checkNames refuses forwards whose name was asked for and is another's in their scope. The caller holds d.mu.
func (d *Daemon) checkNames(forwards []*forward) error {
	seen := make(map[ident]*record)
	for _, f := range forwards {
		if !f.named || f.twin != nil {
			continue
		}
		id := f.record.ident()
		has := cmp.Or(d.holder(f, id.name), seen[id])
		if has != nil {
			what := cmp.Or(has.Request.Target, "a proxy")
			if listen := has.Request.Listen; listen != "" {
				what += " at " + listen
			}
			return fail.New(fail.Usage, "", &api.NameTaken{Name: id.name, By: what},
				"choose another with --name; bastion stop "+id.name+" ends the one that has it")
		}
		seen[id] = &f.record
	}
	return nil
}

// holder returns the forward that has a name in f's scope, or is to come back under it; nil if f may have the name. A detached forward
// may take the place of one of the same target that is to come back. The caller holds d.mu.
func (d *Daemon) holder(f *forward, name string) *record {
	r := &f.record
	for _, s := range r.scopes() {
		id := ident{s, name}
		if other := d.forwards[id]; other != nil {
			return &other.record
		}
		u, ok := d.unopened[id]
		if ok && (!f.detached || u.record.Request.Kind != r.Request.Kind || u.record.Request.Target != r.Request.Target) {
			return &u.record
		}
	}
	return nil
}

// freeName returns the name that was asked for, or one like it. The caller holds d.mu.
func (d *Daemon) freeName(f *forward, taken map[ident]bool) ident {
	id := f.record.ident()
	id.name = cmp.Or(id.name, string(f.record.Request.Kind))
	base := id.name
	for n := 2; d.holder(f, id.name) != nil || taken[id]; n++ {
		id.name = base + "-" + strconv.Itoa(n)
	}
	return id
}
