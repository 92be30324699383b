package account

import (
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/server"
)

// init refuses the destinations with which bastiond would not start, and no others.
func TestDestinationsAreAsBastiondTakesThem(t *testing.T) {
	for _, entry := range []struct {
		text string
		ok   bool
	}{
		{"db.example:5432", true},
		{"DB.Example.:5432", true},
		{"*.rds.amazonaws.com:5432", true},
		{"db-?.internal:1-65535", true},
		{"10.0.0.0/8:*", true},
		{"10.1.2.3:22", true},
		{"127.0.0.0/8:80", true},
		{"0.0.0.0/0:443", true},
		{"169.0.0.0/8:80", true},
		{"*:443", true},
		{"[::1]:80", true},
		{"[fd12::/16]:443", true},
		{"[2001:DB8::1]:443", true},
		{"_ldap._tcp.dc.example:1-2", true},
		{"3.example:80", true},
		{"i-0123.compute.internal:22", true},

		{"10.0.0.0/33:5432", false},
		{"10.0.0.1/8:5432", false},
		{"a/b:1", false},
		{"a.b:99999", false},
		{"x.y:0", false},
		{"db", false},
		{"db:", false},
		{":5432", false},
		{"db:01", false},
		{"db:+1", false},
		{"db:-1", false},
		{"db:1-", false},
		{"db:1-2-3", false},
		{"db:http", false},
		{"10.1.0.0/16:5440-5432", false},
		{"169.254.169.254:80", false},
		{"169.254.170.0/24:*", false},
		{"[fd00:ec2::254]:80", false},
		{"[fe80::/64]:1", false},
		{"[ff02::1]:1", false},
		{"224.0.0.1:1", false},
		{"255.255.255.255:1", false},
		{"0.0.0.0:1", false},
		{"[::]:1", false},
		{"a..b:1", false},
		{"caf\u00e9:1", false},
		{"127.1:1", false},
		{"0x7f.1:1", false},
		{"a.0x7f:1", false},
		{"2130706433:1", false},
		{"10.0.0.*:1", false},
		{"**:1", false},
		{"::1:80", false},
		{"[10.0.0.1]:1", false},
		{"[db]:1", false},
		{"[::1]", false},
		{"[::1:80", false},
		{"[fe80::1%eth0]:1", false},
		{"[::ffff:10.0.0.1]:1", false},
		{"[::ffff:10.0.0.0/104]:1", false},
		{strings.Repeat("a", 64) + ":1", false},
		{strings.Repeat("a.", 127) + "a:1", false},
	} {
		if err := checkDestination(entry.text); (err == nil) != entry.ok {
			t.Errorf("%s: %v, want it accepted: %t", entry.text, err, entry.ok)
		}
		if _, err := server.ParseAllow(entry.text); (err == nil) != entry.ok {
			t.Errorf("%s: bastiond says %v, and the row that it is accepted: %t", entry.text, err, entry.ok)
		}
	}
	if checkDestination("a:1 b:2") == nil || checkDestination("a:1,b:2") == nil {
		t.Error("two entries pass for one")
	}
}
