package statusview

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/report"
)

// fields are the lines of a text with one space where there are several.
func fields(text string) string {
	var out []string
	for line := range strings.Lines(text) {
		out = append(out, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(out, "\n")
}

func TestBastions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		created := time.Now().Add(-90 * time.Second)
		for want, st := range map[string]report.Status{
			"no bastion of me in cluster demo":                            {Owner: "me", Cluster: "demo"},
			"using the OpenSSH server at host:22, without a bastion task": {Target: "host:22"},
			"TASK STATUS EXEC AGENT AGE TARGET\nt1 RUNNING - 1m30s x":     {Bastions: []report.Bastion{{TaskID: "t1", Status: "RUNNING", Created: &created, Target: "x"}}},
			"TASK STATUS EXEC AGENT AGE TARGET\nt2 PENDING - - -\ntask t2 is not used: it is old (bastion down stops it)": {
				Bastions: []report.Bastion{{TaskID: "t2", Status: "PENDING", Outdated: "is old"}},
			},
		} {
			var b bytes.Buffer
			if err := Bastions(&b, st); err != nil || fields(b.String()) != want {
				t.Errorf("%q, %v; want %q", fields(b.String()), err, want)
			}
		}
	})
}

// A forward that waits or does not work is explained below the table; so are those that no agent serves.
func TestForwards(t *testing.T) {
	const head = "NAME LISTEN TARGET STATE PROFILE ACCOUNT REGION OF AGE CONNECTIONS UP DOWN\n"
	ready := api.Forward{Name: "a", Listen: "127.0.0.1:1", Target: "db:1", State: api.ForwardReady, Detached: true}
	waits := api.Forward{
		Name:    "p",
		Kind:    api.KindProxy,
		Listen:  "127.0.0.1:2",
		State:   api.ForwardWaiting,
		Command: "socks",
		PID:     7,
		Error:   "denied",
	}
	refused := ready
	refused.Stats.Failed = 2
	kept := ready
	kept.State = api.ForwardKept
	for want, all := range map[string][]api.Forward{
		"no forwards": nil,
		head + "a 127.0.0.1:1 db:1 ready - - - the agent - 0 0 B 0 B":                                                       {ready},
		head + "a 127.0.0.1:1 db:1 ready - - - the agent - 0 0 B 0 B\na: 2 connections failed; bastion agent logs says why": {refused},
		head + "a 127.0.0.1:1 db:1 kept - - - the agent - 0 0 B 0 B\nno agent is running; " + nextKept:                      {kept},
		head + "p 127.0.0.1:2 (proxy) waiting - - - socks (process 7) - 0 0 B 0 B\np: waiting " + waits.Trouble(time.Now()): {waits},
	} {
		var b bytes.Buffer
		if err := Forwards(&b, all); err != nil || fields(b.String()) != want {
			t.Errorf("%q, %v; want %q", fields(b.String()), err, want)
		}
	}
}

// The agent is a process with links only while it has some; one that has given up says why.
func TestProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if got := Agent(api.State{Links: []api.Link{{Region: "here"}}}); got != nil {
			t.Errorf("%+v", got)
		}
		all := Agent(api.State{Info: api.Info{PID: 3}, Links: []api.Link{{Region: "here", Live: []report.Link{
			{State: "up", Since: time.Now().Add(-time.Minute), Channels: 1, Error: "slow", Sessions: []report.Session{{ID: "s1", State: "open", Age: 60}, {ID: "s2", RTT: 1.25}}},
		}}}})
		var b bytes.Buffer
		if err := Processes(&b, all); err != nil {
			t.Fatal(err)
		}
		got := fields(b.String())
		for _, want := range []string{
			"\nagent (process 3) to a bastion in here: up for 1m0s, 1 connection\n", "SESSION STATE AGE UP DOWN", "\ns1 open 1m0s 0 B/s 0 B/s - 0 B", "1.2 ms",
		} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in\n%s", want, got)
			}
		}
	})
}
