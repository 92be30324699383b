package lab

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// labZone is the account's own part of the endpoints' names.
const labZone = "abc123"

// DBInstance is an RDS DB instance, or a member of an Aurora cluster.
type DBInstance struct {
	ID       string
	Engine   string         // default: postgres
	Version  string         // of the engine
	Cluster  string         // ID of the DB cluster that it belongs to
	Database string         // may be empty
	User     string         // default: app
	Status   string         // default: available
	Host     string         // name of the endpoint; default: ID.abc123.REGION.rds.amazonaws.com
	Addr     netip.AddrPort // where it really listens; its port is the endpoint's
	IAM      bool           // IAM database authentication is enabled
	Groups   []string       // ids of its security groups; default: the lab's of databases
	VPC      string         // default: the lab's
	Tags     map[string]string
	created  time.Time
}

// DBCluster is an Aurora DB cluster.
type DBCluster struct {
	ID       string
	Engine   string // default: aurora-postgresql
	Version  string
	Database string
	User     string // default: app
	Status   string // default: available
	Addr     netip.AddrPort
	IAM      bool     // IAM database authentication is enabled
	Groups   []string // ids of its security groups; default: the lab's of databases
	created  time.Time
	site
}

func (d DBCluster) host() string   { return d.dbHost(d.ID, "cluster-") }
func (d DBCluster) reader() string { return d.dbHost(d.ID, "cluster-ro-") }

// rds is the Relational Database Service.
type rds struct {
	site
	mu        sync.Mutex
	instances []DBInstance
	clusters  []DBCluster
	proxies   shelf[DBProxy]
}

func (r *rds) service() awsapi.Service {
	return awsapi.Service{
		Name: "rds", Protocol: awsapi.Query, Version: "2014-10-31", Namespace: "http://rds.amazonaws.com/doc/2014-10-31/",
		Ops: map[string]awsapi.Op{
			"DescribeDBInstances": {Handle: r.describeInstances, Resource: r.named("rds", "db", "DBInstanceIdentifier")},
			"DescribeDBClusters":  {Handle: r.describeClusters, Resource: r.named("rds", "cluster", "DBClusterIdentifier")},

			"DescribeDBProxies":        {Handle: r.describeProxies, Resource: r.named("rds", "db-proxy", "DBProxyName")},
			"DescribeDBProxyEndpoints": {Handle: r.describeProxyEndpoints, Resource: r.proxyEndpointResource},
		},
	}
}

// named is the resource of an operation whose form names one of a kind in the parameter key, or else is about all.
func (s site) named(service, kind, key string) func(*awsapi.Call) string {
	return func(c *awsapi.Call) string { return s.arn(service, kind+":"+cmp.Or(c.Form.Get(key), "*")) }
}

type xmlEndpoint struct {
	Address      string
	Port         uint16
	HostedZoneID string `xml:"HostedZoneId,omitempty"`
}

type xmlSubnetGroup struct {
	DBSubnetGroupName string
	VpcID             string `xml:"VpcId"`
	Status            string `xml:"SubnetGroupStatus"`
}

type xmlTag struct{ Key, Value string }

type xmlGroup struct {
	VpcSecurityGroupID string `xml:"VpcSecurityGroupId"`
	Status             string
}

// guardedBy returns security groups, the databases' one for nil.
func guardedBy(ids []string) []string {
	if ids == nil {
		return []string{databaseGroup}
	}
	return ids
}

func groupsOf(ids []string) (out []xmlGroup) {
	for _, id := range guardedBy(ids) {
		out = append(out, xmlGroup{id, "active"})
	}
	return out
}

func xmlTags(tags map[string]string) []xmlTag {
	var list []xmlTag
	for _, k := range sortedKeys(tags) {
		list = append(list, xmlTag{k, tags[k]})
	}
	return list
}

func (r *rds) describeInstances(_ context.Context, c *awsapi.Call) (any, error) {
	type instance struct {
		DBInstanceIdentifier string
		DBInstanceClass      string
		Engine               string
		EngineVersion        string
		DBInstanceStatus     string
		MasterUsername       string
		DBName               string `xml:",omitempty"`
		Endpoint             xmlEndpoint
		AllocatedStorage     int
		InstanceCreateTime   string
		AvailabilityZone     string
		MultiAZ              bool
		PubliclyAccessible   bool
		StorageEncrypted     bool
		DBClusterIdentifier  string `xml:",omitempty"`
		DbiResourceID        string `xml:"DbiResourceId"`
		DBInstanceArn        string
		IAMAuthentication    bool           `xml:"IAMDatabaseAuthenticationEnabled"`
		SubnetGroup          xmlSubnetGroup `xml:"DBSubnetGroup"`
		Groups               []xmlGroup     `xml:"VpcSecurityGroups>VpcSecurityGroupMembership"`
		Tags                 []xmlTag       `xml:"TagList>Tag"`
	}
	r.mu.Lock()
	all := slices.Clone(r.instances)
	r.mu.Unlock()
	if id := c.Form.Get("DBInstanceIdentifier"); id != "" {
		i := slices.IndexFunc(all, func(d DBInstance) bool {
			return strings.EqualFold(d.ID, id) || r.arn("rds", "db:"+d.ID) == id
		})
		if i < 0 {
			return nil, &awsapi.Error{Code: "DBInstanceNotFound", Message: "DBInstance " + id + " not found.", Status: 404}
		}
		all = all[i : i+1]
	}
	var items []instance
	for _, d := range all {
		match, err := rdsMatch(c, map[string]string{
			"db-instance-id": d.ID, "db-cluster-id": d.Cluster, "engine": d.Engine, "dbi-resource-id": dbResource(d.ID),
			"domain": "",
		}, r.arn("rds", "db:"+d.ID), r.arn("rds", "cluster:"+d.Cluster))
		if err != nil {
			return nil, err
		}
		if !match {
			continue
		}
		items = append(items, instance{
			DBInstanceIdentifier: d.ID, DBInstanceClass: "db.t4g.micro", Engine: d.Engine, EngineVersion: d.Version,
			DBInstanceStatus: d.Status, MasterUsername: d.User, DBName: d.Database,
			Endpoint: xmlEndpoint{d.Host, d.Addr.Port(), "Z0LAB"}, AllocatedStorage: 20, InstanceCreateTime: iso(d.created),
			AvailabilityZone: r.zone('a'), StorageEncrypted: true, DBClusterIdentifier: d.Cluster,
			DbiResourceID: dbResource(d.ID),
			DBInstanceArn: r.arn("rds", "db:"+d.ID), IAMAuthentication: d.IAM, Groups: groupsOf(d.Groups),
			SubnetGroup: xmlSubnetGroup{"private", cmp.Or(d.VPC, r.vpc()), "Complete"}, Tags: xmlTags(d.Tags),
		})
	}
	page, next, err := rdsPage(c, items)
	return struct {
		Marker string     `xml:",omitempty"`
		Items  []instance `xml:"DBInstances>DBInstance"`
	}{next, page}, err
}

type xmlClusterMember struct {
	DBInstanceIdentifier string
	IsClusterWriter      bool
	ParameterGroupStatus string `xml:"DBClusterParameterGroupStatus"`
	PromotionTier        int
}

type xmlCluster struct {
	DBClusterIdentifier string
	Engine              string
	EngineVersion       string
	EngineMode          string
	Status              string
	Endpoint            string
	ReaderEndpoint      string
	Port                uint16
	DatabaseName        string `xml:",omitempty"`
	MasterUsername      string
	MultiAZ             bool
	StorageEncrypted    bool
	ClusterCreateTime   string
	DbClusterResourceID string `xml:"DbClusterResourceId"`
	DBClusterArn        string
	IAMAuthentication   bool               `xml:"IAMDatabaseAuthenticationEnabled"`
	Members             []xmlClusterMember `xml:"DBClusterMembers>DBClusterMember"`
	Groups              []xmlGroup         `xml:"VpcSecurityGroups>VpcSecurityGroupMembership"`
}

func (r *rds) describeClusters(_ context.Context, c *awsapi.Call) (any, error) {
	r.mu.Lock()
	all, instances := slices.Clone(r.clusters), slices.Clone(r.instances)
	r.mu.Unlock()
	if id := c.Form.Get("DBClusterIdentifier"); id != "" {
		i := slices.IndexFunc(all, func(d DBCluster) bool {
			return strings.EqualFold(d.ID, id) || r.arn("rds", "cluster:"+d.ID) == id
		})
		if i < 0 {
			return nil, &awsapi.Error{Code: "DBClusterNotFoundFault", Message: "DBCluster " + id + " not found.", Status: 404}
		}
		all = all[i : i+1]
	}
	var items []xmlCluster
	for _, d := range all {
		match, err := rdsMatch(c, map[string]string{
			"db-cluster-id": d.ID, "engine": d.Engine, "db-cluster-resource-id": dbResource(d.ID), "domain": "",
			"clone-group-id": "",
		}, r.arn("rds", "cluster:"+d.ID))
		if err != nil {
			return nil, err
		}
		if !match {
			continue
		}
		var members []xmlClusterMember
		for _, m := range instances {
			if m.Cluster == d.ID {
				members = append(members, xmlClusterMember{m.ID, len(members) == 0, "in-sync", 1})
			}
		}
		items = append(items, xmlCluster{
			DBClusterIdentifier: d.ID, Engine: d.Engine, EngineVersion: d.Version, EngineMode: "provisioned", Status: d.Status,
			Endpoint: d.host(), ReaderEndpoint: d.reader(), Port: d.Addr.Port(), DatabaseName: d.Database,
			MasterUsername: d.User, StorageEncrypted: true, ClusterCreateTime: iso(d.created),
			DbClusterResourceID: clusterResource(d.ID),
			DBClusterArn:        r.arn("rds", "cluster:"+d.ID), IAMAuthentication: d.IAM, Members: members, Groups: groupsOf(d.Groups),
		})
	}
	page, next, err := rdsPage(c, items)
	return struct {
		Marker string       `xml:",omitempty"`
		Items  []xmlCluster `xml:"DBClusters>DBCluster"`
	}{next, page}, err
}

// dbResource makes up the resource id of a database.
func dbResource(id string) string {
	return "db-" + strings.ToUpper(strings.ReplaceAll(seededUUID(id), "-", ""))[:26]
}

// clusterResource makes up the resource id of a DB cluster.
func clusterResource(id string) string { return "cluster-" + strings.TrimPrefix(dbResource(id), "db-") }

// rdsMatch applies the call's filters. Ids may be given as ARNs too.
func rdsMatch(c *awsapi.Call, attributes map[string]string, arns ...string) (bool, error) {
	for _, f := range awsapi.Filters(c.Form, "Filters.Filter", "Values.Value") {
		value, known := attributes[f.Name]
		if !known {
			return false, awsapi.Errorf("InvalidParameterValue", "Unrecognized filter name: %s", f.Name)
		}
		byARN := slices.ContainsFunc(arns, func(a string) bool { return slices.Contains(f.Values, a) })
		if !byARN && !slices.Contains(f.Values, value) {
			return false, nil
		}
	}
	return true, nil
}

func rdsPage[T any](c *awsapi.Call, items []T) ([]T, string, error) {
	size := 100
	if v := c.Form.Get("MaxRecords"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 20 || n > 100 {
			return nil, "", awsapi.Errorf("InvalidParameterValue",
				"Invalid value %s for MaxRecords. Must be between 20 and 100", v)
		}
		size = n
	}
	page, next, ok := awsapi.Page(items, c.Form.Get("Marker"), size)
	if !ok {
		return nil, "", awsapi.Errorf("InvalidParameterValue", "Invalid or expired marker.")
	}
	return page, next, nil
}

func iso(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
