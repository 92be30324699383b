package setup

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/bastion-ssm/bastion/account/image"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// Registry pushes images to repositories in ECR.
type Registry struct {
	token     func(context.Context, *ecr.GetAuthorizationTokenInput, ...func(*ecr.Options)) (*ecr.GetAuthorizationTokenOutput, error)
	transport http.RoundTripper
}

// NewRegistry returns the account's registry. transport is for the registry's own protocol; nil: the environment's proxy and the
// system's certificates.
func NewRegistry(cfg aws.Config, transport http.RoundTripper) *Registry {
	// The method alone: a client in an interface would make the linker keep all of ECR's calls.
	return &Registry{token: ecr.NewFromConfig(cfg).GetAuthorizationToken, transport: transport}
}

// Push sends images to a repository, HOST/NAME as the stack's output RepositoryUri has it. What is there already is not
// sent again, so that a push that was interrupted goes on. progress may be nil.
func (r *Registry) Push(ctx context.Context, images []Image, repository string, progress func(image.Progress)) error {
	if repository == "" {
		return fail.New(fail.Other, "push the image", errors.New("the stack has no output "+RepositoryOutput), "see what it lacks: bastion plan")
	}
	auth, err := r.signIn(ctx)
	if err != nil {
		return err
	}
	for _, i := range images {
		o := image.Options{Auth: auth, Transport: r.transport, Progress: progress}
		if err := image.Push(ctx, i.index, repository+":"+i.Tag, o); err != nil {
			return err
		}
	}
	return nil
}

// signIn returns the user and password that ECR gives for 12 hours.
// Source: the Amazon ECR API reference, GetAuthorizationToken.
func (r *Registry) signIn(ctx context.Context) (authn.Authenticator, error) {
	const op = "sign in to the registry of the account"
	out, err := r.token(ctx, &ecr.GetAuthorizationTokenInput{})
	if err != nil {
		return nil, fail.AdminAWS(fail.Other, op, "ecr:GetAuthorizationToken", "", err)
	}
	if len(out.AuthorizationData) == 0 {
		return nil, fail.New(fail.Other, op, errors.New("ECR answered without a token"), "try again")
	}
	text, err := base64.StdEncoding.DecodeString(aws.ToString(out.AuthorizationData[0].AuthorizationToken))
	user, password, ok := strings.Cut(string(text), ":")
	if err != nil || !ok {
		return nil, fail.New(fail.Other, op, errors.New("ECR's token is not in the form USER:PASSWORD"), "try again")
	}
	return &authn.Basic{Username: user, Password: password}, nil
}
