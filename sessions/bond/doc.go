// Package bond makes one connection out of many byte streams, its subflows. The connection is as fast as all of them together, and
// survives as long as a subflow comes back in time. Both ends use the package. It knows neither what carries the subflows (SSM
// sessions) nor what the connection carries (SSH). docs/bond.md specifies the protocol; the terms are those of Multipath TCP (RFC
// 8684).
//
// [Dial] makes the client's end and opens subflows as they are needed; a [Listener] makes the server's ends. Inside a [Conn],
// machine is one end of the protocol, without I/O, goroutines or clock. It numbers the bytes and schedules them on the subflows
// (schedule.go, flow.go, lanes.go). It writes and reads frames (output.go, input.go), and says when it needs its next call
// (timers.go). A reader and a writer for each subflow (subflow.go), a timer, and the callers of the Conn's methods share the
// machine under one lock.
//
// A client's manager opens and closes subflows as its policy says. The policy is as pure as the machine. Its parts are health,
// growth, places and pacing.
package bond
