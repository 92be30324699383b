package doctor

import (
	"fmt"
	"io"
	"strings"

	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/words"
)

// signs are the levels' symbols and colours. The symbols differ without colours too.
var signs = map[Level]struct{ sign, colour string }{
	OK:      {"+", "\x1b[32m"},
	Skipped: {"-", "\x1b[2m"},
	Warning: {"!", "\x1b[33m"},
	Error:   {"x", "\x1b[31m"},
}

// idWidth is the width of the checks' column. The longest identifier has it.
const idWidth = 23

const plainColour = "\x1b[0m"

// Style says how Show writes.
type Style struct {
	Colour bool // for a terminal
	All    bool // skipped checks too; otherwise only those that say something new
}

// Show writes the report as text. It makes characters that do not print visible.
func (r *Report) Show(w io.Writer, s Style) error {
	var b strings.Builder
	if r.Env != "" {
		_ = console.Printf(&b, "Environment %s\n", r.Env) // a Builder takes all
	}
	at := 0
	for _, part := range Checks() {
		head := false
		for range part.Checks {
			f := r.Findings[at]
			at++
			if f.Level == Skipped && f.Needs != "" && !s.All {
				continue
			}
			if !head {
				head = true
				b.WriteString("\n" + part.Name + "\n")
			}
			r.line(&b, f, s)
		}
	}
	r.measures(&b)
	r.sum(&b)
	_, err := io.WriteString(w, strings.TrimPrefix(b.String(), "\n"))
	return err
}

func (r *Report) line(b *strings.Builder, f Finding, s Style) {
	sign, colour, end := signs[f.Level].sign, "", ""
	if s.Colour {
		colour, end = signs[f.Level].colour, plainColour
	}
	_ = console.Printf(b, colour+"  %s %s"+end+"  %s\n", sign, fmt.Sprintf("%-*s", idWidth, f.ID), f.Means) // a Builder takes all
	if f.Fix != "" && f.Level != OK {
		_ = console.Printf(b, "      mend: %s\n", f.Fix)
	}
}

func (r *Report) measures(b *strings.Builder) {
	if len(r.Endpoints) > 0 {
		b.WriteString("\nMeasured\n")
	}
	for _, e := range r.Endpoints {
		if e.Error == "" {
			_ = console.Printf(b, "  %-12s name %.1f ms, connection %.1f ms, TLS %.1f ms\n", e.Service, e.DNS, e.TCP, e.TLS)
		}
	}
	m := r.Measured
	if m == nil {
		return
	}
	_ = console.Printf(b, "  %-12s first byte after %.2f s, round trip %.0f ms, upward %.0f kB/s by %s (%.0f kB/s each)\n",
		"bastion", m.Seconds, m.RTT, m.Upward/1000, words.Count(m.UpwardSessions, "session"), m.PerSession()/1000)
	for _, step := range m.Steps {
		_ = console.Printf(b, "  %-12s %-10s %6.2f s to %6.2f s\n", "", step.Name, step.Begin, step.End)
	}
}

func (r *Report) sum(b *strings.Builder) {
	count := make(map[Level]int)
	for _, f := range r.Findings {
		count[f.Level]++
	}
	fmt.Fprintf(b, "\n%d checks in %.1f s: %d in order, %s, %s, %d skipped\n",
		len(r.Findings), r.Seconds, count[OK], words.Count(count[Warning], "warning"), words.Count(count[Error], "error"), count[Skipped])
	for _, level := range []Level{Error, Warning} { // again, because they may be far above
		var ids []string
		for _, f := range r.Findings {
			if f.Level == level {
				ids = append(ids, f.ID)
			}
		}
		if len(ids) > 0 {
			fmt.Fprintf(b, "%ss: %s\n", level, strings.Join(ids, ", "))
		}
	}
}

// Table returns the table of checks as Markdown, for docs/doctor.md.
func Table() string {
	var b strings.Builder
	for _, part := range Checks() {
		b.WriteString("\n### " + part.Name + "\n\n| check | looks at | needs |\n| --- | --- | --- |\n")
		for _, c := range part.Checks {
			needs := make([]string, len(c.Needs))
			for i, n := range c.Needs {
				needs[i] = "`" + n + "`"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", c.ID, c.Looks, strings.Join(needs, ", "))
		}
	}
	return b.String()
}
