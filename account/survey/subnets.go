package survey

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/pattern"
)

const (
	// minFree are the least free addresses of a subnet: a task takes one for each user, an interface endpoint one for each service.
	minFree = 16
	// maxSubnets are the most zones of bastions, and maxPaid those if each interface endpoint costs something in each of them.
	maxSubnets, maxPaid = 3, 2
	// withoutARM is the id of the zone without ARM64 on Fargate.
	// Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/ecs-arm64.html
	withoutARM = "use1-az3"
	// registrationService is the endpoint that registers managed nodes, of any account: tasks must not reach it by the rule for the others.
	registrationService = "ssm"
)

// fargateZones are the ids of the zones with Fargate in regions where not every zone has it, by what these ids begin with.
// Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/AWS_Fargate-Regions.html
var fargateZones = map[string][]string{
	"apne1": {"apne1-az1", "apne1-az2", "apne1-az4"},
	"cnn1":  {"cnn1-az1", "cnn1-az2"},
	"usw1":  {"usw1-az1", "usw1-az3"},
}

// hasFargate reports whether Fargate runs tasks in a zone, by the zone's id.
func hasFargate(id string) bool {
	region, _, _ := strings.Cut(id, "-")
	zones, limited := fargateZones[region]
	return !limited || slices.Contains(zones, id)
}

// newRegions are the regions opened after 2023-12-23, where a task also needs the endpoints of ECS.
var newRegions = []string{
	"ap-east-2", "ap-southeast-5", "ap-southeast-6", "ap-southeast-7", "eusc-de-east-1", "mx-central-1",
}

// zoneName is the form of an Availability Zone's name. Local Zones and Wavelength Zones have longer ones.
var zoneName = pattern.Lazy(`^[a-z]+(-[a-z]+)+-\d+[a-z]$`)

// needed are the services that tasks of the region reach by endpoints.
func (c *chooser) needed() []string {
	services := slices.Clone(account.EndpointServices)
	if slices.Contains(newRegions, c.landscape.Region) {
		services = append(services, account.NewRegionServices...)
	}
	if len(c.answers.Inputs.Secrets) > 0 {
		services = append(services, account.SecretsService)
	}
	return services
}

// plan is how tasks reach AWS.
type plan struct {
	ways    []Way // of subnets that serve, the best first
	make    bool  // VPC endpoints that are missing
	private bool  // egress only to endpoints
	what    string
	why     string
}

// network chooses subnets and the way to AWS.
func (c *chooser) network() error {
	subnets, err := c.candidates()
	if err != nil {
		return err
	}
	p, err := c.plan(subnets)
	if err != nil {
		return err
	}
	c.because("way to AWS", p.what, "%s", p.why)
	if len(c.answers.Inputs.Subnets) == 0 {
		subnets = slices.DeleteFunc(subnets, func(s Subnet) bool { return !slices.Contains(p.ways, s.Way) })
	}
	most := maxSubnets
	if p.make && len(c.missing()) > 0 {
		most = maxPaid
		if subnets, err = c.offered(subnets); err != nil {
			return err
		}
	}
	c.choice.Subnets = subnets
	if len(c.answers.Inputs.Subnets) == 0 {
		c.choice.Subnets = c.spread(subnets, p.ways, most)
	}
	c.doubt(p)
	c.choice.Inputs.Subnets = nil
	for _, s := range c.choice.Subnets {
		c.choice.Inputs.Subnets = append(c.choice.Inputs.Subnets, s.ID)
	}
	c.sayWhichSubnets(most)
	return c.endpoints(p)
}

// candidates are the subnets in which Fargate can run a task and has addresses for it.
func (c *chooser) candidates() ([]Subnet, error) {
	vpc, chosen := c.choice.VPC, c.answers.Inputs.Subnets
	var kept []Subnet
	var left []string
	for _, s := range vpc.Subnets {
		if len(chosen) > 0 {
			if slices.Contains(chosen, s.ID) {
				kept = append(kept, s)
			}
			continue
		}
		if why := unfit(s); why != "" {
			left = append(left, titled(s.Name, s.ID)+" "+why)
		} else {
			kept = append(kept, s)
		}
	}
	op := "choose subnets of " + vpc.title()
	switch {
	case len(chosen) > len(kept):
		return nil, fail.New(fail.Usage, op, fmt.Errorf("not all of %s are in this VPC", strings.Join(chosen, ", ")), "name subnets of one VPC")
	case len(kept) > 0:
		if len(left) > 0 {
			c.note("subnets left out: %s", strings.Join(left, "; "))
		}
		return kept, nil
	}
	for _, f := range c.landscape.Findings {
		if f.Action == "ec2:DescribeSubnets" {
			return nil, fmt.Errorf("%s: %w", op, f.Err)
		}
	}
	err := errors.New("it has none")
	if len(left) > 0 {
		err = errors.New("none fits: " + strings.Join(left, "; "))
	}
	return nil, fail.New(fail.Usage, op, err, "choose another VPC with --"+FlagVPC+", or name subnets")
}

// unfit says why no task can run in a subnet; "" if one can.
func unfit(s Subnet) string {
	switch {
	case !s.CIDR.IsValid():
		return "has no IPv4 addresses, which tasks need"
	case s.Outpost:
		return "is on an Outpost, which has no Fargate"
	case !zoneName().MatchString(s.Zone):
		return "is in " + s.Zone + ", which is no Availability Zone"
	case !hasFargate(s.ZoneID):
		return "is in " + s.ZoneID + ", which has no Fargate"
	case s.Free < minFree:
		return fmt.Sprintf("has %d free addresses, fewer than %d", s.Free, minFree)
	}
	return ""
}

// plan chooses the way to AWS: endpoints that exist, a NAT gateway, what may lie beyond another gateway, endpoints to make.
func (c *chooser) plan(subnets []Subnet) (plan, error) {
	has := func(ways ...Way) bool {
		return slices.ContainsFunc(subnets, func(s Subnet) bool { return slices.Contains(ways, s.Way) })
	}
	isolated := []Way{WayNone, WayNAT, WayTransit, WayAppliance, WayUnknown}
	if !has(isolated...) {
		isolated = []Way{WayInternet}
	}
	missing := c.missing()
	switch {
	case c.answers.PublicAddress && c.answers.MakeEndpoints:
		return plan{}, fail.Usagef("leave one of them away", "--%s and --%s: tasks reach AWS by one way or the other", FlagPublic, FlagEndpoints)
	case c.answers.PublicAddress && !has(WayInternet):
		return plan{}, fail.New(fail.Usage, "choose subnets of "+c.choice.VPC.title(), errors.New("none has a route to an internet gateway"),
			"leave --"+FlagPublic+" away")
	case c.answers.PublicAddress:
		return plan{
			ways: []Way{WayInternet}, what: "internet gateway",
			why: "you chose a public address for each task; nothing can connect to it",
		}, nil
	case len(missing) == 0:
		return plan{
			ways: isolated, make: true, private: true, what: "VPC endpoints",
			why: "the VPC has them, and tasks need no other way out",
		}, nil
	case c.answers.MakeEndpoints:
		return plan{
			ways: isolated, make: true, private: true, what: "VPC endpoints",
			why: "you chose them; to make: " + strings.Join(missing, ", "),
		}, nil
	case has(WayNAT):
		return plan{ways: []Way{WayNAT}, what: string(WayNAT), why: "it is there, at no further cost an hour; --" + FlagEndpoints +
			" instead leaves tasks no way to the internet"}, nil
	}
	for _, way := range []Way{WayTransit, WayAppliance, WayUnknown} {
		if has(way) {
			to := map[Way]string{WayTransit: "another network", WayAppliance: "an appliance", WayUnknown: "a place that AWS does not show"}[way]
			c.note("the subnets' default route leads to %s: whether AWS can be reached beyond it cannot be seen from here; if a task does not "+
				"start, use --%s", to, FlagEndpoints)
			return plan{ways: []Way{way}, what: string(way), why: "the subnets have no NAT gateway, and a default route to there"}, nil
		}
	}
	why := "the subnets have no way out; to make: " + strings.Join(missing, ", ")
	if isolated[0] == WayInternet {
		why = "the VPC has public subnets only, and tasks get no public address unless you want it (--" + FlagPublic + "); to make: " +
			strings.Join(missing, ", ")
	}
	return plan{ways: isolated, make: true, private: true, what: "VPC endpoints", why: why}, nil
}

// offered are the subnets in whose zones AWS offers the endpoints to make.
func (c *chooser) offered(subnets []Subnet) ([]Subnet, error) {
	if c.landscape.EndpointZones == nil {
		return subnets, nil
	}
	var kept []Subnet
	var left []string
	for _, s := range subnets {
		i := slices.IndexFunc(c.missing(), func(service string) bool { return !slices.Contains(c.landscape.EndpointZones[service], s.Zone) })
		if i < 0 {
			kept = append(kept, s)
		} else {
			left = append(left, titled(s.Name, s.ID)+" is in "+s.Zone+", where AWS offers no endpoint of "+c.missing()[i])
		}
	}
	if len(kept) == 0 || len(c.answers.Inputs.Subnets) > 0 && len(left) > 0 {
		return nil, fail.New(fail.Usage, "make VPC endpoints in "+c.choice.VPC.title(), errors.New(strings.Join(left, "; ")),
			"use subnets of other zones, or a NAT gateway")
	}
	if len(left) > 0 {
		c.note("subnets left out: %s", strings.Join(left, "; "))
	}
	return kept, nil
}

// spread takes the best subnet of each zone, of at most so many zones: those of the databases first.
func (c *chooser) spread(subnets []Subnet, ways []Way, most int) []Subnet {
	var zones []string
	for _, d := range c.choice.Databases {
		zones = append(zones, d.Zones...)
	}
	better := func(a, b Subnet) int {
		return cmp.Or(slices.Index(ways, a.Way)-slices.Index(ways, b.Way), b.Free-a.Free, strings.Compare(a.ID, b.ID))
	}
	best := make(map[string]Subnet)
	for _, s := range subnets {
		if old, ok := best[s.Zone]; slices.Contains(ways, s.Way) && (!ok || better(s, old) < 0) {
			best[s.Zone] = s
		}
	}
	chosen := slices.Collect(maps.Values(best))
	far := func(s Subnet) int {
		if slices.Contains(zones, s.Zone) {
			return 0
		}
		return 1
	}
	slices.SortFunc(chosen, func(a, b Subnet) int { return cmp.Or(far(a)-far(b), strings.Compare(a.Zone, b.Zone)) })
	chosen = chosen[:min(len(chosen), most)]
	slices.SortFunc(chosen, func(a, b Subnet) int { return strings.Compare(a.Zone, b.Zone) })
	return chosen
}

// doubt notes what speaks against the operator's own subnets.
func (c *chooser) doubt(p plan) {
	for _, s := range c.choice.Subnets {
		if why := unfit(s); why != "" {
			c.note("%s, which you chose, %s", titled(s.Name, s.ID), why)
		}
		if !slices.Contains(p.ways, s.Way) {
			c.note("%s, which you chose, has the way out %q: a task there does not reach AWS by the %s", titled(s.Name, s.ID), s.Way, p.what)
		}
	}
}

func (c *chooser) sayWhichSubnets(most int) {
	var texts []string
	for _, s := range c.choice.Subnets {
		texts = append(texts, titled(s.Name, s.ID)+" in "+s.Zone)
	}
	why := fmt.Sprintf("one a zone, in at most %d zones, those of the databases first", most)
	switch {
	case len(c.answers.Inputs.Subnets) > 0:
		why = "you chose them"
	case most == maxPaid:
		why += ": each endpoint costs something in each zone"
	}
	c.because("subnets", strings.Join(texts, ", "), "%s", why)
}
