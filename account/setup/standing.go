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
	in := merged(state.Inputs, s.Answers.Inputs)
	in.PublicAddress = in.PublicAddress || s.Answers.PublicAddress
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
			plan.Choice.Notes = append(unlisted(state.Inputs.Classes, in.Classes), open(&in, state.Inputs.Classes, now.Inputs.Classes[0].Allow)...)
		} else {
			plan.Choice.Notes = unknown(in.Classes, now.Inputs.Classes[0].Allow)
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

// vpcParameter is the stack's parameter with the VPC's id, for a stack whose inputs name none.
const vpcParameter = "VpcId"

// refuse returns an error for an answer that a stack cannot follow once it stands: its tasks, endpoints and rules are all of one VPC.
func (s *Setup) refuse(l survey.Landscape, in account.Inputs, vpc string) error {
	op, next := "change the stack "+in.Name, "remove the stack by bastion destroy and run init again, or make another one: --name NAME"
	if said := s.Answers.VPC; said != "" && vpc != "" && said != vpc {
		own := slices.ContainsFunc(l.VPCs, func(v survey.VPC) bool { return v.ID == vpc && v.Name == said })
		if !own {
			return fail.New(fail.Usage, op, fmt.Errorf("--%s %s: the stack is in the VPC %s and cannot move", survey.FlagVPC, said, vpc), next)
		}
	}
	if e := in.Endpoints; s.Answers.MakeEndpoints && !e.Make && len(e.Groups) == 0 && e.PrefixList == "" {
		return fail.New(fail.Usage, op, errors.New("--"+survey.FlagEndpoints+" "+survey.Yes+": its tasks reach AWS without VPC endpoints"), next)
	}
	return nil
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

// open adds to the rules of the stack's own security group what the operator's new lists need, and returns notes on what stays closed. The
// rules cover the databases that were on a list already. A stack without listed rules has the model's, which stay.
func open(in *account.Inputs, deployed []account.Class, databases []string) []string {
	if in.SecurityGroup != "" || len(in.Egress) == 0 {
		return nil
	}
	covered := slices.DeleteFunc(slices.Clone(databases), func(destination string) bool { return !has(deployed, destination) })
	more, notes := survey.Open(*in, covered)
	in.Egress = slices.Concat(in.Egress, more)
	return notes
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
	return []string{"not on the list of destinations, because it was not there before: " + strings.Join(news, ", ") + " (name the whole list by --allow)"}
}
