package awssdk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"golang.org/x/net/http/httpproxy"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// The variables that an Env reads itself.
const (
	envAccessKey       = "AWS_ACCESS_KEY_ID"
	envAccessKeyOld    = "AWS_ACCESS_KEY"
	envSecretKey       = "AWS_SECRET_ACCESS_KEY" // #nosec G101 -- a variable's name
	envSecretKeyOld    = "AWS_SECRET_KEY"        // #nosec G101 -- a variable's name
	envSessionToken    = "AWS_SESSION_TOKEN"     // #nosec G101 -- a variable's name
	envAccountID       = "AWS_ACCOUNT_ID"
	envConfigFile      = "AWS_CONFIG_FILE"
	envCredentialsFile = "AWS_SHARED_CREDENTIALS_FILE" // #nosec G101 -- a variable's name
	envWebIdentity     = "AWS_WEB_IDENTITY_TOKEN_FILE" // #nosec G101 -- a variable's name
	envRoleARN         = "AWS_ROLE_ARN"
	envContainerToken  = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE" // #nosec G101 -- a variable's name
	envNoIMDSv1        = "AWS_EC2_METADATA_V1_DISABLED"
	envHome            = "HOME"
	envAgentSocket     = "SSH_AUTH_SOCK"
)

// Env has the environment variables of a command for which another process acts. Renew replaces the secrets among them. A nil
// *Env is this process's environment.
type Env struct {
	vars map[string]string // without secrets

	mu          sync.Mutex
	credentials aws.Credentials
	proxy       func(*url.URL) (*url.URL, error) // proxy URLs may contain passwords
}

// NewEnv returns an Env with the given variables, without those that it does not use.
func NewEnv(vars map[string]string) *Env {
	e := &Env{vars: make(map[string]string, len(vars))}
	for name, value := range vars {
		if value == "" || !isRelevant(name) {
			continue
		}
		if strings.HasSuffix(name, "_PROXY") {
			value = withoutPassword(value)
		}
		e.vars[name] = value
	}
	e.credentials = aws.Credentials{
		AccessKeyID: cmp.Or(vars[envAccessKey], vars[envAccessKeyOld]), SecretAccessKey: cmp.Or(vars[envSecretKey], vars[envSecretKeyOld]),
		SessionToken: vars[envSessionToken], AccountID: vars[envAccountID], Source: "environment",
	}
	for _, name := range []string{envAccessKey, envAccessKeyOld, envSecretKey, envSecretKeyOld, envSessionToken, envAccountID} {
		delete(e.vars, name)
	}
	proxies := httpproxy.Config{HTTPProxy: vars["HTTP_PROXY"], HTTPSProxy: vars["HTTPS_PROXY"], NoProxy: vars["NO_PROXY"]}
	e.proxy = proxies.ProxyFunc()
	return e
}

// withoutPassword returns a proxy's URL without its user and password.
func withoutPassword(proxy string) string {
	if i := strings.LastIndex(proxy, "@"); i >= 0 {
		scheme, _, found := strings.Cut(proxy[:i], "://")
		if !found {
			return proxy[i+1:]
		}
		return scheme + "://" + proxy[i+1:]
	}
	return proxy
}

// isRelevant reports whether an Env uses a variable. The process hands over no other variable, because some others that begin
// with AWS_ contain secrets.
func isRelevant(name string) bool {
	v, ok := sdkVariableOf(name)
	return name == envAgentSocket || ok && v.use == sdkHanded
}

// RelevantEnv returns the variables in environ, this process's, that NewEnv uses. It makes paths absolute, so that they hold in
// another working directory.
func RelevantEnv(environ []string) map[string]string {
	out := make(map[string]string)
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		if value == "" || !isRelevant(name) {
			continue
		}
		v, ok := sdkVariableOf(name)
		if v.path || name == envAgentSocket {
			if abs, err := filepath.Abs(value); err == nil {
				value = abs
			}
		}
		switch small := ok && strings.HasSuffix(v.name, "_PROXY") && name != v.name; {
		case !small:
			out[name] = value
		case out[v.name] == "": // the name in capitals has precedence
			out[v.name] = value
		}
	}
	return out
}

// Public returns the variables without secrets.
func (e *Env) Public() map[string]string { return maps.Clone(e.vars) }

// Credentials returns the credentials in the variables; zero if they contain none.
func (e *Env) Credentials() aws.Credentials {
	if e == nil {
		return aws.Credentials{
			AccessKeyID:     cmp.Or(os.Getenv(envAccessKey), os.Getenv(envAccessKeyOld)),
			SecretAccessKey: cmp.Or(os.Getenv(envSecretKey), os.Getenv(envSecretKeyOld)),
			SessionToken:    os.Getenv(envSessionToken),
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.credentials
}

// Renew replaces the secrets with those of by, which must have the same identity.
func (e *Env) Renew(by *Env) {
	by.mu.Lock()
	fresh, proxy := by.credentials, by.proxy
	by.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.credentials, e.proxy = fresh, proxy
}

// proxyOf returns the proxy for a request, as http.ProxyFromEnvironment does for this process.
func (e *Env) proxyOf(r *http.Request) (*url.URL, error) {
	e.mu.Lock()
	proxy := e.proxy
	e.mu.Unlock()
	return proxy(r.URL)
}

// Retrieve implements aws.CredentialsProvider.
func (e *Env) Retrieve(context.Context) (aws.Credentials, error) {
	c := e.Credentials()
	if !c.HasKeys() {
		return c, errors.New("the environment no longer contains AWS credentials")
	}
	return c, nil
}

// lookup returns a variable that is not a secret.
func (e *Env) lookup(name string) string {
	if e == nil {
		return os.Getenv(name)
	}
	return e.vars[name]
}

// profile returns the profile of the setting, or else of the variables.
func (e *Env) profile(setting string) string {
	return cmp.Or(setting, e.lookup("AWS_PROFILE"), e.lookup("AWS_DEFAULT_PROFILE"))
}

// incomplete returns the credential variables that are set and those that are missing; "" if the credentials are complete or
// absent.
func (e *Env) incomplete() (set, missing string) {
	c := e.Credentials()
	key, secret := c.AccessKeyID != "", c.SecretAccessKey != ""
	switch {
	case key && !secret:
		return envAccessKey, envSecretKey
	case secret && !key:
		return envSecretKey, envAccessKey
	case key: // complete
	case c.SessionToken != "":
		return envSessionToken, envAccessKey + " and " + envSecretKey
	case e == nil && os.Getenv(envRoleARN) != "" && os.Getenv(envWebIdentity) == "":
		return envRoleARN, envWebIdentity
	}
	return "", ""
}

// hasCredentials reports whether the credentials come from the variables. A profile from the settings has precedence.
func (e *Env) hasCredentials(profile string) bool {
	return e != nil && profile == "" && e.Credentials().HasKeys()
}

// options returns the options that make the SDK's loader use e, as far as the loader has options; see sdkVariables.
func (e *Env) options(profile, region string) ([]func(*awsconfig.LoadOptions) error, error) {
	client := httpClient()
	if e != nil {
		client = client.WithTransportOptions(func(t *http.Transport) { t.Proxy = e.proxyOf })
	}
	opts := []func(*awsconfig.LoadOptions) error{awsconfig.WithHTTPClient(client)}
	if e != nil {
		if e.hasCredentials(profile) {
			opts = append(opts, awsconfig.WithCredentialsProvider(e))
		}
		profile = e.profile(profile)
		region = cmp.Or(region, e.vars["AWS_REGION"], e.vars["AWS_DEFAULT_REGION"])
		for _, v := range sdkVariables {
			value := e.vars[v.name]
			if v.option == nil || value == "" {
				continue
			}
			option, err := v.option(value)
			if err != nil {
				return nil, fail.New(fail.Usage, "", fmt.Errorf("%s is %q: %w", v.name, value, err), "correct "+v.name)
			}
			opts = append(opts, option)
		}
	}
	if profile != "" {
		opts = append(opts, awsconfig.WithSharedConfigProfile(profile))
	}
	if region != "" {
		opts = append(opts, awsconfig.WithRegion(region))
	}
	return opts, nil
}

func isTrue(text string) bool { return strings.EqualFold(text, "true") }

// AgentSocket returns the path of the SSH agent's socket; "" if it is not set.
func (e *Env) AgentSocket() string { return e.lookup(envAgentSocket) }
