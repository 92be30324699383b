//go:build !linux

package private

import "net"

// IsOwnTCP takes every connection: this system does not tell whose one is, and the caller's secrets must do.
func IsOwnTCP(_, _ net.Addr) bool { return true }
