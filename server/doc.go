// Package server is bastiond: the SSH server inside a bastion. It listens on loopback only, accepts public keys that
// have a live grant, and does one thing for them: it opens TCP connections to destinations on its allow-list, each
// checked by the address that is dialed, and writes an audit line for everything that is done or refused.
//
// A Server has one loop (Server.watch) that owns its timers, one goroutine per connection and one per channel; Run
// waits for all of them. Server.mu guards the state that they share.
package server
