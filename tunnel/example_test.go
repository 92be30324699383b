package tunnel_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/tunnel"
)

// A Link over plain TCP, with one forward, until Ctrl-C.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	var hostKey ssh.PublicKey // from a channel that can be trusted
	var signer ssh.Signer
	link := tunnel.NewLink(tunnel.ConnectorFunc(func(ctx context.Context) (*tunnel.Transport, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", "bastion.example.com:22")
		if err != nil {
			return nil, err // the Link tries again
		}
		return &tunnel.Transport{
			Conn: conn, Describe: "bastion.example.com", User: "ec2-user",
			Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKey: ssh.FixedHostKey(hostKey),
		}, nil
	}), tunnel.LinkConfig{OnState: func(s tunnel.State) {
		fmt.Fprintln(os.Stderr, s.Phase, s.Describe, s.Err)
	}})
	link.Start(ctx)
	defer link.Close()
	if err := link.Ready(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}

	listener, err := tunnel.Listen(ctx, "127.0.0.1:15432", false)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	if err := tunnel.Forward(ctx, listener, link, "db.internal.example.com:5432", tunnel.ForwardConfig{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}
