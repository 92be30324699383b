// Package picker lets the user of a terminal choose one of a list by typing parts of it: a Bubble Tea model.
package picker

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/x/ansi"
	"github.com/sahilm/fuzzy"

	_ "github.com/bastion-ssm/bastion/internal/plainterm" // before Bubble Tea
	"github.com/bastion-ssm/bastion/internal/printable"
)

// Choice is an entry of the list.
type Choice struct {
	Value string // what is chosen, and searched
	Help  string // shown beside it, and searched too
}

// Pick shows the choices on out and returns the value of the one that the user of the terminal in picks. ok is false if the user
// leaves without one.
func Pick(ctx context.Context, in *os.File, out io.Writer, title string, choices []Choice) (value string, ok bool, err error) {
	final, err := tea.NewProgram(New(title, choices), tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out),
		tea.WithoutSignalHandler()).Run()
	if ctx.Err() != nil {
		return "", false, context.Cause(ctx)
	}
	if err != nil {
		return "", false, err
	}
	m, _ := final.(*Model)
	return m.picked, m.picked != "", nil
}

// rows is how many choices are shown, unless the terminal is lower.
const rows = 12

// Model is the state of a picker. Only Bubble Tea's loop uses it.
type Model struct {
	title   string
	choices []Choice
	typed   string
	found   []int // indices of the choices that fit, the best first
	at      int   // index in found of the chosen one
	width   int
	height  int
	picked  string
	isOver  bool
}

// New returns a model for choices.
func New(title string, choices []Choice) *Model {
	m := &Model{title: title, choices: choices}
	m.search()
	return m
}

// Init implements tea.Model.
func (m *Model) Init() tea.Cmd { return nil }

// String and Len implement fuzzy.Source.
func (m *Model) String(i int) string { return m.choices[i].Value + " " + m.choices[i].Help }

// Len implements fuzzy.Source.
func (m *Model) Len() int { return len(m.choices) }

// search finds the choices that have what is typed, as a subsequence.
func (m *Model) search() {
	m.found, m.at = m.found[:0], 0
	if m.typed == "" {
		for i := range m.choices {
			m.found = append(m.found, i)
		}
		return
	}
	for _, match := range fuzzy.FindFrom(m.typed, m) {
		m.found = append(m.found, match.Index)
	}
}

// Update implements tea.Model.
func (m *Model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.KeyMsg:
		cmd := m.key(msg)
		return m, cmd
	}
	return m, nil
}

func (m *Model) key(msg tea.KeyMsg) tea.Cmd {
	switch msg.Type {
	case tea.KeyEsc, tea.KeyCtrlC, tea.KeyCtrlD:
		m.isOver = true
		return tea.Quit
	case tea.KeyEnter:
		if len(m.found) == 0 {
			return nil
		}
		m.picked, m.isOver = m.choices[m.found[m.at]].Value, true
		return tea.Quit
	case tea.KeyUp, tea.KeyCtrlP:
		m.at = max(m.at-1, 0)
	case tea.KeyDown, tea.KeyCtrlN, tea.KeyTab:
		m.at = max(min(m.at+1, len(m.found)-1), 0)
	case tea.KeyBackspace:
		if typed := []rune(m.typed); len(typed) > 0 {
			m.typed = string(typed[:len(typed)-1])
			m.search()
		}
	case tea.KeyCtrlU:
		m.typed = ""
		m.search()
	case tea.KeyRunes, tea.KeySpace:
		m.typed += printable.OneLine(string(msg.Runes))
		m.search()
	}
	return nil
}

// View implements tea.Model.
func (m *Model) View() string {
	if m.isOver {
		return "" // nothing stays on the terminal
	}
	var b strings.Builder
	line := func(text string) {
		if m.width > 0 {
			text = ansi.Truncate(text, m.width, "")
		}
		b.WriteString(text + "\n")
	}
	line(m.title + ": " + m.typed)
	shown := rows
	if m.height > 0 {
		shown = min(shown, max(m.height-3, 1))
	}
	first := max(0, m.at-shown+1)
	for i := first; i < min(first+shown, len(m.found)); i++ {
		c := m.choices[m.found[i]]
		mark := "  "
		if i == m.at {
			mark = "> "
		}
		line(mark + printable.OneLine(c.Value) + "  " + printable.OneLine(c.Help))
	}
	line(fmt.Sprintf("%d of %d; type to search, arrows to choose, enter to take, escape to leave", len(m.found), len(m.choices)))
	return b.String()
}
