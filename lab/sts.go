package lab

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// sts is the Security Token Service.
type sts struct {
	site
	now        func() time.Time
	identities *awsapi.Directory
}

func (s *sts) service() awsapi.Service {
	return awsapi.Service{
		Name: "sts", Protocol: awsapi.Query, Version: "2011-06-15", Namespace: "https://sts.amazonaws.com/doc/2011-06-15/",
		Ops: map[string]awsapi.Op{
			"GetCallerIdentity": {Handle: s.getCallerIdentity, Open: true},
			"AssumeRole":        {Handle: s.assumeRole, Resource: func(c *awsapi.Call) string { return c.Form.Get("RoleArn") }},
		},
	}
}

func (s *sts) getCallerIdentity(_ context.Context, c *awsapi.Call) (any, error) {
	type result struct{ Arn, UserId, Account string }
	return result{c.Identity.ARN, c.Identity.UserID, c.Identity.Account}, nil
}

// assumeRole returns temporary credentials for any role of the account. The role's session has the caller's own rights.
func (s *sts) assumeRole(_ context.Context, c *awsapi.Call) (any, error) {
	role, session := c.Form.Get("RoleArn"), c.Form.Get("RoleSessionName")
	name, ok := strings.CutPrefix(role, s.iamARN("iam", "role/"))
	if !ok || name == "" {
		return nil, awsapi.Errorf("ValidationError", "%s is invalid", role)
	}
	if len(session) < 2 || len(session) > 64 {
		return nil, awsapi.Errorf("ValidationError", "RoleSessionName must have length between 2 and 64")
	}
	seconds := 3600
	if v := c.Form.Get("DurationSeconds"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 900 || n > 43200 {
			return nil, awsapi.Errorf("ValidationError", "DurationSeconds must be between 900 and 43200")
		}
		seconds = n
	}
	id := s.temporaryIdentity(lastOf(name), session, s.now().Add(time.Duration(seconds)*time.Second))
	id.Deny, id.Policies, id.Ledger = c.Identity.Deny, c.Identity.Policies, c.Identity.Ledger
	s.identities.Put(id)

	type credentials struct{ AccessKeyId, SecretAccessKey, SessionToken, Expiration string }
	type user struct{ AssumedRoleId, Arn string }
	type result struct {
		AssumedRoleUser user
		Credentials     credentials
	}
	return result{
		user{id.UserID, id.ARN},
		credentials{id.AccessKey, id.SecretKey, id.SessionToken, id.Expires.UTC().Format(time.RFC3339)},
	}, nil
}

// temporaryIdentity makes the credentials of a role's session.
func (s site) temporaryIdentity(role, session string, expires time.Time) awsapi.Identity {
	return awsapi.Identity{
		Name: session, Account: Account, ARN: s.iamARN("sts", "assumed-role/"+role+"/"+session),
		UserID:    "AROALABLABLABLABLABLA:" + session,
		AccessKey: "ASIA" + strings.ToUpper(randomHex(16)), SecretKey: labSecret(),
		SessionToken: "lab-token-not-a-real-one-" + randomHex(64), Expires: expires,
	}
}

// userIdentity makes the credentials of a user.
func (s site) userIdentity(name string) awsapi.Identity {
	return awsapi.Identity{
		Name: name, Account: Account, ARN: s.iamARN("iam", "user/"+name), UserID: "AIDA" + strings.ToUpper(randomHex(17)),
		AccessKey: "AKIA" + strings.ToUpper(randomHex(16)), SecretKey: labSecret(),
	}
}

// labSecret returns a secret that names itself as fake, for whoever finds it.
func labSecret() string { return "lab-secret-not-a-real-key-" + randomHex(14) }
