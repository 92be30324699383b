package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go/middleware"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// retryAttempts is how often an AWS call is tried, by the SDK's back-off, unless AWS_MAX_ATTEMPTS or the profile says
// otherwise. It is more than the SDK's three because a desktop shares its account's request rate with others.
const retryAttempts = 6

// loadAWS reads the AWS configuration as every AWS tool does: environment, profiles, SSO, container and instance roles,
// endpoints, CA bundle and proxies are the SDK's business.
//
// env, which may be nil, is used in place of the process's own variables.
func loadAWS(ctx context.Context, profile, region string, env *Env) (aws.Config, error) {
	opts, err := env.options(profile, region)
	if err != nil {
		return aws.Config{}, err
	}
	cfg, err := awsconfig.LoadDefaultConfig(ctx, opts...)
	if err != nil {
		var missing awsconfig.SharedConfigProfileNotExistError
		if errors.As(err, &missing) {
			return cfg, fail.New(fail.Credentials, "", fmt.Errorf("there is no AWS profile %q", missing.Profile),
				"aws configure list-profiles shows the profiles; name one with --profile or AWS_PROFILE")
		}
		return cfg, fail.New(fail.Credentials, "read the AWS configuration", err, "check ~/.aws/config and the AWS_* variables")
	}
	if cfg.Region == "" {
		return cfg, fail.New(fail.Usage, "", errors.New("no AWS region is set"),
			"set --region, AWS_REGION, or region in the AWS profile or in bastion.yaml")
	}
	if cfg.RetryMaxAttempts == 0 {
		cfg.RetryMaxAttempts = retryAttempts
	}
	cfg.APIOptions = append(cfg.APIOptions, reportFailures)
	first, err := cfg.Credentials.Retrieve(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return cfg, context.Cause(ctx)
		}
		if strings.Contains(err.Error(), "no EC2 IMDS role found") { // the last in the SDK's chain; it has no error to test for
			err = errors.New("none were found")
		}
		return cfg, fail.New(fail.Credentials, "", fmt.Errorf("no usable AWS credentials: %w", err), credentialsHint(env))
	}
	if env.hasCredentials(profile) {
		cfg.Credentials = env // without the SDK's cache, which would not see Env.Renew
		return cfg, nil
	}
	if first.SessionToken != "" && !first.CanExpire {
		cfg.Credentials = aws.NewCredentialsCache(&reread{last: first, read: func(ctx context.Context) (aws.Credentials, error) {
			fresh, err := awsconfig.LoadDefaultConfig(ctx, opts...)
			if err != nil {
				return aws.Credentials{}, err
			}
			return fresh.Credentials.Retrieve(ctx)
		}})
	}
	return cfg, nil
}

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

// lastFailure is what the latest attempt of an AWS call came to. Where a deadline passes between two attempts, the SDK's error
// has only the deadline.
type lastFailure struct {
	mu  sync.Mutex
	err error // nil after a success
}

type lastFailureKey struct{}

// watch returns a context whose AWS calls report to f.
func (f *lastFailure) watch(ctx context.Context) context.Context {
	return context.WithValue(ctx, lastFailureKey{}, f)
}

func (f *lastFailure) get() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *lastFailure) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// reportFailures makes each attempt of a call report to the lastFailure of its context, if it has one.
func reportFailures(stack *middleware.Stack) error {
	return stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("ReportFailures", func(
		ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler,
	) (middleware.FinalizeOutput, middleware.Metadata, error) {
		out, metadata, err := next.HandleFinalize(ctx, in)
		f, ok := ctx.Value(lastFailureKey{}).(*lastFailure)
		if ok && ctx.Err() == nil { // the end of ctx is no answer
			action := strings.ToLower(awsmiddleware.GetServiceID(ctx)) + ":" + awsmiddleware.GetOperationName(ctx)
			f.set(fail.AWS(fail.Other, "call "+action, action, err))
		}
		return out, metadata, err
	}), "Retry", middleware.After)
}

func credentialsHint(env *Env) string {
	if profile := env.lookup("AWS_PROFILE"); profile != "" {
		return "sign in (aws sso login --profile " + profile + ") or choose another profile with --profile"
	}
	return "sign in (aws sso login, aws configure) or choose a profile with --profile or AWS_PROFILE"
}

// websocketClient returns the HTTP client for data channels: with the CA bundle and the proxy that the SDK's clients use.
func websocketClient(cfg aws.Config) *http.Client {
	buildable, ok := cfg.HTTPClient.(*awshttp.BuildableClient)
	if !ok {
		buildable = awshttp.NewBuildableClient()
	}
	return &http.Client{Transport: buildable.GetTransport()}
}
