package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// The variables that hold credentials.
const (
	envAccessKey    = "AWS_ACCESS_KEY_ID"
	envSecretKey    = "AWS_SECRET_ACCESS_KEY" // #nosec G101 -- a variable's name
	envSessionToken = "AWS_SESSION_TOKEN"     // #nosec G101 -- a variable's name
	envAgentSocket  = "SSH_AUTH_SOCK"
)

// Env are the environment variables of a command for which a process of another environment acts. The credentials among them can
// be renewed. A nil *Env is the environment of this process.
type Env struct {
	vars map[string]string // without the credentials

	mu          sync.Mutex
	credentials aws.Credentials
}

// NewEnv returns the Env of a command with the given variables. Those that it does not act by are left out.
func NewEnv(vars map[string]string) *Env {
	e := &Env{vars: make(map[string]string, len(vars))}
	maps.Copy(e.vars, vars)
	maps.DeleteFunc(e.vars, func(name, value string) bool { return value == "" || !isRelevant(name) })
	e.credentials = aws.Credentials{
		AccessKeyID: vars[envAccessKey], SecretAccessKey: vars[envSecretKey], SessionToken: vars[envSessionToken],
		Source: "environment",
	}
	for _, secret := range []string{envAccessKey, envSecretKey, envSessionToken} {
		delete(e.vars, secret)
	}
	return e
}

// relevant are the variables that an Env acts by, besides AWS_ENDPOINT_URL_<SERVICE>. No other is handed to another process: there
// are more secrets among those that begin with AWS_.
var relevant = []string{
	envAccessKey, envSecretKey, envSessionToken, envAgentSocket,
	"AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE",
	"AWS_ENDPOINT_URL", "AWS_RETRY_MODE", "AWS_MAX_ATTEMPTS", "AWS_EC2_METADATA_DISABLED", "AWS_USE_FIPS_ENDPOINT",
	"AWS_USE_DUALSTACK_ENDPOINT", "AWS_CA_BUNDLE",
}

func isRelevant(name string) bool {
	return slices.Contains(relevant, name) || strings.HasPrefix(name, "AWS_ENDPOINT_URL_")
}

// paths are those of the relevant variables that name a file.
var paths = []string{envAgentSocket, "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CA_BUNDLE"}

// RelevantEnv returns the variables among environ, this process's, that an Env is made of, with paths that hold in every working
// directory.
func RelevantEnv(environ []string) map[string]string {
	out := make(map[string]string)
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		if value == "" || !isRelevant(name) {
			continue
		}
		if slices.Contains(paths, name) {
			if abs, err := filepath.Abs(value); err == nil {
				value = abs
			}
		}
		out[name] = value
	}
	return out
}

// UnsupportedEnv returns the names of variables in environ that the AWS SDK reads from its own process only, so that no other
// process can act in the command's place.
func UnsupportedEnv(environ []string) []string {
	var out []string
	for _, variable := range environ {
		switch name, value, _ := strings.Cut(variable, "="); {
		case value == "":
		case strings.HasPrefix(name, "AWS_CONTAINER_"), name == "AWS_WEB_IDENTITY_TOKEN_FILE",
			name == "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", name == "AWS_DEFAULTS_MODE":
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Public returns the variables without the credentials.
func (e *Env) Public() map[string]string { return maps.Clone(e.vars) }

// Credentials returns the credentials among the variables; none are the zero value.
func (e *Env) Credentials() aws.Credentials {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.credentials
}

// Renew replaces the credentials by those of another, which must be of the same identity.
func (e *Env) Renew(by *Env) {
	fresh := by.Credentials()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.credentials = fresh
}

// Retrieve implements aws.CredentialsProvider.
func (e *Env) Retrieve(context.Context) (aws.Credentials, error) {
	c := e.Credentials()
	if !c.HasKeys() {
		return c, errors.New("the variables have no AWS credentials any more")
	}
	return c, nil
}

// lookup returns a variable that is no secret.
func (e *Env) lookup(name string) string {
	if e == nil {
		return os.Getenv(name)
	}
	return e.vars[name]
}

// hasCredentials reports whether the credentials are those of the variables. A profile that is named outside of them goes first.
func (e *Env) hasCredentials(profile string) bool {
	return e != nil && profile == "" && e.Credentials().HasKeys()
}

// options are what makes the SDK load its configuration from e, as far as it has options for that; see UnsupportedEnv.
func (e *Env) options(profile, region string) ([]func(*awsconfig.LoadOptions) error, error) {
	var opts []func(*awsconfig.LoadOptions) error
	add := func(o awsconfig.LoadOptionsFunc) { opts = append(opts, o) }
	with := func(name string, option func(string) awsconfig.LoadOptionsFunc) {
		if value := e.lookup(name); value != "" {
			add(option(value))
		}
	}
	if e != nil {
		if e.hasCredentials(profile) {
			add(awsconfig.WithCredentialsProvider(e))
		}
		profile = cmp.Or(profile, e.vars["AWS_PROFILE"], e.vars["AWS_DEFAULT_PROFILE"])
		region = cmp.Or(region, e.vars["AWS_REGION"], e.vars["AWS_DEFAULT_REGION"])
		with("AWS_CONFIG_FILE", func(v string) awsconfig.LoadOptionsFunc {
			return awsconfig.WithSharedConfigFiles([]string{v})
		})
		with("AWS_SHARED_CREDENTIALS_FILE", func(v string) awsconfig.LoadOptionsFunc {
			return awsconfig.WithSharedCredentialsFiles([]string{v})
		})
		with("AWS_ENDPOINT_URL", awsconfig.WithBaseEndpoint)
		with("AWS_RETRY_MODE", func(v string) awsconfig.LoadOptionsFunc { return awsconfig.WithRetryMode(aws.RetryMode(v)) })
		if isTrue(e.vars["AWS_EC2_METADATA_DISABLED"]) {
			add(awsconfig.WithEC2IMDSClientEnableState(imds.ClientDisabled))
		}
		if isTrue(e.vars["AWS_USE_FIPS_ENDPOINT"]) {
			add(awsconfig.WithUseFIPSEndpoint(aws.FIPSEndpointStateEnabled))
		}
		if isTrue(e.vars["AWS_USE_DUALSTACK_ENDPOINT"]) {
			add(awsconfig.WithUseDualStackEndpoint(aws.DualStackEndpointStateEnabled))
		}
		if text := e.vars["AWS_MAX_ATTEMPTS"]; text != "" {
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 {
				return nil, fail.New(fail.Usage, "", fmt.Errorf("AWS_MAX_ATTEMPTS is %q, not a number", text), "correct AWS_MAX_ATTEMPTS")
			}
			add(awsconfig.WithRetryMaxAttempts(n))
		}
		if path := e.vars["AWS_CA_BUNDLE"]; path != "" {
			pem, err := os.ReadFile(path)
			if err != nil {
				return nil, fail.New(fail.Usage, "read AWS_CA_BUNDLE", err, "correct AWS_CA_BUNDLE")
			}
			add(awsconfig.WithCustomCABundle(strings.NewReader(string(pem))))
		}
	}
	if profile != "" {
		add(awsconfig.WithSharedConfigProfile(profile))
	}
	if region != "" {
		add(awsconfig.WithRegion(region))
	}
	return opts, nil
}

// endpoint sets the endpoint of one service, if the variables name one; its id is as in AWS_ENDPOINT_URL_<ID>. The SDK itself
// reads the process's own variables only.
func (e *Env) endpoint(to **string, id string) {
	if e == nil {
		return
	}
	if url := e.vars["AWS_ENDPOINT_URL_"+id]; url != "" {
		*to = &url
	}
}

func isTrue(text string) bool { return strings.EqualFold(text, "true") }
