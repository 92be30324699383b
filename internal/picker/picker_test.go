package picker

import (
	"strings"
	"testing"

	tea "github.com/charmbracelet/bubbletea"
)

var choices = []Choice{
	{"rds:orders", "postgres, available"},
	{"rds:stock", "mysql"},
	{"cache:sessions", "redis"},
	{"eks:main", "kubernetes"},
	{"rds:evil\x1b[2J", "x"},
}

func press(m *Model, keys ...tea.KeyMsg) {
	for _, k := range keys {
		m.Update(k)
	}
}

func text(s string) tea.KeyMsg { return tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune(s)} }

func key(k tea.KeyType) tea.KeyMsg { return tea.KeyMsg{Type: k} }

func TestPicker(t *testing.T) {
	for name, tt := range map[string]struct {
		keys []tea.KeyMsg
		want string
		over bool
	}{
		"the first":                {[]tea.KeyMsg{key(tea.KeyEnter)}, "rds:orders", true},
		"the second":               {[]tea.KeyMsg{key(tea.KeyDown), key(tea.KeyEnter)}, "rds:stock", true},
		"down and up":              {[]tea.KeyMsg{key(tea.KeyDown), key(tea.KeyUp), key(tea.KeyUp), key(tea.KeyEnter)}, "rds:orders", true},
		"no further than the last": {[]tea.KeyMsg{text("cache"), key(tea.KeyDown), key(tea.KeyDown), key(tea.KeyEnter)}, "cache:sessions", true},
		"by letters":               {[]tea.KeyMsg{text("s"), text("t"), text("k"), key(tea.KeyEnter)}, "rds:stock", true},
		"by the engine":            {[]tea.KeyMsg{text("kubern"), key(tea.KeyEnter)}, "eks:main", true},
		"nothing fits":             {[]tea.KeyMsg{text("zzz"), key(tea.KeyEnter)}, "", false},
		"after a correction":       {[]tea.KeyMsg{text("stkz"), key(tea.KeyBackspace), key(tea.KeyEnter)}, "rds:stock", true},
		"after starting again":     {[]tea.KeyMsg{text("zzz"), key(tea.KeyCtrlU), key(tea.KeyEnter)}, "rds:orders", true},
		"escape":                   {[]tea.KeyMsg{text("s"), key(tea.KeyEsc)}, "", true},
		"control-c":                {[]tea.KeyMsg{key(tea.KeyCtrlC)}, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			m := New("target", choices)
			press(m, tt.keys...)
			if m.picked != tt.want || m.isOver != tt.over {
				t.Errorf("picked %q, over %v", m.picked, m.isOver)
			}
		})
	}
}

// The view fits the terminal, has the chosen row, and lets no control character through.
func TestView(t *testing.T) {
	var many []Choice
	for range 100 {
		many = append(many, choices...)
	}
	m := New("target", many)
	m.Update(tea.WindowSizeMsg{Width: 20, Height: 8})
	for range 30 {
		press(m, key(tea.KeyDown))
	}
	view := m.View()
	lines := strings.Split(strings.TrimSuffix(view, "\n"), "\n")
	if len(lines) > 8 || strings.Contains(view, "\x1b") || strings.Count(view, "> ") != 1 {
		t.Errorf("%d lines\n%q", len(lines), view)
	}
	for _, l := range lines {
		if len(l) > 20 {
			t.Errorf("%q is too long", l)
		}
	}
	if press(m, key(tea.KeyEsc)); m.View() != "" {
		t.Errorf("%q stays", m.View())
	}
}
