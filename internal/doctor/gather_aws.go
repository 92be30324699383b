package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/partition"
)

// credentials loads the AWS configuration and the credentials.
func (g *gatherer) credentials(ctx context.Context) {
	c := &g.facts.Credentials
	g.facts.Login = awssdk.Look(ctx, g.Settings.AWS.Profile)
	limit := credentialsLimit
	if awssdk.MFADevice(ctx, g.Settings.AWS.Profile) != "" && g.MFA != nil {
		limit = promptLimit
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var err error
	g.cfg, err = awssdk.Load(ctx, awssdk.Source{
		Profile: g.Settings.AWS.Profile, Region: g.Settings.AWS.Region, MFA: g.MFA, CallTimeout: min(g.Settings.AWS.Timeout, callLimit),
	})
	c.Region = g.cfg.Region
	g.cfg.RetryMaxAttempts = attempts
	switch {
	case errors.Is(err, awssdk.ErrNoRegion):
		c.RegionErr = err
	case err != nil && c.Region == "": // the configuration itself
		c.ProfileErr = err
	default:
		c.LoadErr = err
	}
}

// identity asks AWS whose the credentials are, and learns AWS's clock.
func (g *gatherer) identity(ctx context.Context) {
	c := &g.facts.Credentials
	if c.LoadErr != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	cfg, clock := g.cfg.Copy(), new(awssdk.Clock)
	cfg.APIOptions = append(slices.Clip(cfg.APIOptions), clock.Add)
	out, err := sts.NewFromConfig(cfg).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	c.Skew, c.SkewKnown = clock.Skew()
	if err != nil {
		c.AskErr = fail.AWS(fail.Credentials, "ask AWS who you are", "sts:GetCallerIdentity", err)
		return
	}
	c.ARN, c.Account = aws.ToString(out.Arn), aws.ToString(out.Account)
}

// account looks at the bastion's set-up.
func (g *gatherer) account(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*callLimit)
	defer cancel()
	a := &g.facts.Account
	steps := []func(){func() { g.cluster(ctx) }, func() { g.preferences(ctx) }}
	isOwn := g.Settings.Bastion.SharedService == ""
	if isOwn {
		steps = append(steps, func() { g.definition(ctx) }, func() { g.subnets(ctx) }, func() { g.tables(ctx) }, func() { g.vpcEndpoints(ctx) })
	}
	together(steps...)
	steps = nil
	if isOwn {
		steps = append(steps, func() { a.Groups, a.GroupsErr = g.taskGroups(ctx) })
	}
	if d := a.Definition; d != nil {
		steps = append(steps, func() { g.taskRole(ctx, d) }, func() { g.executionRole(ctx, d) })
	}
	if key := g.facts.execKey(); key != "" {
		a.KeyTried = true
		steps = append(steps, func() { a.KeyErr = g.key(ctx, key) })
	}
	together(steps...)
}

func (g *gatherer) cluster(ctx context.Context) {
	a := &g.facts.Account
	out, err := g.calls.clusters(ctx, &ecs.DescribeClustersInput{
		Clusters: []string{g.facts.cluster()}, Include: []ecstypes.ClusterField{ecstypes.ClusterFieldConfigurations},
	})
	if err != nil {
		a.ClusterErr = fail.AWS(fail.Other, "look at the cluster", "ecs:DescribeClusters", err)
		return
	}
	if len(out.Clusters) > 0 {
		a.Cluster = &out.Clusters[0]
	}
}

func (g *gatherer) definition(ctx context.Context) {
	a := &g.facts.Account
	out, err := g.calls.definition(ctx, &ecs.DescribeTaskDefinitionInput{TaskDefinition: &g.Settings.Bastion.TaskDefinition})
	if err != nil {
		a.DefinitionErr = fail.AWS(fail.Other, "look at the task definition", "ecs:DescribeTaskDefinition", err)
		return
	}
	a.Definition = out.TaskDefinition
}

// filters are EC2's for things that the settings name by ids or by tags.
func filters(kind string, ids []string, tags map[string]string) (out []ec2types.Filter) {
	if len(ids) > 0 {
		return []ec2types.Filter{{Name: &kind, Values: ids}}
	}
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		if tags[key] == "" {
			out = append(out, ec2types.Filter{Name: aws.String("tag-key"), Values: []string{key}})
		} else {
			out = append(out, ec2types.Filter{Name: aws.String("tag:" + key), Values: []string{tags[key]}})
		}
	}
	return out
}

func (g *gatherer) subnets(ctx context.Context) {
	a, s := &g.facts.Account, g.Settings.Bastion
	by := filters("subnet-id", s.Subnets, s.SubnetTags)
	if by == nil {
		return
	}
	pages := ec2.NewDescribeSubnetsPaginator(subnetCall(g.calls.subnets), &ec2.DescribeSubnetsInput{Filters: by})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			a.SubnetsErr = fail.AWS(fail.Other, "look at the subnets", "ec2:DescribeSubnets", err)
			return
		}
		a.Subnets = append(a.Subnets, page.Subnets...)
	}
}

// The SDK's paginators take an interface.
type subnetCall call[ec2.DescribeSubnetsInput, ec2.Options, ec2.DescribeSubnetsOutput]

func (c subnetCall) DescribeSubnets(ctx context.Context, in *ec2.DescribeSubnetsInput,
	o ...func(*ec2.Options),
) (*ec2.DescribeSubnetsOutput, error) {
	return c(ctx, in, o...)
}

type groupCall call[ec2.DescribeSecurityGroupsInput, ec2.Options, ec2.DescribeSecurityGroupsOutput]

func (c groupCall) DescribeSecurityGroups(ctx context.Context, in *ec2.DescribeSecurityGroupsInput, o ...func(*ec2.Options)) (
	*ec2.DescribeSecurityGroupsOutput, error,
) {
	return c(ctx, in, o...)
}

// securityGroups finds groups. A filter passes over a group that is gone, where a list of ids is refused.
func (g *gatherer) securityGroups(ctx context.Context, by []ec2types.Filter) (out []ec2types.SecurityGroup, err error) {
	if len(by) == 0 {
		return nil, nil
	}
	pages := ec2.NewDescribeSecurityGroupsPaginator(groupCall(g.calls.groups), &ec2.DescribeSecurityGroupsInput{Filters: by})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fail.AWS(fail.Other, "look at the security groups", "ec2:DescribeSecurityGroups", err)
		}
		out = append(out, page.SecurityGroups...)
	}
	return out, nil
}

// taskGroups are the groups of the task that would start; those with the tags in the subnets' VPC alone.
func (g *gatherer) taskGroups(ctx context.Context) ([]ec2types.SecurityGroup, error) {
	a, s := &g.facts.Account, g.Settings.Bastion
	by := filters("group-id", s.SecurityGroups, s.SecurityGroupTags)
	if len(s.SecurityGroups) == 0 && len(by) > 0 && len(a.Subnets) > 0 {
		by = append(by, ec2types.Filter{Name: aws.String("vpc-id"), Values: []string{aws.ToString(a.Subnets[0].VpcId)}})
	}
	groups, err := g.securityGroups(ctx, by)
	if err != nil || len(a.Endpoints) == 0 {
		return groups, err
	}
	var ids []string
	for _, e := range a.Endpoints {
		ids = append(ids, groupsOf(e)...)
	}
	slices.Sort(ids)
	if ids = slices.Compact(ids); len(ids) > 0 {
		a.EndpointGroups, _ = g.securityGroups(ctx, filters("group-id", ids[:min(len(ids), 200)], nil)) // without them nothing is said about them
	}
	return groups, nil
}

func (g *gatherer) tables(ctx context.Context) {
	a := &g.facts.Account
	var token *string
	for {
		out, err := g.calls.tables(ctx, &ec2.DescribeRouteTablesInput{NextToken: token})
		if err != nil {
			a.TablesErr = fail.AWS(fail.Other, "look at the routes", "ec2:DescribeRouteTables", err)
			return
		}
		a.Tables = append(a.Tables, out.RouteTables...)
		if token = out.NextToken; aws.ToString(token) == "" {
			return
		}
	}
}

func (g *gatherer) vpcEndpoints(ctx context.Context) {
	a := &g.facts.Account
	var token *string
	for {
		out, err := g.calls.endpoints(ctx, &ec2.DescribeVpcEndpointsInput{NextToken: token})
		if err != nil {
			a.EndpointsErr = fail.AWS(fail.Other, "look at the VPC endpoints", "ec2:DescribeVpcEndpoints", err)
			return
		}
		a.Endpoints = append(a.Endpoints, out.VpcEndpoints...)
		if token = out.NextToken; aws.ToString(token) == "" {
			return
		}
	}
}

// preferencesDocument has Session Manager's preferences, where somebody has set them.
const preferencesDocument = "SSM-SessionManagerRunShell"

func (g *gatherer) preferences(ctx context.Context) {
	a := &g.facts.Account
	out, err := g.calls.document(ctx, &ssm.GetDocumentInput{Name: aws.String(preferencesDocument)})
	err = fail.AWS(fail.Other, "look at Session Manager's preferences", "ssm:GetDocument", err)
	switch answer := awsanswer.Of(err); {
	case answer.Class == awsanswer.NotFound, strings.Contains(answer.Code, "InvalidDocument"):
		a.Preferences.None = true
		return
	case err != nil:
		a.PreferencesErr = err
		return
	}
	var document struct {
		Inputs struct{ MaxSessionDuration string }
	}
	if err := json.Unmarshal([]byte(aws.ToString(out.Content)), &document); err != nil {
		a.PreferencesErr = err
		return
	}
	a.Preferences.Most = time.Duration(number(&document.Inputs.MaxSessionDuration)) * time.Minute
}

// number reads a number that AWS sends as text; 0 if it is none.
func number(text *string) int {
	n, err := strconv.Atoi(strings.TrimSpace(aws.ToString(text)))
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// key makes a data key as a dry run: KMS answers whether it would have.
func (g *gatherer) key(ctx context.Context, key string) error {
	_, err := g.calls.dataKey(ctx, &kms.GenerateDataKeyInput{
		KeyId: &key, NumberOfBytes: aws.Int32(64), DryRun: aws.Bool(true),
		EncryptionContext: map[string]string{"aws:ssm:TargetId": g.anyTarget()},
	})
	if _, wouldWork := errors.AsType[*kmstypes.DryRunOperationException](err); wouldWork {
		return nil
	}
	return fail.AWS(fail.Other, "make a data key", "kms:GenerateDataKey", err)
}

// anyTarget has the form of the SSM target of a task in the cluster.
func (g *gatherer) anyTarget() string {
	cluster := g.facts.cluster()
	return "ecs:" + cluster[strings.LastIndexByte(cluster, '/')+1:] + "_0_0-0"
}

func (g *gatherer) taskRole(ctx context.Context, d *ecstypes.TaskDefinition) {
	a, role := &g.facts.Account, aws.ToString(d.TaskRoleArn)
	if role == "" {
		return
	}
	a.TaskRole = g.simulate(ctx, role, actionsOf[gateway], "*", nil)
	if key := g.facts.execKey(); key != "" && a.TaskRole.Err == nil {
		a.TaskKey = g.simulate(ctx, role, actionsOf["kms"], key,
			map[string]string{"kms:EncryptionContext:aws:ssm:TargetId": g.anyTarget()})
	}
}

func (g *gatherer) executionRole(ctx context.Context, d *ecstypes.TaskDefinition) {
	a, role, c := &g.facts.Account, aws.ToString(d.ExecutionRoleArn), g.facts.container()
	if role == "" || c == nil {
		return
	}
	p := partition.Of(g.cfg.Region).ID
	all := Simulated{Asked: true, Role: role}
	more := func(actions []string, resource string) {
		if all.Err == nil {
			s := g.simulate(ctx, role, actions, resource, nil)
			all.Err, all.Refused = s.Err, append(all.Refused, s.Refused...)
		}
	}
	if name, region, ok := repository(aws.ToString(c.Image)); ok {
		account, _, _ := strings.Cut(aws.ToString(c.Image), ".")
		more([]string{"ecr:GetAuthorizationToken"}, "*") // which is of no resource
		more(actionsOf["ecr.dkr"], "arn:"+p+":ecr:"+region+":"+account+":repository/"+name)
	}
	if l := c.LogConfiguration; l != nil && l.Options["awslogs-group"] != "" {
		region := cmp.Or(l.Options["awslogs-region"], g.cfg.Region)
		more(actionsOf["logs"],
			"arn:"+p+":logs:"+region+":"+g.facts.Credentials.Account+":log-group:"+l.Options["awslogs-group"]+":log-stream:task/0/0")
	}
	a.ExecutionRole = all
}

// simulate asks IAM's simulator whether a role may do actions on a resource.
func (g *gatherer) simulate(ctx context.Context, role string, actions []string, resource string, keys map[string]string) Simulated {
	s := Simulated{Asked: true, Role: role}
	in := &iam.SimulatePrincipalPolicyInput{PolicySourceArn: &role, ActionNames: actions, ResourceArns: []string{resource}}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		in.ContextEntries = append(in.ContextEntries, iamtypes.ContextEntry{
			ContextKeyName: aws.String(key), ContextKeyType: iamtypes.ContextKeyTypeEnumString, ContextKeyValues: []string{keys[key]},
		})
	}
	if parsed, err := arn.Parse(role); err != nil || parsed.Service != "iam" {
		s.Err = errors.New("the task definition's role is not an ARN of IAM")
		return s
	}
	out, err := g.calls.simulate(ctx, in)
	if err != nil {
		s.Err = fail.AWS(fail.Other, "ask IAM's simulator", "iam:SimulatePrincipalPolicy", err)
		return s
	}
	for _, r := range out.EvaluationResults {
		if r.EvalDecision == iamtypes.PolicyEvaluationDecisionTypeAllowed {
			continue
		}
		refused := Refused{
			Action: aws.ToString(r.EvalActionName), Resource: aws.ToString(r.EvalResourceName),
			Explicit: r.EvalDecision == iamtypes.PolicyEvaluationDecisionTypeExplicitDeny,
		}
		switch {
		case r.OrganizationsDecisionDetail != nil && !r.OrganizationsDecisionDetail.AllowedByOrganizations:
			refused.By = awsanswer.SCP.String()
		case r.PermissionsBoundaryDecisionDetail != nil && !r.PermissionsBoundaryDecisionDetail.AllowedByPermissionsBoundary:
			refused.By = awsanswer.Boundary.String()
		}
		s.Refused = append(s.Refused, refused)
	}
	return s
}

// running looks for the owner's bastions.
func (g *gatherer) running(ctx context.Context, way *access.Access) {
	ctx, cancel := context.WithTimeout(ctx, 2*callLimit)
	defer cancel()
	f := g.facts
	found, err := way.Examine(ctx)
	f.Running.All, f.Running.Err, f.Running.Found = found.All, err, found.Findings
	f.Account.LastStopped = found.Last
}
