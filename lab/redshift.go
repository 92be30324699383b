package lab

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// Warehouse is a cluster of Redshift, or a workgroup of Redshift Serverless.
type Warehouse struct {
	ID         string
	Serverless bool
	Status     string   // default: available, or AVAILABLE
	Database   string   // of a cluster
	Groups     []string // ids of its security groups; default: the lab's of databases
	Tags       map[string]string
	Addr       netip.AddrPort // where it really listens
}

// redshift is Redshift with Redshift Serverless.
type redshift struct {
	site
	shelf[Warehouse]
}

// AddWarehouse adds a cluster of Redshift or a workgroup of Redshift Serverless.
func (l *Lab) AddWarehouse(w Warehouse) error {
	status := "available"
	if w.Serverless {
		status = "AVAILABLE"
	}
	w.Status = cmp.Or(w.Status, status)
	if err := l.publish(w.Addr, l.redshift.endpoint(w)); err != nil {
		return fmt.Errorf("add warehouse %s: %w", w.ID, err)
	}
	l.redshift.add(w)
	return nil
}

func (r *redshift) endpoint(w Warehouse) string {
	if w.Serverless {
		return r.host(w.ID+"."+r.account, "redshift-serverless")
	}
	return r.host(w.ID+"."+labZone, "redshift")
}

func (r *redshift) service() awsapi.Service {
	return awsapi.Service{
		Name: "redshift", Protocol: awsapi.Query, Version: "2012-12-01", Namespace: "http://redshift.amazonaws.com/doc/2012-12-01/",
		Ops: map[string]awsapi.Op{
			"DescribeClusters": {Handle: r.describeClusters, Resource: r.named("redshift", "cluster", "ClusterIdentifier")},
		},
	}
}

type xmlWarehouse struct {
	ClusterIdentifier string
	ClusterStatus     string
	NodeType          string
	DBName            string
	Endpoint          *xmlEndpoint
	VpcID             string `xml:"VpcId"`
	Encrypted         bool
	Groups            []xmlGroup `xml:"VpcSecurityGroups>VpcSecurityGroup"`
	Tags              []xmlTag   `xml:"Tags>Tag"`
}

func (r *redshift) describeClusters(_ context.Context, c *awsapi.Call) (any, error) {
	id := c.Form.Get("ClusterIdentifier")
	found := r.those(func(w Warehouse) bool { return !w.Serverless && (id == "" || w.ID == id) })
	if id != "" && len(found) == 0 {
		return nil, &awsapi.Error{Code: "ClusterNotFound", Message: "Cluster " + id + " not found.", Status: 404}
	}
	var items []xmlWarehouse
	for _, w := range found {
		v := xmlWarehouse{
			ClusterIdentifier: w.ID, ClusterStatus: w.Status, NodeType: "ra3.large", DBName: cmp.Or(w.Database, "dev"), VpcID: r.vpc(), Encrypted: true,
			Groups: groupsOf(w.Groups), Tags: xmlTags(w.Tags),
		}
		if w.Status != "creating" {
			v.Endpoint = &xmlEndpoint{Address: r.endpoint(w), Port: w.Addr.Port()}
		}
		items = append(items, v)
	}
	some, next, err := rdsPage(c, items)
	return struct {
		Marker string         `xml:",omitempty"`
		Items  []xmlWarehouse `xml:"Clusters>Cluster"`
	}{next, some}, err
}

type workgroupInput struct {
	WorkgroupName string `json:"workgroupName"`
	NextToken     string `json:"nextToken"`
}

func (r *redshift) serverless() awsapi.Service {
	return awsapi.Service{
		Name: "redshift-serverless", Protocol: awsapi.JSON, Target: "RedshiftServerless", Version: "2021-04-21",
		Ops: map[string]awsapi.Op{
			"ListWorkgroups": {Handle: jsonOp(r.listWorkgroups)},
			"GetWorkgroup": {
				Handle: jsonOp(r.getWorkgroup),
				Resource: func(c *awsapi.Call) string {
					return r.arn("redshift-serverless", "workgroup/"+seededUUID(inputOf[workgroupInput](c).WorkgroupName))
				},
			},
		},
	}
}

func (r *redshift) workgroup(w Warehouse) map[string]any {
	v := map[string]any{
		"workgroupName": w.ID, "workgroupId": seededUUID(w.ID), "status": w.Status, "namespaceName": w.ID, "publiclyAccessible": false,
		"workgroupArn":     r.arn("redshift-serverless", "workgroup/"+seededUUID(w.ID)),
		"securityGroupIds": guardedBy(w.Groups),
	}
	if w.Status != "CREATING" {
		v["endpoint"] = map[string]any{"address": r.endpoint(w), "port": w.Addr.Port()}
	}
	return v
}

func (r *redshift) listWorkgroups(_ context.Context, _ *awsapi.Call, in *workgroupInput) (any, error) {
	some, next, err := page(r.those(func(w Warehouse) bool { return w.Serverless }), in.NextToken, 100)
	list := []map[string]any{}
	for _, w := range some {
		list = append(list, r.workgroup(w))
	}
	return withToken(map[string]any{"workgroups": list}, "nextToken", next), err
}

func (r *redshift) getWorkgroup(_ context.Context, _ *awsapi.Call, in *workgroupInput) (any, error) {
	found := r.those(func(w Warehouse) bool { return w.Serverless && w.ID == in.WorkgroupName })
	if len(found) == 0 {
		return nil, awsapi.Errorf("ResourceNotFoundException", "The specified workgroup %s isn't found.", in.WorkgroupName)
	}
	return map[string]any{"workgroup": r.workgroup(found[0])}, nil
}
