package dsn

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Variables returns the variables that clients read, in the order of the documentation. An environment has room for one
// database of each protocol.
func (d Database) Variables() []string {
	switch d.Protocol {
	case Postgres:
		return d.pgVariables()
	case MySQL:
		// MySQL's library reads the port and the password; the program mysql reads the host too. Neither reads the user.
		vars := []string{"MYSQL_HOST=" + d.Host(), "MYSQL_TCP_PORT=" + d.Port()}
		if d.Password != "" {
			vars = append(vars, "MYSQL_PWD="+d.Password, "LIBMYSQL_ENABLE_CLEARTEXT_PLUGIN=1")
		}
		return vars
	case Redis:
		return []string{"REDIS_URL=" + d.URI()}
	}
	return nil
}

// pgVariables returns libpq's variables. Other clients read some of them, above all PGHOST without PGHOSTADDR. So each variable
// leads to the forward by itself. For libpq's own clients, PGHOST has the name: they verify it, look it up in .pgpass, and
// connect to PGHOSTADDR. The user's own TLS variables stay.
func (d Database) pgVariables() []string {
	host, verify := d.Host(), "verify-ca"
	if d.Separates || d.Reaches {
		host, verify = d.ServerName, "verify-full"
	}
	vars := []string{"PGHOST=" + host, "PGHOSTADDR=" + d.Listen.Addr().String(), "PGPORT=" + d.Port()}
	root := d.getenv("PGSSLROOTCERT")
	if root == "" && d.CA != "" {
		root = d.CA
		vars = append(vars, "PGSSLROOTCERT="+d.CA)
	}
	if d.getenv("PGSSLMODE") == "" {
		switch {
		case root == "system": // libpq requires verify-full with it
			vars = append(vars, "PGSSLMODE=verify-full")
		case fileExists(root) || root == "" && fileExists(d.defaultRoot()):
			vars = append(vars, "PGSSLMODE="+verify)
		case d.encrypted():
			vars = append(vars, "PGSSLMODE=require")
		}
	}
	if d.User != "" {
		vars = append(vars, "PGUSER="+d.User)
	}
	if d.Database != "" && d.getenv("PGDATABASE") == "" {
		vars = append(vars, "PGDATABASE="+d.Database)
	}
	if d.Password != "" {
		vars = append(vars, "PGPASSWORD="+d.Password)
	}
	return vars
}

// libpqPrograms are PostgreSQL's own clients.
var libpqPrograms = []string{
	"psql", "pg_dump", "pg_dumpall", "pg_restore", "pg_isready", "pg_basebackup", "pg_receivewal", "pg_recvlogical", "pg_amcheck",
	"pgbench", "createdb", "dropdb", "createuser", "dropuser", "clusterdb", "reindexdb", "vacuumdb", "vacuumlo", "oid2name",
}

// SeparatesName reports whether a program takes a server's name and address separately.
func SeparatesName(program string) bool {
	name := strings.TrimSuffix(strings.ToLower(filepath.Base(program)), ".exe")
	return slices.Contains(libpqPrograms, name)
}

// defaultRoot returns libpq's default CA bundle file; "" if it is unknown.
func (d Database) defaultRoot() string {
	if dir := d.getenv("APPDATA"); filepath.Separator == '\\' && dir != "" {
		return filepath.Join(dir, "postgresql", "root.crt")
	}
	if home := d.getenv("HOME"); home != "" {
		return filepath.Join(home, ".postgresql", "root.crt")
	}
	return ""
}

func fileExists(path string) bool {
	if path == "" {
		return false
	}
	_, err := os.Stat(path)
	return err == nil
}

// Own returns bastion's own variables: BASTION_<NAME>_HOST and the rest.
func (d Database) Own() []string {
	prefix := "BASTION_" + VariableName(d.Name) + "_"
	vars := []string{
		prefix + "HOST=" + d.Host(), prefix + "PORT=" + d.Port(), prefix + "ADDR=" + d.addr(),
		prefix + "SERVERNAME=" + d.ServerName, prefix + "URL=" + d.URI(),
	}
	for pair := range slices.Chunk(given("USER", d.User, "DATABASE", d.Database, "PASSWORD", d.Password), 2) {
		vars = append(vars, prefix+pair[0]+"="+pair[1])
	}
	return vars
}

// VariableName returns name in the form of a variable name's part.
func VariableName(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, name)
}

// shell returns export commands for a POSIX shell. They keep the user's own values. If the environment is unknown, the shell
// tests for these values.
func (d Database) shell() (string, bool) {
	var b strings.Builder
	for _, v := range append(d.Variables(), d.Own()...) {
		name, value, _ := strings.Cut(v, "=")
		switch name {
		case "PGSSLROOTCERT", "PGSSLMODE", "PGDATABASE":
			if d.Getenv == nil {
				fmt.Fprintf(&b, `[ -n "${%s-}" ] || `, name)
			}
		}
		fmt.Fprintf(&b, "export %s='%s'\n", name, strings.ReplaceAll(value, "'", `'\''`))
	}
	return strings.TrimSuffix(b.String(), "\n"), true
}
