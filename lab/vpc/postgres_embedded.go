package vpc

import (
	"cmp"
	"context"
	"crypto/md5" //nolint:gosec // PostgreSQL's md5(); it protects nothing
	"crypto/subtle"
	"crypto/tls"
	"database/sql"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	wire "github.com/jeroenrinzema/psql-wire"
	"github.com/jeroenrinzema/psql-wire/codes"
	pgerror "github.com/jeroenrinzema/psql-wire/errors"
	"github.com/jeroenrinzema/psql-wire/pkg/buffer"
	"github.com/jeroenrinzema/psql-wire/pkg/types"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// embeddedVersion is the embedded database's version text. It says clearly that this is not a PostgreSQL.
var embeddedVersion = "SQLite " + sqlite3.SQLITE_VERSION +
	", embedded in the lab in place of PostgreSQL and speaking its protocol (bastion-lab, " + runtime.GOOS + "/" + runtime.GOARCH + ")"

// embeddedPostgres serves a SQLite database by PostgreSQL's protocol. Clients can query, insert and use transactions in SQLite's
// dialect, with a few of PostgreSQL's spellings. It has no system catalogue.
type embeddedPostgres struct {
	cfg      PostgresConfig
	db       *sql.DB
	server   *wire.Server
	listener *trackingListener
	serving  sync.WaitGroup
	ctx      context.Context // ends the queries that still run at close
	cancel   context.CancelFunc
	tempDir  string
}

func startEmbeddedPostgres(ctx context.Context, cfg PostgresConfig) (*Postgres, error) {
	dir, temp, err := serverDir(cfg.Dir, "bastion-lab-sqlite-")
	if err != nil {
		return nil, err
	}
	e := &embeddedPostgres{cfg: cfg, tempDir: temp}
	e.ctx, e.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := e.start(ctx, filepath.Join(dir, "database.sqlite")); err != nil {
		return nil, errors.Join(err, e.close())
	}
	addr, err := netip.ParseAddrPort(e.listener.Addr().String())
	if err != nil {
		return nil, errors.Join(err, e.close())
	}
	return &Postgres{addr: addr, embedded: e}, nil
}

func (e *embeddedPostgres) start(ctx context.Context, file string) error {
	options := url.Values{"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(OFF)", "foreign_keys(1)"}}
	name := url.URL{Scheme: "file", Opaque: filepath.ToSlash(file), RawQuery: options.Encode()}
	e.db = sql.OpenDB(connector{name.String()})
	if err := e.db.PingContext(ctx); err != nil {
		return fmt.Errorf("open the embedded database: %w", err)
	}

	var certificates []tls.Certificate
	if c := e.cfg.TLS; c != nil {
		pair, err := tls.X509KeyPair(c.Cert, c.Key)
		if err != nil {
			return err
		}
		certificates = append(certificates, pair)
	}
	server, err := wire.NewServer(e.parse,
		wire.TLSConfig(&tls.Config{Certificates: certificates, MinVersion: tls.VersionTLS12}),
		wire.Logger(slog.New(slog.DiscardHandler)), // it logs every lost client as an error
		wire.SessionAuthStrategy(e.authenticate),
		wire.SessionMiddleware(e.openSession),
		wire.CloseConn(closeSession),
		wire.TxStatus(transactionStatus),
		wire.Version("15.0 (bastion-lab: embedded SQLite "+sqlite3.SQLITE_VERSION+")"),
		wire.GlobalParameters(wire.Parameters{"standard_conforming_strings": "on", "TimeZone": "UTC", "DateStyle": "ISO, MDY"}),
	)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", net.JoinHostPort(e.cfg.Host, strconv.Itoa(e.cfg.Port)))
	if err != nil {
		return err
	}
	e.server = server
	e.listener = newTrackingListener(l)
	e.serving.Go(func() { _ = server.Serve(e.listener) }) // returns when close closes the server
	return nil
}

// close disconnects the clients, ends their queries and waits for everything.
func (e *embeddedPostgres) close() error {
	e.cancel()
	var errs []error
	if e.server != nil {
		e.listener.closeAll()
		errs = append(errs, e.server.Close())
		e.serving.Wait()
		e.server.Wait()
	}
	if e.db != nil {
		errs = append(errs, e.db.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(e.tempDir))...)
}

// connector opens connections by this package's own driver, which adds functions that PostgreSQL's users expect.
type connector struct{ name string }

func (c connector) Driver() driver.Driver { return sqliteDriver() }

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return sqliteDriver().Open(c.name)
}

var sqliteDriver = sync.OnceValue(func() *sqlite.Driver {
	d := new(sqlite.Driver)
	d.MustRegisterDeterministicScalarFunction("version", 0,
		func(*sqlite.FunctionContext, []driver.Value) (driver.Value, error) { return embeddedVersion, nil })
	d.MustRegisterDeterministicScalarFunction("md5", 1,
		func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
			if args[0] == nil {
				return nil, nil
			}
			sum := md5.Sum([]byte(fmt.Sprint(args[0]))) //nolint:gosec // as above
			return hex.EncodeToString(sum[:]), nil
		})
	d.MustRegisterDeterministicScalarFunction("repeat", 2,
		func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
			text, isText := args[0].(string)
			n, isInt := args[1].(int64)
			if !isText || !isInt {
				return nil, errors.New("repeat(text, integer): wrong types of arguments")
			}
			if n > 0 && int64(len(text)) > (64<<20)/n {
				return nil, errors.New("repeat: the result would exceed 64 MiB")
			}
			return strings.Repeat(text, int(max(n, 0))), nil
		})
	return d
})

// authenticate asks for the password in cleartext, because the way here is loopback, or SSH.
func (e *embeddedPostgres) authenticate(ctx context.Context, w *buffer.Writer, r *buffer.Reader) (context.Context, error) {
	const ok, clearTextPassword = 0, 3
	if err := writeAuth(w, clearTextPassword); err != nil {
		return ctx, err
	}
	kind, _, err := r.ReadTypedMsg()
	if err != nil {
		return ctx, err
	}
	if kind != types.ClientPassword {
		return ctx, errors.New("no password message")
	}
	password, err := r.GetString()
	if err != nil {
		return ctx, err
	}

	params := wire.ClientParameters(ctx)
	user, database := params[wire.ParamUsername], params[wire.ParamDatabase]
	database = cmp.Or(database, user)
	if !e.knows(user, password) {
		return ctx, refuse(w, codes.InvalidPassword, fmt.Sprintf("password authentication failed for user %q", user))
	}
	if database != e.cfg.Database {
		return ctx, refuse(w, codes.InvalidCatalogName, fmt.Sprintf("database %q does not exist", database))
	}
	return ctx, writeAuth(w, ok)
}

func (e *embeddedPostgres) knows(user, password string) bool {
	if e.cfg.SignIn != nil && user == e.cfg.TokenUser {
		err := e.cfg.SignIn(user, password)
		if err != nil {
			e.cfg.Logger.Info("a user of the database was refused", "user", user, "err", err)
		}
		return err == nil
	}
	return user == e.cfg.User && subtle.ConstantTimeCompare([]byte(password), []byte(e.cfg.Password)) == 1
}

func writeAuth(w *buffer.Writer, code int32) error {
	w.Start(types.ServerAuth)
	w.AddInt32(code)
	return w.End()
}

// refuse tells the client why the server refuses it; the returned error ends the connection.
func refuse(w *buffer.Writer, code codes.Code, text string) error {
	err := pgerror.WithSeverity(pgerror.WithCode(errors.New(text), code), pgerror.LevelFatal)
	return errors.Join(err, wire.WriteUnterminatedError(w, err))
}

// session is one client's connection to the database. One goroutine serves it, so it needs no lock.
type session struct {
	conn   *sql.Conn
	status types.ServerStatus
}

type sessionKey struct{}

func (e *embeddedPostgres) openSession(ctx context.Context) (context.Context, error) {
	conn, err := e.db.Conn(e.ctx)
	if err != nil {
		return ctx, err
	}
	return context.WithValue(ctx, sessionKey{}, &session{conn: conn, status: types.ServerIdle}), nil
}

func sessionOf(ctx context.Context) *session {
	s, _ := ctx.Value(sessionKey{}).(*session)
	return s
}

// closeSession ends the client's transaction and gives the connection back.
func closeSession(ctx context.Context) error {
	s := sessionOf(ctx)
	if s == nil {
		return nil
	}
	var err error
	if s.status != types.ServerIdle {
		_, err = s.conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
	}
	return errors.Join(err, s.conn.Close())
}

func transactionStatus(ctx context.Context) types.ServerStatus {
	if s := sessionOf(ctx); s != nil {
		return s.status
	}
	return types.ServerIdle
}
