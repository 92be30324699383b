package sshcommands

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/launch"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/openssh"
	"github.com/bastion-ssm/bastion/internal/sshproxy"
)

// isBastion reports whether a host of ssh_config stands for the bastion's own SSH server.
func isBastion(host string) bool { return host == "bastion" || strings.HasSuffix(host, ".bastion") }

// proxyOptions are the options of proxy that are no settings.
type proxyOptions struct {
	connect string // user of EC2 Instance Connect
	pass    bool
	yes     bool
}

func (a *program) proxyCommand() *cli.Command {
	var o proxyOptions
	return &cli.Command{
		Name:    "proxy",
		Summary: "connect standard input and output to a host behind the bastion (OpenSSH's ProxyCommand)",
		Args:    "HOST PORT", MinArgs: 2, MaxArgs: 2,
		About: []cli.Passage{
			cli.Para("ssh runs this command; bastion ssh-config writes the lines for ssh_config. HOST is one of:"),
			cli.Items("a name or address that the bastion resolves",
				`"bastion", or a name that ends in ".bastion": the bastion's own SSH server; PORT is not used then. ENV.bastion is
				that of an environment`,
				"the id of an EC2 instance (i-0123456789abcdef0) or other managed node: a session straight to its SSH server at PORT, "+
					"without a bastion"),
			cli.Para(`An ssh-agent socket (IdentityAgent) offers the ephemeral key to ssh, and the command known-hosts (KnownHostsCommand)
				prints the bastion's host key. Both stay in memory; the sockets are in runtime_dir.`),
			cli.Para(`With --fdpass, and ProxyUseFdpass yes in ssh_config, ssh gets the connection to the agent itself and the proxy ends.
				Hosts behind the bastion then need one process less for each ssh.`),
		},
		Examples: []string{
			"ssh -o ProxyCommand='bastion proxy %h %p' admin@10.0.12.7",
			"ssh -o ProxyCommand='bastion proxy %h %p' ec2-user@i-0123456789abcdef0",
			"ssh -F ssh_config.example -N -D 1080 bastion",
		},
		Flags: []cli.Option{
			cli.Text(&o.connect, "USER",
				"send the EC2 instance a new key for USER by EC2 Instance Connect; in ssh_config %r is the user", "instance-connect"),
			cli.Switch(&o.pass, "pass the connection to ssh and end (ProxyUseFdpass yes)", "fdpass"),
			invocation.YesFlag(&o.yes),
		},
		Settings: invocation.CommonSettings,
		Complete: bastionHost,
		Run:      a.With(func(ctx context.Context, s config.Settings, args []string) error { return a.proxy(ctx, s, args, o) }),
	}
}

// bastionHost completes the host of commands for ssh.
func bastionHost([]string) []cli.Candidate {
	return []cli.Candidate{{Value: "bastion", Help: "the bastion's own SSH server"}}
}

// proxy runs `bastion proxy`.
func (a *program) proxy(ctx context.Context, s config.Settings, args []string, o proxyOptions) error {
	name := args[0]
	if of, ok := strings.CutSuffix(name, ".bastion"); ok && slices.Contains(s.Environments, of) {
		name = of + "/" + name
	}
	s, host, err := a.Scoped(s, name)
	if err != nil {
		return err
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if host == "" {
		return fail.Usagef("usage: bastion proxy HOST PORT", "proxy: the host is empty")
	}
	port, err := portArg(args[1])
	if err != nil {
		return err
	}
	quiet := s.Output.Quiet
	if !console.IsTerminal(a.Raw.Err) {
		// Standard error is ssh's, or its caller's, who did not ask for a report.
		s.Output.Quiet = true
	}
	if o.connect != "" && !strings.HasPrefix(host, "i-") {
		return fail.Usagef("leave out --instance-connect, or name an instance's id as HOST",
			"--instance-connect is for EC2 instances; %s is not one", host)
	}
	if o.pass && (isBastion(host) || access.IsInstance(host) || !a.UsesAgent(ctx, s)) {
		return fail.Usagef("leave out --fdpass and ProxyUseFdpass",
			"--fdpass is for connections by the agent, to hosts behind the bastion")
	}
	if err := a.Confirm(ctx, o.yes, s); err != nil {
		return err
	}
	switch {
	case isBastion(host):
		return a.proxyToBastion(ctx, s, host)
	case access.IsInstance(host):
		return a.proxyToInstance(ctx, s, host, port, o.connect, quiet)
	}
	return a.proxyToHost(ctx, s, access.Destination(host, port), o.pass)
}

// proxyToBastion connects to the bastion's own SSH server.
func (a *program) proxyToBastion(ctx context.Context, s config.Settings, host string) error {
	return a.proxyServer(ctx, s, host,
		func(dir string) (*openssh.Sockets, error) {
			return openssh.Serve(dir, os.Getppid(), s.SSHD.Target == "", a.Logger(s, nil))
		},
		func(run *invocation.Session) (*access.SSHStream, error) {
			return run.Access.OpenSSH(ctx, s.Grant.Permit)
		})
}

// proxyToInstance connects to the SSH server of an EC2 instance or managed node. EC2 Instance Connect lets the user in that connect names.
func (a *program) proxyToInstance(ctx context.Context, s config.Settings, host string, port int, connect string, quiet bool) error {
	var sockets func(dir string) (*openssh.Sockets, error)
	if connect != "" {
		sockets = func(dir string) (*openssh.Sockets, error) {
			return openssh.ServeIdentity(dir, os.Getppid(), a.Logger(s, nil))
		}
	}
	return a.proxyServer(ctx, s, host, sockets,
		func(run *invocation.Session) (*access.SSHStream, error) {
			return run.Access.OpenInstance(ctx, host, port, connect, func(why error) {
				if !quiet {
					a.sayWaiting(run, host, why)
				}
			})
		})
}

// proxyToHost connects to a host behind the bastion, by the agent's link or one of its own.
func (a *program) proxyToHost(ctx context.Context, s config.Settings, dest string, pass bool) error {
	if a.UsesAgent(ctx, s) {
		connected, err := a.proxyByAgent(ctx, s, dest, pass)
		if connected || pass || !a.GoesOnAlone(ctx, s, err) {
			return err
		}
	}
	run, err := a.Open(ctx, "proxy", s)
	if err != nil {
		return err
	}
	defer run.Close()
	return a.proxyBehind(ctx, run, dest)
}

// proxyByAgent connects to a host behind the bastion by the link of the agent. Where that stands already it takes one
// question to the agent: whether it runs is asked only when it does not answer.
func (a *program) proxyByAgent(ctx context.Context, s config.Settings, dest string, pass bool) (connected bool, _ error) {
	client, err := launch.Client(s)
	if err != nil {
		return false, err
	}
	p := a.NewProgress(s)
	defer p.Close()
	p.Step("connecting to " + dest)
	req := api.DialRequest{Scope: invocation.AgentScope(s), Target: dest}
	if !pass {
		req.ID = rand.Text()
	}
	conn, err := launch.Dial(ctx, client, &req)
	if errors.Is(err, api.ErrNotRunning) {
		err = a.AskAgent(ctx, s, func(client *api.Client) (err error) {
			conn, err = launch.Dial(ctx, client, &req)
			return err
		})
	}
	if err != nil {
		return false, err
	}
	p.Idle()
	if !pass {
		why := sshproxy.UnlessEnd
		if req.ID != "" {
			why = func(error) error { return client.DialEnd(ctx, req.ID) }
		}
		return true, a.pipe(ctx, dest, &sshproxy.Conn{Conn: conn, Why: why})
	}
	defer func() { _ = conn.Close() }()
	out, ok := a.Raw.Out.(*os.File)
	if !ok {
		return true, fail.Usagef("leave out --fdpass", "standard output is not a file")
	}
	return true, sshproxy.PassConn(out, conn)
}

// proxyServer connects to an SSH server at the end of a session of its own. What ssh has to know of it is told by
// sockets, if serve, which may be nil, opens some.
func (a *program) proxyServer(
	ctx context.Context, s config.Settings, dest string, serve func(dir string) (*openssh.Sockets, error),
	open func(*invocation.Session) (*access.SSHStream, error),
) error {
	var sockets *openssh.Sockets
	if serve != nil { // before anything that takes time: ssh asks soon
		dir, err := dirs.Runtime(s.Local.RuntimeDir)
		if err != nil {
			return err
		}
		if sockets, err = serve(dir); err != nil {
			return err
		}
		defer sockets.Close()
	}
	run, err := a.Open(ctx, "proxy", s)
	if err != nil {
		return err
	}
	defer run.Close()
	stream, err := open(run)
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	run.Progress.Idle()
	conn := &sshproxy.Conn{Conn: stream.Conn, Why: sshproxy.UnlessEnd}
	if sockets == nil {
		return a.pipe(ctx, dest, conn)
	}
	sockets.OfferHostKeys(stream.HostKeys)
	pipeCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var offering sync.WaitGroup
	offering.Go(func() {
		signer, err := stream.Signer(pipeCtx)
		switch {
		case err != nil && pipeCtx.Err() == nil:
			cancel(err)
		case err == nil && signer != nil:
			sockets.OfferSigner(signer)
		}
	})
	err = a.pipe(pipeCtx, dest, conn)
	cancel(nil)
	offering.Wait()
	return err
}

// sayWaiting says why a connection to a node is not there yet. ssh's user needs that too, because most nodes that are not connected
// stay so.
func (a *program) sayWaiting(run *invocation.Session, host string, why error) {
	text := fmt.Sprintf("waiting up to %s for %s: %v", run.Settings.Link.ConnectTimeout, host, why)
	if next := fail.NextOf(why); next != "" {
		text += "\nhint: " + next
	}
	if run.Progress != nil {
		run.Progress.Note(text)
		return
	}
	_ = console.Printf(a.Err, "bastion: %s\n", console.Paragraph(text))
}

// proxyBehind connects to a host behind the bastion by a link of its own.
func (a *program) proxyBehind(ctx context.Context, run *invocation.Session, dest string) error {
	link, err := run.Link(ctx, []string{dest})
	if err != nil {
		return err
	}
	defer func() { _ = link.Close() }()
	conn, err := link.Dial(ctx, "tcp", dest)
	if err != nil {
		return err
	}
	return a.pipe(ctx, dest, &sshproxy.Conn{Conn: conn, Why: sshproxy.UnlessEnd})
}

// pipe connects the standard streams to conn, which leads to dest, until either has ended.
func (a *program) pipe(ctx context.Context, dest string, conn *sshproxy.Conn) error {
	err := sshproxy.Pipe(ctx, a.In, a.Raw.Out, dest, conn, func(err error) {
		_ = console.Printf(a.Err, "bastion: the connection to %s was lost: %s\n", dest, err) // one line
	})
	if errors.Is(err, sshproxy.ErrLost) {
		return &invocation.Told{Kind: fail.Lost}
	}
	return err
}

// portArg reads a port of the command line.
func portArg(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 65535 {
		return 0, fail.Usagef("give a number from 1 to 65535", "%q is not a port", text)
	}
	return n, nil
}
