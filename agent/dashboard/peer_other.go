//go:build !linux

package dashboard

import "net"

// isOwn takes every connection: this system does not tell whose one is, and the session's secrets must do.
func isOwn(_, _ net.Addr) bool { return true }
