// Package forwards is the registry of the agent's forwards: for each its record, its name and its state.
//
// The package is pure. It does no I/O, starts no goroutine, takes no lock and reads no clock: times are arguments. Its caller holds one
// lock around each call, and acts on the answers: package agent opens the ports, serves the clients and writes the file.
package forwards
