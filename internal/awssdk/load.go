package awssdk

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/credentials/processcreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/smithy-go/middleware"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

// retryAttempts is how often the SDK tries an AWS call, with its backoff, unless AWS_MAX_ATTEMPTS or the profile has another
// number. It exceeds the SDK's three because many desktops share an account's request rate.
const retryAttempts = 6

// Source is the source of the AWS configuration.
type Source struct {
	Profile     string        // empty: the variables', or else the default profile
	Region      string        // empty: the variables', or else the profile's
	Env         *Env          // the variables; nil: the process's own
	MFA         *MFA          // prompts for codes; nil: a profile that needs a code fails
	CallTimeout time.Duration // time limit of every call; see callLimits
}

// ErrNoRegion says that neither the settings nor the AWS configuration have a region.
var ErrNoRegion = errors.New("no AWS region is set")

// Load reads the AWS configuration as every AWS tool does. The SDK handles the environment, profiles, SSO, container and
// instance roles, endpoints, CA bundle and proxies. Load fails if the region or the credentials are missing.
func Load(ctx context.Context, s Source) (aws.Config, error) {
	cfg, err := load(ctx, s)
	if err == nil && s.MFA != nil && s.Env.mfaDevice(ctx, s.Profile) != "" {
		s.MFA.keep(s.Profile, cfg.Credentials)
	}
	return cfg, err
}

// LoadUnsigned is Load for calls without a signature, such as those that sign a user in. It obtains no credentials.
func LoadUnsigned(ctx context.Context, s Source) (aws.Config, error) {
	cfg, _, err := s.config(ctx, awsconfig.WithCredentialsProvider(aws.AnonymousCredentials{}))
	return cfg, err
}

// config loads the configuration without its credentials. It returns the loader's options too.
func (s Source) config(ctx context.Context, more ...sdk) (aws.Config, []sdk, error) {
	opts, err := s.Env.options(s.Profile, s.Region)
	if err != nil {
		return aws.Config{}, nil, err
	}
	ends := &endpoints{env: s.Env}
	opts = append(opts, more...)
	opts = append(opts, awsconfig.WithAPIOptions([]func(*middleware.Stack) error{newCallLimits(s.CallTimeout).add, ends.add, noticePages}),
		awsconfig.WithProcessCredentialOptions(func(o *processcreds.Options) { o.Timeout = s.CallTimeout }))
	cfg, err := loadSDK(ctx, s.Env, opts)
	if err != nil {
		return cfg, nil, s.Env.configError(err)
	}
	if ignored, found, err := awsconfig.GetIgnoreConfiguredEndpoints(ctx, cfg.ConfigSources); err == nil && found {
		ends.ignored = ignored
	}
	if cfg.Region == "" {
		return cfg, nil, fail.New(fail.Usage, "", ErrNoRegion,
			"set --region, AWS_REGION, or region in the AWS profile or in bastion.yaml")
	}
	if cfg.RetryMaxAttempts == 0 {
		cfg.RetryMaxAttempts = retryAttempts
	}
	return cfg, opts, nil
}

func load(ctx context.Context, s Source) (aws.Config, error) {
	env, profile, limit := s.Env, s.Profile, s.CallTimeout
	cfg, opts, err := s.config(ctx, s.MFA.options(profile)...)
	if err != nil {
		return cfg, err
	}
	next := signIn(cfg, env, profile)
	cache, _ := cfg.Credentials.(*aws.CredentialsCache)
	cfg.APIOptions = append(cfg.APIOptions, reportFailures, sayHowToSignIn(next))
	if source := sourceProfile(cfg); source != nil && source.CredentialProcess != "" {
		cfg.Credentials = program{cfg.Credentials, source, env.configFile(), next}
	}
	if files.ActsForAnother() {
		cfg.Credentials = givingBack{cfg.Credentials}
	}
	bounded, cancel := context.WithTimeout(ctx, credentialCalls*limit)
	defer cancel()
	first, err := cfg.Credentials.Retrieve(bounded)
	if err != nil {
		if ctx.Err() != nil {
			return cfg, context.Cause(ctx)
		}
		if process, ok := errors.AsType[*processcreds.ProviderError](err); bounded.Err() != nil || ok && timedOut(process) {
			err = &unanswered{call: "the source of the credentials", after: limit}
		}
		if isLast(err) && heard(err) {
			err = fmt.Errorf("no usable AWS credentials: %w", &unanswered{call: "the instance metadata", after: limit})
			return cfg, fail.New(fail.Timeout, "", err, next)
		}
		return cfg, env.credentialsError(err, profile, next)
	}
	if env.hasCredentials(profile) {
		cfg.Credentials = env // without the SDK's cache, which would hide Env.Renew
		return cfg, nil
	}
	switch {
	case first.CanExpire && cache != nil:
		cfg.Credentials = newRenewing(cfg.Credentials, cache, first, func(err error) error { return env.credentialsError(err, profile, next) })
	case first.SessionToken != "" && !first.CanExpire:
		cfg.Credentials = aws.NewCredentialsCache(&reread{last: first, read: func(ctx context.Context) (aws.Credentials, error) {
			fresh, err := loadSDK(ctx, env, opts)
			if err != nil {
				return aws.Credentials{}, err
			}
			return fresh.Credentials.Retrieve(ctx)
		}})
	}
	return cfg, nil
}

// loadSDK loads the SDK's configuration. The loader has no option to disable version 1 of the instance metadata. So loadSDK
// creates the metadata client from the loaded configuration, and loads everything again with it.
func loadSDK(ctx context.Context, env *Env, opts []func(*awsconfig.LoadOptions) error) (aws.Config, error) {
	config, remove, uncopied := env.plainConfig()
	defer remove()
	if len(config) > 1 {
		opts = append(slices.Clone(opts), awsconfig.WithSharedConfigFiles(config))
	}
	cfg, err := awsconfig.LoadDefaultConfig(ctx, opts...)
	text := ""
	if env != nil {
		text = env.vars[envNoIMDSv1]
	}
	if err != nil && uncopied != nil {
		return cfg, uncopied // what the SDK misses may be in a quoted section
	}
	if err != nil || text == "" {
		return cfg, err
	}
	client := imds.NewFromConfig(cfg, func(o *imds.Options) { o.EnableFallback = aws.BoolTernary(!isTrue(text)) })
	return awsconfig.LoadDefaultConfig(ctx, append(slices.Clone(opts), awsconfig.WithEC2RoleCredentialOptions(
		func(o *ec2rolecreds.Options) { o.Client = client }))...)
}

// heard reports whether a server accepted a call's connection and then did not answer. On most machines the instance metadata
// has no server.
func heard(err error) bool {
	if late, ok := errors.AsType[*unanswered](err); ok {
		return late.connected
	}
	timeout, ok := errors.AsType[net.Error](err)
	op, isOp := errors.AsType[*net.OpError](err)
	return ok && timeout.Timeout() && (!isOp || op.Op != "dial")
}

// credentialCalls is how many calls the first credentials may take: a token, a role, another role. It also bounds a
// credential_process whose children live on: they hold the SDK beyond its own limit.
const credentialCalls = 3

// rereadAfter is how long temporary credentials without an expiry are used before they are read again.
const rereadAfter = time.Minute

// reread is a provider of temporary credentials without an expiry, such as those in a credentials file. The user or a program
// replaces them in the file. The SDK's own provider never rereads it.
//
// A credentials cache calls Retrieve, one call at a time.
type reread struct {
	last aws.Credentials
	read func(context.Context) (aws.Credentials, error)
}

// Retrieve implements aws.CredentialsProvider. If it cannot read new credentials, it returns the last ones: another program may
// be writing the file just now.
func (r *reread) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c, err := r.read(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return aws.Credentials{}, ctx.Err()
		}
		c = r.last
	}
	r.last = c
	if !c.CanExpire {
		c.CanExpire, c.Expires = true, time.Now().Add(rereadAfter)
	}
	return c, nil
}

// LastFailure is the result of an AWS call's latest attempt. If a deadline passes between two attempts, the SDK's error has
// only the deadline. The zero value has seen no call.
type LastFailure struct {
	mu  sync.Mutex
	err error // nil after a success
}

type lastFailureKey struct{}

// Watch returns a context whose AWS calls report to f, and to every LastFailure that watches ctx.
func (f *LastFailure) Watch(ctx context.Context) context.Context {
	all, _ := ctx.Value(lastFailureKey{}).([]*LastFailure)
	return context.WithValue(ctx, lastFailureKey{}, append(slices.Clip(all), f))
}

// Get returns the failure of the latest attempt; nil after a success.
func (f *LastFailure) Get() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// Set replaces the latest attempt's failure.
func (f *LastFailure) Set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// reportFailures makes each attempt of a call report to every LastFailure of its context.
func reportFailures(stack *middleware.Stack) error {
	return stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("ReportFailures", func(
		ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler,
	) (middleware.FinalizeOutput, middleware.Metadata, error) {
		out, metadata, err := next.HandleFinalize(ctx, in)
		all, _ := ctx.Value(lastFailureKey{}).([]*LastFailure)
		if ctx.Err() == nil { // the end of ctx is not an answer
			action := callName(ctx)
			for _, f := range all {
				f.Set(fail.AWS(fail.Other, "call "+action, action, err))
			}
		}
		return out, metadata, err
	}), "Retry", middleware.After)
}

// WebsocketClient returns the HTTP client for data channels. It has the CA bundle and the proxy of the SDK's clients.
func WebsocketClient(cfg aws.Config) *http.Client {
	buildable, ok := cfg.HTTPClient.(*awshttp.BuildableClient)
	if !ok {
		buildable = awshttp.NewBuildableClient()
	}
	return &http.Client{Transport: buildable.GetTransport()}
}
