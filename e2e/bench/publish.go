//go:build linux

package main

import (
	"encoding/json"
	"fmt"
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

// publish puts the tables into docs/performance.md and the plots into docs/img, of the rows that earlier runs have
// left.
func (b *bench) publish(docs string) error {
	compared, err := readRows(filepath.Join(b.out, "bench.json"))
	if err != nil {
		return err
	}
	scaled, err := readRows(filepath.Join(b.out, "scale.json"))
	if err != nil {
		return err
	}
	page := filepath.Join(docs, "performance.md")
	old, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	var tables strings.Builder
	if err := printTables(&tables, compared); err != nil {
		return err
	}
	text, err := replaceTables(string(old), tablesBegin, tables.String())
	if err == nil {
		var sized []row
		if sized, err = readRows(filepath.Join(b.out, "sizes.json")); err == nil {
			text, err = replaceTables(text, sizesBegin, sizeTables(sized))
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", page, err)
	}
	if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
		return err
	}
	return drawAll(filepath.Join(docs, "img"), scaled)
}

// replaceTables returns text with tables in place of those between the line begin and the next that ends tables.
func replaceTables(text, begin, tables string) (string, error) {
	before, rest, ok := strings.Cut(text, begin)
	_, after, ends := strings.Cut(rest, tablesEnd)
	if !ok || !ends {
		return "", fmt.Errorf("no lines %q and %q", begin, tablesEnd)
	}
	return before + begin + "\n" + strings.TrimRight(tables, "\n") + "\n\n" + tablesEnd + after, nil
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
