package main

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/dsn"
	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/targets"
)

func TestPlanHosts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hosts")
	const before = "127.64.9.9 fixed.x\n"
	if err := os.WriteFile(file, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	s := config.Settings{Local: config.Local{HostsFile: file}}
	endpoints := []targets.Endpoint{
		{Name: "a", Host: "A.x", Port: 5432},
		{Name: "b", Host: "fixed.x", Port: 3306},
		{Name: "c", Host: "a.x", Port: 6379},
	}
	requests := []api.ForwardRequest{{Listen: ":"}, {Listen: "3307"}, {}}
	plan, err := planHosts(t.Context(), s, endpoints, request.Items(request.One(s, requests...)))
	if err != nil {
		t.Fatal(err)
	}
	a := plan.names["a.x"].String()
	if requests[0].Listen != a+":5432" || requests[1].Listen != "127.64.9.9:3307" || requests[2].Listen != a+":6379" {
		t.Errorf("listen at %q", requests)
	}
	during := errors.New("during")
	ctx, cancel := context.WithCancel(t.Context())
	if err := plan.during(ctx, func() error {
		if now, err := os.ReadFile(file); err != nil || !strings.Contains(string(now), "\n"+a+" a.x\n") {
			t.Errorf("%q, %v", now, err)
		}
		cancel() // the names are removed even so
		return during
	}); !errors.Is(err, during) {
		t.Error(err)
	}
	if now, err := os.ReadFile(file); err != nil || string(now) != before {
		t.Errorf("%q, %v", now, err)
	}
	for listen, host := range map[string]string{"127.0.0.1:5432": "a.x", ":": "10.0.0.1"} {
		_, err := planHosts(t.Context(), s, []targets.Endpoint{{Name: "a", Host: host, Port: 1}},
			request.Items(request.One(s, api.ForwardRequest{Listen: listen})))
		if fail.KindOf(err) != fail.Usage || fail.NextOf(err) == "" {
			t.Errorf("%s at %s: %v", host, listen, err)
		}
	}
}

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
