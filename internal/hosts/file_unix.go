//go:build unix

package hosts

const (
	defaultCRLF = false
	replaceable = true
	elevate     = "sudo -E"
)

func defaultFile() string { return "/etc/hosts" }
