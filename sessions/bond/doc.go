// Package bond makes one connection of many byte streams, its subflows: as fast as all of them together, and alive as long as
// there is one now and then. Both ends use it, and it knows neither what carries the subflows (SSM sessions) nor what the
// connection carries (SSH). docs/bond.md specifies its protocol; the terms are those of Multipath TCP (RFC 8684).
//
// The client's end comes from [Dial], which opens subflows as they are needed, and the server's from a [Listener]. Inside a
// [Conn], machine is one end of the protocol without I/O, goroutines or clock: it numbers the bytes, schedules them on the
// subflows (schedule.go, flow.go, lanes.go), writes and takes in frames (output.go, input.go), and says when it is to be asked again
// (timers.go). A reader and a writer for each subflow (subflow.go), a timer, and the goroutines that call the Conn's methods work on
// it under one lock.
//
// A client's manager opens and closes subflows as its policy says, which is as pure as the machine: health, growth, places and pacing.
package bond
