package lab

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"
)

// The lab's account. Nothing of it exists.
const (
	Account = "000000000000"
	Region  = "eu-central-1"
)

// arn returns an ARN in the lab's account and region.
func arn(service, resource string) string {
	return fmt.Sprintf("arn:aws:%s:%s:%s:%s", service, Region, Account, resource)
}

// iamARN returns an ARN of a service without regions.
func iamARN(service, resource string) string {
	return fmt.Sprintf("arn:aws:%s::%s:%s", service, Account, resource)
}

// lastOf returns what follows the last slash: the name or id in an ARN, or the whole of a bare name.
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
