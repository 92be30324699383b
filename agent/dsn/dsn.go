// Package dsn says what the clients of a database take to connect to it through a forward: connection strings and
// variables.
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
		ServerName: strings.TrimSuffix(host, "."), TLS: f.TLS, CA: s.Forward.TLSCA, Database: f.Database,
	}
	if listen.Addr().Is4() && listen.Addr() != netip.AddrFrom4([4]byte{127, 0, 0, 1}) {
		known, err := hosts.Open(s.Local.HostsFile, "").Addresses()
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
