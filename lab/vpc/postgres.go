package vpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/jackc/pgx/v5"
)

// PostgresConfig configures a PostgreSQL server.
type PostgresConfig struct {
	Mode     Mode
	Host     string   // a loopback address; empty means 127.0.0.1
	Port     int      // 0 takes a free one
	Dir      string   // for the server's files; empty means a temporary directory, removed by Close
	User     string   // owns the database; not a superuser, as on RDS
	Password string   // always required: no connection is trusted
	Database string   // empty means the user's name
	Seed     []string // statements to run in the database as User; each may be several, separated by semicolons
	// TLS is the server's certificate; nil: no TLS.
	TLS *Certificate
	// SignIn checks the password of TokenUser, as a database of RDS checks IAM tokens; nil: no such user. A real server calls it
	// only for TLS connections.
	SignIn    func(user, password string) error
	TokenUser string
	Logger    *slog.Logger // nil means none
}

// Postgres is a running server.
type Postgres struct {
	addr     netip.AddrPort
	version  string
	real     *realPostgres
	embedded *embeddedPostgres
}

// StartPostgres starts a PostgreSQL and returns once it answers and is seeded. ctx bounds the start only; end it by Close.
func StartPostgres(ctx context.Context, cfg PostgresConfig) (_ *Postgres, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("start PostgreSQL: %w", err)
		}
	}()
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	if cfg.Host, err = prepareHost(cfg.Host, cfg.Port); err != nil {
		return nil, err
	}
	if cfg.User == "" || cfg.Password == "" {
		return nil, errors.New("a user and a password are needed")
	}
	cfg.Database = cmp.Or(cfg.Database, cfg.User)
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()

	p, err := startEither(ctx, cfg.Mode, "PostgreSQL", cfg.Logger,
		func() (*Postgres, error) { return startRealPostgres(ctx, cfg) },
		func() (*Postgres, error) { return startEmbeddedPostgres(ctx, cfg) })
	if err != nil {
		return nil, err
	}
	if err := p.seed(ctx, cfg); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	cfg.Logger.Info("PostgreSQL is up", "addr", p.addr, "version", p.version, "embedded", p.Embedded())
	return p, nil
}

// Addr returns the address that the server listens on.
func (p *Postgres) Addr() netip.AddrPort { return p.addr }

// Embedded reports whether the server is a stand-in for a real PostgreSQL.
func (p *Postgres) Embedded() bool { return p.embedded != nil }

// Version returns what the server answers to "select version()".
func (p *Postgres) Version() string { return p.version }

// Close stops the server, waits for its end and removes its temporary files.
func (p *Postgres) Close() error {
	if p.embedded != nil {
		return p.embedded.close()
	}
	return p.real.close()
}

// seed connects as a client, reads the version and runs the seed's statements.
func (p *Postgres) seed(ctx context.Context, cfg PostgresConfig) error {
	conn, err := connectPostgres(ctx, p.addr, cfg.User, cfg.Password, cfg.Database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // every statement was answered
	if err := conn.QueryRow(ctx, "select version()").Scan(&p.version); err != nil {
		return fmt.Errorf("ask for the version: %w", err)
	}
	for i, sql := range cfg.Seed {
		if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
			return fmt.Errorf("seed statement %d: %w", i+1, err)
		}
	}
	return nil
}

// connectPostgres connects without TLS; the caller's PG* environment variables do not matter.
func connectPostgres(ctx context.Context, addr netip.AddrPort, user, password, database string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig("sslmode=disable")
	if err != nil {
		return nil, err
	}
	cfg.Host, cfg.Port = addr.Addr().String(), addr.Port()
	cfg.User, cfg.Password, cfg.Database = user, password, database
	cfg.TLSConfig, cfg.Fallbacks, cfg.RuntimeParams = nil, nil, map[string]string{"application_name": "bastion-lab"}
	return pgx.ConnectConfig(ctx, cfg)
}
