// Package carried has the binaries of bastiond that the program carries, for the image that `bastion init` pushes.
//
// A program carries them if it was built with the tag "carry", as `make build` does. The Makefile puts the binaries beside this file
// first, compressed by gzip. Without the tag there are none, so that `go build` needs nothing but the source code.
package carried
