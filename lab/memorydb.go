package lab

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// MemoryDB is a cluster of MemoryDB.
type MemoryDB struct {
	Name   string
	Engine string // default: valkey
	Status string // default: available
	TLS    bool
	Groups []string       // ids of its security groups; default: the lab's of databases
	Addr   netip.AddrPort // where it really listens
}

// memorydb is MemoryDB.
type memorydb struct {
	site
	shelf[MemoryDB]
}

// AddMemoryDB adds a cluster of MemoryDB.
func (l *Lab) AddMemoryDB(m MemoryDB) error {
	m.Engine = cmp.Or(m.Engine, "valkey")
	m.Status = cmp.Or(m.Status, "available")
	if err := l.publish(m.Addr, l.memorydb.endpoint(m.Name)); err != nil {
		return fmt.Errorf("add MemoryDB cluster %s: %w", m.Name, err)
	}
	l.memorydb.add(m)
	return nil
}

func (m *memorydb) endpoint(name string) string {
	return "clustercfg." + name + "." + labZone + ".memorydb." + m.region + "." + m.partition().DNSSuffix
}

type memorydbInput struct {
	ClusterName string
	NextToken   string
}

func (m *memorydb) service() awsapi.Service {
	return awsapi.Service{
		Name: "memorydb", Protocol: awsapi.JSON, Target: "AmazonMemoryDB", Version: "2021-01-01",
		Ops: map[string]awsapi.Op{"DescribeClusters": {
			Handle: jsonOp(m.describe),
			Resource: func(c *awsapi.Call) string {
				return m.arn("memorydb", "cluster/"+cmp.Or(inputOf[memorydbInput](c).ClusterName, "*"))
			},
		}},
	}
}

func (m *memorydb) describe(_ context.Context, _ *awsapi.Call, in *memorydbInput) (any, error) {
	found := m.those(func(c MemoryDB) bool { return in.ClusterName == "" || c.Name == in.ClusterName })
	if in.ClusterName != "" && len(found) == 0 {
		return nil, awsapi.Errorf("ClusterNotFoundFault", "Cluster not found: %s", in.ClusterName)
	}
	some, next, err := page(found, in.NextToken, 100)
	clusters := []map[string]any{}
	for _, c := range some {
		groups := []map[string]any{}
		for _, id := range guardedBy(c.Groups) {
			groups = append(groups, map[string]any{"SecurityGroupId": id, "Status": "active"})
		}
		v := map[string]any{
			"Name": c.Name, "Status": c.Status, "Engine": c.Engine, "EngineVersion": "7.3", "NumberOfShards": 1, "NodeType": "db.t4g.small",
			"TLSEnabled": c.TLS, "ARN": m.arn("memorydb", "cluster/"+c.Name), "ACLName": "open-access",
			"SecurityGroups": groups,
		}
		if c.Status != "creating" {
			v["ClusterEndpoint"] = map[string]any{"Address": m.endpoint(c.Name), "Port": c.Addr.Port()}
		}
		clusters = append(clusters, v)
	}
	return withToken(map[string]any{"Clusters": clusters}, "NextToken", next), err
}
