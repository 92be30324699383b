// Package partition knows the partitions of AWS: which regions belong to each, and how names look there. The SDK resolves its own
// endpoints; this table is for the names that the product reads and prints itself.
package partition

import (
	"regexp"
	"slices"
	"strings"
)

// Partition is a part of AWS with accounts and names of its own.
type Partition struct {
	ID        string // as in ARNs
	DNSSuffix string // of endpoints, databases, caches and registries
	CABundle  string // URL of the CA bundle of RDS; empty where none is known

	prefix   string // of the partition's regions
	rdsFirst bool   // RDS writes NAME.rds.REGION, not NAME.REGION.rds
	services string // begins the names of ownServices' VPC endpoint services; empty: as the others'
}

// partitions are in the order in which Of compares the prefixes. The last takes every other region, as the SDK does, so that a
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

// Endpoint returns the host of a service's regional endpoint.
func (p Partition) Endpoint(service, region string) string {
	return service + "." + region + "." + p.DNSSuffix
}

// ownServices are the services that the bastion's task needs and whose VPC endpoint services have another prefix in partitions with
// one. AWS publishes no rule: this is what "aws ec2 describe-vpc-endpoint-services" lists there.
var ownServices = []string{"ecr.api", "ecr.dkr"}

// EndpointService returns the name of a service's VPC endpoint service, such as "com.amazonaws.REGION.SERVICE". It knows the names of
// the services that the bastion's task needs; S3's is that of the gateway endpoint.
func (p Partition) EndpointService(service, region string) string {
	prefix := "com.amazonaws"
	if p.services != "" && slices.Contains(ownServices, service) {
		prefix = p.services
	}
	return prefix + "." + region + "." + service
}

// RDSName returns the name of an RDS endpoint whose first labels are given.
func (p Partition) RDSName(name, region string) string {
	if p.rdsFirst {
		return name + "." + p.Endpoint("rds", region)
	}
	return name + "." + region + ".rds." + p.DNSSuffix
}

// GlobalRegion is what RDSRegion returns for the writer endpoint of an Aurora global database, which names no region.
const GlobalRegion = "global"

var (
	regionShape = regexp.MustCompile(`^[a-z]{2,4}(-[a-z]+)+-[0-9]+$`)
	labelShape  = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
)

// RDSRegion returns the region in the name of an RDS endpoint: of an instance, a cluster, its readers, a custom endpoint, a proxy.
// The region and ".rds" stand in either order, since older names in China and GovCloud differ from the newer ones. Of any other
// host, and of one whose region is not in the partition that the name ends with, it returns false.
func RDSRegion(host string) (string, bool) {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	for _, p := range partitions {
		rest, ok := strings.CutSuffix(host, "."+p.DNSSuffix)
		if !ok {
			continue
		}
		labels := strings.Split(rest, ".")
		if len(labels) < 3 || slices.ContainsFunc(labels, func(l string) bool { return !labelShape.MatchString(l) }) {
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
		return region, regionShape.MatchString(region) && Of(region).DNSSuffix == p.DNSSuffix
	}
	return "", false
}
