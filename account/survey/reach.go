package survey

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/partition"
	"github.com/bastion-ssm/bastion/internal/words"
)

const (
	maxRules = 40   // for databases in the tasks' security group: AWS's quota is 60 for all of a group's outbound rules
	maxAllow = 3000 // bytes of an allow-list: a parameter of a stack has 4096
	maxText  = 150  // bytes of what a rule is for
)

// databases chooses what tasks may connect to: in their security group, and by the allow-list of their class.
func (c *chooser) databases() error {
	in := &c.choice.Inputs
	for _, f := range c.landscape.Findings {
		if slices.Contains([]string{actionInstances, actionClusters, actionProxies, actionGroups, actionCaches, actionServerless}, f.Action) {
			c.note("AWS did not show %s (%s), so that tasks may connect to the usual ports in the whole VPC: %v%s",
				f.What, f.Action, f.Err, words.Parenthesis(fail.NextOf(f.Err)))
		}
	}
	allow, why := c.allow()
	chosen := len(in.Egress) > 0
	switch {
	case in.SecurityGroup != "":
		c.note("your security group %s must let tasks out to port 443 of AWS and to the databases", in.SecurityGroup)
	case chosen:
		c.explainEgress("you chose it")
	default:
		c.setEgress(allow)
	}
	if len(in.Classes) == 0 {
		in.Classes = []account.Class{{}}
	}
	in.Classes = slices.Clone(in.Classes)
	for i := range in.Classes {
		class, reason := &in.Classes[i], "you chose it"
		if len(class.Allow) == 0 {
			class.Allow, reason = allow, why
		}
		what := "allow-list"
		if class.Name != "" {
			what += " of class " + class.Name
		}
		c.because(what, strings.Join(class.Allow, ","), "%s", reason)
	}
	if chosen && in.SecurityGroup == "" {
		c.choice.Notes = append(c.choice.Notes, Unopened(*in)...)
	}
	return nil
}

// unseen are ports of the kinds of databases that AWS did not show, or of all if there is none.
func (c *chooser) unseen() (ports []int) {
	l, none := c.landscape, len(c.choice.Databases) == 0
	if none || l.missing(actionInstances) || l.missing(actionClusters) || l.missing(actionProxies) {
		ports = append(ports, 3306, 5432)
	}
	if none || l.missing(actionGroups) || l.missing(actionCaches) || l.missing(actionServerless) {
		ports = append(ports, 6379)
	}
	return ports
}

// setEgress sets the rules of the tasks' security group: to the databases, and to what the operator's own lists name besides. allow is the
// list of the databases, which their rules cover.
func (c *chooser) setEgress(allow []string) {
	in := &c.choice.Inputs
	var why string
	in.Egress, why = c.egress()
	known := slices.Clone(allow)
	for _, d := range c.choice.Databases {
		for _, a := range d.Addresses {
			known = append(known, a.Host+":"+strconv.Itoa(a.Port))
		}
	}
	more, notes := Open(*in, known)
	if len(more) > 0 {
		why += "; and the destinations that you chose"
	}
	in.Egress = append(in.Egress, more...)
	c.choice.Notes = append(c.choice.Notes, notes...)
	c.explainEgress(why)
}

// explainEgress gives the rules of the tasks' security group, and those to AWS, a reason.
func (c *chooser) explainEgress(why string) {
	in := &c.choice.Inputs
	var texts []string
	for _, r := range in.Egress {
		texts = append(texts, cmp.Or(r.Group, r.CIDR, ofVPC)+":"+strconv.Itoa(r.Port))
	}
	aws := strings.Join(toAWS(in.Endpoints), ", ")
	c.because("egress", aws+" (AWS); "+some(texts, ", "), "%s", why)
}

// egress are the rules for the databases, and why: by their security groups, or by the VPC's ranges.
func (c *chooser) egress() (rules []account.Egress, why string) {
	byGroup := make(map[account.Egress][]Database) // without a description
	wide := c.unseen()
	for _, d := range c.choice.Databases {
		for _, port := range d.Ports {
			if group := c.representative(d); group != "" {
				key := account.Egress{Port: port, Group: group}
				byGroup[key] = append(byGroup[key], d)
			} else {
				wide = append(wide, port)
			}
		}
	}
	why = "the ports of the databases, and their security groups"
	if len(byGroup) > maxRules {
		why = fmt.Sprintf("the ports of the databases, and all addresses of the VPC: %d rules for their security groups are more than a group takes", len(byGroup))
		for rule := range byGroup {
			wide = append(wide, rule.Port)
		}
		clear(byGroup)
	}
	if len(c.choice.Databases) == 0 {
		why = "no database is to be seen: the usual ports, and all addresses of the VPC"
	}
	for rule, databases := range byGroup {
		rule.Description = purpose(databases)
		rules = append(rules, rule)
	}
	slices.Sort(wide)
	for _, port := range slices.Compact(wide) {
		for _, cidr := range ranges(c.choice.VPC.CIDRs) {
			rules = append(rules, account.Egress{Port: port, CIDR: cidr, Description: "databases in the VPC"})
		}
	}
	slices.SortFunc(rules, func(a, b account.Egress) int {
		return cmp.Or(a.Port-b.Port, strings.Compare(a.Group, b.Group), strings.Compare(a.CIDR, b.CIDR))
	})
	return rules, why
}

// representative is the security group by which rules name a database: one that is not the VPC's default group, if it has one. A cluster
// whose nodes are known by their addresses has it too. Without a group that is seen to be the VPC's, there is none.
func (c *chooser) representative(d Database) string {
	var ids []string
	for _, id := range d.Groups {
		if g, ok := c.landscape.group(id); ok && g.VPC == c.choice.VPC.ID {
			if g.Name != "default" {
				return id
			}
			ids = append(ids, id)
		}
	}
	return cmp.Or(ids...)
}

// purpose names databases in a rule's description.
func purpose(databases []Database) string {
	if text := names(databases); len(text) <= maxText {
		return text
	}
	return fmt.Sprintf("%d databases", len(databases))
}

// allow is the list of a class that the operator gave none, and why: patterns of the databases' names. A database that is made later has a
// name of the same pattern.
func (c *chooser) allow() (entries []string, why string) {
	add := func(host string, port int) {
		if entry := host + ":" + strconv.Itoa(port); !slices.Contains(entries, entry) {
			entries = append(entries, entry)
		}
	}
	wide := c.unseen()
	for _, d := range c.choice.Databases {
		for _, a := range d.Addresses {
			add(wildcard(a.Host, c.landscape.Region), a.Port)
		}
		if d.ByAddress || len(d.Addresses) == 0 {
			wide = append(wide, d.Ports...)
		}
	}
	why = "names of this account's databases in the region, those that you make later too"
	if len(strings.Join(entries, ",")) > maxAllow {
		why = "the addresses of the VPC: the names of the databases are too many"
		for _, d := range c.choice.Databases {
			wide = append(wide, d.Ports...)
		}
		entries = nil
	}
	if len(entries) == 0 && len(c.choice.Databases) == 0 {
		why = "the addresses of the VPC: no database is to be seen"
	}
	slices.Sort(wide)
	for _, port := range slices.Compact(wide) {
		for _, cidr := range ranges(c.choice.VPC.CIDRs) {
			add(cidr, port)
		}
	}
	slices.Sort(entries)
	return entries, why
}

// leastHash is the least length of what AWS puts into the names of an account's databases in a region.
const leastHash = 8

// wildcard is a database's name with a wildcard for what its owner chose. RDS's names have a part that is one account's in one region,
// with a prefix for clusters, readers and proxies; those of caches have the region's.
func wildcard(host, region string) string {
	labels := strings.Split(host, ".")
	if in, ok := partition.RDSRegion(host); ok && in != partition.GlobalRegion && len(labels) > 3 {
		hash := labels[1][strings.LastIndexByte(labels[1], '-')+1:]
		if len(hash) >= leastHash {
			return "*" + hash + "." + strings.Join(labels[2:], ".")
		}
	}
	if at := slices.Index(labels, "cache"); at > 1 && strings.Join(labels[at+1:], ".") == partition.Of(region).DNSSuffix {
		return "*." + strings.Join(labels[at-1:], ".")
	}
	return host
}

// groups proposes the rules that security groups of others lack, and asks whether to add them.
func (c *chooser) groups() error {
	needs := make(map[account.Ingress][]Database) // without a purpose
	var endpoints []account.Ingress
	for _, d := range c.choice.Databases {
		for _, port := range d.Ports {
			group := c.representative(d)
			if group != "" && !c.admitted(d.Groups, port) {
				need := account.Ingress{Group: group, Port: port}
				needs[need] = append(needs[need], d)
			}
		}
	}
	for _, e := range c.used {
		if len(e.Groups) > 0 && !c.admitted(e.Groups, 443) {
			need := account.Ingress{Group: e.Groups[0], Port: 443, For: "VPC endpoints"}
			if !slices.Contains(endpoints, need) {
				endpoints = append(endpoints, need)
			}
		}
	}
	rules := endpoints
	for need, databases := range needs {
		need.For = purpose(databases)
		rules = append(rules, need)
	}
	slices.SortFunc(rules, func(a, b account.Ingress) int { return cmp.Or(strings.Compare(a.Group, b.Group), a.Port-b.Port) })
	if c.landscape.missing(actionSecurityGroups) {
		c.note("whether security groups let tasks in cannot be seen without %s", actionSecurityGroups)
	}
	c.choice.Ingress = rules
	c.ask(rules)
	return nil
}

// admitted reports whether one of the groups lets tasks in already, from each of their subnets or by their own group.
func (c *chooser) admitted(ids []string, port int) bool {
	return !slices.ContainsFunc(c.choice.Subnets, func(s Subnet) bool {
		return !slices.ContainsFunc(ids, func(id string) bool {
			g, _ := c.landscape.group(id)
			return g.admits(port, s.CIDR, c.answers.Inputs.SecurityGroup)
		})
	})
}

// ask asks whether to change security groups, if that is needed.
func (c *chooser) ask(rules []account.Ingress) {
	if len(rules) == 0 {
		if len(c.choice.Databases) > 0 {
			c.because("security groups of others", "unchanged", "they let the tasks' subnets in already")
		}
		return
	}
	var texts []string
	for _, r := range rules {
		g, _ := c.landscape.group(r.Group)
		texts = append(texts, fmt.Sprintf("%s port %d (%s)", titled(g.Name, r.Group), r.Port, r.For))
	}
	list := some(texts, "; ")
	if c.answers.Groups == "" {
		c.choice.Questions = append(c.choice.Questions, Question{
			Flag: FlagGroups, Default: No,
			Text: "May the stack let its tasks into " + words.Count(countGroups(rules), "security group") + " not its own?",
			Candidates: []Candidate{
				{Yes, "adds these inbound rules, which go with the stack: " + list},
				{No, "changes nothing; you add them yourself, from the stack's output SecurityGroupId"},
			},
		})
	}
	if c.answers.Groups == Yes {
		c.choice.Inputs.Ingress = append(slices.Clone(c.choice.Inputs.Ingress), rules...)
		c.because("security groups of others", list, "you chose to let tasks in; each rule names the stack and goes with it")
		return
	}
	c.note("bastions cannot connect until these security groups let in the stack's SecurityGroupId: %s (or answer --%s %s)", list,
		FlagGroups, Yes)
}

func countGroups(rules []account.Ingress) int {
	groups := make(map[string]bool)
	for _, r := range rules {
		groups[r.Group] = true
	}
	return len(groups)
}
