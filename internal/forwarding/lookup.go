package forwarding

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/agent/dsn"
	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/targets"
)

// LookUp finds the endpoints of all groups, in the order of the command line, because their facts are needed before the forwards. It
// makes a token for each if there is an IAM user. Only databases of RDS have tokens; of the others there must be at least one that is.
func (a *Forwarder) LookUp(ctx context.Context, command string, groups []request.Group, iamUser string,
) ([]targets.Endpoint, []string, error) {
	n := len(request.Items(groups))
	endpoints, tokens := make([]targets.Endpoint, n), make([]string, n)
	var refused error
	for _, g := range groups {
		some, of, no, err := a.lookUpGroup(ctx, command, g, iamUser)
		if err != nil {
			return nil, nil, err
		}
		refused = cmp.Or(refused, no)
		for i, at := range g.At {
			endpoints[at], tokens[at] = some[i], of[i]
		}
	}
	if iamUser != "" && !slices.ContainsFunc(tokens, func(t string) bool { return t != "" }) {
		return nil, nil, refused
	}
	return endpoints, tokens, nil
}

// lookUpGroup is LookUp for one group. refused is why a target has no token.
func (a *Forwarder) lookUpGroup(ctx context.Context, command string, g request.Group, iamUser string,
) (_ []targets.Endpoint, tokens []string, refused, err error) {
	run, err := a.Open(ctx, command, g.Settings)
	if err != nil {
		return nil, nil, nil, err
	}
	defer run.Close()
	specs := make([]targets.Spec, len(g.Requests))
	names := make([]string, len(g.Requests))
	for i, p := range g.Pairs {
		specs[i], names[i] = p.Target, p.Target.String()
	}
	run.Progress.Step("looking up " + strings.Join(names, ", "))
	endpoints, err := run.Access.Resolve(ctx, specs)
	tokens = make([]string, len(specs))
	if err != nil || iamUser == "" {
		return endpoints, tokens, nil, err
	}
	for i, e := range endpoints {
		token, err := run.Access.Token(ctx, e, iamUser)
		switch kind := dsn.ProtocolOf(e.Engine, e.Port); {
		case err == nil:
			tokens[i] = token
		case kind == dsn.Postgres || kind == dsn.MySQL:
			return nil, nil, nil, err // it would be signed in to without
		case refused == nil:
			refused = err
		}
	}
	return endpoints, tokens, refused, nil
}
