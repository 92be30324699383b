package targets

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	"github.com/aws/aws-sdk-go-v2/service/rds/types"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// database resolves an RDS target. An instance has precedence over a cluster with the same identifier, unless the Spec has a
// role.
func (r *Resolver) database(ctx context.Context, spec Spec) (Endpoint, error) {
	if r.RDS == nil {
		return Endpoint{}, noClient(spec)
	}
	parts := r.databaseParts()
	if spec.ID != "" && spec.Role == Anyone {
		slices.Reverse(parts)
	}
	// DocumentDB and Neptune share RDS's API. A bare "rds" excludes them.
	return r.resolve(ctx, spec, parts, func(c candidate) bool { return c.engine != "docdb" && c.engine != "neptune" })
}

// databaseParts returns the calls that find clusters, and instances outside clusters.
func (r *Resolver) databaseParts() []part {
	return []part{{"RDS clusters", r.clusters}, {"RDS instances", r.instances}}
}

// instances returns the instance with the given identifier, or none if it does not exist. If id is nil, it returns all
// instances outside clusters.
func (r *Resolver) instances(ctx context.Context, spec Spec, op string, id *string) ([]candidate, error) {
	var found []candidate
	pages := rds.NewDescribeDBInstancesPaginator(r.RDS, &rds.DescribeDBInstancesInput{DBInstanceIdentifier: id})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if _, missing := errors.AsType[*types.DBInstanceNotFoundFault](err); missing && id != nil {
			return nil, nil
		}
		if err != nil {
			return nil, fail.AWS(fail.Other, op, "rds:DescribeDBInstances", err)
		}
		for _, db := range page.DBInstances {
			if id == nil && db.DBClusterIdentifier != nil {
				continue
			}
			c := candidate{
				id: strings.ToLower(aws.ToString(db.DBInstanceIdentifier)), what: whatInstance,
				status: aws.ToString(db.DBInstanceStatus), engine: aws.ToString(db.Engine),
			}
			if db.Endpoint != nil {
				c.endpoint = Endpoint{
					Host: aws.ToString(db.Endpoint.Address), Port: int(aws.ToInt32(db.Endpoint.Port)),
					Database: aws.ToString(db.DBName), IAM: aws.ToBool(db.IAMDatabaseAuthenticationEnabled),
				}
			}
			if id != nil && db.DBClusterIdentifier != nil && !c.endpoint.IAM {
				c.endpoint.IAM = r.clusterIAM(ctx, spec, op, db.DBClusterIdentifier)
			}
			found = append(found, c)
		}
	}
	return found, nil
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
	pages := rds.NewDescribeDBClustersPaginator(r.RDS, &rds.DescribeDBClustersInput{DBClusterIdentifier: id})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if _, missing := errors.AsType[*types.DBClusterNotFoundFault](err); missing && id != nil {
			return nil, nil
		}
		if err != nil {
			return nil, fail.AWS(fail.Other, op, "rds:DescribeDBClusters", err)
		}
		for _, db := range page.DBClusters {
			endpoint := Endpoint{
				Port: int(aws.ToInt32(db.Port)), Database: aws.ToString(db.DatabaseName),
				IAM: aws.ToBool(db.IAMDatabaseAuthenticationEnabled),
			}
			reader := endpoint
			endpoint.Host, reader.Host = aws.ToString(db.Endpoint), aws.ToString(db.ReaderEndpoint)
			found = append(found, candidate{
				id: strings.ToLower(aws.ToString(db.DBClusterIdentifier)), what: whatCluster,
				status: aws.ToString(db.Status), engine: aws.ToString(db.Engine),
				endpoint: endpoint, reader: reader, readers: true,
			})
		}
	}
	return found, nil
}

func noClient(spec Spec) error {
	return fail.New(fail.Usage, "target "+spec.String(), errors.New("needs AWS, which is not set up"),
		"set --profile and --region, or name a host: HOST:PORT")
}
