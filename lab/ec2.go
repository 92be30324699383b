package lab

import (
	"cmp"
	"context"
	"encoding/base64"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

const (
	vpcSubnet = "subnet-0000000000000lab"
	vpcGroup  = "sg-0000000000000000lab"
)

// vpc returns the id of the lab's VPC. As in AWS, no two accounts or regions have one id.
func (s site) vpc() string {
	if s.account == Account && s.region == Region {
		return "vpc-0lab0lab0lab0lab0"
	}
	return "vpc-0" + strings.ReplaceAll(seededUUID(s.account+" "+s.region), "-", "")[:16]
}

// VPC is a VPC besides the lab's own. Nothing is in it but what says so.
type VPC struct{ ID, Name string }

// AddVPC adds a VPC.
func (l *Lab) AddVPC(v VPC) { l.ec2.vpcs.add(v) }

// VPC returns the id of the lab's VPC.
func (l *Lab) VPC() string { return l.vpc() }

// vpcName is the Name tag of the lab's VPC.
const vpcName = "private"

// Subnet is a subnet of the lab's VPC.
type Subnet struct {
	ID   string
	CIDR string
	Zone string
	VPC  string // default: the lab's
	Full bool   // it has no free address
	Tags map[string]string
}

// SecurityGroup is a security group of the lab's VPC. It does not filter traffic.
type SecurityGroup struct {
	ID, Name, Description string
	VPC                   string         // default: the lab's
	Ingress, Egress       []SecurityRule // Egress nil: everywhere
	Tags                  map[string]string
}

// SecurityRule is a rule of a security group for TCP.
type SecurityRule struct {
	From, To    int
	CIDR, Group string // one of the two
}

// ec2 is the part of EC2 with the tasks' network.
type ec2 struct {
	site
	mu        sync.Mutex
	subnets   []Subnet
	groups    []SecurityGroup
	tables    []RouteTable
	endpoints []VPCEndpoint
	faces     []networkInterface // of tasks, the latest maxTasks
	hosts     int                // addresses given to tasks so far

	machines shelf[Machine]
	vpcs     shelf[VPC]
}

// networkInterface is a task's network interface.
type networkInterface struct {
	id, subnet, ip string
	public         bool
	groups         []string // none: the VPC's default group
}

// defaultGroup is the VPC's default security group, for tasks whose starter names none.
const defaultGroup = "sg-000000000000default"

// attach adds a new task's network interface.
func (e *ec2) attach(n networkInterface) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.faces = append(e.faces, n)
	if extra := len(e.faces) - maxTasks; extra > 0 {
		e.faces = slices.Delete(e.faces, 0, extra)
	}
}

func (e *ec2) service() awsapi.Service {
	return awsapi.Service{
		Name: "ec2", Protocol: awsapi.EC2, Version: "2016-11-15", Namespace: "http://ec2.amazonaws.com/doc/2016-11-15/",
		Ops: map[string]awsapi.Op{
			"GetPasswordData": {Handle: e.getPasswordData, Resource: func(c *awsapi.Call) string {
				return e.arn("ec2", "instance/"+c.Form.Get("InstanceId"))
			}},
			"DescribeInstances":      {Handle: e.describeInstances},
			"DescribeVpcs":           {Handle: e.describeVPCs},
			"DescribeSubnets":        {Handle: e.describeSubnets},
			"DescribeSecurityGroups": {Handle: e.describeSecurityGroups},
			"DescribeRouteTables":    {Handle: e.describeRouteTables},
			"DescribeVpcEndpoints":   {Handle: e.describeVPCEndpoints},

			"DescribeNetworkInterfaces": {Handle: e.describeNetworkInterfaces},
		},
	}
}

// checkNetwork checks a task's network configuration as ECS does.
func (e *ec2) checkNetwork(subnets, groups []string) error {
	if len(subnets) == 0 {
		return invalidParameter("subnets can not be empty.")
	}
	if len(subnets) > 16 {
		return invalidParameter("subnets can have at most 16 items.")
	}
	if len(groups) > 5 {
		return invalidParameter("securityGroups can have at most 5 items.")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, id := range subnets {
		if !slices.ContainsFunc(e.subnets, func(s Subnet) bool { return s.ID == id }) {
			return invalidParameter("Error retrieving subnet information for [%s]: The subnet ID '%s' does not exist "+
				"(ErrorCode: InvalidSubnetID.NotFound)", id, id)
		}
	}
	for _, id := range groups {
		if !slices.ContainsFunc(e.groups, func(g SecurityGroup) bool { return g.ID == id }) {
			return invalidParameter("Error retrieving security group information for [%s]: "+
				"The security group '%s' does not exist (ErrorCode: InvalidGroup.NotFound)", id, id)
		}
	}
	return nil
}

// newAddress returns a private address for a task, for display only: nothing listens there.
func (e *ec2) newAddress(subnet string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hosts++
	for _, s := range e.subnets {
		if p, err := netip.ParsePrefix(s.CIDR); s.ID == subnet && err == nil {
			b := p.Addr().As4()
			b[3] = byte(10 + e.hosts%240)
			return netip.AddrFrom4(b).String()
		}
	}
	return ""
}

func (e *ec2) zone(subnet string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.subnets {
		if s.ID == subnet {
			return s.Zone
		}
	}
	return ""
}

type ec2Tag struct {
	Key   string `xml:"key"`
	Value string `xml:"value"`
}

func ec2Tags(tags map[string]string) []ec2Tag {
	var list []ec2Tag
	for _, k := range sortedKeys(tags) {
		list = append(list, ec2Tag{k, tags[k]})
	}
	return list
}

func (e *ec2) describeVPCs(_ context.Context, c *awsapi.Call) (any, error) {
	type item struct {
		VpcID   string   `xml:"vpcId"`
		OwnerID string   `xml:"ownerId"`
		State   string   `xml:"state"`
		CIDR    string   `xml:"cidrBlock"`
		Tags    []ec2Tag `xml:"tagSet>item"`
	}
	vpcs := append([]VPC{{e.vpc(), vpcName}}, e.vpcs.all()...)
	vpcs, err := selectByID(vpcs, awsapi.List(c.Form, "VpcId"), func(v VPC) string { return v.ID },
		"InvalidVpcID.NotFound", "The vpc ID '%s' does not exist")
	if err != nil {
		return nil, err
	}
	vpcs, next, err := ec2Select(c, vpcs, func(v VPC) (tags, attributes map[string]string) {
		return map[string]string{"Name": v.Name}, map[string]string{"vpc-id": v.ID, "owner-id": e.account, "state": "available"}
	})
	var items []item
	for _, v := range vpcs {
		items = append(items, item{v.ID, e.account, "available", "10.99.0.0/16", ec2Tags(map[string]string{"Name": v.Name})})
	}
	return struct {
		Items []item `xml:"vpcSet>item"`
		Next  string `xml:"nextToken,omitempty"`
	}{items, next}, err
}

func (e *ec2) describeSubnets(_ context.Context, c *awsapi.Call) (any, error) {
	type item struct {
		SubnetID            string   `xml:"subnetId"`
		SubnetArn           string   `xml:"subnetArn"`
		State               string   `xml:"state"`
		VpcID               string   `xml:"vpcId"`
		CIDR                string   `xml:"cidrBlock"`
		Free                int      `xml:"availableIpAddressCount"`
		Zone                string   `xml:"availabilityZone"`
		DefaultForAZ        bool     `xml:"defaultForAz"`
		MapPublicIPOnLaunch bool     `xml:"mapPublicIpOnLaunch"`
		OwnerID             string   `xml:"ownerId"`
		Tags                []ec2Tag `xml:"tagSet>item"`
	}
	e.mu.Lock()
	subnets := slices.Clone(e.subnets)
	e.mu.Unlock()
	subnets, err := selectByID(subnets, awsapi.List(c.Form, "SubnetId"), func(s Subnet) string { return s.ID },
		"InvalidSubnetID.NotFound", "The subnet ID '%s' does not exist")
	if err != nil {
		return nil, err
	}
	subnets, next, err := ec2Select(c, subnets, func(s Subnet) (tags, attributes map[string]string) {
		return s.Tags, map[string]string{
			"subnet-id": s.ID, "vpc-id": cmp.Or(s.VPC, e.vpc()), "availability-zone": s.Zone, "state": "available", "cidr-block": s.CIDR,
			"cidrBlock": s.CIDR,
		}
	})
	var items []item
	for _, s := range subnets {
		free := 251
		if s.Full {
			free = 0
		}
		items = append(items, item{
			s.ID, e.arn("ec2", "subnet/"+s.ID), "available", cmp.Or(s.VPC, e.vpc()), s.CIDR, free, s.Zone, false, false, e.account, ec2Tags(s.Tags),
		})
	}
	return struct {
		Items []item `xml:"subnetSet>item"`
		Next  string `xml:"nextToken,omitempty"`
	}{items, next}, err
}

func (e *ec2) describeSecurityGroups(_ context.Context, c *awsapi.Call) (any, error) {
	type item struct {
		OwnerID     string          `xml:"ownerId"`
		GroupID     string          `xml:"groupId"`
		GroupName   string          `xml:"groupName"`
		Description string          `xml:"groupDescription"`
		VpcID       string          `xml:"vpcId"`
		Ingress     []xmlPermission `xml:"ipPermissions>item"`
		Egress      []xmlPermission `xml:"ipPermissionsEgress>item"`
		Tags        []ec2Tag        `xml:"tagSet>item"`
	}
	e.mu.Lock()
	groups := slices.Clone(e.groups)
	e.mu.Unlock()
	groups, err := selectByID(groups, awsapi.List(c.Form, "GroupId"), func(g SecurityGroup) string { return g.ID },
		"InvalidGroup.NotFound", "The security group '%s' does not exist")
	if err != nil {
		return nil, err
	}
	groups, err = selectByID(groups, awsapi.List(c.Form, "GroupName"), func(g SecurityGroup) string { return g.Name },
		"InvalidGroup.NotFound", "The security group '%s' does not exist in default VPC")
	if err != nil {
		return nil, err
	}
	groups, next, err := ec2Select(c, groups, func(g SecurityGroup) (tags, attributes map[string]string) {
		return g.Tags, map[string]string{
			"group-id": g.ID, "group-name": g.Name, "vpc-id": cmp.Or(g.VPC, e.vpc()), "description": g.Description, "owner-id": e.account,
		}
	})
	var items []item
	for _, g := range groups {
		items = append(items, item{
			e.account, g.ID, g.Name, g.Description, cmp.Or(g.VPC, e.vpc()),
			permissionsOf(e.account, g.Ingress), g.egress(e.account), ec2Tags(g.Tags),
		})
	}
	return struct {
		Items []item `xml:"securityGroupInfo>item"`
		Next  string `xml:"nextToken,omitempty"`
	}{items, next}, err
}

func (e *ec2) describeNetworkInterfaces(_ context.Context, c *awsapi.Call) (any, error) {
	type group struct {
		ID   string `xml:"groupId"`
		Name string `xml:"groupName"`
	}
	type association struct {
		PublicIP string `xml:"publicIp"`
	}
	type item struct {
		ID          string       `xml:"networkInterfaceId"`
		SubnetID    string       `xml:"subnetId"`
		VpcID       string       `xml:"vpcId"`
		OwnerID     string       `xml:"ownerId"`
		Status      string       `xml:"status"`
		PrivateIP   string       `xml:"privateIpAddress"`
		Groups      []group      `xml:"groupSet>item"`
		Association *association `xml:"association"`
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	faces, err := selectByID(slices.Clone(e.faces), awsapi.List(c.Form, "NetworkInterfaceId"),
		func(n networkInterface) string { return n.id },
		"InvalidNetworkInterfaceID.NotFound", "The networkInterface ID '%s' does not exist")
	if err != nil {
		return nil, err
	}
	faces, next, err := ec2Select(c, faces, func(n networkInterface) (tags, attributes map[string]string) {
		return nil, map[string]string{
			"network-interface-id": n.id, "subnet-id": n.subnet, "vpc-id": e.vpc(), "private-ip-address": n.ip,
		}
	})
	var items []item
	for _, n := range faces {
		i := item{ID: n.id, SubnetID: n.subnet, VpcID: e.vpc(), OwnerID: e.account, Status: "in-use", PrivateIP: n.ip}
		for _, id := range n.groups {
			for _, g := range e.groups {
				if g.ID == id {
					i.Groups = append(i.Groups, group{id, g.Name})
				}
			}
		}
		if len(n.groups) == 0 {
			i.Groups = []group{{defaultGroup, "default"}}
		}
		if n.public {
			i.Association = &association{"192.0.2.1"} // for display, never dialed
		}
		items = append(items, i)
	}
	return struct {
		Items []item `xml:"networkInterfaceSet>item"`
		Next  string `xml:"nextToken,omitempty"`
	}{items, next}, err
}

// selectByID returns the items with the ids, or all items without ids. An unknown id is an error.
func selectByID[T any](items []T, ids []string, id func(T) string, code, message string) ([]T, error) {
	if len(ids) == 0 {
		return items, nil
	}
	var selected []T
	for _, want := range ids {
		i := slices.IndexFunc(items, func(item T) bool { return id(item) == want })
		if i < 0 {
			return nil, awsapi.Errorf(code, message, want)
		}
		selected = append(selected, items[i])
	}
	return selected, nil
}

// ec2Match applies the call's filters to a resource with these tags and attributes.
func ec2Match(c *awsapi.Call, tags, attributes map[string]string) (bool, error) {
	for _, f := range awsapi.Filters(c.Form, "Filter", "Value") {
		var ok bool
		if key, isTag := strings.CutPrefix(f.Name, "tag:"); isTag {
			value, has := tags[key]
			ok = has && awsapi.MatchAnyWild(f.Values, value)
		} else if f.Name == "tag-key" {
			ok = slices.ContainsFunc(sortedKeys(tags), func(k string) bool { return awsapi.MatchAnyWild(f.Values, k) })
		} else if value, known := attributes[f.Name]; known {
			ok = awsapi.MatchAnyWild(f.Values, value)
		} else {
			return false, awsapi.Errorf("InvalidParameterValue", "The filter '%s' is invalid", f.Name)
		}
		if !ok {
			return false, nil
		}
	}
	return true, nil
}

// ec2Select returns the page of the things that the call's filters accept, and the next page's token. of returns a thing's tags and
// attributes.
func ec2Select[T any](c *awsapi.Call, things []T, of func(T) (tags, attributes map[string]string)) (page []T, next string, err error) {
	var selected []T
	for _, thing := range things {
		tags, attributes := of(thing)
		match, err := ec2Match(c, tags, attributes)
		if err != nil {
			return nil, "", err
		}
		if match {
			selected = append(selected, thing)
		}
	}
	return ec2Page(c, selected)
}

func ec2Page[T any](c *awsapi.Call, items []T) ([]T, string, error) {
	size := 1000
	if v := c.Form.Get("MaxResults"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 5 || n > 1000 {
			return nil, "", awsapi.Errorf("InvalidParameterValue", "Value (%s) for parameter maxResults is invalid. "+
				"Expecting a value between 5 and 1000.", v)
		}
		size = n
	}
	marker, err := base64.StdEncoding.DecodeString(c.Form.Get("NextToken"))
	page, next, ok := awsapi.Page(items, string(marker), size)
	if err != nil || !ok {
		return nil, "", awsapi.Errorf("InvalidPaginationToken", "The token '%s' is invalid", c.Form.Get("NextToken"))
	}
	if next != "" {
		next = base64.StdEncoding.EncodeToString([]byte(next))
	}
	return page, next, nil
}
