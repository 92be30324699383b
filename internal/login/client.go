package login

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssooidc"

	"github.com/bastion-ssm/bastion/internal/awssdk"
)

// The kinds of grants, as Identity Center's OIDC service names them.
const (
	grantCode    = "authorization_code"
	grantRefresh = "refresh_token"
	grantDevice  = "urn:ietf:params:oauth:grant-type:device_code"
)

// defaultScope lets the token get credentials for accounts. A session's sso_registration_scopes replace it.
const defaultScope = "sso:account:access"

const (
	// redirectURI is registered without a port; the listener's port is added for each login (RFC 8252, section 7.3).
	redirectURI  = "http://127.0.0.1" + callbackPath
	callbackPath = "/oauth/callback"
)

// client makes the calls to Identity Center's OIDC service. They carry no signature.
type client struct {
	oidc    *ssooidc.Client
	session awssdk.SSOSession
	now     func() time.Time
}

func newClient(cfg aws.Config, session awssdk.SSOSession, now func() time.Time) *client {
	return &client{oidc: ssooidc.NewFromConfig(cfg), session: session, now: now}
}

// scopes returns the scopes of the session's tokens.
func (c *client) scopes() []string {
	if len(c.session.Scopes) > 0 {
		return c.session.Scopes
	}
	return []string{defaultScope}
}

// grants returns the kinds of grants that a way's client is registered for.
func grants(device bool) []string {
	if device {
		return []string{grantDevice, grantRefresh}
	}
	return []string{grantCode, grantRefresh}
}

// registered is a registration in the cache, in the form of the AWS CLI's.
type registered struct {
	ClientID     string   `json:"clientId"`
	ClientSecret string   `json:"clientSecret"`
	ExpiresAt    string   `json:"expiresAt"`
	Scopes       []string `json:"scopes,omitempty"`
	GrantTypes   []string `json:"grantTypes,omitempty"`
}

// registrationFile returns the path of the cached registration. Other tools have their own, because a client's redirects and scopes
// are part of it.
func (c *client) registrationFile(device bool) (string, error) {
	key, err := json.Marshal([]any{"bastion", c.session.Name, c.session.StartURL, c.session.Region, c.scopes(), grants(device)})
	if err != nil {
		return "", err
	}
	return cacheFile(c.session, string(key))
}

// register returns this program's registration: the cached one until it expires, otherwise a new one.
func (c *client) register(ctx context.Context, device bool) (Registration, error) {
	path, err := c.registrationFile(device)
	if err != nil {
		return Registration{}, err
	}
	var known registered
	if err := readCache(path, &known); err != nil {
		return Registration{}, err
	}
	out := Registration{ID: known.ClientID, Secret: known.ClientSecret, ExpiresAt: parseTime(known.ExpiresAt)}
	if out.ID != "" && c.now().Add(registrationSoon).Before(out.ExpiresAt) {
		return out, nil
	}
	in := &ssooidc.RegisterClientInput{
		ClientName: aws.String("bastion-" + c.now().UTC().Format("20060102")), ClientType: aws.String("public"), Scopes: c.scopes(),
		GrantTypes: grants(device),
	}
	if c.session.Name == "" { // a legacy profile's token has neither scopes nor a renewal
		in.Scopes, in.GrantTypes = nil, nil
	}
	if !device {
		in.RedirectUris, in.IssuerUrl = []string{redirectURI}, aws.String(c.session.StartURL)
	}
	made, err := c.oidc.RegisterClient(ctx, in)
	if err != nil {
		return Registration{}, err
	}
	out = Registration{
		ID: aws.ToString(made.ClientId), Secret: aws.ToString(made.ClientSecret),
		ExpiresAt: time.Unix(made.ClientSecretExpiresAt, 0),
	}
	return out, writeCache(path, registered{out.ID, out.Secret, formatTime(out.ExpiresAt), in.Scopes, in.GrantTypes})
}

// registrationSoon is how long before its expiry a registration no longer begins a login: the login takes time.
const registrationSoon = time.Hour

// forgetRegistration removes the cached registration, which Identity Center no longer knows.
func (c *client) forgetRegistration(device bool) error {
	path, err := c.registrationFile(device)
	if err != nil {
		return err
	}
	return writeCache(path, registered{})
}

// token makes the token of an answer. Identity Center may leave out the refresh token, if the old one stays.
func (c *client) token(by Registration, old Token, made *ssooidc.CreateTokenOutput) (Token, error) {
	if aws.ToString(made.AccessToken) == "" || made.ExpiresIn <= 0 {
		return Token{}, errors.New("the answer has no token, or one that has expired")
	}
	t := Token{
		AccessToken: *made.AccessToken, ExpiresAt: c.now().Add(time.Duration(made.ExpiresIn) * time.Second),
		RefreshToken: aws.ToString(made.RefreshToken), Client: by, StartURL: c.session.StartURL, Region: c.session.Region, rest: old.rest,
	}
	if t.RefreshToken == "" {
		t.RefreshToken = old.RefreshToken
	}
	return t, nil
}

// renew renews a token without the user.
func (c *client) renew(ctx context.Context, old Token) (Token, error) {
	made, err := c.oidc.CreateToken(ctx, &ssooidc.CreateTokenInput{
		ClientId: &old.Client.ID, ClientSecret: &old.Client.Secret, GrantType: aws.String(grantRefresh), RefreshToken: &old.RefreshToken,
	})
	if err != nil {
		return Token{}, err
	}
	return c.token(old.Client, old, made)
}

// authorizeURL returns the address of the page for an authorization code, without its query. No call of the SDK leads there.
func (c *client) authorizeURL(ctx context.Context) (*url.URL, error) {
	o := c.oidc.Options()
	found, err := o.EndpointResolverV2.ResolveEndpoint(ctx, ssooidc.EndpointParameters{
		Region: aws.String(o.Region), Endpoint: o.BaseEndpoint,
		UseDualStack: aws.Bool(o.EndpointOptions.UseDualStackEndpoint == aws.DualStackEndpointStateEnabled),
		UseFIPS:      aws.Bool(o.EndpointOptions.UseFIPSEndpoint == aws.FIPSEndpointStateEnabled),
	})
	if err != nil {
		return nil, err
	}
	return found.URI.JoinPath("authorize"), nil
}
