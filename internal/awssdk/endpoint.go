package awssdk

import (
	"cmp"
	"context"
	"net/url"
	"strings"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// endpoints leads calls to AWS, including those for credentials, to the endpoints in the variables. The SDK creates its
// credential clients before it reads AWS_ENDPOINT_URL. It reads the services' own variables only from its own process.
type endpoints struct {
	env     *Env
	ignored bool // the profile has ignore_configured_endpoint_urls
}

// of returns the endpoint for a service; nil: the SDK's choice.
func (e *endpoints) of(service string) *url.URL {
	const global = "AWS_ENDPOINT_URL"
	if e.ignored || service == "" {
		return nil
	}
	own := servicesEndpoints + strings.ReplaceAll(strings.ToUpper(service), " ", "_")
	found, err := url.Parse(cmp.Or(e.env.lookup(own), e.env.lookup(global)))
	if err != nil || found.Host == "" {
		return nil
	}
	return found
}

// add adds the endpoints to an operation's stack.
func (e *endpoints) add(stack *middleware.Stack) error {
	const resolved = "ResolveEndpointV2"
	if _, ok := stack.Finalize.Get(resolved); !ok {
		return nil // an endpoint without a service
	}
	return stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("EndpointOfVariables", e.lead), resolved, middleware.After)
}

func (e *endpoints) lead(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (
	middleware.FinalizeOutput, middleware.Metadata, error,
) {
	to := e.of(awsmiddleware.GetServiceID(ctx))
	if r, ok := in.Request.(*smithyhttp.Request); ok && to != nil && (r.URL.Host != to.Host || r.URL.Scheme != to.Scheme) {
		r.URL.Scheme, r.URL.Host, r.Host = to.Scheme, to.Host, ""
		r.URL.Path, r.URL.RawPath = smithyhttp.JoinPath(to.Path, r.URL.Path), ""
	}
	return next.HandleFinalize(ctx, in)
}
