package awssdk

import (
	"cmp"
	"context"
	"os"
	"strings"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/logincreds"
	"github.com/aws/aws-sdk-go-v2/credentials/ssocreds"
)

// OriginKind says where credentials come from.
type OriginKind uint8

// The kinds of origins.
const (
	OriginNone        OriginKind = iota // nothing names any: the instance's role, or none
	OriginVariables                     // AWS_ACCESS_KEY_ID and the variables beside it
	OriginKeys                          // keys in the profile
	OriginSSO                           // IAM Identity Center
	OriginLogin                         // aws login, the profile's login_session
	OriginProcess                       // the profile's credential_process
	OriginWebIdentity                   // a token in a file, for example of a CI system
	OriginContainer                     // the container's endpoint
	OriginSource                        // the profile's credential_source: Environment, Ec2InstanceMetadata or EcsContainer
)

// Origin is the start of a credential chain: the place where a user signs in.
type Origin struct {
	Kind    OriginKind
	Profile string // the profile at the end of the chain of source profiles; "": none
	Of      string // the profile in use, if it is another one: its role is assumed with Profile's credentials
	Config  string // the AWS configuration file

	SSO    SSOSession // for OriginSSO
	Detail string     // the program, the token's file, the variable or the source's name
	MFA    string     // the MFA device that a role of the chain needs; "": none
	Roles  []string   // the roles of the chain, the first to be assumed first
}

// SSOSession is a session of IAM Identity Center. Profiles with the same sso_session share it.
type SSOSession struct {
	Name      string // of the section [sso-session NAME]; "": a legacy profile, with the start URL in the profile itself
	StartURL  string
	Region    string
	AccountID string // of the profile
	RoleName  string
	Scopes    []string // sso_registration_scopes; empty: the default
}

// TokenFile returns the path of the session's token in AWS's cache.
func (s SSOSession) TokenFile() (string, error) { return ssocreds.StandardCachedTokenFilepath(s.key()) }

// key returns the key of the session's token in AWS's cache.
func (s SSOSession) key() string { return cmp.Or(s.Name, s.StartURL) }

// OriginOf returns the origin of the credentials that a profile, or else the variables, give. Its errors are those of Load.
func OriginOf(ctx context.Context, env *Env, profile string) (Origin, error) {
	o := Origin{Config: env.configFile()}
	if profile == "" && env.Credentials().HasKeys() {
		o.Kind = OriginVariables
		return o, nil
	}
	if token := os.Getenv(envWebIdentity); env == nil && profile == "" && token != "" {
		o.Kind, o.Detail = OriginWebIdentity, token
		o.Roles = append(o.Roles, os.Getenv(envRoleARN))
		return o, nil
	}
	chain, err := env.chain(ctx, profile)
	if err != nil {
		if isDefault(err, env.profile(profile)) {
			return env.surroundings(o), nil
		}
		return o, env.configError(err)
	}
	source := chain[len(chain)-1]
	o.Profile = source.Profile
	if len(chain) > 1 {
		o.Of = chain[0].Profile
	}
	for i := len(chain) - 1; i >= 0; i-- {
		if chain[i].RoleARN != "" {
			o.Roles = append(o.Roles, chain[i].RoleARN)
		}
		o.MFA = cmp.Or(o.MFA, chain[i].MFASerial)
	}
	return env.originOf(o, &source), nil
}

// originOf completes the origin of a chain that ends at source. The order is the SDK's.
func (e *Env) originOf(o Origin, source *awsconfig.SharedConfig) Origin {
	switch {
	case source.Credentials.HasKeys():
		o.Kind = OriginKeys
	case source.CredentialSource != "":
		o.Kind, o.Detail = OriginSource, source.CredentialSource
	case source.WebIdentityTokenFile != "":
		o.Kind, o.Detail = OriginWebIdentity, source.WebIdentityTokenFile
	case source.SSOSession != nil:
		o.Kind = OriginSSO
		o.SSO = SSOSession{
			Name: source.SSOSession.Name, StartURL: source.SSOSession.SSOStartURL, Region: source.SSOSession.SSORegion,
			Scopes: scopesOf(readConfig(e.configFile()), source.SSOSession.Name),
		}
	case source.SSOStartURL != "":
		o.Kind, o.SSO = OriginSSO, SSOSession{StartURL: source.SSOStartURL, Region: source.SSORegion}
	case source.LoginSession != "":
		o.Kind, o.Detail = OriginLogin, source.LoginSession
	case source.CredentialProcess != "":
		o.Kind, o.Detail = OriginProcess, source.CredentialProcess
	default:
		return e.surroundings(o)
	}
	o.SSO.AccountID, o.SSO.RoleName = source.SSOAccountID, source.SSORoleName
	return o
}

// surroundings completes the origin of credentials that no file has.
func (e *Env) surroundings(o Origin) Origin {
	if variable := e.containerVariable(); variable != "" {
		o.Kind, o.Detail = OriginContainer, variable
	}
	return o
}

// scopesOf returns the sso_registration_scopes of a section [sso-session NAME]; the SDK does not read them.
func scopesOf(config, session string) []string {
	in := false
	for line := range strings.Lines(config) {
		line = strings.TrimSpace(line)
		if anySection().MatchString(line) {
			header, _, _ := strings.Cut(strings.Trim(line, "[ \t"), "]")
			kind, name, _ := strings.Cut(strings.TrimSpace(header), " ")
			in = kind == "sso-session" && strings.Trim(strings.TrimSpace(name), `"'`) == session
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !in || !ok || strings.TrimSpace(key) != "sso_registration_scopes" {
			continue
		}
		var out []string
		for scope := range strings.SplitSeq(value, ",") {
			if scope = strings.TrimSpace(scope); scope != "" {
				out = append(out, scope)
			}
		}
		return out
	}
	return nil
}

// Files returns the files whose change may mean that the user has signed in again. Some may not exist.
func (o *Origin) Files(env *Env) []string {
	out := []string{env.configFile(), env.credentialsFile()}
	switch o.Kind {
	case OriginSSO:
		if path, err := o.SSO.TokenFile(); err == nil {
			out = append(out, path)
		}
	case OriginLogin:
		dir := ""
		if env == nil {
			dir = os.Getenv("AWS_LOGIN_CACHE_DIRECTORY") // the agent never has it for a command: see sdkVariables
		}
		if path, err := logincreds.StandardCachedTokenFilepath(o.Detail, dir); err == nil {
			out = append(out, path)
		}
	case OriginWebIdentity:
		out = append(out, o.Detail)
	}
	return out
}

// Command returns the command that signs in at the origin; "" if none does.
func (o *Origin) Command() string {
	name := ""
	if o.Profile != "" && o.Profile != defaultProfile {
		name = " --profile " + inShell(o.Profile)
	}
	switch o.Kind {
	case OriginSSO:
		return "bastion login" + name
	case OriginLogin:
		return "aws login" + name
	}
	return ""
}
