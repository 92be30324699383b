package agent

import (
	"context"
	"slices"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/config"
)

// Private makes an Agent the agent of one command, in the command's own process. Such an Agent has no socket, lock, file or
// timer. It opens attached forwards only and ends with Close. Its one link has a grant for the request's destinations only. The
// link is not remade once it has given up.
type Private struct {
	// Access returns the command's own way to AWS, with its process's environment, terminal and settings.
	Access func(context.Context, access.Options) (*access.Access, error)
	// Lost receives the reason when the link gives up. The forwards listen until their request ends, because hosts-file names
	// may lead to them. It must not block.
	Lost func(error)
}

// Close ends a private Agent and waits for its end: controllers first, then links.
func (a *Agent) Close() {
	a.cancel()
	a.close()
}

// isPrivate reports whether the Agent belongs to one command.
func (a *Agent) isPrivate() bool { return a.cfg.Private != nil }

// access returns a way to AWS. The user's agent uses the request's variables, in o; a private Agent uses its process's own.
func (a *Agent) access(ctx context.Context, s config.Settings, o access.Options) (*access.Access, error) {
	if a.isPrivate() {
		o.Env = nil
		return a.cfg.Private.Access(ctx, o)
	}
	o.Version, o.MFA = a.cfg.Version, a.mfaFor(s, o.Env)
	return access.New(ctx, s, o)
}

// permitOf returns the destinations for the grant of the wishes' link. A proxy's clients choose their own destinations, so the
// setting permit applies.
func permitOf(wishes []*wish, s config.Settings) []string {
	var permit []string
	for _, f := range wishes {
		if f.record.Request.Kind == api.KindProxy {
			return s.Grant.Permit
		}
		for _, destination := range f.destinations {
			if !slices.Contains(permit, destination) {
				permit = append(permit, destination)
			}
		}
	}
	return permit
}
