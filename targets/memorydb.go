package targets

import (
	"cmp"
	"context"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/memorydb"
	"github.com/aws/aws-sdk-go-v2/service/memorydb/types"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// memoryDBKind has MemoryDB's clusters, also a region's members of multi-region clusters.
func memoryDBKind() Description {
	return Description{
		Kind: MemoryDB, Prefix: "memorydb", Form: "NAME", Noun: "MemoryDB cluster", Help: "a MemoryDB cluster",
		Lists: "MemoryDB clusters", Port: "the one that AWS names", TLS: "unless the cluster was made without",
		Guard: "its own", SignIn: "as a user with IAM authentication, by the client",
		id: lowerID,
		parts: func(r *Resolver) []part {
			return []part{{of: "MemoryDB clusters", actions: []string{"memorydb:DescribeClusters"}, find: r.memoryDBs}}
		},
	}
}

func (r *Resolver) memoryDBs(ctx context.Context, _ Spec, op string, id *string) ([]candidate, error) {
	var found []candidate
	err := pages(ctx, r.AWS.memoryDB().clusters, &memorydb.DescribeClustersInput{ClusterName: id},
		func(in *memorydb.DescribeClustersInput) **string { return &in.NextToken },
		func(out *memorydb.DescribeClustersOutput) *string { return out.NextToken },
		func(out *memorydb.DescribeClustersOutput) {
			for i := range out.Clusters {
				found = append(found, fromMemoryDB(&out.Clusters[i]))
			}
		})
	if id != nil && (hasCode(err, "ClusterNotFoundFault", "ClusterNotFound") || badID(err)) {
		return nil, nil
	}
	if err != nil {
		return nil, fail.AWS(fail.Other, op, "memorydb:DescribeClusters", err)
	}
	return found, nil
}

// fromMemoryDB makes a candidate of a cluster. Every one is in cluster mode.
func fromMemoryDB(cluster *types.Cluster) candidate {
	c := candidate{
		id: strings.ToLower(aws.ToString(cluster.Name)), what: "MemoryDB cluster", status: aws.ToString(cluster.Status),
		engine: cmp.Or(strings.ToLower(aws.ToString(cluster.Engine)), "redis"), // older answers lack it
		groups: texts(cluster.SecurityGroups, func(m types.SecurityGroupMembership) *string { return m.SecurityGroupId }),
	}
	if e := cluster.ClusterEndpoint; e != nil {
		c.endpoint = Endpoint{Host: aws.ToString(e.Address), Port: int(e.Port), TLS: aws.ToBool(cluster.TLSEnabled)}
	}
	c.endpoint.Note, c.endpoint.Cluster = clusterModeNote, true
	return c
}
