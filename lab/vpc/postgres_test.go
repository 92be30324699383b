package vpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const seedSQL = `
create table orders (id bigint primary key, customer text not null, total numeric(10,2) not null, paid boolean not null,
	placed timestamptz default now());
insert into orders (id, customer, total, paid) values (1, 'Ada; Lovelace', 12.50, true), (2, 'Grace', 7, false);`

func startPostgres(t *testing.T, mode Mode, change func(*PostgresConfig)) *Postgres {
	t.Helper()
	cfg := PostgresConfig{
		Mode: mode, User: "app", Password: "lab's", Database: "orders", Seed: []string{seedSQL}, Logger: testLogger(t),
	}
	if change != nil {
		change(&cfg)
	}
	p, err := StartPostgres(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func connect(t *testing.T, p *Postgres) *pgx.Conn {
	t.Helper()
	conn, err := connectPostgres(t.Context(), p.Addr(), "app", "lab's", "orders")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// TestPostgres does what a client does, against the real server and the stand-in alike.
func TestPostgres(t *testing.T) {
	for _, mode := range modes(t, "postgres") {
		t.Run(string(mode), func(t *testing.T) {
			p := startPostgres(t, mode, func(cfg *PostgresConfig) { cfg.Host, cfg.Port = LoopbackAddr(5432) })
			if !p.Addr().Addr().IsLoopback() {
				t.Fatalf("listens on %s", p.Addr())
			}
			if got, want := p.Embedded(), mode == Embedded; got != want {
				t.Errorf("Embedded() = %v, want %v", got, want)
			}
			t.Run("version", func(t *testing.T) { testVersion(t, p) })
			t.Run("passwords", func(t *testing.T) { testPasswords(t, p) })
			t.Run("queries", func(t *testing.T) { testQueries(t, p) })
			t.Run("types", func(t *testing.T) { testTypes(t, p) })
			t.Run("transactions", func(t *testing.T) { testTransactions(t, p) })
			t.Run("errors", func(t *testing.T) { testErrors(t, p) })
			t.Run("connections", func(t *testing.T) { testManyConnections(t, p) })
		})
	}
}

func testVersion(t *testing.T, p *Postgres) {
	var version string
	if err := connect(t, p).QueryRow(t.Context(), "select version()").Scan(&version); err != nil {
		t.Fatal(err)
	}
	if version != p.Version() {
		t.Errorf("select version() = %q, Version() = %q", version, p.Version())
	}
	// The stand-in must not pass for the real thing, nor the other way round.
	if isReal := strings.HasPrefix(version, "PostgreSQL "); isReal == p.Embedded() {
		t.Errorf("embedded: %v, but the version is %q", p.Embedded(), version)
	}
}

func testPasswords(t *testing.T, p *Postgres) {
	for _, tt := range []struct{ user, password, database, code string }{
		{"app", "wrong", "orders", "28P01"},
		{"app", "", "orders", "28P01"},
		{"nobody", "lab's", "orders", "28P01"},
		{"app", "lab's", "missing", "3D000"},
	} {
		_, err := connectPostgres(t.Context(), p.Addr(), tt.user, tt.password, tt.database)
		if got := sqlState(err); got != tt.code {
			t.Errorf("%+v: state %q (%v)", tt, got, err)
		}
	}
}

func sqlState(err error) string {
	if pg := new(pgconn.PgError); errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

func testQueries(t *testing.T, p *Postgres) {
	conn, ctx := connect(t, p), t.Context()

	t.Run("extended, with parameters", func(t *testing.T) {
		var customer string
		err := conn.QueryRow(ctx, "select customer from orders where id = $1 and customer like $2", 1, "Ada%").Scan(&customer)
		if err != nil || customer != "Ada; Lovelace" {
			t.Errorf("%q, %v", customer, err)
		}
	})
	t.Run("casts, counts and limits", func(t *testing.T) {
		var sum, count int64
		if err := conn.QueryRow(ctx, "select $1::int + 1, count(*) from orders limit $2", 41, 10).Scan(&sum, &count); err != nil {
			t.Fatal(err)
		}
		if sum != 42 || count != 2 {
			t.Errorf("sum %d, count %d", sum, count)
		}
	})
	t.Run("simple protocol, several statements", func(t *testing.T) {
		results, err := conn.PgConn().Exec(ctx, `
			-- a comment; with a semicolon
			create table simple (n int, note text); /* and ; another */
			insert into simple values (1, $$it's;$$), (2, 'b;''');
			update simple set n = n + 1;
			select n, note from simple order by n;
			drop table simple`).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		var tags []string
		for _, r := range results {
			tags = append(tags, r.CommandTag.String())
		}
		if got, want := strings.Join(tags, "|"), "CREATE TABLE|INSERT 0 2|UPDATE 2|SELECT 2|DROP TABLE"; got != want {
			t.Fatalf("tags %s, want %s", got, want)
		}
		if got, want := fmt.Sprintf("%s", results[3].Rows), "[[2 it's;] [3 b;']]"; got != want {
			t.Errorf("rows %s, want %s", got, want)
		}
	})
	t.Run("returning", func(t *testing.T) {
		var id int64
		var customer string
		err := conn.QueryRow(ctx, "insert into orders (id, customer, total, paid) values ($1, $2, $3, $4) returning id, customer",
			3, "Barbara", 1.25, true).Scan(&id, &customer)
		if err != nil || id != 3 || customer != "Barbara" {
			t.Errorf("%d, %q, %v", id, customer, err)
		}
		tag, err := conn.Exec(ctx, "delete from orders where id = $1", 3)
		if err != nil || tag.String() != "DELETE 1" {
			t.Errorf("%s, %v", tag, err)
		}
	})
	t.Run("prepared, used twice", func(t *testing.T) {
		if _, err := conn.Prepare(ctx, "by-id", "select customer from orders where id = $1"); err != nil {
			t.Fatal(err)
		}
		for id, want := range map[int]string{1: "Ada; Lovelace", 2: "Grace"} {
			var got string
			if err := conn.QueryRow(ctx, "by-id", id).Scan(&got); err != nil || got != want {
				t.Errorf("%d: %q, %v", id, got, err)
			}
		}
	})
	t.Run("ping, set, show, with", func(t *testing.T) {
		if err := conn.Ping(ctx); err != nil {
			t.Error(err)
		}
		if _, err := conn.Exec(ctx, "set application_name = 'x'"); err != nil {
			t.Error(err)
		}
		var enc, user, db string
		if err := conn.QueryRow(ctx, "show server_encoding").Scan(&enc); err != nil || enc != "UTF8" {
			t.Errorf("%q, %v", enc, err)
		}
		if err := conn.QueryRow(ctx, "with x as (select current_user::text as u) select u, current_database()::text from x").
			Scan(&user, &db); err != nil || user != "app" || db != "orders" {
			t.Errorf("%q, %q, %v", user, db, err)
		}
	})
}

func testTypes(t *testing.T, p *Postgres) {
	var (
		id       int64
		customer string
		total    string
		paid     bool
		placed   time.Time
		none     *string
	)
	conn := connect(t, p)
	err := conn.QueryRow(t.Context(), "select id, customer, total, paid, placed, null from orders where id = 1").
		Scan(&id, &customer, &total, &paid, &placed, &none)
	if err != nil {
		t.Fatal(err)
	}
	if total != "12.50" || !paid || none != nil {
		t.Errorf("total %s, paid %v, null %v", total, paid, none)
	}
	if age := time.Since(placed); age < -time.Minute || age > 10*time.Minute {
		t.Errorf("placed %s", placed)
	}
	var text string
	if err := conn.QueryRow(t.Context(), "select repeat('ab', 3) || md5('x')").Scan(&text); err != nil ||
		text != "ababab9dd4e461268c8034f5c8564e155c67a6" {
		t.Errorf("%q, %v", text, err)
	}
}

func testTransactions(t *testing.T, p *Postgres) {
	a, b, ctx := connect(t, p), connect(t, p), t.Context()
	count := func(c *pgx.Conn) (n int64) {
		t.Helper()
		if err := c.QueryRow(ctx, "select count(*) from orders").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	tx, err := a.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, "insert into orders (id, customer, total, paid) values (9, 'Kay', 1, true)"); err != nil {
		t.Fatal(err)
	}
	if inside, outside := count(a), count(b); inside != 3 || outside != 2 {
		t.Errorf("inside %d, outside %d", inside, outside)
	}
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if n := count(a); n != 2 {
		t.Errorf("%d rows after the rollback", n)
	}

	// An error makes the transaction a failed one until it ends, and its commit a rollback.
	if tx, err = a.Begin(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, "insert into orders (id, customer, total, paid) values (9, 'Kay', 1, true)"); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, "select missing"); sqlState(err) != "42703" {
		t.Errorf("%v", err)
	}
	if _, err := tx.Exec(ctx, "select 1"); sqlState(err) != "25P02" {
		t.Errorf("%v", err)
	}
	if err := tx.Commit(ctx); !errors.Is(err, pgx.ErrTxCommitRollback) {
		t.Errorf("commit: %v", err)
	}
	if n := count(a); n != 2 {
		t.Errorf("%d rows after the failed transaction", n)
	}

	// Several statements in one query are one transaction.
	if _, err := a.PgConn().Exec(ctx, "delete from orders; select missing").ReadAll(); sqlState(err) != "42703" {
		t.Errorf("%v", err)
	}
	if n := count(a); n != 2 {
		t.Errorf("%d rows after the failed query", n)
	}

	// A client that goes leaves no transaction behind.
	c := connect(t, p)
	if _, err := c.Exec(ctx, "begin"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(ctx, "delete from orders"); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Exec(ctx, "update orders set paid = paid"); err != nil {
		t.Error(err)
	}
	if n := count(a); n != 2 {
		t.Errorf("%d rows after the client went", n)
	}
}

func testErrors(t *testing.T, p *Postgres) {
	conn := connect(t, p)
	for sql, want := range map[string]string{
		"selec 1":                    "42601",
		"select * from missing":      "42P01",
		"select missing from orders": "42703",
		"insert into orders (id, customer, total, paid) values (1, 'x', 1, true)":   "23505",
		"insert into orders (id, customer, total, paid) values (77, null, 1, true)": "23502",
		"select no_such_function(1)":                        "42883",
		"show no_such_setting":                              "42704",
		"attach database '/tmp/vpc-test.sqlite' as x":       "",
		"select '\u00e4\u00f6' as \"an umlaut\", 'unclosed": "",
	} {
		_, err := conn.Exec(t.Context(), sql)
		if err == nil {
			t.Errorf("%s: no error", sql)
		} else if got := sqlState(err); want != "" && got != want {
			t.Errorf("%s: state %s, want %s (%v)", sql, got, want, err)
		}
	}
	// One that only shows when the statement is described, before it runs.
	var id int64
	err := conn.QueryRow(t.Context(),
		"insert into orders (id, customer, total, paid) values ($1, 'x', 1, true) returning missing", 78).Scan(&id)
	if sqlState(err) != "42703" {
		t.Errorf("%v", err)
	}
	// The connection is still good.
	if err := conn.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// testManyConnections opens 200 connections at once, each with a query.
func testManyConnections(t *testing.T, p *Postgres) {
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			conn, err := connectPostgres(t.Context(), p.Addr(), "app", "lab's", "orders")
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close(context.Background())
			var n int
			if err := conn.QueryRow(t.Context(), "select $1::int", i).Scan(&n); err != nil || n != i {
				t.Errorf("%d: %d, %v", i, n, err)
			}
		})
	}
	wg.Wait()
}

func TestPostgresCloseEndsClients(t *testing.T) {
	for _, mode := range modes(t, "postgres") {
		t.Run(string(mode), func(t *testing.T) {
			cfg := PostgresConfig{Mode: mode, User: "app", Password: "x", Logger: testLogger(t)}
			p, err := StartPostgres(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			conn, err := connectPostgres(t.Context(), p.Addr(), "app", "x", "app")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Exec(t.Context(), "begin"); err != nil {
				t.Fatal(err)
			}
			var temp string
			if p.Embedded() {
				temp = p.embedded.tempDir
			} else {
				temp = p.real.tempDir
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
			if err := conn.Ping(t.Context()); err == nil {
				t.Error("the client is still connected")
			}
			_ = conn.Close(context.Background())
			if _, err := os.Stat(temp); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is left behind (%v)", temp, err)
			}
			if c, err := net.Dial("tcp", p.Addr().String()); err == nil {
				_ = c.Close()
				t.Error("something still listens")
			}
		})
	}
}

func TestPostgresStartErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port

	for _, mode := range modes(t, "postgres") {
		for name, tt := range map[string]struct {
			change func(*PostgresConfig)
			want   string
		}{
			"not loopback": {func(c *PostgresConfig) { c.Host = "0.0.0.0" }, "not a loopback address"},
			"a name":       {func(c *PostgresConfig) { c.Host = "localhost" }, "an IP address is needed"},
			"no password":  {func(c *PostgresConfig) { c.Password = "" }, "a user and a password are needed"},
			"bad mode":     {func(c *PostgresConfig) { c.Mode = "bogus" }, "unknown mode"},
			"port in use":  {func(c *PostgresConfig) { c.Port = port }, "ddress already in use"},
			"bad seed":     {func(c *PostgresConfig) { c.Seed = []string{"select 1", "selec 2"} }, "seed statement 2"},
			"bad port":     {func(c *PostgresConfig) { c.Port = 65536 }, "not between"},
		} {
			t.Run(string(mode)+"/"+name, func(t *testing.T) {
				cfg := PostgresConfig{Mode: mode, User: "app", Password: "x", Logger: testLogger(t)}
				tt.change(&cfg)
				p, err := StartPostgres(t.Context(), cfg)
				if err == nil {
					t.Fatal("started", p.Close())
				}
				if !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%v\nwant %q in it", err, tt.want)
				}
			})
		}
	}
}

// TestPostgresDir keeps the files in the directory that was asked for, where the server's account can reach it.
func TestPostgresDir(t *testing.T) {
	dir, err := os.MkdirTemp("", "vpc-test-") // t.TempDir is closed to other accounts
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, mode := range modes(t, "postgres") {
		startPostgres(t, mode, func(c *PostgresConfig) { c.Dir = dir })
	}
	for _, name := range []string{"database.sqlite", "postgres/postgres.log"} {
		_, err := os.Stat(filepath.Join(dir, name))
		if _, missing := findPostgres(); err != nil && (missing == nil || name == "database.sqlite") {
			t.Error(err)
		}
	}
}

func TestAutoFallsBack(t *testing.T) {
	if _, err := findPostgres(); err != nil {
		t.Setenv("PATH", "") // nothing to hide
	}
	missing := notInstalledError{errors.New("not here")}
	got, err := startEither(t.Context(), Auto, "PostgreSQL", testLogger(t),
		func() (string, error) { return "", missing },
		func() (string, error) { return "embedded", nil })
	if got != "embedded" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err = startEither(t.Context(), Real, "PostgreSQL", testLogger(t),
		func() (string, error) { return "", missing },
		func() (string, error) { return "embedded", nil }); err == nil {
		t.Error("real mode fell back")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = startEither(ctx, Auto, "PostgreSQL", testLogger(t),
		func() (string, error) { return "", ctx.Err() },
		func() (string, error) { return "embedded", nil }); err == nil {
		t.Error("a cancelled start fell back")
	}
	if _, err = startEither(t.Context(), Auto, "PostgreSQL", testLogger(t),
		func() (string, error) { return "", fmt.Errorf("listen: %w", syscall.EADDRINUSE) },
		func() (string, error) { return "embedded", nil }); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a start whose port is taken fell back: %v", err)
	}
}

// Whoever chose the port learns that it is taken; without a port, another free one is tried.
func TestStartOnPortTaken(t *testing.T) {
	for port, want := range map[int]int{5432: 1, 0: portTries} {
		tries := 0
		_, _, err := startOnPort(t.Context(), "127.0.0.1", port, func(netip.AddrPort) (*child, error) {
			tries++
			return nil, errors.New(`could not bind IPv4 address "127.0.0.1": Address already in use`)
		})
		if tries != want || !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("port %d: %d tries, %v", port, tries, err)
		}
	}
}
