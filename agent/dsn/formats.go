package dsn

import (
	"cmp"
	"net/url"
	"strings"
)

// Format is a form of connection string.
type Format struct {
	Name  string // the value of --format
	Label string // the button's label
	Help  string
	// Several says that the form has more than one connection string.
	Several bool
	of      func(Database) (string, bool)
}

// Of returns a database's connection string. It reports false if the form has none for the database's protocol.
func (f Format) Of(d Database) (string, bool) { return f.of(d) }

// Formats returns all forms, the most common ones first.
func Formats() []Format {
	return []Format{
		{"uri", "URI", "what most clients take", false, func(d Database) (string, bool) { return d.URI(), true }},
		{"jdbc", "JDBC", "for Java, DBeaver, DataGrip", false, Database.jdbc},
		{"kv", "psql", "libpq's keywords: psql \"$(bastion url NAME --format kv)\"", false, Database.keywords},
		{"env", "Shell", "variables for a shell: eval \"$(bastion url NAME --format env)\"", true, Database.shell},
		{"go", "Go", "for database/sql, pgx, go-redis and MongoDB's driver", false, Database.golang},
		{"python", "Python", "for SQLAlchemy, redis-py and PyMongo", false, Database.python},
		{"node", "Node", "for pg, mysql2, ioredis and mongodb", false, Database.node},
	}
}

func (d Database) jdbc() (string, bool) {
	u := "//" + d.addr() + "/" + url.PathEscape(d.Database)
	var options []string
	switch d.Protocol {
	case Postgres:
		options = d.pgOptions()
	case MySQL:
		if text, ok := d.jdbcMariaDB(); ok {
			return text, true
		}
		// MySQL's driver reads certificates only from a trust store. The last two options are for MariaDB's driver, which some
		// use for MySQL.
		if mode, _ := d.check(); mode != nothing {
			options = []string{"sslMode", "REQUIRED", "useSSL", "true", "trustServerCertificate", "true"}
		}
	case Redis:
		u = "//" + d.addr() + "/0"
		if d.encrypted() {
			options = []string{"ssl", "true", "verifyServerCertificate", "false"}
		}
	case SQLServer:
		return d.jdbcSQLServer(), true
	default:
		if strings.Contains(strings.ToLower(d.Engine), "oracle") { // its driver takes the user separately from the URL
			return "jdbc:oracle:thin:@//" + d.addr() + "/" + cmp.Or(d.Database, "ORCL"), true
		}
		return "", false
	}
	options = append(options, given("user", d.User, "password", d.Password)...)
	out := "jdbc:" + string(d.Protocol) + ":" + u
	if len(options) > 0 {
		out += "?" + query(options...)
	}
	return out, true
}

// jdbcMariaDB returns the string for MariaDB's driver; before version 3 it has other names for TLS. The driver does not decode
// values. It cannot take some values, such as a token; then MySQL's driver must.
func (d Database) jdbcMariaDB() (string, bool) {
	if !strings.Contains(strings.ToLower(d.Engine), "mariadb") {
		return "", false
	}
	var options []string
	switch mode, ca := d.check(); mode {
	case checkName:
		options = []string{"sslMode", "verify-full", "serverSslCert", ca, "useSsl", "true"}
	case checkChain:
		options = []string{"sslMode", "verify-ca", "serverSslCert", ca, "useSsl", "true", "disableSslHostnameVerification", "true"}
	case encrypt:
		options = []string{"sslMode", "trust", "useSsl", "true", "trustServerCertificate", "true"}
	}
	options = append(options, given("user", d.User, "password", d.Password)...)
	out := "jdbc:mariadb://" + d.addr() + "/" + d.Database
	if len(options) > 0 {
		out += "?" + join(options, "&", func(value string) string { return value })
	}
	return out, !strings.ContainsAny(d.Database+d.User+d.Password+d.CA, "&?#")
}

func (d Database) jdbcSQLServer() string {
	options := append(d.sqlServerOptions("databaseName"), given("user", d.User)...)
	out := "jdbc:sqlserver://" + d.addr()
	if len(options) == 0 {
		return out
	}
	return out + ";" + join(options, ";", func(value string) string {
		if strings.ContainsAny(value, ";{} ") {
			return "{" + strings.ReplaceAll(value, "}", "}}") + "}"
		}
		return value
	})
}

// keywords returns libpq's connection string, with separate name and address.
func (d Database) keywords() (string, bool) {
	if d.Protocol != Postgres {
		return "", false
	}
	pairs := []string{"host", d.ServerName, "hostaddr", d.Listen.Addr().String(), "port", d.Port()}
	pairs = append(pairs, given("dbname", d.Database, "user", d.User, "password", d.Password)...)
	switch {
	case d.CA != "": // libpq knows name and address
		pairs = append(pairs, "sslmode", "verify-full", "sslrootcert", d.CA)
	case d.encrypted():
		pairs = append(pairs, "sslmode", "require")
	}
	return join(pairs, " ", func(value string) string {
		if value == "" || strings.ContainsAny(value, " \t\n\v\f\r'\\") {
			return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'"
		}
		return value
	}), true
}

func (d Database) golang() (string, bool) {
	mode, ca := d.check()
	switch {
	case d.Protocol == Redis && d.encrypted() && !d.Reaches:
		return d.uri("skip_verify", "true"), true
	case d.Protocol == Mongo && mode == checkName:
		return d.uri(append([]string{"tls", "true", "tlsCAFile", ca}, d.mongoCommon()...)...), true
	case d.Protocol == Mongo && mode != nothing: // Go's driver verifies all or nothing
		return d.uri(append([]string{"tls", "true", "tlsInsecure", "true"}, d.mongoCommon()...)...), true
	case d.Protocol != MySQL:
		return d.URI(), d.Protocol != ""
	}
	// The DSN of go-sql-driver/mysql, which takes certificates only from code.
	login := d.User
	if d.Password != "" {
		login += ":" + d.Password
	}
	if login != "" {
		login += "@"
	}
	out := login + "tcp(" + d.addr() + ")/" + url.PathEscape(d.Database)
	var options []string
	if mode != nothing {
		options = append(options, "tls", "skip-verify")
	}
	if d.Password != "" {
		options = append(options, "allowCleartextPasswords", "true")
	}
	if len(options) > 0 {
		out += "?" + query(options...)
	}
	return out, true
}

func (d Database) python() (string, bool) {
	mode, ca := d.check()
	switch d.Protocol {
	case Postgres: // psycopg is libpq: it takes name and address separately
		named := d
		named.Reaches = true
		options := append([]string{"hostaddr", d.Listen.Addr().String()}, named.pgOptions()...)
		return "postgresql+psycopg" + strings.TrimPrefix(named.uri(options...), string(Postgres)), true
	case MySQL:
		var options []string
		switch mode {
		case checkName:
			options = []string{"ssl_ca", ca, "ssl_check_hostname", "true"}
		case checkChain:
			options = []string{"ssl_ca", ca, "ssl_check_hostname", "false"}
		case encrypt:
			options = []string{"ssl_check_hostname", "false"}
		}
		return "mysql+pymysql" + strings.TrimPrefix(d.uri(options...), string(MySQL)), true
	case Redis:
		if !d.encrypted() {
			return d.URI(), true
		}
		if d.Reaches { // by the system's authorities: a public one issues ElastiCache's certificates, which the RDS bundle lacks
			return d.uri("ssl_check_hostname", "true"), true
		}
		return d.uri("ssl_cert_reqs", "none", "ssl_check_hostname", "false"), true
	}
	return d.URI(), d.Protocol == Mongo
}

// node returns the string for pg, mysql2, ioredis and mongodb. pg treats sslmode=require as verify-full. mysql2 takes no CA
// bundle in a string. ioredis always verifies the name, so it has a string only if the name leads to the forward.
func (d Database) node() (string, bool) {
	mode, ca := d.check()
	switch d.Protocol {
	case Postgres:
		switch mode {
		case checkChain:
			return d.uri("uselibpqcompat", "true", "sslmode", "verify-ca", "sslrootcert", ca), true
		case encrypt:
			return d.uri("sslmode", "no-verify"), true
		}
	case MySQL:
		if mode != nothing {
			return d.uri("ssl", `{"rejectUnauthorized":false}`), true
		}
	case Redis:
		return d.URI(), !d.encrypted() || d.Reaches
	}
	return d.URI(), d.Protocol != "" && d.Protocol != SQLServer
}
