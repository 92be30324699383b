// Command bastion reaches private AWS networks through SSM: it starts a bastion task without inbound ports, and forwards
// local ports to databases and hosts behind it. docs/configuration.md and `bastion help` say what it takes.
package main

import (
	"context"
	"os"

	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/process"
)

// main turns signals into the end of a context and the outcome into an exit code. It is the only place that exits.
func main() {
	ctx, cancel := context.WithCancelCause(context.Background())
	process.KeepPipeErrors()
	sigs := process.Watch(cancel)
	os.Exit(run(ctx, os.Args, invocation.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Signals: sigs}))
}
