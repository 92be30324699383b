//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/bastion-ssm/bastion/e2e/rig"
)

// tunnel is one peer's running port forward.
type tunnel struct {
	addr string // where it listens
	proc *rig.Proc
	end  syscall.Signal
}

// usage is what the peer's process has used so far.
func (t *tunnel) usage() (rig.Usage, error) { return t.proc.Usage() }

// close ends the peer's process. Some peers end by themselves with their only connection.
func (t *tunnel) close() error {
	_, err := t.proc.Stop(t.end)
	return err
}

// peer is a program that forwards a local port to the far end's port.
type peer struct {
	name string
	// open starts the forward; it need not listen yet when open returns.
	open func(ctx context.Context, b *bench) (*tunnel, error)
	// coldOnly peers differ from another one only in how they start.
	coldOnly bool
}

func peers() []peer {
	return []peer{
		{name: "aws-cli+plugin", open: openCLI, coldOnly: true},
		{name: "session-manager-plugin", open: openPlugin},
		{name: "ssm-session-client", open: openSSMClient},
		{name: "bastion", open: openBastion},
	}
}

// openCLI runs what a user of the AWS CLI types.
func openCLI(_ context.Context, b *bench) (*tunnel, error) {
	port, err := rig.FreePort()
	if err != nil {
		return nil, err
	}
	params, err := json.Marshal(portParameters(b.far.Port(), port))
	if err != nil {
		return nil, err
	}
	proc, err := rig.Start(b.env(), b.aws, "--endpoint-url", b.lab.URL(), "ssm", "start-session", "--target", b.target,
		"--document-name", document, "--parameters", string(params))
	if err != nil {
		return nil, err
	}
	return &tunnel{addr: local(port), proc: proc, end: syscall.SIGINT}, nil
}

const document = "AWS-StartPortForwardingSession"

func portParameters(remote, local int) map[string][]string {
	return map[string][]string{"portNumber": {strconv.Itoa(remote)}, "localPortNumber": {strconv.Itoa(local)}}
}

// openPlugin does what the AWS CLI does, without the CLI's own start: StartSession, then the plugin.
func openPlugin(ctx context.Context, b *bench) (*tunnel, error) {
	port, err := rig.FreePort()
	if err != nil {
		return nil, err
	}
	in := &ssm.StartSessionInput{
		Target:       aws.String(b.target),
		DocumentName: aws.String(document),
		Parameters:   portParameters(b.far.Port(), port),
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
	return &tunnel{addr: local(port), proc: proc, end: syscall.SIGINT}, nil
}

// openSSMClient serves one connection only, as the library does.
func openSSMClient(_ context.Context, b *bench) (*tunnel, error) {
	port, err := rig.FreePort()
	if err != nil {
		return nil, err
	}
	proc, err := rig.Start(b.env(), b.ssmpeer, "forward", b.target, strconv.Itoa(b.far.Port()), strconv.Itoa(port))
	if err != nil {
		return nil, err
	}
	return &tunnel{addr: local(port), proc: proc, end: syscall.SIGINT}, nil
}

func openBastion(_ context.Context, b *bench) (*tunnel, error) {
	port, err := rig.FreePort()
	if err != nil {
		return nil, err
	}
	proc, err := rig.Start(b.env(), b.bastion, "forward", "-q", b.far.Addr(), strconv.Itoa(port))
	if err != nil {
		return nil, err
	}
	return &tunnel{addr: local(port), proc: proc, end: syscall.SIGINT}, nil
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
