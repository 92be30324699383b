//go:build unix && !linux

package files

import "os"

// hasACL ignores ACLs: on macOS they are separate from the mode.
func hasACL(string) bool { return false }

// copyAttributes copies nothing: the new file loses ACLs and extended attributes.
func copyAttributes(_, _ *os.File) error { return nil }
