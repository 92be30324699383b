//go:build unix

package dsn

import (
	"net/netip"
	"os/exec"
	"testing"
)

// A shell whose environment is not known keeps what its user has said about TLS and the database.
func TestShell(t *testing.T) {
	d := Database{
		Name: "rds:orders", Protocol: Postgres, Engine: "postgres", ServerName: "orders.x", Database: "it's",
		Listen: netip.MustParseAddrPort("127.0.0.1:4000"),
	}
	text, ok := d.shell()
	if !ok {
		t.Fatal("there is no form for shells")
	}
	const show = "\n" + `echo "$PGHOST $PGPORT $PGSSLMODE $PGDATABASE $BASTION_RDS_ORDERS_PORT"`
	for _, tt := range []struct {
		env  []string
		want string
	}{
		{nil, "127.0.0.1 4000 require it's 4000\n"},
		{[]string{"PGSSLMODE=verify-full", "PGDATABASE=mine", "PGPORT=1"}, "127.0.0.1 4000 verify-full mine 4000\n"},
		{[]string{"PGSSLMODE="}, "127.0.0.1 4000 require it's 4000\n"},
	} {
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-euc", text+show)
		cmd.Env = tt.env
		if tt.env == nil {
			cmd.Env = []string{}
		}
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != tt.want {
			t.Errorf("%q: %q, %v, want %q", tt.env, out, err, tt.want)
		}
	}
}
