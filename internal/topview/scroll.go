package topview

import (
	"fmt"
	"slices"
	"strings"
)

// The view may have more lines than the terminal has rows. The choice moves over all forwards, links and bastions, and the rows
// follow it. Pages turn without moving the choice.

// mark begins a line that the user can choose: its key stands between two marks. flat removes marks from foreign text.
const mark = "\x00"

func marked(key, line string) string { return mark + key + mark + line }

// items returns the keys of all items that the user can choose, in the order of the view.
func (m *Model) items() []string {
	var keys []string
	for _, f := range m.state.Forwards {
		keys = append(keys, f.Reference())
	}
	for _, l := range m.state.Links {
		if l.HasGivenUp() {
			keys = append(keys, linkKey(l, 0))
		}
		for i := range l.Live {
			keys = append(keys, linkKey(l, i))
		}
	}
	for _, acc := range m.accounts {
		for _, b := range acc.Bastions {
			keys = append(keys, taskKey(b.TaskID))
		}
	}
	return keys
}

func taskKey(id string) string { return "b/" + id }

// choose moves the choice, within the list, and scrolls the rows to it.
func (m *Model) choose(by int) {
	all := m.items()
	if len(all) == 0 {
		m.chosen = ""
		return
	}
	m.chosen = all[min(max(slices.Index(all, m.chosen)+by, 0), len(all)-1)]
	if by != 0 {
		m.away = false
	}
}

// section moves the choice to the next item of another kind.
func (m *Model) section() {
	all := m.items()
	i := slices.Index(all, m.chosen)
	if i < 0 {
		return
	}
	for n := 1; n <= len(all); n++ {
		next := all[(i+n)%len(all)]
		if kindOfItem(next) != kindOfItem(m.chosen) {
			m.chosen, m.away = next, false
			return
		}
	}
}

func kindOfItem(key string) string {
	kind, _, ok := strings.Cut(key, "/")
	if !ok {
		return "" // a forward: references have no slash
	}
	return kind
}

// turn turns pages without moving the choice.
func (m *Model) turn(pages int) {
	m.away = true
	m.top += pages * max(m.rows()-1, 1)
}

// rows returns the terminal's rows for lines; the last row is the footer.
func (m *Model) rows() int { return max(m.height-1, 1) }

// window returns the visible lines, their position in all lines, and whether the chosen item is among them. With a height of 0,
// without a terminal, all lines are visible.
func (m *Model) window() (lines []string, where string, chosen bool) {
	at := -1
	all := m.lines()
	for i, line := range all {
		if !strings.HasPrefix(line, mark) {
			continue
		}
		key, text, _ := strings.Cut(line[len(mark):], mark)
		all[i] = "  " + text
		if key == m.chosen {
			at, all[i] = i, "> "+text
		}
	}
	if m.height == 0 {
		return all, "", at >= 0
	}
	rows := m.rows()
	switch {
	case m.away || at < 0:
	case m.chosen == m.items()[0]: // with what stands above it, if there is room
		m.top = max(at-rows+1, 0)
	case at < m.top:
		m.top = at
	case at >= m.top+rows:
		m.top = at - rows + 1
	}
	m.top = min(max(m.top, 0), max(len(all)-rows, 0))
	end := min(m.top+rows, len(all))
	if len(all) > rows {
		where = fmt.Sprintf("lines %d-%d of %d", m.top+1, end, len(all))
	}
	return all[m.top:end], where, at >= m.top && at < end
}
