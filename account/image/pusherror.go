package image

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/words"
)

// explain gives the error of a push its kind and the next step. most is the size of the largest blob.
func explain(op string, tag name.Tag, most int64, err error) error {
	registry := tag.RegistryStr()
	answer, ok := errors.AsType[*transport.Error](err)
	if !ok {
		return fail.New(fail.Other, op, err, nextUnreached(registry, err))
	}
	cause := short(err)
	isECR := strings.Contains(registry, ".dkr.ecr") || strings.Contains(registry, ".dkr-ecr.")
	switch {
	case answer.StatusCode == http.StatusUnauthorized, isECR && mentions(answer, "token has expired"):
		next := "get another password for " + registry
		if isECR {
			next += ": ECR's are valid for 12 hours"
		}
		return fail.New(fail.Credentials, op, cause, next)
	case isECR && mentions(answer, "not authorized to perform"):
		return fail.AdminAWS(fail.Denied, op, "ecr:PutImage", "", &denial{answer.Errors[0].Message, cause})
	case answer.StatusCode == http.StatusForbidden:
		return fail.New(fail.Denied, op, cause, "ask the owner of "+registry+" for permission to push to "+tag.RepositoryStr())
	case isTagTaken(answer):
		return fail.New(fail.Usage, op, cause, "push under another tag: the repository keeps what a tag named first")
	case answer.StatusCode == http.StatusNotFound:
		return fail.New(fail.Usage, op, cause, "create the repository "+tag.RepositoryStr()+" in "+registry)
	case answer.StatusCode == http.StatusRequestEntityTooLarge:
		return fail.New(fail.Other, op, cause, "raise the limit of uploads at "+registry+", or at a proxy before it, to "+
			words.Bytes(float64(most))+" at least")
	case isPassing(err):
		return fail.New(fail.Other, op, cause, "push again later: what the registry has is not sent again")
	}
	return fail.New(fail.Other, op, cause, "check whether "+registry+" is a container registry, and see its log")
}

// nextUnreached returns the next step after a failure on the way to the registry.
func nextUnreached(registry string, err error) string {
	if errors.Is(err, errNoTLS) {
		return "give " + registry + " a certificate: only a registry on this machine is spoken to without TLS"
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "add the CA certificate of " + registry + ", or of a proxy before it, to those that this machine trusts"
	}
	return "check the network, the proxy settings and the name " + registry + ", then push again: what the registry has is not sent again"
}

// isTagTaken tells the refusal to give an immutable tag another image.
func isTagTaken(answer *transport.Error) bool {
	return mentions(answer, "immutable") ||
		slices.ContainsFunc(answer.Errors, func(d transport.Diagnostic) bool { return d.Code == transport.TagInvalidErrorCode })
}

// mentions tells whether a registry's message contains a text.
func mentions(answer *transport.Error, text string) bool {
	return slices.ContainsFunc(answer.Errors, func(d transport.Diagnostic) bool { return strings.Contains(d.Message, text) })
}

// short replaces a registry's answer, which may be a page of HTML, by a line.
func short(err error) error {
	answer, ok := errors.AsType[*transport.Error](err)
	if !ok {
		return err
	}
	text := fmt.Sprintf("the registry answered %d %s", answer.StatusCode, http.StatusText(answer.StatusCode))
	if answer.Request != nil {
		text += fmt.Sprintf(" to %s %s", answer.Request.Method, answer.Request.URL.Path)
	}
	for _, d := range answer.Errors {
		text += fmt.Sprintf(": %s: %s", d.Code, d.Message)
	}
	return &shortened{text, err}
}

// shortened shows a short text for an error and keeps the error for errors.As.
type shortened struct {
	text  string
	whole error
}

func (s *shortened) Error() string { return s.text }
func (s *shortened) Unwrap() error { return s.whole }

// denial is the answer of ECR's registry in which IAM refuses an action, as the AWS SDK would show it.
type denial struct {
	message string
	whole   error
}

func (d *denial) Error() string        { return d.whole.Error() }
func (d *denial) Unwrap() error        { return d.whole }
func (d *denial) ErrorCode() string    { return "AccessDeniedException" }
func (d *denial) ErrorMessage() string { return d.message }
