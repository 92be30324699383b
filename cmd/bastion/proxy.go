package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/tunnel"
)

// isBastion reports whether a host of ssh_config stands for the bastion's own SSH server.
func isBastion(host string) bool { return host == "bastion" || strings.HasSuffix(host, ".bastion") }

// knownHostsWait bounds how long known-hosts waits beyond start_timeout.
const knownHostsWait = 30 * time.Second

// proxy runs `bastion proxy`.
func (a *app) proxy(c *cli.Context) error {
	ctx := c.Context
	if err := argCount(c, 2, 2); err != nil {
		return err
	}
	s, err := a.settings()
	if err != nil {
		return err
	}
	host := strings.TrimSuffix(strings.TrimPrefix(c.Args().Get(0), "["), "]")
	if host == "" {
		return usage("usage: bastion proxy HOST PORT", "the host is empty")
	}
	port, err := portArg(c.Args().Get(1))
	if err != nil {
		return err
	}
	if f, ok := a.err.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		// Standard error is ssh's, or its caller's, who did not ask for a report.
		s.Quiet = true
	}
	var sockets *agent.OpenSSH
	if isBastion(host) {
		dir, err := agent.RuntimeDir(s)
		if err != nil {
			return err
		}
		if sockets, err = agent.ServeOpenSSH(dir, os.Getppid(), s.Target == "", a.logger(s, nil)); err != nil {
			return err
		}
		defer sockets.Close()
	}
	run, err := a.open(ctx, "proxy", s)
	if err != nil {
		return err
	}
	defer run.close()
	if sockets == nil {
		return a.proxyBehind(ctx, run, agent.Destination(host, port))
	}
	stream, err := run.agent.OpenSSH(ctx, s.Permit)
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	run.progress.Idle()
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
	err = a.pipe(pipeCtx, stream.Conn)
	cancel(nil)
	offering.Wait()
	return err
}

// proxyBehind connects to a host behind the bastion.
func (a *app) proxyBehind(ctx context.Context, run *session, dest string) error {
	link, err := run.link(ctx, []string{dest})
	if err != nil {
		return err
	}
	defer func() { _ = link.Close() }()
	conn, err := link.Dial(ctx, "tcp", dest)
	if err != nil {
		return err
	}
	return a.pipe(ctx, conn)
}

// pipe connects the standard streams to conn until either has ended.
func (a *app) pipe(ctx context.Context, conn net.Conn) error {
	err := tunnel.Pipe(ctx, a.in, writeCloser(a.out), conn)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil && !clientGone(err) {
		return fail.New(fail.Lost, "the connection was lost", err, "")
	}
	return nil
}

// clientGone reports whether a pipe ended because ssh did: a session has no half-close, so that the end of standard input
// ends both directions.
func clientGone(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, syscall.EPIPE)
}

// writeCloser makes w closable.
func writeCloser(w io.Writer) io.WriteCloser {
	if c, ok := w.(io.WriteCloser); ok {
		return c
	}
	return nopCloser{w}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// knownHosts runs `bastion known-hosts`.
func (a *app) knownHosts(c *cli.Context) error {
	if err := argCount(c, 1, 1); err != nil {
		return err
	}
	// OpenSSH's %H may be [host]:port.
	pattern := c.Args().First()
	host := pattern
	if inner, _, err := net.SplitHostPort(pattern); err == nil {
		host = inner
	}
	if strings.ContainsAny(pattern, " \t\r\n,") || pattern == "" {
		return usage("usage: bastion known-hosts %H", "%q is not a host", pattern)
	}
	if !isBastion(host) {
		return nil
	}
	s, err := a.settings()
	if err != nil {
		return err
	}
	dir, err := agent.RuntimeDir(s)
	if err != nil {
		return err
	}
	limit := s.StartTimeout + knownHostsWait
	ctx, cancel := context.WithTimeoutCause(c.Context, limit, fail.New(fail.Timeout, "",
		fmt.Errorf("the bastion's host key is not known after %s", limit), "allow more time with --start-timeout"))
	defer cancel()
	hostKeys, err := agent.AskHostKeys(ctx, dir, os.Getppid())
	if err != nil {
		return err
	}
	for _, key := range hostKeys {
		if _, err := fmt.Fprintf(a.out, "%s %s", pattern, ssh.MarshalAuthorizedKey(key)); err != nil {
			return err
		}
	}
	return nil
}
