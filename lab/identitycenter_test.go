package lab_test

import (
	"errors"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sso"
	ssotypes "github.com/aws/aws-sdk-go-v2/service/sso/types"
	"github.com/aws/aws-sdk-go-v2/service/ssooidc"
	"github.com/aws/aws-sdk-go-v2/service/ssooidc/types"

	"github.com/bastion-ssm/bastion/lab"
)

// The SDK reads each answer of Identity Center, and each error as its own type.
func TestIdentityCenter(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	url := l.URL()
	cfg := aws.Config{Region: l.Region(), BaseEndpoint: &url, Credentials: aws.AnonymousCredentials{}}
	oidc, portal := ssooidc.NewFromConfig(cfg), sso.NewFromConfig(cfg)
	ctx := t.Context()
	client, err := oidc.RegisterClient(ctx, &ssooidc.RegisterClientInput{
		ClientName: aws.String("x"), ClientType: aws.String("public"), Scopes: []string{"sso:account:access"},
	})
	if err != nil || *client.ClientId == "" || client.ClientSecretExpiresAt == 0 {
		t.Fatalf("%+v, %v", client, err)
	}
	start := l.IdentityCenter().StartURL()
	device, err := oidc.StartDeviceAuthorization(ctx, &ssooidc.StartDeviceAuthorizationInput{
		ClientId: client.ClientId, ClientSecret: client.ClientSecret, StartUrl: &start,
	})
	if err != nil || *device.UserCode == "" || device.Interval != 1 || device.ExpiresIn != 600 {
		t.Fatalf("%+v, %v", device, err)
	}
	ask := func(grant, secret string) (*ssooidc.CreateTokenOutput, error) {
		return oidc.CreateToken(ctx, &ssooidc.CreateTokenInput{
			ClientId: client.ClientId, ClientSecret: &secret, GrantType: &grant, DeviceCode: device.DeviceCode, RefreshToken: aws.String("x"),
			Code: aws.String("x"), CodeVerifier: aws.String("x"), RedirectUri: aws.String("http://127.0.0.1:1/"),
		})
	}
	const deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"
	for _, tt := range []struct {
		grant, secret string
		want          error
	}{
		{deviceGrant, "x", &types.InvalidClientException{}},
		{"password", *client.ClientSecret, &types.UnsupportedGrantTypeException{}},
		{"refresh_token", *client.ClientSecret, &types.InvalidGrantException{}},
		{"authorization_code", *client.ClientSecret, &types.InvalidGrantException{}},
		{deviceGrant, *client.ClientSecret, &types.AuthorizationPendingException{}},
		{deviceGrant, *client.ClientSecret, &types.SlowDownException{}}, // it comes at once
	} {
		_, err := ask(tt.grant, tt.secret)
		var got, want interface{ ErrorCode() string }
		if !errors.As(err, &got) || !errors.As(tt.want, &want) || got.ErrorCode() != want.ErrorCode() {
			t.Errorf("%s: %v, want %T", tt.grant, err, tt.want)
		}
	}
	_, err = portal.GetRoleCredentials(ctx, &sso.GetRoleCredentialsInput{
		AccessToken: aws.String("x"), AccountId: aws.String(lab.Account), RoleName: aws.String(lab.SSORole),
	})
	if !errors.As(err, new(*ssotypes.UnauthorizedException)) {
		t.Error(err)
	}
	token := l.IdentityCenter().Token()
	roles, err := portal.ListAccountRoles(ctx, &sso.ListAccountRolesInput{AccessToken: &token, AccountId: aws.String(lab.Account)})
	if err != nil || len(roles.RoleList) != 1 || *roles.RoleList[0].RoleName != lab.SSORole {
		t.Errorf("%+v, %v", roles, err)
	}
	accounts, err := portal.ListAccounts(ctx, &sso.ListAccountsInput{AccessToken: &token})
	if err != nil || len(accounts.AccountList) != 1 || *accounts.AccountList[0].AccountId != lab.Account {
		t.Errorf("%+v, %v", accounts, err)
	}
	got, err := portal.GetRoleCredentials(ctx, &sso.GetRoleCredentialsInput{
		AccessToken: &token, AccountId: aws.String(lab.Account), RoleName: aws.String(lab.SSORole),
	})
	if err != nil || *got.RoleCredentials.SessionToken == "" || got.RoleCredentials.Expiration == 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := portal.Logout(ctx, &sso.LogoutInput{AccessToken: &token}); err != nil {
		t.Error(err)
	}
	if _, err := portal.ListAccounts(ctx, &sso.ListAccountsInput{AccessToken: &token}); err == nil {
		t.Error("the token works after the logout")
	}
}
