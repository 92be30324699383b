package lab

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// CacheKind is a kind of cache.
type CacheKind string

// The kinds of cache.
const (
	ReplicationGroup CacheKind = "replication group" // with its first node as a cache cluster
	CacheCluster     CacheKind = "cache cluster"     // one node of its own
	ServerlessCache  CacheKind = "serverless cache"
)

// Cache is an ElastiCache cache.
type Cache struct {
	ID      string
	Kind    CacheKind      // default: ReplicationGroup
	Engine  string         // default: redis
	Version string         // of the engine
	Sharded bool           // replication groups: cluster mode, with a configuration endpoint
	TLS     bool           // replication groups: in-transit encryption
	Nodes   []CacheNode    // replication groups in cluster mode; none: one node at Addr
	Status  string         // default: available
	Groups  []string       // ids of its security groups; default: the lab's of databases
	Host    string         // name of the endpoint; the default is of AWS's form
	Addr    netip.AddrPort // where it really listens; its port is the endpoint's. Default: that of the first node
	created time.Time
	site
}

// CacheNode is a node of a replication group in cluster mode.
type CacheNode struct {
	Shard int            // from 1
	Addr  netip.AddrPort // where it really listens
}

// member is a node in ElastiCache's view: a cache cluster.
type member struct {
	id, name    string
	shard, zone string
	addr        netip.AddrPort
}

// members returns the cache clusters of a cache.
func (c Cache) members() []member {
	if len(c.Nodes) == 0 {
		return []member{{id: c.nodeID(), name: c.nodeName(), shard: "0001", zone: c.zone('a'), addr: c.Addr}}
	}
	count := make(map[int]int)
	var out []member
	for _, n := range c.Nodes {
		count[n.Shard]++
		shard := fmt.Sprintf("%04d", n.Shard)
		id := fmt.Sprintf("%s-%s-%03d", c.ID, shard, count[n.Shard])
		zone := c.zone(rune('a' + (count[n.Shard]-1)%3))
		out = append(out, member{id: id, name: c.cacheHost(id + "." + c.ID + "." + labZone), shard: shard, zone: zone, addr: n.Addr})
	}
	return out
}

// endpointName returns the name in the cache's main endpoint.
func (c Cache) endpointName() string {
	switch {
	case c.Kind == ServerlessCache:
		return c.cacheHost(c.ID + "-" + labZone + ".serverless")
	case c.Kind == CacheCluster && c.Engine == "memcached":
		return c.cacheHost(c.ID + "." + labZone + ".cfg")
	case c.Kind == CacheCluster:
		return c.cacheHost(c.ID + "." + labZone + ".0001")
	case c.Sharded:
		return c.cacheHost("clustercfg." + c.ID + "." + labZone)
	}
	return c.cacheHost("master." + c.ID + "." + labZone)
}

// names returns all names of the cache.
func (c Cache) names() []string {
	names := []string{c.Host}
	switch c.Kind {
	case ReplicationGroup:
		names = append(names, c.readerName())
		if len(c.Nodes) == 0 {
			names = append(names, c.nodeName())
		}
	case CacheCluster:
		names = append(names, c.nodeName())
	case ServerlessCache:
	}
	return names
}

func (c Cache) readerName() string { return c.cacheHost("replica." + c.ID + "." + labZone) }

func (c Cache) nodeName() string {
	if c.Kind == CacheCluster {
		return c.cacheHost(c.ID + "." + labZone + ".0001")
	}
	return c.cacheHost(c.nodeID() + "." + c.ID + "." + labZone)
}

// nodeID returns the cache cluster id of the replication group's first node.
func (c Cache) nodeID() string {
	if c.Kind == ReplicationGroup {
		return c.ID + "-001"
	}
	return c.ID
}

func (c Cache) memberIDs() []string {
	var ids []string
	for _, m := range c.members() {
		ids = append(ids, m.id)
	}
	return ids
}

// elasticache is ElastiCache.
type elasticache struct {
	site
	mu     sync.Mutex
	caches []Cache
}

func (e *elasticache) service() awsapi.Service {
	const name = "elasticache"
	return awsapi.Service{
		Name: name, Protocol: awsapi.Query, Version: "2015-02-02",
		Namespace: "http://elasticache.amazonaws.com/doc/2015-02-02/",
		Ops: map[string]awsapi.Op{
			"DescribeReplicationGroups": {
				Handle: e.describeReplicationGroups, Resource: e.named(name, "replicationgroup", "ReplicationGroupId"),
			},
			"DescribeCacheClusters": {
				Handle: e.describeCacheClusters, Resource: e.named(name, "cluster", "CacheClusterId"),
			},
			"DescribeServerlessCaches": {
				Handle: e.describeServerlessCaches, Resource: e.named(name, "serverlesscache", "ServerlessCacheName"),
			},
		},
	}
}

// list returns the caches of the kinds, or the one with the id.
func (e *elasticache) list(id string, notFound *awsapi.Error, idsOf func(Cache) []string, kinds ...CacheKind) (
	[]Cache, error,
) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []Cache
	for _, c := range e.caches {
		is := func(own string) bool { return strings.EqualFold(own, id) }
		if slices.Contains(kinds, c.Kind) && (id == "" || slices.ContainsFunc(idsOf(c), is)) {
			list = append(list, c)
		}
	}
	if id != "" && len(list) == 0 {
		return nil, notFound
	}
	return list, nil
}

// These are ElastiCache's types of the same names, with the fields that clients of the lab need.
type nodeMember struct {
	CacheClusterID string `xml:"CacheClusterId"`
	CacheNodeID    string `xml:"CacheNodeId"`
	ReadEndpoint   *xmlEndpoint
	Zone           string `xml:"PreferredAvailabilityZone"`
	CurrentRole    string `xml:",omitempty"`
}

type nodeGroup struct {
	NodeGroupID     string `xml:"NodeGroupId"`
	Status          string
	PrimaryEndpoint *xmlEndpoint
	ReaderEndpoint  *xmlEndpoint
	Slots           string       `xml:",omitempty"`
	Members         []nodeMember `xml:"NodeGroupMembers>NodeGroupMember"`
}

type replicationGroup struct {
	ReplicationGroupID       string `xml:"ReplicationGroupId"`
	Description              string
	Status                   string
	MemberClusters           []string    `xml:"MemberClusters>ClusterId"`
	NodeGroups               []nodeGroup `xml:"NodeGroups>NodeGroup"`
	AutomaticFailover        string
	MultiAZ                  string
	ConfigurationEndpoint    *xmlEndpoint
	SnapshotRetentionLimit   int
	ClusterEnabled           bool
	CacheNodeType            string
	AuthTokenEnabled         bool
	TransitEncryptionEnabled bool
	AtRestEncryptionEnabled  bool
	ARN                      string
	Engine                   string
	CreateTime               string `xml:"ReplicationGroupCreateTime"`
}

func (e *elasticache) describeReplicationGroups(_ context.Context, c *awsapi.Call) (any, error) {
	id := c.Form.Get("ReplicationGroupId")
	caches, err := e.list(id, &awsapi.Error{
		Code: "ReplicationGroupNotFoundFault", Message: "ReplicationGroup " + id + " not found.", Status: 404,
	}, func(c Cache) []string { return []string{c.ID} }, ReplicationGroup)
	if err != nil {
		return nil, err
	}
	var items []replicationGroup
	for _, cache := range caches {
		items = append(items, e.replicationGroup(cache))
	}
	page, next, err := rdsPage(c, items)
	return struct {
		Marker string             `xml:",omitempty"`
		Items  []replicationGroup `xml:"ReplicationGroups>ReplicationGroup"`
	}{next, page}, err
}

func (e *elasticache) replicationGroup(cache Cache) replicationGroup {
	port := cache.Addr.Port()
	g := replicationGroup{
		ReplicationGroupID: cache.ID, Description: "made by the lab", Status: cache.Status,
		AutomaticFailover: "disabled", MultiAZ: "disabled", ClusterEnabled: cache.Sharded, CacheNodeType: "cache.t4g.micro",
		TransitEncryptionEnabled: cache.TLS, AtRestEncryptionEnabled: true, Engine: cache.Engine,
		ARN: e.arn("elasticache", "replicationgroup:"+cache.ID), CreateTime: iso(cache.created),
	}
	for _, m := range cache.members() {
		g.MemberClusters = append(g.MemberClusters, m.id)
		if n := len(g.NodeGroups); n == 0 || g.NodeGroups[n-1].NodeGroupID != m.shard {
			g.NodeGroups = append(g.NodeGroups, nodeGroup{NodeGroupID: m.shard, Status: cache.Status})
		}
		shard := &g.NodeGroups[len(g.NodeGroups)-1]
		node := nodeMember{CacheClusterID: m.id, CacheNodeID: "0001", Zone: m.zone}
		if !cache.Sharded {
			shard.PrimaryEndpoint = &xmlEndpoint{Address: cache.Host, Port: port}
			shard.ReaderEndpoint = &xmlEndpoint{Address: cache.readerName(), Port: port}
			node.ReadEndpoint, node.CurrentRole = &xmlEndpoint{Address: m.name, Port: port}, "primary"
		}
		shard.Members = append(shard.Members, node)
	}
	if cache.Sharded {
		g.ConfigurationEndpoint = &xmlEndpoint{Address: cache.Host, Port: port}
		const slots = 16384
		for i := range g.NodeGroups {
			n := len(g.NodeGroups)
			g.NodeGroups[i].Slots = fmt.Sprintf("%d-%d", i*slots/n, (i+1)*slots/n-1)
		}
	}
	return g
}

type securityGroup struct {
	ID     string `xml:"SecurityGroupId"`
	Status string
}

func (e *elasticache) describeCacheClusters(_ context.Context, c *awsapi.Call) (any, error) {
	type node struct {
		CacheNodeID     string `xml:"CacheNodeId"`
		CacheNodeStatus string
		CreateTime      string `xml:"CacheNodeCreateTime"`
		Endpoint        xmlEndpoint
		Zone            string `xml:"CustomerAvailabilityZone"`
	}
	type cluster struct {
		CacheClusterID           string `xml:"CacheClusterId"`
		ConfigurationEndpoint    *xmlEndpoint
		CacheNodeType            string
		Engine                   string
		EngineVersion            string
		CacheClusterStatus       string
		NumCacheNodes            int
		Zone                     string  `xml:"PreferredAvailabilityZone"`
		CreateTime               string  `xml:"CacheClusterCreateTime"`
		CacheNodes               *[]node `xml:"CacheNodes>CacheNode"`
		ReplicationGroupID       string  `xml:"ReplicationGroupId,omitempty"`
		TransitEncryptionEnabled bool
		AtRestEncryptionEnabled  bool
		ARN                      string
		Groups                   []securityGroup `xml:"SecurityGroups>member"`
	}
	id := c.Form.Get("CacheClusterId")
	caches, err := e.list(id, &awsapi.Error{
		Code: "CacheClusterNotFound", Message: "CacheCluster not found: " + id, Status: 404,
	}, Cache.memberIDs, ReplicationGroup, CacheCluster)
	if err != nil {
		return nil, err
	}
	alone := c.Form.Get("ShowCacheClustersNotInReplicationGroups") == "true"
	var items []cluster
	for _, cache := range caches {
		if alone && cache.Kind == ReplicationGroup {
			continue
		}
		for _, m := range cache.members() {
			if id != "" && !strings.EqualFold(m.id, id) {
				continue
			}
			item := cluster{
				CacheClusterID: m.id, CacheNodeType: "cache.t4g.micro", Engine: cache.Engine, EngineVersion: cache.Version,
				CacheClusterStatus: cache.Status, NumCacheNodes: 1, Zone: m.zone, CreateTime: iso(cache.created),
				TransitEncryptionEnabled: cache.TLS, AtRestEncryptionEnabled: true, ARN: e.arn("elasticache", "cluster:"+m.id),
			}
			for _, id := range guardedBy(cache.Groups) {
				item.Groups = append(item.Groups, securityGroup{id, "active"})
			}
			if cache.Kind == ReplicationGroup {
				item.ReplicationGroupID = cache.ID
			}
			if cache.Engine == "memcached" {
				item.ConfigurationEndpoint = &xmlEndpoint{Address: cache.Host, Port: cache.Addr.Port()}
			}
			if c.Form.Get("ShowCacheNodeInfo") == "true" {
				item.CacheNodes = &[]node{{
					"0001", cache.Status, iso(cache.created), xmlEndpoint{Address: m.name, Port: m.addr.Port()}, m.zone,
				}}
			}
			items = append(items, item)
		}
	}
	page, next, err := rdsPage(c, items)
	return struct {
		Marker string    `xml:",omitempty"`
		Items  []cluster `xml:"CacheClusters>CacheCluster"`
	}{next, page}, err
}

func (e *elasticache) describeServerlessCaches(_ context.Context, c *awsapi.Call) (any, error) {
	type cache struct {
		ServerlessCacheName string
		Description         string
		CreateTime          string
		Status              string
		Engine              string
		MajorEngineVersion  string
		FullEngineVersion   string
		Endpoint            xmlEndpoint
		ReaderEndpoint      xmlEndpoint
		ARN                 string
		Groups              []string `xml:"SecurityGroupIds>SecurityGroupId"`
	}
	name := c.Form.Get("ServerlessCacheName")
	caches, err := e.list(name, &awsapi.Error{
		Code: "ServerlessCacheNotFoundFault", Message: "Serverless cache " + name + " not found.", Status: 404,
	}, func(c Cache) []string { return []string{c.ID} }, ServerlessCache)
	if err != nil {
		return nil, err
	}
	var items []cache
	for _, s := range caches {
		endpoint := xmlEndpoint{Address: s.Host, Port: s.Addr.Port()}
		major, _, _ := strings.Cut(s.Version, ".")
		items = append(items, cache{
			s.ID, "made by the lab", iso(s.created), s.Status, s.Engine, major, s.Version, endpoint, endpoint,
			e.arn("elasticache", "serverlesscache:"+s.ID), guardedBy(s.Groups),
		})
	}
	page, next, ok := awsapi.Page(items, c.Form.Get("NextToken"), 50)
	if !ok {
		return nil, awsapi.Errorf("InvalidParameterValue", "Invalid next token.")
	}
	return struct {
		NextToken string  `xml:",omitempty"`
		Items     []cache `xml:"ServerlessCaches>member"`
	}{next, page}, nil
}
