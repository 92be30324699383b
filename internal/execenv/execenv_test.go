package execenv

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/agent/dsn"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// What the user has said about TLS is never made less, and certificates are named only where there are some.
func TestPGVariables(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	if err := os.MkdirAll(filepath.Join(home, ".postgresql"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, ".postgresql", "root.crt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	rds := dsn.Database{
		Protocol: dsn.Postgres, Engine: "postgres", Listen: netip.MustParseAddrPort("127.0.0.1:4000"), ServerName: "orders.x",
		Database: "sales",
	}
	host := rds
	host.Engine = ""
	psql := rds // what runs is told name and address apart
	psql.Separates = true
	named := rds // the name leads to the forward
	named.Reaches = true
	for name, tt := range map[string]struct {
		d          dsn.Database
		ca         string
		env        []string
		mode, root string // "": not set by us
	}{
		"RDS":                         {d: rds, mode: "require"},
		"a host":                      {d: host},
		"tls_ca":                      {d: rds, ca: ca, mode: "verify-ca", root: ca},
		"tls_ca and psql":             {d: psql, ca: ca, mode: "verify-full", root: ca},
		"tls_ca and a name":           {d: named, ca: ca, mode: "verify-full", root: ca},
		"tls_ca and a host":           {d: host, ca: ca, mode: "verify-ca", root: ca},
		"the user's root":             {d: rds, env: []string{"PGSSLROOTCERT=" + ca}, mode: "verify-ca"},
		"the user's goes before ours": {d: rds, ca: "/other", env: []string{"PGSSLROOTCERT=" + ca}, mode: "verify-ca"},
		"the system's":                {d: rds, env: []string{"PGSSLROOTCERT=system"}, mode: "verify-full"},
		"one that is missing":         {d: rds, env: []string{"PGSSLROOTCERT=/nope"}, mode: "require"},
		"libpq's own place":           {d: rds, env: []string{"HOME=" + home, "APPDATA="}, mode: "verify-ca"},
		"the user's mode":             {d: rds, ca: ca, env: []string{"PGSSLMODE=verify-ca"}, root: ca},
	} {
		tt.d.CA = tt.ca
		env, _ := Add(append([]string{"PGHOST=elsewhere"}, tt.env...), []dsn.Database{tt.d})
		added := env[len(tt.env)+1:]
		get := func(name string) string {
			i := slices.IndexFunc(added, func(kv string) bool { return strings.HasPrefix(kv, name+"=") })
			if i < 0 {
				return ""
			}
			return strings.TrimPrefix(added[i], name+"=")
		}
		if got := get("PGSSLMODE"); got != tt.mode {
			t.Errorf("%s: PGSSLMODE=%q, want %q", name, got, tt.mode)
		}
		if got := get("PGSSLROOTCERT"); got != tt.root {
			t.Errorf("%s: PGSSLROOTCERT=%q, want %q", name, got, tt.root)
		}
		if want := map[bool]string{true: "orders.x", false: "127.0.0.1"}[tt.d.Separates || tt.d.Reaches]; get("PGHOST") != want ||
			get("PGHOSTADDR") != "127.0.0.1" ||
			get("PGPORT") != "4000" ||
			get("PGDATABASE") != "sales" {
			t.Errorf("%s: %q", name, added)
		}
	}
}

func TestAdd(t *testing.T) {
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port) }
	env, notes := Add([]string{"PATH=/bin", "PGSERVICE=prod", "PGDATABASE=mine", "REDIS_URL=old"},
		[]dsn.Database{
			{
				Name: "rds:a", Protocol: dsn.Postgres, Engine: "postgres", Listen: at(1), ServerName: "a.x", Database: "adb",
				User: "ann", Password: "secret",
			},
			{Name: "rds:b/reader", Protocol: dsn.Postgres, Engine: "postgres", Listen: at(2), ServerName: "b.x"},
			{Name: "cache:c", Protocol: dsn.Redis, Engine: "redis", Listen: at(3), ServerName: "c.x", TLS: true},
			{Name: "rds:d", Protocol: dsn.MySQL, Engine: "mysql", Listen: at(4), ServerName: "d.x", Password: "secret"},
			{Name: "w-i_k.i:443", Listen: at(5), ServerName: "w"},
		})
	last := make(map[string]string)
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		last[name] = value
	}
	for name, want := range map[string]string{
		"PATH": "/bin", "PGPORT": "1", "PGUSER": "ann", "PGPASSWORD": "secret", "PGDATABASE": "mine", "PGHOST": "127.0.0.1", "PGHOSTADDR": "127.0.0.1",
		"BASTION_RDS_A_PORT": "1", "BASTION_RDS_A_PASSWORD": "secret", "BASTION_RDS_A_USER": "ann",
		"BASTION_RDS_A_DATABASE": "adb", "BASTION_RDS_B_READER_ADDR": "127.0.0.1:2", "BASTION_RDS_B_READER_SERVERNAME": "b.x",
		"REDIS_URL": "rediss://127.0.0.1:3", "MYSQL_HOST": "127.0.0.1", "MYSQL_TCP_PORT": "4", "MYSQL_PWD": "secret",
		"LIBMYSQL_ENABLE_CLEARTEXT_PLUGIN": "1", "BASTION_W_I_K_I_443_URL": "tcp://127.0.0.1:5",
		"BASTION_EXEC": "RDS_A,RDS_B_READER,CACHE_C,RDS_D,W_I_K_I_443",
	} {
		if last[name] != want {
			t.Errorf("%s=%q, want %q", name, last[name], want)
		}
	}
	if _, ok := last["PGSERVICE"]; ok {
		t.Error("PGSERVICE would lead psql past the forward")
	}
	if len(notes) != 2 || !strings.Contains(notes[0], "PG* are those of rds:a") ||
		!strings.Contains(notes[0], "BASTION_RDS_B_READER_*") ||
		!strings.Contains(notes[1], "PGSERVICE") {
		t.Errorf("notes: %q", notes)
	}
}

// --env names a variable for a connection string, in any form that is one, of a target as it was given or by its id.
func TestVariable(t *testing.T) {
	pairs, _, err := Parse([]string{"rds:orders", "cache:a", "rds:a", "db.internal:5432", "--", "x"})
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort("127.0.0.1:4000")
	databases := []dsn.Database{
		{Name: "rds:orders", Protocol: dsn.Postgres, Engine: "postgres", Listen: at, ServerName: "orders.x", Database: "shop"},
		{Name: "cache:a", Protocol: dsn.Redis, Engine: "redis", Listen: at, ServerName: "a.x", TLS: true},
		{Name: "rds:a", Protocol: dsn.MySQL, Engine: "mysql", Listen: at, ServerName: "a.x"},
		{Name: "db.internal:5432", Protocol: dsn.Postgres, Listen: at, ServerName: "db.internal"},
	}
	for text, want := range map[string]string{
		"DATABASE_URL=rds:orders":  "DATABASE_URL=postgresql://127.0.0.1:4000/shop?sslmode=require",
		"DATABASE_URL=orders":      "DATABASE_URL=postgresql://127.0.0.1:4000/shop?sslmode=require",
		"DATABASE_URL=orders,node": "DATABASE_URL=postgresql://127.0.0.1:4000/shop?sslmode=no-verify",
		"JDBC=orders,jdbc":         "JDBC=jdbc:postgresql://127.0.0.1:4000/shop?sslmode=require",
		"CONNINFO=orders,kv":       "CONNINFO=host=orders.x hostaddr=127.0.0.1 port=4000 dbname=shop sslmode=require",
		"D=db.internal:5432":       "D=postgresql://127.0.0.1:4000/",
		"R=cache:a,go":             "R=rediss://127.0.0.1:4000?skip_verify=true",
		"R=cache:a,node":           "use --hosts",
		"D=a":                      "matches several",
		"D=b":                      "not one of the targets",
		"D=":                       "the target is missing",
		"D":                        "the target is missing",
		"1D=orders":                "not the name of a variable",
		"A B=orders":               "not the name of a variable",
		"BASTION_URL=orders":       "bastion's own",
		"D=orders,nodejs":          "did you mean node?",
		"D=orders,env":             "unknown format",
	} {
		e, err := ParseVariable(text)
		var got []string
		if err == nil {
			err = Check([]Variable{e}, pairs)
		}
		if err == nil {
			got, err = Set([]Variable{e}, databases, os.Getenv)
		}
		switch {
		case err != nil && !strings.Contains(err.Error()+fail.NextOf(err), want):
			t.Errorf("%s: %v, hint %q; want %q", text, err, fail.NextOf(err), want)
		case err == nil && (len(got) != 1 || got[0] != want):
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	if e, _ := ParseVariable("D=orders"); Check([]Variable{e, e}, pairs) == nil {
		t.Error("a variable was given twice")
	}
}

func TestParse(t *testing.T) {
	pairs, program, err := Parse([]string{"rds:a", "cache:b", "16379", "--", "psql", "-c", "--"})
	if err != nil || len(pairs) != 2 || !pairs[0].Local.Free || pairs[1].Local.Port != 16379 ||
		!slices.Equal(program, []string{"psql", "-c", "--"}) {
		t.Errorf("%+v, %q, %v", pairs, program, err)
	}
	for _, args := range [][]string{
		nil,
		{"rds:a"},
		{"rds:a", "psql"},
		{"rds:a", "--"},
		{"--", "psql"},
		{"--"},
		{"rds:a", "rds:a", "--", "x"},
		{"a-b", "a_b", "--", "x"},
		{"ssh", "--", "x"},
		{"5432", "--", "x"},
		{"a.b", "--", "x"},
	} {
		if _, _, err := Parse(args); fail.KindOf(err) != fail.Usage || fail.NextOf(err) == "" {
			t.Errorf("%q: %v (next: %s)", args, err, fail.NextOf(err))
		}
	}
}
