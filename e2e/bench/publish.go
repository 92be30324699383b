//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Between these lines, docs/performance.md has the tables.
const (
	tablesBegin = "<!-- tables: go run ./e2e/bench -publish -->\n"
	sizesBegin  = "<!-- sizes: go run ./e2e/bench -publish -->\n"
	tablesEnd   = "<!-- end of tables -->\n"
)

// publish puts the tables into docs/performance.md and the plots into docs/img, of the rows that earlier runs have left. What no run
// has measured stays as it is.
func (b *bench) publish(docs string) error {
	page := filepath.Join(docs, "performance.md")
	files := []struct {
		name string
		put  func([]row) error
	}{
		{"bench.json", func(rows []row) error {
			var tables strings.Builder
			if err := printTables(&tables, rows); err != nil {
				return err
			}
			return replaceTables(page, tablesBegin, tables.String())
		}},
		{"sizes.json", func(rows []row) error { return replaceTables(page, sizesBegin, sizeTables(rows)) }},
		{"scale.json", func(rows []row) error { return drawAll(filepath.Join(docs, "img"), rows) }},
	}
	missing := 0
	for _, f := range files {
		rows, err := readRows(filepath.Join(b.out, f.name))
		if errors.Is(err, fs.ErrNotExist) {
			missing++
			continue
		}
		if err == nil {
			err = f.put(rows)
		}
		if err != nil {
			return err
		}
	}
	if missing == len(files) {
		return fmt.Errorf("%s has no rows of a run; measure first: make bench", b.out)
	}
	return nil
}

// replaceTables puts tables into page in place of those between the line begin and the next that ends tables.
func replaceTables(page, begin, tables string) error {
	text, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ends := strings.Cut(rest, tablesEnd)
	if !ok || !ends {
		return fmt.Errorf("%s: no lines %q and %q", page, begin, tablesEnd)
	}
	out := before + begin + "\n" + strings.TrimRight(tables, "\n") + "\n\n" + tablesEnd + after
	return os.WriteFile(page, []byte(out), 0o644)
}

func readRows(path string) ([]row, error) {
	js, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var rows []row
	if err := json.Unmarshal(js, &rows); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return rows, nil
}
