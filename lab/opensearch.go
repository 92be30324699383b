package lab

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// Search is an OpenSearch domain, or a collection of OpenSearch Serverless.
type Search struct {
	Name       string
	Serverless bool
	Version    string         // of a domain; default: OpenSearch_2.19
	Status     string         // default: Active, or ACTIVE
	Public     bool           // the domain is in no VPC
	Groups     []string       // ids of its security groups, or of its VPC endpoint; default: the lab's of databases
	Addr       netip.AddrPort // where it really listens
}

// opensearch is OpenSearch Service with OpenSearch Serverless.
type opensearch struct {
	site
	shelf[Search]
	endpoints shelf[string] // names of VPC endpoints of OpenSearch Serverless
}

// AddSearch adds an OpenSearch domain or collection. A collection of the lab's always has a VPC endpoint.
func (l *Lab) AddSearch(s Search) error {
	status := "Active"
	if s.Serverless {
		status = "ACTIVE"
		l.opensearch.endpoints.add(s.Name)
	}
	s.Status = cmp.Or(s.Status, status)
	s.Version = cmp.Or(s.Version, "OpenSearch_2.19")
	if err := l.publish(s.Addr, l.opensearch.endpoint(s)); err != nil {
		return fmt.Errorf("add OpenSearch %s: %w", s.Name, err)
	}
	l.opensearch.add(s)
	return nil
}

func (o *opensearch) endpoint(s Search) string {
	switch {
	case s.Serverless:
		return o.host(collectionID(s.Name), "aoss")
	case s.Public:
		return o.host("search-"+s.Name+"-"+labZone, "es")
	}
	return o.host("vpc-"+s.Name+"-"+labZone, "es")
}

// collectionID makes up the id of a collection.
func collectionID(name string) string { return seededUUID(name)[:8] + "collection" }

type domainsInput struct{ DomainNames []string }

func (o *opensearch) service() awsapi.Service {
	return awsapi.Service{
		Name: "es", Protocol: awsapi.RESTJSON, Version: "2021-01-01",
		Ops: map[string]awsapi.Op{
			"ListDomainNames": {Handle: o.listDomains, Route: "GET /2021-01-01/domain"},
			"DescribeDomains": {
				Handle: jsonOp(o.describeDomains), Route: "POST /2021-01-01/opensearch/domain-info",
				Access: func(c *awsapi.Call) (needs []awsapi.Access) {
					for _, name := range inputOf[domainsInput](c).DomainNames {
						needs = append(needs, awsapi.Access{Action: c.Name(), Resource: o.arn("es", "domain/"+name)})
					}
					return needs
				},
			},
		},
	}
}

func (o *opensearch) listDomains(context.Context, *awsapi.Call) (any, error) {
	list := []map[string]any{}
	for _, s := range o.those(func(s Search) bool { return !s.Serverless }) {
		list = append(list, map[string]any{"DomainName": s.Name, "EngineType": "OpenSearch"})
	}
	return map[string]any{"DomainNames": list}, nil
}

func (o *opensearch) describeDomains(_ context.Context, _ *awsapi.Call, in *domainsInput) (any, error) {
	if len(in.DomainNames) > 5 {
		return nil, awsapi.Errorf("ValidationException", "Please provide a maximum of 5 domain names to describe.")
	}
	list := []map[string]any{}
	for _, s := range o.those(func(s Search) bool { return !s.Serverless && slices.Contains(in.DomainNames, s.Name) }) {
		v := map[string]any{
			"DomainId": o.account + "/" + s.Name, "DomainName": s.Name, "ARN": o.arn("es", "domain/"+s.Name), "EngineVersion": s.Version,
			"DomainProcessingStatus": s.Status, "Created": true, "Deleted": false, "ClusterConfig": map[string]any{"InstanceType": "t3.small.search"},
		}
		switch {
		case s.Public:
			v["Endpoint"] = o.endpoint(s)
		default:
			v["VPCOptions"] = map[string]any{"VPCId": o.vpc(), "SubnetIds": []string{vpcSubnet + "a"}, "SecurityGroupIds": guardedBy(s.Groups)}
			if s.Status != "Creating" {
				v["Endpoints"] = map[string]string{"vpc": o.endpoint(s)}
			}
		}
		list = append(list, v)
	}
	return map[string]any{"DomainStatusList": list}, nil
}

type collectionsInput struct {
	Names     []string `json:"names"`
	IDs       []string `json:"ids"`
	NextToken string   `json:"nextToken"`
}

func (o *opensearch) serverless() awsapi.Service {
	return awsapi.Service{
		Name: "aoss", Protocol: awsapi.JSON, Target: "OpenSearchServerless", Version: "2021-11-01",
		Ops: map[string]awsapi.Op{
			"ListCollections":    {Handle: jsonOp(o.listCollections)},
			"BatchGetCollection": {Handle: jsonOp(o.batchGetCollection)},
			"ListVpcEndpoints":   {Handle: jsonOp(o.listVpcEndpoints)},

			"BatchGetVpcEndpoint": {Handle: jsonOp(o.batchGetVpcEndpoint)},
		},
	}
}

func (o *opensearch) listCollections(_ context.Context, _ *awsapi.Call, in *collectionsInput) (any, error) {
	some, next, err := page(o.those(func(s Search) bool { return s.Serverless }), in.NextToken, 20)
	list := []map[string]any{}
	for _, s := range some {
		id := collectionID(s.Name)
		list = append(list, map[string]any{"id": id, "name": s.Name, "status": s.Status, "arn": o.arn("aoss", "collection/"+id)})
	}
	return withToken(map[string]any{"collectionSummaries": list}, "nextToken", next), err
}

func (o *opensearch) batchGetCollection(_ context.Context, _ *awsapi.Call, in *collectionsInput) (any, error) {
	if len(in.Names) > 0 == (len(in.IDs) > 0) {
		return nil, awsapi.Errorf("ValidationException", "Specify either names or ids.")
	}
	list := []map[string]any{}
	for _, s := range o.those(func(s Search) bool {
		return s.Serverless && (slices.Contains(in.Names, s.Name) || slices.Contains(in.IDs, collectionID(s.Name)))
	}) {
		id := collectionID(s.Name)
		v := map[string]any{"id": id, "name": s.Name, "status": s.Status, "type": "SEARCH", "arn": o.arn("aoss", "collection/"+id)}
		if s.Status != "CREATING" {
			v["collectionEndpoint"] = "https://" + o.endpoint(s)
		}
		list = append(list, v)
	}
	return map[string]any{"collectionDetails": list, "collectionErrorDetails": []any{}}, nil
}

func (o *opensearch) listVpcEndpoints(_ context.Context, _ *awsapi.Call, in *collectionsInput) (any, error) {
	some, next, err := page(o.endpoints.all(), in.NextToken, 20)
	list := []map[string]any{}
	for _, name := range some {
		list = append(list, map[string]any{"id": searchEndpointID(name), "name": name, "status": "ACTIVE"})
	}
	return withToken(map[string]any{"vpcEndpointSummaries": list}, "nextToken", next), err
}

// searchEndpointID makes up the id of a collection's VPC endpoint.
func searchEndpointID(collection string) string { return "vpce-" + seededUUID(collection)[:8] }

func (o *opensearch) batchGetVpcEndpoint(_ context.Context, _ *awsapi.Call, in *collectionsInput) (any, error) {
	list := []map[string]any{}
	for _, s := range o.those(func(s Search) bool { return s.Serverless && slices.Contains(in.IDs, searchEndpointID(s.Name)) }) {
		list = append(list, map[string]any{
			"id": searchEndpointID(s.Name), "name": s.Name, "status": "ACTIVE", "vpcId": o.vpc(), "subnetIds": []string{vpcSubnet + "a"},
			"securityGroupIds": guardedBy(s.Groups),
		})
	}
	return map[string]any{"vpcEndpointDetails": list, "vpcEndpointErrorDetails": []any{}}, nil
}
