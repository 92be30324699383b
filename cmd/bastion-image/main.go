// Command bastion-image makes the OCI image of bastiond from its binaries, without a container engine: `make image` runs it.
// Package account/image has what it does.
package main

import "os"

// main is the only place that exits.
func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }
