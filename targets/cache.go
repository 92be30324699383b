package targets

import (
	"cmp"
	"context"
	"errors"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/elasticache"
	"github.com/aws/aws-sdk-go-v2/service/elasticache/types"
	"github.com/aws/smithy-go"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// cacheKind has replication groups, serverless caches and cache clusters.
func cacheKind() Description {
	return Description{
		Kind: Cache, Prefix: "cache", Form: "ID[/ROLE]", Noun: "ElastiCache cache", Help: "an ElastiCache cache",
		Lists: "ElastiCache caches", Port: "the one that AWS names", TLS: "with in-transit encryption; always for serverless caches",
		Guard: "its own", SignIn: "as a user with IAM authentication, by the client",
		roles: true, id: lowerID,
		parts: func(r *Resolver) []part {
			return []part{
				{of: "replication groups", actions: []string{"elasticache:DescribeReplicationGroups"}, find: r.groups},
				{of: "serverless caches", actions: []string{"elasticache:DescribeServerlessCaches"}, find: r.serverless},
				{of: "cache clusters", actions: []string{"elasticache:DescribeCacheClusters"}, find: r.cacheClusters},
			}
		},
	}
}

// groups returns the replication group with the given identifier, none if it does not exist, or all if id is nil.
func (r *Resolver) groups(ctx context.Context, _ Spec, op string, id *string) ([]candidate, error) {
	var found []candidate
	err := pages(ctx, r.AWS.cache().groups, &elasticache.DescribeReplicationGroupsInput{ReplicationGroupId: id},
		func(in *elasticache.DescribeReplicationGroupsInput) **string { return &in.Marker },
		func(out *elasticache.DescribeReplicationGroupsOutput) *string { return out.Marker },
		func(out *elasticache.DescribeReplicationGroupsOutput) {
			for i := range out.ReplicationGroups {
				c := fromGroup(&out.ReplicationGroups[i])
				if nodes := out.ReplicationGroups[i].MemberClusters; len(nodes) > 0 {
					c.seek = func(ctx context.Context) ([]string, error) { return r.nodeGroups(ctx, nodes[0]) }
				}
				found = append(found, c)
			}
		})
	if _, missing := errors.AsType[*types.ReplicationGroupNotFoundFault](err); id != nil && (missing || badID(err)) {
		return nil, nil
	}
	if err != nil {
		return nil, fail.AWS(fail.Other, op, "elasticache:DescribeReplicationGroups", err)
	}
	return found, nil
}

func fromGroup(g *types.ReplicationGroup) candidate {
	c := candidate{
		id: strings.ToLower(aws.ToString(g.ReplicationGroupId)), what: "replication group",
		status: aws.ToString(g.Status), engine: cmp.Or(aws.ToString(g.Engine), "redis"), // older answers lack it
		network: Network{CacheCluster: first(g.MemberClusters)},
	}
	tls := aws.ToBool(g.TransitEncryptionEnabled) && g.TransitEncryptionMode != types.TransitEncryptionModePreferred
	if aws.ToBool(g.ClusterEnabled) || g.ConfigurationEndpoint != nil {
		c.endpoint = cacheEndpoint(g.ConfigurationEndpoint, tls)
		c.endpoint.Note, c.endpoint.Cluster = clusterModeNote, true
		return c
	}
	if len(g.NodeGroups) > 0 {
		c.endpoint = cacheEndpoint(g.NodeGroups[0].PrimaryEndpoint, tls)
		c.reader = cacheEndpoint(g.NodeGroups[0].ReaderEndpoint, tls)
	}
	c.readers = true
	return c
}

// nodeGroups returns the security groups of a replication group, which only its nodes have.
func (r *Resolver) nodeGroups(ctx context.Context, node string) ([]string, error) {
	out, err := r.AWS.cache().clusters(ctx, &elasticache.DescribeCacheClustersInput{CacheClusterId: &node})
	if err != nil {
		return nil, fail.AWS(fail.Other, "look at the node "+node, "elasticache:DescribeCacheClusters", err)
	}
	var groups []string
	for i := range out.CacheClusters {
		groups = append(groups, cacheGroups(out.CacheClusters[i].SecurityGroups)...)
	}
	return groups, nil
}

func cacheGroups(list []types.SecurityGroupMembership) []string {
	return texts(list, func(m types.SecurityGroupMembership) *string { return m.SecurityGroupId })
}

// serverless is groups for serverless caches.
func (r *Resolver) serverless(ctx context.Context, _ Spec, op string, id *string) ([]candidate, error) {
	var found []candidate
	err := pages(ctx, r.AWS.cache().serverless, &elasticache.DescribeServerlessCachesInput{ServerlessCacheName: id},
		func(in *elasticache.DescribeServerlessCachesInput) **string { return &in.NextToken },
		func(out *elasticache.DescribeServerlessCachesOutput) *string { return out.NextToken },
		func(out *elasticache.DescribeServerlessCachesOutput) {
			for i := range out.ServerlessCaches {
				found = append(found, fromServerless(&out.ServerlessCaches[i]))
			}
		})
	if _, missing := errors.AsType[*types.ServerlessCacheNotFoundFault](err); id != nil && (missing || badID(err)) {
		return nil, nil
	}
	if err != nil {
		return nil, fail.AWS(fail.Other, op, "elasticache:DescribeServerlessCaches", err)
	}
	return found, nil
}

func fromServerless(s *types.ServerlessCache) candidate {
	c := candidate{
		id: strings.ToLower(aws.ToString(s.ServerlessCacheName)), what: "serverless cache",
		status: aws.ToString(s.Status), engine: aws.ToString(s.Engine),
		endpoint: cacheEndpoint(s.Endpoint, true),
		reader:   cacheEndpoint(s.ReaderEndpoint, true),
		readers:  true, groups: s.SecurityGroupIds,
	}
	if c.engine != "memcached" { // clients see a cluster with endpoints that only the VPC knows
		c.endpoint.Note, c.endpoint.Cluster = clusterModeNote, true
		c.reader.Note, c.reader.Cluster = clusterModeNote, true
	}
	return c
}

// cacheClusters is groups for cache clusters. If id is nil, it returns those outside replication groups.
func (r *Resolver) cacheClusters(ctx context.Context, _ Spec, op string, id *string) ([]candidate, error) {
	var found []candidate
	input := &elasticache.DescribeCacheClustersInput{CacheClusterId: id, ShowCacheNodeInfo: aws.Bool(true)}
	if id == nil {
		input.ShowCacheClustersNotInReplicationGroups = aws.Bool(true)
	}
	err := pages(ctx, r.AWS.cache().clusters, input,
		func(in *elasticache.DescribeCacheClustersInput) **string { return &in.Marker },
		func(out *elasticache.DescribeCacheClustersOutput) *string { return out.Marker },
		func(out *elasticache.DescribeCacheClustersOutput) {
			for i := range out.CacheClusters {
				if cluster := &out.CacheClusters[i]; id != nil || cluster.ReplicationGroupId == nil {
					found = append(found, fromCacheCluster(cluster))
				}
			}
		})
	if _, missing := errors.AsType[*types.CacheClusterNotFoundFault](err); id != nil && (missing || badID(err)) {
		return nil, nil
	}
	if err != nil {
		return nil, fail.AWS(fail.Other, op, "elasticache:DescribeCacheClusters", err)
	}
	return found, nil
}

func fromCacheCluster(cluster *types.CacheCluster) candidate {
	c := candidate{
		id: strings.ToLower(aws.ToString(cluster.CacheClusterId)), what: "cache cluster",
		status: aws.ToString(cluster.CacheClusterStatus), engine: aws.ToString(cluster.Engine),
		groups: cacheGroups(cluster.SecurityGroups),
	}
	tls := aws.ToBool(cluster.TransitEncryptionEnabled) &&
		cluster.TransitEncryptionMode != types.TransitEncryptionModePreferred
	if cluster.ConfigurationEndpoint != nil { // Memcached
		c.endpoint = cacheEndpoint(cluster.ConfigurationEndpoint, tls)
		return c
	}
	if len(cluster.CacheNodes) > 0 {
		c.endpoint = cacheEndpoint(cluster.CacheNodes[0].Endpoint, tls)
	}
	return c
}

// badID reports whether ElastiCache rejected an identifier's form. The three kinds have different maximum lengths, so a valid
// identifier of a cache cluster can be invalid for a replication group.
func badID(err error) bool {
	api, ok := errors.AsType[smithy.APIError](err)
	return ok && strings.HasPrefix(api.ErrorCode(), "InvalidParameterValue")
}

func cacheEndpoint(e *types.Endpoint, tls bool) Endpoint {
	if e == nil {
		return Endpoint{}
	}
	return Endpoint{Host: aws.ToString(e.Address), Port: int(aws.ToInt32(e.Port)), TLS: tls}
}
