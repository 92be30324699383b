package sshcommands

import (
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/invocation"
)

// Commands returns the rows of the table of commands. group is their heading.
func Commands(in *invocation.Invocation, group string) []*cli.Command {
	p := &program{in}
	return cli.InGroup(group, p.proxyCommand(), p.knownHostsCommand(), p.sshConfigCommand())
}

// program is the invocation, as the commands use it.
type program struct{ *invocation.Invocation }
