package vpc

import (
	"context"
	"crypto/rand"
	"debug/elf"
	"debug/macho"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// superuser is the name that RDS gives to the superuser that it keeps for itself.
const superuser = "rdsadmin"

// realPostgres is a PostgreSQL server of the machine, in a data directory of its own.
type realPostgres struct {
	server  *child
	gate    *ldapGate // nil: nobody signs in with tokens
	tempDir string    // to remove at close; may be empty
}

// close ends the server by a fast shutdown: it disconnects its clients and does not wait for them.
func (p *realPostgres) close() error {
	return errors.Join(p.server.stop(stopGrace, os.Interrupt, syscall.SIGQUIT), p.gate.close(), os.RemoveAll(p.tempDir))
}

func startRealPostgres(ctx context.Context, cfg PostgresConfig) (*Postgres, error) {
	bin, err := findPostgres()
	if err != nil {
		return nil, notInstalledError{err}
	}
	acct, err := unprivileged("postgres")
	if err != nil {
		return nil, notInstalledError{err}
	}
	dir, temp, err := postgresDir(cfg.Dir, acct)
	if err != nil {
		return nil, err
	}
	secret := rand.Text()
	var gate *ldapGate
	server, addr, err := func() (*child, netip.AddrPort, error) {
		data := filepath.Join(dir, "data")
		if err := initdb(ctx, bin, dir, data, acct, secret); err != nil {
			return nil, netip.AddrPort{}, err
		}
		if err := writeCertificate(data, cfg.TLS, acct); err != nil {
			return nil, netip.AddrPort{}, err
		}
		if cfg.SignIn != nil && cfg.TLS != nil && hasLDAP(bin) {
			var err error
			if gate, err = startLDAPGate(cfg.SignIn, cfg.Logger); err == nil {
				err = gate.open(data)
			}
			if err != nil {
				return nil, netip.AddrPort{}, err
			}
		}
		return startOnPort(ctx, cfg.Host, cfg.Port, func(addr netip.AddrPort) (*child, error) {
			return launchPostgres(ctx, bin, dir, data, acct, addr, secret, cfg.TLS != nil)
		})
	}()
	if err != nil {
		return nil, errors.Join(err, gate.close(), os.RemoveAll(temp))
	}
	p := &realPostgres{server: server, gate: gate, tempDir: temp}
	if err := createDatabase(ctx, addr, secret, cfg); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return &Postgres{addr: addr, real: p}, nil
}

// findPostgres returns the directory of the newest PostgreSQL server that the usual places have.
func findPostgres() (string, error) {
	exe := ""
	if runtime.GOOS == "windows" {
		exe = ".exe"
	}
	var dirs []string
	if path, err := exec.LookPath("initdb"); err == nil {
		dirs = append(dirs, filepath.Dir(path))
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", // Debian, Red Hat
		"/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin", // Homebrew
	} {
		found, _ := filepath.Glob(pattern) // fails only on a bad pattern
		slices.Reverse(found)
		dirs = append(dirs, found...)
	}
	for _, dir := range dirs {
		_, errInit := os.Stat(filepath.Join(dir, "initdb"+exe))
		_, errServer := os.Stat(filepath.Join(dir, "postgres"+exe))
		if errInit == nil && errServer == nil {
			return dir, nil
		}
	}
	return "", errors.New("no initdb and postgres on this machine (looked in PATH and the usual directories)")
}

// postgresDir returns a directory that the account owns and can reach, and the same again in temp if it is to be removed.
func postgresDir(want string, acct *account) (dir, temp string, err error) {
	switch {
	case acct != nil && want != "" && !reachableByAll(want):
		want = ""
	case want != "":
		want = filepath.Join(want, "postgres")
	}
	if dir, temp, err = serverDir(want, "bastion-lab-postgres-"); err != nil {
		return "", "", err
	}
	if err := acct.own(dir); err != nil {
		return "", "", errors.Join(err, os.RemoveAll(temp))
	}
	return dir, temp, nil
}

// reachableByAll reports whether every account may pass through dir and all directories above it.
func reachableByAll(dir string) bool {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return false
	}
	for {
		if fi, err := os.Stat(dir); err == nil && fi.Mode().Perm()&0o001 == 0 {
			return false
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return true
		}
		dir = parent
	}
}

// initdb makes the data directory. Passwords are the only way in, for every user and every address.
func initdb(ctx context.Context, bin, dir, data string, acct *account, secret string) error {
	pwfile := filepath.Join(dir, "superuser-password")
	if err := os.WriteFile(pwfile, []byte(secret+"\n"), 0o600); err != nil {
		return err
	}
	defer os.Remove(pwfile) //nolint:errcheck // it lies in a directory that goes away with the server
	if err := acct.own(pwfile); err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(bin, "initdb"), "--pgdata", data, "--username", superuser, "--pwfile", pwfile,
		"--auth", "scram-sha-256", "--encoding", "UTF8", "--no-locale", "--no-sync")
	cmd.Dir = dir
	cmd.Env = serverEnv()
	acct.use(cmd)
	c, err := startChild("initdb", cmd, filepath.Join(dir, "initdb.log"), syscall.SIGKILL)
	if err != nil {
		return err
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		return errors.Join(ctx.Err(), c.stop(stopGrace, os.Interrupt))
	}
	if c.err != nil {
		return c.ended()
	}
	return nil
}

// launchPostgres starts the server on addr and waits until it takes connections. The data need not survive the machine, so
// nothing waits for the disk.
func launchPostgres(ctx context.Context, bin, dir, data string, acct *account, addr netip.AddrPort, secret string, encrypted bool) (
	*child, error,
) {
	args := []string{"-D", data}
	for _, setting := range []string{
		"listen_addresses=" + addr.Addr().String(),
		fmt.Sprintf("port=%d", addr.Port()),
		"unix_socket_directories=", // none: TCP is the only way in
		"max_connections=400",
		"shared_buffers=32MB",
		"fsync=off", "synchronous_commit=off", "full_page_writes=off",
		"password_encryption=scram-sha-256",
		"logging_collector=off",
	} {
		args = append(args, "-c", setting)
	}
	if encrypted {
		args = append(args, "-c", "ssl=on") // with server.crt and server.key of the data directory
	}
	cmd := exec.Command(filepath.Join(bin, "postgres"), args...) // it outlives ctx; its owner stops it
	cmd.Dir = dir
	cmd.Env = serverEnv()
	acct.use(cmd)
	server, err := startChild("postgres", cmd, filepath.Join(dir, "postgres.log"), syscall.SIGQUIT)
	if err != nil {
		return nil, err
	}
	// Only our server knows the secret: another one on the same address refuses it, and ours ends.
	if err := server.waitReady(ctx, func(ctx context.Context) error {
		conn, err := connectPostgres(ctx, addr, superuser, secret, "postgres")
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	}); err != nil {
		return nil, errors.Join(err, server.stop(stopGrace, os.Interrupt, syscall.SIGQUIT))
	}
	return server, nil
}

// createDatabase makes the user, who is not a superuser, and the user's database.
func createDatabase(ctx context.Context, addr netip.AddrPort, secret string, cfg PostgresConfig) error {
	conn, err := connectPostgres(ctx, addr, superuser, secret, "postgres")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // every statement was answered
	user, database := pgx.Identifier{cfg.User}.Sanitize(), pgx.Identifier{cfg.Database}.Sanitize()
	password := "'" + strings.ReplaceAll(cfg.Password, "'", "''") + "'" // standard_conforming_strings is on
	for _, sql := range []string{
		"create role " + user + " login createdb createrole password " + password,
		"create database " + database + " owner " + user,
		"create role " + iamRole,
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("create the database %s: %w", cfg.Database, err)
		}
	}
	if cfg.TokenUser == "" {
		return nil
	}
	// Without a password, so that only a token lets it in. It has the owner's rights.
	if _, err := conn.Exec(ctx, "create role "+pgx.Identifier{cfg.TokenUser}.Sanitize()+" login in role "+iamRole+", "+user); err != nil {
		return fmt.Errorf("create the user %s: %w", cfg.TokenUser, err)
	}
	return nil
}

// iamRole is the role of users who sign in with tokens, as on RDS.
const iamRole = "rds_iam"

// writeCertificate writes the server's certificate to its place in the data directory.
func writeCertificate(data string, c *Certificate, acct *account) error {
	if c == nil {
		return nil
	}
	for name, content := range map[string][]byte{"server.crt": c.Cert, "server.key": c.Key} {
		path := filepath.Join(data, name)
		if err := errors.Join(os.WriteFile(path, content, 0o600), acct.own(path)); err != nil {
			return err
		}
	}
	return nil
}

// hasLDAP reports whether the server was built with LDAP, as distributions' servers are.
func hasLDAP(bin string) bool {
	server := filepath.Join(bin, "postgres")
	var libraries []string
	if f, err := elf.Open(server); err == nil {
		libraries, _ = f.ImportedLibraries() // none is an answer too
		_ = f.Close()
	} else if f, err := macho.Open(server); err == nil {
		libraries, _ = f.ImportedLibraries()
		_ = f.Close()
	}
	return slices.ContainsFunc(libraries, func(l string) bool { return strings.Contains(strings.ToLower(l), "ldap") })
}

// open makes the server ask the gate about members of rds_iam, but only on encrypted connections.
func (g *ldapGate) open(data string) error {
	addr, err := g.addr()
	if err != nil {
		return err
	}
	path := filepath.Join(data, "pg_hba.conf")
	rules, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	first := fmt.Sprintf("hostssl all +%s all ldap ldapserver=%s ldapport=%d ldapprefix=%q\nhost all +%s all reject\n",
		iamRole, addr.Addr(), addr.Port(), ldapPrefix, iamRole)
	return os.WriteFile(path, append([]byte(first), rules...), 0o600) // keeps the owner
}
