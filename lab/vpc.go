package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/bastion-ssm/bastion/lab/vpc"
)

// The databases that every lab has, unless they are off.
const (
	DBID       = "orders" // of the RDS instance, and the name of its database
	DBUser     = "app"
	DBPassword = "lab"
	CacheID    = "sessions" // of the ElastiCache replication group
	WebHost    = "wiki.corp.internal"
)

var dbSeed = []string{
	`CREATE TABLE orders (id int PRIMARY KEY, customer text NOT NULL, item text NOT NULL, amount int NOT NULL)`,
	`INSERT INTO orders (id, customer, item, amount) VALUES
		(1, 'Ada', 'a difference engine', 1), (2, 'Grace', 'nanoseconds of wire', 30), (3, 'Edsger', 'forks', 5)`,
}

var cacheSeed = map[string]string{"greeting": "hello from the private network"}

// startVPC starts the services behind the bastion.
func (l *Lab) startVPC(ctx context.Context) error {
	var err error
	if l.authority, err = vpc.NewAuthority(); err != nil {
		return err
	}
	if err := replaceFile(l.DatabaseCA(), string(l.authority.PEM()), 0o600); err != nil {
		return err
	}
	resolver, err := vpc.StartResolver(ctx, "127.0.0.1:0")
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.resolver = resolver
	l.mu.Unlock()
	if err := l.startPostgres(ctx); err != nil {
		return err
	}
	if err := l.startRedis(ctx); err != nil {
		return err
	}
	if l.cfg.NoWeb {
		return nil
	}
	if l.web, err = startWeb(ctx); err != nil {
		return err
	}
	l.AddName(WebHost, l.web.addr.Addr())
	l.Allow(l.web.addr.String())
	return nil
}

func (l *Lab) startPostgres(ctx context.Context) error {
	if l.cfg.Postgres == Off {
		return nil
	}
	certificate, err := l.authority.Issue(l.dbHost(DBID, ""))
	if err != nil {
		return err
	}
	err = onLoopback(5432, func(host string, port int) (err error) {
		l.postgres, err = vpc.StartPostgres(ctx, vpc.PostgresConfig{
			Mode: l.cfg.Postgres, Host: host, Port: port, User: DBUser, Password: DBPassword, Database: DBID, Seed: dbSeed,
			TLS: certificate, TokenUser: DBIAMUser, SignIn: l.signIn(DBID), Logger: l.log.With("part", "postgres"),
		})
		return err
	})
	if err != nil {
		return err
	}
	return l.AddDBInstance(DBInstance{ID: DBID, Version: "15.4", Database: DBID, Addr: l.postgres.Addr(), IAM: true})
}

func (l *Lab) startRedis(ctx context.Context) error {
	if l.cfg.Redis == Off {
		return nil
	}
	err := onLoopback(6379, func(host string, port int) (err error) {
		l.redis, err = vpc.StartRedis(ctx, vpc.RedisConfig{
			Mode: l.cfg.Redis, Host: host, Port: port, Seed: cacheSeed, Logger: l.log.With("part", "redis"),
		})
		return err
	})
	if err != nil {
		return err
	}
	return l.AddCache(Cache{ID: CacheID, Addr: l.redis.Addr()})
}

// onLoopback starts a server at a loopback address of its own, at the standard port if that is free there. If another program takes
// the port at all addresses just then, onLoopback tries again.
func onLoopback(standard int, start func(host string, port int) error) error {
	const tries = 3
	for n := 1; ; n++ {
		host, port := vpc.LoopbackAddr(standard)
		err := start(host, port)
		if err == nil || n == tries || !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
	}
}

func (l *Lab) closeVPC() error {
	var errs []error
	if l.web != nil {
		errs = append(errs, l.web.close())
	}
	if l.redis != nil {
		errs = append(errs, l.redis.Close())
	}
	if l.postgres != nil {
		errs = append(errs, l.postgres.Close())
	}
	if l.resolver != nil {
		errs = append(errs, l.resolver.Close())
	}
	return errors.Join(errs...)
}

// DatabaseCA returns the file of the CA certificate of the databases, as global-bundle.pem is for RDS.
func (l *Lab) DatabaseCA() string { return l.path("database-ca.pem") }

// DatabaseAuthority returns the authority for further databases' certificates.
func (l *Lab) DatabaseAuthority() *vpc.Authority { return l.authority }

// Resolver returns the address of the VPC's DNS server.
func (l *Lab) Resolver() netip.AddrPort { return l.resolver.Addr() }

// WebURL returns the address of the internal web site. Only the lab's resolver knows its name.
func (l *Lab) WebURL() string {
	if l.web == nil {
		return ""
	}
	u := "http://" + WebHost
	if p := l.web.addr.Port(); p != 80 {
		u += ":" + strconv.Itoa(int(p))
	}
	return u + "/"
}

// AddName gives a private name its addresses; without addresses it removes the name. It does not let the tasks connect there.
func (l *Lab) AddName(name string, addrs ...netip.Addr) {
	l.resolver.Set(name, addrs...)
	l.mu.Lock()
	defer l.mu.Unlock()
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if len(addrs) == 0 {
		delete(l.names, name)
		return
	}
	l.names[name] = slices.Clone(addrs)
}

// lookupHost resolves as the SSM agent of a task would.
func (l *Lab) lookupHost(_ context.Context, host string) ([]string, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []string{ip.String()}, nil
	}
	if host == "localhost" {
		return []string{"::1", "127.0.0.1"}, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	addrs, ok := l.names[strings.ToLower(strings.TrimSuffix(host, "."))]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	var list []string
	for _, a := range addrs {
		list = append(list, a.String())
	}
	return list, nil
}

// publish announces a service of the VPC: its names, and its address to tasks that start from now on.
func (l *Lab) publish(addr netip.AddrPort, names ...string) error {
	if !addr.IsValid() {
		return nil // described, but without a server
	}
	if err := vpc.CheckLoopback(addr.String()); err != nil {
		return err
	}
	for _, name := range names {
		l.AddName(name, addr.Addr())
	}
	l.Allow(addr.String())
	return nil
}

// AddDBInstance adds an RDS DB instance whose server listens at d.Addr, a loopback address.
func (l *Lab) AddDBInstance(d DBInstance) error {
	if d.ID == "" {
		return errors.New("a DB instance needs an id")
	}
	d.Engine = cmp.Or(d.Engine, "postgres")
	d.Version = cmp.Or(d.Version, "1.0")
	d.User = cmp.Or(d.User, DBUser)
	d.Status = cmp.Or(d.Status, "available")
	d.Host = cmp.Or(d.Host, l.dbHost(d.ID, ""))
	d.created = l.cfg.Now()
	if err := l.publish(d.Addr, d.Host); err != nil {
		return fmt.Errorf("add DB instance %s: %w", d.ID, err)
	}
	l.rds.mu.Lock()
	defer l.rds.mu.Unlock()
	l.rds.instances = append(l.rds.instances, d)
	return nil
}

// AddDBCluster adds an Aurora DB cluster whose server listens at d.Addr, a loopback address.
func (l *Lab) AddDBCluster(d DBCluster) error {
	if d.ID == "" {
		return errors.New("a DB cluster needs an id")
	}
	d.Engine = cmp.Or(d.Engine, "aurora-postgresql")
	d.Version = cmp.Or(d.Version, "1.0")
	d.User = cmp.Or(d.User, DBUser)
	d.Status = cmp.Or(d.Status, "available")
	d.created, d.site = l.cfg.Now(), l.site
	if err := l.publish(d.Addr, d.host(), d.reader()); err != nil {
		return fmt.Errorf("add DB cluster %s: %w", d.ID, err)
	}
	l.rds.mu.Lock()
	defer l.rds.mu.Unlock()
	l.rds.clusters = append(l.rds.clusters, d)
	return nil
}

// AddCache adds an ElastiCache cache whose server listens at c.Addr, a loopback address.
func (l *Lab) AddCache(c Cache) error {
	if c.ID == "" {
		return errors.New("a cache needs an id")
	}
	c.site = l.site
	c.Kind = cmp.Or(c.Kind, ReplicationGroup)
	c.Engine = cmp.Or(c.Engine, "redis")
	c.Version = cmp.Or(c.Version, "7.1")
	c.Status = cmp.Or(c.Status, "available")
	c.Host = cmp.Or(c.Host, c.endpointName())
	if !c.Addr.IsValid() && len(c.Nodes) > 0 {
		c.Addr = c.Nodes[0].Addr
	}
	c.created = l.cfg.Now()
	if err := l.publish(c.Addr, c.names()...); err != nil {
		return fmt.Errorf("add cache %s: %w", c.ID, err)
	}
	if len(c.Nodes) > 0 {
		for _, m := range c.members() {
			if err := l.publish(m.addr, m.name); err != nil {
				return fmt.Errorf("add cache %s: %w", c.ID, err)
			}
		}
	}
	l.cache.mu.Lock()
	defer l.cache.mu.Unlock()
	l.cache.caches = append(l.cache.caches, c)
	return nil
}

// web is the internal web site.
type web struct {
	addr   netip.AddrPort
	server *http.Server
	done   chan struct{}
}

const webPage = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>The internal wiki</title></head>
<body><h1>The internal wiki</h1>
<p>You are reading this through the bastion: its name resolves in the VPC alone.</p></body></html>
`

func startWeb(ctx context.Context) (*web, error) {
	var listener net.Listener
	err := onLoopback(80, func(host string, port int) (err error) {
		var lc net.ListenConfig
		listener, err = lc.Listen(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		return err
	})
	if err != nil {
		return nil, err
	}
	addr, err := netip.ParseAddrPort(listener.Addr().String())
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write([]byte(webPage)) // a reader that has gone needs no page
	})
	w := &web{
		addr: addr, server: &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second},
		done: make(chan struct{}),
	}
	go func() {
		defer close(w.done)
		_ = w.server.Serve(listener) // ends with close
	}()
	return w, nil
}

func (w *web) close() error {
	err := w.server.Close()
	<-w.done
	return err
}
