package doctor

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/elasticache"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	rdstypes "github.com/aws/aws-sdk-go-v2/service/rds/types"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/targets"
)

// where looks the target up, as a forward does, and then at what AWS says of a database or a cache.
func (g *gatherer) where(ctx context.Context, way *access.Access) {
	f := g.facts
	if f.Target == "" || f.TargetErr != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*callLimit)
	defer cancel()
	w := &f.Where
	found, err := way.Resolve(ctx, []targets.Spec{f.Spec})
	if err != nil {
		w.Err = err
	} else {
		w.Endpoint = found[0]
	}
	id := f.Spec.ID
	if parsed, err := targets.Parse(w.Endpoint.Name); err == nil && id == "" {
		id = parsed.ID // the region's only one
	}
	switch {
	case id == "":
	case f.Spec.Kind == targets.RDS:
		g.database(ctx, id)
	case f.Spec.Kind == targets.Cache:
		g.cache(ctx, id)
	}
	if len(w.Groups) > 0 {
		w.Rules, w.RulesErr = g.securityGroups(ctx, filters("group-id", w.Groups, nil))
		if len(w.Rules) > 0 {
			w.VPC = aws.ToString(w.Rules[0].VpcId)
		}
	}
}

// database describes an RDS instance or cluster. Resolve reports errors.
func (g *gatherer) database(ctx context.Context, id string) {
	w := &g.facts.Where
	groups := func(all []rdstypes.VpcSecurityGroupMembership) {
		for _, m := range all {
			w.Groups = append(w.Groups, aws.ToString(m.VpcSecurityGroupId))
		}
	}
	if out, err := g.calls.instances(ctx, &rds.DescribeDBInstancesInput{DBInstanceIdentifier: &id}); err == nil && len(out.DBInstances) > 0 {
		d := out.DBInstances[0]
		w.What, w.Name, w.Status, w.IAM = whatInstance, id, aws.ToString(d.DBInstanceStatus), aws.ToBool(d.IAMDatabaseAuthenticationEnabled)
		groups(d.VpcSecurityGroups)
		return
	}
	if out, err := g.calls.dbClusters(ctx, &rds.DescribeDBClustersInput{DBClusterIdentifier: &id}); err == nil && len(out.DBClusters) > 0 {
		d := out.DBClusters[0]
		w.What, w.Name, w.Status, w.IAM = whatCluster, id, aws.ToString(d.Status), aws.ToBool(d.IAMDatabaseAuthenticationEnabled)
		groups(d.VpcSecurityGroups)
	}
}

// cache describes a replication group or a cache cluster.
func (g *gatherer) cache(ctx context.Context, id string) {
	w := &g.facts.Where
	node := id
	if out, err := g.calls.caches(ctx, &elasticache.DescribeReplicationGroupsInput{ReplicationGroupId: &id}); err == nil &&
		len(out.ReplicationGroups) > 0 {
		group := out.ReplicationGroups[0]
		w.What, w.Name, w.Status = whatCache, id, aws.ToString(group.Status)
		if len(group.MemberClusters) > 0 {
			node = group.MemberClusters[0] // which has the security groups
		}
	}
	if out, err := g.calls.nodes(ctx, &elasticache.DescribeCacheClustersInput{CacheClusterId: &node}); err == nil &&
		len(out.CacheClusters) > 0 {
		c := out.CacheClusters[0]
		if w.What == "" {
			w.What, w.Name, w.Status = whatCache, id, aws.ToString(c.CacheClusterStatus)
		}
		for _, m := range c.SecurityGroups {
			w.Groups = append(w.Groups, aws.ToString(m.SecurityGroupId))
		}
	}
}
