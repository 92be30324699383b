package targets

import (
	"context"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	"github.com/aws/aws-sdk-go-v2/service/rds/types"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// rdsProxyKind has RDS proxies and their further endpoints.
func rdsProxyKind() Description {
	return Description{
		Kind: RDSProxy, Prefix: "rdsproxy", Form: "NAME[/ROLE]", Noun: "RDS proxy", Help: "an RDS proxy, or an endpoint of one",
		Lists: "RDS proxies", Port: "the engine's", TLS: "if the proxy requires it",
		Guard: "its own", SignIn: "by a token, if the proxy takes IAM (bastion token)",
		Tokens: true, roles: true, id: lowerID,
		parts: func(r *Resolver) []part {
			return []part{
				{of: "RDS proxies", actions: []string{actionProxies, actionProxyEndpoints}, find: r.proxies},
				{of: "endpoints of RDS proxies", actions: []string{actionProxies, actionProxyEndpoints}, find: r.proxyEndpoints},
			}
		},
	}
}

const (
	actionProxies        = "rds:DescribeDBProxies"
	actionProxyEndpoints = "rds:DescribeDBProxyEndpoints"
)

// proxies returns the proxy with the given name, none if it does not exist, or all if id is nil. Only a Spec with the role of a
// reader needs the proxy's other endpoints.
func (r *Resolver) proxies(ctx context.Context, spec Spec, op string, id *string) ([]candidate, error) {
	all, err := r.describeProxies(ctx, op, id)
	if err != nil {
		return nil, err
	}
	found := make([]candidate, len(all))
	for i := range all {
		found[i] = fromProxy(&all[i])
	}
	if id == nil || spec.Role != Reader || len(found) == 0 {
		return found, nil
	}
	endpoints, err := r.describeProxyEndpoints(ctx, op, &rds.DescribeDBProxyEndpointsInput{DBProxyName: all[0].DBProxyName})
	if err != nil {
		return nil, err
	}
	readers := slices.DeleteFunc(endpoints, func(e types.DBProxyEndpoint) bool {
		return e.TargetRole != types.DBProxyEndpointTargetRoleReadOnly
	})
	if len(readers) > 0 {
		found[0].reader = found[0].endpoint
		found[0].reader.Host = aws.ToString(readers[0].Endpoint)
	}
	return found, nil
}

func (r *Resolver) describeProxies(ctx context.Context, op string, name *string) ([]types.DBProxy, error) {
	var all []types.DBProxy
	err := pages(ctx, r.AWS.rds().proxies, &rds.DescribeDBProxiesInput{DBProxyName: name},
		func(in *rds.DescribeDBProxiesInput) **string { return &in.Marker },
		func(out *rds.DescribeDBProxiesOutput) *string { return out.Marker },
		func(out *rds.DescribeDBProxiesOutput) { all = append(all, out.DBProxies...) })
	if name != nil && hasCode(err, "DBProxyNotFoundFault", "DBProxyNotFound") {
		return nil, nil
	}
	if err != nil {
		return nil, fail.AWS(fail.Other, op, actionProxies, err)
	}
	return all, nil
}

func (r *Resolver) describeProxyEndpoints(ctx context.Context, op string, in *rds.DescribeDBProxyEndpointsInput) (
	[]types.DBProxyEndpoint, error,
) {
	var all []types.DBProxyEndpoint
	err := pages(ctx, r.AWS.rds().proxyEndpoints, in,
		func(in *rds.DescribeDBProxyEndpointsInput) **string { return &in.Marker },
		func(out *rds.DescribeDBProxyEndpointsOutput) *string { return out.Marker },
		func(out *rds.DescribeDBProxyEndpointsOutput) { all = append(all, out.DBProxyEndpoints...) })
	if in.DBProxyEndpointName != nil && hasCode(err, "DBProxyEndpointNotFoundFault", "DBProxyEndpointNotFound") {
		return nil, nil
	}
	if err != nil {
		return nil, fail.AWS(fail.Other, op, actionProxyEndpoints, err)
	}
	return all, nil
}

func fromProxy(p *types.DBProxy) candidate {
	c := candidate{
		id: strings.ToLower(aws.ToString(p.DBProxyName)), what: "RDS proxy", status: string(p.Status),
		engine: proxyEngine(aws.ToString(p.EngineFamily)), readers: true, groups: p.VpcSecurityGroupIds,
		network: Network{VPC: aws.ToString(p.VpcId)},
	}
	c.endpoint = Endpoint{Host: aws.ToString(p.Endpoint), TLS: aws.ToBool(p.RequireTLS)}
	c.endpoint.Port = DefaultPort(c.engine) // proxies listen there alone
	c.endpoint.IAM = p.DefaultAuthScheme != nil && *p.DefaultAuthScheme == "IAM_AUTH" ||
		slices.ContainsFunc(p.Auth, func(a types.UserAuthConfigInfo) bool {
			return a.IAMAuth != "" && a.IAMAuth != types.IAMAuthModeDisabled
		})
	c.signIn = rdsSignIn(c.engine, c.endpoint.IAM, "aws rds modify-db-proxy --default-auth-scheme IAM_AUTH --db-proxy-name "+c.id)
	return c
}

// proxyEngine returns the engine of a proxy's family: "POSTGRESQL".
func proxyEngine(family string) string {
	family = strings.ToLower(family)
	if family == "postgresql" {
		return "postgres"
	}
	return family
}

// proxyEndpoints is proxies for the endpoints that a proxy has besides its own.
func (r *Resolver) proxyEndpoints(ctx context.Context, _ Spec, op string, id *string) ([]candidate, error) {
	all, err := r.describeProxyEndpoints(ctx, op, &rds.DescribeDBProxyEndpointsInput{DBProxyEndpointName: id})
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(e types.DBProxyEndpoint) bool { return aws.ToBool(e.IsDefault) })
	if len(all) == 0 {
		return nil, nil
	}
	var of *string // the proxy, which alone says the engine
	if id != nil {
		of = all[0].DBProxyName
	}
	proxies, err := r.describeProxies(ctx, op, of)
	if err != nil {
		return nil, err
	}
	var found []candidate
	for i := range all {
		e := &all[i]
		at := slices.IndexFunc(proxies, func(p types.DBProxy) bool { return aws.ToString(p.DBProxyName) == aws.ToString(e.DBProxyName) })
		if at < 0 {
			continue // it has just been deleted
		}
		c := fromProxy(&proxies[at])
		c.id, c.what, c.status, c.readers = strings.ToLower(aws.ToString(e.DBProxyEndpointName)), "RDS proxy endpoint", string(e.Status), false
		c.endpoint.Host, c.groups = aws.ToString(e.Endpoint), e.VpcSecurityGroupIds
		c.network.VPC = aws.ToString(e.VpcId) // which need not be the proxy's
		found = append(found, c)
	}
	return found, nil
}
