package vpc

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	wire "github.com/jeroenrinzema/psql-wire"
	"github.com/jeroenrinzema/psql-wire/codes"
	pgerror "github.com/jeroenrinzema/psql-wire/errors"
	"github.com/jeroenrinzema/psql-wire/pkg/types"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// maxRows bounds a result, which is held in memory while it is sent.
const maxRows = 100_000

// result is a statement's result: its rows, if it has columns, and its command tag.
type result struct {
	columns wire.Columns
	rows    [][]any // values as SQLite gives them
	tag     string
}

// parse takes in each query of a client. It runs a simple query at once, because later statements may need the tables of earlier
// ones before their columns are known. An extended query runs when the client executes it.
func (e *embeddedPostgres) parse(ctx context.Context, q wire.Query) (_ wire.PreparedStatements, err error) {
	defer func() { err = withHint(err) }()
	s := sessionOf(ctx)
	statements := splitSQL(q.Query)
	switch {
	case len(statements) == 0: // nothing but comments
		return wire.Prepared(wire.NewStatement(func(_ context.Context, w wire.DataWriter, _ []wire.Parameter) error {
			return w.Complete("")
		})), nil
	case q.SimpleQuery:
		return e.runSimple(s, statements), nil
	case len(statements) > 1:
		return nil, pgerror.WithCode(errors.New("cannot insert multiple commands into a prepared statement"), codes.Syntax)
	}
	return e.prepare(s, statements[0], q.ParameterOIDs)
}

// runSimple runs the statements up to the first that fails, several of them as one transaction as PostgreSQL does, and
// returns what sends their results.
func (e *embeddedPostgres) runSimple(s *session, statements []statement) wire.PreparedStatements {
	var out wire.PreparedStatements
	isImplicit := len(statements) > 1 && s.status == types.ServerIdle && !hasTransactionControl(statements)
	if isImplicit {
		if _, err := e.run(s, splitSQL("BEGIN")[0], nil); err != nil {
			return wire.Prepared(failing(err))
		}
	}
	for _, st := range statements {
		res, err := e.run(s, st, nil)
		if err != nil {
			out = append(out, failing(err))
			break
		}
		out = append(out, wire.NewStatement(func(_ context.Context, w wire.DataWriter, _ []wire.Parameter) error {
			return withHint(send(w, res))
		}, wire.WithColumns(res.columns)))
	}
	if isImplicit {
		if _, err := e.run(s, splitSQL("COMMIT")[0], nil); err != nil { // rolls back if one failed
			out = append(out, failing(err))
		}
	}
	return out
}

func hasTransactionControl(statements []statement) bool {
	for _, st := range statements {
		switch st.words(1)[0] {
		case "BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE":
			return true
		}
	}
	return false
}

func failing(err error) *wire.PreparedStatement {
	return wire.NewStatement(func(context.Context, wire.DataWriter, []wire.Parameter) error { return withHint(err) })
}

// prepare determines a statement's parameters and columns without running it for good.
func (e *embeddedPostgres) prepare(s *session, st statement, given []uint32) (wire.PreparedStatements, error) {
	count, casts := st.params()
	oids := make([]uint32, max(count, len(given)))
	copy(oids, given)
	for i := range oids {
		if oids[i] == 0 {
			oids[i] = oidByType(casts[i+1])
		}
	}
	columns, err := e.describe(s, st, oids)
	if err != nil {
		return nil, s.failed(err)
	}

	run := func(_ context.Context, w wire.DataWriter, params []wire.Parameter) error {
		args, err := decodeParams(params, oids)
		if err != nil {
			return withHint(s.failed(err))
		}
		res, err := e.run(s, st, args)
		if err != nil {
			return withHint(err)
		}
		res.columns = columns // what the client was told
		return withHint(send(w, res))
	}
	return wire.Prepared(wire.NewStatement(run, wire.WithParameters(oids), wire.WithColumns(columns))), nil
}

// describe returns the columns of a statement that has rows. It reads the first row of a query, with stand-ins for the parameters.
// It does not run a statement that writes.
func (e *embeddedPostgres) describe(s *session, st statement, oids []uint32) (wire.Columns, error) {
	probe := st
	switch st.words(1)[0] {
	case "SELECT", "VALUES", "EXPLAIN":
	case "WITH":
		if i := st.find("INSERT", "UPDATE", "DELETE"); i >= 0 {
			var isReturning bool
			if probe, isReturning = returning(statement{tokens: st.tokens[i:]}); !isReturning {
				return nil, nil
			}
		}
	case "SHOW":
		return showColumns(st), nil
	default:
		var isReturning bool
		if probe, isReturning = returning(st); !isReturning {
			return nil, nil
		}
	}

	ctx, cancel := context.WithTimeout(e.ctx, time.Minute)
	defer cancel()
	var err error
	for _, untyped := range []any{nil, int64(1)} { // "limit $1" takes no NULL
		args := make([]any, 0, len(oids))
		for _, oid := range oids {
			args = append(args, standIn(oid, untyped))
		}
		var rows *sql.Rows
		if rows, err = s.conn.QueryContext(ctx, probe.forSQLite(e.names()), args...); err != nil {
			continue
		}
		var res result
		if res, err = collect(rows, 1); err == nil {
			return res.columns, nil
		}
	}
	return nil, err
}

// returning turns "insert into t ... returning a, b" into "select a, b from t limit 0".
func returning(st statement) (statement, bool) {
	at, table := st.find("RETURNING"), st.find("INTO", "FROM", "UPDATE")
	if at < 0 || table < 0 || table+1 >= len(st.tokens) {
		return statement{}, false
	}
	rest := st.tokens[table+1:]
	for len(rest) > 0 && rest[0].kind == tokSpace {
		rest = rest[1:]
	}
	n := 0
	for n < len(rest) && (rest[n].kind == tokWord || rest[n].is(".")) {
		n++
	}
	space := token{tokSpace, " "}
	query := []token{{tokWord, "select"}, space}
	query = append(query, st.tokens[at+1:]...)
	query = append(query, space, token{tokWord, "from"}, space)
	query = append(query, rest[:n]...)
	query = append(query, space, token{tokWord, "limit"}, space, token{tokNumber, "0"})
	return statement{tokens: query}, true
}

// run runs one statement in the session.
func (e *embeddedPostgres) run(s *session, st statement, args []any) (result, error) {
	first := st.words(2)
	if s.status == types.ServerTransactionFailed {
		switch first[0] {
		case "COMMIT", "END":
			first[0] = "ROLLBACK"
		case "ROLLBACK", "ABORT":
		default:
			return result{}, pgerror.WithCode(errors.New("current transaction is aborted, commands ignored until end of "+
				"transaction block"), codes.InFailedSQLTransaction)
		}
	}
	res, err := e.runIn(s, st, first, args)
	if err != nil {
		return result{}, s.failed(err)
	}
	return res, nil
}

// failed marks the session's transaction, if any, as failed.
func (s *session) failed(err error) error {
	if s.status == types.ServerTransactionBlock {
		s.status = types.ServerTransactionFailed
	}
	return err
}

// unsupported are statements of PostgreSQL or SQLite that the embedded database refuses. They need features that SQLite lacks, or
// reach files beside the database.
var unsupported = []string{
	"ANALYSE", "ATTACH", "CALL", "CHECKPOINT", "CLOSE", "CLUSTER", "COMMENT", "COPY", "DECLARE", "DETACH", "DO", "EXECUTE", "FETCH",
	"GRANT", "LISTEN", "LOAD", "LOCK", "MERGE", "MOVE", "NOTIFY", "PRAGMA", "PREPARE", "REFRESH", "REINDEX", "REPLACE", "REVOKE",
	"TRUNCATE", "UNLISTEN", "VACUUM",
}

func (e *embeddedPostgres) runIn(s *session, st statement, first []string, args []any) (result, error) {
	text := st.forSQLite(e.names())
	switch first[0] {
	case "BEGIN", "START":
		if s.status != types.ServerIdle {
			return result{tag: "BEGIN"}, nil // PostgreSQL only warns
		}
		_, err := s.conn.ExecContext(e.ctx, "BEGIN")
		if err == nil {
			s.status = types.ServerTransactionBlock
		}
		return result{tag: "BEGIN"}, err
	case "COMMIT", "END", "ROLLBACK", "ABORT":
		if first[0] == "ROLLBACK" && st.find("TO") >= 0 {
			return e.exec(s, text, args, "ROLLBACK")
		}
		return e.endTransaction(s, first[0])
	case "SET", "RESET", "DISCARD", "DEALLOCATE":
		tag := first[0]
		if tag == "DISCARD" || tag == "DEALLOCATE" {
			tag = strings.TrimSpace(tag + " " + first[1])
		}
		return result{tag: tag}, nil // there is nothing to set here
	case "SHOW":
		return show(st)
	case "SELECT", "VALUES", "EXPLAIN", "WITH", "INSERT", "UPDATE", "DELETE":
		return e.query(s, st, text, args)
	case "CREATE", "DROP", "ALTER", "ANALYZE", "SAVEPOINT", "RELEASE":
		return e.exec(s, text, args, strings.TrimSpace(first[0]+" "+objectKind(st)))
	}
	if slices.Contains(unsupported, first[0]) {
		return result{}, pgerror.WithCode(fmt.Errorf("%s is not supported here", first[0]), codes.FeatureNotSupported)
	}
	return result{}, pgerror.WithCode(fmt.Errorf("syntax error at or near %q", st.tokens[0].text), codes.Syntax)
}

// objectKind returns the kind of object of a CREATE, DROP or ALTER: "TABLE", "INDEX", "VIEW".
func objectKind(st statement) string {
	for _, w := range st.words(5)[1:] {
		switch w {
		case "TABLE", "INDEX", "VIEW", "TRIGGER":
			return w
		}
	}
	return ""
}

func (e *embeddedPostgres) endTransaction(s *session, how string) (result, error) {
	tag := "COMMIT"
	if how == "ROLLBACK" || how == "ABORT" {
		tag = "ROLLBACK"
	}
	if s.status == types.ServerIdle {
		return result{tag: tag}, nil // PostgreSQL only warns
	}
	_, err := s.conn.ExecContext(e.ctx, tag)
	if err != nil && tag == "COMMIT" { // a deferred constraint, or another writer: PostgreSQL rolls back
		_, errBack := s.conn.ExecContext(e.ctx, "ROLLBACK")
		err = errors.Join(err, errBack)
	}
	s.status = types.ServerIdle
	return result{tag: tag}, err
}

func (e *embeddedPostgres) exec(s *session, text string, args []any, tag string) (result, error) {
	_, err := s.conn.ExecContext(e.ctx, text, args...)
	return result{tag: tag}, err
}

// query runs a statement that may have rows.
func (e *embeddedPostgres) query(s *session, st statement, text string, args []any) (result, error) {
	verb := st.words(1)[0]
	if verb == "WITH" {
		verb = "SELECT"
		if i := st.find("INSERT", "UPDATE", "DELETE"); i >= 0 {
			verb = strings.ToUpper(st.tokens[i].text)
		}
	}
	isWrite := verb == "INSERT" || verb == "UPDATE" || verb == "DELETE"
	if isWrite && st.find("RETURNING") < 0 {
		r, err := s.conn.ExecContext(e.ctx, text, args...)
		if err != nil {
			return result{}, err
		}
		n, err := r.RowsAffected()
		return result{tag: rowsTag(verb, n)}, err
	}
	rows, err := s.conn.QueryContext(e.ctx, text, args...)
	if err != nil {
		return result{}, err
	}
	res, err := collect(rows, maxRows)
	if err != nil {
		return result{}, err
	}
	if !isWrite {
		verb = "SELECT"
	}
	res.tag = rowsTag(verb, int64(len(res.rows)))
	return res, nil
}

func rowsTag(verb string, n int64) string {
	if verb == "INSERT" {
		return fmt.Sprintf("INSERT 0 %d", n)
	}
	return fmt.Sprintf("%s %d", verb, n)
}

// collect reads at most limit rows, determines the columns' types, and closes rows. At maxRows it fails instead of truncating.
func collect(rows *sql.Rows, limit int) (_ result, err error) {
	defer func() { err = errors.Join(err, rows.Close()) }()
	declared, err := rows.ColumnTypes()
	if err != nil {
		return result{}, err
	}
	var res result
	for len(res.rows) < limit && rows.Next() {
		row := make([]any, len(declared))
		into := make([]any, len(row))
		for i := range row {
			into[i] = &row[i]
		}
		if err := rows.Scan(into...); err != nil {
			return result{}, err
		}
		res.rows = append(res.rows, row)
	}
	if err := rows.Err(); err != nil {
		return result{}, err
	}
	if limit == maxRows && len(res.rows) == limit && rows.Next() {
		return result{}, pgerror.WithCode(fmt.Errorf("more than %d rows", maxRows), codes.ProgramLimitExceeded)
	}
	for i, c := range declared {
		var sample any
		for _, row := range res.rows {
			if sample = row[i]; sample != nil {
				break
			}
		}
		oid, scale := columnType(c.DatabaseTypeName(), sample)
		res.columns = append(res.columns, wire.Column{Name: columnName(c.Name()), Oid: oid, Width: -1, TypeModifier: scale})
	}
	return res, nil
}

// send writes the rows and the tag.
func send(w wire.DataWriter, res result) error {
	for _, row := range res.rows {
		out := make([]any, len(row))
		for i, v := range row {
			var err error
			if out[i], err = convert(v, res.columns[i]); err != nil {
				return pgerror.WithCode(fmt.Errorf("column %q: %w", res.columns[i].Name, err), codes.DatatypeMismatch)
			}
		}
		if err := w.Row(out); err != nil {
			return err
		}
	}
	return w.Complete(res.tag)
}

// names are the values of PostgreSQL's special names.
func (e *embeddedPostgres) names() map[string]string {
	return map[string]string{"user": e.cfg.User, "database": e.cfg.Database, "schema": "public"}
}

// settings are the values for SHOW.
var settings = map[string]string{
	"server_version":                "15.0",
	"server_encoding":               "UTF8",
	"client_encoding":               "UTF8",
	"standard_conforming_strings":   "on",
	"timezone":                      "UTC",
	"datestyle":                     "ISO, MDY",
	"search_path":                   "public",
	"transaction_isolation":         "serializable",
	"transaction isolation level":   "serializable",
	"default_transaction_isolation": "serializable",
	"max_connections":               "400",
}

func showName(st statement) string {
	return strings.ToLower(strings.TrimSpace(strings.Join(st.words(4)[1:], " ")))
}

func showColumns(st statement) wire.Columns {
	return wire.Columns{{Name: showName(st), Oid: pgtype.TextOID, Width: -1}}
}

func show(st statement) (result, error) {
	value, ok := settings[showName(st)]
	if !ok {
		return result{}, pgerror.WithCode(fmt.Errorf("unrecognized configuration parameter %q", showName(st)),
			codes.UndefinedObject)
	}
	return result{columns: showColumns(st), rows: [][]any{{value}}, tag: "SHOW"}, nil
}

// withHint gives an error of SQLite PostgreSQL's code, and adds to every error that it comes from the embedded database.
func withHint(err error) error {
	if err == nil {
		return nil
	}
	if lite := new(sqlite.Error); errors.As(err, &lite) {
		err = pgerror.WithCode(err, codeOf(lite))
	}
	return pgerror.WithHint(err, "This is the lab's embedded database (SQLite). Install PostgreSQL for the real one.")
}

func codeOf(err *sqlite.Error) codes.Code {
	if err.Code()&0xff == sqlite3.SQLITE_BUSY { // the low byte is the kind, the rest of it says more
		return codes.SerializationFailure
	}
	switch err.Code() {
	case sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
		return codes.UniqueViolation
	case sqlite3.SQLITE_CONSTRAINT_NOTNULL:
		return codes.NotNullViolation
	case sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
		return codes.ForeignKeyViolation
	case sqlite3.SQLITE_CONSTRAINT_CHECK:
		return codes.CheckViolation
	case sqlite3.SQLITE_MISMATCH:
		return codes.DatatypeMismatch
	case sqlite3.SQLITE_INTERRUPT:
		return codes.QueryCanceled
	}
	switch text := err.Error(); {
	case strings.Contains(text, "no such table"):
		return codes.UndefinedTable
	case strings.Contains(text, "no such column"):
		return codes.UndefinedColumn
	case strings.Contains(text, "no such function"):
		return codes.UndefinedFunction
	case strings.Contains(text, "syntax error"), strings.Contains(text, "incomplete input"):
		return codes.Syntax
	}
	return codes.Uncategorized
}
