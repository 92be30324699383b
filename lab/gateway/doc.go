// Package gateway stands in for AWS's Session Manager message gateway, and for the SSM agent behind it. It speaks the data
// channel's websocket protocol to clients. It runs the agent's plugins for ports and commands at the real agent's pace, and injects
// faults.
//
// AWS's own clients work against it unmodified: the session-manager-plugin, the AWS CLI, ssm-session-client. It is part of the lab;
// product code must not import it.
package gateway
