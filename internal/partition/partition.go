// Package partition knows AWS's partitions: their regions and the forms of their names. The SDK resolves its own endpoints;
// this table is for names that the program itself reads and prints.
package partition

import (
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/internal/pattern"
)

// Partition is a part of AWS with its own accounts and names.
type Partition struct {
	ID        string // as in ARNs
	DNSSuffix string // for endpoints, databases, caches and registries
	CABundle  string // URL of RDS's CA bundle; empty: unknown

	prefix   string // of its regions' names
	rdsFirst bool   // RDS writes NAME.rds.REGION, not NAME.REGION.rds
	services string // prefix of ownServices' VPC endpoint services; empty: com.amazonaws
}

// partitions is in the order in which Of compares prefixes. The last one matches every other region, as in the SDK, so that a
// new region needs no release.
var partitions = []Partition{
	{
		ID: "aws-cn", DNSSuffix: "amazonaws.com.cn", prefix: "cn-", rdsFirst: true, services: "cn.com.amazonaws",
		CABundle: "https://rds-truststore.s3.cn-north-1.amazonaws.com.cn/global/global-bundle.pem",
	},
	{
		ID: "aws-us-gov", DNSSuffix: "amazonaws.com", prefix: "us-gov-",
		CABundle: "https://truststore.pki.us-gov-west-1.rds.amazonaws.com/global/global-bundle.pem",
	},
	{ID: "aws-eusc", DNSSuffix: "amazonaws.eu", prefix: "eusc-", services: "eu.amazonaws"},
	{ID: "aws-iso", DNSSuffix: "c2s.ic.gov", prefix: "us-iso-", rdsFirst: true, services: "gov.ic.c2s"},
	{ID: "aws-iso-b", DNSSuffix: "sc2s.sgov.gov", prefix: "us-isob-", rdsFirst: true, services: "gov.sgov.sc2s"},
	{ID: "aws-iso-e", DNSSuffix: "cloud.adc-e.uk", prefix: "eu-isoe-", rdsFirst: true, services: "uk.adc-e.cloud"},
	{ID: "aws-iso-f", DNSSuffix: "csp.hci.ic.gov", prefix: "us-isof-", rdsFirst: true, services: "gov.ic.hci.csp"},
	{
		ID: "aws", DNSSuffix: "amazonaws.com",
		CABundle: "https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem",
	},
}

// Of returns the partition of a region.
func Of(region string) Partition {
	region = strings.ToLower(region)
	i := slices.IndexFunc(partitions, func(p Partition) bool { return strings.HasPrefix(region, p.prefix) })
	return partitions[i]
}

// IsRegion reports whether a text has the form of a region's name, known or not.
func IsRegion(text string) bool { return regionShape().MatchString(text) }

// Endpoint returns the host of a service's regional endpoint.
func (p Partition) Endpoint(service, region string) string {
	return service + "." + region + "." + p.DNSSuffix
}

// ownServices are the services that the bastion's task needs and whose VPC endpoint services have their own prefix in some
// partitions. AWS publishes no rule. Source: the output of "aws ec2 describe-vpc-endpoint-services" there.
var ownServices = []string{"ecr.api", "ecr.dkr"}

// EndpointService returns the name of a service's VPC endpoint service, such as "com.amazonaws.REGION.SERVICE". It knows the
// services that the bastion's task needs. For S3 the name is the gateway endpoint's.
func (p Partition) EndpointService(service, region string) string {
	prefix := "com.amazonaws"
	if p.services != "" && slices.Contains(ownServices, service) {
		prefix = p.services
	}
	return prefix + "." + region + "." + service
}

// RDSName returns the host name of an RDS endpoint. name is its first labels.
func (p Partition) RDSName(name, region string) string {
	if p.rdsFirst {
		return name + "." + p.Endpoint("rds", region)
	}
	return name + "." + region + ".rds." + p.DNSSuffix
}

// GlobalRegion is RDSRegion's result for the writer endpoint of an Aurora global database, whose name lacks a region.
const GlobalRegion = "global"

var (
	regionShape = pattern.Lazy(`^[a-z]{2,4}(-[a-z]+)+-[0-9]+$`)
	labelShape  = pattern.Lazy(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
)

// RDSRegion returns the region in the host name of an RDS endpoint: an instance, a cluster, its readers, a custom endpoint or a
// proxy. The region and "rds" may stand in either order: older names in China and GovCloud differ from newer ones. It returns
// false for any other host, and if the region does not belong to the name's partition.
func RDSRegion(host string) (string, bool) {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	for _, p := range partitions {
		rest, ok := strings.CutSuffix(host, "."+p.DNSSuffix)
		if !ok {
			continue
		}
		labels := strings.Split(rest, ".")
		if len(labels) < 3 || slices.ContainsFunc(labels, func(l string) bool { return !labelShape().MatchString(l) }) {
			return "", false
		}
		name, region, service := labels[:len(labels)-2], labels[len(labels)-2], labels[len(labels)-1]
		if region == "rds" {
			region, service = service, region
		}
		switch {
		case service != "rds":
			return "", false
		case region == GlobalRegion:
			return region, strings.HasPrefix(name[len(name)-1], "global-")
		}
		return region, IsRegion(region) && Of(region).DNSSuffix == p.DNSSuffix
	}
	return "", false
}
