// Package topview is the view of bastion top: a Bubble Tea model of the agent's state, and its lines.
package topview

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/x/ansi"

	"github.com/bastion-ssm/bastion/agent/api"
	_ "github.com/bastion-ssm/bastion/internal/plainterm" // before Bubble Tea
	"github.com/bastion-ssm/bastion/internal/words"
)

// Source is the part of the agent that a Model uses.
type Source interface {
	Wait(ctx context.Context, after uint64, timeout time.Duration) (api.State, error)
	Stop(ctx context.Context, name string) ([]api.Forward, error)
	Bastions(ctx context.Context) ([]api.Account, error)
}

const (
	every         = time.Second            // interval while only counters change
	least         = 200 * time.Millisecond // least time between two refreshes
	accountsEvery = 30 * time.Second       // between two calls of Bastions
	ratesKept     = 60                     // rates in a curve
	auditShown    = 10                     // connections in the list
)

// The model's messages.
type (
	stateMsg struct {
		state api.State
		err   error
	}
	accountsMsg struct {
		accounts []api.Account
		err      error
	}
	stoppedMsg struct {
		name string
		err  error
	}
	lookMsg struct{} // time for another refresh
	askMsg  struct{} // time to ask AWS again
)

// Model is the state of bastion top. Only Bubble Tea's loop uses it.
type Model struct {
	ctx    context.Context // context of the commands; ends with the program
	source Source

	state     api.State
	accounts  []api.Account
	asked     bool // AWS has answered
	isRunning bool
	problem   string // why the state is stale

	flows         map[string]*flow
	chosen        string // key of the chosen forward, link or bastion; see items
	top           int    // first visible line
	away          bool   // the user has turned pages: the rows do not follow the choice
	asking        string // the forward to stop if the user confirms
	said          string
	width, height int
}

// flow is the rate of a pair of counters.
type flow struct {
	at       time.Time
	up, down float64
	upRate   float64
	downRate float64
	past     []float64 // sums of both rates, the newest last
}

// New returns the model for a terminal. It follows source until ctx ends.
func New(ctx context.Context, source Source) *Model {
	return &Model{ctx: ctx, source: source, flows: make(map[string]*flow), isRunning: true}
}

// Init implements tea.Model.
func (m *Model) Init() tea.Cmd { return tea.Batch(m.look(), m.ask()) }

// look waits for another state.
func (m *Model) look() tea.Cmd {
	after := m.state.Revision
	return func() tea.Msg {
		st, err := m.source.Wait(m.ctx, after, every)
		return stateMsg{st, err}
	}
}

// ask asks AWS.
func (m *Model) ask() tea.Cmd {
	return func() tea.Msg {
		accounts, err := m.source.Bastions(m.ctx)
		return accountsMsg{accounts, err}
	}
}

func (m *Model) stop(name string) tea.Cmd {
	return func() tea.Msg {
		_, err := m.source.Stop(m.ctx, name)
		return stoppedMsg{name, err}
	}
}

// Update implements tea.Model.
func (m *Model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	cmd := m.update(msg)
	return m, cmd
}

func (m *Model) update(msg tea.Msg) tea.Cmd {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.KeyMsg:
		return m.key(msg.String())
	case stateMsg:
		return m.take(msg)
	case lookMsg:
		return m.look()
	case askMsg:
		return m.ask()
	case accountsMsg:
		if msg.err == nil {
			m.accounts, m.asked = msg.accounts, true
		}
		return tea.Tick(accountsEvery, func(time.Time) tea.Msg { return askMsg{} })
	case stoppedMsg:
		m.said = msg.name + " is stopped"
		if msg.err != nil {
			m.said = "not stopped: " + msg.err.Error()
		}
	}
	return nil
}

// take takes in an answer of the agent.
func (m *Model) take(msg stateMsg) tea.Cmd {
	wait := least
	switch {
	case msg.err == nil:
		first := len(m.state.Links) == 0 && len(msg.state.Links) > 0
		m.state, m.isRunning, m.problem = msg.state, true, ""
		m.measure()
		m.choose(0)
		if first && m.asked { // AWS could not be asked without a link
			return tea.Batch(m.ask(), tea.Tick(wait, func(time.Time) tea.Msg { return lookMsg{} }))
		}
	case errors.Is(msg.err, api.ErrNotRunning):
		m.state, m.isRunning, m.problem = api.State{}, false, ""
		wait = every
	default:
		m.problem = msg.err.Error()
		wait = every
	}
	return tea.Tick(wait, func(time.Time) tea.Msg { return lookMsg{} })
}

// measure computes the rates of the counters.
func (m *Model) measure() {
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
			f.past = f.past[max(0, len(f.past)-ratesKept):]
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

func (m *Model) flow(key string) *flow {
	if f := m.flows[key]; f != nil {
		return f
	}
	return new(flow)
}

// key handles a key press.
func (m *Model) key(key string) tea.Cmd {
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
func (m *Model) View() string {
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
		foot = "stale: " + m.problem
	}
	if m.height > 1 {
		for len(lines) < m.height-1 {
			lines = append(lines, "")
		}
	}
	lines = append(lines, "\x1b[7m"+flat(foot)+"\x1b[0m")
	if m.width > 0 {
		for i, l := range lines {
			lines[i] = ansi.Truncate(l, m.width, "…")
		}
	}
	return strings.Join(lines, "\n")
}

func (m *Model) question() string {
	for _, f := range m.state.Forwards {
		if f.Reference() != m.asking {
			continue
		}
		q := "stop " + f.Reference() + "?"
		if f.Stats.Active > 0 {
			q += " " + words.Count(int(f.Stats.Active), "connection") + " will be cut."
		}
		if !f.Detached {
			q += " The command that opened it (" + f.Command + ") will end."
		}
		return q + " y/n"
	}
	return "stop " + m.asking + "? y/n"
}
