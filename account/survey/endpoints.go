package survey

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// own reports whether the stack itself has made an endpoint, which a change of the stack would otherwise remove.
func (c *chooser) own(e Endpoint) bool { return e.Stack == c.answers.Inputs.Defaults().Name }

// existing returns the interface endpoint that private DNS leads tasks to.
func (c *chooser) existing(service string) (Endpoint, bool) {
	i := slices.IndexFunc(c.choice.VPC.Endpoints, func(e Endpoint) bool {
		return e.Service == service && e.PrivateDNS && !c.own(e) // a gateway endpoint has no private DNS
	})
	if i < 0 {
		return Endpoint{}, false
	}
	return c.choice.VPC.Endpoints[i], true
}

// missing are the interface endpoints that tasks need and the VPC has not.
func (c *chooser) missing() (services []string) {
	for _, service := range c.needed() {
		if _, ok := c.existing(service); !ok && service != "s3" {
			services = append(services, service)
		}
	}
	return services
}

// endpoints chooses the endpoints to make, and those that tasks may connect to.
func (c *chooser) endpoints(p plan) error {
	for _, service := range c.needed() {
		if e, ok := c.existing(service); ok {
			c.used = append(c.used, e)
		}
	}
	if !p.private {
		return nil
	}
	in := &c.choice.Inputs.Endpoints
	services := c.missing()
	if _, byInterface := c.existing("s3"); !byInterface {
		in.PrefixList = c.landscape.PrefixList
		in.RouteTables = c.tablesWithoutS3()
		if len(in.RouteTables) > 0 {
			services = append(services, "s3")
		}
		if err := c.checkS3(); err != nil {
			return err
		}
	}
	in.Groups = c.egressGroups()
	c.sayWhose()
	if len(services) == 0 {
		c.because("endpoints to make", "none", "the VPC has those that tasks need")
		return nil
	}
	if c.landscape.missing(actionEndpoints) {
		c.note("the VPC's endpoints cannot be seen without %s: making one that exists already fails", actionEndpoints)
	}
	in.Make, in.Services = true, services
	if slices.Equal(slices.Sorted(slices.Values(services)), slices.Sorted(slices.Values(account.EndpointServices))) {
		in.Services = nil // all
	}
	c.because("endpoints to make", strings.Join(services, ", "), "tasks need %s, and existing endpoints stay", strings.Join(c.needed(), ", "))
	return c.checkMaking(services)
}

// sayWhose notes which stacks have made the endpoints that tasks will need.
func (c *chooser) sayWhose() {
	var stacks []string
	for _, e := range c.used {
		if e.Stack != "" && !slices.Contains(stacks, e.Stack) {
			stacks = append(stacks, e.Stack)
		}
	}
	if len(stacks) > 0 {
		c.note("endpoints that tasks need go when these stacks are deleted: %s", strings.Join(stacks, ", "))
	}
}

// tablesWithoutS3 are the route tables of the chosen subnets that no gateway endpoint of S3 is in.
func (c *chooser) tablesWithoutS3() (tables []string) {
	for _, s := range c.choice.Subnets {
		covered := slices.ContainsFunc(c.choice.VPC.Endpoints, func(e Endpoint) bool {
			return e.Service == "s3" && e.Gateway && !c.own(e) && slices.Contains(e.RouteTables, s.RouteTable)
		})
		if !covered && !slices.Contains(tables, s.RouteTable) {
			tables = append(tables, s.RouteTable)
		}
	}
	return tables
}

func (c *chooser) checkS3() error {
	for _, need := range []struct {
		known        bool
		what, action string
	}{
		{c.landscape.PrefixList != "", "S3's prefix list", "ec2:DescribeManagedPrefixLists"},
		{!slices.Contains(c.choice.Inputs.Endpoints.RouteTables, ""), "the subnets' route tables", "ec2:DescribeRouteTables"},
	} {
		if !need.known {
			return fail.New(fail.Denied, "lead tasks to S3 in "+c.choice.VPC.title(), fmt.Errorf("%s is unknown", need.what),
				"ask for the IAM permission "+need.action)
		}
	}
	return nil
}

// checkMaking reports what keeps the VPC from having further endpoints.
func (c *chooser) checkMaking(services []string) error {
	vpc := c.choice.VPC
	op := "make VPC endpoints in " + vpc.title()
	ofInterfaces := !slices.Equal(services, []string{"s3"})
	switch {
	case vpc.Shared:
		return fail.New(fail.Usage, op, errors.New("another account owns the VPC, and only the owner makes endpoints: missing are "+
			strings.Join(services, ", ")), "ask the owner of the VPC for these endpoints, or for a NAT gateway")
	case ofInterfaces && vpc.DNS.Known && !(vpc.DNS.Support && vpc.DNS.Hostnames):
		return fail.New(fail.Usage, op, errors.New("private DNS needs DNS support and DNS hostnames of the VPC, and one of them is off"),
			"aws ec2 modify-vpc-attribute --vpc-id "+vpc.ID+" --enable-dns-hostnames (and once more with --enable-dns-support)")
	case ofInterfaces:
		return c.checkZones()
	}
	return nil
}

// checkZones reports two of the operator's subnets in one zone: an endpoint takes one.
func (c *chooser) checkZones() error {
	seen := make(map[string]Subnet)
	for _, s := range c.choice.Subnets {
		if other, ok := seen[s.Zone]; ok {
			return fail.New(fail.Usage, "make VPC endpoints in "+c.choice.VPC.title(),
				fmt.Errorf("an endpoint takes one subnet a zone, and %s and %s are both in %s", other.ID, s.ID, s.Zone), "name one subnet of each zone")
		}
		seen[s.Zone] = s
	}
	return nil
}

// egressGroups are security groups of the existing endpoints, one for each endpoint: a rule to one of its groups reaches it. Another
// group than that of the endpoint for registering nodes is better.
func (c *chooser) egressGroups() (groups []string) {
	var registration []string
	for _, e := range c.choice.VPC.Endpoints {
		if e.Service == registrationService && !e.Gateway {
			registration = append(registration, e.Groups...)
		}
	}
	for _, e := range c.used {
		if len(e.Groups) == 0 || slices.ContainsFunc(e.Groups, func(g string) bool { return slices.Contains(groups, g) }) {
			continue
		}
		best := e.Groups[0]
		for _, g := range e.Groups {
			if slices.Contains(registration, best) && !slices.Contains(registration, g) {
				best = g
			}
		}
		if slices.Contains(registration, best) {
			c.note("the endpoint of ssm has the security group %s too, so that tasks reach it: it registers machines in any account "+
				"(docs/threat-model.md); give it a group of its own", best)
		}
		groups = append(groups, best)
	}
	return groups
}
