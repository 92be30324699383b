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

// database resolves an RDS target. An instance goes before a cluster of the same identifier, unless a role is asked
// for.
func (r *Resolver) database(ctx context.Context, spec Spec) (Endpoint, error) {
	if r.RDS == nil {
		return Endpoint{}, noClient(spec)
	}
	if spec.ID == "" {
		all, err := r.databases(ctx, spec)
		if err != nil {
			return Endpoint{}, err
		}
		return r.choose(spec, all)
	}
	lookups := []func(context.Context, Spec, *string) ([]candidate, error){r.instances, r.clusters}
	if spec.Role != Anyone {
		slices.Reverse(lookups)
	}
	for _, lookup := range lookups {
		found, err := lookup(ctx, spec, &spec.ID)
		if err != nil {
			return Endpoint{}, err
		}
		if len(found) > 0 {
			return found[0].pick(spec)
		}
	}
	all, err := r.databases(ctx, spec)
	if err != nil {
		return Endpoint{}, err
	}
	return Endpoint{}, r.unknown(spec, all)
}

// databases returns the clusters and the instances that belong to none. For a bare "rds" it leaves out DocumentDB and
// Neptune, which share RDS's API.
func (r *Resolver) databases(ctx context.Context, spec Spec) ([]candidate, error) {
	clusters, err := r.clusters(ctx, spec, nil)
	if err != nil {
		return nil, err
	}
	instances, err := r.instances(ctx, spec, nil)
	if err != nil {
		return nil, err
	}
	all := slices.Concat(clusters, instances)
	if spec.ID != "" {
		return all, nil
	}
	return filter(all, func(c candidate) bool { return c.engine != "docdb" && c.engine != "neptune" }), nil
}

// instances returns the instance with the given identifier, none if there is no such, or all that are in no cluster if
// id is nil.
func (r *Resolver) instances(ctx context.Context, spec Spec, id *string) ([]candidate, error) {
	var found []candidate
	pages := rds.NewDescribeDBInstancesPaginator(r.RDS, &rds.DescribeDBInstancesInput{DBInstanceIdentifier: id})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		var missing *types.DBInstanceNotFoundFault
		if id != nil && errors.As(err, &missing) {
			return nil, nil
		}
		if err != nil {
			return nil, fail.AWS(fail.Other, "look up target "+spec.String(), "rds:DescribeDBInstances", err)
		}
		for _, db := range page.DBInstances {
			if id == nil && db.DBClusterIdentifier != nil {
				continue
			}
			c := candidate{
				id: strings.ToLower(aws.ToString(db.DBInstanceIdentifier)), what: "RDS instance",
				status: aws.ToString(db.DBInstanceStatus), engine: aws.ToString(db.Engine),
			}
			if db.Endpoint != nil {
				c.endpoint = Endpoint{
					Host: aws.ToString(db.Endpoint.Address), Port: int(aws.ToInt32(db.Endpoint.Port)),
					Database: aws.ToString(db.DBName), IAM: aws.ToBool(db.IAMDatabaseAuthenticationEnabled),
				}
			}
			found = append(found, c)
		}
	}
	return found, nil
}

// clusters is instances for Aurora and Multi-AZ clusters.
func (r *Resolver) clusters(ctx context.Context, spec Spec, id *string) ([]candidate, error) {
	var found []candidate
	pages := rds.NewDescribeDBClustersPaginator(r.RDS, &rds.DescribeDBClustersInput{DBClusterIdentifier: id})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		var missing *types.DBClusterNotFoundFault
		if id != nil && errors.As(err, &missing) {
			return nil, nil
		}
		if err != nil {
			return nil, fail.AWS(fail.Other, "look up target "+spec.String(), "rds:DescribeDBClusters", err)
		}
		for _, db := range page.DBClusters {
			endpoint := Endpoint{
				Port: int(aws.ToInt32(db.Port)), Database: aws.ToString(db.DatabaseName),
				IAM: aws.ToBool(db.IAMDatabaseAuthenticationEnabled),
			}
			reader := endpoint
			endpoint.Host, reader.Host = aws.ToString(db.Endpoint), aws.ToString(db.ReaderEndpoint)
			found = append(found, candidate{
				id: strings.ToLower(aws.ToString(db.DBClusterIdentifier)), what: "RDS cluster",
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
