package targets

import (
	"context"
	"errors"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	"github.com/aws/aws-sdk-go-v2/service/rds/types"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// rdsKind has instances and clusters. An instance has precedence over a cluster with the same identifier, unless the Spec has a
// role. DocumentDB and Neptune share RDS's API: a bare "rds" excludes them.
func rdsKind() Description {
	return Description{
		Kind: RDS, Prefix: "rds", Form: "ID[/ROLE]", Noun: "RDS instance or cluster", Help: "an RDS instance or cluster",
		Lists: "RDS databases", Port: "the one that AWS names, else the engine's", TLS: "as the database says",
		Guard: "its own", SignIn: "by a token, if IAM authentication is on (bastion token)",
		Tokens: true, roles: true, id: lowerID, reversed: true,
		parts: func(r *Resolver) []part {
			return []part{
				{of: "RDS clusters", actions: []string{"rds:DescribeDBClusters"}, find: r.clusters},
				{of: "RDS instances", actions: []string{"rds:DescribeDBInstances"}, find: r.instances},
			}
		},
		bare: func(c candidate) bool { return c.engine != "docdb" && c.engine != "neptune" },
	}
}

// The names of RDS's kinds.
const (
	whatInstance = "RDS instance"
	whatCluster  = "RDS cluster"
)

// instances returns the instance with the given identifier, or none if it does not exist. If id is nil, it returns all
// instances outside clusters.
func (r *Resolver) instances(ctx context.Context, spec Spec, op string, id *string) ([]candidate, error) {
	var found []candidate
	var member *types.DBInstance // of a cluster, without IAM authentication of its own
	err := pages(ctx, r.AWS.rds().instances, &rds.DescribeDBInstancesInput{DBInstanceIdentifier: id},
		func(in *rds.DescribeDBInstancesInput) **string { return &in.Marker },
		func(out *rds.DescribeDBInstancesOutput) *string { return out.Marker },
		func(out *rds.DescribeDBInstancesOutput) {
			for i := range out.DBInstances {
				db := &out.DBInstances[i]
				if id == nil && db.DBClusterIdentifier != nil {
					continue
				}
				c := fromInstance(db)
				if db.DBClusterIdentifier != nil && !c.endpoint.IAM {
					member = db
				}
				found = append(found, c)
			}
		})
	if _, missing := errors.AsType[*types.DBInstanceNotFoundFault](err); missing && id != nil {
		return nil, nil
	}
	if err != nil {
		return nil, fail.AWS(fail.Other, op, "rds:DescribeDBInstances", err)
	}
	if member != nil && len(found) > 0 {
		c := &found[0]
		c.endpoint.IAM = r.clusterIAM(ctx, spec, op, member.DBClusterIdentifier)
		c.signIn = rdsSignIn(c.engine, c.endpoint.IAM, enableCluster+strings.ToLower(aws.ToString(member.DBClusterIdentifier)))
	}
	return found, nil
}

func fromInstance(db *types.DBInstance) candidate {
	c := candidate{
		id: strings.ToLower(aws.ToString(db.DBInstanceIdentifier)), what: whatInstance,
		status: aws.ToString(db.DBInstanceStatus), engine: aws.ToString(db.Engine),
		start: "aws rds start-db-instance --db-instance-identifier " + strings.ToLower(aws.ToString(db.DBInstanceIdentifier)),
		tags:  rdsTags(db.TagList), groups: rdsGroups(db.VpcSecurityGroups),
	}
	c.signIn = rdsSignIn(c.engine, aws.ToBool(db.IAMDatabaseAuthenticationEnabled), enableInstance+c.id)
	if db.DBSubnetGroup != nil {
		c.network.VPC = aws.ToString(db.DBSubnetGroup.VpcId)
	}
	if db.Endpoint != nil {
		c.endpoint = Endpoint{
			Host: aws.ToString(db.Endpoint.Address), Port: int(aws.ToInt32(db.Endpoint.Port)),
			Database: aws.ToString(db.DBName), IAM: aws.ToBool(db.IAMDatabaseAuthenticationEnabled),
		}
	}
	return c
}

// clusterIAM reports whether an instance's cluster has IAM authentication, which overrides the instance's own flag. If AWS does
// not tell, it returns true, and the database decides.
func (r *Resolver) clusterIAM(ctx context.Context, spec Spec, op string, id *string) bool {
	found, err := r.clusters(ctx, spec, op, id)
	return err != nil || len(found) > 0 && found[0].endpoint.IAM
}

// clusters is instances for Aurora and Multi-AZ clusters.
func (r *Resolver) clusters(ctx context.Context, _ Spec, op string, id *string) ([]candidate, error) {
	var found []candidate
	err := pages(ctx, r.AWS.rds().clusters, &rds.DescribeDBClustersInput{DBClusterIdentifier: id},
		func(in *rds.DescribeDBClustersInput) **string { return &in.Marker },
		func(out *rds.DescribeDBClustersOutput) *string { return out.Marker },
		func(out *rds.DescribeDBClustersOutput) {
			for i := range out.DBClusters {
				found = append(found, fromCluster(&out.DBClusters[i]))
			}
		})
	if _, missing := errors.AsType[*types.DBClusterNotFoundFault](err); missing && id != nil {
		return nil, nil
	}
	if err != nil {
		return nil, fail.AWS(fail.Other, op, "rds:DescribeDBClusters", err)
	}
	return found, nil
}

func fromCluster(db *types.DBCluster) candidate {
	endpoint := Endpoint{
		Port: int(aws.ToInt32(db.Port)), Database: aws.ToString(db.DatabaseName),
		IAM: aws.ToBool(db.IAMDatabaseAuthenticationEnabled),
	}
	reader := endpoint
	endpoint.Host, reader.Host = aws.ToString(db.Endpoint), aws.ToString(db.ReaderEndpoint)
	id := strings.ToLower(aws.ToString(db.DBClusterIdentifier))
	return candidate{
		id: id, what: whatCluster,
		status: aws.ToString(db.Status), engine: aws.ToString(db.Engine),
		endpoint: endpoint, reader: reader, readers: true,
		start: "aws rds start-db-cluster --db-cluster-identifier " + id,
		tags:  rdsTags(db.TagList), groups: rdsGroups(db.VpcSecurityGroups),
		signIn: rdsSignIn(aws.ToString(db.Engine), endpoint.IAM, enableCluster+id),
	}
}

func rdsTags(list []types.Tag) map[string]string {
	return tagsOf(list, func(t types.Tag) (*string, *string) { return t.Key, t.Value })
}

func rdsGroups(list []types.VpcSecurityGroupMembership) []string {
	return texts(list, func(m types.VpcSecurityGroupMembership) *string { return m.VpcSecurityGroupId })
}

// The commands that turn IAM authentication on, up to the identifier.
const (
	enableInstance = "aws rds modify-db-instance --enable-iam-database-authentication --apply-immediately --db-instance-identifier "
	enableCluster  = "aws rds modify-db-cluster --enable-iam-database-authentication --apply-immediately --db-cluster-identifier "
)

// tokensOff is what it means where tokens could work and do not.
const tokensOff = "IAM authentication is off: bastion token does not work there, passwords do"

// rdsSignIn says what IAM has to do with a sign-in at an engine's database.
func rdsSignIn(engine string, on bool, enable string) SignIn {
	switch {
	case strings.HasPrefix(engine, "docdb"):
		return SignIn{Means: "IAM authentication: " + docDBSignIn}
	case strings.HasPrefix(engine, "neptune") && on:
		return SignIn{Means: "IAM authentication is on: Neptune takes signed requests alone"}
	case strings.HasPrefix(engine, "neptune"):
		return SignIn{Means: "IAM authentication is off: Neptune takes requests without a signature"}
	case hasNoTokens(engine):
		return SignIn{Means: "RDS has no IAM authentication for " + engine}
	case on:
		return SignIn{Means: "IAM authentication is on"}
	}
	return SignIn{Means: tokensOff, Enable: enable}
}
