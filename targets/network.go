package targets

import (
	"context"
	"errors"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/pattern"
)

// Network is what the answer that describes a target says about its network: the VPC, or else something in the VPC.
type Network struct {
	VPC          string
	Subnet       string // id of one of its subnets
	Group        string // id of one of its security groups
	CacheCluster string // id of a replication group's member, whose answer has the security groups
}

// ErrNoVPC means that AWS's answers about a target do not lead to its VPC.
var ErrNoVPC = errors.New("AWS does not say in which VPC it is")

// VPC returns the id of an endpoint's VPC. Where the target's own answer lacks it, VPC makes one or two calls of the users' policy; so
// call it only when the VPC matters. The error says why the VPC is not known.
func (r *Resolver) VPC(ctx context.Context, e Endpoint) (string, error) {
	switch {
	case e.Network.VPC != "":
		return e.Network.VPC, nil
	case r.AWS == nil:
		return "", ErrNoVPC
	case e.Network.Subnet != "":
		return r.vpcOfSubnet(ctx, e.Network.Subnet)
	case e.Network.Group != "":
		return r.vpcOfGroup(ctx, e.Network.Group)
	case e.Network.CacheCluster != "":
		return r.vpcOfCache(ctx, e.Network.CacheCluster)
	}
	return "", ErrNoVPC
}

func (r *Resolver) vpcOfSubnet(ctx context.Context, id string) (string, error) {
	out, err := r.AWS.ec2().subnets(ctx, &ec2.DescribeSubnetsInput{SubnetIds: []string{id}})
	switch {
	case err != nil:
		return "", fail.AWS(fail.Other, "look up the subnet "+id, "ec2:DescribeSubnets", err)
	case len(out.Subnets) == 0:
		return "", ErrNoVPC
	}
	return aws.ToString(out.Subnets[0].VpcId), nil
}

func (r *Resolver) vpcOfGroup(ctx context.Context, id string) (string, error) {
	out, err := r.AWS.ec2().groups(ctx, &ec2.DescribeSecurityGroupsInput{GroupIds: []string{id}})
	switch {
	case err != nil:
		return "", fail.AWS(fail.Other, "look up the security group "+id, "ec2:DescribeSecurityGroups", err)
	case len(out.SecurityGroups) == 0:
		return "", ErrNoVPC
	}
	return aws.ToString(out.SecurityGroups[0].VpcId), nil
}

func (r *Resolver) vpcOfCache(ctx context.Context, id string) (string, error) {
	groups, err := r.nodeGroups(ctx, id)
	switch {
	case err != nil:
		return "", err
	case len(groups) == 0:
		return "", ErrNoVPC
	}
	return r.vpcOfGroup(ctx, groups[0])
}

// VPCNames returns the Name tags of VPCs by their ids. The users' policy does not need its call: a VPC that AWS does not show has no
// name here.
func (r *Resolver) VPCNames(ctx context.Context, ids ...string) map[string]string {
	names := make(map[string]string)
	if r.AWS == nil || len(ids) == 0 {
		return names
	}
	out, err := r.AWS.ec2().vpcs(ctx, &ec2.DescribeVpcsInput{Filters: []types.Filter{{Name: aws.String("vpc-id"), Values: ids}}})
	if err != nil {
		return names
	}
	for i := range out.Vpcs {
		tags := tagsOf(out.Vpcs[i].Tags, func(t types.Tag) (*string, *string) { return t.Key, t.Value })
		if name := tags["Name"]; name != "" {
			names[aws.ToString(out.Vpcs[i].VpcId)] = name
		}
	}
	return names
}

// ofRegion matches a region's name, alone.
var ofRegion = pattern.Lazy(`^[a-z]{2,4}(-[a-z]+)+-[0-9]{1,2}$`)

// RegionOf returns the region that a name of AWS's endpoints has in it; "" if it has none.
func RegionOf(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	labels := strings.Split(host, ".")
	if !strings.Contains(host, ".amazonaws.") && !strings.HasSuffix(host, ".compute.internal") {
		return ""
	}
	for _, label := range labels[1:] { // the first is the user's own
		if ofRegion().MatchString(label) {
			return label
		}
	}
	return ""
}

// first returns the first of texts, or "".
func first(texts []string) string {
	if len(texts) == 0 {
		return ""
	}
	return texts[0]
}
