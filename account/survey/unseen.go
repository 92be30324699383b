package survey

import (
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// Unseen returns the inputs of the answers alone, for whoever may not look at the account, and notes on what the tasks' security group does
// not open. What is not said stays a parameter of the stack, or a default of the model. It does no I/O. An answer that takes a look is an
// error.
func Unseen(a Answers) (in account.Inputs, notes []string, err error) {
	in = a.Inputs.Defaults()
	switch {
	case a.Groups == Yes:
		return in, nil, fail.Usagef("leave it out, and add inbound rules for the output SecurityGroupId yourself",
			"--%s %s takes a look at the account: which groups they are is not known", FlagGroups, Yes)
	case a.VPC != "" && !strings.HasPrefix(a.VPC, "vpc-"):
		return in, nil, fail.Usagef("write its id, or leave it out: it is a parameter then", "--%s %s: a name takes a look at the account", FlagVPC, a.VPC)
	}
	in.VPC, in.PublicAddress, in.Endpoints.Make = a.VPC, a.PublicAddress, a.MakeEndpoints
	if in.Classes, err = a.OfClasses(in.Classes); err != nil {
		return in, nil, err
	}
	parameter := func(c account.Class) bool { return len(c.Allow) == 0 }
	switch {
	case Chose(in.Egress):
		return in, Unopened(in), nil
	case in.SecurityGroup != "" || !slices.ContainsFunc(in.Classes, func(c account.Class) bool { return !parameter(c) }):
		return in, nil, nil
	case slices.ContainsFunc(in.Classes, parameter): // who knows what its list will be
		in.Egress = account.UsualEgress([]string{""})
	}
	more, notes := Open(in, nil)
	in.Egress = append(in.Egress, more...)
	return in, notes, nil
}
