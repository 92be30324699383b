//go:build linux

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/vpc"
)

// Clients of databases as people use them, each with what bastion exec and bastion url give it.

const (
	clientLimit = 2 * time.Minute // for a client's whole run, on a busy machine
	ordersHost  = "orders.abc123.eu-central-1.rds.amazonaws.com"
)

// databaseWorld is a world with a real PostgreSQL and a real Redis, whose commands have no agent.
func databaseWorld(t *testing.T) *world {
	t.Helper()
	rig.Need(t, "postgres")
	rig.Need(t, "redis-server")
	w := newWorld(t, func(cfg *lab.Config) { cfg.Postgres, cfg.Redis = vpc.Real, vpc.Real })
	w.env = append(w.env, "BASTION_NO_AGENT=true", "CA="+w.DatabaseCA())
	return w
}

// exec runs `bastion exec` to its end and returns its exit code and what it prints.
func (w *world) exec(args ...string) (int, string) {
	w.t.Helper()
	return w.run(clientLimit, filepath.Join(bin, "bastion"), append([]string{"exec", "-q"}, args...)...)
}

// mustExec is exec of what must succeed and print want, a regular expression.
func (w *world) mustExec(want string, args ...string) {
	w.t.Helper()
	code, out := w.exec(args...)
	if code != 0 || !regexp.MustCompile(want).MatchString(out) {
		w.t.Errorf("bastion exec %q: exit code %d, want 0 and %s in\n%s", args, code, want, out)
	}
}

// mustFail is exec of what must fail and say why.
func (w *world) mustFail(says string, args ...string) {
	w.t.Helper()
	code, out := w.exec(args...)
	if code == 0 || !regexp.MustCompile(says).MatchString(out) {
		w.t.Errorf("bastion exec %q: exit code %d, want a failure and %s in\n%s", args, code, says, out)
	}
}

// The client of TestExecPostgres that knows no libpq: started again in this role, the test binary is that.
func init() {
	if os.Getenv("E2E_CLIENT") != "pgx" {
		return
	}
	if err := pgxClient(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func pgxClient(ctx context.Context) error {
	ca, err := os.ReadFile(os.Getenv("CA"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return errors.New("no certificates in CA")
	}
	// pgx reads PGHOST but not PGHOSTADDR: the URL has the address, and the name is said apart.
	cfg, err := pgx.ParseConfig(os.Getenv("BASTION_RDS_ORDERS_URL"))
	if err != nil {
		return err
	}
	cfg.TLSConfig = &tls.Config{RootCAs: roots, ServerName: os.Getenv("BASTION_RDS_ORDERS_SERVERNAME"), MinVersion: tls.VersionTLS12}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var n int
	if err := conn.QueryRow(ctx, "select count(*) from orders").Scan(&n); err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, "orders:", n)
	return nil
}

func TestExecPostgres(t *testing.T) {
	t.Parallel()
	w := databaseWorld(t)
	psql, pgbench := rig.Need(t, "psql"), rig.Need(t, "pgbench")
	w.up()
	w.env = append(w.env, "PGPASSWORD="+lab.DBPassword)
	ssl := "select 'ssl=' || ssl, current_user from pg_stat_ssl where pid = pg_backend_pid()"
	target := []string{"rds:orders", "--user", lab.DBUser}
	with := func(more ...string) []string { return append(slices.Clone(target), more...) }

	// Without certificates the connection is still encrypted; with them the client checks the name.
	w.mustExec(`(?m)^ssl=true\|app$`, with("--", psql, "-Atc", ssl)...)
	verify := with("--tls-ca", w.DatabaseCA(), "--")
	w.mustExec(`(?m)^ssl=true\|app$`, append(verify, psql, "-Atc", ssl)...)
	// What runs under a shell may read PGHOST alone, which must lead to the forward.
	w.mustExec("(?m)^verify-ca "+w.DatabaseCA()+" 127.0.0.1 127.0.0.1 orders$",
		append(verify, "sh", "-c", "echo $PGSSLMODE $PGSSLROOTCERT $PGHOST $PGHOSTADDR $PGDATABASE")...)
	w.mustExec(`(?m)^ssl=true\|app$`, append(verify, "env", "-u", "PGHOSTADDR", psql, "-Atc", ssl)...)
	// psql itself is given the name, and checks it. Were it another, or the authority, it would not connect.
	w.mustExec("(?m)^"+ordersHost+" verify-full$", append(verify, psql, "-Atc", `\echo `+"`echo $PGHOST $PGSSLMODE`")...)
	w.mustFail(`does not match host name "other.example"`,
		append(verify, "env", "PGHOST=other.example", "PGSSLMODE=verify-full", psql, "-Atc", ssl)...)
	w.mustExec(`(?m)^ssl=true\|app$`, append([]string{"--env", "DATABASE_URL=orders"}, append(verify, "sh", "-c",
		"env -u PGHOST -u PGHOSTADDR -u PGPORT "+psql+` -d "$DATABASE_URL" -Atc "`+ssl+`"`)...)...)
	w.mustFail("certificate verify failed", with("--tls-ca", otherCA(t), "--", psql, "-Atc", ssl)...)
	// What the user has set about TLS stays.
	weaker := *w
	weaker.env = append(slices.Clone(w.env), "PGSSLMODE=disable")
	weaker.mustExec(`(?m)^ssl=false\|app$`, append(verify, psql, "-Atc", ssl)...)

	w.mustExec("number of failed transactions: 0", append(verify, "sh", "-c",
		pgbench+" -iq -s 1 2>&1 && "+pgbench+" -n -c 4 -t 25")...)
	// A dump, of the size that it is.
	w.mustExec("(?m)^3$", append(verify, "sh", "-c",
		filepath.Join(filepath.Dir(psql), "pg_dump")+" --data-only --table orders | grep -c '^[0-9]'")...)

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w.mustExec("orders: 3", append(verify, "env", "E2E_CLIENT=pgx", "PGPASSWORD="+lab.DBPassword, self)...)
	w.mustFail("not other.example", append(verify, "env", "E2E_CLIENT=pgx", "BASTION_RDS_ORDERS_SERVERNAME=other.example", self)...)
	python := needModule(t, "asyncpg")
	w.mustExec("3 True", append(verify, python, "-c", `
import asyncio, asyncpg, os, ssl
async def main():
    tls = ssl.create_default_context(cafile=os.environ["CA"])
    tls.check_hostname = False # it cannot be told the name apart from the address
    c = await asyncpg.connect(os.environ["BASTION_RDS_ORDERS_URL"].split("?")[0], ssl=tls)
    print(*await c.fetchrow("select count(*), (select ssl from pg_stat_ssl where pid = pg_backend_pid()) from orders"))
    await c.close()
asyncio.run(main())`)...)
	w.clean()
}

// otherCA is a file of the certificate of an authority that no server's is of.
func otherCA(t *testing.T) string {
	t.Helper()
	other, err := vpc.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, other.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// needModule returns the distribution's Python, if it has the module.
func needModule(t *testing.T, name string) string {
	t.Helper()
	const python = "/usr/bin/python3"
	if err := exec.Command(python, "-c", "import "+name).Run(); err != nil {
		rig.Need(t, "python3-"+name) // fails or skips
	}
	return python
}

// clean looks for what commands have left behind.
func (w *world) clean() {
	w.t.Helper()
	if left := w.Gateway().Sessions(); len(left) > 0 {
		w.t.Errorf("sessions left behind: %+v", left)
	}
}

// startMariaDB starts a MariaDB and makes it the RDS instance shop.
func startMariaDB(t *testing.T, w *world) {
	t.Helper()
	c, err := w.DatabaseAuthority().Issue("shop.abc123.eu-central-1.rds.amazonaws.com")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), clientLimit)
	defer cancel()
	m, err := rig.StartMariaDB(ctx, rig.Need(t, "mariadbd"), rig.Need(t, "mariadb-install-db"), c.Cert, c.Key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := w.AddDBInstance(lab.DBInstance{ID: "shop", Engine: "mariadb", Database: "shop", Addr: m.Addr(), IAM: true}); err != nil {
		t.Fatal(err)
	}
}

func TestExecMySQL(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.env = append(w.env, "BASTION_NO_AGENT=true", "CA="+w.DatabaseCA())
	startMariaDB(t, w)
	mariadb, mysqldump := rig.Need(t, "mariadb"), rig.Need(t, "mysqldump")
	w.up()
	const sql = "select name from shop.items where id = 2; show status like 'Ssl_version'"
	w.mustExec(`(?s)desk.*TLSv1`, "rds:shop", "--", "env", "MYSQL_PWD=lab", mariadb, "--ssl", "-u", "app", "-e", sql)
	// The server insists on TLS, and the certificate is not for the address.
	w.mustFail("Access denied", "rds:shop", "--", "env", "MYSQL_PWD=lab", mariadb, "--skip-ssl", "-u", "app", "-e", sql)
	w.mustFail("SSL", "rds:shop", "--", "env", "MYSQL_PWD=lab", mariadb, "--ssl-ca", w.DatabaseCA(), "--ssl-verify-server-cert",
		"-u", "app", "-e", sql)
	// mysqldump reads the port and the password from the environment, and wants to be told the host.
	w.mustExec(`'lamp'`, "rds:shop", "--user", "app", "--", "sh", "-c",
		"MYSQL_PWD=lab "+mysqldump+" --ssl --no-tablespaces -h $MYSQL_HOST -u $BASTION_RDS_SHOP_USER $BASTION_RDS_SHOP_DATABASE items")
	// A client of its own, that checks the chain of certificates.
	python := needModule(t, "pymysql")
	w.mustExec("lamp", "rds:shop", "--", python, "-c", `
import os, pymysql
c = pymysql.connect(host=os.environ["BASTION_RDS_SHOP_HOST"], port=int(os.environ["BASTION_RDS_SHOP_PORT"]), user="app",
    password="lab", database="shop", ssl={"ca": os.environ["CA"], "check_hostname": False})
q = c.cursor()
q.execute("select name from items where id = 1")
print(q.fetchone()[0])`)
	w.clean()
}

// Clients that cannot separate the name from the address need the name in the hosts file. Here it is their own copy in a mount
// namespace, which can only be written in place, not replaced.
func TestExecHosts(t *testing.T) {
	t.Parallel()
	rig.NeedRoot(t)
	w := newWorld(t, nil)
	w.env = append(w.env, "BASTION_NO_AGENT=true", "CA="+w.DatabaseCA())
	startMariaDB(t, w)
	mariadb := rig.Need(t, "mariadb")
	w.up()
	hosts := filepath.Join(t.TempDir(), "hosts")
	before := "127.0.0.1 localhost\n# mine, without an end"
	if err := os.WriteFile(hosts, []byte(before), 0o644); err != nil {
		t.Fatal(err)
	}
	unchanged := func() {
		t.Helper()
		if now, err := os.ReadFile(hosts); err != nil || string(now) != before {
			t.Errorf("the hosts file is now %q, %v", now, err)
		}
	}
	inside := func(script string) (int, string) {
		t.Helper()
		return w.run(clientLimit, rig.Need(t, "unshare"), "--mount", "sh", "-ec", "mount --bind "+hosts+" /etc/hosts\n"+script)
	}
	verify := "MYSQL_PWD=lab " + mariadb + " --ssl-ca $CA --ssl-verify-server-cert -u app -Ne 'select name from shop.items where id = 2'"
	code, out := inside("bastion exec -q --hosts rds:shop -- sh -c '" + strings.ReplaceAll(verify, "'", `'\''`) + " && cat /etc/hosts && env'")
	for _, want := range []string{
		"desk", "# BEGIN bastion ", "MYSQL_HOST=shop.abc123.eu-central-1.rds.amazonaws.com", "mysql://shop.abc123.eu-central-1",
	} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("exit code %d, want %s in\n%s", code, want, out)
		}
	}
	unchanged()

	// Root who does it for another user makes nothing in that user's directories, and needs no agent of theirs.
	home := t.TempDir()
	code, out = inside("mount -t tmpfs none /run; export SUDO_UID=65534 BASTION_NO_AGENT=false HOME=" + home + " XDG_RUNTIME_DIR=" + home +
		"; bastion exec -q --hosts rds:shop -- cat /etc/hosts")
	if left, err := os.ReadDir(home); code != 0 || !strings.Contains(out, "# BEGIN bastion") || err != nil || len(left) > 0 {
		t.Errorf("exit code %d, left in the home directory: %v, %v\n%s", code, left, err, out)
	}
	unchanged()

	// One that was killed leaves its block, which the next command removes. forward has the same option.
	cmd := exec.Command(filepath.Join(bin, "bastion"), "exec", "-q", "--hosts", "--hosts-file", hosts, "rds:shop", "--",
		"sh", "-c", "echo ready; read line")
	input, err := cmd.StdinPipe() // open until the kill: the program must not end by itself
	if err != nil {
		t.Fatal(err)
	}
	p := w.startCmd(cmd)
	ctx, cancel := context.WithTimeout(t.Context(), clientLimit)
	defer cancel()
	if _, err := p.Line(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = input.Close()
	if _, err := p.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if now, err := os.ReadFile(hosts); err != nil || !strings.Contains(string(now), "# BEGIN bastion") {
		t.Errorf("after SIGKILL the hosts file is %q, %v", now, err)
	}
	f := w.bastion("forward", "-q", "--hosts", "--hosts-file", hosts, "rds:shop")
	line, err := f.Line(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	now, err := os.ReadFile(hosts)
	if err != nil || strings.Count(string(now), "# BEGIN bastion") != 1 {
		t.Errorf("with forward the hosts file is %q, %v", now, err)
	}
	listen, _, _ := strings.Cut(line, " -> ")
	if addr, err := netip.ParseAddrPort(listen); err != nil || !strings.Contains(string(now), addr.Addr().String()+" shop.abc123") ||
		addr.Addr() == netip.MustParseAddr("127.0.0.1") {
		t.Errorf("it listens on %s, the hosts file is %q", listen, now)
	}
	if code, err := f.Stop(syscall.SIGINT); err != nil || code != 130 {
		t.Errorf("exit code %d, %v\n%s", code, err, f.Output())
	}
	unchanged()

	// Without the rights nothing is begun, and the message says what to do.
	code, out = w.run(clientLimit, rig.Need(t, "setpriv"), "--reuid=65534", "--clear-groups", "cat", hosts)
	if code == 0 {
		t.Fatalf("others can read the file: %s", out)
	}
	w.mustFail("hint: .*--hosts-file", "--hosts", "--hosts-file", "/nonexistent/hosts", "rds:shop", "--", "true")
}

func TestExecRedis(t *testing.T) {
	t.Parallel()
	w := databaseWorld(t)
	cli := rig.Need(t, "redis-cli")
	startTLSRedis(t, w) // before the bastion, whose allow-list is made when it starts
	w.up()
	w.mustExec("hello from the private network", "cache:sessions", "--", "sh", "-c", cli+" -u $REDIS_URL get greeting")
	w.mustExec("(?m)^PONG$", "cache:sessions", "rds:orders", "--", "sh", "-c",
		cli+" -h $BASTION_CACHE_SESSIONS_HOST -p $BASTION_CACHE_SESSIONS_PORT ping; test -n $PGPORT")

	// A cache that takes nothing but TLS: the URL says so, and the client checks by the name that it asks for.
	tls := []string{"cache:secure", "--", "sh", "-c"}
	w.mustExec("(?m)^PONG$", append(tls, cli+" -u $REDIS_URL --cacert $CA --sni $BASTION_CACHE_SECURE_SERVERNAME ping")...)
	w.mustFail("certificate verify failed", append(tls, cli+" -u $REDIS_URL --cacert "+otherCA(t)+" ping")...)
	w.mustExec("(?m)^rediss://127", append(tls, "echo $REDIS_URL")...)
	w.clean()
}

// startTLSRedis starts a Redis with TLS alone and makes it the cache secure.
func startTLSRedis(t *testing.T, w *world) {
	t.Helper()
	c, err := w.DatabaseAuthority().Issue("secure.x.cache.amazonaws.com")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), clientLimit)
	defer cancel()
	p, addr, err := rig.StartTLSRedis(ctx, rig.Need(t, "redis-server"), t.TempDir(), c.Cert, c.Key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = p.Stop(syscall.SIGTERM) })
	if err := w.AddCache(lab.Cache{ID: "secure", Addr: addr, TLS: true}); err != nil {
		t.Fatal(err)
	}
}

// A real server that asks the lab accepts an IAM token of a user with the permission. Only the program's environment has the token.
func TestExecIAM(t *testing.T) {
	t.Parallel()
	w := databaseWorld(t)
	psql := rig.Need(t, "psql")
	w.up()
	iam := []string{"rds:orders", "--iam-user", lab.DBIAMUser, "--tls-ca", w.DatabaseCA(), "--"}
	w.mustExec(`(?m)^iam\|3$`, append(iam, psql, "-Atc", "select current_user, count(*) from orders")...)
	// RDS takes tokens over TLS alone.
	w.mustFail("pg_hba.conf rejects connection", append(iam, "env", "PGSSLMODE=disable", psql, "-c", "select 1")...)
	w.mustFail("authentication failed", append(iam, "env", "PGPASSWORD=lab", psql, "-c", "select 1")...)

	// Nowhere but in the environment of the program: not in what bastion logs, nor in any argument.
	code, out := w.run(clientLimit, filepath.Join(bin, "bastion"), append([]string{"exec", "-v"}, append(iam, "sh", "-c",
		`tr '\0' ' ' < /proc/$PPID/cmdline; tr '\0' '\n' < /proc/$PPID/environ; tr '\0' ' ' < /proc/$$/cmdline; test -n "$PGPASSWORD"`)...)...)
	if code != 0 || !strings.Contains(out, "BASTION_NO_AGENT=true") || strings.Contains(out, "X-Amz-") {
		t.Errorf("exit code %d; the token is in\n%s", code, out)
	}

	orders := netip.MustParseAddrPort(w.Databases()[0].Addr)
	p := w.bastion("token", "rds:orders", "--user", "ann", "-q")
	ctx, cancel := context.WithTimeout(t.Context(), clientLimit)
	defer cancel()
	if code, err := p.Wait(ctx); err != nil || code != 0 || len(p.Stdout()) != 1 {
		t.Fatalf("token: exit code %d, %v, %q", code, err, p.Stdout())
	}
	if err := w.VerifyDBToken(p.Stdout()[0], ordersHost, int(orders.Port()), "ann"); err != nil {
		t.Error(err)
	}
	// Who has not the permission gets a token, as from AWS, which is worth nothing.
	env, err := w.AddIdentity("eve", lab.IdentityConfig{Deny: []string{"rds-db:*"}})
	if err != nil {
		t.Fatal(err)
	}
	eve := *w
	eve.env = append(slices.Clone(w.env), env...)
	eve.mustFail("authentication failed", append(iam, psql, "-c", "select 1")...)
	// A database without IAM authentication says so before anything is started.
	if err := w.AddDBInstance(lab.DBInstance{ID: "plain", Engine: "postgres", Addr: netip.MustParseAddrPort("127.0.0.1:1")}); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"token", "rds:plain", "--user", "ann"}, {"exec", "rds:plain", "--iam-user", "ann", "--", "true"}} {
		code, out := w.run(clientLimit, filepath.Join(bin, "bastion"), args...)
		if code != 5 || !strings.Contains(out, "not enabled") || !strings.Contains(out, "hint: have it enabled") {
			t.Errorf("%q: exit code %d\n%s", args, code, out)
		}
	}
	// MySQL has variables of its own for that.
	startMariaDB(t, w)
	p = w.bastion("exec", "-q", "rds:shop", "--iam-user", "ann", "--", "sh", "-c", `echo "$MYSQL_PWD"; echo $LIBMYSQL_ENABLE_CLEARTEXT_PLUGIN`)
	if code, err := p.Wait(ctx); err != nil || code != 0 || len(p.Stdout()) != 2 || p.Stdout()[1] != "1" {
		t.Fatalf("exec: exit code %d, %v, %q", code, err, p.Output())
	}
	host, portText, _ := net.SplitHostPort(strings.SplitN(p.Stdout()[0], "/", 2)[0])
	if i := strings.IndexByte(portText, '?'); i >= 0 {
		portText = portText[:i]
	}
	shop, err := strconv.Atoi(portText)
	if err != nil {
		t.Fatalf("token for %s: %v", host, err)
	}
	if err := w.VerifyDBToken(p.Stdout()[0], "shop.abc123.eu-central-1.rds.amazonaws.com", shop, "ann"); err != nil {
		t.Error(err)
	}
	w.clean()
}

// exec ends as its program does, and nothing stays.
func TestExecProcess(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.env = append(w.env, "BASTION_NO_AGENT=true")
	w.up()
	target := w.far.Addr()
	notExecutable := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(notExecutable, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte{0x7f, 'E', 'L', 'F', 0}, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		code    int
		program []string
	}{
		{0, []string{"true"}},
		{3, []string{"sh", "-c", "exit 3"}},
		{255, []string{"sh", "-c", "exit 255"}},
		{128 + int(syscall.SIGKILL), []string{"sh", "-c", "kill -KILL $$"}},
		{128 + int(syscall.SIGSEGV), []string{"sh", "-c", "kill -SEGV $$"}},
		{126, []string{notExecutable}},
		{126, []string{garbage}},
		{127, []string{"no-such-program-anywhere"}},
		{127, []string{"/no/such/program"}},
	} {
		if code, out := w.exec(append([]string{target, "--"}, tt.program...)...); code != tt.code {
			t.Errorf("%q: exit code %d, want %d\n%s", tt.program, code, tt.code, out)
		}
	}

	// The streams are the program's own, and what it does not answer a signal with is its own matter.
	name := "BASTION_" + strings.NewReplacer(".", "_", ":", "_").Replace(target) + "_ADDR"
	ctx, cancel := context.WithTimeout(t.Context(), clientLimit)
	defer cancel()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1} {
		cmd := exec.Command(filepath.Join(bin, "bastion"), "exec", "-q", target, "--", "sh", "-c",
			`trap 'echo got; exit 9' INT TERM HUP QUIT USR1; echo $`+name+`; while read line; do echo "read $line"; done; while :; do sleep 0.1; done`)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		p := w.startCmd(cmd)
		listen, err := p.Line(ctx, 0)
		if err != nil {
			t.Fatal(err)
		}
		c := dial(ctx, t, listen) // the forward is there
		if err := rig.NewEcho(c).Round(); err != nil {
			t.Errorf("through the forward: %v", err)
		}
		_ = c.Close()
		if _, err := stdin.Write([]byte("hello\n")); err != nil {
			t.Fatal(err)
		}
		if line, err := p.Line(ctx, 1); err != nil || line != "read hello" {
			t.Errorf("%q, %v", line, err)
		}
		if err := stdin.Close(); err != nil {
			t.Fatal(err)
		}
		// To bastion alone, as `kill` does it: it passes the signal on.
		if err := syscall.Kill(p.Cmd.Process.Pid, sig); err != nil {
			t.Fatal(err)
		}
		code, err := p.Wait(ctx)
		if err != nil || code != 9 || !slices.Contains(p.Stdout(), "got") {
			t.Errorf("%v: exit code %d, %v\n%s", sig, code, err, p.Output())
		}
		if c, err := rig.Dial(ctx, listen); err == nil {
			_ = c.Close()
			t.Errorf("%s still listens", listen)
		}
	}
	w.clean()
}

// The agent's forwards have connection strings.
func TestURL(t *testing.T) {
	t.Parallel()
	w := databaseWorld(t)
	psql, cli := rig.Need(t, "psql"), rig.Need(t, "redis-cli")
	w.env = append(w.env, "BASTION_NO_AGENT=false", "PGPASSWORD="+lab.DBPassword)
	program := filepath.Join(bin, "bastion")
	code, out := w.run(clientLimit, program, "url", "rds:orders")
	if code != 3 || !strings.Contains(out, "hint: start one: bastion forward -d rds:orders") {
		t.Errorf("without an agent: exit code %d\n%s", code, out)
	}
	w.up()
	t.Cleanup(func() {
		stop := exec.Command(program, "agent", "stop")
		stop.Env = append(os.Environ(), w.env...)
		if out, err := stop.CombinedOutput(); err != nil {
			t.Errorf("agent stop: %v\n%s", err, out)
		}
	})
	if code, out := w.run(clientLimit, program, "forward", "-q", "-d", "rds:orders", ":", "cache:sessions", ":"); code != 0 {
		t.Fatalf("forward: exit code %d\n%s", code, out)
	}
	url := func(args ...string) string {
		t.Helper()
		code, out := w.run(clientLimit, program, append([]string{"url", "-q"}, args...)...)
		if code != 0 {
			t.Errorf("url %q: exit code %d\n%s", args, code, out)
		}
		return strings.TrimSpace(out)
	}
	ca := w.DatabaseCA()
	for _, args := range [][]string{
		{"rds:orders", "--user", "app"},
		{"orders", "--user", "app", "--format", "kv", "--tls-ca", ca},
		{"rds:orders", "--iam-user", "iam", "--format", "kv", "--tls-ca", ca},
		{"rds:orders", "--iam-user", "iam"},
	} {
		dsn := url(args...)
		if code, out := w.run(clientLimit, psql, "-d", dsn, "-Atc", "select count(*) from orders"); code != 0 || strings.TrimSpace(out) != "3" {
			t.Errorf("psql with %s: exit code %d\n%s", dsn, code, out)
		}
	}
	if code, out := w.run(clientLimit, cli, "-u", url("cache:sessions"), "get", "greeting"); code != 0 || !strings.Contains(out, "hello") {
		t.Errorf("redis-cli: exit code %d\n%s", code, out)
	}
	script := `eval "$(bastion url rds:orders --user app --format env)" && ` + psql + ` -Atc 'select count(*) from orders'`
	if code, out := w.run(clientLimit, "sh", "-c", script); code != 0 || strings.TrimSpace(out) != "3" {
		t.Errorf("%s: exit code %d\n%s", script, code, out)
	}
	if got := url("orders", "--format", "jdbc", "--user", "app"); !regexp.MustCompile(
		`^jdbc:postgresql://127\.0\.0\.1:\d+/orders\?sslmode=require&user=app$`).MatchString(got) {
		t.Errorf("jdbc: %s", got)
	}
	var answer struct{ URL, Protocol, ServerName string }
	if err := json.Unmarshal([]byte(url("orders", "-o", "json")), &answer); err != nil || answer.Protocol != "postgresql" ||
		strings.Contains(answer.URL, "lab") {
		t.Errorf("%+v, %v", answer, err)
	}
	// The agent's forwards do what the process's own do.
	w.mustExec(`(?m)^3$`, "rds:orders", "--user", "app", "--", psql, "-Atc", "select count(*) from orders")
	if code, _ := w.exec("rds:orders", "--", "sh", "-c", "exit 5"); code != 5 {
		t.Errorf("through the agent: exit code %d, want 5", code)
	}
	code, out = w.run(clientLimit, program, "url", "nothing")
	if code != 3 || !strings.Contains(out, "these run: orders, sessions") {
		t.Errorf("exit code %d\n%s", code, out)
	}
}
