package targets

import (
	"context"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/servicediscovery"
	"github.com/aws/aws-sdk-go-v2/service/servicediscovery/types"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// cloudMapKind has the services of Cloud Map, which ECS's service discovery and Service Connect register too.
func cloudMapKind() Description {
	return Description{
		Kind: CloudMap, Prefix: "cloudmap", Form: "NAMESPACE/SERVICE", Noun: "Cloud Map service", Help: "an instance of a Cloud Map service",
		Lists: "Cloud Map services", Port: "the instance's", TLS: "unknown",
		Guard: "unknown: Cloud Map knows addresses alone", SignIn: "none that AWS knows",
		lean: true, id: func(text string) (string, error) { return checkPath(text, "NAMESPACE/SERVICE", ".-_", 253) },
		parts: func(r *Resolver) []part {
			return []part{{
				of: "Cloud Map services", actions: []string{
					"servicediscovery:DiscoverInstances", "servicediscovery:ListNamespaces", "servicediscovery:ListServices",
				},
				find: r.mapped,
			}}
		},
	}
}

// mapped returns a healthy instance of the service, none if the service does not exist, or all services if id is nil.
func (r *Resolver) mapped(ctx context.Context, _ Spec, op string, id *string) ([]candidate, error) {
	if id == nil {
		return r.mappedServices(ctx, op)
	}
	namespace, service, _ := strings.Cut(*id, "/")
	out, err := r.AWS.cloudMap().discover(ctx, &servicediscovery.DiscoverInstancesInput{
		NamespaceName: &namespace, ServiceName: &service, HealthStatus: types.HealthStatusFilterHealthyOrElseAll,
	})
	switch {
	case hasCode(err, "NamespaceNotFound", "ServiceNotFound"):
		return nil, nil
	case err != nil:
		return nil, fail.AWS(fail.Other, op, "servicediscovery:DiscoverInstances", err)
	}
	c := candidate{
		id: *id, what: "Cloud Map service", status: without + "an instance", unguarded: "Cloud Map knows addresses alone",
	}
	for _, instance := range out.Instances {
		if e, ok := fromInstanceAttributes(instance.Attributes); ok {
			c.endpoint, c.status = e, string(instance.HealthStatus)
			break
		}
	}
	return []candidate{c}, nil
}

// fromInstanceAttributes returns the address of an instance; ok is false if it has none.
func fromInstanceAttributes(attributes map[string]string) (e Endpoint, ok bool) {
	for _, key := range []string{"AWS_INSTANCE_IPV4", "AWS_INSTANCE_IPV6", "AWS_INSTANCE_CNAME", "AWS_ALIAS_DNS_NAME"} {
		if host := attributes[key]; host != "" {
			port, err := strconv.Atoi(attributes["AWS_INSTANCE_PORT"])
			if err != nil || port < 1 || port > 65535 {
				port = 0
			}
			return Endpoint{Host: host, Port: port}, true
		}
	}
	return Endpoint{}, false
}

// mappedServices returns all services, without addresses: each would take a call.
func (r *Resolver) mappedServices(ctx context.Context, op string) ([]candidate, error) {
	var namespaces []types.NamespaceSummary
	err := pages(ctx, r.AWS.cloudMap().namespaces, &servicediscovery.ListNamespacesInput{},
		func(in *servicediscovery.ListNamespacesInput) **string { return &in.NextToken },
		func(out *servicediscovery.ListNamespacesOutput) *string { return out.NextToken },
		func(out *servicediscovery.ListNamespacesOutput) { namespaces = append(namespaces, out.Namespaces...) })
	if err != nil {
		return nil, fail.AWS(fail.Other, op, "servicediscovery:ListNamespaces", err)
	}
	services := make([][]candidate, len(namespaces))
	err = each(len(namespaces), func(i int) error {
		in := &servicediscovery.ListServicesInput{Filters: []types.ServiceFilter{
			{Name: types.ServiceFilterNameNamespaceId, Values: []string{aws.ToString(namespaces[i].Id)}},
		}}
		return pages(ctx, r.AWS.cloudMap().services, in,
			func(in *servicediscovery.ListServicesInput) **string { return &in.NextToken },
			func(out *servicediscovery.ListServicesOutput) *string { return out.NextToken },
			func(out *servicediscovery.ListServicesOutput) {
				for _, s := range out.Services {
					id := aws.ToString(namespaces[i].Name) + "/" + aws.ToString(s.Name)
					services[i] = append(services[i], candidate{id: id, what: "Cloud Map service"})
				}
			})
	})
	if err != nil {
		return nil, fail.AWS(fail.Other, op, "servicediscovery:ListServices", err)
	}
	var found []candidate
	for _, some := range services {
		found = append(found, some...)
	}
	return found, nil
}
