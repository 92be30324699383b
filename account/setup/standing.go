package setup

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/account/deploy"
	"github.com/bastion-ssm/bastion/account/survey"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// standing makes the inputs of a stack that exists. What it was made with stays, unless the answers say otherwise: a survey would take the
// stack's own endpoints and rules for somebody else's.
func (s *Setup) standing(plan *Plan, l survey.Landscape, state deploy.State) (account.Inputs, error) {
	if !state.Own {
		return account.Inputs{}, foreign(s.Answers.Inputs.Name)
	}
	plan.repository, plan.deployed, plan.ingress = state.Outputs[RepositoryOutput], state.Parameters, state.Inputs.Ingress
	plan.people = admissions(state.Inputs.Classes)
	in := merged(state.Inputs, s.Answers.Inputs)
	in.Classes = asBefore(state.Inputs.Classes, in.Classes)
	in.PublicAddress = (in.PublicAddress || s.Answers.PublicAddress) && !s.Answers.NoPublicAddress
	vpc := cmp.Or(in.VPC, state.Parameters[vpcParameter])
	if err := s.refuse(l, in, vpc); err != nil {
		return in, err
	}
	now, err := survey.Choose(l, survey.Answers{
		VPC: vpc, Groups: cmp.Or(s.Answers.Groups, survey.No), PublicAddress: in.PublicAddress,
		Inputs: account.Inputs{Name: in.Name, Subnets: in.Subnets, SecurityGroup: cmp.Or(in.SecurityGroup, state.Outputs["SecurityGroupId"])},
	})
	if err != nil {
		plan.Choice = survey.Choice{Notes: []string{err.Error()}}
		if s.Answers.Groups == survey.Yes || s.Answers.PublicAddress { // the answer depends on the survey
			return in, err
		}
	} else {
		plan.Choice = survey.Choice{VPC: now.VPC, Databases: now.Databases}
		if len(s.Answers.Inputs.Classes) > 0 {
			plan.Choice.Notes = append(unlisted(state.Inputs.Classes, in.Classes), open(&in, state, now.Inputs.Classes[0].Allow)...)
		} else {
			plan.Choice.Notes = unknown(in.Classes, now.Inputs.Classes[0].Allow)
			if len(s.Answers.Inputs.Egress) > 0 {
				plan.Choice.Notes = append(plan.Choice.Notes, survey.Unopened(in)...)
			}
		}
	}
	switch s.Answers.Groups {
	case survey.Yes:
		in.Ingress = joined(in.Ingress, now.Ingress)
	case survey.No:
		in.Ingress = nil
	}
	return in, nil
}

// asBefore are classes that keep the shared tasks and the people which they had: lists say nothing of them.
func asBefore(deployed, classes []account.Class) []account.Class {
	classes = slices.Clone(classes)
	for i, c := range classes {
		for _, had := range deployed {
			if had.Name == c.Name {
				classes[i].Shared, classes[i].Roles = had.Shared, had.Roles
			}
		}
	}
	return classes
}

// vpcParameter is the stack's parameter with the VPC's id, for a stack whose inputs name none.
const vpcParameter = "VpcId"

// cidrParameter is the stack's parameter with the VPC's IPv4 range, for a stack whose inputs name none.
const cidrParameter = "VpcCidr"

// refuse returns an error for an answer that a stack cannot follow once it stands: its tasks, endpoints and rules are all of one VPC.
func (s *Setup) refuse(l survey.Landscape, in account.Inputs, vpc string) error {
	op, next := "change the stack "+in.Name, "remove the stack by bastion destroy and run init again, or make another one: --name NAME"
	if said := s.Answers.VPC; said != "" && vpc != "" && said != vpc {
		own := slices.ContainsFunc(l.VPCs, func(v survey.VPC) bool { return v.ID == vpc && v.Name == said })
		if !own {
			return fail.New(fail.Usage, op, fmt.Errorf("--%s %s: the stack is in the VPC %s and cannot move", survey.FlagVPC, said, vpc), next)
		}
	}
	if id := s.Answers.Inputs.SecurityGroup; id != "" && vpc != "" {
		if err := l.CheckGroup(id, vpc); err != nil {
			return err
		}
	}
	if e := in.Endpoints; s.Answers.MakeEndpoints && !e.Make && len(e.Groups) == 0 && e.PrefixList == "" {
		return fail.New(fail.Usage, op, errors.New("--"+survey.FlagEndpoints+" "+survey.Yes+": its tasks reach AWS without VPC endpoints"), next)
	}
	if s.Answers.NoEndpoints && in.Endpoints.Make {
		return fail.New(fail.Usage, op, errors.New("--"+survey.FlagEndpoints+" "+survey.No+
			": its tasks, and whoever else is in the VPC, reach AWS by its endpoints"), next)
	}
	if public := publicOf(l, in.Subnets); s.Answers.NoPublicAddress && public != "" && !in.Endpoints.Make && len(in.Endpoints.Groups) == 0 {
		return fail.New(fail.Usage, op, fmt.Errorf("--%s %s: from the subnet %s a task reaches AWS by its public address alone",
			survey.FlagPublic, survey.No, public),
			"name subnets with another way to AWS: --subnets")
	}
	return nil
}

// publicOf returns the first of the subnets whose way out is an internet gateway, "" if there is none.
func publicOf(l survey.Landscape, subnets []string) string {
	for _, v := range l.VPCs {
		for _, n := range v.Subnets {
			if n.Way == survey.WayInternet && slices.Contains(subnets, n.ID) {
				return n.ID
			}
		}
	}
	return ""
}

// joined are rules, and those of more that are for another group or port.
func joined(rules, more []account.Ingress) []account.Ingress {
	rules = slices.Clone(rules)
	for _, rule := range more {
		if !admits(rules, rule) {
			rules = append(rules, rule)
		}
	}
	return rules
}

// admits reports whether one of the rules is for the group and port of another one.
func admits(rules []account.Ingress, rule account.Ingress) bool {
	return slices.ContainsFunc(rules, func(r account.Ingress) bool { return r.Group == rule.Group && r.Port == rule.Port })
}

// open makes the rules of the stack's own security group those that the operator's new lists need, and returns notes on what stays
// closed. The rules cover the databases that were on a list already. A stack without listed rules has the model's: they are listed if
// more must be. The operator's own rules stay as they are.
func open(in *account.Inputs, state deploy.State, databases []string) []string {
	if in.SecurityGroup != "" {
		return nil
	}
	if survey.Chose(in.Egress) {
		return survey.Unopened(*in)
	}
	listed := len(in.Egress) > 0
	if in.VPCCIDR == "" {
		in.VPCCIDR = state.Parameters[cidrParameter]
	}
	if !listed {
		in.Egress = account.UsualEgress(append([]string{in.VPCCIDR}, in.MoreCIDRs...))
	}
	kept, gone := needed(*in)
	covered := slices.DeleteFunc(slices.Clone(databases), func(destination string) bool { return !has(state.Inputs.Classes, destination) })
	before := in.Egress
	in.Egress = kept
	more, notes := survey.Open(*in, covered)
	in.Egress = slices.Concat(kept, more)
	switch {
	case len(in.Egress) == 0: // none would mean the model's
		in.Egress = before
		if !listed {
			in.Egress = nil
		}
		return notes
	case !listed && len(more)+len(gone) == 0:
		in.Egress = nil
		return notes
	}
	gone = slices.DeleteFunc(gone, func(r account.Egress) bool {
		return slices.ContainsFunc(more, func(m account.Egress) bool { return m.Port == r.Port && m.CIDR == r.CIDR && m.Group == r.Group })
	})
	if len(gone) > 0 {
		var texts []string
		for _, r := range gone {
			texts = append(texts, fmt.Sprintf("%s:%d", cmp.Or(r.Group, r.CIDR), r.Port))
		}
		notes = append(notes, "the tasks' security group no longer leads to: "+strings.Join(texts, ", "))
	}
	return notes
}

// needed divides the rules of the stack's own security group: those whose port is on a list stay, but for what an earlier list needed
// besides the databases.
func needed(in account.Inputs) (kept, gone []account.Egress) {
	for _, r := range in.Egress {
		if r.Description != survey.Listed && survey.ListsPort(in.Classes, r.Port) {
			kept = append(kept, r)
		} else {
			gone = append(gone, r)
		}
	}
	return kept, gone
}

// has reports whether the list of a class has a destination.
func has(classes []account.Class, destination string) bool {
	return slices.ContainsFunc(classes, func(c account.Class) bool { return slices.Contains(c.Allow, destination) })
}

// unlisted notes the destinations that new lists of the operator's take away from those that are deployed.
func unlisted(deployed, classes []account.Class) []string {
	var gone []string
	for _, class := range deployed {
		i := slices.IndexFunc(classes, func(c account.Class) bool { return c.Name == class.Name })
		for _, destination := range class.Allow {
			if i >= 0 && slices.Contains(classes[i].Allow, destination) {
				continue
			}
			if class.Name != "" {
				destination += " (class " + class.Name + ")"
			}
			gone = append(gone, destination)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return []string{"removed from the list of destinations: " + strings.Join(gone, ", ")}
}

// unknown notes destinations of the account's databases now that are on no deployed list: those that have come since.
func unknown(classes []account.Class, now []string) []string {
	news := slices.DeleteFunc(slices.Clone(now), func(destination string) bool { return has(classes, destination) })
	if len(news) == 0 {
		return nil
	}
	return []string{"not on the list of destinations, because it was not there before: " +
		strings.Join(news, ", ") + " (name the whole list by --allow)"}
}
