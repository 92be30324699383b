package targets

import (
	"cmp"
	"context"
	"net/url"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/opensearch"
	"github.com/aws/aws-sdk-go-v2/service/opensearch/types"
	"github.com/aws/aws-sdk-go-v2/service/opensearchserverless"
	serverlesstypes "github.com/aws/aws-sdk-go-v2/service/opensearchserverless/types"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// openSearchKind has OpenSearch's domains in a VPC, and the collections of OpenSearch Serverless, which a VPC reaches by a VPC
// endpoint of that service.
func openSearchKind() Description {
	return Description{
		Kind: OpenSearch, Prefix: "opensearch", Form: "NAME", Noun: "OpenSearch domain or collection",
		Help: "an OpenSearch domain or serverless collection", Lists: "OpenSearch domains", Port: "443", TLS: "always",
		Guard:  "a domain's own; those of the VPC endpoints for collections; none with a public endpoint",
		SignIn: "by signed requests, as the access policy says",
		id:     lowerID,
		parts: func(r *Resolver) []part {
			return []part{
				{of: "OpenSearch domains", actions: []string{"es:DescribeDomains", "es:ListDomainNames"}, find: r.domains},
				{
					of: "OpenSearch collections", actions: []string{"aoss:BatchGetCollection", "aoss:BatchGetVpcEndpoint", "aoss:ListCollections", "aoss:ListVpcEndpoints"},
					find: r.collections,
				},
			}
		},
	}
}

// domains returns the domain with the given name, none if it does not exist, or all of a VPC if id is nil.
func (r *Resolver) domains(ctx context.Context, _ Spec, op string, id *string) ([]candidate, error) {
	names := []string{aws.ToString(id)}
	if id == nil {
		out, err := r.AWS.openSearch().names(ctx, &opensearch.ListDomainNamesInput{})
		if err != nil {
			return nil, fail.AWS(fail.Other, op, "es:ListDomainNames", err)
		}
		names = names[:0]
		for _, d := range out.DomainNames {
			names = append(names, aws.ToString(d.DomainName))
		}
	}
	const most = 5 // domains of a call
	var found []candidate
	for some := range slices.Chunk(names, most) {
		out, err := r.AWS.openSearch().domains(ctx, &opensearch.DescribeDomainsInput{DomainNames: some})
		switch {
		case id != nil && hasCode(err, "ResourceNotFoundException", "ValidationException"):
			return nil, nil
		case err != nil:
			return nil, fail.AWS(fail.Other, op, "es:DescribeDomains", err)
		}
		for i := range out.DomainStatusList {
			if d := &out.DomainStatusList[i]; id != nil || d.VPCOptions != nil || d.Endpoint == nil {
				found = append(found, fromDomain(d))
			}
		}
	}
	return found, nil
}

func fromDomain(d *types.DomainStatus) candidate {
	engine, _, _ := strings.Cut(strings.ToLower(aws.ToString(d.EngineVersion)), "_")
	c := candidate{
		id: strings.ToLower(aws.ToString(d.DomainName)), what: "OpenSearch domain", status: string(d.DomainProcessingStatus),
		engine: cmp.Or(engine, "opensearch"),
	}
	if d.VPCOptions != nil {
		c.network.VPC = aws.ToString(d.VPCOptions.VPCId)
	}
	host := cmp.Or(d.Endpoints["vpc"], aws.ToString(d.Endpoint))
	c.endpoint = Endpoint{Host: host, Port: httpsPort, TLS: true}
	switch {
	case aws.ToBool(d.Deleted):
		c.status = "Deleting"
	case host == "" && c.status == "":
		c.status = "Creating"
	}
	switch {
	case d.VPCOptions != nil:
		c.groups = d.VPCOptions.SecurityGroupIds
	case d.Endpoint != nil:
		c.unguarded = "the domain is in no VPC: its endpoint is public"
		c.endpoint.Note = c.unguarded
	}
	return c
}

// collections is domains for OpenSearch Serverless.
func (r *Resolver) collections(ctx context.Context, _ Spec, op string, id *string) ([]candidate, error) {
	if id != nil {
		found, err := r.describeCollections(ctx, op, &opensearchserverless.BatchGetCollectionInput{Names: []string{*id}})
		if err == nil && len(found) > 0 {
			r.addVpcEndpoints(ctx, &found[0])
		}
		return found, err
	}
	var ids []string
	err := pages(ctx, r.AWS.openSearchServerless().collections, &opensearchserverless.ListCollectionsInput{},
		func(in *opensearchserverless.ListCollectionsInput) **string { return &in.NextToken },
		func(out *opensearchserverless.ListCollectionsOutput) *string { return out.NextToken },
		func(out *opensearchserverless.ListCollectionsOutput) {
			for _, c := range out.CollectionSummaries {
				ids = append(ids, aws.ToString(c.Id))
			}
		})
	if err != nil {
		return nil, fail.AWS(fail.Other, op, "aoss:ListCollections", err)
	}
	const most = 100 // collections of a call
	var found []candidate
	for some := range slices.Chunk(ids, most) {
		more, err := r.describeCollections(ctx, op, &opensearchserverless.BatchGetCollectionInput{Ids: some})
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	return found, nil
}

func (r *Resolver) describeCollections(ctx context.Context, op string, in *opensearchserverless.BatchGetCollectionInput) (
	[]candidate, error,
) {
	out, err := r.AWS.openSearchServerless().describe(ctx, in)
	switch {
	case len(in.Names) > 0 && hasCode(err, "ValidationException", "ResourceNotFoundException"): // the name may be none of a collection
		return nil, nil
	case err != nil:
		return nil, fail.AWS(fail.Other, op, "aoss:BatchGetCollection", err)
	}
	var found []candidate
	for i := range out.CollectionDetails {
		d := &out.CollectionDetails[i]
		c := candidate{
			id: strings.ToLower(aws.ToString(d.Name)), what: "OpenSearch collection", status: string(d.Status), engine: "opensearch",
		}
		if u, err := url.Parse(aws.ToString(d.CollectionEndpoint)); err == nil {
			c.endpoint = Endpoint{Host: u.Hostname(), Port: httpsPort, TLS: true}
		}
		found = append(found, c)
	}
	return found, nil
}

// addVpcEndpoints adds to a collection what the region's VPC endpoints of OpenSearch Serverless mean for it: a warning if none is
// active, and their security groups. Without the permission to look, it does not warn.
func (r *Resolver) addVpcEndpoints(ctx context.Context, c *candidate) {
	const action = "aoss:ListVpcEndpoints"
	var active []string
	err := pages(ctx, r.AWS.openSearchServerless().endpoints, &opensearchserverless.ListVpcEndpointsInput{},
		func(in *opensearchserverless.ListVpcEndpointsInput) **string { return &in.NextToken },
		func(out *opensearchserverless.ListVpcEndpointsOutput) *string { return out.NextToken },
		func(out *opensearchserverless.ListVpcEndpointsOutput) {
			for _, e := range out.VpcEndpointSummaries {
				if e.Status == serverlesstypes.VpcEndpointStatusActive {
					active = append(active, aws.ToString(e.Id))
				}
			}
		})
	switch {
	case err != nil:
		c.seek = func(context.Context) ([]string, error) {
			return nil, fail.AWS(fail.Other, "look at the VPC endpoints", action, err)
		}
	case len(active) == 0:
		c.unguarded = "the region has no active VPC endpoint of OpenSearch Serverless"
		c.endpoint.Note = c.unguarded + ": the collection's network policy must allow public access"
	default:
		c.seek = func(ctx context.Context) ([]string, error) { return r.vpcEndpointGroups(ctx, active) }
	}
}

// vpcEndpointGroups returns the security groups of VPC endpoints of OpenSearch Serverless.
func (r *Resolver) vpcEndpointGroups(ctx context.Context, ids []string) ([]string, error) {
	const most = 100 // endpoints of a call; a region has fewer
	out, err := r.AWS.openSearchServerless().describeEndpoints(ctx, &opensearchserverless.BatchGetVpcEndpointInput{
		Ids: ids[:min(len(ids), most)],
	})
	if err != nil {
		return nil, fail.AWS(fail.Other, "look at the VPC endpoints", "aoss:BatchGetVpcEndpoint", err)
	}
	var groups []string
	for _, e := range out.VpcEndpointDetails {
		groups = append(groups, e.SecurityGroupIds...)
	}
	return groups, nil
}
