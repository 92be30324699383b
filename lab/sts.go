package lab

import (
	"cmp"
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// sts is the Security Token Service.
type sts struct {
	site
	now        func() time.Time
	identities *awsapi.Directory
	life       time.Duration               // of roles' credentials, whatever the caller asks for; 0: what it asks for
	admit      func(awsapi.Identity) error // lets a caller of a web identity in

	mu     sync.Mutex
	codes  map[string]bool      // MFA codes that were used
	tokens map[string]time.Time // expiry of web identity tokens
}

// MFARole is a role that a caller may assume only with a code of the MFA device MFADevice. The device takes each code of six digits
// once.
const MFARole = "with-mfa"

// MFADevice returns the serial number of the user's MFA device.
func (l *Lab) MFADevice() string { return l.iamARN("iam", "mfa/lab") }

// RoleARN returns the ARN of a role in the lab's account. It needs no making.
func (l *Lab) RoleARN(name string) string { return l.iamARN("iam", "role/"+name) }

// WebIdentityToken returns a token of the CI system that the account trusts. It gets a role's credentials until it expires.
func (l *Lab) WebIdentityToken(life time.Duration) string {
	token := "lab-web-identity." + randomHex(32) + "." + randomHex(16)
	l.sts.mu.Lock()
	defer l.sts.mu.Unlock()
	l.sts.tokens[token] = l.sts.now().Add(life)
	return token
}

func (s *sts) service() awsapi.Service {
	return awsapi.Service{
		Name: "sts", Protocol: awsapi.Query, Version: "2011-06-15", Namespace: "https://sts.amazonaws.com/doc/2011-06-15/",
		Ops: map[string]awsapi.Op{
			"GetCallerIdentity": {Handle: s.getCallerIdentity, Open: true},
			"AssumeRole":        {Handle: s.assumeRole, Resource: func(c *awsapi.Call) string { return c.Form.Get("RoleArn") }},

			"AssumeRoleWithWebIdentity": {Handle: s.assumeRoleWithWebIdentity, Open: true, Anonymous: true},
		},
	}
}

func (s *sts) getCallerIdentity(_ context.Context, c *awsapi.Call) (any, error) {
	type result struct{ Arn, UserId, Account string }
	return result{c.Identity.ARN, c.Identity.UserID, c.Identity.Account}, nil
}

// assumeRole returns temporary credentials for any role of the account. The role's session has the caller's own rights.
func (s *sts) assumeRole(_ context.Context, c *awsapi.Call) (any, error) {
	id, err := s.session(c)
	if err != nil {
		return nil, err
	}
	if strings.HasSuffix(c.Form.Get("RoleArn"), "/"+MFARole) {
		if err := s.checkMFA(c); err != nil {
			return nil, err
		}
	}
	id.Deny, id.Policies, id.Ledger = c.Identity.Deny, c.Identity.Policies, c.Identity.Ledger
	s.identities.Put(id)
	return assumedRole(id), nil
}

// checkMFA takes the code of a call.
func (s *sts) checkMFA(c *awsapi.Call) error {
	serial, code := c.Form.Get("SerialNumber"), c.Form.Get("TokenCode")
	if serial == "" || code == "" {
		return &awsapi.Error{Code: "AccessDenied", Status: http.StatusForbidden, Message: "User: " + c.Identity.ARN +
			" is not authorized to perform: sts:AssumeRole on resource: " + c.Form.Get("RoleArn")}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if serial != s.iamARN("iam", "mfa/lab") || len(code) != 6 || strings.Trim(code, "0123456789") != "" || s.codes[code] {
		return &awsapi.Error{
			Code: "AccessDenied", Status: http.StatusForbidden, Message: "MultiFactorAuthentication failed with invalid MFA one time pass code. ",
		}
	}
	s.codes[code] = true
	return nil
}

// assumeRoleWithWebIdentity returns temporary credentials for a token of the CI system.
func (s *sts) assumeRoleWithWebIdentity(_ context.Context, c *awsapi.Call) (any, error) {
	s.mu.Lock()
	expires, known := s.tokens[c.Form.Get("WebIdentityToken")]
	s.mu.Unlock()
	switch {
	case !known:
		return nil, awsapi.Errorf("InvalidIdentityToken", "No OpenIDConnect provider found in your account for this token")
	case !s.now().Before(expires):
		return nil, awsapi.Errorf("ExpiredTokenException", "Token expired: current date/time %d must be before the expiration date/time %d",
			s.now().Unix(), expires.Unix())
	}
	id, err := s.session(c)
	if err != nil {
		return nil, err
	}
	return assumedRole(id), s.admit(id)
}

// session makes the credentials of the role that a call names. They have no rights yet.
func (s *sts) session(c *awsapi.Call) (awsapi.Identity, error) {
	role, session := c.Form.Get("RoleArn"), c.Form.Get("RoleSessionName")
	name, ok := strings.CutPrefix(role, s.iamARN("iam", "role/"))
	if !ok || name == "" {
		return awsapi.Identity{}, awsapi.Errorf("ValidationError", "%s is invalid", role)
	}
	if len(session) < 2 || len(session) > 64 {
		return awsapi.Identity{}, awsapi.Errorf("ValidationError", "RoleSessionName must have length between 2 and 64")
	}
	life := time.Hour
	if v := c.Form.Get("DurationSeconds"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 900 || n > 43200 {
			return awsapi.Identity{}, awsapi.Errorf("ValidationError", "DurationSeconds must be between 900 and 43200")
		}
		life = time.Duration(n) * time.Second
	}
	return s.temporaryIdentity(lastOf(name), session, s.now().Add(cmp.Or(s.life, life))), nil
}

// assumedRole is the answer of the calls that assume a role.
func assumedRole(id awsapi.Identity) any {
	type credentials struct{ AccessKeyId, SecretAccessKey, SessionToken, Expiration string }
	type user struct{ AssumedRoleId, Arn string }
	type result struct {
		AssumedRoleUser user
		Credentials     credentials
	}
	return result{
		user{id.UserID, id.ARN},
		credentials{id.AccessKey, id.SecretKey, id.SessionToken, id.Expires.UTC().Format(time.RFC3339)},
	}
}

// temporaryIdentity makes the credentials of a role's session.
func (s site) temporaryIdentity(role, session string, expires time.Time) awsapi.Identity {
	return awsapi.Identity{
		Name: session, Account: s.account, ARN: s.iamARN("sts", "assumed-role/"+role+"/"+session),
		UserID:    "AROALABLABLABLABLABLA:" + session,
		AccessKey: "ASIA" + strings.ToUpper(randomHex(16)), SecretKey: labSecret(),
		SessionToken: "lab-token-not-a-real-one-" + randomHex(64), Expires: expires,
	}
}

// userIdentity makes the credentials of a user.
func (s site) userIdentity(name string) awsapi.Identity {
	return awsapi.Identity{
		Name: name, Account: s.account, ARN: s.iamARN("iam", "user/"+name), UserID: "AIDA" + strings.ToUpper(randomHex(17)),
		AccessKey: "AKIA" + strings.ToUpper(randomHex(16)), SecretKey: labSecret(),
	}
}

// labSecret returns a secret that names itself as fake, for whoever finds it.
func labSecret() string { return "lab-secret-not-a-real-key-" + randomHex(14) }
