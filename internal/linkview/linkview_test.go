package linkview

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/tunnel"
)

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := console.NewProgress(&out, false)
		w := &Watch{Progress: p}
		for _, st := range []tunnel.State{
			{Phase: tunnel.Connecting},
			{Phase: tunnel.Up},
			{Phase: tunnel.Reconnecting, Since: time.Now()},
			{Phase: tunnel.Reconnecting, Since: time.Now(), Attempt: 1, Err: errors.New("no network")},
		} {
			w.State(st)
		}
		<-time.After(2 * time.Second)
		w.State(tunnel.State{Phase: tunnel.Up})
		var events bytes.Buffer
		w.WriteEvents(&events)
		w.Path(report.Path{Lost: true, Since: time.Now(), Linger: 30 * time.Minute})
		lost := time.Now()
		<-time.After(10 * time.Second)
		w.Path(report.Path{Since: lost, Linger: 30 * time.Minute})
		w.State(tunnel.State{Phase: tunnel.Reconnecting, Since: time.Now()})
		<-time.After(time.Second)
		w.State(tunnel.State{Phase: tunnel.Up})
		w.State(tunnel.State{Phase: tunnel.Idle})
		w.State(tunnel.State{Phase: tunnel.Idle, Err: errors.New("the task was stopped")})
		w.State(tunnel.State{Phase: tunnel.Connecting})
		<-time.After(time.Second)
		w.State(tunnel.State{Phase: tunnel.Up})
		p.Close()
		wantEvents := `{"event":"path_lost","at":"2000-01-01T00:00:02Z","linger_seconds":1800}
{"event":"path_restored","at":"2000-01-01T00:00:12Z","after_seconds":10}
{"event":"link_lost","at":"2000-01-01T00:00:12Z"}
{"event":"link_restored","at":"2000-01-01T00:00:13Z","after_seconds":1}
{"event":"link_idle","at":"2000-01-01T00:00:13Z"}
{"event":"link_idle","at":"2000-01-01T00:00:13Z","reason":"the task was stopped"}
{"event":"link_wanted","at":"2000-01-01T00:00:13Z"}
{"event":"link_restored","at":"2000-01-01T00:00:14Z","after_seconds":1}
`
		if events.String() != wantEvents {
			t.Errorf("events %s\nwant %s", events.String(), wantEvents)
		}
		want := "bastion: the link is lost; new connections wait while it is restored\nbastion: restoring the link\n" +
			"bastion: restoring the link, attempt 2: no network\nbastion: the link is restored after 2s\n" +
			"bastion: no path to the bastion; the connection waits (for up to 30m)\n" +
			"bastion: looking for a path to the bastion\nbastion: path restored after 10s\n" +
			"bastion: the link is lost; new connections wait while it is restored\nbastion: restoring the link\n" +
			"bastion: the link is restored after 1s\n" +
			"bastion: nobody uses the link, and the bastion has closed it; the next connection opens it again\n" +
			"bastion: the task was stopped; nothing is started now: the next connection starts another one\n" +
			"bastion: a connection needs the bastion; connecting again\nbastion: the link is restored after 1s\n"
		if out.String() != want {
			t.Errorf("got  %q\nwant %q", out.String(), want)
		}
	})
}

// The reason of a link's wait is an event when it becomes known and when it changes, but not when it is repeated.
func TestWatchSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out, events bytes.Buffer
		p := console.NewProgress(&out, false)
		w := &Watch{Progress: p}
		w.WriteEvents(&events)
		denied := fail.New(fail.Denied, "", errors.New("denied"), "ask")
		lost := report.Path{Lost: true, Since: time.Now(), Linger: time.Minute}
		why := lost
		why.Reason, why.Next, why.Retry = "denied", "ask", time.Now().Add(9*time.Second)
		w.Path(lost)
		w.Path(why)
		w.Path(why)
		w.Path(report.Path{Since: lost.Since})
		w.Path(lost) // the connection goes with its last path, and is restored
		w.State(tunnel.State{Phase: tunnel.Reconnecting, Since: time.Now()})
		w.State(tunnel.State{Phase: tunnel.Reconnecting, Since: time.Now(), Attempt: 1, Err: denied})
		w.State(tunnel.State{Phase: tunnel.Reconnecting, Since: time.Now(), Attempt: 2, Err: denied})
		w.State(tunnel.State{Phase: tunnel.Reconnecting, Since: time.Now(), Attempt: 3, Err: errors.New("throttled")})
		w.State(tunnel.State{Phase: tunnel.Up})
		w.Path(lost)
		w.Path(report.Path{Since: lost.Since})
		w.State(tunnel.State{Phase: tunnel.Draining, Retry: time.Second})
		w.State(tunnel.State{Phase: tunnel.Draining})
		w.State(tunnel.State{Phase: tunnel.Draining, Err: denied, Attempt: 1})
		p.Close()
		var got []string
		for line := range strings.Lines(events.String()) {
			var e event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			got = append(got, strings.TrimSpace(e.Event+" "+e.Reason+" "+e.Next))
		}
		want := []string{
			"path_lost", "waiting denied ask", "path_restored", "path_lost", "link_lost", "waiting denied ask", "waiting throttled",
			"link_restored", "path_lost", "path_restored", "bastion_draining", "waiting denied ask",
		}
		if !slices.Equal(got, want) {
			t.Errorf("events %q, want %q", got, want)
		}
		if n := strings.Count(out.String(), "denied (ask)"); n != 4 {
			t.Errorf("the reason and what to do are told %d times:\n%s", n, out.String())
		}
	})
}
