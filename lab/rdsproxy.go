package lab

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// DBProxy is an RDS proxy with its endpoints.
type DBProxy struct {
	Name       string
	Family     string // default: POSTGRESQL
	Status     string // default: available
	RequireTLS bool
	IAM        bool           // clients sign in by IAM
	Groups     []string       // ids of its security groups; default: the lab's of databases
	Readers    []string       // names of read-only endpoints
	Addr       netip.AddrPort // where the database really listens
}

// AddDBProxy adds an RDS proxy. The lab's proxies pool nothing: clients reach p.Addr.
func (l *Lab) AddDBProxy(p DBProxy) error {
	p.Family = cmp.Or(p.Family, "POSTGRESQL")
	p.Status = cmp.Or(p.Status, "available")
	names := []string{l.dbHost(p.Name, "proxy-")}
	for _, r := range p.Readers {
		names = append(names, l.dbHost(r+".endpoint", "proxy-"))
	}
	if err := l.publish(p.Addr, names...); err != nil {
		return fmt.Errorf("add DB proxy %s: %w", p.Name, err)
	}
	l.rds.proxies.add(p)
	return nil
}

type xmlProxyAuth struct {
	AuthScheme string
	IAMAuth    string
}

type xmlProxy struct {
	DBProxyName  string
	DBProxyArn   string
	Status       string
	EngineFamily string
	VpcID        string `xml:"VpcId"`
	Endpoint     string
	RequireTLS   bool
	Auth         []xmlProxyAuth `xml:"Auth>member"`
	Groups       []string       `xml:"VpcSecurityGroupIds>member"`
}

func (r *rds) describeProxies(_ context.Context, c *awsapi.Call) (any, error) {
	name := c.Form.Get("DBProxyName")
	all := r.proxies.those(func(p DBProxy) bool { return name == "" || p.Name == name })
	if name != "" && len(all) == 0 {
		return nil, &awsapi.Error{Code: "DBProxyNotFoundFault", Message: "DB proxy " + name + " not found.", Status: 404}
	}
	var items []xmlProxy
	for _, p := range all {
		auth := "DISABLED"
		if p.IAM {
			auth = "REQUIRED"
		}
		items = append(items, xmlProxy{
			DBProxyName: p.Name, DBProxyArn: r.arn("rds", "db-proxy:"+p.Name), Status: p.Status, EngineFamily: p.Family, VpcID: r.vpc(),
			Endpoint: r.dbHost(p.Name, "proxy-"), RequireTLS: p.RequireTLS, Auth: []xmlProxyAuth{{"SECRETS", auth}},
			Groups: guardedBy(p.Groups),
		})
	}
	some, next, err := rdsPage(c, items)
	return struct {
		Marker string     `xml:",omitempty"`
		Items  []xmlProxy `xml:"DBProxies>member"`
	}{next, some}, err
}

type xmlProxyEndpoint struct {
	DBProxyEndpointName string
	DBProxyEndpointArn  string
	DBProxyName         string
	Status              string
	VpcID               string `xml:"VpcId"`
	Endpoint            string
	TargetRole          string
	IsDefault           bool
	Groups              []string `xml:"VpcSecurityGroupIds>member"`
}

func (r *rds) describeProxyEndpoints(_ context.Context, c *awsapi.Call) (any, error) {
	proxy, name := c.Form.Get("DBProxyName"), c.Form.Get("DBProxyEndpointName")
	var items []xmlProxyEndpoint
	for _, p := range r.proxies.those(func(p DBProxy) bool { return proxy == "" || p.Name == proxy }) {
		items = append(items, xmlProxyEndpoint{
			p.Name, r.arn("rds", "db-proxy-endpoint:"+p.Name), p.Name, p.Status, r.vpc(), r.dbHost(p.Name, "proxy-"), "READ_WRITE", true,
			guardedBy(p.Groups),
		})
		for _, reader := range p.Readers {
			items = append(items, xmlProxyEndpoint{
				reader, r.arn("rds", "db-proxy-endpoint:"+reader), p.Name, p.Status, r.vpc(), r.dbHost(reader+".endpoint", "proxy-"), "READ_ONLY", false,
				guardedBy(p.Groups),
			})
		}
	}
	items = slices.DeleteFunc(items, func(e xmlProxyEndpoint) bool { return name != "" && e.DBProxyEndpointName != name })
	if name != "" && len(items) == 0 {
		return nil, &awsapi.Error{Code: "DBProxyEndpointNotFoundFault", Message: "DB proxy endpoint " + name + " not found.", Status: 404}
	}
	some, next, err := rdsPage(c, items)
	return struct {
		Marker string             `xml:",omitempty"`
		Items  []xmlProxyEndpoint `xml:"DBProxyEndpoints>member"`
	}{next, some}, err
}

// proxyEndpointResource names the proxy, the endpoint, or all endpoints of all proxies.
func (r *rds) proxyEndpointResource(c *awsapi.Call) string {
	if name := c.Form.Get("DBProxyName"); name != "" {
		return r.arn("rds", "db-proxy:"+name)
	}
	return r.arn("rds", "db-proxy-endpoint:"+cmp.Or(c.Form.Get("DBProxyEndpointName"), "*"))
}
