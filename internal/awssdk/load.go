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

// retryAttempts is how often an AWS call is tried, by the SDK's back-off, unless AWS_MAX_ATTEMPTS or the profile says
// otherwise. It is more than the SDK's three because a desktop shares its account's request rate with others.
const retryAttempts = 6

// Source says where the AWS configuration comes from.
type Source struct {
	Profile     string        // empty: that of the variables, or else the default profile
	Region      string        // empty: that of the variables, or else the profile's
	Env         *Env          // the variables that count; nil: the process's own
	MFA         *MFA          // asks for codes; nil: there is nobody to ask
	CallTimeout time.Duration // by which every call has ended; see callLimits
}

// Load reads the AWS configuration as every AWS tool does: environment, profiles, SSO, container and instance roles,
// endpoints, CA bundle and proxies are the SDK's business. It fails where region or credentials are missing.
func Load(ctx context.Context, s Source) (aws.Config, error) {
	cfg, err := load(ctx, s)
	if err == nil && s.MFA != nil && MFADevice(ctx, s.Profile) != "" {
		s.MFA.keep(s.Profile, cfg.Credentials)
	}
	return cfg, err
}

func load(ctx context.Context, s Source) (aws.Config, error) {
	env, profile, limit := s.Env, s.Profile, s.CallTimeout
	opts, err := env.options(profile, s.Region)
	if err != nil {
		return aws.Config{}, err
	}
	opts = append(opts, s.MFA.options(profile)...)
	ends := &endpoints{env: env}
	opts = append(opts, awsconfig.WithAPIOptions([]func(*middleware.Stack) error{newCallLimits(limit).add, ends.add, noticePages}),
		awsconfig.WithProcessCredentialOptions(func(o *processcreds.Options) { o.Timeout = limit }))
	cfg, err := loadSDK(ctx, env, opts)
	if err != nil {
		return cfg, env.configError(err)
	}
	if ignored, found, err := awsconfig.GetIgnoreConfiguredEndpoints(ctx, cfg.ConfigSources); err == nil && found {
		ends.ignored = ignored
	}
	if cfg.Region == "" {
		return cfg, fail.New(fail.Usage, "", errors.New("no AWS region is set"),
			"set --region, AWS_REGION, or region in the AWS profile or in bastion.yaml")
	}
	if cfg.RetryMaxAttempts == 0 {
		cfg.RetryMaxAttempts = retryAttempts
	}
	next := signIn(cfg, env, profile)
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
		cfg.Credentials = env // without the SDK's cache, which would not see Env.Renew
		return cfg, nil
	}
	if first.SessionToken != "" && !first.CanExpire {
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

// loadSDK loads the SDK's configuration. That the instance metadata is asked by version 2 alone has no option of the loader: the client for it is
// made of what was loaded, and all is loaded again with it.
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

// heard reports whether a call found somebody who took the connection and then did not answer. Most machines have nobody there.
func heard(err error) bool {
	if late, ok := errors.AsType[*unanswered](err); ok {
		return late.connected
	}
	timeout, ok := errors.AsType[net.Error](err)
	op, isOp := errors.AsType[*net.OpError](err)
	return ok && timeout.Timeout() && (!isOp || op.Op != "dial")
}

// credentialCalls is how many calls the first credentials may take in all: a token, a role, another role. A program whose children live
// on holds the SDK for longer than its limit.
const credentialCalls = 3

// rereadAfter is how long temporary credentials of unknown end are used before they are read again.
const rereadAfter = time.Minute

// reread is a provider of temporary credentials that do not say when they expire, as those in a credentials file: the user, or a
// program of theirs, replaces them there, which the SDK's own provider never looks for.
//
// Its user is a credentials cache, which calls Retrieve once at a time.
type reread struct {
	last aws.Credentials
	read func(context.Context) (aws.Credentials, error)
}

// Retrieve implements aws.CredentialsProvider. What cannot be read is no reason to give up what may still be good: the file may
// just be being written.
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

// LastFailure is what the latest attempt of an AWS call came to. Where a deadline passes between two attempts, the SDK's error
// has only the deadline. The zero value is of no call.
type LastFailure struct {
	mu  sync.Mutex
	err error // nil after a success
}

type lastFailureKey struct{}

// Watch returns a context whose AWS calls report to f, and to those that the calls of ctx report to.
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

// Set makes err the latest attempt's failure.
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
		if ctx.Err() == nil { // the end of ctx is no answer
			action := callName(ctx)
			for _, f := range all {
				f.Set(fail.AWS(fail.Other, "call "+action, action, err))
			}
		}
		return out, metadata, err
	}), "Retry", middleware.After)
}

// WebsocketClient returns the HTTP client for data channels: with the CA bundle and the proxy that the SDK's clients use.
func WebsocketClient(cfg aws.Config) *http.Client {
	buildable, ok := cfg.HTTPClient.(*awshttp.BuildableClient)
	if !ok {
		buildable = awshttp.NewBuildableClient()
	}
	return &http.Client{Transport: buildable.GetTransport()}
}
