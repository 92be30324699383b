// Command bastion reaches private AWS networks through SSM: it starts a bastion task without inbound ports, and forwards
// local ports to databases and hosts behind it. docs/configuration.md and `bastion help` say what it takes.
package main

import (
	"context"
	"os"
	"os/signal"
)

// main turns signals into the end of a context and the outcome into an exit code. It is the only place that exits.
func main() {
	ctx, cancel := context.WithCancelCause(context.Background())
	keepPipeErrors()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, endSignals...)
	go func() {
		sig := <-signals
		// From here on a second signal has its default effect: it ends the process at once.
		signal.Reset(endSignals...)
		cancel(interrupted{sig})
	}()
	os.Exit(run(ctx, os.Args, stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr}))
}
