package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/shlex"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/urfave/cli/v2"
)

const queryTimeout = 30 * time.Second

// query sends one statement to a database.
func (p *program) query(c *cli.Context) error {
	if c.NArg() != 2 {
		return errors.New("query needs a URL and a statement")
	}
	asJSON := c.String("output") == "json"
	if !asJSON && c.String("output") != "text" {
		return fmt.Errorf("--output is text or json, not %q", c.String("output"))
	}
	u, err := url.Parse(c.Args().Get(0))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context, queryTimeout)
	defer cancel()
	var rows [][]string
	switch u.Scheme {
	case "postgres", "postgresql":
		rows, err = queryPostgres(ctx, u.String(), c.Args().Get(1))
	case "redis":
		rows, err = queryRedis(ctx, u.String(), c.Args().Get(1))
	default:
		return fmt.Errorf("the URL begins with postgres:// or redis://, not %q", u.Scheme)
	}
	if err != nil {
		return exitError{1, err}
	}
	if asJSON {
		return json.NewEncoder(p.out).Encode(rows)
	}
	return printRows(p.out, rows)
}

// queryPostgres returns the names of the columns and then the rows.
func queryPostgres(ctx context.Context, dsn, statement string) (rows [][]string, err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	result := conn.PgConn().ExecParams(ctx, statement, nil, nil, nil, nil)
	var names []string
	for _, f := range result.FieldDescriptions() {
		names = append(names, f.Name)
	}
	rows = append(rows, names)
	for result.NextRow() {
		var row []string
		for _, v := range result.Values() {
			row = append(row, string(v))
		}
		rows = append(rows, row)
	}
	_, err = result.Close()
	return rows, err
}

// queryRedis returns one row for each value of the answer.
func queryRedis(ctx context.Context, address, statement string) ([][]string, error) {
	opts, err := redis.ParseURL(address)
	if err != nil {
		return nil, err
	}
	opts.MaxRetries = -1
	client := redis.NewClient(opts)
	words, err := shlex.Split(statement)
	if err != nil {
		return nil, err
	}
	args := make([]any, len(words))
	for i, w := range words {
		args[i] = w
	}
	value, err := client.Do(ctx, args...).Result()
	if errors.Is(err, redis.Nil) {
		value, err = "(nil)", nil
	}
	if err := errors.Join(err, client.Close()); err != nil {
		return nil, err
	}
	list, ok := value.([]any)
	if !ok {
		list = []any{value}
	}
	var rows [][]string
	for _, v := range list {
		rows = append(rows, []string{fmt.Sprint(v)})
	}
	return rows, nil
}

func printRows(w io.Writer, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		if len(row) > 0 {
			fmt.Fprintln(tw, strings.Join(row, "\t"))
		}
	}
	return tw.Flush()
}
