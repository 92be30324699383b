package topview

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/fargate"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/tunnel"
)

// fake is an agent that records the forwards that it must stop.
type fake struct {
	stopped []string
	err     error
}

func (f *fake) Wait(context.Context, uint64, time.Duration) (api.State, error) {
	return api.State{}, f.err
}

func (f *fake) Stop(_ context.Context, name string) ([]api.Forward, error) {
	f.stopped = append(f.stopped, name)
	return nil, f.err
}

func (f *fake) Bastions(context.Context) ([]api.Account, error) { return nil, f.err }

// topState is an agent's state some seconds after the beginning.
func topState(seconds float64) api.State {
	begin := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	at := begin.Add(time.Duration(seconds * float64(time.Second)))
	st := api.State{
		Info:     api.Info{PID: 4711, Version: "1.5.0", Started: begin.Add(-time.Hour)},
		At:       at,
		Revision: 7,
		Forwards: []api.Forward{
			{
				Name:     "orders",
				State:    api.ForwardReady,
				Listen:   "127.0.0.1:5432",
				Target:   "orders.db:5432",
				Detached: true,
				Opened:   begin,
				Stats:    tunnel.StatsSnapshot{Active: 2, BytesDown: int64(1e6 * seconds), BytesUp: int64(2e3 * seconds)},
			},
			{
				Name:     "cache",
				State:    api.ForwardFailed,
				Listen:   "127.0.0.1:6379",
				Detached: true,
				Opened:   begin,
				Error:    "no\x1b[2Jpath",
			},
			{
				Name:     "wiki",
				State:    api.ForwardReady,
				Listen:   "127.0.0.1:8443",
				Detached: false,
				Command:  "forward",
				Opened:   begin,
			},
		},
		Links: []api.Link{{ID: "l1", Live: []report.Link{{
			Bastion: "bastion 8edc", State: "up", Since: begin, Channels: 2, Received: uint64(1e6 * seconds), MaxAge: 3000,
			Sessions: []report.Session{{ID: "dev-1", State: "up", Age: 600, RTT: 41.25, ReceiveRate: 9e5, InFlight: 4096}},
		}}}},
		Audit: []api.AuditEvent{
			{At: at, Forward: "orders", Target: "orders.db:5432", Duration: 12.5, Down: 880_000, Error: "refused"},
		},
	}
	return st
}

func topTasks() []api.Account {
	cost := fargate.Cost{PerHour: 0.0123425, SoFar: 0.024685}
	b := report.Bastion{TaskID: "8edc", Status: "RUNNING", Exec: "RUNNING", Cluster: "tools"}
	b.Cost = &cost
	return []api.Account{{Link: "l1", Status: report.Status{Region: "eu-central-1", Bastions: []report.Bastion{b}}}}
}

var escapes = regexp.MustCompile("\x1b\\[[0-9;]*m")

func topView(m *Model) string { return escapes.ReplaceAllString(m.View(), "") }

func hasLines(t *testing.T, view string, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile("(?m)" + p).MatchString(view) {
			t.Errorf("no line is like %s in\n%s", p, view)
		}
	}
}

func TestShows(t *testing.T) {
	m := New(t.Context(), &fake{})
	m.Update(tea.WindowSizeMsg{Width: 160, Height: 40})
	m.Update(stateMsg{state: topState(0)})
	m.Update(stateMsg{state: topState(1)})
	m.Update(stateMsg{state: topState(1.1)}) // too early for another rate
	m.Update(accountsMsg{accounts: topTasks()})
	view := topView(m)
	hasLines(t, view,
		`^bastion  agent 1\.5\.0, process 4711, up for 1h0m1s`,
		`^> orders +ready +127\.0\.0\.1:5432 +orders\.db:5432 +2 +1\.0 MB/s +2\.0 kB/s +1\.1 MB +2\.2 kB`,
		`^  cache +failed .*no\?\[2Jpath`,
		`^  to bastion 8edc: up for 1s, 2 connections, down 1\.0 MB/s, up 0 B/s +█`,
		`^  dev-1 +up +900\.0 kB/s +0 B/s +41\.2 ms +4\.1 kB +0 B +10m0s +40m0s`,
		`^  8edc +RUNNING +RUNNING +eu-central-1 +tools +- +about \$0\.0247 +\$0\.0123`,
		`orders +orders\.db:5432 +- +12\.5s +880\.0 kB +0 B +refused`,
		`^q quit`)
	if n := strings.Count(view, "\n"); n != 39 {
		t.Errorf("%d lines on a screen of 40", n+1)
	}
	// Whatever the size, no line is wider, and no screen higher.
	for _, size := range []tea.WindowSizeMsg{
		{Width: 40, Height: 10},
		{Width: 1, Height: 1},
		{Width: 80, Height: 5},
		{Width: 300, Height: 100},
	} {
		m.Update(size)
		lines := strings.Split(topView(m), "\n")
		if len(lines) != size.Height && size.Height > 1 {
			t.Errorf("%d lines on a screen of %d", len(lines), size.Height)
		}
		for _, l := range lines {
			if len([]rune(l)) > size.Width {
				t.Errorf("a line of %d characters on a screen of %d: %q", len([]rune(l)), size.Width, l)
			}
		}
	}
}

func TestKeys(t *testing.T) {
	source := &fake{}
	m := New(t.Context(), source)
	m.Update(stateMsg{state: topState(0)})
	press := func(keys ...string) (cmd tea.Cmd) {
		for _, k := range keys {
			msg := tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune(k)}
			switch k {
			case "down":
				msg = tea.KeyMsg{Type: tea.KeyDown}
			case "up":
				msg = tea.KeyMsg{Type: tea.KeyUp}
			case "ctrl+c":
				msg = tea.KeyMsg{Type: tea.KeyCtrlC}
			}
			_, cmd = m.Update(msg)
		}
		return cmd
	}
	for _, tt := range []struct {
		keys []string
		want string
	}{
		{[]string{"down"}, "cache"},
		{[]string{"down", "down", "down"}, "l/l1/0"}, // the last
		{[]string{"k", "k"}, "cache"},
		{[]string{"up", "up", "up"}, "orders"},
		{[]string{"j"}, "cache"},
	} {
		if press(tt.keys...); m.chosen != tt.want {
			t.Errorf("%v chooses %s, want %s", tt.keys, m.chosen, tt.want)
		}
	}
	// One without connections is stopped at once.
	cmd := press("s")
	if cmd == nil {
		t.Fatal("s does nothing")
	}
	m.Update(cmd())
	if strings.Join(source.stopped, " ") != "cache" || m.said != "cache is stopped" {
		t.Errorf("stopped %v, said %q", source.stopped, m.said)
	}
	// Others after a question.
	for _, tt := range []struct{ move, question string }{
		{"k", "stop orders? 2 connections will be cut. y/n"},
		{"down", "stop wiki? The command that opened it (forward) will end. y/n"},
	} {
		press(tt.move)
		if tt.move == "down" {
			press("down")
		}
		if cmd := press("s"); cmd != nil || !strings.Contains(topView(m), tt.question) {
			t.Errorf("no %q in\n%s", tt.question, topView(m))
		}
		if cmd := press("n"); cmd != nil || len(source.stopped) != 1 {
			t.Errorf("stopped %v", source.stopped)
		}
	}
	press("s")
	source.err = errors.New("gone")
	m.Update(press("y")())
	if strings.Join(source.stopped, " ") != "cache wiki" || m.said != "not stopped: gone" {
		t.Errorf("stopped %v, said %q", source.stopped, m.said)
	}
	for _, key := range []string{"q", "ctrl+c"} {
		if cmd := press(key); cmd == nil || cmd() != tea.Quit() {
			t.Errorf("%s does not end it", key)
		}
	}
	// The choice stays with its forward when others go, and on the list when it goes itself.
	press("up", "up", "down") // cache
	st := topState(1)
	st.Forwards = st.Forwards[1:]
	if m.Update(stateMsg{state: st}); m.chosen != "cache" {
		t.Errorf("%s is chosen", m.chosen)
	}
	st.Forwards = st.Forwards[1:]
	if m.Update(stateMsg{state: st}); m.chosen != "wiki" {
		t.Errorf("%s is chosen", m.chosen)
	}
	st.Forwards = nil
	m.Update(stateMsg{state: st})
	if cmd := press("s"); cmd != nil || m.chosen != "l/l1/0" || m.said != "s stops a forward: choose one first" {
		t.Errorf("%q is chosen where there is no forward, said %q", m.chosen, m.said)
	}
	st.Links = nil
	m.Update(stateMsg{state: st})
	if cmd := press("s"); cmd != nil || m.chosen != "" {
		t.Errorf("%q is chosen of nothing", m.chosen)
	}
}

// With more rows than the terminal's, the view follows the choice over all of them, and stops nothing out of sight without a
// question.
func TestScrolls(t *testing.T) {
	source := &fake{}
	m := New(t.Context(), source)
	m.Update(stateMsg{state: func() api.State {
		st := topState(0)
		st.Forwards = nil
		for i := range 40 {
			st.Forwards = append(st.Forwards, api.Forward{
				Name: fmt.Sprintf("db-%02d", i), State: api.ForwardReady, Listen: "127.0.0.1:1", Target: "x:1", Detached: true,
			})
		}
		return st
	}()})
	m.Update(accountsMsg{accounts: topTasks()})
	press := func(key tea.KeyMsg) tea.Cmd {
		_, cmd := m.Update(key)
		return cmd
	}
	down, up, s := tea.KeyMsg{Type: tea.KeyDown}, tea.KeyMsg{Type: tea.KeyUp}, tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("s")}
	for _, height := range []int{2, 3, 5, 12, 24, 200} {
		m.Update(tea.WindowSizeMsg{Width: 160, Height: height})
		press(tea.KeyMsg{Type: tea.KeyHome})
		items := m.items()
		if len(items) != 42 {
			t.Fatalf("%d items", len(items))
		}
		for round, key := range []tea.KeyMsg{down, up} {
			for i := range items {
				want := items[i]
				if round == 1 {
					want = items[len(items)-1-i]
				}
				view := topView(m)
				if m.chosen != want || !strings.Contains("\n"+view, "\n> ") {
					t.Fatalf("height %d: %s is chosen, want %s, in\n%s", height, m.chosen, want, view)
				}
				if n := strings.Count(view, "\n") + 1; n != height {
					t.Fatalf("%d lines on a screen of %d", n, height)
				}
				if i < len(items)-1 {
					press(key)
				}
			}
		}
	}
	m.Update(tea.WindowSizeMsg{Width: 160, Height: 12})
	hasLines(t, topView(m), `^bastion  agent`, `^> db-00`, `^lines 1-11 of \d+`) // the headings are in sight again

	// The kinds one after the other.
	for _, want := range []string{"l/l1/0", "b/8edc", "db-00"} {
		if press(tea.KeyMsg{Type: tea.KeyTab}); m.chosen != want || !strings.Contains(topView(m), "> ") {
			t.Errorf("tab chooses %s, want %s", m.chosen, want)
		}
	}
	// The end of all is a matter of pages, without moving the choice, which is then asked about.
	for range 20 {
		press(tea.KeyMsg{Type: tea.KeyPgDown})
	}
	hasLines(t, topView(m), "refused")
	if cmd := press(s); cmd != nil || !strings.Contains(topView(m), "stop db-00? y/n") || len(source.stopped) != 0 {
		t.Errorf("no question for a forward out of sight; stopped %v\n%s", source.stopped, topView(m))
	}
	press(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("n")})
	press(down)
	if cmd := press(s); cmd == nil || !strings.Contains(topView(m), "> db-01") {
		t.Errorf("a forward in sight is not stopped\n%s", topView(m))
	}
	for _, key := range []tea.KeyType{tea.KeyPgUp, tea.KeyPgDown, tea.KeyPgUp} {
		for range 30 {
			press(tea.KeyMsg{Type: key})
			if n := strings.Count(topView(m), "\n") + 1; n != 12 {
				t.Fatalf("%d lines", n)
			}
		}
	}
}

func TestWithoutAgent(t *testing.T) {
	m := New(t.Context(), &fake{})
	hasLines(t, topView(m), `^asking the agent`)
	m.Update(stateMsg{err: api.ErrNotRunning})
	hasLines(t, topView(m), `^No agent is running\.`)
	m.Update(stateMsg{state: topState(0)})
	hasLines(t, topView(m), `^> orders`)
	m.Update(stateMsg{err: errors.New("broken pipe")})
	hasLines(t, topView(m), `^> orders`, `stale: broken pipe`) // the known rows stay
}
