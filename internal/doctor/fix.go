package doctor

import (
	"context"
	"fmt"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/hosts"
	"github.com/bastion-ssm/bastion/internal/process"
	"github.com/bastion-ssm/bastion/internal/sshconfig"
)

// Fix is a change on this machine that mends a finding. Each is safe to make: it removes what an ended process has left, or writes anew
// what bastion itself has written.
type Fix struct {
	ID   string `json:"id"` // of the check
	Does string `json:"does"`

	apply func(ctx context.Context, s config.Settings) error
}

// fixes are the changes that the facts call for.
func fixes(f *Facts) []Fix {
	out := []Fix{}
	if m := f.Machine; m.Stale {
		out = append(out, Fix{"machine.agent", "remove the socket of the ended agent, " + m.Socket, func(context.Context, config.Settings) error {
			agent.RemoveStale(m.Socket)
			return nil
		}})
	}
	if p := f.Machine.SSH; p.Renewed != "" {
		out = append(out, Fix{"machine.openssh", "write bastion's block in " + p.Path + " anew, of the same options", func(context.Context,
			config.Settings,
		) error {
			_, err := sshconfig.Edit(p.Path, []byte(p.Renewed))
			return err
		}})
	}
	if m := f.Machine; len(m.HostsDead) > 0 {
		out = append(out, Fix{
			"machine.hosts", fmt.Sprintf("remove the lines of %d ended command(s) from %s", len(m.HostsDead), m.HostsFile),
			sweep,
		})
	}
	return out
}

// sweep removes the lines of ended commands from the hosts file.
func sweep(ctx context.Context, s config.Settings) error {
	locks, err := dirs.Runtime(s.Local.RuntimeDir)
	if err != nil {
		return err
	}
	return hosts.Open(s.Local.HostsFile, locks).Sweep(ctx, process.Alive)
}

// Apply makes a change.
func (f Fix) Apply(ctx context.Context, s config.Settings) error { return f.apply(ctx, s) }
