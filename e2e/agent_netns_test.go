//go:build linux

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/net/proxy"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
)

const (
	vpcDatabase = "10.99.1.20:5432"
	vpcOther    = "10.99.1.20:5433" // listens too, but the bastion may not connect there
	ordersQuery = "select text from orders"
)

// desktop is a user's machine that reaches AWS's endpoint and nothing else, beside a VPC that no machine reaches.
type desktop struct {
	*world
	net   netns
	psql  string
	value string // in the VPC's database
}

// From a desktop that reaches nothing but AWS's endpoint each way of bastion's leads to a database in a VPC, and to nothing else.
func TestDesktopAndVPC(t *testing.T) {
	d := newDesktop(t)
	d.isolated()
	for _, way := range []struct {
		name  string
		query func(context.Context) (string, error)
	}{
		{"forward", d.byForward()},
		{"forward -d", d.byDetached},
		{"forward --no-agent", d.byForward("--no-agent")},
		{"exec", d.byExec},
		{"proxy", d.byProxy},
		{"socks", d.bySOCKS},
		{"HTTP CONNECT", d.byCONNECT},
		{"ssh -L", d.bySSH},
	} {
		t.Run(way.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if got, err := way.query(ctx); err != nil || got != d.value {
				t.Errorf("%q, %v, want %q\n%s", got, err, d.value, d.agentLog())
			}
		})
	}
	if code, out := d.run(time.Minute, "ip", d.inside(filepath.Join(bin, "bastion"), "proxy", "10.99.1.20", "5433")...); code != 5 {
		t.Errorf("bastion proxy to what the bastion may not reach: exit code %d\n%s", code, out)
	}
	d.isolated()
	if n := len(d.running()); n != 1 {
		t.Errorf("%d tasks run", n)
	}
}

func newDesktop(t *testing.T) *desktop {
	t.Helper()
	rig.NeedRoot(t)
	for _, program := range []string{"ip", "nsenter", "setpriv"} {
		rig.Need(t, program)
	}
	d := &desktop{psql: rig.Need(t, "psql"), value: "an order of " + strconv.Itoa(os.Getpid())}
	initdb, postgres := rig.Need(t, "initdb"), rig.Need(t, "postgres")
	vpc := newNetns(t)
	vpc.ip("link", "set", "lo", "up")
	vpc.ip("addr", "add", "10.99.1.20/32", "dev", "lo")
	d.net = newNetnsOf(t, "desktop")
	d.net.ip("link", "set", "lo", "up")

	d.world = newAgentWorld(t, func(c *lab.Config) {
		c.Runner = &lab.IsolatedRunner{
			Root: imageRoot(t), UID: imageUser, GID: imageUser,
			VPC: &lab.VPCLink{Netns: vpc.name, Pool: netip.MustParsePrefix(vpcTasks)},
		}
		c.Allow = []string{vpcDatabase}
	})
	endpoint := strings.TrimPrefix(d.URL(), "http://")
	l := d.listen(endpoint)
	relay, err := rig.StartRelay(l, endpoint)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = relay.Close() })
	t.Cleanup(d.stopAgent) // while it still reaches AWS
	d.startPostgres(vpc, initdb, postgres)
	if err := vpc.do(func() error {
		other, err := net.Listen("tcp", vpcOther)
		if err == nil {
			t.Cleanup(func() { _ = other.Close() })
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return d
}

// startPostgres starts a server in the VPC, with the value in it. It trusts everybody: the test is about reaching it.
func (d *desktop) startPostgres(vpc netns, initdb, postgres string) {
	d.t.Helper()
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	as := []string{"setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups", "--"}
	if code, out := d.run(time.Minute, "chown", "postgres:", dir); code != 0 {
		d.t.Fatal(out)
	}
	data := filepath.Join(dir, "data")
	if code, out := d.run(time.Minute, as[0], append(as[1:], initdb, "--pgdata", data, "--username", "app", "--auth", "trust",
		"--no-locale", "--no-sync")...); code != 0 {
		d.t.Fatal(out)
	}
	hba, err := os.OpenFile(filepath.Join(data, "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	_, err = hba.WriteString("host all all 10.99.0.0/16 trust\n")
	if err := errors.Join(err, hba.Close()); err != nil {
		d.t.Fatal(err)
	}
	server := d.start("ip", append(append([]string{"netns", "exec", vpc.name}, as...), postgres, "-D", data, "-c", "fsync=off",
		"-c", "listen_addresses=10.99.1.20", "-c", "unix_socket_directories=", "-c", "logging_collector=off")...)
	d.t.Cleanup(func() { _, _ = server.Stop(syscall.SIGINT) })
	ctx, cancel := context.WithTimeout(d.t.Context(), time.Minute)
	defer cancel()
	if err := server.WaitOutput(ctx, "ready to accept connections"); err != nil {
		d.t.Fatal(err)
	}
	code, out := d.run(time.Minute, "ip", "netns", "exec", vpc.name, d.psql, "-h", "10.99.1.20", "-U", "app", "-c",
		"create table orders (text text); insert into orders values ('"+d.value+"')", "postgres")
	if code != 0 {
		d.t.Fatal(out)
	}
}

// inside are the arguments of ip that run a program on the desktop.
func (d *desktop) inside(args ...string) []string {
	return append([]string{"netns", "exec", d.net.name}, args...)
}

func (d *desktop) bastion(args ...string) *rig.Proc {
	return d.start("ip", d.inside(append([]string{filepath.Join(bin, "bastion")}, args...)...)...)
}

// listen listens on the desktop.
func (d *desktop) listen(addr string) (l net.Listener) {
	d.t.Helper()
	if err := d.net.do(func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	}); err != nil {
		d.t.Fatal(err)
	}
	return l
}

// dial connects from the desktop.
func (d *desktop) dial(addr string) (conn net.Conn, err error) {
	err = d.net.do(func() (err error) {
		conn, err = net.DialTimeout("tcp", addr, 10*time.Second)
		return err
	})
	return conn, err
}

// isolated makes sure that the desktop has no way of its own, neither to the VPC nor to this machine.
func (d *desktop) isolated() {
	d.t.Helper()
	for _, addr := range []string{vpcDatabase, d.far.Addr()} {
		if conn, err := d.dial(addr); err == nil {
			_ = conn.Close()
			d.t.Errorf("the desktop reaches %s", addr)
		}
	}
	if out := d.net.ip("-o", "link", "show"); strings.Count(out, "\n") != 1 {
		d.t.Errorf("the desktop has more network devices than its own loopback: %s", out)
	}
}

// ask asks the database by psql, on the desktop.
func (d *desktop) ask(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	code, out := d.run(time.Minute, "ip", d.inside(d.psql, "-h", host, "-p", port, "-U", "app", "-Atc", ordersQuery, "postgres")...)
	if code != 0 {
		return "", fmt.Errorf("psql: exit code %d\n%s", code, out)
	}
	return strings.TrimSpace(out), nil
}

// askOver asks the database over a connection.
func (d *desktop) askOver(ctx context.Context, conn net.Conn) (text string, err error) {
	defer conn.Close()
	cfg, err := pgx.ParseConfig("postgres://app@" + vpcDatabase + "/postgres?sslmode=disable")
	if err != nil {
		return "", err
	}
	cfg.DialFunc = func(context.Context, string, string) (net.Conn, error) { return conn, nil }
	c, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, c.Close(ctx)) }()
	err = c.QueryRow(ctx, ordersQuery).Scan(&text)
	return text, err
}

func (d *desktop) byForward(flags ...string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		p := d.bastion(append(append([]string{"forward", "-o", "json"}, flags...), vpcDatabase, ":")...)
		defer func() { _, _ = p.Stop(syscall.SIGINT) }()
		line, err := p.Line(ctx, 0)
		if err != nil {
			return "", err
		}
		return d.ask(listenersIn([]string{line})[0])
	}
}

func (d *desktop) byDetached(context.Context) (string, error) {
	program := filepath.Join(bin, "bastion")
	code, out := d.run(time.Minute, "ip", d.inside(program, "forward", "-d", "--name", "orders", "-o", "json", vpcDatabase, ":")...)
	if code != 0 {
		return "", errors.New(out)
	}
	text, err := d.ask(listenersIn([]string{out})[0])
	if code, out := d.run(time.Minute, "ip", d.inside(program, "stop", "orders")...); code != 0 {
		err = errors.Join(err, errors.New(out))
	}
	return text, err
}

func (d *desktop) byExec(context.Context) (string, error) {
	code, out := d.run(time.Minute, "ip", d.inside(filepath.Join(bin, "bastion"), "exec", vpcDatabase, ":", "--", "sh", "-c",
		`"$0" -h 127.0.0.1 -p "$BASTION_10_99_1_20_5432_PORT" -U app -Atc "$1" postgres`, d.psql, ordersQuery)...)
	if code != 0 {
		return "", fmt.Errorf("exit code %d\n%s", code, out)
	}
	return strings.TrimSpace(out), nil
}

// byProxy has the database's protocol on standard input and output, as OpenSSH has its own.
func (d *desktop) byProxy(ctx context.Context) (string, error) {
	host, port, err := net.SplitHostPort(vpcDatabase)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "ip", d.inside(filepath.Join(bin, "bastion"), "proxy", host, port)...)
	cmd.Env = append(os.Environ(), d.env...)
	var says strings.Builder
	cmd.Stderr = &says
	conn, started, err := rig.Piped(cmd)
	if err != nil {
		return "", err
	}
	err = cmd.Start()
	started()
	if err != nil {
		return "", errors.Join(err, conn.Close())
	}
	text, err := d.askOver(ctx, conn)
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("bastion proxy: %w\n%s", err, &says)
	}
	return text, err
}

// withProxy has f connect by `bastion socks`, whose address it gets.
func (d *desktop) withProxy(ctx context.Context, f func(addr string) (net.Conn, error)) (string, error) {
	p := d.bastion("socks", "-o", "json", ":")
	defer func() { _, _ = p.Stop(syscall.SIGINT) }()
	line, err := p.Line(ctx, 0)
	if err != nil {
		return "", err
	}
	conn, err := f(listenersIn([]string{line})[0])
	if err != nil {
		return "", err
	}
	return d.askOver(ctx, conn)
}

func (d *desktop) bySOCKS(ctx context.Context) (string, error) {
	return d.withProxy(ctx, func(addr string) (net.Conn, error) {
		dialer, err := proxy.SOCKS5("tcp", addr, nil, d)
		if err != nil {
			return nil, err
		}
		return dialer.Dial("tcp", vpcDatabase)
	})
}

// Dial implements proxy.Dialer.
func (d *desktop) Dial(_, addr string) (net.Conn, error) { return d.dial(addr) }

func (d *desktop) byCONNECT(ctx context.Context) (string, error) {
	return d.withProxy(ctx, func(addr string) (net.Conn, error) {
		conn, err := d.dial(addr)
		if err != nil {
			return nil, err
		}
		req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: vpcDatabase}, Host: vpcDatabase}
		if err := req.Write(conn); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 16), req) // PostgreSQL is silent until it is asked
		if err == nil && resp.StatusCode != http.StatusOK {
			err = errors.New(resp.Status)
		}
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		return conn, nil
	})
}

// bySSH has OpenSSH forward a port, with the configuration that bastion writes.
func (d *desktop) bySSH(ctx context.Context) (string, error) {
	code, config := d.run(time.Minute, filepath.Join(bin, "bastion"), "ssh-config")
	if code != 0 {
		return "", errors.New(config)
	}
	path := filepath.Join(d.home, "ssh_config")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return "", err
	}
	l := d.listen("127.0.0.1:0")
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		return "", err
	}
	p := d.start("ip", d.inside(rig.Need(d.t, "ssh"), "-F", path, "-o", "ExitOnForwardFailure=yes", "-N", "-L", addr+":"+vpcDatabase,
		"bastion")...)
	defer func() { _, _ = p.Stop(syscall.SIGTERM) }()
	for {
		conn, err := d.dial(addr)
		if err == nil {
			_ = conn.Close()
			return d.ask(addr)
		}
		select {
		case <-p.Ended():
			return "", fmt.Errorf("ssh has ended: %s", p.Output())
		case <-ctx.Done():
			return "", fmt.Errorf("%w: %w\n%s", ctx.Err(), err, p.Output())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
