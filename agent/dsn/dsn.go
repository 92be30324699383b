// Package dsn writes connection strings and variables with which database clients connect through a forward.
package dsn

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/hosts"
)

// Protocol is a database protocol.
type Protocol string

// The protocols, by the scheme of their URIs.
const (
	Postgres  Protocol = "postgresql"
	MySQL     Protocol = "mysql"
	Redis     Protocol = "redis"
	Mongo     Protocol = "mongodb"
	SQLServer Protocol = "sqlserver"
)

// ProtocolOf returns the protocol of an engine, by AWS's name for it. Without an engine it goes by the port number. It returns
// "" for an unknown engine or port.
func ProtocolOf(engine string, port int) Protocol {
	engine = strings.ToLower(engine)
	for _, e := range []struct {
		part string
		is   Protocol
	}{
		{"postgres", Postgres},
		{"redshift", Postgres},
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

// Database is a forward's database, as clients need it.
type Database struct {
	Name       string   // the user's name for it
	Protocol   Protocol // "": unknown
	Engine     string   // AWS's name; empty for a host
	Listen     netip.AddrPort
	ServerName string // its host name in the private network, which its certificate names
	Reaches    bool   // the hosts file maps ServerName to Listen
	TLS        bool   // the server accepts only TLS
	CA         string // CA bundle file for the server's certificate, or ""
	User       string
	Database   string
	Password   string // a secret: an IAM token, which RDS accepts over TLS only
	Separates  bool   // the client is libpq's, which takes name and address separately
	// Getenv reads the client's environment; nil: unknown.
	Getenv func(string) string
}

// New describes a forward. s has the CA bundle and the hosts file.
func New(name string, f api.Forward, s config.Settings) (Database, error) {
	listen, err := netip.ParseAddrPort(f.Listen)
	if err != nil {
		return Database{}, fmt.Errorf("the forward %s listens on %q: %w", f.Name, f.Listen, err)
	}
	switch addr := listen.Addr(); { // the address that local clients use
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
		ServerName: strings.TrimSuffix(host, "."), TLS: f.TLS, CA: s.Forward.TLSCA, Database: f.Database,
	}
	if listen.Addr().Is4() && listen.Addr() != netip.AddrFrom4([4]byte{127, 0, 0, 1}) {
		known, err := hosts.Open(s.Local.HostsFile, "").Addresses()
		d.Reaches = err == nil && known[strings.ToLower(d.ServerName)] == listen.Addr()
	}
	return d, nil
}

// Host returns the name or address that clients connect to.
func (d Database) Host() string {
	if d.Reaches {
		return d.ServerName
	}
	return d.Listen.Addr().String()
}

// Port returns the port that clients connect to.
func (d Database) Port() string { return strconv.Itoa(int(d.Listen.Port())) }

func (d Database) addr() string { return net.JoinHostPort(d.Host(), d.Port()) }

func (d Database) getenv(name string) string {
	if d.Getenv == nil {
		return ""
	}
	return d.Getenv(name)
}

// encrypted reports whether the server takes TLS. All of RDS, its proxies and DocumentDB do. A token must never go to another
// server.
func (d Database) encrypted() bool {
	switch d.Protocol {
	case Postgres, MySQL, Mongo, SQLServer:
		return d.TLS || d.Engine != "" || d.Password != "" || ofAWS(d.ServerName)
	}
	return d.TLS
}

// ofAWS reports whether host is an endpoint of RDS or DocumentDB, in any partition. A cluster, an instance or a proxy that the
// user named as a host has no engine here.
func ofAWS(host string) bool {
	labels := strings.Split(strings.ToLower(host), ".")
	return len(labels) > 4 && slices.ContainsFunc(labels[2:], func(l string) bool { return l == "rds" || l == "docdb" })
}

// URI returns the connection string in the form that most clients take. Its host is reachable for every client. Clients that
// take only one name verify the certificate's name only with --hosts; otherwise they verify only the chain.
func (d Database) URI() string { return d.uri(d.uriOptions()...) }

// uri returns a connection string with options.
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
	case MySQL: // the options of MySQL's own URIs
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

// checking is the extent of a client's verification of the server. Each value includes the one before it.
type checking int

const (
	nothing checking = iota
	encrypt
	checkChain
	checkName // only with --hosts, which leads the name to the forward
)

// check returns what a client with one host name can verify, and the CA bundle for it.
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

// pgOptions returns libpq's options, which pgx, asyncpg and the JDBC driver share.
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

// mongoOptions returns the options of MongoDB's URIs. Clients do not know the authority of DocumentDB's certificates.
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

// mongoCommon returns the options that do not concern TLS.
func (d Database) mongoCommon() []string {
	options := []string{"directConnection", "true", "retryWrites", "false"}
	if d.User != "" && d.Database != "" { // otherwise authSource defaults to the database
		options = append(options, "authSource", "admin")
	}
	return options
}

// sqlServerOptions returns the options of SQL Server's drivers. database is the driver's name for the database option.
func (d Database) sqlServerOptions(database string) []string {
	options := given(database, d.Database)
	if d.encrypted() {
		options = append(options, "encrypt", "true", "trustServerCertificate", "true")
	}
	return options
}

// query joins options for a URL. It encodes a space as %20, because some clients do not decode a +.
func query(pairs ...string) string {
	return join(pairs, "&", func(value string) string { return strings.ReplaceAll(url.QueryEscape(value), "+", "%20") })
}

// join joins options in the given order, with quoted values.
func join(pairs []string, separator string, quote func(string) string) string {
	var parts []string
	for pair := range slices.Chunk(pairs, 2) {
		parts = append(parts, pair[0]+"="+quote(pair[1]))
	}
	return strings.Join(parts, separator)
}

// given returns the options that have a value.
func given(pairs ...string) []string {
	var out []string
	for pair := range slices.Chunk(pairs, 2) {
		if pair[1] != "" {
			out = append(out, pair...)
		}
	}
	return out
}
