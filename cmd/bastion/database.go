package main

import (
	"fmt"
	"maps"
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
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/hosts"
)

// protocol is what the clients of a database speak.
type protocol string

const (
	postgres protocol = "postgresql"
	mysql    protocol = "mysql"
	redis    protocol = "redis"
	mongo    protocol = "mongodb"
)

// protocolOf returns the protocol of an engine as AWS calls it; of a host, whose engine nobody knows, that of the port number.
func protocolOf(engine string, port int) protocol {
	engine = strings.ToLower(engine)
	for _, e := range []struct {
		part string
		is   protocol
	}{
		{"postgres", postgres},
		{"mysql", mysql},
		{"mariadb", mysql},
		{"aurora", mysql},
		{"redis", redis},
		{"valkey", redis},
		{"docdb", mongo},
	} {
		if strings.Contains(engine, e.part) {
			return e.is
		}
	}
	if engine != "" {
		return ""
	}
	return map[int]protocol{5432: postgres, 3306: mysql, 6379: redis, 27017: mongo}[port]
}

// database is what a client must know of a forward.
type database struct {
	Name       string   // as the user calls it
	Protocol   protocol // "": none that is known
	Engine     string
	Listen     netip.AddrPort
	ServerName string // its name in the private network, which its certificate is for
	Reaches    bool   // this machine's hosts file leads ServerName to Listen
	TLS        bool   // it accepts nothing else
	CA         string // file of certificates that its own is checked against, or ""
	User       string
	Database   string
	Password   string // a secret
}

// newDatabase describes a forward. The settings give the certificates and the hosts file.
func newDatabase(name string, f api.Forward, s config.Settings) (database, error) {
	listen, err := netip.ParseAddrPort(f.Listen)
	if err != nil {
		return database{}, fmt.Errorf("the forward %s listens on %q: %w", f.Name, f.Listen, err)
	}
	switch addr := listen.Addr(); { // where clients of this machine reach it
	case addr == netip.IPv4Unspecified():
		listen = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), listen.Port())
	case addr == netip.IPv6Unspecified():
		listen = netip.AddrPortFrom(netip.IPv6Loopback(), listen.Port())
	}
	host, portText, err := net.SplitHostPort(f.Target)
	if err != nil {
		return database{}, fmt.Errorf("the forward %s leads to %q: %w", f.Name, f.Target, err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return database{}, fmt.Errorf("the forward %s leads to %q: %w", f.Name, f.Target, err)
	}
	d := database{
		Name: name, Protocol: protocolOf(f.Engine, port), Engine: f.Engine, Listen: listen, ServerName: strings.TrimSuffix(host, "."),
		TLS: f.TLS, CA: s.TLSCA, Database: f.Database,
	}
	if listen.Addr().Is4() && listen.Addr() != netip.AddrFrom4([4]byte{127, 0, 0, 1}) {
		known, err := hosts.Addresses(hostsFile(s))
		d.Reaches = err == nil && known[strings.ToLower(d.ServerName)] == listen.Addr()
	}
	return d, nil
}

// checkCA refuses a file of certificates that is not there: clients would say so later and less clearly.
func checkCA(s config.Settings) error {
	if s.TLSCA == "" {
		return nil
	}
	if _, err := os.Stat(s.TLSCA); err != nil {
		return fail.New(fail.Usage, "tls_ca", err,
			"name a file of certificates with --tls-ca; RDS's are at https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem")
	}
	return nil
}

// host is the name or address that a client connects to, and addr the same with the port.
func (d database) host() string {
	if d.Reaches {
		return d.ServerName
	}
	return d.Listen.Addr().String()
}

func (d database) addr() string { return net.JoinHostPort(d.host(), d.port()) }
func (d database) port() string { return strconv.Itoa(int(d.Listen.Port())) }

// encrypted reports whether the server is one that takes TLS: all of RDS do.
func (d database) encrypted() bool {
	return d.TLS || d.Engine != "" && (d.Protocol == postgres || d.Protocol == mysql || d.Protocol == mongo)
}

// variables are what clients read from their environment, in the order of the documentation. They are complete only for the
// first database of its protocol: see exec.
func (d database) variables(getenv func(string) string) []string {
	switch d.Protocol {
	case postgres:
		return d.pgVariables(getenv)
	case mysql:
		// The library reads the port and the password, the program mysql the host too. None reads the user.
		vars := []string{"MYSQL_HOST=" + d.host(), "MYSQL_TCP_PORT=" + d.port()}
		if d.Password != "" {
			vars = append(vars, "MYSQL_PWD="+d.Password, "LIBMYSQL_ENABLE_CLEARTEXT_PLUGIN=1")
		}
		return vars
	case redis:
		return []string{"REDIS_URL=" + d.uri()}
	}
	return nil
}

// pgVariables are libpq's. The name stays the real one, which the certificate is checked against, and the address is ours. What
// the user has set about TLS stays.
func (d database) pgVariables(getenv func(string) string) []string {
	vars := []string{"PGHOST=" + d.ServerName, "PGHOSTADDR=" + d.Listen.Addr().String(), "PGPORT=" + d.port()}
	root := getenv("PGSSLROOTCERT")
	if root == "" && d.CA != "" {
		root = d.CA
		vars = append(vars, "PGSSLROOTCERT="+d.CA)
	}
	if getenv("PGSSLMODE") == "" {
		switch {
		case root == "system" || fileExists(root) || root == "" && fileExists(defaultRoot(getenv)):
			vars = append(vars, "PGSSLMODE=verify-full")
		case d.encrypted():
			vars = append(vars, "PGSSLMODE=require")
		}
	}
	if d.User != "" {
		vars = append(vars, "PGUSER="+d.User)
	}
	if d.Database != "" && getenv("PGDATABASE") == "" {
		vars = append(vars, "PGDATABASE="+d.Database)
	}
	if d.Password != "" {
		vars = append(vars, "PGPASSWORD="+d.Password)
	}
	return vars
}

// defaultRoot is where libpq looks for certificates by itself.
func defaultRoot(getenv func(string) string) string {
	if dir := getenv("APPDATA"); filepath.Separator == '\\' && dir != "" {
		return filepath.Join(dir, "postgresql", "root.crt")
	}
	if home := getenv("HOME"); home != "" {
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

// own are the variables that are bastion's: BASTION_<NAME>_HOST and the rest.
func (d database) own() []string {
	prefix := "BASTION_" + variableName(d.Name) + "_"
	vars := []string{
		prefix + "HOST=" + d.host(), prefix + "PORT=" + d.port(), prefix + "ADDR=" + d.addr(), prefix + "SERVERNAME=" + d.ServerName,
		prefix + "URL=" + d.uri(),
	}
	for _, v := range []struct{ name, value string }{{"USER", d.User}, {"DATABASE", d.Database}, {"PASSWORD", d.Password}} {
		if v.value != "" {
			vars = append(vars, prefix+v.name+"="+v.value)
		}
	}
	return vars
}

// variableName is a name as a part of a variable's.
func variableName(name string) string {
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

// uri is the DSN as most clients take it. The host is one that every client reaches: those that cannot tell name and address apart
// check the name only with --hosts.
func (d database) uri() string {
	u := url.URL{Scheme: string(d.Protocol), Host: d.addr()}
	switch {
	case d.User != "" && d.Password != "":
		u.User = url.UserPassword(d.User, d.Password)
	case d.User != "":
		u.User = url.User(d.User)
	}
	switch d.Protocol {
	case postgres, mongo, mysql:
		u.Path = "/" + d.Database
		u.RawQuery = d.uriOptions()
	case redis:
		if d.encrypted() {
			u.Scheme = "rediss"
		}
	default:
		u.Scheme = "tcp"
	}
	return u.String()
}

func (d database) uriOptions() string {
	switch {
	case d.Protocol == postgres && d.verifies():
		return query("sslmode", "verify-full", "sslrootcert", d.CA)
	case d.Protocol == postgres && d.encrypted():
		return query("sslmode", "require")
	case d.Protocol == mongo:
		return query("tls", strconv.FormatBool(d.encrypted()), "directConnection", "true", "retryWrites", "false")
	}
	return ""
}

// verifies reports whether a client that connects to host can check the name in the certificate.
func (d database) verifies() bool { return d.CA != "" && d.Reaches }

// query joins the options in the order given.
func query(pairs ...string) string {
	var parts []string
	for i := 0; i+1 < len(pairs); i += 2 {
		parts = append(parts, pairs[i]+"="+url.QueryEscape(pairs[i+1]))
	}
	return strings.Join(parts, "&")
}

// formats are the forms of a DSN, by the name that --format takes.
var formats = map[string]struct {
	help string
	of   func(database) (string, bool) // false: there is none for the database's protocol
}{
	"uri":    {"what most clients take", func(d database) (string, bool) { return d.uri(), true }},
	"jdbc":   {"for Java, DBeaver, DataGrip", database.jdbc},
	"env":    {"variables for a shell: eval \"$(bastion url NAME --format env)\"", database.shell},
	"kv":     {"libpq's keywords: psql \"$(bastion url NAME --format kv)\"", database.keywords},
	"go":     {"for database/sql and go-redis", database.golang},
	"python": {"for SQLAlchemy and redis-py", database.python},
	"node":   {"for pg, mysql2 and ioredis", func(d database) (string, bool) { return d.uri(), d.Protocol != "" }},
}

func formatNames() []string { return slices.Sorted(maps.Keys(formats)) }

func (d database) jdbc() (string, bool) {
	u := "//" + d.addr() + "/" + url.PathEscape(d.Database)
	var options []string
	switch d.Protocol {
	case postgres:
		switch {
		case d.verifies():
			options = []string{"sslmode", "verify-full", "sslrootcert", d.CA}
		case d.encrypted():
			options = []string{"sslmode", "require"}
		}
	case mysql:
		if d.encrypted() {
			options = []string{"sslMode", "REQUIRED"}
		}
	case redis:
		u = "//" + d.addr() + "/0"
		if d.encrypted() {
			options = []string{"ssl", "true", "verifyServerCertificate", "false"}
		}
	default:
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

func (d database) shell() (string, bool) {
	var b strings.Builder
	for _, v := range append(d.variables(os.Getenv), d.own()...) {
		name, value, _ := strings.Cut(v, "=")
		fmt.Fprintf(&b, "export %s='%s'\n", name, strings.ReplaceAll(value, "'", `'\''`))
	}
	return strings.TrimSuffix(b.String(), "\n"), true
}

// keywords is libpq's connection string, in which name and address are apart.
func (d database) keywords() (string, bool) {
	if d.Protocol != postgres {
		return "", false
	}
	pairs := []string{"host", d.ServerName, "hostaddr", d.Listen.Addr().String(), "port", d.port()}
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
	case d.CA != "":
		pairs = append(pairs, "sslmode", "verify-full", "sslrootcert", d.CA)
	case d.encrypted():
		pairs = append(pairs, "sslmode", "require")
	}
	var parts []string
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	for i := 0; i < len(pairs); i += 2 {
		value := pairs[i+1]
		if value == "" || strings.ContainsAny(value, ` '\`) {
			value = "'" + quote.Replace(value) + "'"
		}
		parts = append(parts, pairs[i]+"="+value)
	}
	return strings.Join(parts, " "), true
}

func (d database) golang() (string, bool) {
	if d.Protocol != mysql {
		return d.uri(), d.Protocol != ""
	}
	// The DSN of go-sql-driver/mysql.
	login := d.User
	if d.Password != "" {
		login += ":" + d.Password
	}
	if login != "" {
		login += "@"
	}
	out := login + "tcp(" + d.addr() + ")/" + url.PathEscape(d.Database)
	var options []string
	if d.encrypted() {
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

func (d database) python() (string, bool) {
	switch d.Protocol {
	case postgres:
		return "postgresql+psycopg" + strings.TrimPrefix(d.uri(), string(postgres)), true
	case mysql:
		return "mysql+pymysql" + strings.TrimPrefix(d.uri(), string(mysql)), true
	}
	return d.uri(), d.Protocol != ""
}
