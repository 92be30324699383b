// Package forwards is the registry of the agent's forwards: for each its record, its name and its state.
//
// The package is pure: it does not do I/O, start goroutines, take locks or read a clock. Times are arguments. The caller holds
// one lock around each call and acts on the results. Package agent opens the ports, serves the clients and writes the file.
package forwards
