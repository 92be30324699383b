package bastions

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// The tags of a bastion's task.
const (
	tagOwner   = "bastion:owner"
	tagVersion = "bastion:version"
)

var (
	errNoOwner = errors.New("the owner is not known")
	errNoTask  = errors.New("there is no such task")
)

// STSAPI is the part of the STS client that WhoAmI calls.
type STSAPI interface {
	GetCallerIdentity(context.Context, *sts.GetCallerIdentityInput, ...func(*sts.Options)) (
		*sts.GetCallerIdentityOutput, error)
}

// Owner is the AWS identity that a bastion belongs to.
type Owner struct {
	ARN       string // as STS says it
	StartedBy string // a task's startedBy
}

// NewOwner returns the Owner with the given ARN.
func NewOwner(arn string) Owner {
	sum := sha256.Sum256([]byte(arn))
	return Owner{ARN: arn, StartedBy: "bastion-" + hex.EncodeToString(sum[:12])}
}

// WhoAmI asks STS whose credentials these are.
func WhoAmI(ctx context.Context, api STSAPI) (Owner, error) {
	const op = "find out who you are"
	out, err := api.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return Owner{}, fail.AWS(fail.Credentials, op, "sts:GetCallerIdentity", err)
	}
	if aws.ToString(out.Arn) == "" {
		return Owner{}, fail.New(fail.Credentials, op, errors.New("STS named no ARN"), "check the AWS endpoint")
	}
	return NewOwner(*out.Arn), nil
}

// ownerTag returns the value of the tag bastion:owner: the ARN, or its hash where a tag cannot hold it (session names
// may have commas, paths may be long).
func ownerTag(arn string) string {
	bad := func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(" +-=._:/@", r))
	}
	if len(arn) <= 256 && !strings.ContainsFunc(arn, bad) {
		return arn
	}
	sum := sha256.Sum256([]byte(arn))
	return "sha256:" + hex.EncodeToString(sum[:])
}
