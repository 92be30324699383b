package bastions

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

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
	ARN       string // from STS
	UserID    string // from STS: "AROA...:SESSION-NAME" for a role, "AIDA..." for a user
	StartedBy string // a task's startedBy
}

// NewOwner returns the Owner with the given ARN and user id.
func NewOwner(arn, userID string) Owner {
	sum := sha256.Sum256([]byte(arn))
	return Owner{ARN: arn, UserID: userID, StartedBy: "bastion-" + hex.EncodeToString(sum[:12])}
}

// WhoAmI asks STS for the credentials' identity.
func WhoAmI(ctx context.Context, api STSAPI) (Owner, error) {
	const op = "find out who you are"
	out, err := api.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return Owner{}, fail.AWS(fail.Credentials, op, "sts:GetCallerIdentity", err)
	}
	if aws.ToString(out.Arn) == "" || aws.ToString(out.UserId) == "" {
		return Owner{}, fail.New(fail.Credentials, op, errors.New("STS named no ARN and user id"), "check the AWS endpoint")
	}
	return NewOwner(*out.Arn, *out.UserId), nil
}

// maxTagValue is the longest tag value in ECS, in characters.
const maxTagValue = 256

// refusedInTags reports whether ECS refuses the character in tags.
func refusedInTags(r rune) bool {
	return !unicode.IsLetter(r) && !unicode.IsNumber(r) && r != ' ' && !strings.ContainsRune("+-=._:/@", r)
}

// versionTag returns the value of the tag bastion:version: a version such as "(devel)" without the characters that tags cannot
// have.
func versionTag(version string) string {
	return strings.Map(func(r rune) rune {
		if refusedInTags(r) {
			return -1
		}
		return r
	}, version)
}

// tag returns the value of the tag bastion:owner. IAM compares it with aws:userid, so it must be the exact user id. A user id
// that a tag cannot have is an error.
func (o Owner) tag() (string, error) {
	if o.UserID == "" || o.ARN == "" || o.StartedBy == "" {
		return "", errNoOwner
	}
	const next = "sign in with a session name of letters, digits and +-=._@ (role_session_name in the profile, or your " +
		"identity provider's attribute for it)"
	op := fmt.Sprintf("mark tasks as those of %q", o.UserID)
	if i := strings.IndexFunc(o.UserID, refusedInTags); i >= 0 {
		r, _ := utf8.DecodeRuneInString(o.UserID[i:])
		return "", fail.New(fail.Usage, op, fmt.Errorf("the session name has the character %q, which ECS takes in no tag", r), next)
	}
	if utf8.RuneCountInString(o.UserID) > maxTagValue {
		return "", fail.New(fail.Usage, op, fmt.Errorf("it is longer than a tag's %d characters", maxTagValue), next)
	}
	return o.UserID, nil
}
