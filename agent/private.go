package agent

import (
	"context"
	"errors"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// Private makes an Agent the agent of one command, in the command's own process. Such an Agent has no socket, lock, file or timer. It
// begins with the command's first request, opens attached forwards only, and ends with Close. Its one link is narrowed to the
// destinations of the request, and is not made again once it has given up.
type Private struct {
	// Access opens the way to AWS as the command itself does: by the environment, the terminal and the settings of its process.
	Access func(context.Context, access.Options) (*access.Access, error)
	// Lost is told why the link has given up. The forwards go on listening until their request ends, because names may lead to them.
	// It must not block.
	Lost func(error)
}

// Close ends a private Agent and waits until that is done: controllers first, then links.
func (a *Agent) Close() {
	a.cancel()
	a.close()
}

// isPrivate reports whether the Agent belongs to one command.
func (a *Agent) isPrivate() bool { return a.cfg.Private != nil }

// access opens the way to AWS: a shared Agent's acts by the variables of the request, which o has, and a private one's by those of this
// process.
func (a *Agent) access(ctx context.Context, s config.Settings, o access.Options) (*access.Access, error) {
	if a.isPrivate() {
		o.Env = nil
		return a.cfg.Private.Access(ctx, o)
	}
	o.Version = a.cfg.Version
	return access.New(ctx, s, o)
}

// checkPrivate refuses what a private Agent does not do.
func (a *Agent) checkPrivate(req api.OpenRequest) error {
	if a.isPrivate() && req.Detached {
		return fail.New(fail.Usage, "", errors.New("a detached forward needs the user's agent"), "leave out --detach or --no-agent")
	}
	return nil
}

// permitOf returns the destinations that the grant of a link for wishes is narrowed to. A proxy's clients choose theirs: the setting
// bounds these.
func permitOf(wishes []*wish, s config.Settings) []string {
	var permit []string
	seen := make(map[string]bool)
	for _, f := range wishes {
		if f.record.Request.Kind == api.KindProxy {
			return s.Grant.Permit
		}
		for _, destination := range f.destinations {
			if !seen[destination] {
				seen[destination] = true
				permit = append(permit, destination)
			}
		}
	}
	return permit
}
