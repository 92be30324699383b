//go:build linux

package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/e2e/rig"
)

// tunnel is one peer's running port forward.
type tunnel struct {
	addr string // where it listens
	proc *rig.Proc
}

// usage is what the peer's processes have used so far.
func (t *tunnel) usage() (usage, error) { return sessionUsage(t.proc.Cmd.Process.Pid) }

// close ends the peer's processes. Some peers end by themselves with their only connection.
func (t *tunnel) close() error {
	_, err := t.proc.Stop(syscall.SIGINT)
	return err
}

// peer is a program that forwards a local port to a port of the far end's address, which is the task's own.
type peer struct {
	name string
	// open starts the forward; it need not listen yet when open returns.
	open func(ctx context.Context, b *bench, port int) (*tunnel, error)
	// coldOnly peers differ from another one only in how they start.
	coldOnly bool
	// single peers serve one connection, and end with it.
	single bool
	// sessions is how many bastion may use; 0 for the others.
	sessions int
}

const (
	plugin = "session-manager-plugin"
	ours   = "bastion-8" // as bastion is by default
)

func peers() []peer {
	return []peer{
		{name: "aws-cli+plugin", open: openCLI, coldOnly: true},
		{name: plugin, open: openPlugin},
		{name: "ssm-session-client", open: openSSMClient, single: true},
		{name: "openssh-over-plugin", open: openSSH},
		bastion(1), bastion(8), bastion(16),
	}
}

func peerNamed(name string) peer {
	all := peers()
	return all[slices.IndexFunc(all, func(p peer) bool { return p.name == name })]
}

// bastion is the peer that uses up to so many sessions; 0: as many as by default.
func bastion(sessions int) peer {
	return peer{
		name: "bastion-" + strconv.Itoa(sessions), sessions: sessions,
		open: func(_ context.Context, b *bench, port int) (*tunnel, error) {
			env := append(b.env(), "BASTION_REMEMBER_HOST_KEYS="+strconv.FormatBool(!b.forgetful))
			if sessions > 0 {
				env = append(env, "BASTION_SESSIONS="+strconv.Itoa(sessions))
			}
			return start(env, func(listen int) []string {
				return []string{b.bastion, "forward", "-q", local(port), strconv.Itoa(listen)}
			})
		},
	}
}

// warm is how long a stream runs before its measurement, at a path delay in milliseconds. bastion adds sessions under load, and
// windows grow with each round trip.
func (p peer) warm(delay int) time.Duration {
	start := 2 * time.Second
	if p.sessions > 1 {
		start = 5 * time.Second
	}
	return start + 40*time.Duration(delay)*time.Millisecond
}

// start runs the command line of a peer that is to listen on a free port.
func start(env []string, commandLine func(listen int) []string) (*tunnel, error) {
	port, err := rig.FreePort()
	if err != nil {
		return nil, err
	}
	line := commandLine(port)
	proc, err := rig.Start(env, line[0], line[1:]...)
	if err != nil {
		return nil, err
	}
	return &tunnel{addr: local(port), proc: proc}, nil
}

// startSession is the AWS CLI's command line.
func (b *bench) startSession(document, parameters string) []string {
	return []string{
		b.aws, "--endpoint-url", b.lab.URL(), "ssm", "start-session", "--target", b.target,
		"--document-name", document, "--parameters", parameters,
	}
}

// openCLI runs what a user of the AWS CLI types.
func openCLI(_ context.Context, b *bench, port int) (*tunnel, error) {
	return start(b.env(), func(listen int) []string {
		return b.startSession(document, fmt.Sprintf("portNumber=%d,localPortNumber=%d", port, listen))
	})
}

const document = "AWS-StartPortForwardingSession"

// openPlugin does what the AWS CLI does, without the CLI's own start: StartSession, then the plugin.
func openPlugin(ctx context.Context, b *bench, port int) (*tunnel, error) {
	listen, err := rig.FreePort()
	if err != nil {
		return nil, err
	}
	in := &ssm.StartSessionInput{
		Target:       aws.String(b.target),
		DocumentName: aws.String(document),
		Parameters: map[string][]string{
			"portNumber": {strconv.Itoa(port)}, "localPortNumber": {strconv.Itoa(listen)},
		},
	}
	out, err := b.ssm.StartSession(ctx, in)
	if err != nil {
		return nil, err
	}
	response, err := json.Marshal(map[string]*string{
		"SessionId": out.SessionId, "StreamUrl": out.StreamUrl, "TokenValue": out.TokenValue,
	})
	if err != nil {
		return nil, err
	}
	request, err := json.Marshal(map[string]any{
		"Target": b.target, "DocumentName": document, "Parameters": in.Parameters,
	})
	if err != nil {
		return nil, err
	}
	proc, err := rig.Start(b.env(), b.plugin, string(response), b.region, "StartSession", "", string(request), b.lab.URL())
	if err != nil {
		return nil, err
	}
	return &tunnel{addr: local(listen), proc: proc}, nil
}

// openSSMClient serves one connection only, as the library does.
func openSSMClient(_ context.Context, b *bench, port int) (*tunnel, error) {
	return start(b.env(), func(listen int) []string {
		return []string{b.ssmpeer, "forward", b.target, strconv.Itoa(port), strconv.Itoa(listen)}
	})
}

// openSSH runs `ssh -N -L` to a stock sshd in the task's network, as AWS's guide for SSH through Session Manager says.
func openSSH(_ context.Context, b *bench, port int) (*tunnel, error) {
	return start(b.env(), func(listen int) []string {
		line := []string{b.ssh, "-N", "-F", "/dev/null", "-L", fmt.Sprintf("%s:%s", local(listen), local(port))}
		for _, o := range b.sshOptions {
			line = append(line, "-o", o)
		}
		return append(line, sshHost)
	})
}

const sshHost = "task"

// startSSHD starts the sshd and makes what a client of it needs: a key, its host key, and the proxy.
func (b *bench) startSSHD(dir string) error {
	program, err := rig.Find("sshd")
	if err != nil {
		return err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return err
	}
	if b.sshd, err = rig.StartSSHD(program, key); err != nil {
		return err
	}
	identity, known := filepath.Join(dir, "key"), filepath.Join(dir, "known_hosts")
	if err := os.WriteFile(identity, pem.EncodeToMemory(block), 0o600); err != nil {
		return err
	}
	line := sshHost + " " + string(ssh.MarshalAuthorizedKey(b.sshd.HostKey))
	if err := os.WriteFile(known, []byte(line), 0o600); err != nil {
		return err
	}
	_, port, _ := strings.Cut(b.sshd.Addr(), ":")
	b.sshOptions = []string{
		"IdentityFile=" + identity, "IdentitiesOnly=yes", "IdentityAgent=none", "UserKnownHostsFile=" + known,
		"GlobalKnownHostsFile=/dev/null", "StrictHostKeyChecking=yes", "BatchMode=yes", "LogLevel=ERROR",
		"ExitOnForwardFailure=yes",
		"ProxyCommand=" + strings.Join(b.startSession("AWS-StartSSHSession", "portNumber="+port), " "),
	}
	return nil
}

func local(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

// ready waits until the tunnel's listener is there, without using up the one connection that some peers serve.
func (t *tunnel) ready(ctx context.Context) error {
	_, port, _ := strings.Cut(t.addr, ":")
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	for {
		listening, err := rig.Listening(n)
		if err != nil || listening {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w while waiting for its listener:\n%s", t.proc.Cmd.Path, ctx.Err(), t.proc.Output())
		case <-t.proc.Ended():
			return errors.New("the peer ended: " + t.proc.Output())
		case <-time.After(5 * time.Millisecond):
		}
	}
}
