package rdp

import (
	"fmt"
	"net/netip"
	"strings"
	"unicode"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// Port is the port of Windows's remote desktop.
const Port = 3389

// DefaultUser is the user whose password EC2 makes.
const DefaultUser = "Administrator"

// CheckUser refuses a user name that would add lines to a file or options to a command.
func CheckUser(user string) error {
	if user == "" || len(user) > 256 || strings.ContainsFunc(user, unicode.IsControl) {
		return fail.Usagef(`give a name such as Administrator or CORP\ann`, "%q is not a user name", user)
	}
	return nil
}

// File returns the .rdp file of a desktop that is forwarded to addr. The certificate is the instance's own, for another name than
// the address: the client shows it and asks.
func File(addr netip.AddrPort, user string) []byte {
	lines := []string{
		"full address:s:" + addr.String(),
		"username:s:" + user,
		"prompt for credentials:i:1",
		"authentication level:i:2",
		"enablecredsspsupport:i:1",
		"autoreconnection enabled:i:1",
		"redirectclipboard:i:1",
		"drivestoredirect:s:",
		"redirectprinters:i:0",
	}
	return fmt.Appendf(nil, "%s\r\n", strings.Join(lines, "\r\n"))
}
