package lab

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// Kubernetes is a cluster of EKS.
type Kubernetes struct {
	Name   string
	Status string   // default: ACTIVE
	Public bool     // its private endpoint is off
	CA     []byte   // of its API server, in PEM; nil: made up
	Groups []string // ids of its security groups; default: the lab's of databases
	Tags   map[string]string
	Addr   netip.AddrPort // where its API server really listens; the name's port is 443 even so
}

// eks is the Elastic Kubernetes Service.
type eks struct {
	site
	shelf[Kubernetes]
}

// AddKubernetes adds a cluster of EKS.
func (l *Lab) AddKubernetes(k Kubernetes) error {
	k.Status = cmp.Or(k.Status, "ACTIVE")
	if err := l.publish(k.Addr, l.eks.endpoint(k.Name)); err != nil {
		return fmt.Errorf("add EKS cluster %s: %w", k.Name, err)
	}
	l.eks.add(k)
	return nil
}

// KubernetesHost returns the name of an EKS cluster's API server.
func (l *Lab) KubernetesHost(name string) string { return l.eks.endpoint(name) }

func (e *eks) endpoint(name string) string {
	return e.host(strings.ToUpper(strings.ReplaceAll(seededUUID(name), "-", ""))+".gr7", "eks")
}

func (e *eks) service() awsapi.Service {
	return awsapi.Service{
		Name: "eks", Protocol: awsapi.RESTJSON, Version: "2017-11-01",
		Ops: map[string]awsapi.Op{
			"ListClusters": {Handle: e.list, Route: "GET /clusters"},
			"DescribeCluster": {
				Handle: e.describe, Route: "GET /clusters/{name}",
				Resource: func(c *awsapi.Call) string { return e.arn("eks", "cluster/"+c.Form.Get("name")) },
			},
		},
	}
}

func (e *eks) list(_ context.Context, c *awsapi.Call) (any, error) {
	some, next, err := page(e.all(), c.Form.Get("nextToken"), 100)
	names := []string{}
	for _, k := range some {
		names = append(names, k.Name)
	}
	return withToken(map[string]any{"clusters": names}, "nextToken", next), err
}

func (e *eks) describe(_ context.Context, c *awsapi.Call) (any, error) {
	name := c.Form.Get("name")
	found := e.those(func(k Kubernetes) bool { return k.Name == name })
	if len(found) == 0 {
		return nil, &awsapi.Error{Code: "ResourceNotFoundException", Message: "No cluster found for name: " + name + ".", Status: 404}
	}
	k := found[0]
	groups := guardedBy(k.Groups)
	v := map[string]any{
		"name": k.Name, "arn": e.arn("eks", "cluster/"+k.Name), "status": k.Status, "version": "1.34", "tags": k.Tags,
		"resourcesVpcConfig": map[string]any{
			"vpcId": e.vpc(), "subnetIds": []string{vpcSubnet + "a"}, "endpointPrivateAccess": !k.Public, "endpointPublicAccess": k.Public,
			"clusterSecurityGroupId": groups[0], "securityGroupIds": groups[1:],
		},
		"certificateAuthority": map[string]any{"data": k.CA},
	}
	if k.Status != "CREATING" {
		v["endpoint"] = "https://" + e.endpoint(k.Name)
	}
	return map[string]any{"cluster": v}, nil
}
