// Package dsn says what the clients of a database take to connect to it through a forward: connection strings and
// variables.
package dsn

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/hosts"
)

// Protocol is what the clients of a database speak.
type Protocol string

// The protocols, by the scheme of their URIs.
const (
	Postgres  Protocol = "postgresql"
	MySQL     Protocol = "mysql"
	Redis     Protocol = "redis"
	Mongo     Protocol = "mongodb"
	SQLServer Protocol = "sqlserver"
)

// ProtocolOf returns the protocol of an engine as AWS calls it; of a host, whose engine nobody knows, that of the port
// number.
func ProtocolOf(engine string, port int) Protocol {
	engine = strings.ToLower(engine)
	for _, e := range []struct {
		part string
		is   Protocol
	}{
		{"postgres", Postgres},
		{"mysql", MySQL},
		{"mariadb", MySQL},
		{"aurora", MySQL},
		{"redis", Redis},
		{"valkey", Redis},
		{"docdb", Mongo},
		{"sqlserver", SQLServer},
	} {
		if strings.Contains(engine, e.part) {
			return e.is
		}
	}
	if engine != "" {
		return ""
	}
	return map[int]Protocol{5432: Postgres, 3306: MySQL, 6379: Redis, 27017: Mongo}[port]
}

// Database is what a client must know of a forward.
type Database struct {
	Name       string   // as the user calls it
	Protocol   Protocol // "": none that is known
	Engine     string
	Listen     netip.AddrPort
	ServerName string // its name in the private network, which its certificate is for
	Reaches    bool   // this machine's hosts file leads ServerName to Listen
	TLS        bool   // it accepts nothing else
	CA         string // file of certificates that its own is checked against, or ""
	User       string
	Database   string
	Password   string // a secret: a token of IAM's, which RDS takes over TLS alone
	Separates  bool   // the client is of libpq, which is told name and address apart
	// Getenv reads the environment that the client will have. Nil: it is not known.
	Getenv func(string) string
}

// New describes a forward. The settings give the certificates and the hosts file.
func New(name string, f api.Forward, s config.Settings) (Database, error) {
	listen, err := netip.ParseAddrPort(f.Listen)
	if err != nil {
		return Database{}, fmt.Errorf("the forward %s listens on %q: %w", f.Name, f.Listen, err)
	}
	switch addr := listen.Addr(); { // where clients of this machine reach it
	case addr == netip.IPv4Unspecified():
		listen = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), listen.Port())
	case addr == netip.IPv6Unspecified():
		listen = netip.AddrPortFrom(netip.IPv6Loopback(), listen.Port())
	}
	host, portText, err := net.SplitHostPort(f.Target)
	if err != nil {
		return Database{}, fmt.Errorf("the forward %s leads to %q: %w", f.Name, f.Target, err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return Database{}, fmt.Errorf("the forward %s leads to %q: %w", f.Name, f.Target, err)
	}
	d := Database{
		Name: name, Protocol: ProtocolOf(f.Engine, port), Engine: f.Engine, Listen: listen,
		ServerName: strings.TrimSuffix(host, "."), TLS: f.TLS, CA: s.TLSCA, Database: f.Database,
	}
	if listen.Addr().Is4() && listen.Addr() != netip.AddrFrom4([4]byte{127, 0, 0, 1}) {
		known, err := hosts.Open(s.HostsFile, "").Addresses()
		d.Reaches = err == nil && known[strings.ToLower(d.ServerName)] == listen.Addr()
	}
	return d, nil
}

// Host is the name or address that a client connects to.
func (d Database) Host() string {
	if d.Reaches {
		return d.ServerName
	}
	return d.Listen.Addr().String()
}

// Port is the port that a client connects to.
func (d Database) Port() string { return strconv.Itoa(int(d.Listen.Port())) }

func (d Database) addr() string { return net.JoinHostPort(d.Host(), d.Port()) }

func (d Database) getenv(name string) string {
	if d.Getenv == nil {
		return ""
	}
	return d.Getenv(name)
}

// encrypted reports whether the server is one that takes TLS: all of RDS and DocumentDB do, proxies of RDS too. A token must not go
// to any other.
func (d Database) encrypted() bool {
	switch d.Protocol {
	case Postgres, MySQL, Mongo, SQLServer:
		return d.TLS || d.Engine != "" || d.Password != "" || ofAWS(d.ServerName)
	}
	return d.TLS
}

// ofAWS reports whether a name is an endpoint of RDS or DocumentDB, in any partition: a cluster, an instance or a proxy that was
// named as a host has no engine here.
func ofAWS(host string) bool {
	labels := strings.Split(strings.ToLower(host), ".")
	return len(labels) > 4 && slices.ContainsFunc(labels[2:], func(l string) bool { return l == "rds" || l == "docdb" })
}

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

// URI is the connection string as most clients take it. The host is one that every client reaches: those that cannot
// tell name and address apart check the name only with --hosts, and the chain without.
func (d Database) URI() string { return d.uri(d.uriOptions()...) }

// uri is a connection string with options.
func (d Database) uri(options ...string) string {
	u := url.URL{Scheme: string(d.Protocol), Host: d.addr(), RawQuery: query(options...)}
	switch {
	case d.User != "" && d.Password != "":
		u.User = url.UserPassword(d.User, d.Password)
	case d.User != "":
		u.User = url.User(d.User)
	}
	switch d.Protocol {
	case Postgres, Mongo, MySQL:
		u.Path = "/" + d.Database
	case Redis:
		if d.encrypted() {
			u.Scheme = "rediss"
		}
	case SQLServer:
	default:
		u.Scheme = "tcp"
	}
	return u.String()
}

func (d Database) uriOptions() []string {
	switch d.Protocol {
	case Postgres:
		return d.pgOptions()
	case MySQL: // as MySQL's own URIs have them
		switch mode, ca := d.check(); mode {
		case checkName:
			return []string{"ssl-mode", "VERIFY_IDENTITY", "ssl-ca", ca}
		case checkChain:
			return []string{"ssl-mode", "VERIFY_CA", "ssl-ca", ca}
		case encrypt:
			return []string{"ssl-mode", "REQUIRED"}
		}
	case Mongo:
		return d.mongoOptions()
	case SQLServer:
		return d.sqlServerOptions("database")
	}
	return nil
}

// checking is how much a client checks of the server. Each includes the one before it.
type checking int

const (
	nothing checking = iota
	encrypt
	checkChain
	checkName // with --hosts alone: the name leads to the forward
)

// check returns what a client that knows one host for the database can check, and by which certificates.
func (d Database) check() (checking, string) {
	switch {
	case d.CA != "" && d.Reaches:
		return checkName, d.CA
	case d.CA != "":
		return checkChain, d.CA
	case d.encrypted():
		return encrypt, ""
	}
	return nothing, ""
}

// pgOptions are libpq's, which pgx, asyncpg and the JDBC driver have too.
func (d Database) pgOptions() []string {
	switch mode, ca := d.check(); mode {
	case checkName:
		return []string{"sslmode", "verify-full", "sslrootcert", ca}
	case checkChain:
		return []string{"sslmode", "verify-ca", "sslrootcert", ca}
	case encrypt:
		return []string{"sslmode", "require"}
	}
	return nil
}

// mongoOptions are those of MongoDB's URIs. The certificates of DocumentDB are of an authority that clients do not know.
func (d Database) mongoOptions() []string {
	options := []string{"tls", strconv.FormatBool(d.encrypted() || d.CA != "")}
	switch mode, ca := d.check(); mode {
	case checkName:
		options = append(options, "tlsCAFile", ca)
	case checkChain:
		options = append(options, "tlsCAFile", ca, "tlsAllowInvalidHostnames", "true")
	case encrypt:
		options = append(options, "tlsAllowInvalidCertificates", "true")
	}
	return append(options, d.mongoCommon()...)
}

// mongoCommon are the options that do not concern TLS.
func (d Database) mongoCommon() []string {
	options := []string{"directConnection", "true", "retryWrites", "false"}
	if d.User != "" && d.Database != "" { // else it is the database
		options = append(options, "authSource", "admin")
	}
	return options
}

// sqlServerOptions are the options of SQL Server's drivers, which do not agree on what the database's is called.
func (d Database) sqlServerOptions(database string) []string {
	var options []string
	if d.Database != "" {
		options = append(options, database, d.Database)
	}
	if d.encrypted() {
		options = append(options, "encrypt", "true", "trustServerCertificate", "true")
	}
	return options
}

// query joins the options in the order given. A space is %20, because not all clients take a + for one.
func query(pairs ...string) string {
	var parts []string
	for i := 0; i+1 < len(pairs); i += 2 {
		parts = append(parts, pairs[i]+"="+strings.ReplaceAll(url.QueryEscape(pairs[i+1]), "+", "%20"))
	}
	return strings.Join(parts, "&")
}

// Format is a form of a connection string.
type Format struct {
	Name  string // as --format takes it
	Label string // as a button has it
	Help  string
	// Several is true of a form that is more than one connection string.
	Several bool
	of      func(Database) (string, bool)
}

// Of returns a database's connection string. It reports false where there is none of this form for the database's
// protocol.
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
		// MySQL's driver takes certificates from a trust store alone. The last two are for MariaDB's, by which some reach MySQL.
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
		if strings.Contains(strings.ToLower(d.Engine), "oracle") { // its driver takes the user apart from the URL
			return "jdbc:oracle:thin:@//" + d.addr() + "/" + cmp.Or(d.Database, "ORCL"), true
		}
		return "", false
	}
	for _, o := range []struct{ key, value string }{{"user", d.User}, {"password", d.Password}} {
		if o.value != "" {
			options = append(options, o.key, o.value)
		}
	}
	out := "jdbc:" + string(d.Protocol) + ":" + u
	if len(options) > 0 {
		out += "?" + query(options...)
	}
	return out, true
}

// jdbcMariaDB is for MariaDB's driver, whose versions before 3 have other names for TLS. It takes values as they are, so that some
// cannot be said to it, such as a token; MySQL's driver takes those.
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
	options = append(options, "user", d.User, "password", d.Password)
	out, separator := "jdbc:mariadb://"+d.addr()+"/"+d.Database, "?"
	for i := 0; i < len(options); i += 2 {
		if options[i+1] != "" {
			out += separator + options[i] + "=" + options[i+1]
			separator = "&"
		}
	}
	return out, !strings.ContainsAny(d.Database+d.User+d.Password+d.CA, "&?#")
}

func (d Database) jdbcSQLServer() string {
	options := d.sqlServerOptions("databaseName")
	if d.User != "" {
		options = append(options, "user", d.User)
	}
	out := "jdbc:sqlserver://" + d.addr()
	for i := 0; i+1 < len(options); i += 2 {
		value := options[i+1]
		if strings.ContainsAny(value, ";{} ") {
			value = "{" + strings.ReplaceAll(value, "}", "}}") + "}"
		}
		out += ";" + options[i] + "=" + value
	}
	return out
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

// keywords is libpq's connection string, in which name and address are apart.
func (d Database) keywords() (string, bool) {
	if d.Protocol != Postgres {
		return "", false
	}
	pairs := []string{"host", d.ServerName, "hostaddr", d.Listen.Addr().String(), "port", d.Port()}
	if d.Database != "" {
		pairs = append(pairs, "dbname", d.Database)
	}
	if d.User != "" {
		pairs = append(pairs, "user", d.User)
	}
	if d.Password != "" {
		pairs = append(pairs, "password", d.Password)
	}
	switch {
	case d.CA != "": // it knows name and address
		pairs = append(pairs, "sslmode", "verify-full", "sslrootcert", d.CA)
	case d.encrypted():
		pairs = append(pairs, "sslmode", "require")
	}
	var parts []string
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	for i := 0; i < len(pairs); i += 2 {
		value := pairs[i+1]
		if value == "" || strings.ContainsAny(value, " \t\n\v\f\r'\\") {
			value = "'" + quote.Replace(value) + "'"
		}
		parts = append(parts, pairs[i]+"="+value)
	}
	return strings.Join(parts, " "), true
}

func (d Database) golang() (string, bool) {
	mode, ca := d.check()
	switch {
	case d.Protocol == Redis && d.encrypted() && !d.Reaches:
		return d.uri("skip_verify", "true"), true
	case d.Protocol == Mongo && mode == checkName:
		return d.uri(append([]string{"tls", "true", "tlsCAFile", ca}, d.mongoCommon()...)...), true
	case d.Protocol == Mongo && mode != nothing: // its driver checks all or nothing
		return d.uri(append([]string{"tls", "true", "tlsInsecure", "true"}, d.mongoCommon()...)...), true
	case d.Protocol != MySQL:
		return d.URI(), d.Protocol != ""
	}
	// The DSN of go-sql-driver/mysql, which takes certificates by code alone.
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
	case Postgres: // psycopg is libpq: it is told the name, and the address apart
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
		if d.Reaches { // by the system's authorities: ElastiCache's certificates are of a public one, and not of the bundle for RDS
			return d.uri("ssl_check_hostname", "true"), true
		}
		return d.uri("ssl_cert_reqs", "none", "ssl_check_hostname", "false"), true
	}
	return d.URI(), d.Protocol == Mongo
}

// node is for pg, mysql2, ioredis and mongodb. pg takes sslmode=require for verify-full. mysql2 takes no file of certificates in a
// string. ioredis checks the name, always: there is a string for it only where the name leads to the forward.
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
