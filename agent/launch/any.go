package launch

import (
	"context"
	"maps"
	"strings"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// anyVersion opens forwards by an agent of any version.
type anyVersion struct{ client *api.Client }

// Any returns client as an Opener for an agent of any version. An older one refuses the environment, which only names the settings
// beside it: such an agent opens the forwards without.
func Any(client *api.Client) api.Opener { return anyVersion{client} }

// Open implements api.Opener.
func (o anyVersion) Open(ctx context.Context, req api.OpenRequest, on func(api.Event)) error {
	err := o.client.Open(ctx, req, func(e api.Event) {
		if e.Event == api.EventError && e.Error != nil {
			if _, again := WithoutEnvironment(req.Scope, e.Error.Err()); again { // no event of the command
				return
			}
		}
		on(e)
	})
	if scope, ok := WithoutEnvironment(req.Scope, err); ok {
		req.Scope = scope
		return o.client.Open(ctx, req, on)
	}
	return err
}

// WithoutEnvironment returns the scope without its environment, if err is an older agent's refusal of it.
func WithoutEnvironment(scope api.Scope, err error) (api.Scope, bool) {
	const key = "environment"
	if fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), `unknown setting "`+key+`"`) || scope.Settings[key] == "" {
		return scope, false
	}
	scope.Settings = maps.Clone(scope.Settings)
	delete(scope.Settings, key)
	return scope, true
}
