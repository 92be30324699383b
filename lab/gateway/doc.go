// Package gateway is the local stand-in of the Session Manager message gateway and of the SSM agent behind it.
//
// AWS's own clients work against it unmodified: the session-manager-plugin, the AWS CLI, ssm-session-client. It is part of the
// lab; product code must not import it.
package gateway
