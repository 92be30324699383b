package targets

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// ec2Kind has EC2's instances by their Name tag, their id or a private address.
func ec2Kind() Description {
	return Description{
		Kind: EC2, Prefix: "ec2", Form: "NAME|ID|ADDRESS:PORT", Noun: "EC2 instance", Help: "an EC2 instance by Name tag, id or private address",
		Lists: "EC2 instances", Port: "needed", TLS: "unknown",
		Guard: "its own, or those of the address's network interface", SignIn: "none that AWS knows",
		id: checkInstance,
		parts: func(r *Resolver) []part {
			return []part{{of: "EC2 instances", actions: []string{"ec2:DescribeInstances"}, find: r.machines}}
		},
	}
}

// checkInstance accepts what a Name tag may be, except for colons and for the filters' wildcards.
func checkInstance(text string) (string, error) {
	switch {
	case text == "":
		return "", errors.New("the identifier is empty")
	case len(text) > 256:
		return "", errors.New("a Name tag has at most 256 characters")
	case strings.ContainsAny(text, `*?\`) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "", fmt.Errorf("%q has characters that no target may have", clip(text))
	}
	return text, nil
}

// isInstanceID reports whether a text has the form of an instance's id.
func isInstanceID(text string) bool {
	digits, ok := strings.CutPrefix(text, "i-")
	return ok && (len(digits) == 8 || len(digits) == 17) && strings.Trim(digits, "0123456789abcdef") == ""
}

// machines returns the instances that id means, or all that are not terminated if id is nil. A Name tag may be that of several: then
// each goes by its own id.
func (r *Resolver) machines(ctx context.Context, _ Spec, op string, id *string) ([]candidate, error) {
	in := &ec2.DescribeInstancesInput{Filters: []types.Filter{
		{Name: aws.String("instance-state-name"), Values: []string{"pending", "running", "stopping", "stopped"}},
	}}
	address, isAddress := "", false
	if id != nil {
		by := "tag:Name"
		if _, err := netip.ParseAddr(*id); err == nil {
			by, address, isAddress = "network-interface.addresses.private-ip-address", *id, true
		} else if isInstanceID(*id) {
			by = "instance-id"
		}
		in.Filters = append(in.Filters, types.Filter{Name: &by, Values: []string{*id}})
	}
	var found []candidate
	names := make(map[string]int)
	err := pages(ctx, r.AWS.ec2().instances, in,
		func(in *ec2.DescribeInstancesInput) **string { return &in.NextToken },
		func(out *ec2.DescribeInstancesOutput) *string { return out.NextToken },
		func(out *ec2.DescribeInstancesOutput) {
			for _, reservation := range out.Reservations {
				for i := range reservation.Instances {
					c := fromMachine(&reservation.Instances[i], address)
					names[c.tags["Name"]]++
					found = append(found, c)
				}
			}
		})
	if err != nil {
		return nil, fail.AWS(fail.Other, op, "ec2:DescribeInstances", err)
	}
	if len(found) > 1 && id != nil { // those that run have precedence
		if running := filter(found, func(c candidate) bool { return c.usability() != down }); len(running) > 0 {
			found = running
		}
	}
	for i := range found {
		name := found[i].tags["Name"]
		_, err := checkInstance(name)
		switch {
		case isAddress:
			found[i].id, found[i].endpoint.Host = address, address
		case id != nil && len(found) == 1:
			found[i].id = *id
		case err == nil && names[name] == 1 && !strings.Contains(name, ":") && !isDigits(name):
			found[i].id = name
		}
	}
	return found, nil
}

// fromMachine makes a candidate of an instance. address is the one that the user wrote, or "".
func fromMachine(i *types.Instance, address string) candidate {
	c := candidate{
		id: aws.ToString(i.InstanceId), what: "EC2 instance",
		endpoint: Endpoint{Host: aws.ToString(i.PrivateIpAddress), Instance: aws.ToString(i.InstanceId)},
		network:  Network{VPC: aws.ToString(i.VpcId)},

		start:  "aws ec2 start-instances --instance-ids " + aws.ToString(i.InstanceId),
		tags:   tagsOf(i.Tags, func(t types.Tag) (*string, *string) { return t.Key, t.Value }),
		groups: machineGroups(i.SecurityGroups),
	}
	for _, n := range i.NetworkInterfaces {
		if slices.ContainsFunc(n.PrivateIpAddresses, func(p types.InstancePrivateIpAddress) bool {
			return address != "" && aws.ToString(p.PrivateIpAddress) == address
		}) {
			c.groups = machineGroups(n.Groups)
		}
	}
	if i.State != nil {
		c.status = string(i.State.Name)
	}
	if c.endpoint.Host == "" {
		c.endpoint.Host = aws.ToString(i.Ipv6Address)
	}
	return c
}

func machineGroups(list []types.GroupIdentifier) []string {
	return texts(list, func(g types.GroupIdentifier) *string { return g.GroupId })
}
