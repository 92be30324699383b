package console

import (
	"encoding/csv"
	"slices"
	"strings"
	"testing"
)

// A cell is text to a spreadsheet, whoever wrote it, and the file is still CSV.
func TestWriteCSV(t *testing.T) {
	hostile := []string{"=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\uff1d1", "a\nb", `say "x", y`, "\x1b[2J", "plain", ""}
	var b strings.Builder
	if err := WriteCSV(&b, [][]string{hostile}); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(strings.NewReader(b.String())).ReadAll()
	if err != nil || len(rows) != 1 {
		t.Fatalf("%v, %v", rows, err)
	}
	want := []string{"'=1+1", "'+1", "'-1", "'@SUM(A1)", "' =1", "' =1", "'\uff1d1", "a b", `say "x", y`, "?[2J", "plain", ""}
	if got := rows[0]; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
