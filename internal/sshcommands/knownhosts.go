package sshcommands

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/openssh"
	"github.com/bastion-ssm/bastion/internal/shared"
)

// knownHostsWait bounds how long known-hosts waits beyond start_timeout.
const knownHostsWait = 30 * time.Second

func (a *program) knownHostsCommand() *cli.Command {
	return &cli.Command{
		Name:    "known-hosts",
		Summary: "print the bastion's host key for ssh (OpenSSH's KnownHostsCommand)",
		Args:    "HOST", MinArgs: 1, MaxArgs: 1,
		About: []cli.Passage{cli.Para(`Asks the bastion proxy of the same ssh for the host key, waits until the proxy knows it, and prints a
			known_hosts line for HOST. For a host that is not the bastion it prints nothing: OpenSSH then reads its known_hosts files.`)},
		Examples: []string{"ssh -o KnownHostsCommand='/usr/local/bin/bastion known-hosts %H' bastion"},
		Settings: []string{config.GroupLocal},
		Complete: bastionHost,
		Run:      a.knownHosts,
	}
}

// knownHosts runs `bastion known-hosts`.
func (a *program) knownHosts(ctx context.Context, args []string) error {
	// OpenSSH's %H may be [host]:port.
	pattern := args[0]
	host := pattern
	if inner, _, err := net.SplitHostPort(pattern); err == nil {
		host = inner
	}
	if strings.ContainsAny(pattern, " \t\r\n,") || pattern == "" {
		return fail.Usagef("usage: bastion known-hosts %H", "%q is not a host", pattern)
	}
	if !isBastion(host) {
		return nil
	}
	s, err := a.Settings(ctx, shared.Cached)
	if err != nil {
		return err
	}
	dir, err := dirs.Runtime(s.Local.RuntimeDir)
	if err != nil {
		return err
	}
	limit := s.Bastion.StartTimeout + knownHostsWait
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fail.New(fail.Timeout, "",
		fmt.Errorf("the bastion's host key is not known after %s", limit), "allow more time with --start-timeout"))
	defer cancel()
	hostKeys, err := openssh.AskHostKeys(ctx, dir, os.Getppid())
	if err != nil {
		return err
	}
	var lines strings.Builder
	for _, key := range hostKeys {
		fmt.Fprintf(&lines, "%s %s", pattern, ssh.MarshalAuthorizedKey(key))
	}
	return a.Document("known_hosts", lines.String())
}
