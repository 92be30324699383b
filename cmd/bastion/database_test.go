package main

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/agent/dsn"
)

// PostgreSQL's own programs, and no others, are known to be told name and address apart.
func TestSeparatesName(t *testing.T) {
	for program, want := range map[string]bool{
		"psql": true, "/usr/lib/postgresql/15/bin/pg_dump": true, "pg_restore": true, "pgbench": true, "PSQL.exe": true,
		"sh": false, "node": false, "pgcli": false, "psqlx": false, "env": false, "./manage.py": false,
	} {
		if got := dsn.SeparatesName(program); got != want {
			t.Errorf("%s: %v", program, got)
		}
	}
}

// Whichever variable a client reads alone, it leads to the forward.
func TestEachVariableLeadsToTheForward(t *testing.T) {
	at := netip.MustParseAddrPort("127.0.0.1:4000")
	for _, d := range []dsn.Database{
		{Name: "rds:a", Protocol: dsn.Postgres, Engine: "postgres", Listen: at, ServerName: "a.rds.example", CA: "/ca.pem"},
		{Name: "rds:b", Protocol: dsn.MySQL, Engine: "mysql", Listen: at, ServerName: "a.rds.example", Password: "token"},
		{Name: "cache:c", Protocol: dsn.Redis, Engine: "redis", Listen: at, ServerName: "a.rds.example", TLS: true},
		{Name: "rds:d", Protocol: dsn.Mongo, Engine: "docdb", Listen: at, ServerName: "a.rds.example"},
		{Name: "rds:e", Protocol: dsn.SQLServer, Engine: "sqlserver-ex", Listen: at, ServerName: "a.rds.example"},
		{Name: "wiki:443", Listen: at, ServerName: "a.rds.example"},
	} {
		for _, kv := range append(d.Variables(), d.Own()...) {
			name, value, _ := strings.Cut(kv, "=")
			if strings.Contains(value, d.ServerName) && !strings.HasSuffix(name, "_SERVERNAME") {
				t.Errorf("%s: %s leads past the forward", d.Name, kv)
			}
		}
	}
}

// The options of the program that exec runs are its own, also where they look like ours.
func TestExecOptions(t *testing.T) {
	a, _ := testApp()
	args, err := a.Line.Arrange([]string{"bastion", "exec", "rds:a", "-q", "--", "psql", "-q", "--user", "x"})
	if want := []string{"bastion", "exec", "-q", "--", "rds:a", "--", "psql", "-q", "--user", "x"}; err != nil ||
		!slices.Equal(args, want) {
		t.Errorf("%q, %v, want %q", args, err, want)
	}
}
