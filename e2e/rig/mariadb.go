//go:build unix

package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// MariaDB is a MariaDB server of its own, with TLS: a database shop, whose user app has the password lab and must use TLS.
type MariaDB struct {
	proc *Proc
	dir  string
	addr netip.AddrPort
}

// StartMariaDB starts the server mariadbd with a certificate in PEM. End it by Close.
func StartMariaDB(ctx context.Context, mariadbd, install string, cert, key []byte) (_ *MariaDB, err error) {
	// Not below the test's own directory: the server's account must get there.
	dir, err := os.MkdirTemp("", "mdb")
	if err != nil {
		return nil, err
	}
	m := &MariaDB{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start MariaDB: %w", err), m.Close())
		}
	}()
	data := filepath.Join(dir, "data")
	account := []string{}
	if os.Geteuid() == 0 {
		account = []string{"--user=mysql"}
	}
	temporary := filepath.Join(dir, "tmp")
	if err := setUpMariaDB(ctx, install, append([]string{
		"--no-defaults", "--datadir=" + data, "--tmpdir=" + temporary, "--skip-test-db", "--auth-root-authentication-method=normal",
		"--skip-name-resolve",
	}, account...), dir, temporary); err != nil {
		return nil, err
	}
	files := map[string][]byte{
		"cert.pem": cert, "key.pem": key,
		"init.sql": []byte(strings.Join([]string{
			"CREATE DATABASE shop;", "CREATE USER app@'%' IDENTIFIED BY 'lab' REQUIRE SSL;", "GRANT ALL ON shop.* TO app@'%';",
			"CREATE TABLE shop.items (id INT PRIMARY KEY, name VARCHAR(40));", "INSERT INTO shop.items VALUES (1, 'lamp'), (2, 'desk');",
			"",
		}, "\n")),
	}
	owner, err := os.Stat(data)
	if err != nil {
		return nil, err
	}
	for name, content := range files {
		path := filepath.Join(data, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return nil, err
		}
		if st, ok := owner.Sys().(*syscall.Stat_t); ok {
			if err := os.Chown(path, int(st.Uid), int(st.Gid)); err != nil {
				return nil, err
			}
		}
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	m.addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
	m.proc, err = Start(nil, mariadbd, append([]string{
		"--no-defaults", "--datadir=" + data, "--tmpdir=" + temporary, "--socket=" + filepath.Join(data, "sock"), "--bind-address=127.0.0.1",
		"--port=" + strconv.Itoa(port), "--ssl-cert=" + filepath.Join(data, "cert.pem"), "--ssl-key=" + filepath.Join(data, "key.pem"),
		"--init-file=" + filepath.Join(data, "init.sql"), "--skip-name-resolve", "--innodb-flush-method=nosync",
		"--innodb-buffer-pool-size=16M", "--pid-file=" + filepath.Join(data, "pid"),
	}, account...)...)
	if err != nil {
		return nil, err
	}
	err = m.ready(ctx)
	return m, err
}

// setUpMariaDB makes the system tables below dir, with a directory of temporary files of their own. A starting server removes all
// files there that look like its old temporary tables, including other servers'.
func setUpMariaDB(ctx context.Context, install string, args []string, dir, temporary string) error {
	if err := os.Chmod(dir, 0o711); err != nil { // the server's account passes through
		return err
	}
	if err := os.Mkdir(temporary, 0o700); err != nil {
		return err
	}
	if err := os.Chmod(temporary, os.ModeSticky|0o777); err != nil { // of the server's account, which is not known yet
		return err
	}
	if out, err := exec.CommandContext(ctx, install, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// ready waits until the server greets: by then it has run its init file.
func (m *MariaDB) ready(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if m.greets(ctx) {
			return nil
		}
		select {
		case <-tick.C:
		case <-m.proc.Ended():
			return fmt.Errorf("it has ended:\n%s", m.proc.Output())
		case <-ctx.Done():
			return fmt.Errorf("%w\n%s", ctx.Err(), m.proc.Output())
		}
	}
}

func (m *MariaDB) greets(ctx context.Context) bool {
	c, err := Dial(ctx, m.addr.String())
	if err != nil {
		return false
	}
	defer func(c net.Conn) { _ = c.Close() }(c)
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return false
	}
	n, err := c.Read(make([]byte, 1))
	return n == 1 && err == nil
}

// Addr is where the server listens.
func (m *MariaDB) Addr() netip.AddrPort { return m.addr }

// Close ends the server and removes its files.
func (m *MariaDB) Close() error {
	var err error
	if m.proc != nil {
		_, err = m.proc.Stop(syscall.SIGTERM)
	}
	return errors.Join(err, os.RemoveAll(m.dir))
}
