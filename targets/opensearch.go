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
		id: lowerID,
		parts: func(r *Resolver) []part {
			return []part{
				{of: "OpenSearch domains", actions: []string{"es:DescribeDomains", "es:ListDomainNames"}, find: r.domains},
				{
					of: "OpenSearch collections", actions: []string{"aoss:BatchGetCollection", "aoss:ListCollections", "aoss:ListVpcEndpoints"},
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
	host := cmp.Or(d.Endpoints["vpc"], aws.ToString(d.Endpoint))
	c.endpoint = Endpoint{Host: host, Port: httpsPort, TLS: true}
	switch {
	case aws.ToBool(d.Deleted):
		c.status = "Deleting"
	case host == "" && c.status == "":
		c.status = "Creating"
	}
	if d.VPCOptions == nil && d.Endpoint != nil {
		c.endpoint.Note = "the domain is in no VPC: its endpoint is public"
	}
	return c
}

// collections is domains for OpenSearch Serverless.
func (r *Resolver) collections(ctx context.Context, _ Spec, op string, id *string) ([]candidate, error) {
	if id != nil {
		found, err := r.describeCollections(ctx, op, &opensearchserverless.BatchGetCollectionInput{Names: []string{*id}})
		if err == nil && len(found) > 0 {
			found[0].endpoint.Note = r.vpcEndpointNote(ctx)
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

// vpcEndpointNote warns if no VPC endpoint of OpenSearch Serverless is active. Without the permission to look, it does not.
func (r *Resolver) vpcEndpointNote(ctx context.Context) string {
	active := false
	err := pages(ctx, r.AWS.openSearchServerless().endpoints, &opensearchserverless.ListVpcEndpointsInput{},
		func(in *opensearchserverless.ListVpcEndpointsInput) **string { return &in.NextToken },
		func(out *opensearchserverless.ListVpcEndpointsOutput) *string { return out.NextToken },
		func(out *opensearchserverless.ListVpcEndpointsOutput) {
			active = active || slices.ContainsFunc(out.VpcEndpointSummaries, func(e serverlesstypes.VpcEndpointSummary) bool {
				return e.Status == serverlesstypes.VpcEndpointStatusActive
			})
		})
	if err != nil || active {
		return ""
	}
	return "the region has no active VPC endpoint of OpenSearch Serverless: the collection's network policy must allow public access"
}
