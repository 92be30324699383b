package survey

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// Landscape is what stands in one region of an account. Text that others wrote (names, descriptions) is printable and on one line.
type Landscape struct {
	Region, Account, Partition string
	Caller                     string // ARN of the credentials' user or role

	VPCs      []VPC      // in the order of their ids
	Databases []Database // and caches, in the order of their names
	Groups    []Group    // security groups of databases and endpoints, and those that Look was given
	// EndpointZones are the zones in which AWS offers each service's interface endpoint; nil: unknown.
	EndpointZones map[string][]string
	PrefixList    string    // id of the region's managed prefix list of S3; empty: unknown
	Findings      []Finding // what AWS did not show
}

// VPC is a VPC with what stands in it.
type VPC struct {
	ID, Name  string
	CIDRs     []netip.Prefix // IPv4, the primary first
	Default   bool
	Shared    bool // another account owns it
	DNS       DNS
	Subnets   []Subnet
	Endpoints []Endpoint
}

// DNS is whether a VPC has what private DNS of endpoints needs.
type DNS struct {
	Known              bool
	Support, Hostnames bool
}

// Way is where a subnet's default route leads.
type Way string

// The ways out of a subnet. AWS's VPC endpoints are apart: they need no default route.
const (
	WayNone      Way = "none"
	WayNAT       Way = "NAT gateway"
	WayTransit   Way = "transit gateway"  // or another network's gateway: what lies beyond cannot be seen
	WayAppliance Way = "appliance"        // an instance, a network interface or a gateway load balancer's endpoint
	WayInternet  Way = "internet gateway" // the subnet is a public one
	WayUnknown   Way = "unknown"          // the route tables are not to be seen
)

// Subnet is a subnet with its way out.
type Subnet struct {
	ID, Name     string
	Zone, ZoneID string
	CIDR         netip.Prefix // IPv4; not valid if the subnet has IPv6 alone
	Free         int          // addresses
	Shared       bool         // another account owns it
	Outpost      bool
	RouteTable   string // id; empty: unknown
	Way          Way
}

// Endpoint is a VPC endpoint that takes traffic.
type Endpoint struct {
	ID          string
	Service     string // "ecr.api" for the services that tasks need, else AWS's whole name
	Gateway     bool   // has route tables; otherwise an interface endpoint, which has groups and subnets
	PrivateDNS  bool
	Groups      []string
	RouteTables []string
	Stack       string // name of the CloudFormation stack that made it, if one did
}

// Database is an RDS instance, cluster or proxy, or a cache. DocumentDB and Neptune show their clusters as RDS does.
type Database struct {
	Name      string // as a target: rds:orders, rdsproxy:orders, cache:sessions
	Engine    string
	VPC       string // empty: unknown
	Groups    []string
	Addresses []Address
	Ports     []int
	// ByAddress marks a Redis or Valkey cluster without TLS: its nodes send clients on to addresses, not names.
	ByAddress bool
	Zones     []string // of its instances, as far as AWS tells
}

// Address is where a database listens.
type Address struct {
	Host string
	Port int
}

// Group is a security group with its inbound rules.
type Group struct {
	ID, Name, VPC string
	Rules         []Rule
}

// Rule is an inbound rule of a security group, as far as it lets TCP in.
type Rule struct {
	From, To int
	CIDRs    []netip.Prefix
	Groups   []string
}

// Finding is a kind of thing that AWS did not show.
type Finding struct {
	What   string // "RDS clusters"
	Action string // IAM action of the call: "rds:DescribeDBClusters"
	Err    error  // made by package fail, with the next step
}

// group returns a security group by its id.
func (l Landscape) group(id string) (Group, bool) {
	i := slices.IndexFunc(l.Groups, func(g Group) bool { return g.ID == id })
	if i < 0 {
		return Group{}, false
	}
	return l.Groups[i], true
}

// CheckGroup returns an error if a security group that Look was given is not one of the VPC.
func (l Landscape) CheckGroup(id, vpc string) error {
	g, found := l.group(id)
	switch {
	case l.missing(actionSecurityGroups) || found && g.VPC == vpc:
		return nil
	case found:
		return fail.New(fail.Usage, "use the security group "+titled(g.Name, id), fmt.Errorf("it is of %s, and the tasks are in %s", g.VPC, vpc),
			"name a group of that VPC by --security-groups, or leave it out: the stack makes one")
	}
	return fail.New(fail.Usage, "use the security group "+id, fmt.Errorf("there is none in %s", l.Region),
		"name a group of the VPC by --security-groups, or leave it out: the stack makes one")
}

// missing reports whether AWS did not show what the action shows.
func (l Landscape) missing(action string) bool {
	return slices.ContainsFunc(l.Findings, func(f Finding) bool { return f.Action == action })
}

// in returns the databases of a VPC.
func (l Landscape) in(vpc string) (found []Database) {
	for _, d := range l.Databases {
		if d.VPC == vpc {
			found = append(found, d)
		}
	}
	return found
}

// admits reports whether the group lets a port in from everywhere within the prefix, or from a group.
func (g Group) admits(port int, from netip.Prefix, group string) bool {
	return slices.ContainsFunc(g.Rules, func(r Rule) bool {
		if port < r.From || port > r.To {
			return false
		}
		return group != "" && slices.Contains(r.Groups, group) ||
			slices.ContainsFunc(r.CIDRs, func(c netip.Prefix) bool { return c.Bits() <= from.Bits() && c.Contains(from.Addr()) })
	})
}

// title is the VPC's name and id.
func (v VPC) title() string { return titled(v.Name, v.ID) }

// titled is a thing's id, after its name if it has one.
func titled(name, id string) string {
	if name == "" || name == id {
		return id
	}
	return name + " (" + id + ")"
}

// ranges are prefixes as text.
func ranges(prefixes []netip.Prefix) []string {
	texts := make([]string, len(prefixes))
	for i, p := range prefixes {
		texts[i] = p.String()
	}
	return texts
}

// names are the names of databases, the first few of many.
func names(databases []Database) string {
	const most = 4
	var texts []string
	for _, d := range databases[:min(len(databases), most)] {
		texts = append(texts, d.Name)
	}
	if len(databases) > most {
		texts = append(texts, "...")
	}
	return strings.Join(texts, ", ")
}

// some are the first texts of many.
func some(texts []string, between string) string {
	const most = 10
	if rest := len(texts) - most; rest > 0 {
		texts = append(slices.Clone(texts[:most]), fmt.Sprintf("and %d more", rest))
	}
	return strings.Join(texts, between)
}
