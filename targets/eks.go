package targets

import (
	"context"
	"encoding/base64"
	"net/url"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/eks/types"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// eksKind has the API servers of EKS's clusters.
func eksKind() Description {
	return Description{
		Kind: EKS, Prefix: "eks", Form: "NAME", Noun: "EKS cluster", Help: "an EKS cluster's API server",
		Lists: "EKS clusters", Port: "443", TLS: "always",
		Guard: "the cluster's; none without a private endpoint", SignIn: "by a token, always (bastion eks-token)",
		id: func(text string) (string, error) { return checkNamed(text, "-_", 100) },
		parts: func(r *Resolver) []part {
			return []part{{of: "EKS clusters", actions: []string{"eks:DescribeCluster", "eks:ListClusters"}, find: r.kubernetes}}
		},
	}
}

// kubernetes returns the cluster with the given name, none if it does not exist, or all if id is nil.
func (r *Resolver) kubernetes(ctx context.Context, _ Spec, op string, id *string) ([]candidate, error) {
	names := []string{aws.ToString(id)}
	if id == nil {
		names = names[:0]
		err := pages(ctx, r.AWS.eks().names, &eks.ListClustersInput{},
			func(in *eks.ListClustersInput) **string { return &in.NextToken },
			func(out *eks.ListClustersOutput) *string { return out.NextToken },
			func(out *eks.ListClustersOutput) { names = append(names, out.Clusters...) })
		if err != nil {
			return nil, fail.AWS(fail.Other, op, "eks:ListClusters", err)
		}
	}
	found := make([]candidate, len(names))
	err := each(len(names), func(i int) error {
		out, err := r.AWS.eks().cluster(ctx, &eks.DescribeClusterInput{Name: &names[i]})
		switch {
		case hasCode(err, "ResourceNotFoundException"): // or it has just been deleted
			return nil
		case err != nil:
			return fail.AWS(fail.Other, op, "eks:DescribeCluster", err)
		case out.Cluster != nil:
			found[i] = fromKubernetes(out.Cluster)
		}
		return nil
	})
	return filter(found, func(c candidate) bool { return c.id != "" }), err
}

func fromKubernetes(cluster *types.Cluster) candidate {
	c := candidate{
		id: aws.ToString(cluster.Name), what: "EKS cluster", status: string(cluster.Status), engine: "kubernetes", tags: cluster.Tags,
	}
	if v := cluster.ResourcesVpcConfig; v != nil {
		c.network.VPC = aws.ToString(v.VpcId)
	}
	if u, err := url.Parse(aws.ToString(cluster.Endpoint)); err == nil && u.Hostname() != "" {
		c.endpoint = Endpoint{Host: u.Hostname(), Port: httpsPort, TLS: true, ARN: aws.ToString(cluster.Arn)}
		if ca := cluster.CertificateAuthority; ca != nil {
			pem, err := base64.StdEncoding.DecodeString(aws.ToString(ca.Data))
			if err != nil {
				c.endpoint.Note = "AWS's answer has no readable CA of the cluster"
			}
			c.endpoint.CA = string(pem)
		}
	}
	switch v := cluster.ResourcesVpcConfig; {
	case v == nil:
	case !v.EndpointPrivateAccess:
		c.unguarded = "the cluster's private endpoint is off: its name leads to public addresses"
		c.endpoint.Note = c.unguarded
	default:
		c.groups = v.SecurityGroupIds
		if v.ClusterSecurityGroupId != nil {
			c.groups = append([]string{*v.ClusterSecurityGroupId}, c.groups...)
		}
	}
	return c
}
