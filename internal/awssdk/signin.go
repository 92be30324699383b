package awssdk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go/middleware"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// signIn returns the user's next step if a configuration's credentials do not work. It names their source, the variables or the
// profile. For a role it names the source profile, because the user signs in to that one.
func signIn(cfg aws.Config, env *Env, profile string) string {
	if profile == "" && env.Credentials().HasKeys() {
		return "sign in again and renew " + envAccessKey + ", " + envSecretKey + " and " + envSessionToken +
			", which go before AWS_PROFILE; or unset them, or choose a profile with --profile"
	}
	if token := os.Getenv(envWebIdentity); env == nil && profile == "" && token != "" {
		return "renew the token in " + token + ", which " + envWebIdentity + " names; or unset " + envWebIdentity + ", or choose a profile with --profile"
	}
	const other = "; or choose another profile with --profile"
	container := env.containerVariable()
	shared := sharedConfig(cfg)
	switch {
	case shared == nil && container != "":
		return nextContainer(container) + other
	case shared == nil:
		return awsanswer.NextSignIn
	}
	of, source := "", sourceProfile(cfg)
	if shared.Source != nil {
		of = ", the source profile of " + shared.Profile
	}
	name := inShell(source.Profile)
	switch {
	case source.Credentials.HasKeys():
		return "sign in again and renew the keys of the AWS profile " + source.Profile + of + " (aws configure --profile " + name + ")" + other
	case source.CredentialSource == "Environment":
		_, missing := env.incomplete()
		return "set " + cmp.Or(missing, envAccessKey+" and "+envSecretKey) + " to good keys: the AWS profile " + source.Profile +
			" takes its credentials from the variables (credential_source = Environment)" + other
	case source.CredentialSource == "EcsContainer" && container != "":
		return nextContainer(container) + other
	case source.CredentialSource != "":
		return "check where the AWS profile " + source.Profile + " has its credentials from: credential_source = " + source.CredentialSource + other
	case source.WebIdentityTokenFile != "":
		return "sign in again and renew the token in " + source.WebIdentityTokenFile + ", which the AWS profile " + source.Profile + " names" + other
	case source.SSOSessionName != "" || source.SSOStartURL != "":
		return "sign in again: bastion login --profile " + name + of + other
	case source.LoginSession != "":
		return "sign in again: aws login --profile " + name + of + other
	case source.CredentialProcess != "":
		return "sign in again with the program that the AWS profile " + source.Profile + of + " has its credentials from (credential_process)" + other
	case container != "":
		return nextContainer(container) + other
	case source.RoleARN != "":
		return "add source_profile to the AWS profile " + source.Profile + " in " + env.configFile() + ": its role_arn needs credentials to assume it with" + other
	case source.Profile != "" && source.Profile != defaultProfile:
		return "sign in: the AWS profile " + source.Profile + of + " has no credentials (aws configure sso --profile " + name + ")" + other
	}
	return awsanswer.NextSignIn
}

// containerVariable returns the variable that leads to a container's credentials; "" if none is set.
func (e *Env) containerVariable() string {
	for _, name := range []string{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"} {
		if e == nil && os.Getenv(name) != "" { // the agent never has them for a command: see sdkVariables
			return name
		}
	}
	return ""
}

func nextContainer(variable string) string {
	next := "check " + variable + ", which says where this container's credentials are"
	if os.Getenv(envContainerToken) != "" {
		next += ", and " + envContainerToken + ", which says where the token for them is"
	}
	return next
}

// isContainer reports whether err is a failure of the container credentials endpoint.
func isContainer(err error) bool { return strings.Contains(err.Error(), "failed to load credentials") }

// sourceProfile returns the profile at the end of cfg's chain of source profiles; nil if there is none.
func sourceProfile(cfg aws.Config) *awsconfig.SharedConfig {
	source := sharedConfig(cfg)
	for source != nil && source.Source != nil {
		source = source.Source
	}
	return source
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

// configError returns the error for an AWS configuration that the SDK rejects.
func (e *Env) configError(err error) error {
	file := e.configFile()
	if role, ok := errors.AsType[awsconfig.SharedConfigAssumeRoleError](err); ok {
		of := ", the source_profile of the role " + role.RoleARN
		if role.Err == nil {
			return fail.New(fail.Credentials, "", fmt.Errorf("the AWS profile %q%s, has no credentials", role.Profile, of),
				"give it some: aws configure sso --profile "+inShell(role.Profile)+"; or name another source_profile in "+file)
		}
		return fail.New(fail.Credentials, "", fmt.Errorf("there is no AWS profile %q%s", role.Profile, of),
			e.findProfile(role.Profile, "correct source_profile in "+file+": aws configure list-profiles shows the profiles"))
	}
	if missing, ok := errors.AsType[awsconfig.SharedConfigProfileNotExistError](err); ok {
		return fail.New(fail.Credentials, "", fmt.Errorf("there is no AWS profile %q", missing.Profile),
			e.findProfile(missing.Profile, "aws configure list-profiles shows the profiles; name one with --profile or AWS_PROFILE"))
	}
	const op = "read the AWS configuration"
	if uncopied, ok := errors.AsType[*uncopiedError](err); ok {
		return fail.New(fail.Credentials, op, uncopied,
			"set TMPDIR to a directory that can be written to; or write the names of the sections in "+file+" without quotes")
	}
	if _, session, ok := strings.Cut(err.Error(), "failed to find SSO session section, "); ok {
		return fail.New(fail.Credentials, op, fmt.Errorf("there is no [sso-session %s], which the profile's sso_session names", session),
			"add it to "+file+" (aws configure sso-session), or correct sso_session")
	}
	if token := os.Getenv(envWebIdentity); e == nil && token != "" && os.Getenv(envRoleARN) == "" && strings.Contains(err.Error(), "role ARN is not set") {
		return fail.New(fail.Credentials, op, fmt.Errorf("%s is set without %s", envWebIdentity, envRoleARN),
			"set "+envRoleARN+" to the role that the token is for; or unset "+envWebIdentity+", or choose a profile with --profile")
	}
	return fail.New(fail.Credentials, op, err, "check "+file+" and the AWS_* variables")
}

// findProfile returns the next step for a missing profile, by the files; otherwise, if they do not tell.
func (e *Env) findProfile(name, otherwise string) string {
	for _, variable := range []string{envConfigFile, envCredentialsFile} {
		if file := cmp.Or(e.lookup(variable), os.Getenv(variable)); file != "" {
			if _, err := os.Stat(file); err != nil {
				return fmt.Sprintf("correct or unset %s: it names %s, which cannot be read (%v)", variable, file, errors.Unwrap(err))
			}
		}
	}
	file := e.configFile()
	if bare, err := regexp.Compile(`(?m)^[ \t]*\[[ \t]*` + regexp.QuoteMeta(name) + `[ \t]*\]`); err == nil && bare.MatchString(readConfig(file)) {
		return fmt.Sprintf("write [profile %s] for [%s] in %s: the short form is for the credentials file", name, name, file)
	}
	return otherwise + " (of " + file + " and " + e.credentialsFile() + ")"
}

// inShell returns a profile's name, quoted for a shell if needed.
func inShell(name string) string {
	if strings.ContainsAny(name, " \t") {
		return "'" + name + "'"
	}
	return name
}

// credentialsError returns the error for a credential chain without a result. next is the default next step.
func (e *Env) credentialsError(err error, profile, next string) error {
	if isLast(err) {
		text := "no usable AWS credentials: none were found"
		if set, missing := e.incomplete(); profile == "" && set != "" {
			text += ": " + set + " is set without " + missing
			next = "set " + missing + " too; or unset " + set + ", and " + awsanswer.NextSignIn
		}
		return fail.New(fail.Credentials, "", errors.New(text), next)
	}
	if known, ok := errors.AsType[*programError](err); ok {
		next = known.next
	}
	answer := awsanswer.Of(err)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fail.New(fail.Timeout, "", fmt.Errorf("no usable AWS credentials: %w", err), fail.NextUnanswered)
	case answer.Class != awsanswer.None && answer.Next != "" && !answer.NeedsSignIn():
		next = answer.Next
	case answer.Class == awsanswer.None && awsanswer.Unreached(err) && !isFile(err) && !isContainer(err):
		next = awsanswer.NextUnreached(err)
	}
	if errors.Is(err, fs.ErrNotExist) && strings.Contains(err.Error(), "SSO token file") {
		err = &notSignedIn{err}
	}
	return fail.New(fail.Credentials, "", fmt.Errorf("no usable AWS credentials: %w", err), next)
}

// notSignedIn says in plain words that AWS's cache has no token.
type notSignedIn struct{ error }

func (e *notSignedIn) Error() string { return "you have not signed in to IAM Identity Center" }

func (e *notSignedIn) Unwrap() error { return e.error }

// isLast reports whether the SDK's last provider failed. The SDK exports no error for it.
func isLast(err error) bool { return strings.Contains(err.Error(), "no EC2 IMDS role found") }

// isFile reports whether err is a file error, whose cause implements net.Error.
func isFile(err error) bool { return errors.As(err, new(*fs.PathError)) }

// badSignIn is a call's error with the next step for its credentials.
type badSignIn struct {
	error
	next string
}

func (e *badSignIn) Unwrap() error { return e.error }

// NextSignIn serves package fail.
func (e *badSignIn) NextSignIn() string { return e.next }

// sayHowToSignIn adds the next step for the credentials to the errors of calls.
func sayHowToSignIn(next string) func(*middleware.Stack) error {
	return func(stack *middleware.Stack) error {
		return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("SignIn", func(
			ctx context.Context, in middleware.InitializeInput, handler middleware.InitializeHandler,
		) (middleware.InitializeOutput, middleware.Metadata, error) {
			out, metadata, err := handler.HandleInitialize(ctx, in)
			if _, known := errors.AsType[*programError](err); err != nil && !known {
				err = &badSignIn{err, next}
			}
			return out, metadata, err
		}), middleware.Before)
	}
}
