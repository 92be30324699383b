package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go/middleware"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// signIn is the user's next step where the credentials of a configuration do not work. It names the variables or the profile that
// they come from: with a role it is the source profile that somebody can sign in to.
func signIn(cfg aws.Config, env *Env, profile string) string {
	if profile == "" && env.hasKeys() {
		return "sign in again and renew " + envAccessKey + ", " + envSecretKey + " and " + envSessionToken +
			", which go before AWS_PROFILE; or unset them, or choose a profile with --profile"
	}
	const anyhow = "sign in (aws sso login, aws configure) or choose a profile with --profile or AWS_PROFILE"
	shared := sharedConfig(cfg)
	if shared == nil {
		return anyhow
	}
	of, source := "", shared
	for source.Source != nil {
		source = source.Source
	}
	if source != shared {
		of = ", the source profile of " + shared.Profile
	}
	name := source.Profile
	if strings.ContainsAny(name, " \t") {
		name = "'" + name + "'"
	}
	const other = "; or choose another profile with --profile"
	switch {
	case source.Credentials.HasKeys():
		return "sign in again and renew the keys of the AWS profile " + source.Profile + of + " (aws configure --profile " + name + ")" + other
	case source.CredentialSource != "":
		return "check where the AWS profile " + source.Profile + " has its credentials from: credential_source = " + source.CredentialSource + other
	case source.WebIdentityTokenFile != "":
		return "sign in again and renew the token in " + source.WebIdentityTokenFile + ", which the AWS profile " + source.Profile + " names" + other
	case source.SSOSessionName != "" || source.SSOStartURL != "":
		return "sign in again: aws sso login --profile " + name + of + other
	case source.LoginSession != "":
		return "sign in again: aws login --profile " + name + of + other
	case source.CredentialProcess != "":
		return "sign in again with the program that the AWS profile " + source.Profile + of + " has its credentials from (credential_process)" + other
	case source.Profile != "" && source.Profile != "default":
		return "sign in: the AWS profile " + source.Profile + of + " has no credentials (aws configure sso --profile " + name + ")" + other
	}
	return anyhow
}

// hasKeys reports whether credentials stand in the variables.
func (e *Env) hasKeys() bool {
	if e != nil {
		return e.Credentials().HasKeys()
	}
	return e.lookup(envAccessKey) != "" && e.lookup(envSecretKey) != ""
}

// sharedConfig returns the profile that cfg was loaded from; nil if there is none.
func sharedConfig(cfg aws.Config) *awsconfig.SharedConfig {
	for _, source := range cfg.ConfigSources {
		switch shared := source.(type) {
		case awsconfig.SharedConfig:
			return &shared
		case *awsconfig.SharedConfig:
			return shared
		}
	}
	return nil
}

// credentialsError is the error for a credential chain that gave nothing. next is the step where nothing else is known.
func credentialsError(err error, next string) error {
	if isLast(err) {
		return fail.New(fail.Credentials, "", errors.New("no usable AWS credentials: none were found"), next)
	}
	answer := awsanswer.Of(err)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fail.New(fail.Timeout, "", fmt.Errorf("no usable AWS credentials: %w", err), fail.NextUnanswered)
	case answer.Class != awsanswer.None && answer.Next != "" && !answer.NeedsSignIn():
		next = answer.Next
	case answer.Class == awsanswer.None && unreached(err) && !isFile(err):
		next = awsanswer.NextUnreached(err)
	}
	return fail.New(fail.Credentials, "", fmt.Errorf("no usable AWS credentials: %w", err), next)
}

// isLast reports whether err is that of the last in the SDK's chain, which has no error to test for.
func isLast(err error) bool { return strings.Contains(err.Error(), "no EC2 IMDS role found") }

// isFile reports whether err is that of a file, whose cause is a net.Error to the type system.
func isFile(err error) bool {
	_, ok := errors.AsType[*fs.PathError](err)
	return ok
}

// badSignIn is the error of a call, with the next step for its credentials.
type badSignIn struct {
	error
	next string
}

func (e *badSignIn) Unwrap() error { return e.error }

// NextSignIn is what package fail asks for.
func (e *badSignIn) NextSignIn() string { return e.next }

// sayHowToSignIn makes the errors of calls carry the next step for their credentials.
func sayHowToSignIn(next string) func(*middleware.Stack) error {
	return func(stack *middleware.Stack) error {
		return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("SignIn", func(
			ctx context.Context, in middleware.InitializeInput, handler middleware.InitializeHandler,
		) (middleware.InitializeOutput, middleware.Metadata, error) {
			out, metadata, err := handler.HandleInitialize(ctx, in)
			if err != nil {
				err = &badSignIn{err, next}
			}
			return out, metadata, err
		}), middleware.Before)
	}
}
