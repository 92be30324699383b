package lab

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// IdentityCenterConfig sets the times of the lab's IAM Identity Center. Zero values are AWS's defaults.
type IdentityCenterConfig struct {
	TokenLife  time.Duration // of an access token; 1h
	RoleLife   time.Duration // of a role's credentials; 1h
	DeviceLife time.Duration // of a device code; 10m
	ClientLife time.Duration // of a client's registration; 90 days
	Interval   int           // seconds between two questions for a device code's token; 1
	Rights     IdentityConfig
}

// The lab's user of Identity Center, with one role in each account.
const (
	SSOUser    = "ada@example.com"
	SSORole    = "developer"
	SSOProfile = "sso"        // a profile with sso_session
	SSOLegacy  = "sso-legacy" // a profile with the start URL in itself
	SSOSession = "lab"

	ssoStart  = "/start"
	ssoDevice = ssoStart + "/device"
)

// IdentityCenter is IAM Identity Center: its OIDC service (ssooidc), the portal (sso), and the pages that people see. None of its
// calls has a signature: the portal's have a token.
type IdentityCenter struct {
	region   string
	cfg      IdentityCenterConfig
	url      func() string
	now      func() time.Time
	accounts []*ssoAccount

	mu      sync.Mutex
	clients map[string]*ssoClient
	codes   map[string]*ssoGrant // by authorization code
	devices map[string]*ssoGrant // by device code
	tokens  map[string]*ssoToken // by access token
	renewal map[string]*ssoToken // by refresh token
	calls   map[string]int
	slow    int // further questions for a device code's token that get slow_down
}

// ssoAccount is an account in which the user has the role.
type ssoAccount struct {
	id               string
	profile, session string // in the AWS configuration
	region           string // of the profile
	life             time.Duration
	// issue makes credentials of the role.
	issue func(expires time.Time) (awsapi.Identity, error)
}

type ssoClient struct {
	id, secret        string
	expires           time.Time
	redirects, scopes []string
}

// ssoGrant is an authorization code, or a device code.
type ssoGrant struct {
	client               *ssoClient
	redirect, challenge  string // of a code
	user                 string // code of a device
	expires, asked       time.Time
	allowed, denied, old bool
}

type ssoToken struct {
	client  *ssoClient
	expires time.Time
	over    bool // the session has ended
}

func (c IdentityCenterConfig) withDefaults() IdentityCenterConfig {
	c.TokenLife, c.RoleLife = cmp.Or(c.TokenLife, time.Hour), cmp.Or(c.RoleLife, time.Hour)
	c.DeviceLife, c.ClientLife = cmp.Or(c.DeviceLife, 10*time.Minute), cmp.Or(c.ClientLife, 90*24*time.Hour)
	c.Interval = cmp.Or(c.Interval, 1)
	return c
}

// newIdentityCenter makes an Identity Center without accounts. url is the endpoint's.
func newIdentityCenter(region string, cfg IdentityCenterConfig, url func() string, now func() time.Time) *IdentityCenter {
	return &IdentityCenter{
		region: region, cfg: cfg.withDefaults(), url: url, now: now,
		clients: make(map[string]*ssoClient), codes: make(map[string]*ssoGrant), devices: make(map[string]*ssoGrant),
		tokens: make(map[string]*ssoToken), renewal: make(map[string]*ssoToken), calls: make(map[string]int),
	}
}

// addIdentityCenter makes the lab's Identity Center. The permissions must exist.
func (l *Lab) addIdentityCenter() error {
	if _, err := l.permissions.of(l.cfg.IdentityCenter.Rights); err != nil {
		return fmt.Errorf("the rights of the role %s: %w", SSORole, err)
	}
	c := newIdentityCenter(l.region, l.cfg.IdentityCenter, func() string { return l.url }, l.cfg.Now)
	c.accounts = []*ssoAccount{{
		id: l.account, profile: SSOProfile, session: SSOSession, region: l.region, life: c.cfg.RoleLife,
		issue: func(expires time.Time) (awsapi.Identity, error) {
			id := l.ssoIdentity(expires)
			return id, l.admit(id, c.cfg.Rights)
		},
	}}
	l.identityCenter = c
	return nil
}

// ssoIdentity makes credentials of the role in an account.
func (s site) ssoIdentity(expires time.Time) awsapi.Identity {
	return s.temporaryIdentity("AWSReservedSSO_"+SSORole+"_0123456789abcdef", SSOUser, expires)
}

// IdentityCenter returns the lab's IAM Identity Center.
func (l *Lab) IdentityCenter() *IdentityCenter { return l.identityCenter }

// StartURL returns the address of the access portal: sso_start_url.
func (c *IdentityCenter) StartURL() string { return c.url() + ssoStart }

// Calls returns how many calls came, by action ("sso-oauth:CreateToken").
func (c *IdentityCenter) Calls() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.calls)
}

// SlowDown makes the next n questions for a device code's token get slow_down.
func (c *IdentityCenter) SlowDown(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slow = n
}

// SetRoleLife sets the life of an account's further credentials.
func (c *IdentityCenter) SetRoleLife(account string, life time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.account(account); a != nil {
		a.life = life
	}
}

// account returns an account by its number; nil: the user has no role there.
func (c *IdentityCenter) account(id string) *ssoAccount {
	i := slices.IndexFunc(c.accounts, func(a *ssoAccount) bool { return a.id == id })
	if i < 0 {
		return nil
	}
	return c.accounts[i]
}

// EndSessions ends the user's sessions, as their maximum or an administrator does: tokens and refresh tokens are worth nothing.
func (c *IdentityCenter) EndSessions() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.tokens { // the refresh tokens share them
		t.over = true
	}
}

// EndSession ends the session of one access token. It fails for an unknown one.
func (c *IdentityCenter) EndSession(token string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.tokens[token]
	if t == nil {
		return errors.New("no session has the token")
	}
	t.over = true // the refresh token shares it
	return nil
}

// Token returns an access token of the user, for tests without a login.
func (c *IdentityCenter) Token() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	access, _ := c.newToken(&ssoClient{})
	return access
}

// ForgetClients removes the registrations.
func (c *IdentityCenter) ForgetClients() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.clients)
}

// Decide allows or denies a device, as its user does on the page. It fails for an unknown code.
func (c *IdentityCenter) Decide(userCode string, allow bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, g := range c.devices {
		if g.user == userCode && c.now().Before(g.expires) {
			g.allowed, g.denied = allow, !allow
			return nil
		}
	}
	return fmt.Errorf("no device has the code %q", userCode)
}

// register adds the handlers to mux.
func (c *IdentityCenter) register(mux *http.ServeMux) {
	call := func(pattern, action string, f func(*http.Request, *ssoInput) (any, *ssoError)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { c.answer(w, r, action, f) })
	}
	call("POST /client/register", "sso-oauth:RegisterClient", c.registerClient)
	call("POST /device_authorization", "sso-oauth:StartDeviceAuthorization", c.startDevice)
	call("POST /token", "sso-oauth:CreateToken", c.createToken)
	call("GET /federation/credentials", "sso:GetRoleCredentials", c.roleCredentials)
	call("GET /assignment/accounts", "sso:ListAccounts", c.listAccounts)
	call("GET /assignment/roles", "sso:ListAccountRoles", c.listRoles)
	call("POST /logout", "sso:Logout", c.logout)
	mux.HandleFunc("/authorize", c.authorizePage)
	mux.HandleFunc(ssoDevice, c.devicePage)
	mux.HandleFunc(ssoStart, func(w http.ResponseWriter, _ *http.Request) { ssoPage(w, http.StatusOK, "The lab's access portal", "") })
}

// ssoInput has the members of all inputs.
type ssoInput struct {
	ClientName, ClientType string
	Scopes, GrantTypes     []string
	RedirectUris           []string
	IssuerUrl              string
	ClientId, ClientSecret string
	StartUrl               string
	GrantType, DeviceCode  string
	Code, CodeVerifier     string
	RefreshToken           string
	RedirectUri            string
	AccountId, RoleName    string
	bearer                 string
}

// ssoError is an answer of the OIDC service, with OAuth's code, or of the portal, without one.
type ssoError struct {
	code   string // AWS's
	oauth  string
	text   string
	status int // 0: 400
}

func oidcError(code, oauth, text string) *ssoError {
	return &ssoError{code: code, oauth: oauth, text: text}
}

// answer decodes a call, and writes its result in the form of AWS's REST JSON.
func (c *IdentityCenter) answer(w http.ResponseWriter, r *http.Request, action string, f func(*http.Request, *ssoInput) (any, *ssoError)) {
	in := &ssoInput{bearer: r.Header.Get("X-Amz-Sso_bearer_token"), AccountId: r.URL.Query().Get("account_id"), RoleName: r.URL.Query().Get("role_name")}
	if r.Method == http.MethodPost && r.ContentLength != 0 {
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAdminBody)).Decode(in); err != nil {
			c.write(w, http.StatusBadRequest, "InvalidRequestException", map[string]string{"error": "invalid_request", "error_description": err.Error()})
			return
		}
	}
	c.mu.Lock()
	c.calls[action]++
	out, fault := f(r, in)
	c.mu.Unlock()
	if fault == nil {
		c.write(w, http.StatusOK, "", out)
		return
	}
	body := map[string]string{"message": fault.text}
	if fault.oauth != "" {
		body = map[string]string{"error": fault.oauth, "error_description": fault.text}
	}
	c.write(w, cmp.Or(fault.status, http.StatusBadRequest), fault.code, body)
}

func (c *IdentityCenter) write(w http.ResponseWriter, status int, errorType string, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Amzn-Requestid", seededUUID(randomHex(16)))
	if errorType != "" {
		w.Header().Set("X-Amzn-Errortype", errorType)
	}
	w.WriteHeader(status)
	_, _ = w.Write(text) // a client that has gone needs none
}

func (c *IdentityCenter) registerClient(_ *http.Request, in *ssoInput) (any, *ssoError) {
	if in.ClientName == "" || in.ClientType != "public" {
		return nil, oidcError("InvalidClientMetadataException", "invalid_client_metadata", "Invalid client name or type")
	}
	if slices.Contains(in.GrantTypes, "authorization_code") && (len(in.RedirectUris) == 0 || in.IssuerUrl != c.StartURL()) {
		return nil, oidcError("InvalidRequestException", "invalid_request", "An authorization code needs redirect URIs and the issuer's URL")
	}
	for _, uri := range in.RedirectUris {
		if u, err := url.Parse(uri); err != nil || u.Hostname() != "127.0.0.1" || u.Port() != "" {
			return nil, oidcError("InvalidRedirectUriException", "invalid_redirect_uri", "The redirect URI must be loopback, without a port")
		}
	}
	client := &ssoClient{
		id: "lab-client-" + randomHex(16), secret: "lab-secret-not-a-real-one-" + randomHex(24), expires: c.now().Add(c.cfg.ClientLife),
		redirects: in.RedirectUris, scopes: in.Scopes,
	}
	c.clients[client.id] = client
	return map[string]any{
		"clientId": client.id, "clientSecret": client.secret, "clientIdIssuedAt": c.now().Unix(), "clientSecretExpiresAt": client.expires.Unix(),
	}, nil
}

// client returns a registered client by its id and secret.
func (c *IdentityCenter) client(in *ssoInput) (*ssoClient, *ssoError) {
	client := c.clients[in.ClientId]
	if client == nil || client.secret != in.ClientSecret || !c.now().Before(client.expires) {
		return nil, &ssoError{code: "InvalidClientException", oauth: "invalid_client", text: "Invalid client", status: http.StatusUnauthorized}
	}
	return client, nil
}

func (c *IdentityCenter) startDevice(_ *http.Request, in *ssoInput) (any, *ssoError) {
	client, fault := c.client(in)
	if fault != nil {
		return nil, fault
	}
	if in.StartUrl != c.StartURL() {
		return nil, oidcError("InvalidRequestException", "invalid_request", "Invalid start url provided")
	}
	user := strings.ToUpper(randomHex(4) + "-" + randomHex(4))
	g := &ssoGrant{client: client, user: user, expires: c.now().Add(c.cfg.DeviceLife)}
	code := randomHex(32)
	c.devices[code] = g
	return map[string]any{
		"deviceCode": code, "userCode": user, "verificationUri": c.url() + ssoDevice,
		"verificationUriComplete": c.url() + ssoDevice + "?user_code=" + user,
		"expiresIn":               max(1, int(c.cfg.DeviceLife.Seconds())), "interval": c.cfg.Interval,
	}, nil
}

func (c *IdentityCenter) createToken(_ *http.Request, in *ssoInput) (any, *ssoError) {
	client, fault := c.client(in)
	if fault != nil {
		return nil, fault
	}
	switch in.GrantType {
	case "authorization_code":
		return c.byCode(client, in)
	case "urn:ietf:params:oauth:grant-type:device_code":
		return c.byDevice(client, in)
	case "refresh_token":
		t := c.renewal[in.RefreshToken]
		if t == nil || t.over || t.client != client || len(client.scopes) == 0 {
			return nil, oidcError("InvalidGrantException", "invalid_grant", "Invalid refresh token")
		}
		delete(c.renewal, in.RefreshToken) // a refresh token works once
		return c.issue(client), nil
	}
	return nil, oidcError("UnsupportedGrantTypeException", "unsupported_grant_type", "Unsupported grant type")
}

func (c *IdentityCenter) byCode(client *ssoClient, in *ssoInput) (any, *ssoError) {
	g := c.codes[in.Code]
	delete(c.codes, in.Code)
	sum := sha256.Sum256([]byte(in.CodeVerifier))
	if g == nil || g.client != client || g.redirect != in.RedirectUri || !c.now().Before(g.expires) || len(in.CodeVerifier) < 43 ||
		base64.RawURLEncoding.EncodeToString(sum[:]) != g.challenge {
		return nil, oidcError("InvalidGrantException", "invalid_grant", "Invalid authorization code or verifier")
	}
	return c.issue(client), nil
}

func (c *IdentityCenter) byDevice(client *ssoClient, in *ssoInput) (any, *ssoError) {
	g := c.devices[in.DeviceCode]
	if g == nil || g.client != client || g.old {
		return nil, oidcError("InvalidGrantException", "invalid_grant", "Invalid device code")
	}
	asked := g.asked
	g.asked = c.now()
	switch {
	case !c.now().Before(g.expires):
		return nil, oidcError("ExpiredTokenException", "expired_token", "Device code expired")
	case c.slow > 0:
		c.slow--
		return nil, oidcError("SlowDownException", "slow_down", "Slow down")
	case c.now().Sub(asked) < time.Duration(c.cfg.Interval)*time.Second*9/10:
		return nil, oidcError("SlowDownException", "slow_down", "Slow down")
	case g.denied:
		return nil, oidcError("AccessDeniedException", "access_denied", "Access denied")
	case !g.allowed:
		return nil, oidcError("AuthorizationPendingException", "authorization_pending", "Authorization pending")
	}
	g.old = true
	return c.issue(client), nil
}

// newToken makes an access token.
func (c *IdentityCenter) newToken(client *ssoClient) (access string, t *ssoToken) {
	access, t = "lab-sso-token-"+randomHex(48), &ssoToken{client: client, expires: c.now().Add(c.cfg.TokenLife)}
	c.tokens[access] = t
	return access, t
}

// issue answers a client with a token. Only clients with scopes get a refresh token.
func (c *IdentityCenter) issue(client *ssoClient) map[string]any {
	access, t := c.newToken(client)
	out := map[string]any{"accessToken": access, "tokenType": "Bearer", "expiresIn": max(1, int(c.cfg.TokenLife.Seconds()))}
	if len(client.scopes) > 0 {
		refresh := "lab-sso-refresh-" + randomHex(48)
		c.renewal[refresh] = t
		out["refreshToken"] = refresh
	}
	return out
}

// user returns an error unless the bearer has a valid token.
func (c *IdentityCenter) user(in *ssoInput) *ssoError {
	t := c.tokens[in.bearer]
	if t == nil || t.over || !c.now().Before(t.expires) || len(t.client.scopes) > 0 && !slices.Contains(t.client.scopes, "sso:account:access") {
		return &ssoError{code: "UnauthorizedException", text: "Session token not found or invalid", status: http.StatusUnauthorized}
	}
	return nil
}

func (c *IdentityCenter) roleCredentials(_ *http.Request, in *ssoInput) (any, *ssoError) {
	if fault := c.user(in); fault != nil {
		return nil, fault
	}
	account := c.account(in.AccountId)
	if account == nil || in.RoleName != SSORole {
		return nil, &ssoError{code: "ForbiddenException", text: "No access", status: http.StatusForbidden}
	}
	id, err := account.issue(c.now().Add(account.life))
	if err != nil {
		return nil, &ssoError{code: "InternalServerException", text: err.Error(), status: http.StatusInternalServerError}
	}
	return map[string]any{"roleCredentials": map[string]any{
		"accessKeyId": id.AccessKey, "secretAccessKey": id.SecretKey, "sessionToken": id.SessionToken, "expiration": id.Expires.UnixMilli(),
	}}, nil
}

func (c *IdentityCenter) listAccounts(_ *http.Request, in *ssoInput) (any, *ssoError) {
	if fault := c.user(in); fault != nil {
		return nil, fault
	}
	list := []map[string]string{}
	for _, a := range c.accounts {
		list = append(list, map[string]string{"accountId": a.id, "accountName": "lab", "emailAddress": "lab@example.com"})
	}
	return map[string]any{"accountList": list}, nil
}

func (c *IdentityCenter) listRoles(_ *http.Request, in *ssoInput) (any, *ssoError) {
	if fault := c.user(in); fault != nil {
		return nil, fault
	}
	if c.account(in.AccountId) == nil {
		return nil, &ssoError{code: "ResourceNotFoundException", text: "No such account", status: http.StatusNotFound}
	}
	return map[string]any{"roleList": []map[string]string{{"accountId": in.AccountId, "roleName": SSORole}}}, nil
}

func (c *IdentityCenter) logout(_ *http.Request, in *ssoInput) (any, *ssoError) {
	if fault := c.user(in); fault != nil {
		return nil, fault
	}
	c.tokens[in.bearer].over = true // the refresh token shares it
	return struct{}{}, nil
}

// authorizePage is the page on which a user allows or denies a client.
func (c *IdentityCenter) authorizePage(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	c.mu.Lock()
	defer c.mu.Unlock()
	client := c.clients[q.Get("client_id")]
	redirect, err := url.Parse(q.Get("redirect_uri"))
	if client == nil || err != nil || !client.takes(redirect) || q.Get("response_type") != "code" ||
		q.Get("code_challenge_method") != "S256" || q.Get("code_challenge") == "" || q.Get("state") == "" ||
		!slices.Equal(strings.Fields(q.Get("scopes")), client.scopes) {
		ssoPage(w, http.StatusBadRequest, "Invalid request", "")
		return
	}
	if r.Method != http.MethodPost {
		ssoPage(w, http.StatusOK, "Allow access to your data?", decisionForm)
		return
	}
	back := redirect.Query()
	back.Set("state", q.Get("state"))
	if r.PostFormValue("decision") == "allow" {
		code := randomHex(32)
		c.codes[code] = &ssoGrant{client: client, redirect: q.Get("redirect_uri"), challenge: q.Get("code_challenge"), expires: c.now().Add(time.Minute)}
		back.Set("code", code)
	} else {
		back.Set("error", "access_denied")
		back.Set("error_description", "User denied access")
	}
	redirect.RawQuery = back.Encode()
	http.Redirect(w, r, redirect.String(), http.StatusSeeOther) //nolint:gosec // one of the client's own, on this machine
}

// takes reports whether a redirect is one of the client's, with any port.
func (c *ssoClient) takes(redirect *url.URL) bool {
	ip, err := netip.ParseAddr(redirect.Hostname())
	if err != nil || !ip.IsLoopback() || redirect.Port() == "" {
		return false
	}
	bare := *redirect
	bare.Host = redirect.Hostname()
	return slices.Contains(c.redirects, bare.String())
}

// devicePage is the page on which a user enters a device's code, and allows or denies it.
func (c *IdentityCenter) devicePage(w http.ResponseWriter, r *http.Request) {
	code := cmp.Or(r.FormValue("user_code"), r.URL.Query().Get("user_code"))
	switch {
	case code == "":
		ssoPage(w, http.StatusOK, "Enter the code", `<form><input name="user_code" id="user_code"><button id="next">Next</button></form>`)
	case r.Method != http.MethodPost:
		ssoPage(w, http.StatusOK, "Authorization requested", decisionForm)
	case c.Decide(code, r.PostFormValue("decision") == "allow") != nil:
		ssoPage(w, http.StatusBadRequest, "Invalid code", "")
	default:
		ssoPage(w, http.StatusOK, "Request answered", "")
	}
}

const decisionForm = `<form method="post"><button id="allow" name="decision" value="allow">Allow access</button>` +
	`<button id="deny" name="decision" value="deny">Deny access</button></form>`

// ssoPage writes a page with a fixed title and form.
func ssoPage(w http.ResponseWriter, status int, title, form string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "<!doctype html><title>%[1]s</title><h1>%[1]s</h1>%[2]s\n", title, form) // fixed texts
}

// profiles returns the sections of the AWS configuration for the user: a profile with a session for each account, and a legacy one for
// the first. A profile of an identity with the same name stays in their place.
func (c *IdentityCenter) profiles(taken []profile) string {
	var b strings.Builder
	isTaken := func(name string) bool {
		return slices.ContainsFunc(taken, func(p profile) bool { return p.name == name })
	}
	for _, a := range c.accounts {
		if isTaken(a.profile) {
			continue
		}
		fmt.Fprintf(&b, `
[profile %s]
region = %s
sso_session = %s
sso_account_id = %s
sso_role_name = %s

[sso-session %[3]s]
sso_region = %[6]s
sso_start_url = %[7]s
sso_registration_scopes = sso:account:access
`, a.profile, a.region, a.session, a.id, SSORole, c.region, c.StartURL())
	}
	if isTaken(SSOLegacy) {
		return b.String()
	}
	first := c.accounts[0]
	fmt.Fprintf(&b, `
[profile %s]
region = %s
sso_region = %s
sso_start_url = %s
sso_account_id = %s
sso_role_name = %s
`, SSOLegacy, first.region, c.region, c.StartURL(), first.id, SSORole)
	return b.String()
}
