package kubernetes

import (
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/forwarding"
)

// Commands returns the rows of the table of commands. group is their heading, and complete completes targets.
func Commands(forwarder *forwarding.Forwarder, group string, complete func() []cli.Candidate) []*cli.Command {
	p := &program{forwarder, complete}
	return cli.InGroup(group, p.kubeconfigCommand(), p.eksTokenCommand())
}

// program opens forwards for the commands.
type program struct {
	*forwarding.Forwarder

	complete func() []cli.Candidate
}
