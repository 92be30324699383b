package lab

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/bastion-ssm/bastion/lab/awsapi"
	"github.com/bastion-ssm/bastion/lab/iam"
)

// MappedService is a service of Cloud Map with its healthy instances.
type MappedService struct {
	Namespace, Name string
	Instances       []netip.AddrPort // addresses as clients get them
}

// cloudmap is Cloud Map.
type cloudmap struct {
	site
	shelf[MappedService]
}

// AddMappedService adds a service of Cloud Map.
func (l *Lab) AddMappedService(s MappedService) error {
	for _, addr := range s.Instances {
		if err := l.publish(addr); err != nil {
			return fmt.Errorf("add Cloud Map service %s/%s: %w", s.Namespace, s.Name, err)
		}
	}
	l.cloudmap.add(s)
	return nil
}

type discoverInput struct {
	NamespaceName, ServiceName string
	NextToken                  string
	Filters                    []struct {
		Name   string
		Values []string
	}
}

func (m *cloudmap) service() awsapi.Service {
	return awsapi.Service{
		Name: "servicediscovery", Protocol: awsapi.JSON, Target: "Route53AutoNaming_v20170314", Version: "2017-03-14",
		Ops: map[string]awsapi.Op{
			"ListNamespaces": {Handle: jsonOp(m.listNamespaces)}, "ListServices": {Handle: jsonOp(m.listServices)},
			"DiscoverInstances": {Handle: jsonOp(m.discover), Access: func(c *awsapi.Call) []awsapi.Access {
				in := inputOf[discoverInput](c)
				keys := iam.Context{}.With("servicediscovery:NamespaceName", in.NamespaceName).With("servicediscovery:ServiceName", in.ServiceName)
				return []awsapi.Access{
					{Action: c.Name(), Resource: m.arn("servicediscovery", "namespace/"+namespaceID(in.NamespaceName)), Context: keys},
					{Action: c.Name(), Resource: m.arn("servicediscovery", "service/srv-"+seededUUID(in.ServiceName)[:8]), Context: keys},
				}
			}},
		},
	}
}

func namespaceID(name string) string { return "ns-" + seededUUID(name)[:8] }

func (m *cloudmap) namespaces() []string {
	var names []string
	for _, s := range m.all() {
		if !slices.Contains(names, s.Namespace) {
			names = append(names, s.Namespace)
		}
	}
	return names
}

func (m *cloudmap) listNamespaces(_ context.Context, _ *awsapi.Call, in *discoverInput) (any, error) {
	some, next, err := page(m.namespaces(), in.NextToken, 100)
	list := []map[string]any{}
	for _, name := range some {
		list = append(list, map[string]any{"Id": namespaceID(name), "Name": name, "Type": "DNS_PRIVATE"})
	}
	return withToken(map[string]any{"Namespaces": list}, "NextToken", next), err
}

func (m *cloudmap) listServices(_ context.Context, _ *awsapi.Call, in *discoverInput) (any, error) {
	found := m.those(func(s MappedService) bool {
		for _, f := range in.Filters {
			if f.Name == "NAMESPACE_ID" && !slices.Contains(f.Values, namespaceID(s.Namespace)) {
				return false
			}
		}
		return true
	})
	some, next, err := page(found, in.NextToken, 100)
	list := []map[string]any{}
	for _, s := range some {
		list = append(list, map[string]any{"Id": "srv-" + seededUUID(s.Name)[:8], "Name": s.Name, "InstanceCount": len(s.Instances)})
	}
	return withToken(map[string]any{"Services": list}, "NextToken", next), err
}

func (m *cloudmap) discover(_ context.Context, _ *awsapi.Call, in *discoverInput) (any, error) {
	if !slices.Contains(m.namespaces(), in.NamespaceName) {
		return nil, awsapi.Errorf("NamespaceNotFound", "%s", in.NamespaceName)
	}
	found := m.those(func(s MappedService) bool { return s.Namespace == in.NamespaceName && s.Name == in.ServiceName })
	if len(found) == 0 {
		return nil, awsapi.Errorf("ServiceNotFound", "%s", in.ServiceName)
	}
	list := []map[string]any{}
	for i, addr := range found[0].Instances {
		list = append(list, map[string]any{
			"InstanceId": strconv.Itoa(i), "NamespaceName": in.NamespaceName, "ServiceName": in.ServiceName, "HealthStatus": "HEALTHY",
			"Attributes": map[string]string{"AWS_INSTANCE_IPV4": addr.Addr().String(), "AWS_INSTANCE_PORT": strconv.Itoa(int(addr.Port()))},
		})
	}
	return map[string]any{"Instances": list, "InstancesRevision": 1}, nil
}
