package survey

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/elasticache"
	cachetypes "github.com/aws/aws-sdk-go-v2/service/elasticache/types"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	rdstypes "github.com/aws/aws-sdk-go-v2/service/rds/types"

	"github.com/bastion-ssm/bastion/internal/printable"
	"github.com/bastion-ssm/bastion/targets"
)

// Actions of the calls for databases.
const (
	actionInstances  = "rds:DescribeDBInstances"
	actionClusters   = "rds:DescribeDBClusters"
	actionProxies    = "rds:DescribeDBProxies"
	actionGroups     = "elasticache:DescribeReplicationGroups"
	actionCaches     = "elasticache:DescribeCacheClusters"
	actionServerless = "elasticache:DescribeServerlessCaches"
)

// target is a database's name as package targets takes it.
func target(kind targets.Kind, id *string) string {
	return targets.Spec{Kind: kind, ID: printable.Line(strings.ToLower(aws.ToString(id)))}.String()
}

// listen adds an address, and its port, to what a database has. Without a port of AWS's it has its engine's usual one.
func (d *Database) listen(host *string, port int) {
	port = cmp.Or(port, targets.DefaultPort(d.Engine))
	if port == 0 {
		return
	}
	if !slices.Contains(d.Ports, port) {
		d.Ports = append(d.Ports, port)
	}
	address := Address{Host: strings.ToLower(printable.Line(aws.ToString(host))), Port: port}
	if address.Host != "" && !slices.Contains(d.Addresses, address) {
		d.Addresses = append(d.Addresses, address)
	}
}

// instances finds the RDS instances outside clusters, and where those of clusters stand.
func (s *surveyor) instances(ctx context.Context) {
	all, err := pages(func(token *string) ([]rdstypes.DBInstance, *string, error) {
		out, err := s.clients.Instances(ctx, &rds.DescribeDBInstancesInput{Marker: token})
		if err != nil {
			return nil, nil, err
		}
		return out.DBInstances, out.Marker, nil
	})
	s.note("RDS instances", actionInstances, err)
	s.found.members = make(map[string][]Database)
	for i := range all {
		d := fromInstance(&all[i])
		if cluster := target(targets.RDS, all[i].DBClusterIdentifier); all[i].DBClusterIdentifier != nil {
			s.found.members[cluster] = append(s.found.members[cluster], d)
		} else {
			s.found.instances = append(s.found.instances, d)
		}
	}
}

func fromInstance(in *rdstypes.DBInstance) Database {
	d := Database{
		Name: target(targets.RDS, in.DBInstanceIdentifier), Engine: printable.Line(aws.ToString(in.Engine)),
		Groups: rdsGroups(in.VpcSecurityGroups),
	}
	if in.DBSubnetGroup != nil {
		d.VPC = aws.ToString(in.DBSubnetGroup.VpcId)
	}
	if zone := aws.ToString(in.AvailabilityZone); zone != "" {
		d.Zones = []string{zone}
	}
	if in.Endpoint != nil {
		d.listen(in.Endpoint.Address, int(aws.ToInt32(in.Endpoint.Port)))
	} else {
		d.listen(nil, int(aws.ToInt32(in.DbInstancePort)))
	}
	return d
}

func (s *surveyor) clusters(ctx context.Context) {
	all, err := pages(func(token *string) ([]rdstypes.DBCluster, *string, error) {
		out, err := s.clients.Clusters(ctx, &rds.DescribeDBClustersInput{Marker: token})
		if err != nil {
			return nil, nil, err
		}
		return out.DBClusters, out.Marker, nil
	})
	s.note("RDS clusters", actionClusters, err)
	for i := range all {
		c := &all[i]
		d := Database{
			Name: target(targets.RDS, c.DBClusterIdentifier), Engine: printable.Line(aws.ToString(c.Engine)),
			Groups: rdsGroups(c.VpcSecurityGroups),
		}
		port := int(aws.ToInt32(c.Port))
		for _, host := range append([]string{aws.ToString(c.Endpoint), aws.ToString(c.ReaderEndpoint)}, c.CustomEndpoints...) {
			d.listen(&host, port)
		}
		s.found.clusters = append(s.found.clusters, d)
	}
}

// proxyKind begins the names of RDS proxies, and proxyPorts are what they listen at, by their engine families.
const proxyKind = "rdsproxy:"

var proxyPorts = map[string]int{"MYSQL": 3306, "POSTGRESQL": 5432, "SQLSERVER": 1433}

// proxies finds the RDS proxies, each by its default endpoint.
func (s *surveyor) proxies(ctx context.Context) {
	all, err := pages(func(token *string) ([]rdstypes.DBProxy, *string, error) {
		out, err := s.clients.Proxies(ctx, &rds.DescribeDBProxiesInput{Marker: token})
		if err != nil {
			return nil, nil, err
		}
		return out.DBProxies, out.Marker, nil
	})
	s.note("RDS proxies", actionProxies, err)
	for i := range all {
		p := &all[i]
		family := strings.ToUpper(printable.Line(aws.ToString(p.EngineFamily)))
		d := Database{
			Name: proxyKind + printable.Line(strings.ToLower(aws.ToString(p.DBProxyName))), Engine: strings.ToLower(family),
			VPC:    aws.ToString(p.VpcId),
			Groups: p.VpcSecurityGroupIds,
		}
		d.listen(p.Endpoint, proxyPorts[family])
		s.found.proxies = append(s.found.proxies, d)
	}
}

func rdsGroups(groups []rdstypes.VpcSecurityGroupMembership) (ids []string) {
	for _, g := range groups {
		ids = append(ids, aws.ToString(g.VpcSecurityGroupId))
	}
	return ids
}

// caches finds ElastiCache's three kinds of caches. A replication group has its security groups from its member clusters.
func (s *surveyor) caches(ctx context.Context) {
	replication, err := pages(func(token *string) ([]cachetypes.ReplicationGroup, *string, error) {
		out, err := s.clients.ReplicationGroups(ctx, &elasticache.DescribeReplicationGroupsInput{Marker: token})
		if err != nil {
			return nil, nil, err
		}
		return out.ReplicationGroups, out.Marker, nil
	})
	s.note("ElastiCache replication groups", actionGroups, err)
	caches := make(map[string]*Database)
	for i := range replication {
		caches[aws.ToString(replication[i].ReplicationGroupId)] = fromReplicationGroup(&replication[i])
	}
	clusters, err := pages(func(token *string) ([]cachetypes.CacheCluster, *string, error) {
		out, err := s.clients.CacheClusters(ctx, &elasticache.DescribeCacheClustersInput{Marker: token, ShowCacheNodeInfo: aws.Bool(true)})
		if err != nil {
			return nil, nil, err
		}
		return out.CacheClusters, out.Marker, nil
	})
	s.note("ElastiCache clusters", actionCaches, err)
	for i := range clusters {
		addCacheCluster(caches, &clusters[i])
	}
	for _, d := range caches {
		s.found.caches = append(s.found.caches, *d)
	}
	s.serverless(ctx)
}

func fromReplicationGroup(g *cachetypes.ReplicationGroup) *Database {
	d := &Database{Name: target(targets.Cache, g.ReplicationGroupId), Engine: cmp.Or(printable.Line(aws.ToString(g.Engine)), "redis")}
	cluster := aws.ToBool(g.ClusterEnabled) || g.ConfigurationEndpoint != nil
	d.ByAddress = cluster && !aws.ToBool(g.TransitEncryptionEnabled)
	d.listenAt(g.ConfigurationEndpoint)
	for _, n := range g.NodeGroups {
		d.listenAt(n.PrimaryEndpoint)
		d.listenAt(n.ReaderEndpoint)
	}
	return d
}

// addCacheCluster adds a cache cluster: to its replication group, or as a cache of its own.
func addCacheCluster(caches map[string]*Database, c *cachetypes.CacheCluster) {
	id := cmp.Or(aws.ToString(c.ReplicationGroupId), aws.ToString(c.CacheClusterId))
	d := caches[id]
	if d == nil {
		d = &Database{Name: target(targets.Cache, &id), Engine: printable.Line(aws.ToString(c.Engine))}
		caches[id] = d
		d.listenAt(c.ConfigurationEndpoint)
	}
	for _, n := range c.CacheNodes {
		d.listenAt(n.Endpoint)
	}
	for _, g := range c.SecurityGroups {
		if group := aws.ToString(g.SecurityGroupId); !slices.Contains(d.Groups, group) {
			d.Groups = append(d.Groups, group)
		}
	}
	if zone := aws.ToString(c.PreferredAvailabilityZone); zone != "" && zone != "Multiple" && !slices.Contains(d.Zones, zone) {
		d.Zones = append(d.Zones, zone)
	}
}

func (d *Database) listenAt(e *cachetypes.Endpoint) {
	if e != nil {
		d.listen(e.Address, int(aws.ToInt32(e.Port)))
	}
}

func (s *surveyor) serverless(ctx context.Context) {
	all, err := pages(func(token *string) ([]cachetypes.ServerlessCache, *string, error) {
		out, err := s.clients.ServerlessCaches(ctx, &elasticache.DescribeServerlessCachesInput{NextToken: token})
		if err != nil {
			return nil, nil, err
		}
		return out.ServerlessCaches, out.NextToken, nil
	})
	s.note("ElastiCache serverless caches", actionServerless, err)
	for i := range all {
		c := &all[i]
		d := Database{
			Name: target(targets.Cache, c.ServerlessCacheName), Engine: printable.Line(aws.ToString(c.Engine)), Groups: c.SecurityGroupIds,
		}
		d.listenAt(c.Endpoint)
		d.listenAt(c.ReaderEndpoint)
		s.found.caches = append(s.found.caches, d)
	}
}

// databases are all databases and caches, each in the VPC of its security groups if AWS names no other.
func (s *surveyor) databases() []Database {
	all := slices.Concat(s.found.instances, s.found.clusters, s.found.proxies, s.found.caches)
	if s.landscape.missing(actionClusters) {
		for _, members := range s.found.members {
			all = append(all, members...)
		}
	}
	for i := range all {
		d := &all[i]
		for _, m := range s.found.members[d.Name] {
			d.VPC = cmp.Or(d.VPC, m.VPC)
			d.Zones = append(d.Zones, m.Zones...)
		}
		for _, id := range d.Groups {
			if g, ok := s.landscape.group(id); ok {
				d.VPC = cmp.Or(d.VPC, g.VPC)
			}
		}
		slices.Sort(d.Ports)
		slices.Sort(d.Zones)
		d.Zones = slices.Compact(d.Zones)
	}
	slices.SortFunc(all, func(a, b Database) int { return strings.Compare(a.Name, b.Name) })
	return all
}
