package lab

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"

	"github.com/bastion-ssm/bastion/internal/partition"
)

// The lab's account, and its default region. Both are made up.
const (
	Account = "000000000000"
	Region  = "eu-central-1"
)

// site is the location of a lab: its account, and its region, whose partition is in ARNs and names.
type site struct{ region, account string }

func (s site) partition() partition.Partition { return partition.Of(s.region) }

// arn returns an ARN in the lab's account and region.
func (s site) arn(service, resource string) string {
	return fmt.Sprintf("arn:%s:%s:%s:%s:%s", s.partition().ID, service, s.region, s.account, resource)
}

// iamARN returns an ARN of a service without regions.
func (s site) iamARN(service, resource string) string {
	return fmt.Sprintf("arn:%s:%s::%s:%s", s.partition().ID, service, s.account, resource)
}

// dbHost returns the name of an RDS endpoint: an instance's by its id, a cluster's with "cluster-" before the account's zone.
func (s site) dbHost(id, kind string) string {
	return s.partition().RDSName(id+"."+kind+labZone, s.region)
}

// cacheHost returns the name of an ElastiCache endpoint with the given first labels.
func (s site) cacheHost(name string) string {
	return name + "." + s.shortRegion() + ".cache." + s.partition().DNSSuffix
}

// zone returns an availability zone of the region.
func (s site) zone(letter rune) string { return s.region + string(letter) }

// shortRegion returns the region as in ElastiCache's names: euc1.
func (s site) shortRegion() string {
	switch s.region {
	case "cn-northwest-1":
		return "cnw1"
	case "us-gov-east-1":
		return "uge1"
	case "us-gov-west-1":
		return "ugw1"
	}
	return strings.NewReplacer("north", "n", "south", "s", "east", "e", "west", "w", "central", "c", "-", "").Replace(s.region)
}

// lastOf returns the text after the last slash: the name or id in an ARN, or all of a bare name.
func lastOf(ref string) string { return ref[strings.LastIndexByte(ref, '/')+1:] }

// randomHex returns n random hexadecimal digits.
func randomHex(n int) string {
	b := make([]byte, (n+1)/2)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)[:n]
}

// randomDigits returns n random decimal digits.
func randomDigits(n int) string {
	limit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil)
	v, err := rand.Int(rand.Reader, limit)
	if err != nil { // crypto/rand does not fail
		v = new(big.Int)
	}
	return fmt.Sprintf("%0*d", n, v)
}
