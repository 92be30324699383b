// Package server is bastiond, the SSH server inside a bastion. It listens on loopback only, and accepts public keys with a live
// grant. For these it does one thing: it opens TCP connections to destinations on its allow-list, and checks each by the address
// that it dials. It writes an audit line for everything that it does or refuses.
//
// A Server has one loop (Server.watch) that owns its timers, one goroutine per connection and one per channel; Run waits for all of
// them. Server.mu guards their shared state.
package server
