package awssdk

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/processcreds"
)

// program is a provider of the credentials that a profile's credential_process prints. It replaces the SDK's error, which
// contains the program's output and perhaps a secret.
type program struct {
	aws.CredentialsProvider
	source *awsconfig.SharedConfig // the profile that names the program
	config string                  // the configuration file
	next   string                  // the next step after the program's own failure
}

// Retrieve implements aws.CredentialsProvider.
func (p program) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c, err := p.CredentialsProvider.Retrieve(ctx)
	if failed, ok := errors.AsType[*processcreds.ProviderError](err); ok && !timedOut(failed) {
		err = p.explain(failed)
	}
	return c, err
}

func (p program) explain(failed *processcreds.ProviderError) *programError {
	e := &programError{text: "the credential_process of the AWS profile " + p.source.Profile, next: p.next}
	const form = ": it must print one JSON object with Version 1, AccessKeyId and SecretAccessKey"
	if exit, ok := errors.AsType[*exec.ExitError](failed); ok {
		e.text += fmt.Sprintf(" failed: %v", exit)
		if code := exit.ExitCode(); code == exitNotFound || code == exitNotRunnable {
			command, _, _ := strings.Cut(strings.TrimSpace(p.source.CredentialProcess), " ")
			e.next = "install " + command + ", or correct credential_process in " + p.config
		}
		return e
	}
	e.next = "correct credential_process in " + p.config + form
	if text := failed.Err.Error(); !strings.HasPrefix(text, "parse failed of process output") {
		e.text += ": " + text
	} else {
		e.text += " printed no JSON in AWS's form"
	}
	return e
}

// The exit codes of a shell that does not find a program, or must not run it.
const (
	exitNotRunnable = 126
	exitNotFound    = 127
)

func timedOut(failed *processcreds.ProviderError) bool {
	return strings.Contains(failed.Error(), "timed out")
}

// programError is the failure of a credential_process, with its next step.
type programError struct{ text, next string }

func (e *programError) Error() string { return e.text }

// NextSignIn serves package fail.
func (e *programError) NextSignIn() string { return e.next }
