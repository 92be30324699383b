package dsn

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Variables are what clients read from their environment, in the order of the documentation. An environment has room
// for those of one database of each protocol.
func (d Database) Variables() []string {
	switch d.Protocol {
	case Postgres:
		return d.pgVariables()
	case MySQL:
		// The library reads the port and the password, the program mysql the host too. None reads the user.
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

// pgVariables are libpq's, which other clients read too, each some of them: PGHOST without PGHOSTADDR above all. So each leads to the
// forward by itself. A client of libpq's has the name in PGHOST, which it checks and looks for in .pgpass, and connects to
// PGHOSTADDR. What the user has set about TLS stays.
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
		case root == "system": // libpq takes nothing less with it
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

// SeparatesName reports whether a program is one that is told a server's name and address apart.
func SeparatesName(program string) bool {
	name := strings.TrimSuffix(strings.ToLower(filepath.Base(program)), ".exe")
	return slices.Contains(libpqPrograms, name)
}

// defaultRoot is where libpq looks for certificates by itself.
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

// Own are the variables that are bastion's: BASTION_<NAME>_HOST and the rest.
func (d Database) Own() []string {
	prefix := "BASTION_" + VariableName(d.Name) + "_"
	vars := []string{
		prefix + "HOST=" + d.Host(), prefix + "PORT=" + d.Port(), prefix + "ADDR=" + d.addr(),
		prefix + "SERVERNAME=" + d.ServerName, prefix + "URL=" + d.URI(),
	}
	for _, v := range []struct{ name, value string }{
		{"USER", d.User},
		{"DATABASE", d.Database},
		{"PASSWORD", d.Password},
	} {
		if v.value != "" {
			vars = append(vars, prefix+v.name+"="+v.value)
		}
	}
	return vars
}

// VariableName is a name as a part of a variable's.
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

// shell sets variables in a POSIX shell. What the user has set already stays, which the shell must see to where its
// environment is not known.
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
