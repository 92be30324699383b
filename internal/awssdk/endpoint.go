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

// endpoints lead the calls to AWS, those for credentials too, to the endpoints that variables name. The SDK by itself makes the clients for
// credentials before it has looked at AWS_ENDPOINT_URL, and knows the services' own variables from its own process only.
type endpoints struct {
	env     *Env
	ignored bool // the profile says that only code may choose endpoints
}

// of returns the endpoint for a service; nil: as the SDK finds it.
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

// add puts the endpoints into the stack of an operation.
func (e *endpoints) add(stack *middleware.Stack) error {
	const resolved = "ResolveEndpointV2"
	if _, ok := stack.Finalize.Get(resolved); !ok {
		return nil // of an endpoint that has no service
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
