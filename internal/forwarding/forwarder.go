package forwarding

import (
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/invocation"
)

// Forwarder opens the forwards of an invocation, by an api.Opener, and does its work while they are open.
type Forwarder struct{ *invocation.Invocation }

// DetachFlag is the option of commands whose forwards may stay.
func DetachFlag(into *bool) cli.Option {
	return cli.Switch(into, "end once it is ready; the agent keeps it", "detach", "d")
}
