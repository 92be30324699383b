package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/x/ansi"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/report"
)

func (a *app) topCommand() *command {
	return &command{
		name:    "top",
		summary: "watch the agent's forwards, links and bastions in the terminal",
		group:   groupAgent,
		about: []passage{
			para(`Shows each second what bastion dashboard shows in the browser: forwards with their throughput, links with their SSM
				sessions, bastions with their cost so far, and the latest connections.`),
			terms("up, down, k, j", "choose a forward, a link or a bastion",
				"tab", "go to the next kind",
				"page up, page down", "turn pages",
				"s", "stop the chosen forward; asks first if it has connections, belongs to a command or is off the screen",
				"q", "end"),
			para("With -o json, or if the output is not a terminal, it prints the state once and ends."),
		},
		examples: []string{"bastion top", "bastion top -o json | jq '.state.links[].live[].sessions'"},
		settings: []string{config.GroupLocal, config.GroupOutput},
		run:      a.top,
	}
}

// topOutput is the JSON output of top.
type topOutput struct {
	State    api.State     `json:"state"`
	Accounts []api.Account `json:"accounts"`
}

// top runs `bastion top`. It starts no agent: there would be nothing to see.
func (a *app) top(c *cli.Context) error {
	if err := argCount(c, 0, 0); err != nil {
		return err
	}
	s, err := a.settings()
	if err != nil {
		return err
	}
	client, err := a.agentClient(s)
	if err != nil {
		return err
	}
	out, isFile := a.raw.out.(*os.File)
	if s.Output == "json" || !isFile || !term.IsTerminal(int(out.Fd())) || !term.IsTerminal(int(a.in.Fd())) {
		return a.topOnce(c.Context, client, s)
	}
	ctx, cancel := context.WithCancel(c.Context)
	defer cancel()
	program := tea.NewProgram(newTopModel(ctx, client), tea.WithContext(ctx), tea.WithInput(a.in), tea.WithOutput(out),
		tea.WithAltScreen(), tea.WithoutSignalHandler())
	_, err = program.Run()
	if c.Context.Err() != nil {
		return context.Cause(c.Context)
	}
	return err
}

// topOnce prints what there is.
func (a *app) topOnce(ctx context.Context, client *api.Client, s config.Settings) error {
	out := topOutput{
		State:    api.State{Links: []api.Link{}, Forwards: []api.Forward{}, Audit: []api.AuditEvent{}},
		Accounts: []api.Account{},
	}
	st, err := client.State(ctx)
	isRunning := !errors.Is(err, api.ErrNotRunning)
	if err != nil && isRunning {
		return err
	}
	if isRunning {
		out.State = st
		if accounts, err := client.Bastions(ctx); err == nil {
			out.Accounts = accounts
		} else {
			return err
		}
	}
	if s.Output == "json" {
		return a.printJSON(out)
	}
	m := &topModel{state: out.State, accounts: out.Accounts, asked: true, isRunning: isRunning}
	_, err = io.WriteString(a.out, strings.Join(m.lines(), "\n")+"\n")
	return err
}

// topSource is the agent, as top needs it.
type topSource interface {
	Wait(ctx context.Context, after uint64, timeout time.Duration) (api.State, error)
	Stop(ctx context.Context, name string) ([]api.Forward, error)
	Bastions(ctx context.Context) ([]api.Account, error)
}

const (
	topEvery    = time.Second            // while nothing changes but counters
	topLeast    = 200 * time.Millisecond // between two looks, whatever changes
	topAccounts = 30 * time.Second       // between two questions to AWS
	topPast     = 60                     // rates that are kept for a curve
	topAudit    = 10                     // connections that are shown
)

// What the model is told.
type (
	topStateMsg struct {
		state api.State
		err   error
	}
	topAccountsMsg struct {
		accounts []api.Account
		err      error
	}
	topStoppedMsg struct {
		name string
		err  error
	}
	topLookMsg struct{} // it is time for another look
	topAskMsg  struct{} // it is time to ask AWS again
)

// topModel is what top shows. Bubble Tea's loop alone uses it.
type topModel struct {
	ctx    context.Context // of the commands; ends with the program
	source topSource

	state     api.State
	accounts  []api.Account
	asked     bool // AWS has answered
	isRunning bool
	problem   string // why the state is not of now

	flows         map[string]*flow
	chosen        string // the key of a forward, a link or a bastion; see items
	top           int    // the first line that is shown
	away          bool   // pages were turned: the rows do not follow the choice
	asking        string // the forward that may be stopped, if the answer is yes
	said          string
	width, height int
}

// flow is how fast a pair of counters moves.
type flow struct {
	at       time.Time
	up, down float64
	upRate   float64
	downRate float64
	past     []float64 // both rates together, the newest last
}

func newTopModel(ctx context.Context, source topSource) *topModel {
	return &topModel{ctx: ctx, source: source, flows: make(map[string]*flow), isRunning: true}
}

// Init implements tea.Model.
func (m *topModel) Init() tea.Cmd { return tea.Batch(m.look(), m.ask()) }

// look waits for another state.
func (m *topModel) look() tea.Cmd {
	after := m.state.Revision
	return func() tea.Msg {
		st, err := m.source.Wait(m.ctx, after, topEvery)
		return topStateMsg{st, err}
	}
}

// ask asks AWS.
func (m *topModel) ask() tea.Cmd {
	return func() tea.Msg {
		accounts, err := m.source.Bastions(m.ctx)
		return topAccountsMsg{accounts, err}
	}
}

func (m *topModel) stop(name string) tea.Cmd {
	return func() tea.Msg {
		_, err := m.source.Stop(m.ctx, name)
		return topStoppedMsg{name, err}
	}
}

// Update implements tea.Model.
func (m *topModel) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	cmd := m.update(msg)
	return m, cmd
}

func (m *topModel) update(msg tea.Msg) tea.Cmd {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.KeyMsg:
		return m.key(msg.String())
	case topStateMsg:
		return m.take(msg)
	case topLookMsg:
		return m.look()
	case topAskMsg:
		return m.ask()
	case topAccountsMsg:
		if msg.err == nil {
			m.accounts, m.asked = msg.accounts, true
		}
		return tea.Tick(topAccounts, func(time.Time) tea.Msg { return topAskMsg{} })
	case topStoppedMsg:
		m.said = msg.name + " is stopped"
		if msg.err != nil {
			m.said = "not stopped: " + msg.err.Error()
		}
	}
	return nil
}

// take takes in what the agent has said.
func (m *topModel) take(msg topStateMsg) tea.Cmd {
	wait := topLeast
	switch {
	case msg.err == nil:
		first := len(m.state.Links) == 0 && len(msg.state.Links) > 0
		m.state, m.isRunning, m.problem = msg.state, true, ""
		m.measure()
		m.choose(0)
		if first && m.asked { // AWS had nothing to say before
			return tea.Batch(m.ask(), tea.Tick(wait, func(time.Time) tea.Msg { return topLookMsg{} }))
		}
	case errors.Is(msg.err, api.ErrNotRunning):
		m.state, m.isRunning, m.problem = api.State{}, false, ""
		wait = topEvery
	default:
		m.problem = msg.err.Error()
		wait = topEvery
	}
	return tea.Tick(wait, func(time.Time) tea.Msg { return topLookMsg{} })
}

// measure finds out how fast counters move.
func (m *topModel) measure() {
	seen := make(map[string]bool)
	note := func(key string, up, down float64) {
		seen[key] = true
		f := m.flows[key]
		if f == nil || up < f.up || down < f.down {
			m.flows[key] = &flow{at: m.state.At, up: up, down: down}
			return
		}
		if s := m.state.At.Sub(f.at).Seconds(); s >= 0.5 {
			f.upRate, f.downRate = (up-f.up)/s, (down-f.down)/s
			f.at, f.up, f.down = m.state.At, up, down
			f.past = append(f.past, f.upRate+f.downRate)
			f.past = f.past[max(0, len(f.past)-topPast):]
		}
	}
	for _, f := range m.state.Forwards {
		note("f/"+f.Reference(), float64(f.Stats.BytesUp), float64(f.Stats.BytesDown))
	}
	for _, l := range m.state.Links {
		for i, live := range l.Live {
			note(linkKey(l, i), float64(live.Sent), float64(live.Received))
		}
	}
	for key := range m.flows {
		if !seen[key] {
			delete(m.flows, key)
		}
	}
}

func linkKey(l api.Link, i int) string { return fmt.Sprintf("l/%s/%d", l.ID, i) }

func (m *topModel) flow(key string) *flow {
	if f := m.flows[key]; f != nil {
		return f
	}
	return new(flow)
}

// key does what a key is for.
func (m *topModel) key(key string) tea.Cmd {
	if m.asking != "" {
		name := m.asking
		m.asking = ""
		if key == "y" || key == "Y" {
			return m.stop(name)
		}
		m.said = name + " stays"
		if key != "ctrl+c" {
			return nil
		}
	}
	switch key {
	case "q", "esc", "ctrl+c":
		return tea.Quit
	case "up", "k":
		m.choose(-1)
	case "down", "j":
		m.choose(1)
	case "home":
		m.choose(-len(m.items()))
	case "end":
		m.choose(len(m.items()))
	case "pgdown", " ":
		m.turn(1)
	case "pgup", "b":
		m.turn(-1)
	case "tab":
		m.section()
	case "s":
		m.said = ""
		if kindOfItem(m.chosen) != "" {
			m.said = "s stops a forward: choose one first"
			return nil
		}
		i := slices.IndexFunc(m.state.Forwards, func(f api.Forward) bool { return f.Reference() == m.chosen })
		if i < 0 {
			m.said = "there is no forward"
			return nil
		}
		_, _, isSeen := m.window()
		if f := m.state.Forwards[i]; f.Stats.Active > 0 || !f.Detached || !isSeen {
			m.asking = f.Reference()
			return nil
		}
		return m.stop(m.chosen)
	}
	return nil
}

// View implements tea.Model.
func (m *topModel) View() string {
	lines, where, _ := m.window()
	foot := "q quit   up/down choose   tab next kind   pgup/pgdown turn   s stop the forward"
	if where != "" {
		foot = where + "   " + foot
	}
	if m.said != "" {
		foot += "   " + m.said
	}
	if m.asking != "" {
		foot = m.question()
	}
	if m.problem != "" {
		foot = "not of now: " + m.problem
	}
	if m.height > 1 {
		for len(lines) < m.height-1 {
			lines = append(lines, "")
		}
	}
	lines = append(lines, "\x1b[7m"+topLine(foot)+"\x1b[0m")
	if m.width > 0 {
		for i, l := range lines {
			lines[i] = ansi.Truncate(l, m.width, "…")
		}
	}
	return strings.Join(lines, "\n")
}

func (m *topModel) question() string {
	for _, f := range m.state.Forwards {
		if f.Reference() != m.asking {
			continue
		}
		q := "stop " + f.Reference() + "?"
		if f.Stats.Active > 0 {
			q += " " + count(int(f.Stats.Active), "connection") + " will be cut."
		}
		if !f.Detached {
			q += " The command that opened it (" + f.Command + ") will end."
		}
		return q + " y/n"
	}
	return "stop " + m.asking + "? y/n"
}

// topLine makes text from elsewhere one line that does nothing to the terminal.
func topLine(s string) string { return oneLine(strings.TrimSpace(s)) }

// isLive reports whether what is shown goes on, on a terminal.
func (m *topModel) isLive() bool { return m.source != nil }

func (m *topModel) heading(s string) string {
	if m.isLive() {
		return "\x1b[1m" + s + "\x1b[0m"
	}
	return s
}

// lines are all lines that there are to show.
func (m *topModel) lines() []string {
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
		m.heading("bastion") + "  " + topLine(fmt.Sprintf("agent %s, process %d, up for %s", st.Version, st.PID,
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

func since(now, then time.Time) time.Duration { return max(now.Sub(then), 0).Round(time.Second) }

// grid lays out rows in columns; the first row is the heading.
func (m *topModel) grid(rows [][]string) []string {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	for _, r := range rows {
		for i, cell := range r {
			r[i] = topLine(cell)
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

func (m *topModel) rate(n float64) string {
	if !m.isLive() {
		return "-" // one look shows no speed
	}
	return size(n) + "/s"
}

func (m *topModel) forwardLines() []string {
	out := []string{m.heading(fmt.Sprintf("FORWARDS (%d)", len(m.state.Forwards)))}
	if len(m.state.Forwards) == 0 {
		return append(out, "none; bastion forward -d TARGET opens one")
	}
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
			f.Reference(),
			string(f.State),
			f.Listen,
			dash(target),
			fmt.Sprint(f.Stats.Active),
			m.rate(flow.downRate),
			m.rate(flow.upRate),
			size(float64(f.Stats.BytesDown)),
			size(float64(f.Stats.BytesUp)),
			since(m.state.At, f.Opened).String(),
			f.Trouble(m.state.At),
		})
	}
	return append(out, m.markedGrid(rows, keys)...)
}

// markedGrid is grid for rows that can be chosen.
func (m *topModel) markedGrid(rows [][]string, keys []string) []string {
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

// markedLine is a line that can be chosen.
func (m *topModel) markedLine(key, line string) string {
	if !m.isLive() {
		return topLine(line)
	}
	return marked(key, topLine(line))
}

// bars draws a curve of one line.
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

func (m *topModel) linkLines() []string {
	out := []string{m.heading("LINKS")}
	n := 0
	for _, l := range m.state.Links {
		if hasGivenUp(l) {
			n++
			out = append(out, m.markedLine(linkKey(l, 0), fmt.Sprintf("to a bastion in %s%s: failed %s", l.Region, parenthesis(l.Profile), l.Trouble(m.state.At))))
		}
		for i, live := range l.Live {
			n++
			flow := m.flow(linkKey(l, i))
			out = append(out, m.markedLine(linkKey(l, i), fmt.Sprintf(
				"to %s: %s for %s, %s, down %s, up %s  %s",
				dash(live.Bastion),
				live.State,
				since(
					m.state.At,
					live.Since,
				),
				count(live.Channels, "connection"),
				m.rate(flow.downRate),
				m.rate(flow.upRate),
				bars(flow.past),
			)))
			if live.Error != "" {
				out = append(out, topLine("  "+live.Trouble(m.state.At)))
			}
			if live.Limit != nil {
				out = append(out, topLine("  "+live.Limit.String()))
			}
			if live.Damaged > 0 {
				out = append(out, topLine("  "+live.Bond()))
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

func (m *topModel) sessionLines(live report.Live) []string {
	rows := [][]string{
		{"SESSION", "STATE", "DOWN", "UP", "ROUND TRIP", "IN FLIGHT", "SENT AGAIN", "AGE", "ROTATES WITHIN"},
	}
	for _, s := range live.Sessions {
		trip, rotates := "-", "-"
		if s.RTT > 0 {
			trip = fmt.Sprintf("%.1f ms", s.RTT)
		}
		if live.MaxAge > 0 {
			rotates = (time.Duration(max(live.MaxAge-s.Age, 0)) * time.Second).String()
		}
		rows = append(rows, []string{
			s.ID,
			s.State,
			size(s.ReceiveRate) + "/s",
			size(s.SendRate) + "/s",
			trip,
			size(float64(s.InFlight)),
			size(float64(s.Reinjected)),
			(time.Duration(s.Age) * time.Second).String(),
			rotates,
		})
	}
	lines := m.grid(rows)
	for i := range lines {
		lines[i] = "  " + lines[i]
	}
	return lines
}

func (m *topModel) bastionLines() []string {
	out := []string{m.heading("BASTIONS")}
	var keys []string
	rows := [][]string{{"TASK", "STATUS", "EXEC AGENT", "REGION", "CLUSTER", "AGE", "COST SO FAR", "AN HOUR"}}
	for _, acc := range m.accounts {
		if acc.Error != nil {
			out = append(out, topLine(acc.Region+": "+acc.Error.Message))
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
			rows = append(rows, []string{b.TaskID, status, dash(b.Exec), acc.Region, b.Cluster, age, soFar, hour})
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

func (m *topModel) auditLines() []string {
	out := []string{m.heading("LATEST CONNECTIONS")}
	if len(m.state.Audit) == 0 {
		return append(out, "none has ended yet")
	}
	rows := [][]string{{"ENDED", "FORWARD", "TARGET", "CLIENT", "LASTED", "DOWN", "UP", ""}}
	for _, e := range slices.Backward(m.state.Audit[max(0, len(m.state.Audit)-topAudit):]) {
		rows = append(rows, []string{
			e.At.Local().Format(time.TimeOnly), e.Forward, e.Target, dash(e.Client),
			time.Duration(e.Duration * float64(time.Second)).Round(100 * time.Millisecond).String(),
			size(float64(e.Down)), size(float64(e.Up)), e.Error,
		})
	}
	return append(out, m.grid(rows)...)
}
