package topview

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/printable"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/internal/words"
)

// flat makes foreign text one line that cannot control the terminal.
func flat(s string) string { return printable.OneLine(strings.TrimSpace(s)) }

// isLive reports whether the model runs on a terminal; otherwise it is a single snapshot.
func (m *Model) isLive() bool { return m.source != nil }

func (m *Model) heading(s string) string {
	if m.isLive() {
		return "\x1b[1m" + s + "\x1b[0m"
	}
	return s
}

// lines returns all lines of the view.
func (m *Model) lines() []string {
	if !m.isRunning {
		return []string{
			m.heading("No agent is running."),
			"The next command that needs it starts it, such as bastion forward -d rds:orders.",
		}
	}
	st := m.state
	if st.PID == 0 {
		return []string{"asking the agent"}
	}
	out := []string{
		m.heading("bastion") + "  " + flat(fmt.Sprintf("agent %s, process %d, up for %s", st.Version, st.PID,
			since(st.At, st.Started))),
		"",
	}
	out = append(out, m.forwardLines()...)
	out = append(out, "")
	out = append(out, m.linkLines()...)
	out = append(out, "")
	out = append(out, m.bastionLines()...)
	out = append(out, "")
	return append(out, m.auditLines()...)
}

// Lines returns the lines of one snapshot, without terminal control.
func Lines(state api.State, accounts []api.Account, isRunning bool) []string {
	m := &Model{state: state, accounts: accounts, asked: true, isRunning: isRunning}
	return m.lines()
}

func since(now, then time.Time) time.Duration { return max(now.Sub(then), 0).Round(time.Second) }

// grid lays out rows in columns; the first row is the heading.
func (m *Model) grid(rows [][]string) []string {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	for _, r := range rows {
		for i, cell := range r {
			r[i] = flat(cell)
		}
		_, _ = fmt.Fprintln(w, strings.Join(r, "\t")) // a buffer takes everything
	}
	_ = w.Flush()
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return lines
}

func (m *Model) rate(n float64) string {
	if !m.isLive() {
		return "-" // a single snapshot has no rates
	}
	return words.Bytes(n) + "/s"
}

func (m *Model) forwardLines() []string {
	out := []string{m.heading(fmt.Sprintf("FORWARDS (%d)", len(m.state.Forwards)))}
	if len(m.state.Forwards) == 0 {
		return append(out, "none; bastion forward -d TARGET opens one")
	}
	named := slices.ContainsFunc(m.state.Forwards, func(f api.Forward) bool { return f.Environment != "" })
	rows := [][]string{{"NAME", "STATE", "LISTEN", "TARGET", "CONNECTIONS", "DOWN", "UP", "ALL DOWN", "ALL UP", "AGE", ""}}
	var keys []string
	for _, f := range m.state.Forwards {
		keys = append(keys, f.Reference())
		target := f.Target
		if f.Kind == api.KindProxy {
			target = "(proxy)"
		}
		flow := m.flow("f/" + f.Reference())
		rows = append(rows, []string{
			f.Reference(), string(f.State), f.Listen, words.Dash(target), fmt.Sprint(f.Stats.Active),
			m.rate(flow.downRate), m.rate(flow.upRate), words.Bytes(float64(f.Stats.BytesDown)), words.Bytes(float64(f.Stats.BytesUp)),
			since(m.state.At, f.Opened).String(), f.Trouble(m.state.At),
		})
	}
	if named {
		rows[0] = append([]string{"ENVIRONMENT"}, rows[0]...)
		for i, f := range m.state.Forwards {
			rows[i+1] = append([]string{words.Dash(f.Environment)}, rows[i+1]...)
		}
	}
	return append(out, m.markedGrid(rows, keys)...)
}

// markedGrid is grid for rows that the user can choose.
func (m *Model) markedGrid(rows [][]string, keys []string) []string {
	lines := m.grid(rows)
	if !m.isLive() {
		return lines
	}
	lines[0] = "  " + lines[0]
	for i, key := range keys {
		lines[i+1] = marked(key, lines[i+1])
	}
	return lines
}

// markedLine returns a line that the user can choose.
func (m *Model) markedLine(key, line string) string {
	if !m.isLive() {
		return flat(line)
	}
	return marked(key, flat(line))
}

// bars draws values as a curve of one line.
func bars(values []float64) string {
	const levels = "▁▂▃▄▅▆▇█"
	steps := []rune(levels)
	top := slices.Max(append([]float64{1000}, values...))
	var b strings.Builder
	for _, v := range values {
		b.WriteRune(steps[min(int(v/top*float64(len(steps))), len(steps)-1)])
	}
	return b.String()
}

func (m *Model) linkLines() []string {
	out := []string{m.heading("LINKS")}
	n := 0
	for _, l := range m.state.Links {
		if l.HasGivenUp() {
			n++
			out = append(out, m.markedLine(linkKey(l, 0), fmt.Sprintf("%sto a bastion in %s%s: failed %s", ofEnvironment(l), l.Region,
				words.Parenthesis(l.Profile), l.Trouble(m.state.At))))
		}
		for i, live := range l.Live {
			n++
			flow := m.flow(linkKey(l, i))
			out = append(out, m.markedLine(linkKey(l, i), fmt.Sprintf("%sto %s: %s for %s, %s, down %s, up %s  %s",
				ofEnvironment(l), words.Dash(live.Bastion), live.State, since(m.state.At, live.Since), words.Count(live.Channels, "connection"),
				m.rate(flow.downRate), m.rate(flow.upRate), bars(flow.past))))
			if live.Error != "" {
				out = append(out, flat("  "+live.Trouble(m.state.At)))
			}
			if live.SignIn != nil {
				out = append(out, flat("  "+live.SignIn.Ask(m.state.At)))
			}
			if live.Limit != nil {
				out = append(out, flat("  "+live.Limit.String()))
			}
			if live.Damaged > 0 {
				out = append(out, flat("  "+live.Bond()))
			}
			if len(live.Sessions) > 0 {
				out = append(out, m.sessionLines(live)...)
			}
		}
	}
	if n == 0 {
		out = append(out, "none is up; the first connection of a forward makes one")
	}
	return out
}

// ofEnvironment begins the line of a link in an environment.
func ofEnvironment(l api.Link) string {
	if l.Environment == "" {
		return ""
	}
	return l.Environment + ": "
}

func (m *Model) sessionLines(live report.Link) []string {
	rows := [][]string{{"SESSION", "STATE", "DOWN", "UP", "ROUND TRIP", "IN FLIGHT", "SENT AGAIN", "AGE", "ROTATES WITHIN"}}
	for _, s := range live.Sessions {
		trip, rotates := "-", "-"
		if s.RTT > 0 {
			trip = fmt.Sprintf("%.1f ms", s.RTT)
		}
		if live.MaxAge > 0 {
			rotates = (time.Duration(max(live.MaxAge-s.Age, 0)) * time.Second).String()
		}
		rows = append(rows, []string{
			s.ID, s.State, words.Bytes(s.ReceiveRate) + "/s", words.Bytes(s.SendRate) + "/s", trip, words.Bytes(float64(s.InFlight)),
			words.Bytes(float64(s.Reinjected)), (time.Duration(s.Age) * time.Second).String(), rotates,
		})
	}
	lines := m.grid(rows)
	for i := range lines {
		lines[i] = "  " + lines[i]
	}
	return lines
}

func (m *Model) bastionLines() []string {
	out := []string{m.heading("BASTIONS")}
	var keys []string
	rows := [][]string{{"TASK", "STATUS", "EXEC AGENT", "REGION", "CLUSTER", "AGE", "COST SO FAR", "AN HOUR"}}
	for _, acc := range m.accounts {
		if acc.Error != nil {
			out = append(out, flat(acc.Region+": "+acc.Error.Message))
		}
		for _, b := range acc.Bastions {
			age, soFar, hour := "-", "-", "-"
			if b.Created != nil {
				age = since(m.state.At, *b.Created).String()
			}
			if b.Cost != nil {
				soFar, hour = fmt.Sprintf("about $%.4f", b.Cost.SoFar), fmt.Sprintf("$%.4f", b.Cost.PerHour)
			}
			status := b.Status
			switch {
			case b.Refused != "":
				status = "refused"
			case b.Outdated != "":
				status = "outdated"
			}
			keys = append(keys, taskKey(b.TaskID))
			rows = append(rows, []string{b.TaskID, status, words.Dash(b.Exec), acc.Region, b.Cluster, age, soFar, hour})
		}
	}
	switch {
	case len(rows) > 1:
		return append(out, m.markedGrid(rows, keys)...)
	case !m.asked:
		return append(out, "asking AWS")
	case len(m.accounts) == 0:
		return append(out, "AWS is asked about the accounts that links lead to; there is no link yet")
	}
	return append(out, "none")
}

func (m *Model) auditLines() []string {
	out := []string{m.heading("LATEST CONNECTIONS")}
	if len(m.state.Audit) == 0 {
		return append(out, "none has ended yet")
	}
	rows := [][]string{{"ENDED", "FORWARD", "TARGET", "CLIENT", "LASTED", "DOWN", "UP", ""}}
	for _, e := range slices.Backward(m.state.Audit[max(0, len(m.state.Audit)-auditShown):]) {
		rows = append(rows, []string{
			e.At.Local().Format(time.TimeOnly), e.Forward, e.Target, words.Dash(e.Client),
			time.Duration(e.Duration * float64(time.Second)).Round(100 * time.Millisecond).String(),
			words.Bytes(float64(e.Down)), words.Bytes(float64(e.Up)), e.Error,
		})
	}
	return append(out, m.grid(rows)...)
}
