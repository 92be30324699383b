// Package agent is the agent process, one for each user. It owns links and forwards, so that they outlive the commands that
// requested them. It serves the control API (package api) on a unix socket.
//
// A request brings its command's settings and variables. Requests share a link if these agree and their AWS credentials have
// the same owner. A link is an access.Access with its connections to the bastion. The first use connects it; the agent closes
// it when it is idle. Forwards are listeners whose connections go through a link. An attached forward ends with its request,
// even if the command is killed. Detached forwards are kept in a file, without secrets, and come back when the agent starts
// again.
//
// Package forwards has each forward's state. A controller here has its listener and its clients.
// docs/adr/0011-forward-states.md has the table of transitions.
//
// With --no-agent a command has an Agent in its own process, for itself alone: see Private.
//
// One process at a time holds the lock beside the socket. The system releases the lock when the process ends, in any way.
package agent
