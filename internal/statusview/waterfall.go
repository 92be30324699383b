package statusview

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/printable"
	"github.com/bastion-ssm/bastion/internal/report"
)

// barWidth is the width of the whole time, in columns.
const barWidth = 40

// Waterfall prints the steps of a start that took total seconds, each with a bar over the time in which it ran.
func Waterfall(w io.Writer, steps []report.Step, total float64) error {
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "STEP\tFROM\tTOOK\tBY\t")
	for _, s := range steps {
		fmt.Fprintln(table, printable.Row(s.Name, fmt.Sprintf("%.2fs", s.Begin), fmt.Sprintf("%.2fs", s.End-s.Begin), s.Source, bar(s, total)))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	return console.Printf(w, "%.2fs until the first answer by SSH\n", total)
}

// bar has at least one mark, and stays within the width: the clock of ECS is not this machine's.
func bar(s report.Step, total float64) string {
	if total <= 0 {
		return ""
	}
	column := func(at float64) int { return min(max(int(at/total*barWidth), 0), barWidth) }
	from := min(column(s.Begin), barWidth-1)
	to := max(column(s.End), from+1)
	return strings.Repeat(".", from) + strings.Repeat("#", to-from) + strings.Repeat(".", barWidth-to)
}
