package console

import (
	"encoding/csv"
	"io"
	"strings"

	"github.com/bastion-ssm/bastion/internal/printable"
)

// WriteCSV writes rows as CSV (RFC 4180) that is safe to open in a spreadsheet: a cell that the spreadsheet would take for a formula gets a
// leading apostrophe. Characters that a terminal must not show are replaced, and a cell has one line.
func WriteCSV(w io.Writer, rows [][]string) error {
	out := csv.NewWriter(w)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = cellText(cell)
		}
		if err := out.Write(cells); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// cellText is a cell as a spreadsheet may have it. Spreadsheets look past leading space for a formula.
// Source: https://owasp.org/www-community/attacks/CSV_Injection
func cellText(s string) string {
	s = printable.OneLine(s)
	if trimmed := strings.TrimLeft(s, " \u00a0"); trimmed != "" && strings.ContainsRune("=+-@\uff1d\uff0b\uff0d\uff20", firstRune(trimmed)) {
		return "'" + s
	}
	return s
}

func firstRune(s string) rune {
	for _, r := range s {
		return r
	}
	return 0
}
