package doctor

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/bastion-ssm/bastion/account/survey"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/partition"
	"github.com/bastion-ssm/bastion/internal/words"
)

const https = 443

// chosen says how the settings name subnets or security groups.
func chosen(ids []string, tags map[string]string) string {
	if len(ids) > 0 {
		return strings.Join(ids, ", ")
	}
	var out []string
	for key, value := range tags {
		out = append(out, key+"="+value)
	}
	slices.Sort(out)
	return "with the tags " + strings.Join(out, ", ")
}

func judgeSubnets(f *Facts) Finding {
	s, a := f.Settings.Bastion, f.Account
	const fix = "correct --subnets (ids) or --subnet-tags; bastion init chooses some"
	switch {
	case len(s.Subnets) == 0 && len(s.SubnetTags) == 0:
		return wrong(fail.Usage, "unset", "no subnets are set for the bastion's task", "set subnets or subnet_tags; bastion init chooses some")
	case a.SubnetsErr != nil:
		return unseen("the subnets", a.SubnetsErr)
	case !a.Asked:
		return hidden("unasked", "the subnets", "")
	case len(a.Subnets) == 0:
		return wrong(fail.Usage, "missing", "there are no subnets "+chosen(s.Subnets, s.SubnetTags)+" in "+f.Credentials.Region, fix)
	}
	have, vpcs, free := []string{}, []string{}, 0
	for _, n := range a.Subnets {
		have = append(have, aws.ToString(n.SubnetId))
		vpcs = append(vpcs, aws.ToString(n.VpcId))
		free += int(aws.ToInt32(n.AvailableIpAddressCount))
	}
	for _, id := range s.Subnets {
		if !slices.Contains(have, id) {
			return wrong(fail.Usage, "missing", "there is no subnet "+id+" in "+f.Credentials.Region, fix)
		}
	}
	slices.Sort(vpcs)
	if vpcs = slices.Compact(vpcs); len(vpcs) > 1 {
		return wrong(fail.Usage, "several_vpcs", "the subnets are of several VPCs: "+strings.Join(vpcs, ", "),
			"name subnets of one VPC: --subnets")
	}
	if free == 0 {
		return wrong(fail.Start, "full", "the subnets have no free address, so no task can start there",
			"free addresses (old network interfaces, load balancers), or name other subnets: --subnets")
	}
	return fine("%s with %d free addresses", words.Count(len(a.Subnets), "subnet"), free)
}

func judgeGroups(f *Facts) Finding {
	s, a := f.Settings.Bastion, f.Account
	const fix = "correct --security-groups (ids) or --security-group-tags"
	switch {
	case len(s.SecurityGroups) == 0 && len(s.SecurityGroupTags) == 0:
		return fine("the task gets the VPC's default security group")
	case a.GroupsErr != nil:
		return unseen("the security groups", a.GroupsErr)
	case !a.Asked:
		return hidden("unasked", "the security groups", "")
	case len(a.Groups) == 0:
		return wrong(fail.Usage, "missing", "there are no security groups "+chosen(s.SecurityGroups,
			s.SecurityGroupTags)+" in the subnets' VPC", fix)
	}
	for _, id := range s.SecurityGroups {
		i := slices.IndexFunc(a.Groups, func(g ec2types.SecurityGroup) bool { return aws.ToString(g.GroupId) == id })
		switch {
		case i < 0:
			return wrong(fail.Usage, "missing", "there is no security group "+id+" in "+f.Credentials.Region, fix)
		case len(a.Subnets) > 0 && aws.ToString(a.Groups[i].VpcId) != aws.ToString(a.Subnets[0].VpcId):
			return wrong(fail.Usage, "other_vpc", fmt.Sprintf("the security group %s is of %s, and the subnets of %s", id,
				aws.ToString(a.Groups[i].VpcId), aws.ToString(a.Subnets[0].VpcId)), fix)
		}
	}
	if !slices.ContainsFunc(a.Groups, func(g ec2types.SecurityGroup) bool { return opens(g.IpPermissionsEgress, https, nil, nil) }) {
		id := aws.ToString(a.Groups[0].GroupId)
		return wrong(fail.Start, "egress", "the security group "+id+" blocks the task's way out to port 443: it can reach neither its "+
			"image nor Session Manager",
			"aws ec2 authorize-security-group-egress --group-id "+id+" --protocol tcp --port 443 --cidr 0.0.0.0/0")
	}
	return fine("the task's way out to port 443 is open in %s", words.Count(len(a.Groups), "security group"))
}

// opens reports whether rules open a TCP port, for one of the groups or of the addresses if there are some. A prefix list may hold them.
func opens(rules []ec2types.IpPermission, port int, groups []string, from []netip.Prefix) bool {
	return slices.ContainsFunc(rules, func(r ec2types.IpPermission) bool {
		switch protocol := aws.ToString(r.IpProtocol); {
		case protocol == "-1":
		case protocol != "tcp" && protocol != "6", int(aws.ToInt32(r.FromPort)) > port, int(aws.ToInt32(r.ToPort)) < port:
			return false
		}
		if groups == nil && from == nil || len(r.PrefixListIds) > 0 {
			return true
		}
		if slices.ContainsFunc(r.UserIdGroupPairs, func(p ec2types.UserIdGroupPair) bool {
			return slices.Contains(groups,
				aws.ToString(p.GroupId))
		}) {
			return true
		}
		return slices.ContainsFunc(r.IpRanges, func(i ec2types.IpRange) bool {
			cidr, err := netip.ParsePrefix(aws.ToString(i.CidrIp))
			return err == nil && slices.ContainsFunc(from, func(p netip.Prefix) bool { return cidr.Bits() <= p.Bits() && cidr.Contains(p.Addr()) })
		})
	})
}

// services are those that a task needs VPC endpoints for where it has no way to the internet. kms is needed where ECS Exec is encrypted.
func (f *Facts) services() []string {
	out := []string{gateway}
	if c := f.container(); c != nil {
		if _, region, ok := repository(aws.ToString(c.Image)); ok && region == f.Credentials.Region {
			out = append(out, "ecr.api", "ecr.dkr", "s3")
		}
		if c.LogConfiguration != nil && c.LogConfiguration.Options["awslogs-group"] != "" {
			out = append(out, "logs")
		}
	}
	if f.execKey() != "" {
		out = append(out, "kms")
	}
	return out
}

// endpoint returns the subnets' VPC endpoint of a service.
func (f *Facts) endpoint(service string, tables []string) (ec2types.VpcEndpoint, bool) {
	name := partition.Of(f.Credentials.Region).EndpointService(service, f.Credentials.Region)
	for _, e := range f.Account.Endpoints {
		if aws.ToString(e.ServiceName) != name || len(f.Account.Subnets) > 0 &&
			aws.ToString(e.VpcId) != aws.ToString(f.Account.Subnets[0].VpcId) {
			continue
		}
		if e.VpcEndpointType == ec2types.VpcEndpointTypeGateway && !slices.ContainsFunc(tables,
			func(t string) bool { return slices.Contains(e.RouteTableIds, t) }) {
			continue
		}
		return e, true
	}
	return ec2types.VpcEndpoint{}, false
}

// closed are the subnets without a way to the internet for the task, with their route tables.
func (f *Facts) closed() (subnets, tables []string) {
	for _, n := range f.Account.Subnets {
		table, ok := survey.TableOf(f.Account.Tables, n)
		if !ok {
			continue
		}
		switch way := survey.WayOf(table, nil); {
		case way == survey.WayNone, way == survey.WayInternet && !f.Settings.Bastion.AssignPublicIP:
			subnets, tables = append(subnets, aws.ToString(n.SubnetId)), append(tables, aws.ToString(table.RouteTableId))
		}
	}
	return subnets, tables
}

func judgeRoutes(f *Facts) Finding {
	a := f.Account
	switch {
	case a.TablesErr != nil:
		return unseen("the subnets' routes", a.TablesErr)
	case !a.Asked || len(a.Subnets) == 0:
		return because(idSubnets)
	}
	subnets, tables := f.closed()
	if len(subnets) == 0 {
		return fine("the subnets' routes lead to AWS; whether a firewall on the way blocks it cannot be seen from here")
	}
	if a.EndpointsErr != nil {
		return unseen("the VPC endpoints of subnets without a default route", a.EndpointsErr)
	}
	var missing []string
	for _, service := range f.services() {
		if _, ok := f.endpoint(service, tables); !ok {
			missing = append(missing, service)
		}
	}
	if len(missing) == 0 {
		return fine("the subnets reach AWS by VPC endpoints")
	}
	word, public := "none", ""
	if slices.ContainsFunc(a.Subnets, func(n ec2types.Subnet) bool {
		t, ok := survey.TableOf(a.Tables, n)
		return ok && survey.WayOf(t, nil) == survey.WayInternet
	}) {
		word, public = "public", " (the subnet is public, and the task has no public address)"
	}
	means := fmt.Sprintf("no way to port 443 of %s from %s: neither a route to a NAT gateway nor a VPC endpoint%s",
		strings.Join(missing, ", "),
		strings.Join(subnets, ", "), public)
	fix := "give the subnets a NAT gateway, or make VPC endpoints: " + f.makeEndpoints(missing, subnets, tables)
	if public != "" {
		fix = "--assign-public-ip gives the task a public address; or " + fix
	}
	return wrong(fail.Start, word, means, fix)
}

// makeEndpoints are the commands that make VPC endpoints: a loop for those with network interfaces, and S3's gateway.
func (f *Facts) makeEndpoints(services, subnets, tables []string) string {
	region := f.Credentials.Region
	create := "aws ec2 create-vpc-endpoint --region " + region + " --vpc-id " + aws.ToString(f.Account.Subnets[0].VpcId)
	var names, commands []string
	for _, s := range services {
		name := partition.Of(region).EndpointService(s, region)
		if s == "s3" {
			slices.Sort(tables)
			commands = append(commands, create+" --service-name "+name+" --vpc-endpoint-type Gateway --route-table-ids "+
				strings.Join(slices.Compact(tables), " "))
			continue
		}
		names = append(names, name)
	}
	if len(names) > 0 {
		commands = append(commands, "for s in "+strings.Join(names, " ")+"; do "+create+" --service-name $s --vpc-endpoint-type Interface "+
			"--private-dns-enabled --subnet-ids "+strings.Join(subnets, " ")+" --security-group-ids "+
			cmp.Or(first(f.groupIDs()), "A-GROUP-THAT-ADMITS-443")+"; done")
	}
	return strings.Join(commands, "; ")
}

func judgeEndpoints(f *Facts) Finding {
	a := f.Account
	switch {
	case a.EndpointsErr != nil:
		return unseen("the VPC endpoints", a.EndpointsErr)
	case !a.Asked:
		return hidden("unasked", "the VPC endpoints", "")
	}
	_, tables := f.closed()
	found := 0
	for _, service := range f.services() {
		e, ok := f.endpoint(service, tables)
		if !ok {
			continue
		}
		found++
		if bad, ok := f.judgeEndpoint(service, e, len(tables) > 0); ok {
			return bad
		}
	}
	if found == 0 {
		return fine("no VPC endpoint is on the way")
	}
	return fine("%s on the way, in order", words.Count(found, "VPC endpoint"))
}

// judgeEndpoint judges one endpoint. alone is set where the subnets have no other way; otherwise an endpoint without private DNS takes no
// traffic and does no harm.
func (f *Facts) judgeEndpoint(service string, e ec2types.VpcEndpoint, alone bool) (Finding, bool) {
	id := aws.ToString(e.VpcEndpointId)
	what := fmt.Sprintf("the VPC endpoint %s for %s", id, service)
	isInterface := e.VpcEndpointType != ec2types.VpcEndpointTypeGateway
	switch {
	case isInterface && !aws.ToBool(e.PrivateDnsEnabled) && !alone:
		return Finding{}, false
	case !strings.EqualFold(string(e.State), string(ec2types.StateAvailable)):
		return wrong(fail.Start, "state", what+" is in the state "+string(e.State),
			"wait until it is available, or have its owner accept it"), true
	case isInterface && !aws.ToBool(e.PrivateDnsEnabled):
		return wrong(fail.Start, "private_dns", what+" has no private DNS: the service's name does not resolve to it",
			"aws ec2 modify-vpc-endpoint --vpc-endpoint-id "+id+" --private-dns-enabled"), true
	}
	if isInterface && len(groupsOf(e)) > 0 && len(f.Account.EndpointGroups) > 0 {
		admits := slices.ContainsFunc(f.Account.EndpointGroups, func(g ec2types.SecurityGroup) bool {
			return slices.Contains(groupsOf(e), aws.ToString(g.GroupId)) && opens(g.IpPermissions, https, f.groupIDs(), f.ranges())
		})
		if !admits {
			return wrong(fail.Start, "security_group", what+" does not admit the task: its security groups open port 443 neither to the task's "+
				"group nor to its subnets",
				fmt.Sprintf("aws ec2 authorize-security-group-ingress --group-id %s --protocol tcp --port 443 --source-group %s", groupsOf(e)[0],
					cmp.Or(first(f.groupIDs()), "THE-TASKS-GROUP"))), true
		}
	}
	if action, ok := refusedByPolicy(aws.ToString(e.PolicyDocument), actionsOf[service]); ok {
		return wrong(fail.Denied, "policy", what+" has a policy that does not let "+action+" through", "add to the endpoint's policy: "+
			strings.Replace(statement(actionsOf[service], "*"), `"Effect": "Allow"`, `"Effect": "Allow", "Principal": "*"`, 1)), true
	}
	return Finding{}, false
}

// groupsOf returns the ids of an endpoint's security groups.
func groupsOf(e ec2types.VpcEndpoint) (ids []string) {
	for _, g := range e.Groups {
		ids = append(ids, aws.ToString(g.GroupId))
	}
	return ids
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// groupIDs are the ids of the task's security groups.
func (f *Facts) groupIDs() []string {
	ids := []string{}
	for _, g := range f.Account.Groups {
		ids = append(ids, aws.ToString(g.GroupId))
	}
	return ids
}

// ranges are the subnets' addresses.
func (f *Facts) ranges() []netip.Prefix {
	out := []netip.Prefix{}
	for _, n := range f.Account.Subnets {
		if p, err := netip.ParsePrefix(aws.ToString(n.CidrBlock)); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// actionsOf are the actions of a task's roles at a service, which a VPC endpoint's policy must let through too.
var actionsOf = map[string][]string{
	gateway: {
		"ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel", "ssmmessages:OpenControlChannel",
		"ssmmessages:OpenDataChannel",
	},
	"ecr.api": {"ecr:GetAuthorizationToken", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"},
	"ecr.dkr": {"ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"},
	"s3":      {"s3:GetObject"},
	"logs":    {"logs:CreateLogStream", "logs:PutLogEvents"},
	"kms":     {"kms:Decrypt"},
}

// refusedByPolicy returns an action that no statement of an endpoint's policy allows, or that one denies without a condition. It does not
// judge principals, resources and conditions: what those exclude cannot be known without the call.
func refusedByPolicy(text string, actions []string) (string, bool) {
	var policy struct{ Statement statements }
	if text == "" || json.Unmarshal([]byte(text), &policy) != nil {
		return "", false
	}
	for _, action := range actions {
		allowed := false
		for _, s := range policy.Statement {
			matches := s.Action.match(action) || len(s.NotAction) > 0 && !s.NotAction.match(action)
			switch {
			case !matches:
			case s.Effect == "Allow":
				allowed = true
			case s.Effect == "Deny" && len(s.Condition) == 0 && len(s.NotPrincipal) == 0 && slices.Contains(s.Resource, "*"):
				return action, true
			}
		}
		if !allowed {
			return action, true
		}
	}
	return "", false
}

// statements are those of a policy, which may have one without a list.
type statements []policyStatement

type policyStatement struct {
	Effect                             string
	Action, NotAction, Resource        oneOrMore
	Condition, Principal, NotPrincipal json.RawMessage
}

func (s *statements) UnmarshalJSON(text []byte) error {
	var one policyStatement
	if json.Unmarshal(text, &one) == nil {
		*s = statements{one}
		return nil
	}
	return json.Unmarshal(text, (*[]policyStatement)(s))
}

// oneOrMore is a text or a list of texts of a policy.
type oneOrMore []string

func (o *oneOrMore) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*o = []string{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(o))
}

// match reports whether a pattern matches an action: * stands for any text.
func (o oneOrMore) match(action string) bool {
	action = strings.ToLower(action)
	return slices.ContainsFunc(o, func(pattern string) bool {
		parts := strings.Split(strings.ToLower(pattern), "*")
		rest, ok := strings.CutPrefix(action, parts[0])
		if !ok {
			return false
		}
		if len(parts) == 1 {
			return rest == ""
		}
		for _, p := range parts[1 : len(parts)-1] {
			i := strings.Index(rest, p)
			if i < 0 {
				return false
			}
			rest = rest[i+len(p):]
		}
		return strings.HasSuffix(rest, parts[len(parts)-1])
	})
}

// repository returns the account's registry region and repository of an image in ECR.
func repository(image string) (name, region string, ok bool) {
	host, name, found := strings.Cut(image, "/")
	labels := strings.Split(host, ".")
	if !found || len(labels) < 5 || labels[1] != "dkr" || labels[2] != "ecr" {
		return "", "", false
	}
	name, _, _ = strings.Cut(name, "@")
	name, _, _ = strings.Cut(name, ":")
	return name, labels[3], true
}
