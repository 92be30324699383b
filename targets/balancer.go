package targets

import (
	"context"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	"github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// balancerKind has application and network load balancers. A list has the internal ones.
func balancerKind() Description {
	return Description{
		Kind: LoadBalancer, Prefix: "lb", Form: "NAME", Noun: "load balancer", Help: "an internal load balancer",
		Lists: "load balancers", Port: "its only listener's, else 443 or 80 if it has such a listener", TLS: "as the listener says",
		Guard: "its own, if it has some; not of internet-facing ones", SignIn: "none: the servers behind it decide",
		lean: true, id: func(text string) (string, error) { return checkNamed(text, "-", 32) },
		parts: func(r *Resolver) []part {
			return []part{{
				of: "load balancers", actions: []string{"elasticloadbalancing:DescribeListeners", "elasticloadbalancing:DescribeLoadBalancers"},
				find: r.balancers,
			}}
		},
	}
}

// balancers returns the load balancer with the given name, none if it does not exist, or all internal ones if id is nil. The ports of
// a list's are left out: each would take a call.
func (r *Resolver) balancers(ctx context.Context, spec Spec, op string, id *string) ([]candidate, error) {
	in := &elasticloadbalancingv2.DescribeLoadBalancersInput{}
	if id != nil {
		in.Names = []string{*id}
	}
	var found []candidate
	var arns []string
	err := pages(ctx, r.AWS.balancers().balancers, in,
		func(in *elasticloadbalancingv2.DescribeLoadBalancersInput) **string { return &in.Marker },
		func(out *elasticloadbalancingv2.DescribeLoadBalancersOutput) *string { return out.NextMarker },
		func(out *elasticloadbalancingv2.DescribeLoadBalancersOutput) {
			for i := range out.LoadBalancers {
				if b := &out.LoadBalancers[i]; id != nil || b.Scheme == types.LoadBalancerSchemeEnumInternal {
					found, arns = append(found, fromBalancer(b)), append(arns, aws.ToString(b.LoadBalancerArn))
				}
			}
		})
	switch {
	case id != nil && hasCode(err, "LoadBalancerNotFound"):
		return nil, nil
	case err != nil:
		return nil, fail.AWS(fail.Other, op, "elasticloadbalancing:DescribeLoadBalancers", err)
	}
	if id != nil && len(found) > 0 {
		err = r.listener(ctx, op, arns[0], spec.Port, &found[0].endpoint)
		if spec.Port != 0 { // the user knows
			err = nil
		}
	}
	return found, err
}

func fromBalancer(b *types.LoadBalancer) candidate {
	c := candidate{
		id: aws.ToString(b.LoadBalancerName), what: strings.TrimSpace(string(b.Type) + " load balancer"),
		endpoint: Endpoint{Host: aws.ToString(b.DNSName)}, network: Network{VPC: aws.ToString(b.VpcId)},
	}
	if b.State != nil {
		c.status = string(b.State.Code)
	}
	switch {
	case b.Scheme != types.LoadBalancerSchemeEnumInternal:
		c.unguarded = "the load balancer is internet-facing: its name leads to public addresses"
		c.endpoint.Note = c.unguarded
	case len(b.SecurityGroups) == 0:
		c.unguarded = "the load balancer has none, so that those of its targets decide"
	default:
		c.groups = b.SecurityGroups
	}
	return c
}

// listener sets the port of a load balancer, and whether it takes TLS only. want is the user's port, or 0.
func (r *Resolver) listener(ctx context.Context, op, arn string, want int, e *Endpoint) error {
	var all []types.Listener
	err := pages(ctx, r.AWS.balancers().listeners, &elasticloadbalancingv2.DescribeListenersInput{LoadBalancerArn: &arn},
		func(in *elasticloadbalancingv2.DescribeListenersInput) **string { return &in.Marker },
		func(out *elasticloadbalancingv2.DescribeListenersOutput) *string { return out.NextMarker },
		func(out *elasticloadbalancingv2.DescribeListenersOutput) { all = append(all, out.Listeners...) })
	if err != nil {
		return fail.AWS(fail.Other, op, "elasticloadbalancing:DescribeListeners", err)
	}
	tcp := make(map[int]types.ProtocolEnum)
	for _, l := range all {
		if l.Protocol != types.ProtocolEnumUdp {
			tcp[int(aws.ToInt32(l.Port))] = l.Protocol
			if len(all) == 1 && want == 0 {
				want = int(aws.ToInt32(l.Port))
			}
		}
	}
	for _, usual := range []int{httpsPort, 80} {
		if _, ok := tcp[usual]; ok && want == 0 {
			want = usual
		}
	}
	e.Port, e.TLS = want, tcp[want] == types.ProtocolEnumHttps || tcp[want] == types.ProtocolEnumTls
	return nil
}
