// Package e2e holds the end-to-end tests. They run the built commands, a lab, and real peers on both sides: PostgreSQL, Redis,
// OpenSSH, curl, Chromium, the AWS CLI, AWS's session-manager-plugin and ssm-session-client.
package e2e
