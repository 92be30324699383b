// Package forwarding opens the forwards that a command needs, and does the command's work while they are open: by the user's agent, or
// by an agent in this process. Before that it looks the targets up, and with --hosts gives them names. The commands are in cmd/bastion
// and in packages of their own; what a forward is, is in package agent.
package forwarding
