// Package node is the far end of SSM sessions, as AWS's agent is it on an instance or in a task: it serves port sessions to handlers in
// its own process. It connects to no port and starts no process (docs/adr/0020-node.md). It knows nothing of SSH, and of AWS a signer
// and a source of credentials. It awaits proof on AWS.
//
// A [Node] keeps the control channel, on which the service asks it for sessions ([ParseTask]) and gets their outcomes. [Serve] serves one
// session on its data channel. Inside it, machine is the node's end of the channel, without I/O, goroutines, locks or clock. It is made
// of the same parts as the client's in package sessions: reliable.End and reliable.Upkeep. A transport.Driver runs it.
//
// The far end of a session is a [Handler], which gets a net.Conn in memory. With a client that multiplexes its connections, which
// AWS's plugin does, there is one Conn for each of them.
package node
