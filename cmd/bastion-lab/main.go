// Command bastion-lab is an AWS on this machine: ECS, SSM and the other services that bastion needs, with a database and a cache
// behind them. It is for trying bastion, for its tests, and for users' own CI. docs/lab.md describes it.
package main

import (
	"os"
	"os/signal"
	"slices"
)

// main hands the signals on and turns the outcome into an exit code. It is the only place that exits. A signal that was ignored
// from the start, by nohup for one, stays so.
func main() {
	signals := make(chan os.Signal, 4)
	if heeded := slices.DeleteFunc(slices.Clone(endSignals), signal.Ignored); len(heeded) > 0 {
		signal.Notify(signals, heeded...)
	}
	os.Exit(run(os.Args, stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr}, signals))
}
