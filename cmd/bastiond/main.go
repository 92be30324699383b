// Command bastiond is the server inside a bastion: an SSH server on loopback that forwards connections to permitted
// destinations, for keys that were granted. `bastiond help` lists its commands and settings.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// main turns the first signal into a drain and the second into an immediate end. It is the only place that exits.
func main() {
	drain, startDrain := context.WithCancel(context.Background())
	end, endNow := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		startDrain()
		<-signals
		endNow()
	}()
	os.Exit(run(drain, end, os.Args, os.Environ(), os.Stdout, os.Stderr))
}
