package bastions

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// The limits of an ECS awsvpc configuration.
const (
	maxSubnets        = 16
	maxSecurityGroups = 5
)

// network returns a new task's network configuration. It sorts the subnets and groups that it finds by tags, so that every
// process sends the same request.
func (m *Manager) network(ctx context.Context, spec Spec) (*types.NetworkConfiguration, error) {
	config := &types.AwsVpcConfiguration{AssignPublicIp: types.AssignPublicIpDisabled}
	if spec.AssignPublicIP {
		config.AssignPublicIp = types.AssignPublicIpEnabled
	}
	const op = "choose the bastion's subnets"
	vpc := "" // known after a look-up of subnets
	switch {
	case len(spec.Subnets) > 0:
		config.Subnets = slices.Clone(spec.Subnets)
	case len(spec.SubnetTags) > 0:
		subnets, err := m.subnets(ctx, &ec2.DescribeSubnetsInput{Filters: tagFilters(spec.SubnetTags)})
		if err != nil {
			return nil, err
		}
		if len(subnets) == 0 {
			return nil, fail.New(fail.Usage, op, fmt.Errorf("no subnet has the tags %s", showTags(spec.SubnetTags)),
				"correct the tags, or name the subnets by id")
		}
		if vpc, err = onlyVPC(subnets); err != nil {
			return nil, fail.New(fail.Usage, op, fmt.Errorf("the tags %s match %w", showTags(spec.SubnetTags), err),
				"add a tag that only the subnets of one VPC have, or name the subnets by id")
		}
		for _, s := range subnets {
			config.Subnets = append(config.Subnets, aws.ToString(s.SubnetId))
		}
	default:
		return nil, fail.New(fail.Usage, op, errors.New("none are set"),
			"set the ids or the tags of private subnets that reach SSM")
	}
	slices.Sort(config.Subnets)
	config.Subnets = slices.Compact(config.Subnets)
	if len(config.Subnets) > maxSubnets { // any of them suffices
		m.log.InfoContext(ctx, "more subnets than ECS takes; using the first",
			"found", len(config.Subnets), "used", maxSubnets)
		config.Subnets = config.Subnets[:maxSubnets]
	}

	var err error
	switch {
	case len(spec.SecurityGroups) > 0:
		config.SecurityGroups = slices.Clone(spec.SecurityGroups)
	case len(spec.SecurityGroupTags) > 0:
		if config.SecurityGroups, err = m.securityGroups(ctx, spec, vpc); err != nil {
			return nil, err
		}
	}
	slices.Sort(config.SecurityGroups)
	config.SecurityGroups = slices.Compact(config.SecurityGroups)
	if n := len(config.SecurityGroups); n > maxSecurityGroups { // leaving one out would change the permissions
		return nil, fail.New(fail.Usage, "choose the bastion's security groups",
			fmt.Errorf("%d match, and ECS takes at most %d", n, maxSecurityGroups),
			"name fewer, by id or by a more specific tag")
	}
	return &types.NetworkConfiguration{AwsvpcConfiguration: config}, nil
}

// securityGroups returns the ids of the groups with the Spec's tags in the VPC. If the VPC is unknown and matters, it looks it
// up by the Spec's subnets.
func (m *Manager) securityGroups(ctx context.Context, spec Spec, vpc string) ([]string, error) {
	const op = "choose the bastion's security groups"
	if m.ec2 == nil {
		return nil, errNoEC2(op)
	}
	input := &ec2.DescribeSecurityGroupsInput{Filters: tagFilters(spec.SecurityGroupTags)}
	if vpc != "" {
		input.Filters = append(input.Filters, ec2types.Filter{Name: aws.String("vpc-id"), Values: []string{vpc}})
	}
	var groups []ec2types.SecurityGroup
	pages := ec2.NewDescribeSecurityGroupsPaginator(m.ec2, input)
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fail.AWS(fail.Start, op, "ec2:DescribeSecurityGroups", err)
		}
		groups = append(groups, page.SecurityGroups...)
	}
	where := vpc
	if vpc == "" && slices.ContainsFunc(groups, func(g ec2types.SecurityGroup) bool {
		return aws.ToString(g.VpcId) != aws.ToString(groups[0].VpcId)
	}) {
		subnets, err := m.subnets(ctx, &ec2.DescribeSubnetsInput{SubnetIds: spec.Subnets})
		if err != nil {
			return nil, err
		}
		if where, err = onlyVPC(subnets); err != nil {
			return nil, fail.New(fail.Usage, op, fmt.Errorf("the ids name %w", err), "name subnets of one VPC")
		}
	}
	var ids []string
	for _, g := range groups {
		if where == "" || aws.ToString(g.VpcId) == where {
			ids = append(ids, aws.ToString(g.GroupId))
		}
	}
	if len(ids) == 0 {
		err := fmt.Errorf("no security group has the tags %s", showTags(spec.SecurityGroupTags))
		if where != "" {
			err = fmt.Errorf("%w in the subnets' VPC %s", err, where)
		}
		return nil, fail.New(fail.Usage, op, err, "correct the tags, or name the security groups by id")
	}
	return ids, nil
}

// VPC returns the id of the VPC in which a new task would start: that of the subnets with the ids, or else with the tags.
func (m *Manager) VPC(ctx context.Context, ids []string, tags map[string]string) (string, error) {
	const op = "find the bastion's VPC"
	input := &ec2.DescribeSubnetsInput{SubnetIds: ids}
	switch {
	case len(ids) == 0 && len(tags) == 0:
		return "", fail.New(fail.Usage, op, errors.New("the settings name no subnets"), "set subnets or subnet_tags")
	case len(ids) == 0:
		input.Filters = tagFilters(tags)
	}
	subnets, err := m.subnets(ctx, input)
	if err != nil {
		return "", err
	}
	vpc, err := onlyVPC(subnets)
	switch {
	case err != nil:
		return "", fail.New(fail.Usage, op, fmt.Errorf("the settings name %w", err), "name the subnets of one VPC")
	case vpc == "":
		return "", fail.New(fail.NoTarget, op, errors.New("no subnet has the tags "+showTags(tags)), "correct subnet_tags")
	}
	return vpc, nil
}

func (m *Manager) subnets(ctx context.Context, input *ec2.DescribeSubnetsInput) ([]ec2types.Subnet, error) {
	const op = "choose the bastion's subnets"
	if m.ec2 == nil {
		return nil, errNoEC2(op)
	}
	var found []ec2types.Subnet
	pages := ec2.NewDescribeSubnetsPaginator(m.ec2, input)
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fail.AWS(fail.Start, op, "ec2:DescribeSubnets", err)
		}
		found = append(found, page.Subnets...)
	}
	return found, nil
}

// onlyVPC returns the subnets' VPC. If they have several, its error lists them.
func onlyVPC(subnets []ec2types.Subnet) (string, error) {
	vpcs := make(map[string]bool)
	for _, s := range subnets {
		vpcs[aws.ToString(s.VpcId)] = true
	}
	ids := slices.Sorted(maps.Keys(vpcs))
	if len(ids) > 1 {
		return "", fmt.Errorf("subnets of %d VPCs (%s)", len(ids), strings.Join(ids, ", "))
	}
	if len(ids) == 0 {
		return "", nil
	}
	return ids[0], nil
}

// tagFilters returns EC2's filters for resources with all the tags; an empty value matches any.
func tagFilters(tags map[string]string) []ec2types.Filter {
	var filters []ec2types.Filter
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		if tags[key] == "" {
			filters = append(filters, ec2types.Filter{Name: aws.String("tag-key"), Values: []string{key}})
		} else {
			filters = append(filters, ec2types.Filter{Name: aws.String("tag:" + key), Values: []string{tags[key]}})
		}
	}
	return filters
}

// showTags returns "App=bastion, Tier".
func showTags(tags map[string]string) string {
	var shown []string
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		if tags[key] == "" {
			shown = append(shown, key)
		} else {
			shown = append(shown, key+"="+tags[key])
		}
	}
	return strings.Join(shown, ", ")
}

func errNoEC2(op string) error {
	return fail.New(fail.Usage, op, errors.New("finding them by tags needs EC2, which is not set up"), "name them by id")
}
