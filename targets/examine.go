package targets

import "context"

// Thing is what AWS says of a target besides its endpoint. Package doctor judges it.
type Thing struct {
	What   string // "RDS instance"; "": the target is a host, or AWS does not know it
	ID     string
	Status string // AWS's word, or ""
	Down   bool   // it takes no connections, or has no address (yet)

	Groups    []string // ids of the security groups that admit its clients
	GroupsErr error
	Unguarded string // why it has none; "": it should have some
	SignIn    SignIn
}

// SignIn is what IAM has to do with a sign-in at a target.
type SignIn struct {
	Means  string
	Enable string // the command that turns IAM authentication on where it is off and missed; else ""
}

// match is the candidate that a Spec means, with the endpoint that its role and port choose. The candidate is there even if it has
// no such endpoint. It is zero for a host.
type match struct {
	endpoint Endpoint
	of       candidate
}

// Examine is Resolve with all that AWS says of the target. It says that also of a target that it returns an error for, if there is
// such a target. It may make more calls than Resolve.
func (r *Resolver) Examine(ctx context.Context, spec Spec) (Endpoint, Thing, error) {
	m, err := r.locate(ctx, spec)
	c := m.of
	if c.what == "" {
		return m.endpoint, Thing{}, err
	}
	thing := Thing{
		What: c.what, ID: c.id, Status: c.status, Down: c.usability() == down || c.endpoint.Host == "",
		Groups: c.groups, Unguarded: c.unguarded, SignIn: c.signIn,
	}
	if c.seek != nil {
		thing.Groups, thing.GroupsErr = c.seek(ctx)
	}
	return m.endpoint, thing, err
}

// texts returns a list of values without the unset ones.
func texts[T any](list []T, of func(T) *string) []string {
	var out []string
	for _, t := range list {
		if text := of(t); text != nil && *text != "" {
			out = append(out, *text)
		}
	}
	return out
}
