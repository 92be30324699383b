// Package commands has the commands of the agent's process: agent, which runs, starts and ends it, and service, which has the system
// start it. Finding and starting the agent is in agent/launch, the units of service managers are in internal/service.
package commands
