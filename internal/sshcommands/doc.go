// Package sshcommands has the commands that OpenSSH calls, proxy and known-hosts, and ssh-config, which has OpenSSH call them. OpenSSH's
// side of them is in internal/sshproxy, internal/openssh and internal/sshconfig.
package sshcommands
