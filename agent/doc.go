// Package agent is the agent process: one for each user, which owns links and forwards so that they outlive the commands that
// asked for them. It serves the control API (package api) on a unix socket.
//
// A request brings the settings and variables of the command that made it. Requests that agree in them, and in whose AWS credentials
// they are, share a link: an access.Access and its connections to the bastion, which are made when somebody needs them and closed when
// nobody has used them for a while. Forwards are listeners whose connections go through a link. Those that are attached to a request end with it, also when
// the command was killed; detached ones are written to a file, without secrets, and come back when the agent starts again.
//
// Package forwards has the state of each forward; a controller here has its listener and its clients. docs/adr/0011-forward-states.md
// says which step leads where.
//
// With --no-agent a command has an Agent in its own process, for itself alone: see Private.
//
// One process at a time holds the lock beside the socket, which the system releases whatever becomes of the process.
package agent
