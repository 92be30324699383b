// Command ssmpeer runs the session client of github.com/mmmorris1975/ssm-session-client as a program of its own, so that the
// tests and benchmarks can put it beside bastion and the session-manager-plugin.
//
//	ssmpeer ssh TARGET PORT              joins stdin and stdout to PORT of TARGET (document AWS-StartSSHSession)
//	ssmpeer forward TARGET RPORT LPORT   serves ONE connection to LPORT, then ends (AWS-StartPortForwardingSession)
//
// Credentials, region and endpoints come from the environment and the profile, as in the AWS CLI (AWS_ENDPOINT_URL too).
// The client's own log goes to stderr. LPORT 0 picks a free port; the line "listening on ADDR" names it. The client library
// chooses the listening address (all interfaces): use it on test machines only.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/mmmorris1975/ssm-session-client/ssmclient"
)

const usage = "usage: ssmpeer ssh TARGET PORT | ssmpeer forward TARGET RPORT LPORT"

// errUsage is returned for a command line that does not parse.
var errUsage = errors.New(usage)

func main() {
	err := run(os.Args[1:])
	switch {
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "ssmpeer:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 3 {
		return errUsage
	}
	ports, err := parsePorts(args[2:])
	if err != nil {
		return err
	}
	cfg, err := config.LoadDefaultConfig(context.Background())
	if err != nil {
		return fmt.Errorf("load the AWS configuration: %w", err)
	}
	in := &ssmclient.PortForwardingInput{Target: args[1], RemotePort: ports[0]}

	switch {
	case args[0] == "ssh" && len(ports) == 1:
		return ssmclient.SSHSession(cfg, in) // handles the signals itself
	case args[0] == "forward" && len(ports) == 2:
		in.LocalPort = ports[1]
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		return ssmclient.PortForwardingSessionWithContext(ctx, cfg, in)
	}
	return errUsage
}

// parsePorts parses port numbers; 0 is allowed.
func parsePorts(words []string) ([]int, error) {
	ports := make([]int, len(words))
	for i, w := range words {
		n, err := strconv.ParseUint(w, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("port %q: %w", w, errUsage)
		}
		ports[i] = int(n)
	}
	return ports, nil
}
