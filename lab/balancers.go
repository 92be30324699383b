package lab

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// Balancer is a load balancer.
type Balancer struct {
	Name           string
	Type           string // default: application
	InternetFacing bool
	State          string     // default: active
	Groups         []string   // ids of its security groups; default: the lab's of databases, and none for a network load balancer
	Listeners      []Listener // all lead to Addr
	Addr           netip.AddrPort
}

// Listener is a port of a load balancer.
type Listener struct {
	Port     int
	Protocol string
}

// balancers is Elastic Load Balancing.
type balancers struct {
	site
	shelf[Balancer]
}

// AddBalancer adds a load balancer.
func (l *Lab) AddBalancer(b Balancer) error {
	b.Type = cmp.Or(b.Type, "application")
	b.State = cmp.Or(b.State, "active")
	if err := l.publish(b.Addr, l.balancers.endpoint(b)); err != nil {
		return fmt.Errorf("add load balancer %s: %w", b.Name, err)
	}
	l.balancers.add(b)
	return nil
}

func (b *balancers) endpoint(of Balancer) string {
	first := of.Name + "-0123456789"
	if !of.InternetFacing {
		first = "internal-" + first
	}
	return b.host(first, "elb")
}

func (b *balancers) balancerARN(of Balancer) string {
	kind := map[string]string{"application": "app", "network": "net", "gateway": "gwy"}[of.Type]
	return b.arn("elasticloadbalancing", "loadbalancer/"+kind+"/"+of.Name+"/"+strings.ReplaceAll(seededUUID(of.Name), "-", "")[:16])
}

func (b *balancers) service() awsapi.Service {
	return awsapi.Service{
		Name: "elasticloadbalancing", Protocol: awsapi.Query, Version: "2015-12-01",
		Namespace: "http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/",
		Ops: map[string]awsapi.Op{
			"DescribeLoadBalancers": {Handle: b.describe}, "DescribeListeners": {Handle: b.describeListeners},
		},
	}
}

type xmlState struct{ Code string }

type xmlBalancer struct {
	LoadBalancerArn  string
	LoadBalancerName string
	DNSName          string
	Scheme           string
	Type             string
	VpcID            string `xml:"VpcId"`
	State            xmlState
	Groups           []string `xml:"SecurityGroups>member"`
}

func (b *balancers) describe(_ context.Context, c *awsapi.Call) (any, error) {
	names := awsapi.List(c.Form, "Names.member")
	found := b.those(func(of Balancer) bool { return len(names) == 0 || slices.Contains(names, of.Name) })
	if len(found) < len(names) {
		return nil, awsapi.Errorf("LoadBalancerNotFound", "Load balancers '[%s]' not found", strings.Join(names, ", "))
	}
	var items []xmlBalancer
	for _, of := range found {
		scheme := "internal"
		if of.InternetFacing {
			scheme = "internet-facing"
		}
		groups := of.Groups
		if of.Type == "application" {
			groups = guardedBy(groups)
		}
		items = append(items, xmlBalancer{b.balancerARN(of), of.Name, b.endpoint(of), scheme, of.Type, b.vpc(), xmlState{of.State}, groups})
	}
	some, next, err := page(items, c.Form.Get("Marker"), 100)
	return struct {
		Items  []xmlBalancer `xml:"LoadBalancers>member"`
		Marker string        `xml:"NextMarker,omitempty"`
	}{some, next}, err
}

type xmlListener struct {
	ListenerArn     string
	LoadBalancerArn string
	Port            int
	Protocol        string
}

func (b *balancers) describeListeners(_ context.Context, c *awsapi.Call) (any, error) {
	arn := c.Form.Get("LoadBalancerArn")
	found := b.those(func(of Balancer) bool { return b.balancerARN(of) == arn })
	if len(found) == 0 {
		return nil, awsapi.Errorf("LoadBalancerNotFound", "One or more load balancers not found")
	}
	var items []xmlListener
	for _, l := range found[0].Listeners {
		items = append(items, xmlListener{strings.Replace(arn, ":loadbalancer/", ":listener/", 1) + fmt.Sprintf("/%d", l.Port), arn, l.Port, l.Protocol})
	}
	some, next, err := page(items, c.Form.Get("Marker"), 100)
	return struct {
		Items  []xmlListener `xml:"Listeners>member"`
		Marker string        `xml:"NextMarker,omitempty"`
	}{some, next}, err
}
