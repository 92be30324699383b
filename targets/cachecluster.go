package targets

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/elasticache"
	"github.com/aws/aws-sdk-go-v2/service/elasticache/types"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// clusterModeNote is true of a forward of the endpoint alone, which does not rewrite what the cluster answers.
const clusterModeNote = "cluster mode: the server sends clients on to addresses of its nodes, " +
	"which a forward of one address cannot follow; docs/redis-cluster.md has the ways"

// ClusterPermits returns, for the endpoint of a cluster, the patterns of what a grant must permit for clients to follow the
// cluster's answers. Which addresses the nodes have is known only from those answers: AWS tells their names, but without
// in-transit encryption the nodes tell their addresses. The ports of a cluster of one's own are not known either. The
// bastion's own list applies in any case.
func (e Endpoint) ClusterPermits() []string {
	switch {
	case e.Engine == "":
		return []string{"*:*"}
	case strings.Contains(e.Host, ".serverless."): // readers have the next port
		return []string{fmt.Sprintf("*:%d-%d", e.Port, min(e.Port+1, 65535))}
	default:
		return []string{fmt.Sprintf("*:%d", e.Port)}
	}
}

// CacheNodes returns the endpoints of the nodes of a replication group, by its identifier, in the order of their
// names. Those are the nodes' identifiers.
func (r *Resolver) CacheNodes(ctx context.Context, group string) ([]Endpoint, error) {
	spec := Spec{Kind: Cache, ID: group}
	if r.ElastiCache == nil {
		return nil, noClient(spec)
	}
	op := "look up the nodes of " + spec.String()
	out, err := r.ElastiCache.DescribeReplicationGroups(ctx,
		&elasticache.DescribeReplicationGroupsInput{ReplicationGroupId: &group})
	var missing *types.ReplicationGroupNotFoundFault
	if errors.As(err, &missing) || badID(err) {
		return nil, fail.New(fail.NoTarget, op, fmt.Errorf("there is no replication group %q", group),
			"name one that `aws elasticache describe-replication-groups` lists")
	}
	if err != nil {
		return nil, fail.AWS(fail.Other, op, "elasticache:DescribeReplicationGroups", err)
	}
	var found []Endpoint
	for i := range out.ReplicationGroups {
		of := fromGroup(&out.ReplicationGroups[i])
		// All cache clusters are listed: a call for each of a group's members would be too many for large groups.
		pages := elasticache.NewDescribeCacheClustersPaginator(r.ElastiCache,
			&elasticache.DescribeCacheClustersInput{ShowCacheNodeInfo: aws.Bool(true)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, fail.AWS(fail.Other, op, "elasticache:DescribeCacheClusters", err)
			}
			for j := range page.CacheClusters {
				cluster := &page.CacheClusters[j]
				node := fromCacheCluster(cluster)
				if !strings.EqualFold(aws.ToString(cluster.ReplicationGroupId), of.id) || node.endpoint.Host == "" {
					continue // another group's, or it is being created
				}
				node.endpoint.Name, node.endpoint.Engine, node.endpoint.TLS = node.id, of.engine, of.endpoint.TLS
				found = append(found, node.endpoint)
			}
		}
	}
	slices.SortFunc(found, func(a, b Endpoint) int { return strings.Compare(a.Name, b.Name) })
	return found, nil
}
