package targets

import (
	"context"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/redshift"
	"github.com/aws/aws-sdk-go-v2/service/redshift/types"
	"github.com/aws/aws-sdk-go-v2/service/redshiftserverless"
	serverlesstypes "github.com/aws/aws-sdk-go-v2/service/redshiftserverless/types"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// redshiftKind has Redshift's clusters and, by their names, the workgroups of Redshift Serverless.
func redshiftKind() Description {
	return Description{
		Kind: Redshift, Prefix: "redshift", Form: "ID", Noun: "Redshift cluster or workgroup",
		Help: "a Redshift cluster or serverless workgroup", Lists: "Redshift warehouses", Port: "the one that AWS names",
		TLS: "as the warehouse says", Guard: "its own", SignIn: "with a temporary password (GetClusterCredentials, GetCredentials)",
		id: lowerID,
		parts: func(r *Resolver) []part {
			return []part{
				{of: "Redshift clusters", actions: []string{"redshift:DescribeClusters"}, find: r.redshiftClusters},
				{
					of: "Redshift workgroups", actions: []string{"redshift-serverless:GetWorkgroup", "redshift-serverless:ListWorkgroups"},
					find: r.redshiftWorkgroups,
				},
			}
		},
	}
}

// engineRedshift is the engine of Redshift's targets, which speak PostgreSQL's protocol.
const engineRedshift = "redshift"

func (r *Resolver) redshiftClusters(ctx context.Context, _ Spec, op string, id *string) ([]candidate, error) {
	var found []candidate
	err := pages(ctx, r.AWS.redshift().clusters, &redshift.DescribeClustersInput{ClusterIdentifier: id},
		func(in *redshift.DescribeClustersInput) **string { return &in.Marker },
		func(out *redshift.DescribeClustersOutput) *string { return out.Marker },
		func(out *redshift.DescribeClustersOutput) {
			for i := range out.Clusters {
				found = append(found, fromRedshift(&out.Clusters[i]))
			}
		})
	if id != nil && hasCode(err, "ClusterNotFound", "ClusterNotFoundFault") {
		return nil, nil
	}
	if err != nil {
		return nil, fail.AWS(fail.Other, op, "redshift:DescribeClusters", err)
	}
	return found, nil
}

func fromRedshift(cluster *types.Cluster) candidate {
	c := candidate{
		id: strings.ToLower(aws.ToString(cluster.ClusterIdentifier)), what: "Redshift cluster", status: aws.ToString(cluster.ClusterStatus),
		engine: engineRedshift, start: "aws redshift resume-cluster --cluster-identifier " + aws.ToString(cluster.ClusterIdentifier),
		tags:    tagsOf(cluster.Tags, func(t types.Tag) (*string, *string) { return t.Key, t.Value }),
		groups:  texts(cluster.VpcSecurityGroups, func(m types.VpcSecurityGroupMembership) *string { return m.VpcSecurityGroupId }),
		network: Network{VPC: aws.ToString(cluster.VpcId)},
	}
	if e := cluster.Endpoint; e != nil {
		c.endpoint = Endpoint{Host: aws.ToString(e.Address), Port: int(aws.ToInt32(e.Port)), Database: aws.ToString(cluster.DBName)}
	}
	return c
}

func (r *Resolver) redshiftWorkgroups(ctx context.Context, _ Spec, op string, id *string) ([]candidate, error) {
	if id != nil {
		out, err := r.AWS.redshiftServerless().workgroup(ctx, &redshiftserverless.GetWorkgroupInput{WorkgroupName: id})
		switch {
		case hasCode(err, "ResourceNotFoundException", "ValidationException"): // the name may be none of a workgroup
			return nil, nil
		case err != nil:
			return nil, fail.AWS(fail.Other, op, "redshift-serverless:GetWorkgroup", err)
		case out.Workgroup == nil:
			return nil, nil
		}
		return []candidate{fromWorkgroup(out.Workgroup)}, nil
	}
	var found []candidate
	err := pages(ctx, r.AWS.redshiftServerless().workgroups, &redshiftserverless.ListWorkgroupsInput{},
		func(in *redshiftserverless.ListWorkgroupsInput) **string { return &in.NextToken },
		func(out *redshiftserverless.ListWorkgroupsOutput) *string { return out.NextToken },
		func(out *redshiftserverless.ListWorkgroupsOutput) {
			for i := range out.Workgroups {
				found = append(found, fromWorkgroup(&out.Workgroups[i]))
			}
		})
	if err != nil {
		return nil, fail.AWS(fail.Other, op, "redshift-serverless:ListWorkgroups", err)
	}
	return found, nil
}

func fromWorkgroup(w *serverlesstypes.Workgroup) candidate {
	c := candidate{
		id: strings.ToLower(aws.ToString(w.WorkgroupName)), what: "Redshift workgroup", status: string(w.Status), engine: engineRedshift,
		groups: w.SecurityGroupIds,
	}
	if e := w.Endpoint; e != nil {
		c.endpoint = Endpoint{Host: aws.ToString(e.Address), Port: int(aws.ToInt32(e.Port))}
	}
	return c
}
